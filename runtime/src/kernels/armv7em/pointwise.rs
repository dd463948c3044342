//! Products and rotations, element by element.
//!
//! # Register plan
//! Products: `r0 r1` two elements of each row, `r2 r3` products, `r4 r5` rows, `r6` output, `r7` end of the first row, `r8`
//! multiplier, `r9` zero point, `r10` shift. Rotations: `r0 r1` elements of the pairs, `r2` angles, `r3 r4` outputs, `r5` end,
//! `r6` multiplier, `r7` shift, `r8` zero, `r9` pair, `r10` sum, `r12` cosine and sine.
//!
//! # Instructions
//! Two products to 8 bits: 12 (two `LDR`, `SMULBB`, `SMULTT`, two shifts, `SMMLAR` twice, `SSAT` twice, `STRB` twice, `CMP`, `BNE`
//! for two). A pair 17 (three loads, `SHADD16`, `PKHBT`, `SMUSD` and `SMUADX`, each with shift, `SMMULR`, `SSAT` and store, two for
//! the branch).

use crate::kernels::{NormOut, NormRow, RotaryJob, ScoreScale, portable};
use core::arch::naked_asm;

/// What [`products`] works on.
#[repr(C)]
struct Frame {
    /// First row.
    a: usize,
    /// Second row.
    b: usize,
    /// Output.
    out: usize,
    /// End of the first row, whole words and at least one.
    end: usize,
    /// Of the shifted products.
    multiplier: i32,
    /// Added.
    zero_point: i32,
    /// Left shift of the products.
    acc_shift: u32,
}

/// Products of 16-bit elements, two at a time, as bytes.
///
/// # Safety
/// The addresses of the frame are valid up to `end`, as many elements of all rows.
#[unsafe(naked)]
unsafe extern "C" fn products(frame: *const Frame) {
    naked_asm!(
        core!(),
        "push {{r4-r10, lr}}",
        "ldmia r0, {{r4-r10}}",
        "2:",
        "ldr r0, [r4], #4",
        "ldr r1, [r5], #4",
        "smulbb r2, r0, r1",
        "smultt r3, r0, r1",
        "lsl r2, r2, r10",
        "lsl r3, r3, r10",
        "smmlar r2, r2, r8, r9",
        "smmlar r3, r3, r8, r9",
        "ssat r2, #8, r2",
        "ssat r3, #8, r3",
        "strb r2, [r6], #1",
        "strb r3, [r6], #1",
        "cmp r4, r7",
        "bne 2b",
        "pop {{r4-r10, pc}}",
    )
}

/// [`crate::kernels::Kernels::multiply`].
pub fn multiply(a: NormRow<'_>, b: NormRow<'_>, out: NormOut<'_>, zeros: [i32; 3], scale: ScoreScale) {
    let (x, y, out, zero_point) = match (a, b, out, zeros) {
        (NormRow::I16(a), NormRow::I16(b), NormOut::I8(out), [0, 0, zero_point]) => (a, b, out, zero_point),
        (a, b, out, zeros) => return portable::multiply(a, b, out, zeros, scale),
    };
    let len = x.len().min(y.len()).min(out.len());
    let pairs = len & !1;
    let (Some((body, tail)), Some((x, x_tail)), Some((y, y_tail))) =
        (out.split_at_mut_checked(pairs), x.split_at_checked(pairs), y.split_at_checked(pairs))
    else {
        return;
    };
    if !body.is_empty() {
        let ends = x.as_ptr_range();
        let frame = Frame {
            a: ends.start.expose_provenance(),
            b: y.as_ptr().expose_provenance(),
            out: body.as_mut_ptr().expose_provenance(),
            end: ends.end.expose_provenance(),
            multiplier: scale.multiplier,
            zero_point,
            acc_shift: scale.acc_shift,
        };
        // SAFETY: the three slices have as many elements, an even number.
        unsafe { products(&frame) };
    }
    portable::multiply(NormRow::I16(x_tail), NormRow::I16(y_tail), NormOut::I8(tail), zeros, scale);
}

/// What [`halves`] works on.
#[repr(C)]
struct Head {
    /// First elements of the pairs.
    a: usize,
    /// Second elements.
    b: usize,
    /// Cosines and sines.
    angles: usize,
    /// Where the first elements go.
    out_a: usize,
    /// Where the second elements go.
    out_b: usize,
    /// End of the first elements, at least one.
    end: usize,
    /// Of the shifted sums.
    multiplier: i32,
    /// Left shift of the sums.
    acc_shift: u32,
}

/// The pairs of a head of 16-bit elements, all of them turned: `a` with `b`.
///
/// # Safety
/// The addresses of the frame are valid for as many elements and angles as `end` says.
#[unsafe(naked)]
unsafe extern "C" fn halves(frame: *const Head) {
    naked_asm!(
        core!(),
        "push {{r4-r10, lr}}",
        "ldmia r0, {{r0-r7}}",
        "mov r8, #0",
        "2:",
        "ldrsh r9, [r0], #2",
        "ldrsh r10, [r1], #2",
        "ldr r12, [r2], #4",
        // Products of 16-bit elements fill 32 bits: the angles count half.
        "shadd16 r12, r12, r8",
        "pkhbt r9, r9, r10, lsl #16",
        "smusd r10, r9, r12",
        "smuadx r9, r9, r12",
        "lsl r10, r10, r7",
        "lsl r9, r9, r7",
        "smmulr r10, r10, r6",
        "smmulr r9, r9, r6",
        "ssat r10, #8, r10",
        "ssat r9, #8, r9",
        "strb r10, [r3], #1",
        "strb r9, [r4], #1",
        "cmp r0, r5",
        "bne 2b",
        "pop {{r4-r10, pc}}",
    )
}

/// [`crate::kernels::Kernels::rotate`].
pub fn rotate(job: &RotaryJob, x: NormRow<'_>, angles: &[i16], out: &mut [i8]) {
    let half = job.head_dim / 2;
    let x = match x {
        NormRow::I16(x) if job.rotary == 2 * half && job.rotary == job.head_dim && half > 0 && !job.interleaved => x,
        x => return portable::rotate(job, x, angles, out),
    };
    if angles.len() < job.rotary {
        return portable::rotate(job, NormRow::I16(x), angles, out);
    }
    let head_dim = job.head_dim.max(1);
    for (x, out) in x.chunks_exact(head_dim).zip(out.chunks_exact_mut(head_dim)) {
        let Some((out_a, out_b)) = out.split_at_mut_checked(half) else { return };
        let a = x.as_ptr().expose_provenance();
        let end = a + half * size_of::<i16>();
        let frame = Head {
            a,
            b: end,
            angles: angles.as_ptr().expose_provenance(),
            out_a: out_a.as_mut_ptr().expose_provenance(),
            out_b: out_b.as_mut_ptr().expose_provenance(),
            end,
            multiplier: job.scale.multiplier,
            acc_shift: job.scale.acc_shift,
        };
        // SAFETY: both halves of the head have `half` elements, and there are as many angles, compared above.
        unsafe { halves(&frame) };
    }
}
