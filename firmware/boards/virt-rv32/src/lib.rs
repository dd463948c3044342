//! QEMU's RISC-V machine `virt` with a 32-bit core.
#![no_std]

#[cfg(feature = "digits")]
use defmt_semihosting as _;
use shiftformer_link::{Core, Machine};
use support::Emulated;
use support::led::NoLed;
pub use support::{entry, exit};

support::exit_on_fault!();

/// Lower half of the time register of the CLINT.
const MTIME: *const u32 = 0x0200_bff8 as *const u32;

/// This board.
pub struct Board;

impl support::Board for Board {
    const NAME: &'static str = Self::MACHINE.name;
    const CORE: Core = Self::MACHINE.core;
    const COUNTER_HZ: u32 = Self::MACHINE.counter_hz;
    const STACK_BYTES: usize = 32 * 1024;
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

impl Emulated for Board {
    const MACHINE: Machine = Machine::of_package(env!("CARGO_PKG_NAME"));
    const JOB_IN_RAM: bool = true;
}
