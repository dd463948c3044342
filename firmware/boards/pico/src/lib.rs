//! Raspberry Pi Pico (RP2040).
#![no_std]

#[cfg(feature = "stream")]
mod external;

#[cfg(any(feature = "digits", feature = "stream", feature = "tasks"))]
use defmt_rtt as _;
use embassy_rp::config::Config;
use embassy_rp::gpio::{Level, Output};
use embassy_rp::peripherals::{PIN_0, PIN_1, PIN_25, UART0};
use embassy_rp::uart::{self, Uart};
use shiftformer_link::Core;
use support::line::{Blocking, Line};
use support::terminal::Talks;
pub use support::{entry, exit};

/// Lower half of the timer, as it stands: it counts microseconds. The core has no counter of cycles.
const TIMERAWL: *const u32 = 0x4005_4028 as *const u32;

/// This board.
pub struct Board;

impl support::Board for Board {
    const NAME: &'static str = env!("CARGO_PKG_NAME");
    const CORE: Core = Core::M0Plus;
    const COUNTER_HZ: u32 = 1_000_000;
    const STACK_BYTES: usize = 16 * 1024;
    type Led = Output<'static>;

    /// Core at 125 MHz from the crystal.
    fn start() {
        let _ = embassy_rp::init(Config::default());
    }

    fn led() -> Self::Led {
        // SAFETY: nobody else takes the pin.
        Output::new(unsafe { PIN_25::steal() }, Level::Low)
    }

    #[inline(always)]
    fn ticks() -> u32 {
        // SAFETY: a register of the chip; reading it changes nothing.
        unsafe { TIMERAWL.read_volatile() }
    }
}

impl Talks for Board {
    type Port = Line<Blocking<Uart<'static, uart::Blocking>>>;

    /// UART0 at 115,200 baud: sends at GP0, receives at GP1.
    fn port() -> Self::Port {
        // SAFETY: nobody else takes the UART and its pins.
        let (uart, tx, rx) = unsafe { (UART0::steal(), PIN_0::steal(), PIN_1::steal()) };
        Line(Blocking(Uart::new_blocking(uart, tx, rx, uart::Config::default())))
    }
}
