//! The registers of Arm's MPS2 and MPS3 images: LEDs and a free-running counter.

use core::convert::Infallible;
use embedded_hal::digital::{ErrorType, OutputPin};

/// Reads the free-running counter of the registers at `FPGAIO` (Arm AN385, AN386, AN500, AN505, AN547).
#[inline(always)]
pub fn ticks<const FPGAIO: usize>() -> u32 {
    // SAFETY: boards name the address of their own registers; reading the counter changes nothing.
    unsafe { ((FPGAIO + 0x18) as *const u32).read_volatile() }
}

/// LED 0: bit 0 of the first register at `FPGAIO`.
pub struct Led<const FPGAIO: usize>(());

impl<const FPGAIO: usize> Led<FPGAIO> {
    /// The LED, dark.
    pub fn new() -> Self {
        let led = Self(());
        led.set(false);
        led
    }

    fn set(&self, on: bool) {
        // SAFETY: the register of the FPGA image; nobody else uses the LEDs.
        unsafe { (FPGAIO as *mut u32).write_volatile(u32::from(on)) };
    }
}

impl<const FPGAIO: usize> Default for Led<FPGAIO> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const FPGAIO: usize> ErrorType for Led<FPGAIO> {
    type Error = Infallible;
}

impl<const FPGAIO: usize> OutputPin for Led<FPGAIO> {
    fn set_low(&mut self) -> Result<(), Infallible> {
        self.set(false);
        Ok(())
    }

    fn set_high(&mut self) -> Result<(), Infallible> {
        self.set(true);
        Ok(())
    }
}
