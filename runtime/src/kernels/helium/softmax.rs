//! Rows of scores, exponentials and weighted values, four lanes at a time.
//!
//! # Instructions for four elements
//! Maximum 3; exponential 12 (`VLDRW`, `VSUB`, `VSHR`, `VMIN`, `VAND`, table by a gathering `VLDRH`, `VNEG`, `VSHL`,
//! `VRSHR`, store, `VADDVA`, `LETP`); scaling of scores 5; weighted values 8.

use crate::arith::exp::{EXP2_FRACTION, RowScale};
use crate::kernels::{ExpRow, ScoreScale};
use core::arch::asm;

/// [`crate::kernels::Kernels::scale_scores`].
pub fn scale_scores(scores: &mut [i32], scale: ScoreScale) {
    if scores.is_empty() {
        return;
    }
    // SAFETY: the predicated loop reads and writes `scores.len()` words.
    unsafe {
        asm!(
            "vdup.32 q1, {multiplier}",
            "dlstp.32 lr, {len}",
            "2:",
            "vldrw.32 q0, [{s}]",
            "vshl.s32 q0, {shift}",
            "vrmulh.s32 q0, q0, q1",
            "vstrw.32 q0, [{s}], #16",
            "letp lr, 2b",
            multiplier = in(reg) scale.multiplier, len = in(reg) scores.len(), shift = in(reg) scale.acc_shift,
            s = inout(reg) scores.as_mut_ptr() => _,
            out("lr") _, out("d0") _, out("d1") _, out("d2") _, out("d3") _, options(nostack)
        );
    }
}

/// Greatest score.
fn maximum(scores: &[i32]) -> i32 {
    let max;
    // SAFETY: the predicated loop reads `scores.len()` words, at least one.
    unsafe {
        asm!(
            "dlstp.32 lr, {len}",
            "2:",
            "vldrw.32 q0, [{s}], #16",
            "vmaxv.s32 {max}, q0",
            "letp lr, 2b",
            len = in(reg) scores.len(), s = inout(reg) scores.as_ptr() => _, max = inout(reg) i32::MIN => max,
            out("lr") _, out("d0") _, out("d1") _, options(nostack, readonly)
        );
    }
    max
}

macro_rules! exponentials {
    ($(#[$meta:meta])* $name:ident, $out:ty, $($store:literal),+) => {
        $(#[$meta])*
        fn $name(scores: &[i32], out: &mut [$out]) -> u32 {
            let len = scores.len().min(out.len());
            if len == 0 {
                return 0;
            }
            let max = maximum(scores);
            let sum;
            // SAFETY: the predicated loop reads `len` scores and writes `len` exponentials; offsets into the table are
            // masked to its 256 entries.
            unsafe {
                asm!(
                    "vdup.32 q2, {max}",
                    "vdup.32 q3, {mask}",
                    "vdup.32 q4, {cap}",
                    "dlstp.32 lr, {len}",
                    "2:",
                    "vldrw.32 q0, [{s}], #16",
                    "vsub.i32 q0, q2, q0",
                    "vshr.u32 q1, q0, #8",
                    "vmin.u32 q1, q1, q4",
                    "vand q0, q0, q3",
                    "vldrh.u32 q5, [{table}, q0, uxtw #1]",
                    "vneg.s32 q1, q1",
                    "vshl.u32 q0, q5, q1",
                    $($store,)+
                    "vaddva.u32 r0, q0",
                    "letp lr, 2b",
                    max = in(reg) max, mask = in(reg) 255, cap = in(reg) 31, len = in(reg) len,
                    s = inout(reg) scores.as_ptr() => _,
                    table = in(reg) EXP2_FRACTION.as_ptr(), inout("r0") 0u32 => sum, inout("r1") out.as_mut_ptr() => _, out("lr") _,
                    out("d0") _, out("d1") _, out("d2") _, out("d3") _, out("d4") _, out("d5") _, out("d6") _,
                    out("d7") _, out("d8") _, out("d9") _, out("d10") _, out("d11") _, options(nostack)
                );
            }
            sum
        }
    };
}

exponentials! {
    /// 8-bit exponentials.
    exp_u8, u8, "vrshr.u32 q0, q0, #7", "vstrb.32 q0, [r1], #4"
}
exponentials! {
    /// 16-bit exponentials.
    exp_u16, u16, "vstrh.32 q0, [r1], #8"
}

/// [`crate::kernels::Kernels::exp_row`].
pub fn exp_row(scores: &[i32], out: ExpRow<'_>) -> u32 {
    match out {
        ExpRow::U8(out) => exp_u8(scores, out),
        ExpRow::U16(out) => exp_u16(scores, out),
    }
}

/// [`crate::kernels::Kernels::scale_row`].
pub fn scale_row(acc: &[i32], scale: RowScale, zero_point: i32, out: &mut [i8]) {
    let len = acc.len().min(out.len());
    if len == 0 {
        return;
    }
    // SAFETY: the predicated loop reads and writes `len` elements.
    unsafe {
        asm!(
            "vdup.32 q1, {multiplier}",
            "dlstp.32 lr, {len}",
            "2:",
            "vldrw.32 q0, [{acc}], #16",
            "vmulh.s32 q0, q0, q1",
            "vrshl.s32 q0, {shift}",
            "vadd.i32 q0, q0, {zero_point}",
            "vqmovnb.s32 q0, q0",
            "vqmovnb.s16 q0, q0",
            "vstrb.32 q0, [r1], #4",
            "letp lr, 2b",
            multiplier = in(reg) scale.multiplier, len = in(reg) len, shift = in(reg) -(scale.shift as i32),
            zero_point = in(reg) zero_point, acc = inout(reg) acc.as_ptr() => _,
            inout("r1") out.as_mut_ptr() => _, out("lr") _, out("d0") _, out("d1") _, out("d2") _, out("d3") _, options(nostack)
        );
    }
}
