//! TIMER0 of the nRF51 as a free-running counter.

const BASE: usize = 0x4000_8000;
const TASKS_START: *mut u32 = BASE as *mut u32;
const TASKS_CLEAR: *mut u32 = (BASE + 0x00c) as *mut u32;
const TASKS_CAPTURE: *mut u32 = (BASE + 0x040) as *mut u32;
const BITMODE: *mut u32 = (BASE + 0x508) as *mut u32;
const PRESCALER: *mut u32 = (BASE + 0x510) as *mut u32;
const CAPTURED: *const u32 = (BASE + 0x540) as *const u32;
/// BITMODE value for 32 bits.
const BITS_32: u32 = 3;

/// Starts the counter at 0.
pub fn start() {
    // SAFETY: the addresses are registers of TIMER0 in the nRF51 reference manual, used by nobody else.
    unsafe {
        BITMODE.write_volatile(BITS_32);
        PRESCALER.write_volatile(0);
        TASKS_CLEAR.write_volatile(1);
        TASKS_START.write_volatile(1);
    }
}

/// The counter.
#[inline(always)]
pub fn ticks() -> u32 {
    // SAFETY: as in `start`.
    unsafe {
        TASKS_CAPTURE.write_volatile(1);
        CAPTURED.read_volatile()
    }
}
