//! Serial NOR flash.

use embedded_hal_async::spi::{Operation, SpiDevice};
use embedded_storage_async::nor_flash::{ErrorType, NorFlashError, NorFlashErrorKind, ReadNorFlash};

/// "Read data" with an address of 24 bits, which every serial NOR flash knows (JEDEC JESD216, `03h`).
const READ: u8 = 0x03;
/// Bytes that such an address reaches.
const REACH: usize = 1 << 24;

/// A serial NOR flash of up to 16 MiB, for reading.
#[derive(Clone, Debug)]
pub struct SpiFlash<D> {
    device: D,
    capacity: usize,
}

/// What a flash cannot do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum SpiFlashError<E> {
    /// The bus.
    Spi(E),
    /// Beyond the end of the flash, or of what addresses of 24 bits reach.
    OutOfBounds,
}

impl<D: SpiDevice> SpiFlash<D> {
    /// A flash of `capacity` bytes. The clock may be as fast as the data sheet allows for `03h`, up to 33 MHz mostly.
    pub fn new(device: D, capacity: usize) -> Self {
        Self { device, capacity: capacity.min(REACH) }
    }

    /// Gives the device back.
    pub fn release(self) -> D {
        self.device
    }
}

impl<E: core::fmt::Debug> NorFlashError for SpiFlashError<E> {
    fn kind(&self) -> NorFlashErrorKind {
        match self {
            Self::Spi(_) => NorFlashErrorKind::Other,
            Self::OutOfBounds => NorFlashErrorKind::OutOfBounds,
        }
    }
}

impl<D: SpiDevice> ErrorType for SpiFlash<D> {
    type Error = SpiFlashError<D::Error>;
}

impl<D: SpiDevice> ReadNorFlash for SpiFlash<D> {
    const READ_SIZE: usize = 1;

    async fn read(&mut self, offset: u32, bytes: &mut [u8]) -> Result<(), Self::Error> {
        if (offset as usize).checked_add(bytes.len()).is_none_or(|end| end > self.capacity) {
            return Err(SpiFlashError::OutOfBounds);
        }
        let [_, high, middle, low] = offset.to_be_bytes();
        let command = [READ, high, middle, low];
        let mut operations = [Operation::Write(&command), Operation::Read(bytes)];
        self.device.transaction(&mut operations).await.map_err(SpiFlashError::Spi)
    }

    fn capacity(&self) -> usize {
        self.capacity
    }
}
