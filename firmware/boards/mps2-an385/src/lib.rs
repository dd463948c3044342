//! Arm MPS2 with the AN385 image.
#![no_std]

use shiftformer_link::{Core, Machine};
use support::Emulated;
use support::fpga;
pub use support::{entry, exit};

support::exit_on_fault!();

/// LEDs and counters.
const FPGAIO: usize = 0x4002_8000;

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
