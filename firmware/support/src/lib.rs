//! What programs ask of a board, and what boards share.
//!
//! Programs are generic over [`Board`]; a board is a package in `firmware/boards` whose library implements it, with its
//! own memory map, HAL and dependencies. [`memory`], [`terminal`] and [`line`](mod@line) are common to all, [`cycles`] to those with a
//! debug unit, [`fpga`], [`timers`] and [`uart`] to the Arm MPS boards.
#![no_std]

pub mod counter;
#[cfg(target_arch = "arm")]
pub mod cycles;
pub mod external;
#[cfg(target_arch = "arm")]
pub mod fpga;
pub mod led;
pub mod line;
pub mod memory;
pub mod terminal;
#[cfg(target_arch = "arm")]
pub mod timers;
#[cfg(target_arch = "arm")]
pub mod uart;

// Their critical sections are linked for the logger.
#[cfg(target_arch = "arm")]
use cortex_m as _;
use embedded_hal::digital::OutputPin;
#[cfg(feature = "riscv-rt")]
use riscv as _;
use shiftformer_link::{Core, Machine};

#[cfg(target_arch = "arm")]
pub use cortex_m_rt::{self as rt, entry};
#[cfg(feature = "riscv-rt")]
pub use riscv_rt::{self as rt, entry};

/// A board that programs run on.
pub trait Board {
    /// Name of its folder.
    const NAME: &'static str;
    /// Core its programs are built for.
    const CORE: Core;
    /// Rate of [`ticks`](Self::ticks), in Hz.
    const COUNTER_HZ: u32;
    /// Bytes at the end of RAM that [`memory::take_arena`] leaves to the stack.
    const STACK_BYTES: usize;
    /// The LED that demos use.
    type Led: OutputPin;

    /// Starts the counter that [`ticks`](Self::ticks) reads.
    fn start();

    /// The LED, dark.
    fn led() -> Self::Led;

    /// A counter of 32 bits that wraps around, at the rate [`COUNTER_HZ`](Self::COUNTER_HZ). It rises in step with executed
    /// instructions under an emulator that lets every instruction take the same time (`-icount`); on silicon it counts
    /// time.
    fn ticks() -> u32;

    /// Ends the program; whoever runs it learns whether it succeeded.
    fn exit(success: bool) -> ! {
        exit(success)
    }
}

/// A board that is a machine of QEMU.
pub trait Emulated: Board {
    /// What host and firmware agree about.
    const MACHINE: Machine;
    /// Whether the memory of a job can be written: it is flash otherwise.
    const JOB_IN_RAM: bool;
}

/// A board with a watchdog, and with a timer that interrupts.
pub trait Interrupted: Board {
    /// Clock of the core, watchdog and timer, in Hz.
    const CORE_HZ: u32;

    /// Starts the watchdog: a non-maskable interrupt comes where it is not fed for `clocks`.
    fn watch(clocks: u32);

    /// Feeds the watchdog.
    fn feed();

    /// Lets one interrupt come in `clocks` from now, in place of one that has not come yet.
    fn interrupt_in(clocks: u32);

    /// Says that the interrupt has been seen.
    fn clear_interrupt();
}

/// Ends the emulation, or the run of a debug probe, with exit status 0 for success and 1 otherwise. Where neither is there the
/// processor faults.
pub fn exit(success: bool) -> ! {
    semihosting::process::exit(i32::from(!success))
}

/// Ends the emulation with a failure when the processor faults, where the default handler would loop for ever.
#[macro_export]
macro_rules! exit_on_fault {
    () => {
        #[cfg(target_arch = "arm")]
        #[$crate::rt::exception]
        unsafe fn HardFault(_frame: &$crate::rt::ExceptionFrame) -> ! {
            $crate::exit(false)
        }

        #[cfg(target_arch = "riscv32")]
        #[unsafe(export_name = "ExceptionHandler")]
        fn exception() -> ! {
            $crate::exit(false)
        }
    };
}
