//! A board that `shiftformer device` talks with.
#![no_std]
#![no_main]

#[board::entry]
fn main() -> ! {
    device::main::<board::Board>()
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    device::panic::<board::Board>()
}
