//! The runner on a board.
#![no_std]
#![no_main]

#[board::entry]
fn main() -> ! {
    runner::main::<board::Board>()
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    board::exit(false)
}
