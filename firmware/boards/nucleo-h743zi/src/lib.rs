//! ST Nucleo-H743ZI.
#![no_std]

#[cfg(feature = "digits")]
use defmt_rtt as _;
use embassy_stm32::Config;
use embassy_stm32::gpio::{Level, Output, Speed};
use embassy_stm32::mode;
use embassy_stm32::peripherals::{PB0, PD8, PD9, USART3};
use embassy_stm32::rcc::{
    AHBPrescaler, APBPrescaler, HSIPrescaler, Pll, PllDiv, PllMul, PllPreDiv, PllSource, Sysclk, VoltageScale,
};
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
    const CORE: Core = Core::M7;
    const COUNTER_HZ: u32 = 400_000_000;
    const STACK_BYTES: usize = 16 * 1024;
    type Led = Output<'static>;

    /// Core at 400 MHz from the internal oscillator of 64 MHz.
    fn start() {
        let mut config = Config::default();
        config.rcc.hsi = Some(HSIPrescaler::DIV1);
        config.rcc.pll1 = Some(Pll {
            source: PllSource::HSI,
            prediv: PllPreDiv::DIV4,
            mul: PllMul::MUL50,
            divp: Some(PllDiv::DIV2),
            divq: None,
            divr: None,
        });
        config.rcc.sys = Sysclk::PLL1_P;
        config.rcc.ahb_pre = AHBPrescaler::DIV2;
        config.rcc.apb1_pre = APBPrescaler::DIV2;
        config.rcc.apb2_pre = APBPrescaler::DIV2;
        config.rcc.apb3_pre = APBPrescaler::DIV2;
        config.rcc.apb4_pre = APBPrescaler::DIV2;
        // 480 MHz, which `fit` reckons with, needs scale 0, which not every revision of the chip has.
        config.rcc.voltage_scale = VoltageScale::Scale1;
        let _ = embassy_stm32::init(config);
        cycles::start();
    }

    /// LD1.
    fn led() -> Self::Led {
        // SAFETY: nobody else takes the pin.
        Output::new(unsafe { PB0::steal() }, Level::Low, Speed::Low)
    }

    #[inline(always)]
    fn ticks() -> u32 {
        cycles::ticks()
    }
}

impl Talks for Board {
    type Port = Line<Blocking<Uart<'static, mode::Blocking>>>;

    /// USART3 at 115,200 baud, at the pins of the debugger's serial port: sends at PD8, receives at PD9.
    fn port() -> Self::Port {
        // SAFETY: nobody else takes the UART and its pins.
        let (uart, rx, tx) = unsafe { (USART3::steal(), PD9::steal(), PD8::steal()) };
        match Uart::new_blocking(uart, rx, tx, usart::Config::default()) {
            Ok(uart) => Line(Blocking(uart)),
            Err(_) => exit(false),
        }
    }
}
