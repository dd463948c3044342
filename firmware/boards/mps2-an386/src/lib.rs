//! Arm MPS2 with the AN386 image.
#![no_std]

#[cfg(feature = "digits")]
use defmt_semihosting as _;
use shiftformer_link::{Core, Machine};
use support::Emulated;
use support::line::Line;
use support::terminal::Talks;
use support::timers::{timer, watchdog};
use support::uart::WakingUart;
use support::{Interrupted, fpga};
pub use support::{entry, exit};

support::exit_on_fault!();

/// LEDs and counters.
const FPGAIO: usize = 0x4002_8000;
/// UART0.
const UART: usize = 0x4000_4000;
/// Its interrupt.
const UART_RECEIVES: u16 = 0;
/// Timer 0, and its interrupt.
const TIMER: usize = 0x4000_0000;
const TIMER_INTERRUPT: u32 = 8;
/// Watchdog.
const WATCHDOG: usize = 0x4000_8000;
/// The register that lets interrupts 0 to 31 come.
const NVIC_ISER0: *mut u32 = 0xe000_e100 as *mut u32;

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

impl Interrupted for Board {
    const CORE_HZ: u32 = 25_000_000;

    fn watch(clocks: u32) {
        watchdog::start::<WATCHDOG>(clocks);
        // SAFETY: a register of the architecture; the programs that call this have a handler.
        unsafe { NVIC_ISER0.write_volatile(1 << TIMER_INTERRUPT) };
    }

    fn feed() {
        watchdog::feed::<WATCHDOG>();
    }

    fn interrupt_in(clocks: u32) {
        timer::start::<TIMER>(clocks);
    }

    fn clear_interrupt() {
        timer::clear::<TIMER>();
    }
}

impl Talks for Board {
    type Port = Line<WakingUart<UART, UART_RECEIVES>>;

    fn port() -> Self::Port {
        Line(WakingUart::new())
    }
}
