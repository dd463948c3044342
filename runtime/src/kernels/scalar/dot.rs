//! Dot products of activations with activations, four rows at a time by [`Block::rows`].

use super::dense::{interleave, reach};
use super::{Block, Frame, ROWS};
use crate::kernels::{DotJob, PANEL, linear_scratch_bytes, portable};

/// K values of one turn of [`Block::rows`].
const STEP: usize = 4;

/// [`crate::kernels::Kernels::dot_i8`] and its siblings.
pub fn dot<B: Block, X: Copy + Into<i32>>(job: &DotJob, x: &[X], y: &[i8], out: &mut [i32], scratch: &mut [u8]) {
    if blocks::<B, X>(job, x, y, out, scratch).is_none() {
        portable::dot(job, x, y, out, scratch);
    }
}

/// `None`, with nothing written, when the slices do not fit the job, or the last row of `y` ends within a step.
#[inline(never)]
fn blocks<B: Block, X: Copy + Into<i32>>(
    job: &DotJob,
    x: &[X],
    y: &[i8],
    out: &mut [i32],
    scratch: &mut [u8],
) -> Option<()> {
    let wide: &mut [i16] = bytemuck::try_cast_slice_mut(scratch.get_mut(..linear_scratch_bytes(job.k))?).ok()?;
    let read = job.k.checked_next_multiple_of(STEP)?;
    let wide = wide.as_chunks_mut::<ROWS>().0.get_mut(..read)?;
    let fits = job.k > 0
        && job.cols > 0
        && x.len() >= reach(job.rows, job.x_stride, job.k)?
        && y.len() >= reach(job.cols, job.y_stride, read)?
        && out.len() >= reach(job.rows, job.out_stride, job.cols)?;
    if !fits {
        return None;
    }
    let start = wide.as_ptr().expose_provenance();
    for first in (0..job.rows).step_by(ROWS) {
        interleave(x, first, job.rows, job.x_stride, job.k, wide);
        for column in (0..job.cols).step_by(B::CHANNELS) {
            let mut sums = [[0; PANEL]; ROWS];
            // Columns beyond the last repeat it.
            let row = |index: usize| (column + index).min(job.cols - 1) * job.y_stride;
            let address = y.as_ptr().expose_provenance();
            let frame = Frame {
                sums: sums.as_mut_ptr().expose_provenance(),
                x: start,
                x_end: start + size_of_val(wide),
                weights: core::array::from_fn(|index| address + row(index)),
            };
            // SAFETY: `y` has `cols` rows of `read` bytes, found above; `wide` holds `read` steps, the sums a panel.
            unsafe { B::rows(&frame) };
            store(job, first, column, B::CHANNELS, &sums, out);
        }
    }
    Some(())
}

/// Sums of a block of rows by `count` columns from `column` on, as far as there are rows and columns.
#[inline(always)]
fn store(job: &DotJob, first: usize, column: usize, count: usize, sums: &[[i32; PANEL]; ROWS], out: &mut [i32]) {
    let count = count.min(job.cols - column);
    let mut start = first * job.out_stride + column;
    for sums in sums.iter().take(job.rows - first) {
        let out = out.get_mut(start..).and_then(|out| out.get_mut(..count)).unwrap_or(&mut []);
        for (out, &sum) in out.iter_mut().zip(sums) {
            *out = sum;
        }
        start += job.out_stride;
    }
}
