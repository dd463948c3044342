//! Rows of scores, exponentials and weighted values, four lanes at a time.
//!
//! # Register plan
//! Exponentials: `q0 q1` scores and what becomes of them, `q2` differences and offsets into the table; `r0` sum, `r1`
//! output, `lr` counter; maximum, pointers to scores and table. The others: `q0` elements, `q1` multiplier.
//!
//! # Instructions
//! Eight exponentials 16 (`VLDRW` 2, `VQSUB` 2, `VQMOVN` 2, `VSHR`, `VBIC`, table by a gathering `VLDRH`, `VSHL`, `VRSHR`,
//! two stores, `VADDVA`, `VSHR`, `LE`). Four elements: maximum 3, scaling of scores 5, weighted values 8.

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

/// Maximum score.
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

/// Scores that one turn of the loop takes.
const OCTET: usize = 8;

/// Exponentials by the score less the maximum `d = 256 h + g`, `g` in `0..256`, which is what shifts and masks make of a
/// negative number: `2^(d/256) = STEPS[g] * 2^h`, twice a fraction beyond the first.
static STEPS: [u16; 256] = {
    let mut table = [EXP2_FRACTION[0]; 256];
    let mut g = 1;
    while g < table.len() {
        table[g] = 2 * EXP2_FRACTION[table.len() - g];
        g += 1;
    }
    table
};

macro_rules! exponentials {
    ($(#[$meta:meta])* $name:ident, $out:ty, $round8:literal, $round4:literal, $store:literal, $size:literal) => {
        $(#[$meta])*
        fn $name(scores: &[i32], out: &mut [$out]) -> u32 {
            let len = scores.len().min(out.len());
            if len == 0 {
                return 0;
            }
            let max = maximum(scores);
            let sum;
            // SAFETY: the loops read `len` scores and write `len` exponentials, eight at a time and then, predicated, up
            // to four; offsets into the table are masked to its 256 entries.
            unsafe {
                asm!(
                    "wls lr, {octets}, 3f",
                    "2:",
                    "vldrw.32 q0, [{s}], #32",
                    "vldrw.32 q1, [{s}, #-16]",
                    // A difference beyond 16 bits saturates: 128 octaves down the value is 0.
                    "vqsub.s32 q0, q0, {max}",
                    "vqsub.s32 q1, q1, {max}",
                    "vqmovnb.s32 q2, q0",
                    "vqmovnt.s32 q2, q1",
                    "vshr.s16 q0, q2, #8",
                    "vbic.i16 q2, #0xff00",
                    "vldrh.u16 q1, [{table}, q2, uxtw #1]",
                    "vshl.u16 q1, q1, q0",
                    $round8,
                    // Even lanes are the first four scores.
                    concat!($store, " q1, [r1], #", $size, "*8"),
                    "vaddva.u16 r0, q1",
                    "vshr.u32 q1, q1, #16",
                    concat!($store, " q1, [r1, #-", $size, "*4]"),
                    "le lr, 2b",
                    "3:",
                    "wlstp.32 lr, {rest}, 5f",
                    "4:",
                    "vldrw.32 q0, [{s}], #16",
                    "vqsub.s32 q0, q0, {max}",
                    "vqmovnb.s32 q0, q0",
                    "vmovlb.s16 q0, q0",
                    "vshr.s32 q1, q0, #8",
                    "vmovlb.u8 q0, q0",
                    "vmovlb.u16 q0, q0",
                    "vldrh.u32 q2, [{table}, q0, uxtw #1]",
                    "vshl.u32 q2, q2, q1",
                    $round4,
                    concat!($store, " q2, [r1], #", $size, "*4"),
                    "vaddva.u32 r0, q2",
                    "letp lr, 4b",
                    "5:",
                    max = in(reg) max, octets = in(reg) len / OCTET, rest = in(reg) len % OCTET,
                    s = inout(reg) scores.as_ptr() => _, table = in(reg) STEPS.as_ptr(),
                    inout("r0") 0u32 => sum, inout("r1") out.as_mut_ptr() => _, out("lr") _,
                    out("d0") _, out("d1") _, out("d2") _, out("d3") _, out("d4") _, out("d5") _, options(nostack)
                );
            }
            sum
        }
    };
}

exponentials! {
    /// 8-bit exponentials.
    exp_u8, u8, "vrshr.u16 q1, q1, #7", "vrshr.u32 q2, q2, #7", "vstrb.32", "1"
}
exponentials! {
    /// 16-bit exponentials.
    exp_u16, u16, "", "", "vstrh.32", "2"
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
