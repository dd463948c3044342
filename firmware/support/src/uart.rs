//! The UART of Arm's MPS2 and MPS3 images (CMSDK APB UART).

use crate::line::Port;

const DATA: usize = 0;
const STATE: usize = 4;
const CTRL: usize = 8;
const BAUDDIV: usize = 16;
/// STATE: the byte to be sent is still there.
const SENDING: u32 = 1;
/// STATE: a byte has come.
const RECEIVED: u32 = 2;
/// CTRL: sender and receiver on.
const ON: u32 = 3;
/// 25 MHz at 115,200 baud.
const DIVISOR: u32 = 217;

/// The UART whose registers are at `BASE`.
pub struct Uart<const BASE: usize>(());

impl<const BASE: usize> Uart<BASE> {
    /// The UART, switched on.
    pub fn new() -> Self {
        // SAFETY: boards name the address of their own registers, and nobody else uses them.
        unsafe {
            ((BASE + BAUDDIV) as *mut u32).write_volatile(DIVISOR);
            ((BASE + CTRL) as *mut u32).write_volatile(ON);
        }
        Self(())
    }

    fn state(&self) -> u32 {
        // SAFETY: as in `new`.
        unsafe { ((BASE + STATE) as *const u32).read_volatile() }
    }
}

impl<const BASE: usize> Default for Uart<BASE> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const BASE: usize> Port for Uart<BASE> {
    fn receive(&mut self) -> u8 {
        while self.state() & RECEIVED == 0 {}
        // SAFETY: as in `new`; the register holds a byte.
        unsafe { ((BASE + DATA) as *const u32).read_volatile() as u8 }
    }

    fn send(&mut self, byte: u8) {
        while self.state() & SENDING != 0 {}
        // SAFETY: as in `new`.
        unsafe { ((BASE + DATA) as *mut u32).write_volatile(u32::from(byte)) };
    }
}
