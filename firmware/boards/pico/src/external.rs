//! A serial flash at SPI0: SCK at GP18, MOSI at GP19, MISO at GP16, chip select at GP17.

use crate::{Board, exit};
use embassy_rp::gpio::{Level, Output};
use embassy_rp::peripherals::{DMA_CH0, DMA_CH1, PIN_16, PIN_17, PIN_18, PIN_19, SPI0};
use embassy_rp::spi::{self, Async, Spi};
use embassy_rp::{bind_interrupts, dma};
use embedded_hal_bus::spi::{ExclusiveDevice, NoDelay};
use shiftformer_stream::SpiFlash;
use support::external::External;

/// Bytes of a W25Q128, the largest flash that addresses of 24 bits reach.
const CAPACITY: usize = 16 << 20;
/// What such a flash allows for plain reads.
const CLOCK_HZ: u32 = 31_250_000;

bind_interrupts!(struct Interrupts {
    DMA_IRQ_0 => dma::InterruptHandler<DMA_CH0>, dma::InterruptHandler<DMA_CH1>;
});

impl External for Board {
    type Flash = SpiFlash<ExclusiveDevice<Spi<'static, SPI0, Async>, Output<'static>, NoDelay>>;

    fn flash() -> Self::Flash {
        // SAFETY: nobody else takes them.
        let (bus, clock, mosi, miso, select) =
            unsafe { (SPI0::steal(), PIN_18::steal(), PIN_19::steal(), PIN_16::steal(), PIN_17::steal()) };
        // SAFETY: nobody else takes them.
        let (send, receive) = unsafe { (DMA_CH0::steal(), DMA_CH1::steal()) };
        let mut config = spi::Config::default();
        config.frequency = CLOCK_HZ;
        let bus = Spi::new(bus, clock, mosi, miso, send, receive, Interrupts, config);
        match ExclusiveDevice::new_no_delay(bus, Output::new(select, Level::High)) {
            Ok(device) => SpiFlash::new(device, CAPACITY),
            Err(_) => exit(false),
        }
    }
}
