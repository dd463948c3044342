//! Dot products of activations with activations, row by row by [`super::quad`].

use super::dense::reach;
use super::{quad, scores, softmax};
use crate::kernels::{DotJob, ScoreScale, portable};

/// Rows of `y` that one call of a routine takes at a time.
const QUAD: usize = 4;
/// Columns that share one buffer of starting values.
const CHUNK: usize = 32;

type Routine = unsafe extern "C" fn(*const quad::Rows);

/// What can be multiplied with rows of bytes.
pub trait Lane: Copy + Into<i32> {
    /// The routine.
    const ROUTINE: Routine;
    /// Whether the routine works with activations less 128.
    const SIGN_FLIPPED: bool;
}

impl Lane for i8 {
    const ROUTINE: Routine = quad::rows_i8;
    const SIGN_FLIPPED: bool = false;
}

impl Lane for u8 {
    const ROUTINE: Routine = quad::rows_u8;
    const SIGN_FLIPPED: bool = true;
}

impl Lane for u16 {
    const ROUTINE: Routine = quad::rows_i16;
    const SIGN_FLIPPED: bool = false;
}

/// [`crate::kernels::Kernels::scores`].
pub fn scores(job: &DotJob, scale: ScoreScale, x: &[i8], y: &[i8], out: &mut [i32]) {
    if fits(job, x, y, out) && scores::scores(job, scale, x, y, out) {
        return;
    }
    dot(job, x, y, out);
    for row in out.chunks_mut(job.out_stride.max(1)).take(job.rows) {
        softmax::scale_scores(row.get_mut(..job.cols).unwrap_or(&mut []), scale);
    }
}

/// Whether the slices hold all that the job names.
fn fits<X>(job: &DotJob, x: &[X], y: &[i8], out: &[i32]) -> bool {
    let long_enough = |len: usize, rows: usize, stride: usize, width: usize| {
        reach(rows, stride, width).is_some_and(|reach| len >= reach)
    };
    job.k > 0
        && long_enough(x.len(), job.rows, job.x_stride, job.k)
        && long_enough(y.len(), job.cols, job.y_stride, job.k)
        && long_enough(out.len(), job.rows, job.out_stride, job.cols)
}

/// [`crate::kernels::Kernels::dot_i8`] and its siblings.
pub fn dot<X: Lane>(job: &DotJob, x: &[X], y: &[i8], out: &mut [i32]) {
    if !fits(job, x, y, out) {
        return portable::dot(job, x, y, out);
    }
    for first in (0..job.cols).step_by(CHUNK) {
        let count = (job.cols - first).min(CHUNK);
        let y = y.get(first * job.y_stride..).unwrap_or(&[]);
        let out = out.get_mut(first..).unwrap_or(&mut []);
        let mut start = [0i32; CHUNK];
        if X::SIGN_FLIPPED {
            // x = (x - 128) + 128: the routine computes with the first part, sums start from the second.
            let mut sums = [0i32; CHUNK];
            let job = DotJob { rows: 1, ..*job };
            columns(&job, quad::rows_minus_128, x, y, &start, &mut sums, count);
            start.iter_mut().zip(sums).for_each(|(start, sum)| *start = -sum);
        }
        columns(job, X::ROUTINE, x, y, &start, out, count);
    }
}

/// All rows of `x` with `count` rows of `y`.
fn columns<X: Lane>(
    job: &DotJob,
    routine: Routine,
    x: &[X],
    y: &[i8],
    start: &[i32; CHUNK],
    out: &mut [i32],
    count: usize,
) {
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
        unsafe { routine(&quad::Rows { quads: whole, ..frame(0, job.rows, out) }) };
    }
    if count.is_multiple_of(QUAD) {
        return;
    }
    if let (Some(last), true) = (count.checked_sub(QUAD), whole > 0) {
        // SAFETY: the last four columns once more: the same sums where they overlap.
        unsafe { routine(&frame(last, job.rows, out.get_mut(last..).unwrap_or(&mut []))) };
        return;
    }
    for (row, out) in out.chunks_mut(job.out_stride.max(1)).take(job.rows).enumerate() {
        for (column, out) in out.iter_mut().take(count).enumerate() {
            let mut same = [0i32; QUAD];
            let first = frame(column, 1, &mut same);
            let x = first.x + row * first.x_stride;
            // SAFETY: stride 0: four times the same row of `y`, the first of which has this column's start.
            unsafe { routine(&quad::Rows { x, y_stride: 0, ..first }) };
            *out = same[0];
        }
    }
}
