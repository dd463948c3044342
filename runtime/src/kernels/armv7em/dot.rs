//! Dot products of activations with activations: blocks of five rows by [`super::block`], rows left over one by one.

use super::dense::{STEP, reach};
use super::widen::{Lane, widen_block, widen_one};
use super::{block, ins};
use crate::kernels::{DotJob, GROUP, Kernels, Portable, ROW_BLOCK, ScoreScale, linear_scratch_bytes, portable};

/// [`Kernels::dot_i8`] and its siblings; with a scale, [`Kernels::scores`].
pub fn dot<X: Lane>(job: &DotJob, scale: Option<ScoreScale>, x: &[X], y: &[i8], out: &mut [i32], scratch: &mut [u8]) {
    if blocks(job, scale, x, y, out, scratch).is_some() {
        return;
    }
    portable::dot(job, x, y, out);
    if let Some(scale) = scale {
        for row in out.chunks_mut(job.out_stride.max(1)).take(job.rows) {
            Portable::scale_scores(row.get_mut(..job.cols).unwrap_or(&mut []), scale);
        }
    }
}

/// Columns whose rows the block routine may read: it takes whole steps, at least 16 bytes.
fn readable(job: &DotJob, y_len: usize) -> usize {
    let bytes = job.k.next_multiple_of(STEP).max(GROUP);
    match y_len.checked_sub(bytes) {
        Some(room) if job.y_stride > 0 => (room / job.y_stride + 1).min(job.cols),
        _ => 0,
    }
}

/// `None`, with nothing written, when the slices do not fit the job.
fn blocks<X: Lane>(
    job: &DotJob,
    scale: Option<ScoreScale>,
    x: &[X],
    y: &[i8],
    out: &mut [i32],
    scratch: &mut [u8],
) -> Option<()> {
    let scratch: &mut [u32] = bytemuck::try_cast_slice_mut(scratch.get_mut(..linear_scratch_bytes(job.k))?).ok()?;
    let fits = job.k > 0
        && x.len() >= reach(job.rows, job.x_stride, job.k)?
        && y.len() >= reach(job.cols, job.y_stride, job.k)?
        && out.len() >= reach(job.rows, job.out_stride, job.cols)?;
    if !fits {
        return None;
    }
    let columns = readable(job, y.len());
    let full = if columns > 0 { job.rows - job.rows % ROW_BLOCK } else { 0 };
    for first in (0..full).step_by(ROW_BLOCK) {
        let x = x.get(first * job.x_stride..)?;
        let out = out.get_mut(first * job.out_stride..)?;
        widen_block(x, job.x_stride, job.k, block_steps(job), scratch);
        block(job, scale, columns, scratch, y, out);
    }
    for row in 0..job.rows {
        let first = if row < full { columns } else { 0 };
        if first < job.cols {
            let x = x.get(row * job.x_stride..)?.get(..job.k)?;
            let out = out.get_mut(row * job.out_stride..)?.get_mut(first..job.cols)?;
            single(job, scale, x, y.get(first * job.y_stride..)?, out, scratch);
        }
    }
    Some(())
}

/// Steps of the block routine.
fn block_steps(job: &DotJob) -> usize {
    job.k.div_ceil(STEP).max(GROUP / STEP)
}

/// Five rows by the first `columns` columns.
fn block(job: &DotJob, scale: Option<ScoreScale>, columns: usize, x: &[u32], y: &[i8], out: &mut [i32]) {
    let steps = block_steps(job);
    let step_bytes = 2 * ROW_BLOCK * size_of::<u32>();
    let group_steps = steps - steps % (GROUP / STEP);
    let start = x.as_ptr().expose_provenance();
    let frame = block::Frame {
        multipliers: scale.map_or(0, |scale| scale.multiplier as usize),
        out: out.as_mut_ptr().expose_provenance(),
        out_stride: job.out_stride * size_of::<i32>(),
        addend: 0,
        acc_shift: scale.map_or(0, |scale| scale.acc_shift),
        table_or_shift: 0,
        to_bias: 0,
        x: start,
        channels: -(columns as i32),
        next_channel: job.y_stride as isize - (steps * STEP) as isize,
        x_end_groups: start + group_steps * step_bytes,
        x_end: start + steps * step_bytes,
        weights: y.as_ptr().expose_provenance().wrapping_sub(block::ROWS_BIAS),
    };
    let routine = if scale.is_some() { block::rows_scores } else { block::rows_i32 };
    // SAFETY: `blocks` compared the slices with five rows of the job; `readable` counted the columns whose reads stay in
    // `y`; the widened activations fill the scratch, zeros up to a multiple of 16 steps included.
    unsafe { routine(&frame) };
}

/// One row, without asking more of `y` than `k` bytes a column.
fn single<X: Lane>(job: &DotJob, scale: Option<ScoreScale>, x: &[X], y: &[i8], out: &mut [i32], scratch: &mut [u32]) {
    let steps = job.k.div_ceil(STEP);
    widen_one(x, steps, scratch);
    for (y, out) in y.chunks(job.y_stride.max(1)).zip(out) {
        let (whole, tail) = y.get(..job.k).unwrap_or(y).as_chunks::<STEP>();
        let mut pairs = scratch.as_chunks::<2>().0.iter();
        let mut last = [0i8; STEP];
        for (last, &value) in last.iter_mut().zip(tail) {
            *last = value;
        }
        let mut sum = 0;
        for (y, [even, odd]) in whole.iter().chain([&last]).zip(&mut pairs) {
            let [y_even, y_odd] = i8::pairs(y);
            sum = ins::smlad(*odd, y_odd, ins::smlad(*even, y_even, sum));
        }
        *out = scale.map_or(sum, |scale| ins::smmulr(sum << scale.acc_shift, scale.multiplier));
    }
}
