//! One LED, as embedded-hal knows it: lit while a demo computes, to be seen or measured with an oscilloscope.

use core::convert::Infallible;
use embedded_hal::digital::{ErrorType, OutputPin};

/// The LED of the board that demos use.
pub struct Led(());

#[cfg(feature = "microbit")]
mod pin {
    const GPIO: usize = 0x5000_0000;
    const OUT_SET: *mut u32 = (GPIO + 0x508) as *mut u32;
    const OUT_CLEAR: *mut u32 = (GPIO + 0x50c) as *mut u32;
    const DIR_SET: *mut u32 = (GPIO + 0x518) as *mut u32;
    /// P0.13, the first row of the LED matrix; its column P0.4 stays low.
    const ROW: u32 = 1 << 13;
    const COLUMN: u32 = 1 << 4;

    pub fn init() {
        // SAFETY: GPIO registers of the nRF51 reference manual; set/clear registers change the named bits alone.
        unsafe {
            OUT_CLEAR.write_volatile(ROW | COLUMN);
            DIR_SET.write_volatile(ROW | COLUMN);
        }
    }

    pub fn set(on: bool) {
        // SAFETY: as in `init`.
        unsafe { if on { OUT_SET } else { OUT_CLEAR }.write_volatile(ROW) };
    }
}

#[cfg(not(feature = "microbit"))]
mod pin {
    /// FPGAIO register of the user LEDs, bit 0 is LED 0.
    const LEDS: *mut u32 = crate::boards::FPGAIO as *mut u32;

    pub fn init() {}

    pub fn set(on: bool) {
        // SAFETY: the register of the FPGA image; nobody else uses the LEDs.
        unsafe { LEDS.write_volatile(u32::from(on)) };
    }
}

impl Led {
    /// The LED, dark.
    pub fn new() -> Self {
        pin::init();
        pin::set(false);
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
        pin::set(false);
        Ok(())
    }

    fn set_high(&mut self) -> Result<(), Infallible> {
        pin::set(true);
        Ok(())
    }
}
