//! The inference with the operators of a vision transformer on a board.
#![no_std]
#![no_main]

#[board::entry]
fn main() -> ! {
    inference::vit::<board::Board>()
}

/// Without a caller it is not linked: the audit sees whether anything panics.
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    board::exit(false)
}
