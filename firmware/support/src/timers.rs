//! The watchdog and the first timer of Arm's MPS2 images (CMSDK APB watchdog and timer).

/// The watchdog whose registers are at `BASE`.
pub mod watchdog {
    const LOAD: usize = 0;
    const CONTROL: usize = 8;
    const CLEAR: usize = 12;
    /// CONTROL: it counts, and interrupts at zero. It resets the core at the second zero where asked, which it is not.
    const INTERRUPT: u32 = 1;

    /// Starts it: it interrupts unless it is fed within `clocks`.
    pub fn start<const BASE: usize>(clocks: u32) {
        // SAFETY: boards name the address of their own registers, and nobody else uses them.
        unsafe {
            ((BASE + LOAD) as *mut u32).write_volatile(clocks);
            ((BASE + CONTROL) as *mut u32).write_volatile(INTERRUPT);
        }
    }

    /// Lets it count anew.
    pub fn feed<const BASE: usize>() {
        // SAFETY: as in `start`.
        unsafe { ((BASE + CLEAR) as *mut u32).write_volatile(1) };
    }
}

/// The timer whose registers are at `BASE`.
pub mod timer {
    const CONTROL: usize = 0;
    const VALUE: usize = 4;
    const RELOAD: usize = 8;
    const CLEAR: usize = 12;
    /// CONTROL: it counts, and interrupts at zero.
    const ON: u32 = 1 | 1 << 3;

    /// Lets it interrupt once, `clocks` from now: where its reload value is zero it stands still afterwards.
    pub fn start<const BASE: usize>(clocks: u32) {
        // SAFETY: boards name the address of their own registers, and nobody else uses them.
        unsafe {
            ((BASE + CONTROL) as *mut u32).write_volatile(0);
            ((BASE + RELOAD) as *mut u32).write_volatile(0);
            ((BASE + VALUE) as *mut u32).write_volatile(clocks.max(1));
            ((BASE + CONTROL) as *mut u32).write_volatile(ON);
        }
    }

    /// Takes its interrupt back.
    pub fn clear<const BASE: usize>() {
        // SAFETY: as in `start`.
        unsafe { ((BASE + CLEAR) as *mut u32).write_volatile(1) };
    }
}
