//! The UART of Arm's MPS2 and MPS3 images (CMSDK APB UART).

use crate::line::{Port, Ready};

const DATA: usize = 0;
const STATE: usize = 4;
const CTRL: usize = 8;
const INTSTATUS: usize = 12;
const BAUDDIV: usize = 16;
/// STATE: the byte to be sent is still there.
const SENDING: u32 = 1;
/// STATE: a byte has come.
const RECEIVED: u32 = 2;
/// CTRL: sender and receiver on.
const ON: u32 = 3;
/// CTRL: a byte that has come is an interrupt.
const INTERRUPTS: u32 = 8;
/// INTSTATUS: that interrupt; writing it clears it.
const INTERRUPTED: u32 = 2;
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

/// A UART whose receiver has the interrupt `IRQ`. Interrupts stay disabled in the core, which only wakes by them.
pub struct WakingUart<const BASE: usize, const IRQ: u16>(Uart<BASE>);

#[derive(Clone, Copy)]
struct Irq<const IRQ: u16>;

// SAFETY: boards name the interrupt of their own UART.
unsafe impl<const IRQ: u16> cortex_m::interrupt::InterruptNumber for Irq<IRQ> {
    fn number(self) -> u16 {
        IRQ
    }
}

impl<const BASE: usize, const IRQ: u16> WakingUart<BASE, IRQ> {
    /// The UART, switched on.
    pub fn new() -> Self {
        let uart = Uart::new();
        cortex_m::interrupt::disable();
        // SAFETY: as in `Uart::new`; no handler runs, since interrupts are disabled.
        unsafe {
            ((BASE + CTRL) as *mut u32).write_volatile(ON | INTERRUPTS);
            cortex_m::peripheral::NVIC::unmask(Irq::<IRQ>);
        }
        Self(uart)
    }
}

impl<const BASE: usize, const IRQ: u16> Default for WakingUart<BASE, IRQ> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const BASE: usize, const IRQ: u16> Port for WakingUart<BASE, IRQ> {
    fn receive(&mut self) -> u8 {
        while !self.is_ready() {
            // A byte that comes from here on wakes the core, or keeps it awake.
            // SAFETY: as in `Uart::new`.
            unsafe { ((BASE + INTSTATUS) as *mut u32).write_volatile(INTERRUPTED) };
            cortex_m::peripheral::NVIC::unpend(Irq::<IRQ>);
            if !self.is_ready() {
                cortex_m::asm::wfi();
            }
        }
        self.0.receive()
    }

    fn send(&mut self, byte: u8) {
        self.0.send(byte);
    }
}

impl<const BASE: usize, const IRQ: u16> Ready for WakingUart<BASE, IRQ> {
    fn is_ready(&mut self) -> bool {
        self.0.state() & RECEIVED != 0
    }
}
