//! Arm MPS2 with the AN505 image.
#![no_std]

use shiftformer_link::{Core, Machine};
use support::Emulated;
use support::fpga;
use support::line::Line;
use support::terminal::Talks;
use support::uart::Uart;
pub use support::{entry, exit};

support::exit_on_fault!();

/// LEDs and counters, secure alias.
const FPGAIO: usize = 0x5030_2000;
/// UART0, secure alias.
const UART: usize = 0x5020_0000;

/// This board.
pub struct Board;

impl support::Board for Board {
    const NAME: &'static str = Self::MACHINE.name;
    const CORE: Core = Self::MACHINE.core;
    const COUNTER_HZ: u32 = Self::MACHINE.counter_hz;
    const STACK_BYTES: usize = 32 * 1024;
    type Led = fpga::Led<FPGAIO>;

    fn start() {}

    fn led() -> Self::Led {
        fpga::Led::new()
    }

    #[inline(always)]
    fn ticks() -> u32 {
        fpga::ticks::<FPGAIO>()
    }
}

impl Emulated for Board {
    const MACHINE: Machine = Machine::of_package(env!("CARGO_PKG_NAME"));
    const JOB_IN_RAM: bool = true;
}

impl Talks for Board {
    type Port = Line<Uart<UART>>;

    fn port() -> Self::Port {
        Line(Uart::new())
    }
}
