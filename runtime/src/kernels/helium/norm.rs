//! Normalization of one row, the residual addition, products.
//!
//! # Instructions
//! Statistics of eight 16-bit elements: 4. Four values: 13 (`VLDRH`, `VMUL`, `VADD`, `VSHL`, `VRMULH` twice, two loads,
//! `VADD`, `VSHR`, narrowing, store, `LETP`). Four additions: 9.

use crate::arith::norm::{Affine, FRACTION_I8, FRACTION_I16, RowNorm};
use crate::kernels::{NormJob, NormOut, NormRow, ScoreScale, portable};
use core::arch::asm;

/// [`crate::kernels::Kernels::norm_row`].
pub fn norm_row(job: &NormJob<'_>, x: NormRow<'_>, out: NormOut<'_>) {
    const { assert!(FRACTION_I8 == 8 && FRACTION_I16 == 4) };
    match (x, out) {
        (NormRow::I8(x), NormOut::I8(out)) => i8_to_i8(job, row_i8(job, x), x, out),
        (NormRow::I8(x), NormOut::I16(out)) => i8_to_i16(job, row_i8(job, x), x, out),
        (NormRow::I16(x), NormOut::I8(out)) => i16_to_i8(job, row_i16(job, x), x, out),
        (NormRow::I16(x), NormOut::I16(out)) => i16_to_i16(job, row_i16(job, x), x, out),
    }
}

macro_rules! statistics {
    ($name:ident, $ty:ty, $load:literal) => {
        fn $name(job: &NormJob<'_>, x: &[$ty]) -> Affine {
            let (sum, low, high): (i32, u32, u32);
            // SAFETY: the predicated loop reads `x.len()` elements.
            unsafe {
                asm!(
                    "wlstp.16 lr, {len}, 3f",
                    "2:",
                    $load,
                    "vaddva.s16 r0, q0",
                    "vmlaldava.s16 r2, r3, q0, q0",
                    "letp lr, 2b",
                    "3:",
                    len = in(reg) x.len(),
                    inout("r0") 0 => sum, inout("r2") 0 => low, inout("r3") 0 => high,
                    inout("r4") x.as_ptr() => _, out("lr") _, out("d0") _, out("d1") _, options(nostack, readonly)
                );
            }
            let squares = u64::from(low) | u64::from(high) << 32;
            RowNorm::from_sums(sum, squares, x.len() as u32, job.rms, job.eps).affine()
        }
    };
}

statistics!(row_i8, i8, "vldrb.s16 q0, [r4], #8");
statistics!(row_i16, i16, "vldrh.16 q0, [r4], #16");

macro_rules! values {
    ($name:ident, $x:ty, $y:ty, $load:literal, $($store:literal),+) => {
        fn $name(job: &NormJob<'_>, row: Affine, x: &[$x], out: &mut [$y]) {
            let len = x.len().min(out.len()).min(job.gamma.len()).min(job.beta.len());
            if len == 0 {
                return;
            }
            // SAFETY: the predicated loop reads and writes `len` elements of each slice.
            unsafe {
                asm!(
                    "vdup.32 q2, {rsqrt}",
                    "dlstp.32 lr, {len}",
                    "2:",
                    $load,
                    "vmul.i32 q0, q0, {factor}",
                    "vadd.i32 q0, q0, {offset}",
                    "vshl.s32 q0, {right}",
                    "vrmulh.s32 q0, q0, q2",
                    "vldrw.32 q1, [{gamma}], #16",
                    "vrmulh.s32 q0, q0, q1",
                    "vldrw.32 q1, [{beta}], #16",
                    "vadd.i32 q0, q0, q1",
                    $($store,)+
                    "letp lr, 2b",
                    rsqrt = in(reg) row.rsqrt, len = in(reg) len, factor = in(reg) row.factor,
                    offset = in(reg) row.offset, right = in(reg) -(row.right as i32),

                    gamma = inout(reg) job.gamma.as_ptr() => _, beta = inout(reg) job.beta.as_ptr() => _,
                    inout("r4") x.as_ptr() => _, inout("r1") out.as_mut_ptr() => _, out("lr") _, out("d0") _, out("d1") _, out("d2") _, out("d3") _, out("d4") _, out("d5") _,
                    options(nostack)
                );
            }
        }
    };
}

values!(
    i8_to_i8,
    i8,
    i8,
    "vldrb.s32 q0, [r4], #4",
    "vshr.s32 q0, q0, #8",
    "vqmovnb.s32 q0, q0",
    "vqmovnb.s16 q0, q0",
    "vstrb.32 q0, [r1], #4"
);
values!(
    i16_to_i8,
    i16,
    i8,
    "vldrh.s32 q0, [r4], #8",
    "vshr.s32 q0, q0, #8",
    "vqmovnb.s32 q0, q0",
    "vqmovnb.s16 q0, q0",
    "vstrb.32 q0, [r1], #4"
);
values!(
    i8_to_i16,
    i8,
    i16,
    "vldrb.s32 q0, [r4], #4",
    "vshr.s32 q0, q0, #4",
    "vqmovnb.s32 q0, q0",
    "vstrh.32 q0, [r1], #8"
);
values!(
    i16_to_i16,
    i16,
    i16,
    "vldrh.s32 q0, [r4], #8",
    "vshr.s32 q0, q0, #4",
    "vqmovnb.s32 q0, q0",
    "vstrh.32 q0, [r1], #8"
);

/// [`crate::kernels::Kernels::add_i16_in_place`].
pub fn add_i16_in_place(out: &mut [i16], b: &[i16], ma: i32, mb: i32, bias: i32, shift: u32) {
    let len = out.len().min(b.len());
    if len == 0 {
        return;
    }
    // SAFETY: the predicated loop reads and writes `len` elements.
    unsafe {
        asm!(
            "dlstp.32 lr, {len}",
            "2:",
            "vldrh.s32 q0, [r1]",
            "vldrh.s32 q1, [r4], #8",
            "vmul.i32 q0, q0, {ma}",
            "vmla.i32 q0, q1, {mb}",
            "vadd.i32 q0, q0, {bias}",
            "vshl.s32 q0, {shift}",
            "vqmovnb.s32 q0, q0",
            "vstrh.32 q0, [r1], #8",
            "letp lr, 2b",
            len = in(reg) len, ma = in(reg) ma, mb = in(reg) mb, bias = in(reg) bias, shift = in(reg) -(shift as i32),

            inout("r1") out.as_mut_ptr() => _, inout("r4") b.as_ptr() => _, out("lr") _, out("d0") _, out("d1") _, out("d2") _, out("d3") _, options(nostack)
        );
    }
}

/// [`crate::kernels::Kernels::multiply`].
pub fn multiply(a: NormRow<'_>, b: NormRow<'_>, out: NormOut<'_>, zeros: [i32; 3], scale: ScoreScale) {
    let (a, b, out) = match (a, b, out) {
        (NormRow::I16(a), NormRow::I16(b), NormOut::I8(out)) => (a, b, out),
        (a, b, out) => return portable::multiply(a, b, out, zeros, scale),
    };
    let len = a.len().min(b.len()).min(out.len());
    if len == 0 {
        return;
    }
    let [zero_a, zero_b, zero_out] = zeros;
    // SAFETY: the predicated loop reads and writes `len` elements.
    unsafe {
        asm!(
            "vdup.32 q2, {multiplier}",
            "dlstp.32 lr, {len}",
            "2:",
            "vldrh.s32 q0, [r1], #8",
            "vldrh.s32 q1, [r4], #8",
            "vadd.i32 q0, q0, {zero_a}",
            "vadd.i32 q1, q1, {zero_b}",
            "vmul.i32 q0, q0, q1",
            "vshl.s32 q0, {shift}",
            "vrmulh.s32 q0, q0, q2",
            "vadd.i32 q0, q0, {zero_out}",
            "vqmovnb.s32 q0, q0",
            "vqmovnb.s16 q0, q0",
            "vstrb.32 q0, [r5], #4",
            "letp lr, 2b",
            multiplier = in(reg) scale.multiplier, len = in(reg) len, zero_a = in(reg) -zero_a,
            zero_b = in(reg) -zero_b, zero_out = in(reg) zero_out, shift = in(reg) scale.acc_shift,
            inout("r1") a.as_ptr() => _, inout("r4") b.as_ptr() => _, inout("r5") out.as_mut_ptr() => _, out("lr") _,
            out("d0") _, out("d1") _, out("d2") _, out("d3") _, out("d4") _, out("d5") _, options(nostack)
        );
    }
}
