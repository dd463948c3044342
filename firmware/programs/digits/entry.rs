//! The digits demo on a board.
#![no_std]
#![no_main]

#[board::entry]
fn main() -> ! {
    digits::main::<board::Board>()
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    digits::panic::<board::Board>()
}
