//! USART1 by its registers.

use support::line::Port;

const BASE: usize = 0x4001_1000;
const SR: *const u32 = BASE as *const u32;
const DR: *mut u32 = (BASE + 0x04) as *mut u32;
const CR1: *mut u32 = (BASE + 0x0c) as *mut u32;
/// SR: a byte has come.
const RECEIVED: u32 = 1 << 5;
/// SR: there is room for a byte.
const EMPTY: u32 = 1 << 7;
/// CR1: UART, sender and receiver on.
const ON: u32 = 1 << 13 | 1 << 3 | 1 << 2;

/// The UART.
pub struct Uart(());

impl Uart {
    /// The UART, switched on. What the emulator does not know is left out: clocks, pins, the baud rate.
    pub fn new() -> Self {
        // SAFETY: registers of USART1 in the STM32F405 reference manual, used by nobody else.
        unsafe { CR1.write_volatile(ON) };
        Self(())
    }
}

impl Default for Uart {
    fn default() -> Self {
        Self::new()
    }
}

impl Port for Uart {
    fn receive(&mut self) -> u8 {
        // SAFETY: as in `new`.
        unsafe {
            while SR.read_volatile() & RECEIVED == 0 {}
            DR.read_volatile() as u8
        }
    }

    fn send(&mut self, byte: u8) {
        // SAFETY: as in `new`.
        unsafe {
            while SR.read_volatile() & EMPTY == 0 {}
            DR.write_volatile(u32::from(byte));
        }
    }
}
