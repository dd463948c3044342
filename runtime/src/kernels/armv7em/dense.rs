//! Dense layers: blocks of five rows by [`super::block`], rows left over by [`super::row`].

use super::{block, ins, row, widen};
use crate::kernels::{
    GROUP, LinearJob, LinearOut, PANEL, PackedWeights, ROW_BLOCK, linear_scratch_bytes, portable, widen_panel,
};
use core::ops::Range;

/// K values that share two words of activations.
pub const STEP: usize = 4;
/// Bytes of a group of a panel.
const PANEL_GROUP: usize = PANEL * GROUP;

/// [`crate::kernels::Kernels::linear`].
pub fn linear(job: &LinearJob<'_>, x: &[i8], mut out: LinearOut<'_>, scratch: &mut [u8]) {
    let Some(mut dense) = Dense::new(job, x, out_len(&out), scratch) else {
        return portable::linear(job, x, out);
    };
    // The block routines for 8 bits have no shift: ratios above a half are rare there.
    let blocks = if dense.routine(&out).is_some() { job.rows / ROW_BLOCK } else { 0 };
    for index in 0..blocks {
        dense.block(index * ROW_BLOCK, &mut out);
    }
    for index in blocks * ROW_BLOCK..job.rows {
        dense.row(index, &mut out);
    }
}

/// [`crate::kernels::Kernels::linear_acc`].
pub fn linear_acc(job: &LinearJob<'_>, x: &[i8], out: &mut [i32], scratch: &mut [u8]) {
    let Some(mut dense) = Dense::new(job, x, out.len(), scratch) else { return portable::linear_acc(job, x, out) };
    for (index, out) in out.chunks_mut(job.out_stride.max(1)).enumerate().take(job.rows) {
        dense.widen_one(index);
        dense.sums(out.get_mut(..job.n).unwrap_or(&mut []), |acc, _, out| *out = acc);
    }
}

/// Elements of the output.
fn out_len(out: &LinearOut<'_>) -> usize {
    match out {
        LinearOut::I8 { out, .. } => out.len(),
        LinearOut::I16 { out } | LinearOut::I16Residual { out, .. } => out.len(),
    }
}

/// A job whose slices were found long enough for the routines.
struct Dense<'j, 's> {
    job: &'j LinearJob<'j>,
    x: &'j [i8],
    scratch: &'s mut [u32],
    /// Where 4-bit weights are widened; empty with 8-bit ones.
    panel: &'s mut [u8],
    groups: usize,
}

type Routine = unsafe extern "C" fn(*const block::Frame);
type RowRoutine = unsafe extern "C" fn(*const row::Frame);

/// Elements from the first of the first row to the last of the last; `None` when that is beyond `usize`.
pub fn reach(rows: usize, stride: usize, width: usize) -> Option<usize> {
    rows.checked_sub(1)?.checked_mul(stride)?.checked_add(width)
}

impl<'j, 's> Dense<'j, 's> {
    fn new(job: &'j LinearJob<'j>, x: &'j [i8], out_len: usize, scratch: &'s mut [u8]) -> Option<Self> {
        let (scratch, panel) = scratch.split_at_mut_checked(linear_scratch_bytes(job.k))?;
        let scratch: &mut [u32] = bytemuck::try_cast_slice_mut(scratch).ok()?;
        let groups = job.k.div_ceil(GROUP);
        let channels = job.n.checked_next_multiple_of(PANEL)?;
        let weights = job.weights.bytes;
        let bytes = channels.checked_mul(groups)?.checked_mul(GROUP * job.weights.bits as usize)? / 8;
        let panel = match job.weights.bits {
            8 => &mut [],
            4 => panel.get_mut(..groups * PANEL_GROUP)?,
            _ => return None,
        };
        let fits = job.k > 0
            && job.n > 0
            && weights.len() >= bytes
            && weights.as_ptr().addr().is_multiple_of(4)
            && job.bias.len() >= channels
            && job.multipliers.len() >= channels
            && x.len() >= reach(job.rows, job.x_stride, job.k)?
            && out_len >= reach(job.rows, job.out_stride, job.n)?;
        fits.then_some(Self { job, x, scratch, panel, groups })
    }

    fn routine(&self, out: &LinearOut<'_>) -> Option<Routine> {
        match out {
            LinearOut::I8 { .. } if self.job.acc_shift != 0 => None,
            LinearOut::I8 { lut: None, .. } => Some(block::dense_i8),
            LinearOut::I8 { lut: Some(_), .. } => Some(block::dense_table),
            LinearOut::I16 { .. } => Some(block::dense_i16),
            LinearOut::I16Residual { .. } => Some(block::dense_residual),
        }
    }

    /// Rows `first .. first + 5`.
    fn block(&mut self, first: usize, out: &mut LinearOut<'_>) {
        let Some(routine) = self.routine(out) else {
            return;
        };
        let job = self.job;
        widen::widen_block(
            self.x.get(first * job.x_stride..).unwrap_or(&[]),
            job.x_stride,
            job.k,
            self.groups * GROUP / STEP,
            self.scratch,
        );
        let x = self.scratch.as_ptr().expose_provenance();
        let row_bytes = self.groups * PANEL_GROUP;
        let start = first * job.out_stride;
        let (address, width, addend, table_or_shift) = match out {
            LinearOut::I8 { out, lut } => {
                let table = lut.map_or(0, |table| table.as_ptr().expose_provenance() + table.len() / 2);
                (out.as_mut_ptr().expose_provenance() + start, 1, job.zero_point, table)
            }
            LinearOut::I16 { out } => (out.as_mut_ptr().expose_provenance() + start * 2, 2, 0, 0),
            LinearOut::I16Residual { out, residual_shift } => (
                out.as_mut_ptr().expose_provenance() + start * 2,
                2,
                (1 << *residual_shift) >> 1,
                *residual_shift as usize,
            ),
        };
        let frame = block::Frame {
            multipliers: job.multipliers.as_ptr().expose_provenance(),
            out: address,
            out_stride: job.out_stride * width,
            addend,
            acc_shift: job.acc_shift,
            table_or_shift,
            to_bias: job.bias.as_ptr().expose_provenance().wrapping_sub(job.multipliers.as_ptr().expose_provenance()),
            x,
            channels: 0,
            next_channel: GROUP as isize - row_bytes as isize,
            x_end_groups: x + self.scratch.len() * 4,
            x_end: x + self.scratch.len() * 4,
            weights: 0,
        };
        let run = |first: usize, channels: usize, weights: &[u8]| {
            let frame = block::Frame {
                multipliers: frame.multipliers + first * size_of::<i32>(),
                out: frame.out + first * width,
                channels: -(channels as i32),
                weights: weights.as_ptr().expose_provenance().wrapping_sub(block::DENSE_BIAS),
                ..frame
            };
            // SAFETY: `new` compared all slices with rows, strides, K and N. The channels are whole panels, or those of
            // the last, incomplete panel, which weights, bias and multipliers have in full.
            unsafe { routine(&frame) };
        };
        self.for_panels(0..job.n.div_ceil(PANEL), |panels, weights| {
            let whole = panels.end.min(job.n / PANEL);
            if panels.start < whole {
                run(panels.start * PANEL, (whole - panels.start) * PANEL, weights);
            }
            if whole < panels.end {
                let rest = weights.get(whole.saturating_sub(panels.start) * row_bytes..).unwrap_or(&[]);
                run(whole * PANEL, job.n % PANEL, rest);
            }
        });
    }

    /// Calls `run` with panels and their 8-bit weights: all at once, or with 4-bit weights one after the other.
    #[inline(always)]
    fn for_panels(&mut self, panels: Range<usize>, mut run: impl FnMut(Range<usize>, &[u8])) {
        let weights = self.job.weights.bytes;
        let panel_bytes = PackedWeights::bytes_for(PANEL, self.job.k, self.job.weights.bits);
        if self.panel.is_empty() {
            return run(panels.clone(), weights.get(panels.start * panel_bytes..).unwrap_or(&[]));
        }
        for panel in panels {
            widen_panel(weights.get(panel * panel_bytes..).unwrap_or(&[]), self.panel);
            run(panel..panel + 1, self.panel);
        }
    }

    fn widen_one(&mut self, index: usize) {
        let x = self.x.get(index * self.job.x_stride..).and_then(|x| x.get(..self.job.k)).unwrap_or(&[]);
        widen::widen_one(x, self.groups * GROUP / STEP, self.scratch);
    }

    /// Row `index`.
    fn row(&mut self, index: usize, out: &mut LinearOut<'_>) {
        let job = self.job;
        self.widen_one(index);
        let start = index * job.out_stride;
        match out {
            LinearOut::I8 { out, lut: None } if job.acc_shift == 0 => {
                let Some(out) = out.get_mut(start..start + job.n) else {
                    return;
                };
                let whole = job.n / PANEL;
                self.panels(row::row_i8, 0, whole, out.as_mut_ptr().expose_provenance(), PANEL);
                let mut last = [0i8; PANEL];
                let (_, tail) = out.as_chunks_mut::<PANEL>();
                if !tail.is_empty() {
                    self.panels(row::row_i8, whole, 1, last.as_mut_ptr().expose_provenance(), PANEL);
                    tail.iter_mut().zip(last).for_each(|(to, value)| *to = value);
                }
            }
            LinearOut::I8 { out, lut } => {
                let lut = *lut;
                let Some(out) = out.get_mut(start..start + job.n) else {
                    return;
                };
                self.sums(out, |acc, m, out| {
                    let y = ins::ssat8(ins::smmlar(acc << job.acc_shift, m, job.zero_point)) as i8;
                    // XOR with 0x80 is + 128 as an index; a u8 cannot leave 256 entries.
                    *out = lut.map_or(y, |table| table[usize::from(y as u8 ^ 0x80)]);
                });
            }
            LinearOut::I16 { out } => {
                let Some(out) = out.get_mut(start..start + job.n) else {
                    return;
                };
                self.sums(out, |acc, m, out| *out = ins::ssat16(ins::smmulr(acc << job.acc_shift, m)) as i16);
            }
            LinearOut::I16Residual { out, residual_shift } => {
                let (half, shift) = ((1 << *residual_shift) >> 1, *residual_shift);
                let Some(out) = out.get_mut(start..start + job.n) else {
                    return;
                };
                self.sums(out, |acc, m, out| {
                    let residual = (i32::from(*out) + half) >> shift;
                    *out = ins::ssat16(ins::smmlar(acc << job.acc_shift, m, residual)) as i16;
                });
            }
        }
    }

    /// Sums of the widened row, four panels at a time, through `epilogue(sum, multiplier, output)`.
    #[inline(always)]
    fn sums<T>(&mut self, out: &mut [T], epilogue: impl Fn(i32, i32, &mut T)) {
        const PANELS: usize = 4;
        let multipliers = self.job.multipliers.chunks(PANELS * PANEL);
        for (index, (out, multipliers)) in out.chunks_mut(PANELS * PANEL).zip(multipliers).enumerate() {
            let mut sums = [0i32; PANELS * PANEL];
            let (count, to) = (out.len().div_ceil(PANEL), sums.as_mut_ptr().expose_provenance());
            self.panels(row::row_i32, index * PANELS, count, to, PANEL * size_of::<i32>());
            for ((out, sum), &m) in out.iter_mut().zip(sums).zip(multipliers) {
                epilogue(sum, m, out);
            }
        }
    }

    /// Runs a row routine over `count` panels from panel `first`; `out` has room for all their channels, `panel_bytes`
    /// each.
    fn panels(&mut self, routine: RowRoutine, first: usize, count: usize, out: usize, panel_bytes: usize) {
        let job = self.job;
        let x = self.scratch.as_ptr().expose_provenance();
        let x_end = x + self.groups * GROUP * 2;
        self.for_panels(first..first + count, |panels, weights| {
            if panels.is_empty() {
                return;
            }
            let frame = row::Frame {
                bias: job.bias.as_ptr().expose_provenance() + panels.start * PANEL * size_of::<i32>(),
                out: out + (panels.start - first) * panel_bytes,
                panels: panels.len(),
                multipliers: job.multipliers.as_ptr().expose_provenance() + panels.start * PANEL * size_of::<i32>(),
                zero_point: job.zero_point,
                x,
                weights: weights.as_ptr().expose_provenance().wrapping_sub(row::WEIGHT_BIAS),
                x_end,
            };
            // SAFETY: `new` compared all slices with K and N, panels counted in full; the caller gives room at `out`.
            unsafe { routine(&frame) };
        });
    }
}
