//! Dot products of activations with activations: blocks of five rows by [`super::block`], rows left over one by one.
//!
//! # Register plan
//! One row: `r0 r1` activations, two words of widened bytes, sum, two pointers, counter.
//!
//! # Instructions
//! One row by one column, four K steps: 8 (`LDR`, `LDRD`, two `SXTB16`, two `SMLAD`, counter, branch).

use super::dense::reach;
use super::widen::{Lanes, STEP, Words, widen};
use super::{block, ins};
use crate::kernels::{DotJob, GROUP, ROW_BLOCK, ScoreScale, linear_scratch_bytes};
use core::arch::asm;

/// Columns whose rows the block routine may read: it takes whole steps, at least 16 bytes.
fn readable(job: &DotJob, y_len: usize) -> usize {
    let bytes = job.k.next_multiple_of(STEP).max(GROUP);
    match y_len.checked_sub(bytes) {
        Some(room) if job.y_stride > 0 => (room / job.y_stride + 1).min(job.cols),
        _ => 0,
    }
}

/// [`crate::kernels::Kernels::dot_i8`].
pub fn dot_i8(job: &DotJob, x: &[i8], y: &[i8], out: &mut [i32], scratch: &mut [u8]) {
    dot(job, None, Lanes::i8(x), y, out, scratch);
}

/// [`crate::kernels::Kernels::dot_u8`].
pub fn dot_u8(job: &DotJob, x: &[u8], y: &[i8], out: &mut [i32], scratch: &mut [u8]) {
    dot(job, None, Lanes::u8(x), y, out, scratch);
}

/// [`crate::kernels::Kernels::dot_u16`].
pub fn dot_u16(job: &DotJob, x: &[u16], y: &[i8], out: &mut [i32], scratch: &mut [u8]) {
    dot(job, None, Lanes::u16(x), y, out, scratch);
}

/// [`crate::kernels::Kernels::scores`].
pub fn scores(job: &DotJob, scale: ScoreScale, x: &[i8], y: &[i8], out: &mut [i32], scratch: &mut [u8]) {
    dot(job, Some(&scale), Lanes::i8(x), y, out, scratch);
}

/// Dot products, with a scale scores. Nothing where slices do not fit the job.
#[inline(never)]
fn dot(job: &DotJob, scale: Option<&ScoreScale>, x: Lanes<'_>, y: &[i8], out: &mut [i32], scratch: &mut [u8]) {
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
    let whole = job.k / STEP;
    let Some(x_tail) = x.get(2 * whole..).filter(|x| x.len() >= 2) else { return };
    for (column, out) in out.iter_mut().enumerate() {
        let start = column * job.y_stride;
        let Some((body, tail)) = y.get(start..start + job.k).and_then(|y| y.split_at_checked(whole * STEP)) else {
            return;
        };
        let mut last = [0i8; STEP];
        last.iter_mut().zip(tail).for_each(|(to, &from)| *to = from);
        // SAFETY: `body` has `whole` steps, `last` one; twice as many words of `x` were found above.
        let sum = unsafe { steps(last.as_ptr(), x_tail.as_ptr(), 1, steps(body.as_ptr(), x.as_ptr(), whole, 0)) };
        *out = scale.map_or(sum, |scale| ins::smmulr(sum << scale.acc_shift, scale.multiplier));
    }
}

/// `sum` and the products of `count` steps.
///
/// # Safety
/// `y` is readable for `4 * count` bytes, `x` for `2 * count` words.
#[inline(always)]
unsafe fn steps(y: *const i8, x: *const u32, count: usize, mut sum: i32) -> i32 {
    if count > 0 {
        // SAFETY: as above.
        unsafe {
            asm!(
                core!(),
                "2:",
                "ldr {odd}, [{y}], #4",
                "ldrd r0, r1, [{x}], #8",
                "sxtb16 {even}, {odd}",
                "sxtb16 {odd}, {odd}, ror #8",
                "smlad {sum}, r0, {even}, {sum}",
                "smlad {sum}, r1, {odd}, {sum}",
                "subs {count}, #1",
                "bne 2b",
                y = inout(reg) y => _, x = inout(reg) x => _, count = inout(reg) count => _, sum = inout(reg) sum,
                even = out(reg) _, odd = out(reg) _, out("r0") _, out("r1") _, options(nostack, readonly)
            );
        }
    }
    sum
}
