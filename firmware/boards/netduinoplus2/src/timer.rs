//! TIM2 as a free-running counter.

const TIM2: usize = 0x4000_0000;
const CR1: *mut u32 = TIM2 as *mut u32;
const CNT: *const u32 = (TIM2 + 0x24) as *const u32;
const PSC: *mut u32 = (TIM2 + 0x28) as *mut u32;
const ARR: *mut u32 = (TIM2 + 0x2c) as *mut u32;
/// CR1: the counter runs.
const ENABLED: u32 = 1;
/// The emulated timer runs at 1 GHz; divided by one more than this it wraps around after seven minutes.
const PRESCALER: u32 = 99;

/// Starts the counter.
pub fn start() {
    // SAFETY: registers of TIM2 in the STM32F405 reference manual, used by nobody else.
    unsafe {
        PSC.write_volatile(PRESCALER);
        ARR.write_volatile(u32::MAX);
        CR1.write_volatile(ENABLED);
    }
}

/// The counter.
#[inline(always)]
pub fn ticks() -> u32 {
    // SAFETY: as in `start`.
    unsafe { CNT.read_volatile() }
}
