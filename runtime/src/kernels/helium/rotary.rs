//! Rotations of 16-bit heads in halves, four pairs at a time.
//!
//! # Register plan
//! `q0 q1` elements of the pairs, `q2 q3` cosines and sines, `q4` their offsets, `q5 q6` sums, `q7` multiplier; `r0 r1` elements,
//! `r2 r12` cosines and sines, `r3 r4` outputs, `r5` pairs, `r6` bytes of four angles, `r7` shift, `lr` loop counter.
//!
//! # Instructions
//! Four pairs: 24.

use super::quad::core;
use crate::kernels::{NormRow, RotaryJob, portable};
use core::arch::naked_asm;

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
    /// Pairs, at least one.
    pairs: usize,
    /// Of the shifted sums.
    multiplier: i32,
    /// Left shift of the sums.
    acc_shift: u32,
}

/// The pairs of a head, all of them turned: `a` with `b`.
///
/// # Safety
/// The addresses of the frame are valid for `pairs` elements and angles.
#[unsafe(naked)]
unsafe extern "C" fn halves(frame: *const Head) {
    naked_asm!(
        core!(),
        "push {{r4-r7, lr}}",
        "vpush {{d8-d15}}",
        "ldmia r0, {{r0-r7}}",
        "add r12, r2, #2",
        "vdup.32 q7, r6",
        "movs r6, #0",
        "vidup.u32 q4, r6, #4",
        "dlstp.32 lr, r5",
        "2:",
        "vldrh.s32 q0, [r0], #8",
        "vldrh.s32 q1, [r1], #8",
        "vldrh.s32 q2, [r2, q4]",
        "vldrh.s32 q3, [r12, q4]",
        // Products of 16-bit elements fill 32 bits: the angles count half.
        "vshr.s32 q2, q2, #1",
        "vshr.s32 q3, q3, #1",
        "vmul.i32 q5, q0, q2",
        "vmul.i32 q6, q1, q3",
        "vsub.i32 q5, q5, q6",
        "vmul.i32 q6, q1, q2",
        "vmul.i32 q0, q0, q3",
        "vadd.i32 q6, q6, q0",
        "vshl.s32 q5, r7",
        "vshl.s32 q6, r7",
        "vrmulh.s32 q5, q5, q7",
        "vrmulh.s32 q6, q6, q7",
        "vqmovnb.s32 q5, q5",
        "vqmovnb.s32 q6, q6",
        "vqmovnb.s16 q5, q5",
        "vqmovnb.s16 q6, q6",
        "vstrb.32 q5, [r3], #4",
        "vstrb.32 q6, [r4], #4",
        // `vidup` has left the bytes of four angles there.
        "vadd.i32 q4, q4, r6",
        "letp lr, 2b",
        "vpop {{d8-d15}}",
        "pop {{r4-r7, pc}}",
    )
}

/// [`crate::kernels::Kernels::rotate`].
pub fn rotate(job: &RotaryJob, x: NormRow<'_>, angles: &[i16], out: &mut [i8]) {
    let half = job.head_dim / 2;
    let halves_of = job.rotary == 2 * half && job.rotary == job.head_dim && half > 0 && !job.interleaved;
    let x = match x {
        NormRow::I16(x) if halves_of && angles.len() >= job.rotary => x,
        x => return portable::rotate(job, x, angles, out),
    };
    let head_dim = job.head_dim.max(1);
    for (x, out) in x.chunks_exact(head_dim).zip(out.chunks_exact_mut(head_dim)) {
        let Some((out_a, out_b)) = out.split_at_mut_checked(half) else { return };
        let a = x.as_ptr().expose_provenance();
        let frame = Head {
            a,
            b: a + half * size_of::<i16>(),
            angles: angles.as_ptr().expose_provenance(),
            out_a: out_a.as_mut_ptr().expose_provenance(),
            out_b: out_b.as_mut_ptr().expose_provenance(),
            pairs: half,
            multiplier: job.scale.multiplier,
            acc_shift: job.scale.acc_shift,
        };
        // SAFETY: both halves of the head have `half` elements, and there are as many angles, compared above.
        unsafe { halves(&frame) };
    }
}
