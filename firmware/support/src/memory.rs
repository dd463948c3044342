//! The memory that no variable uses: arena and stack.

use crate::{Board, Emulated};
use core::sync::atomic::{AtomicBool, Ordering};

/// What an untouched stack word holds.
const PAINT: u32 = 0xc5a5_a5c5;

unsafe extern "C" {
    /// First byte behind the variables (cortex-m-rt, riscv-rt).
    static mut __sheap: u8;
    /// Where the stack begins: the end of RAM (cortex-m-rt, riscv-rt).
    static _stack_start: u8;
}

fn stack_limit<B: Board>() -> usize {
    (&raw const _stack_start as usize) - B::STACK_BYTES
}

/// All RAM between the variables and the stack, aligned to 16; `None` but for the first call.
pub fn take_arena<B: Board>() -> Option<&'static mut [u8]> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    // One core and no interrupt handler calls this: load and store need not be one step (Cortex-M0 could not do that).
    if TAKEN.load(Ordering::Relaxed) {
        return None;
    }
    TAKEN.store(true, Ordering::Relaxed);
    let start = (&raw const __sheap as usize).next_multiple_of(16);
    let len = stack_limit::<B>().checked_sub(start)?;
    // SAFETY: the linker put no variable in `start..stack_limit`, and the flag hands it out once.
    Some(unsafe { core::slice::from_raw_parts_mut(start as *mut u8, len) })
}

/// Stack use since a moment in time.
pub struct StackMark {
    limit: usize,
    from: usize,
}

/// Paints the free stack.
#[inline(never)]
pub fn mark_stack<B: Board>() -> StackMark {
    let limit = stack_limit::<B>().next_multiple_of(4);
    let from: usize;
    // SAFETY: writes only below the stack pointer, where nothing lives: what an interrupt
    // put there is gone when it has returned. The loop is one block, so that
    // the compiler puts no push between reading the stack pointer and the last store.
    #[cfg(target_arch = "arm")]
    unsafe {
        core::arch::asm!(
            "mov {from}, sp",
            "2:",
            "cmp {word}, {from}",
            "bhs 3f",
            "str {paint}, [{word}]",
            "adds {word}, #4",
            "b 2b",
            "3:",
            from = out(reg) from,
            word = inout(reg) limit => _,
            paint = in(reg) PAINT,
        );
    }
    // SAFETY: as above.
    #[cfg(target_arch = "riscv32")]
    unsafe {
        core::arch::asm!(
            "mv {from}, sp",
            "2:",
            "bgeu {word}, {from}, 3f",
            "sw {paint}, 0({word})",
            "addi {word}, {word}, 4",
            "j 2b",
            "3:",
            from = out(reg) from,
            word = inout(reg) limit => _,
            paint = in(reg) PAINT,
        );
    }
    StackMark { limit, from }
}

impl StackMark {
    /// Bytes below the mark that have been written since; all there are when the stack was used up.
    pub fn deepest_bytes(&self) -> usize {
        let mut word = self.limit;
        // SAFETY: stack memory, read without a reference.
        while word < self.from && unsafe { (word as *const u32).read_volatile() } == PAINT {
            word += 4;
        }
        self.from - word
    }
}

/// The bytes of memory the host filled before the start: a job in emulation.
pub fn job<B: Emulated>() -> &'static [u8] {
    let from = B::MACHINE.job_address as *const u8;
    // SAFETY: the region exists on the board, is outside of the linker's memory map or of what the linker uses of it, and
    // nothing writes to it.
    unsafe { core::slice::from_raw_parts(from, B::MACHINE.job_bytes as usize) }
}

/// The memory of the job, to be used as plain memory by programs that take no job; `None` where it is flash, and but for
/// the first call.
pub fn take_job_memory<B: Emulated>() -> Option<&'static mut [u8]> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    let machine = B::MACHINE;
    if !B::JOB_IN_RAM || TAKEN.load(Ordering::Relaxed) {
        return None;
    }
    TAKEN.store(true, Ordering::Relaxed);
    // SAFETY: the region is RAM outside of the linker's memory map, and the flag hands it out once.
    Some(unsafe { core::slice::from_raw_parts_mut(machine.job_address as *mut u8, machine.job_bytes as usize) })
}
