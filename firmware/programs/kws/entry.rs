//! The keyword spotter on a board.
#![no_std]
#![no_main]

#[board::entry]
fn main() -> ! {
    kws::main::<board::Board>()
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    kws::panic::<board::Board>()
}
