//! The tests of the kernels on a board.
#![no_std]
#![no_main]

#[board::entry]
fn main() -> ! {
    kernel_tests::main::<board::Board>()
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    kernel_tests::panic(info)
}
