//! Dot products of activations with activations: blocks of five rows by [`super::block`], rows left over one by one.
//!
//! # Instructions
//! One row by one column, four K steps: 9 (two `LDR` of activations, one of bytes, two `SXTB16`, two `SMLAD`, counter).

use super::dense::reach;
use super::widen::{Lanes, STEP, Words, widen};
use super::{block, ins};
use crate::kernels::{DotJob, GROUP, ROW_BLOCK, ScoreScale, linear_scratch_bytes};

/// Columns whose rows the block routine may read: it takes whole steps, at least 16 bytes.
fn readable(job: &DotJob, y_len: usize) -> usize {
    let bytes = job.k.next_multiple_of(STEP).max(GROUP);
    match y_len.checked_sub(bytes) {
        Some(room) if job.y_stride > 0 => (room / job.y_stride + 1).min(job.cols),
        _ => 0,
    }
}

/// [`crate::kernels::Kernels::dot_i8`] and its siblings; with a scale, [`crate::kernels::Kernels::scores`]. Nothing
/// where slices do not fit the job.
#[inline(never)]
pub fn dot(job: &DotJob, scale: Option<&ScoreScale>, x: Lanes<'_>, y: &[i8], out: &mut [i32], scratch: &mut [u8]) {
    let Some(scratch) = scratch.get_mut(..linear_scratch_bytes(job.k)) else { return };
    let Ok(scratch) = bytemuck::try_cast_slice_mut::<u8, u32>(scratch) else { return };
    let holds = |len: usize, rows: usize, stride: usize, width: usize| {
        reach(rows, stride, width).is_some_and(|reach| len >= reach)
    };
    let fits = job.k > 0
        && holds(x.len(), job.rows, job.x_stride, job.k)
        && holds(y.len(), job.cols, job.y_stride, job.k)
        && holds(out.len(), job.rows, job.out_stride, job.cols);
    if !fits {
        return;
    }
    let columns = readable(job, y.len());
    let full = if columns > 0 { job.rows - job.rows % ROW_BLOCK } else { 0 };
    let mut first = 0;
    while first < full {
        let mut to = Words { words: &mut *scratch, rows: ROW_BLOCK, steps: block_steps(job) };
        widen(x, first * job.x_stride, job.x_stride, job.k, &mut to);
        block(job, scale, columns, scratch, y, out.get_mut(first * job.out_stride..).unwrap_or(&mut []));
        first += ROW_BLOCK;
    }
    for row in 0..job.rows {
        let first = if row < full { columns } else { 0 };
        if first < job.cols {
            let mut to = Words { words: &mut *scratch, rows: 1, steps: job.k.div_ceil(STEP) };
            widen(x, row * job.x_stride, job.x_stride, job.k, &mut to);
            let start = row * job.out_stride;
            let out = out.get_mut(start + first..start + job.cols).unwrap_or(&mut []);
            single(job, scale, y.get(first * job.y_stride..).unwrap_or(&[]), out, scratch);
        }
    }
}

/// Steps of the block routine.
fn block_steps(job: &DotJob) -> usize {
    job.k.div_ceil(STEP).max(GROUP / STEP)
}

/// Five rows by the first `columns` columns.
fn block(job: &DotJob, scale: Option<&ScoreScale>, columns: usize, x: &[u32], y: &[i8], out: &mut [i32]) {
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
        epilogue: if scale.is_some() { block::ROWS_SCORES } else { block::ROWS_I32 },
        weights: y.as_ptr().expose_provenance().wrapping_sub(block::ROWS_BIAS),
    };
    // SAFETY: `dot` compared the slices with five rows of the job; `readable` counted the columns whose reads stay in
    // `y`; the widened activations fill the scratch, zeros up to a multiple of 16 steps included.
    unsafe { block::rows(&frame) };
}

/// One widened row, without asking more of `y` than `k` bytes a column.
fn single(job: &DotJob, scale: Option<&ScoreScale>, y: &[i8], out: &mut [i32], x: &[u32]) {
    for (column, out) in out.iter_mut().enumerate() {
        let start = column * job.y_stride;
        let (whole, tail) = y.get(start..start + job.k).unwrap_or(&[]).as_chunks::<STEP>();
        let mut last = [0i8; STEP];
        last.iter_mut().zip(tail).for_each(|(to, &from)| *to = from);
        let mut sum = 0;
        for (y, [even, odd]) in whole.iter().chain([&last]).zip(x.as_chunks::<2>().0) {
            let y = u32::from_le_bytes(y.map(|y| y as u8));
            sum = ins::smlad(*odd, ins::sxtb16_odd(y), ins::smlad(*even, ins::sxtb16(y), sum));
        }
        *out = scale.map_or(sum, |scale| ins::smmulr(sum << scale.acc_shift, scale.multiplier));
    }
}
