//! Dot products of activations with activations, row by row by [`super::quad`].

use super::dense::reach;
use super::quad;
use crate::kernels::{DotJob, portable};
use core::arch::asm;

/// Rows of `y` that one call of a routine takes at a time.
const QUAD: usize = 4;
/// Columns that share one buffer of starting values.
const CHUNK: usize = 64;

type Routine = unsafe extern "C" fn(*const quad::Rows);

/// What can be multiplied with rows of bytes.
pub trait Lane: Copy + Into<i32> {
    /// The routine.
    const ROUTINE: Routine;
    /// What the routine subtracts from every activation.
    const OFFSET: i32;
}

impl Lane for i8 {
    const ROUTINE: Routine = quad::rows_i8;
    const OFFSET: i32 = 0;
}

impl Lane for u8 {
    const ROUTINE: Routine = quad::rows_u8;
    const OFFSET: i32 = 128;
}

impl Lane for u16 {
    const ROUTINE: Routine = quad::rows_i16;
    const OFFSET: i32 = 0;
}

/// [`crate::kernels::Kernels::dot_i8`] and its siblings.
pub fn dot<X: Lane>(job: &DotJob, x: &[X], y: &[i8], out: &mut [i32]) {
    let long_enough = |len: usize, rows: usize, stride: usize, width: usize| {
        reach(rows, stride, width).is_some_and(|reach| len >= reach)
    };
    let fits = job.k > 0
        && long_enough(x.len(), job.rows, job.x_stride, job.k)
        && long_enough(y.len(), job.cols, job.y_stride, job.k)
        && long_enough(out.len(), job.rows, job.out_stride, job.cols);
    if !fits {
        return portable::dot(job, x, y, out);
    }
    for first in (0..job.cols).step_by(CHUNK) {
        let count = (job.cols - first).min(CHUNK);
        let mut start = [0i32; CHUNK];
        let y = y.get(first * job.y_stride..).unwrap_or(&[]);
        if X::OFFSET != 0 {
            for (start, y) in start.iter_mut().zip(y.chunks(job.y_stride.max(1))).take(count) {
                *start = X::OFFSET * sum(y.get(..job.k).unwrap_or(y));
            }
        }
        columns(job, x, y, &start, out.get_mut(first..).unwrap_or(&mut []), count);
    }
}

/// All rows of `x` with `count` rows of `y`.
fn columns<X: Lane>(job: &DotJob, x: &[X], y: &[i8], start: &[i32; CHUNK], out: &mut [i32], count: usize) {
    let frame = |first: usize, rows: usize, out: &mut [i32]| quad::Rows {
        x: x.as_ptr().expose_provenance(),
        y: y.as_ptr().expose_provenance() + first * job.y_stride,
        k: job.k,
        x_stride: job.x_stride * size_of::<X>(),
        out: out.as_mut_ptr().expose_provenance(),
        out_stride: job.out_stride * size_of::<i32>(),
        rows,
        start: start.as_ptr().expose_provenance() + first * size_of::<i32>(),
        quads: 1,
        y_stride: job.y_stride,
    };
    let whole = count / QUAD;
    if whole > 0 {
        // SAFETY: `dot` compared the slices with the job, of which these are `4 * whole <= count` columns.
        unsafe { X::ROUTINE(&quad::Rows { quads: whole, ..frame(0, job.rows, out) }) };
    }
    if count.is_multiple_of(QUAD) {
        return;
    }
    if let (Some(last), true) = (count.checked_sub(QUAD), whole > 0) {
        // SAFETY: the last four columns once more: the same sums where they overlap.
        unsafe { X::ROUTINE(&frame(last, job.rows, out.get_mut(last..).unwrap_or(&mut []))) };
        return;
    }
    for (row, out) in out.chunks_mut(job.out_stride.max(1)).take(job.rows).enumerate() {
        for (column, out) in out.iter_mut().take(count).enumerate() {
            let mut same = [0i32; QUAD];
            let first = frame(column, 1, &mut same);
            let x = first.x + row * first.x_stride;
            // SAFETY: stride 0: four times the same row of `y`, the first of which has this column's start.
            unsafe { X::ROUTINE(&quad::Rows { x, y_stride: 0, ..first }) };
            *out = same[0];
        }
    }
}

/// Sum of a row of bytes.
fn sum(y: &[i8]) -> i32 {
    let sum;
    // SAFETY: the predicated loop reads `y.len()` bytes.
    unsafe {
        asm!(
            "dlstp.8 lr, {len}",
            "2:",
            "vldrb.8 q0, [{y}], #16",
            "vaddva.s8 r0, q0",
            "letp lr, 2b",
            len = in(reg) y.len(), y = inout(reg) y.as_ptr() => _, inout("r0") 0 => sum,
            out("lr") _, out("d0") _, out("d1") _, options(nostack, readonly)
        );
    }
    sum
}
