//! A counter that rises in step with executed instructions, under an emulator that lets every instruction take the same
//! time (`-icount`). On silicon it counts time.

use core::arch::asm;

/// Registers of the nRF51 TIMER0.
#[cfg(feature = "microbit")]
mod timer {
    const BASE: usize = 0x4000_8000;
    pub const TASKS_START: *mut u32 = BASE as *mut u32;
    pub const TASKS_CLEAR: *mut u32 = (BASE + 0x00c) as *mut u32;
    pub const TASKS_CAPTURE: *mut u32 = (BASE + 0x040) as *mut u32;
    pub const BITMODE: *mut u32 = (BASE + 0x508) as *mut u32;
    pub const PRESCALER: *mut u32 = (BASE + 0x510) as *mut u32;
    pub const CAPTURED: *const u32 = (BASE + 0x540) as *const u32;
    /// BITMODE value for 32 bits.
    pub const BITS_32: u32 = 3;
}

/// Starts the counter.
pub fn start() {
    #[cfg(feature = "microbit")]
    // SAFETY: the addresses are registers of TIMER0 in the nRF51 reference manual, used by nobody else.
    unsafe {
        timer::BITMODE.write_volatile(timer::BITS_32);
        timer::PRESCALER.write_volatile(0);
        timer::TASKS_CLEAR.write_volatile(1);
        timer::TASKS_START.write_volatile(1);
    }
}

/// The counter: 32 bits, wraps around. Its rate is `MACHINE.counter_hz`.
#[cfg(feature = "microbit")]
#[inline(always)]
pub fn ticks() -> u32 {
    // SAFETY: as in `start`.
    unsafe {
        timer::TASKS_CAPTURE.write_volatile(1);
        timer::CAPTURED.read_volatile()
    }
}

/// The counter: 32 bits, wraps around. Its rate is `MACHINE.counter_hz`.
#[cfg(not(feature = "microbit"))]
#[inline(always)]
pub fn ticks() -> u32 {
    const COUNTER: *const u32 = (crate::boards::FPGAIO + 0x18) as *const u32;
    // SAFETY: the address is the free-running counter of the FPGA image (Arm AN386, AN500, AN505, AN547).
    unsafe { COUNTER.read_volatile() }
}

/// Executes a loop and returns how many instructions that were: the counter is checked against it.
pub fn known_loop() -> u32 {
    const TURNS: u32 = 50_000;
    // SAFETY: only the named register changes.
    unsafe {
        asm!("2:", "subs {n}, #1", "bne 2b", n = inout(reg) TURNS => _, options(nomem, nostack));
    }
    2 * TURNS
}
