//! QEMU's Netduino Plus 2 (STM32F405).
#![no_std]

mod timer;
mod uart;

#[cfg(feature = "digits")]
use defmt_semihosting as _;
use shiftformer_link::{Core, Machine};
use support::Emulated;
use support::led::NoLed;
use support::line::Line;
use support::terminal::Talks;
pub use support::{entry, exit};
pub use uart::Uart;

support::exit_on_fault!();

/// This board.
pub struct Board;

impl support::Board for Board {
    const NAME: &'static str = Self::MACHINE.name;
    const CORE: Core = Self::MACHINE.core;
    const COUNTER_HZ: u32 = Self::MACHINE.counter_hz;
    const STACK_BYTES: usize = 16 * 1024;
    type Led = NoLed;

    fn start() {
        timer::start();
    }

    fn led() -> NoLed {
        NoLed
    }

    #[inline(always)]
    fn ticks() -> u32 {
        timer::ticks()
    }
}

impl Emulated for Board {
    const MACHINE: Machine = Machine::of_package(env!("CARGO_PKG_NAME"));
    const JOB_IN_RAM: bool = false;
}

impl Talks for Board {
    type Port = Line<Uart>;

    fn port() -> Self::Port {
        Line(Uart::new())
    }
}
