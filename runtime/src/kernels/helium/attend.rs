//! Attention of one token over its cache: values eight positions and four columns at a time.
//!
//! The values of eight positions in one column are gathered from where they were appended, so that `VMLADAVA` weights all
//! of them.
//!
//! # Register plan
//! `q0` exponentials, `q1` values, `q2` offsets of the first positions, `q3` offsets; `r0 r2 r4 r6` sums, `r1` exponentials,
//! `r3 r8 r10 r12` columns, `r5` bytes between eight positions, `r7` positions, `r9` output, `r11` groups of columns, `lr`
//! loop counter; start of the exponentials at `sp`.
//!
//! # Instructions
//! Eight positions of four columns: 11 (a load, four to gather, four products, `VADD`, `LETP`).

use super::quad::core;
use super::softmax::{exp_row, scale_row};
use super::{Helium, dot};
use crate::arith::exp::RowScale;
use crate::kernels::{AttentionJob, DotJob, ExpRow, portable};
use core::arch::naked_asm;

/// Columns that are summed at a time.
const COLUMNS: usize = 4;

/// What a routine works on.
#[repr(C)]
struct Values {
    /// First exponential.
    exps: usize,
    /// First value of the first column.
    values: usize,
    /// Bytes between positions.
    stride: usize,
    /// Positions.
    len: usize,
    /// First sum.
    out: usize,
    /// Groups of four columns, at least one.
    groups: usize,
}

macro_rules! values {
    ($(#[$meta:meta])* $name:ident, $load:literal) => {
        $(#[$meta])*
        ///
        /// # Safety
        /// The addresses of the frame are valid for `len` exponentials, `len` values of every column, and the sums;
        /// offsets of values fit 16 bits.
        #[unsafe(naked)]
        unsafe extern "C" fn $name(frame: *const Values) {
            naked_asm!(
                core!(),
                "push {{r4-r11, lr}}",
                "ldmia r0, {{r1, r3, r5, r7, r9, r11}}",
                "str r1, [sp, #-4]!",
                "movs r0, #0",
                "vidup.u16 q2, r0, #1",
                "vmul.i16 q2, q2, r5",
                "lsl r5, r5, #3",
                "2:",
                "ldr r1, [sp]",
                "vmov q3, q2",
                "add r8, r3, #1",
                "add r10, r3, #2",
                "add r12, r3, #3",
                "movs r0, #0",
                "movs r2, #0",
                "movs r4, #0",
                "movs r6, #0",
                "dlstp.16 lr, r7",
                "3:",
                $load,
                "vldrb.s16 q1, [r3, q3]",
                "vmladava.s16 r0, q0, q1",
                "vldrb.s16 q1, [r8, q3]",
                "vmladava.s16 r2, q0, q1",
                "vldrb.s16 q1, [r10, q3]",
                "vmladava.s16 r4, q0, q1",
                "vldrb.s16 q1, [r12, q3]",
                "vmladava.s16 r6, q0, q1",
                "vadd.i16 q3, q3, r5",
                "letp lr, 3b",
                "stmia r9!, {{r0, r2, r4, r6}}",
                "adds r3, #4",
                "subs r11, #1",
                "bne 2b",
                "add sp, #4",
                "pop {{r4-r11, pc}}",
            )
        }
    };
}

values! {
    /// Values weighted by bytes.
    values_u8, "vldrb.u16 q0, [r1], #8"
}
values! {
    /// Values weighted by 16 bits, at most 2^15 - 1.
    values_u16, "vldrh.u16 q0, [r1], #16"
}

/// [`crate::kernels::Kernels::attend`].
pub fn attend(job: &AttentionJob<'_>, out: &mut [i8], scratch: &mut [u8]) {
    if rows(job, out, scratch).is_none() {
        portable::attend::<Helium>(job, out, scratch);
    }
}

/// `None`, with nothing that counts written, where the slices do not fit the job or values lie too far apart.
#[inline(never)]
fn rows(job: &AttentionJob<'_>, out: &mut [i8], scratch: &mut [u8]) -> Option<()> {
    let (scores, exps, sums) = portable::attend_areas(job, scratch)?;
    // Eight positions may be stepped beyond the last.
    let near = job.n_k.checked_add(COLUMNS * 2)?.checked_mul(job.v_stride)? <= usize::from(u16::MAX);
    if !job.fits(out.len()) || !near || job.n_k == 0 || job.v_dim == 0 || !job.v_dim.is_multiple_of(COLUMNS) {
        return None;
    }
    let (n_k, k) = (job.n_k, job.head_dim);
    let dots = DotJob { rows: 1, cols: n_k, k, x_stride: k, y_stride: job.k_stride, out_stride: n_k };
    for row in 0..job.rows {
        dot::scores(&dots, job.scale, job.q.get(row * job.q_stride..)?, job.k, scores, sums);
        let acc: &mut [i32] = bytemuck::try_cast_slice_mut(sums).ok()?.get_mut(..job.v_dim)?;
        let mut frame = Values {
            exps: 0,
            values: job.v.as_ptr().expose_provenance(),
            stride: job.v_stride,
            len: n_k,
            out: acc.as_mut_ptr().expose_provenance(),
            groups: acc.len() / COLUMNS,
        };
        let sum = if job.wide_exp {
            let exps = bytemuck::try_cast_slice_mut(exps).ok()?.get_mut(..n_k)?;
            let sum = exp_row(scores, ExpRow::U16(&mut *exps));
            frame.exps = exps.as_ptr().expose_provenance();
            // SAFETY: values and sums were compared with the job above, `exps` has one for every position.
            unsafe { values_u16(&frame) };
            sum
        } else {
            let exps = exps.get_mut(..n_k)?;
            let sum = exp_row(scores, ExpRow::U8(&mut *exps));
            frame.exps = exps.as_ptr().expose_provenance();
            // SAFETY: as above.
            unsafe { values_u8(&frame) };
            sum
        };
        let out = out.get_mut(row * job.out_stride..)?.get_mut(..job.v_dim)?;
        scale_row(acc, RowScale::new(sum, job.ratio_m, job.ratio_shift), job.zero_point, out);
    }
    Some(())
}
