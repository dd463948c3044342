//! Nordic nRF52840 DK.
#![no_std]

#[cfg(any(feature = "digits", feature = "tasks"))]
use defmt_rtt as _;
use embassy_futures::block_on;
use embassy_nrf::buffered_uarte::{self, BufferedUarte};
use embassy_nrf::gpio::{Level, Output, OutputDrive};
use embassy_nrf::peripherals::{P0_06, P0_08, P0_13, PPI_CH0, PPI_CH1, PPI_GROUP0, TIMER0, UARTE0};
use embassy_nrf::{bind_interrupts, config, uarte};
use shiftformer_link::Core;
use support::cycles;
use support::led::ActiveLow;
use support::line::{Line, Port};
use support::terminal::Talks;
pub use support::{entry, exit};

bind_interrupts!(struct Interrupts {
    UARTE0 => buffered_uarte::InterruptHandler<UARTE0>;
});

/// Bytes that wait to be read, and bytes that wait to be sent.
const BUFFER_BYTES: usize = 256;

/// This board.
pub struct Board;

impl support::Board for Board {
    const NAME: &'static str = env!("CARGO_PKG_NAME");
    const CORE: Core = Core::M4;
    const COUNTER_HZ: u32 = 64_000_000;
    const STACK_BYTES: usize = 16 * 1024;
    type Led = ActiveLow<Output<'static>>;

    /// Core at 64 MHz from the crystal.
    fn start() {
        let mut config = config::Config::default();
        config.hfclk_source = config::HfclkSource::ExternalXtal;
        let _ = embassy_nrf::init(config);
        cycles::start();
    }

    /// LED 1.
    fn led() -> Self::Led {
        // SAFETY: nobody else takes the pin.
        ActiveLow(Output::new(unsafe { P0_13::steal() }, Level::High, OutputDrive::Standard))
    }

    #[inline(always)]
    fn ticks() -> u32 {
        cycles::ticks()
    }
}

impl Talks for Board {
    type Port = Line<Uart>;

    /// UARTE0 at the pins of the debugger's serial port: sends at P0.06, receives at P0.08.
    fn port() -> Self::Port {
        let buffers = (
            cortex_m::singleton!(: [u8; BUFFER_BYTES] = [0; BUFFER_BYTES]),
            cortex_m::singleton!(: [u8; BUFFER_BYTES] = [0; BUFFER_BYTES]),
        );
        let (Some(received), Some(sent)) = buffers else { exit(false) };
        // SAFETY: nobody else takes these peripherals.
        let (uart, timer, start, stop, group, rx, tx) = unsafe {
            (
                UARTE0::steal(),
                TIMER0::steal(),
                PPI_CH0::steal(),
                PPI_CH1::steal(),
                PPI_GROUP0::steal(),
                P0_08::steal(),
                P0_06::steal(),
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
