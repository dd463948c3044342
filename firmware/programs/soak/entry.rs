//! The soak on a board, and who answers its interrupts.
#![no_std]
#![no_main]

use board::Board;
use support::rt::exception;

#[board::entry]
fn main() -> ! {
    soak::main::<Board>()
}

#[exception]
fn SysTick() {
    soak::tick::<Board>();
}

// SAFETY: it touches atomics and the timer's own register.
#[exception]
unsafe fn DefaultHandler(_interrupt: i16) {
    soak::interrupt::<Board>();
}

// SAFETY: it ends the program.
#[exception]
unsafe fn NonMaskableInt() -> ! {
    soak::starved::<Board>()
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    board::exit(false)
}
