//! Nordic nRF5340 DK, its application core.
#![no_std]

#[cfg(feature = "digits")]
use defmt_rtt as _;
use embassy_futures::block_on;
use embassy_nrf::buffered_uarte::{self, BufferedUarte};
use embassy_nrf::gpio::{Level, Output, OutputDrive};
use embassy_nrf::peripherals::{P0_20, P0_22, P0_28, PPI_CH0, PPI_CH1, PPI_GROUP0, SERIAL0, TIMER0};
use embassy_nrf::{bind_interrupts, config, uarte};
use shiftformer_link::Core;
use support::cycles;
use support::led::ActiveLow;
use support::line::{Line, Port};
use support::terminal::Talks;
pub use support::{entry, exit};

bind_interrupts!(struct Interrupts {
    SERIAL0 => buffered_uarte::InterruptHandler<SERIAL0>;
});

/// Bytes that wait to be read, and bytes that wait to be sent.
const BUFFER_BYTES: usize = 256;
/// Divider of the core's clock.
const HFCLKCTRL: *mut u32 = 0x5000_5558 as *mut u32;
/// HFCLKCTRL: 128 MHz, where reset leaves 64.
const UNDIVIDED: u32 = 0;

/// This board.
pub struct Board;

impl support::Board for Board {
    const NAME: &'static str = env!("CARGO_PKG_NAME");
    const CORE: Core = Core::M33;
    const COUNTER_HZ: u32 = 128_000_000;
    const STACK_BYTES: usize = 16 * 1024;
    type Led = ActiveLow<Output<'static>>;

    /// Core at 128 MHz from the crystal.
    fn start() {
        let mut config = config::Config::default();
        config.hfclk_source = config::HfclkSource::ExternalXtal;
        let _ = embassy_nrf::init(config);
        // SAFETY: the register of the nRF5340 Product Specification; nobody else uses it.
        unsafe { HFCLKCTRL.write_volatile(UNDIVIDED) };
        cycles::start();
    }

    /// LED 1.
    fn led() -> Self::Led {
        // SAFETY: nobody else takes the pin.
        ActiveLow(Output::new(unsafe { P0_28::steal() }, Level::High, OutputDrive::Standard))
    }

    #[inline(always)]
    fn ticks() -> u32 {
        cycles::ticks()
    }
}

impl Talks for Board {
    type Port = Line<Uart>;

    /// UARTE0 at the pins of the debugger's serial port: sends at P0.20, receives at P0.22.
    fn port() -> Self::Port {
        let buffers = (
            cortex_m::singleton!(: [u8; BUFFER_BYTES] = [0; BUFFER_BYTES]),
            cortex_m::singleton!(: [u8; BUFFER_BYTES] = [0; BUFFER_BYTES]),
        );
        let (Some(received), Some(sent)) = buffers else { exit(false) };
        // SAFETY: nobody else takes these peripherals.
        let (uart, timer, start, stop, group, rx, tx) = unsafe {
            (
                SERIAL0::steal(),
                TIMER0::steal(),
                PPI_CH0::steal(),
                PPI_CH1::steal(),
                PPI_GROUP0::steal(),
                P0_22::steal(),
                P0_20::steal(),
            )
        };
        let mut config = uarte::Config::default();
        config.baudrate = uarte::Baudrate::Baud115200;
        Line(Uart(BufferedUarte::new(uart, timer, start, stop, group, rx, tx, Interrupts, config, received, sent)))
    }
}

/// The UART at 115,200 baud, with buffers that interrupts fill and empty: its DMA would lose bytes between two reads.
pub struct Uart(BufferedUarte<'static>);

impl Port for Uart {
    fn receive(&mut self) -> u8 {
        let mut byte = [0];
        while block_on(self.0.read(&mut byte)) != Ok(1) {}
        let [byte] = byte;
        byte
    }

    fn send(&mut self, byte: u8) {
        while block_on(self.0.write(&[byte])) != Ok(1) {}
    }
}
