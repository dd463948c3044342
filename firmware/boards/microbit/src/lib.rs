//! BBC micro:bit v1 (nRF51822).
#![no_std]

mod led;
mod timer;
mod uart;

#[cfg(feature = "digits")]
use defmt_semihosting as _;
pub use led::Led;
use shiftformer_link::{Core, Machine};
use support::Emulated;
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
    const STACK_BYTES: usize = 6 * 1024;
    type Led = Led;

    fn start() {
        timer::start();
    }

    fn led() -> Led {
        Led::new()
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
