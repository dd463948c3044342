//! A loop of known length, against which the counter of a board is checked.

use core::arch::asm;

/// Executes a loop and returns how many instructions that were.
pub fn known_loop() -> u32 {
    const TURNS: u32 = 50_000;
    // SAFETY: only the named register changes.
    #[cfg(target_arch = "arm")]
    unsafe {
        asm!("2:", "subs {n}, #1", "bne 2b", n = inout(reg) TURNS => _, options(nomem, nostack));
    }
    // SAFETY: as above.
    #[cfg(target_arch = "riscv32")]
    unsafe {
        asm!("2:", "addi {n}, {n}, -1", "bnez {n}, 2b", n = inout(reg) TURNS => _, options(nomem, nostack));
    }
    2 * TURNS
}
