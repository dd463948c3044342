//! One LED of the matrix, as embedded-hal knows it.

use core::convert::Infallible;
use embedded_hal::digital::{ErrorType, OutputPin};

const GPIO: usize = 0x5000_0000;
const OUT_SET: *mut u32 = (GPIO + 0x508) as *mut u32;
const OUT_CLEAR: *mut u32 = (GPIO + 0x50c) as *mut u32;
const DIR_SET: *mut u32 = (GPIO + 0x518) as *mut u32;
/// P0.13, the first row of the LED matrix; its column P0.4 stays low.
const ROW: u32 = 1 << 13;
const COLUMN: u32 = 1 << 4;

/// The LED in the first row and column.
pub struct Led(());

impl Led {
    /// The LED, dark.
    pub fn new() -> Self {
        // SAFETY: GPIO registers of the nRF51 reference manual; set/clear registers change the named bits alone.
        unsafe {
            OUT_CLEAR.write_volatile(ROW | COLUMN);
            DIR_SET.write_volatile(ROW | COLUMN);
        }
        Self(())
    }
}

impl Default for Led {
    fn default() -> Self {
        Self::new()
    }
}

impl ErrorType for Led {
    type Error = Infallible;
}

impl OutputPin for Led {
    fn set_low(&mut self) -> Result<(), Infallible> {
        // SAFETY: as in `new`.
        unsafe { OUT_CLEAR.write_volatile(ROW) };
        Ok(())
    }

    fn set_high(&mut self) -> Result<(), Infallible> {
        // SAFETY: as in `new`.
        unsafe { OUT_SET.write_volatile(ROW) };
        Ok(())
    }
}
