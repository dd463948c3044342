//! Arm MPS2 with the AN386 image.
#![no_std]

use shiftformer_link::Machine;
use support::fpga;
use support::terminal::Talks;
use support::uart::Uart;
pub use support::{entry, exit};

support::exit_on_fault!();

/// LEDs and counters.
const FPGAIO: usize = 0x4002_8000;
/// UART0.
const UART: usize = 0x4000_4000;

/// This board.
pub struct Board;

impl support::Board for Board {
    const MACHINE: Machine = Machine::of_package(env!("CARGO_PKG_NAME"));
    const STACK_BYTES: usize = 32 * 1024;
    const JOB_IN_RAM: bool = true;
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

impl Talks for Board {
    type Port = Uart<UART>;

    fn port() -> Self::Port {
        Uart::new()
    }
}
