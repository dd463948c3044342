//! A model in external flash on a board.
#![no_std]
#![no_main]

use board::Board;

#[board::entry]
fn main() -> ! {
    stream::main::<Board>()
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    board::exit(false)
}
