//! The story demo on a board.
#![no_std]
#![no_main]

#[board::entry]
fn main() -> ! {
    story::main::<board::Board>()
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    story::panic::<board::Board>()
}
