//! The inference with every operator on a board.
#![no_std]
#![no_main]

#[board::entry]
fn main() -> ! {
    inference::all::<board::Board>()
}

/// Without a caller it is not linked: the audit sees whether anything panics.
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    board::exit(false)
}
