//! The cycle counter of the debug unit, which Cortex-M3 and later cores have.

const DEMCR: *mut u32 = 0xe000_edfc as *mut u32;
const DWT_CTRL: *mut u32 = 0xe000_1000 as *mut u32;
const DWT_CYCCNT: *mut u32 = 0xe000_1004 as *mut u32;
/// DEMCR: the debug unit is on.
const TRCENA: u32 = 1 << 24;
/// DWT_CTRL: the counter runs.
const CYCCNTENA: u32 = 1;

/// Starts the counter at 0.
pub fn start() {
    // SAFETY: registers of the Armv7-M and Armv8-M architecture, used by nobody else; a core without them faults at the first.
    unsafe {
        DEMCR.write_volatile(DEMCR.read_volatile() | TRCENA);
        DWT_CYCCNT.write_volatile(0);
        DWT_CTRL.write_volatile(DWT_CTRL.read_volatile() | CYCCNTENA);
    }
}

/// The counter.
#[inline(always)]
pub fn ticks() -> u32 {
    // SAFETY: as in `start`; reading changes nothing.
    unsafe { DWT_CYCCNT.read_volatile() }
}
