//! UART0 of the nRF51, which the micro:bit connects to its USB port.

use support::line::Port;

const BASE: usize = 0x4000_2000;
const TASKS_STARTRX: *mut u32 = BASE as *mut u32;
const TASKS_STARTTX: *mut u32 = (BASE + 0x008) as *mut u32;
const EVENTS_RXDRDY: *mut u32 = (BASE + 0x108) as *mut u32;
const EVENTS_TXDRDY: *mut u32 = (BASE + 0x11c) as *mut u32;
const ENABLE: *mut u32 = (BASE + 0x500) as *mut u32;
const PSELTXD: *mut u32 = (BASE + 0x50c) as *mut u32;
const PSELRXD: *mut u32 = (BASE + 0x514) as *mut u32;
const RXD: *const u32 = (BASE + 0x518) as *const u32;
const TXD: *mut u32 = (BASE + 0x51c) as *mut u32;
const BAUDRATE: *mut u32 = (BASE + 0x524) as *mut u32;
/// ENABLE value.
const ENABLED: u32 = 4;
/// BAUDRATE value for 115,200 baud.
const BAUD_115200: u32 = 0x01d7_e000;
/// P0.24 and P0.25.
const TX_PIN: u32 = 24;
const RX_PIN: u32 = 25;

/// The UART.
pub struct Uart(());

impl Uart {
    /// The UART, switched on.
    pub fn new() -> Self {
        // SAFETY: registers of UART0 in the nRF51 reference manual, used by nobody else.
        unsafe {
            PSELTXD.write_volatile(TX_PIN);
            PSELRXD.write_volatile(RX_PIN);
            BAUDRATE.write_volatile(BAUD_115200);
            ENABLE.write_volatile(ENABLED);
            TASKS_STARTRX.write_volatile(1);
            TASKS_STARTTX.write_volatile(1);
        }
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
            while EVENTS_RXDRDY.read_volatile() == 0 {}
            EVENTS_RXDRDY.write_volatile(0);
            RXD.read_volatile() as u8
        }
    }

    fn send(&mut self, byte: u8) {
        // SAFETY: as in `new`.
        unsafe {
            EVENTS_TXDRDY.write_volatile(0);
            TXD.write_volatile(u32::from(byte));
            while EVENTS_TXDRDY.read_volatile() == 0 {}
        }
    }
}
