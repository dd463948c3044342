//! Scores of heads that are sixteen wide or less: a query is one register, a key is one load.
//!
//! # Register plan
//! `q0` query, `q1-q4` four keys, `q5` sums, `q6` multiplier; `r0 r2 r4 r6` sums, `r1` query pointer, `r3` key pointer,
//! `r5` key stride, `r7` shift, `r8` query stride, `r9` output pointer, `r10` stride of the output, `r11` groups of four
//! keys left, `lr` rows.
//!
//! # Instructions
//! Four scores of a query: 13 (`VLDRB`, `VMLADAV` 4, `VMOV` 2, `VSHL`, `VRMULH`, `VSTRW`, two pointers, `LE`); 16 for
//! every four keys.

use super::quad::core;
use crate::kernels::{DotJob, ScoreScale};
use core::arch::naked_asm;

/// Bytes of a vector register: the widest head this file is for.
pub const WIDTH: usize = 16;
/// Keys taken at a time.
const QUAD: usize = 4;

#[repr(C)]
struct Frame {
    /// First query.
    x: usize,
    /// Queries.
    rows: usize,
    /// First score of the first query.
    out: usize,
    /// First key.
    y: usize,
    /// Bytes between keys.
    y_stride: usize,
    /// Left shift of the sums.
    acc_shift: u32,
    /// Bytes between queries.
    x_stride: usize,
    /// Bytes between rows of scores.
    out_stride: usize,
    /// Groups of four keys.
    quads: usize,
    /// Of the shifted sums.
    multiplier: i32,
}

/// Scores of all rows with `4 * quads` keys.
///
/// # Safety
/// Sixteen bytes are readable at every query and key, and room is at `out` for all rows.
#[unsafe(naked)]
unsafe extern "C" fn quads(frame: *const Frame) {
    naked_asm!(
        core!(),
        "push {{r4-r11, lr}}",
        "vpush {{d8-d13}}",
        "sub sp, #12",
        "ldmia r0!, {{r1, r2, r9}}",
        "stm sp, {{r1, r2, r9}}",
        "ldmia r0, {{r3, r5, r7, r8, r10, r11, r12}}",
        "vdup.32 q6, r12",
        "2:",
        "vldrb.8 q1, [r3]",
        "add r3, r5",
        "vldrb.8 q2, [r3]",
        "add r3, r5",
        "vldrb.8 q3, [r3]",
        "add r3, r5",
        "vldrb.8 q4, [r3]",
        "add r3, r5",
        "ldm sp, {{r1, r2, r9}}",
        "add r4, r9, #16",
        "str r4, [sp, #8]",
        "dls lr, r2",
        "3:",
        "vldrb.8 q0, [r1]",
        "add r1, r8",
        "vmladav.s8 r0, q0, q1",
        "vmladav.s8 r2, q0, q2",
        "vmladav.s8 r4, q0, q3",
        "vmladav.s8 r6, q0, q4",
        "vmov q5[2], q5[0], r0, r4",
        "vmov q5[3], q5[1], r2, r6",
        "vshl.s32 q5, r7",
        "vrmulh.s32 q5, q5, q6",
        "vstrw.32 q5, [r9]",
        "add r9, r10",
        "le lr, 3b",
        "subs r11, #1",
        "bne 2b",
        "add sp, #12",
        "vpop {{d8-d13}}",
        "pop {{r4-r11, pc}}",
    )
}

/// Scores of a job that fits its slices; `false`, with nothing written, where the head is wider or keys cannot be read
/// as whole registers.
pub fn scores(job: &DotJob, scale: ScoreScale, x: &[i8], y: &[i8], out: &mut [i32]) -> bool {
    if job.k > WIDTH || job.cols < QUAD || job.rows == 0 {
        return false;
    }
    let Some(last_key) = (job.cols - 1).checked_mul(job.y_stride) else { return false };
    if y.len() < last_key + WIDTH {
        return false;
    }
    let run = |x: &[i8], x_stride: usize, rows: usize, first: usize, count: usize, out: &mut [i32]| {
        let frame = Frame {
            x: x.as_ptr().expose_provenance(),
            rows,
            out: out.as_mut_ptr().expose_provenance() + first * size_of::<i32>(),
            y: y.as_ptr().expose_provenance() + first * job.y_stride,
            y_stride: job.y_stride,
            acc_shift: scale.acc_shift,
            x_stride,
            out_stride: job.out_stride * size_of::<i32>(),
            quads: count,
            multiplier: scale.multiplier,
        };
        // SAFETY: the caller compared the slices with the job; keys are readable as whole registers, found above, and
        // queries too: in place, or as a copy.
        unsafe { quads(&frame) };
    };
    let all = |x: &[i8], x_stride: usize, rows: usize, out: &mut [i32]| {
        run(x, x_stride, rows, 0, job.cols / QUAD, out);
        if !job.cols.is_multiple_of(QUAD) {
            // The last four keys once more: the same scores where they overlap.
            run(x, x_stride, rows, job.cols - QUAD, 1, out);
        }
    };
    if job.k == WIDTH {
        all(x, job.x_stride, job.rows, out);
        return true;
    }
    // A narrower query is padded with zeros, which switch off what is read beyond the keys.
    for (x, out) in x.chunks(job.x_stride.max(1)).zip(out.chunks_mut(job.out_stride.max(1))).take(job.rows) {
        let mut padded = [0i8; WIDTH];
        padded.iter_mut().zip(x.get(..job.k).unwrap_or(x)).for_each(|(to, &from)| *to = from);
        all(&padded, WIDTH, 1, out);
    }
    true
}
