//! BBC micro:bit v1 (nRF51822).
#![no_std]

mod led;
mod timer;
mod uart;

pub use led::Led;
use shiftformer_link::Machine;
use support::terminal::Talks;
pub use support::{entry, exit};
pub use uart::Uart;

support::exit_on_fault!();

/// This board.
pub struct Board;

impl support::Board for Board {
    const MACHINE: Machine = Machine::of_package(env!("CARGO_PKG_NAME"));
    const STACK_BYTES: usize = 6 * 1024;
    const JOB_IN_RAM: bool = false;
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

impl Talks for Board {
    type Port = Uart;

    fn port() -> Uart {
        Uart::new()
    }
}
