//! ST Nucleo-F411RE.
#![no_std]

#[cfg(feature = "digits")]
use defmt_rtt as _;
use embassy_stm32::Config;
use embassy_stm32::gpio::{Level, Output, Speed};
use embassy_stm32::mode;
use embassy_stm32::peripherals::{PA2, PA3, PA5, USART2};
use embassy_stm32::rcc::{APBPrescaler, Pll, PllMul, PllPDiv, PllPreDiv, PllSource, Sysclk};
use embassy_stm32::usart::{self, Uart};
use shiftformer_link::Core;
use support::cycles;
use support::line::{Blocking, Line};
use support::terminal::Talks;
pub use support::{entry, exit};

/// This board.
pub struct Board;

impl support::Board for Board {
    const NAME: &'static str = env!("CARGO_PKG_NAME");
    const CORE: Core = Core::M4;
    const COUNTER_HZ: u32 = 100_000_000;
    const STACK_BYTES: usize = 16 * 1024;
    type Led = Output<'static>;

    /// Core at 100 MHz from the internal oscillator of 16 MHz.
    fn start() {
        let mut config = Config::default();
        config.rcc.pll_src = PllSource::HSI;
        config.rcc.pll = Some(Pll {
            prediv: PllPreDiv::DIV8,
            mul: PllMul::MUL100,
            divp: Some(PllPDiv::DIV2),
            divq: None,
            divr: None,
        });
        config.rcc.apb1_pre = APBPrescaler::DIV2;
        config.rcc.sys = Sysclk::PLL1_P;
        let _ = embassy_stm32::init(config);
        cycles::start();
    }

    /// LD2.
    fn led() -> Self::Led {
        // SAFETY: nobody else takes the pin.
        Output::new(unsafe { PA5::steal() }, Level::Low, Speed::Low)
    }

    #[inline(always)]
    fn ticks() -> u32 {
        cycles::ticks()
    }
}

impl Talks for Board {
    type Port = Line<Blocking<Uart<'static, mode::Blocking>>>;

    /// USART2 at 115,200 baud, at the pins of the debugger's serial port: sends at PA2, receives at PA3.
    fn port() -> Self::Port {
        // SAFETY: nobody else takes the UART and its pins.
        let (uart, rx, tx) = unsafe { (USART2::steal(), PA3::steal(), PA2::steal()) };
        match Uart::new_blocking(uart, rx, tx, usart::Config::default()) {
            Ok(uart) => Line(Blocking(uart)),
            Err(_) => exit(false),
        }
    }
}
