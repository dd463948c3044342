//! The calculator demo on a board.
#![no_std]
#![no_main]

#[board::entry]
fn main() -> ! {
    calculator::main::<board::Board>()
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    calculator::panic::<board::Board>()
}
