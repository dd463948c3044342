//! QEMU's RISC-V machine `virt` with a 32-bit core.
#![no_std]

use core::convert::Infallible;
use embedded_hal::digital::{ErrorType, OutputPin};
use shiftformer_link::Machine;
pub use support::{entry, exit};

support::exit_on_fault!();

/// Lower half of the time register of the CLINT.
const MTIME: *const u32 = 0x0200_bff8 as *const u32;

/// This board.
pub struct Board;

impl support::Board for Board {
    const MACHINE: Machine = Machine::of_package(env!("CARGO_PKG_NAME"));
    const STACK_BYTES: usize = 32 * 1024;
    const JOB_IN_RAM: bool = true;
    type Led = NoLed;

    fn start() {}

    fn led() -> NoLed {
        NoLed
    }

    #[inline(always)]
    fn ticks() -> u32 {
        // SAFETY: a register of the machine; reading it changes nothing.
        unsafe { MTIME.read_volatile() }
    }
}

/// The machine has no LED.
pub struct NoLed;

impl ErrorType for NoLed {
    type Error = Infallible;
}

impl OutputPin for NoLed {
    fn set_low(&mut self) -> Result<(), Infallible> {
        Ok(())
    }

    fn set_high(&mut self) -> Result<(), Infallible> {
        Ok(())
    }
}
