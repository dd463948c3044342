//! Dense layers: blocks of five rows by [`super::block`], rows left over by [`super::row`].

use super::widen::{Lanes, STEP, Words, widen};
use super::{block, row};
use crate::kernels::{GROUP, LinearJob, LinearOut, PANEL, PackedWeights, ROW_BLOCK, linear_scratch_bytes, widen_panel};

/// Bytes of a group of a panel.
const PANEL_GROUP: usize = PANEL * GROUP;
/// Bytes of the widest output.
const WIDEST: usize = size_of::<i32>();

/// [`crate::kernels::Kernels::linear`].
pub fn linear(job: &LinearJob<'_>, x: &[i8], mut out: LinearOut<'_>, scratch: &mut [u8]) {
    run(job, x, &Target::of(job, &mut out), scratch);
}

/// [`crate::kernels::Kernels::linear_acc`].
pub fn linear_acc(job: &LinearJob<'_>, x: &[i8], out: &mut [i32], scratch: &mut [u8]) {
    run(job, x, &Target::sums(out), scratch);
}

/// Where a layer writes and how: by address, so that one walk serves all widths.
struct Target {
    out: usize,
    /// Elements.
    len: usize,
    /// Bytes of an element.
    width: usize,
    /// For five rows at once; none where there is no routine.
    block: Option<block::Epilogue>,
    row: row::Epilogue,
    addend: i32,
    table_or_shift: usize,
}

impl Target {
    fn of(job: &LinearJob<'_>, out: &mut LinearOut<'_>) -> Self {
        let i16s = |out: &mut [i16]| Self {
            out: out.as_mut_ptr().expose_provenance(),
            len: out.len(),
            width: size_of::<i16>(),
            block: Some(block::DENSE_I16),
            row: row::I16,
            addend: 0,
            table_or_shift: 0,
        };
        match out {
            LinearOut::I8 { out, lut } => {
                let table = lut.map_or(0, |table| table.as_ptr().expose_provenance() + table.len() / 2);
                let (block, row) =
                    if table == 0 { (block::DENSE_I8, row::I8) } else { (block::DENSE_TABLE, row::I8_TABLE) };
                // Only one routine has a shift: ratios above a half are rare with 8 bits.
                let shifted = job.acc_shift != 0;
                Self {
                    out: out.as_mut_ptr().expose_provenance(),
                    len: out.len(),
                    width: size_of::<i8>(),
                    block: (!shifted).then_some(block),
                    row: if shifted { row::I8_TABLE } else { row },
                    addend: job.zero_point,
                    table_or_shift: table,
                }
            }
            LinearOut::I16 { out } => i16s(out),
            LinearOut::I16Residual { out, residual_shift } => Self {
                block: Some(block::DENSE_RESIDUAL),
                row: row::RESIDUAL,
                addend: (1 << *residual_shift) >> 1,
                table_or_shift: *residual_shift as usize,
                ..i16s(out)
            },
        }
    }

    fn sums(out: &mut [i32]) -> Self {
        Self {
            out: out.as_mut_ptr().expose_provenance(),
            len: out.len(),
            width: size_of::<i32>(),
            block: None,
            row: row::I32,
            addend: 0,
            table_or_shift: 0,
        }
    }
}

/// Elements from the first of the first row to the last of the last; `None` when that is beyond `usize`.
pub fn reach(rows: usize, stride: usize, width: usize) -> Option<usize> {
    rows.checked_sub(1)?.checked_mul(stride)?.checked_add(width)
}

/// Whether slices hold all that the job names, `bytes` of weights among it.
fn fits(job: &LinearJob<'_>, x: &[i8], out_len: usize, bytes: usize) -> bool {
    let channels = job.n.next_multiple_of(PANEL);
    job.k > 0
        && job.n > 0
        && matches!(job.weights.bits, 4 | 8)
        && job.weights.bytes.len() >= bytes
        && job.weights.bytes.as_ptr().addr().is_multiple_of(4)
        && job.bias.len() >= channels
        && job.multipliers.len() >= channels
        && reach(job.rows, job.x_stride, job.k).is_some_and(|reach| x.len() >= reach)
        && reach(job.rows, job.out_stride, job.n).is_some_and(|reach| out_len >= reach)
}

/// All rows: five at a time as long as there are five, then one by one. Nothing where slices do not fit the job.
#[inline(never)]
fn run(job: &LinearJob<'_>, x: &[i8], target: &Target, scratch: &mut [u8]) {
    let panel_bytes = PackedWeights::bytes_for(PANEL, job.k, job.weights.bits);
    let weights = job.n.div_ceil(PANEL).checked_mul(panel_bytes);
    if !weights.is_some_and(|bytes| fits(job, x, target.len, bytes)) {
        return;
    }
    let Some((wide, panel)) = scratch.split_at_mut_checked(linear_scratch_bytes(job.k)) else { return };
    let Ok(wide) = bytemuck::try_cast_slice_mut(wide) else { return };
    let groups = job.k.div_ceil(GROUP);
    let panel = if job.weights.bits == 4 { panel.get_mut(..groups * PANEL_GROUP) } else { Some(&mut [][..]) };
    let Some(panel) = panel else { return };
    let mut first = 0;
    while first < job.rows {
        let rows = if target.block.is_some() && job.rows - first >= ROW_BLOCK { ROW_BLOCK } else { 1 };
        let mut to = Words { words: wide, rows, steps: groups * GROUP / STEP };
        widen(Lanes::i8(x), first * job.x_stride, job.x_stride, job.k, &mut to);
        Part { job, target, first, rows, groups, x: wide }.all_panels(panel_bytes, panel);
        first += rows;
    }
}

/// Some rows, widened: [`ROW_BLOCK`] or one.
struct Part<'p> {
    job: &'p LinearJob<'p>,
    target: &'p Target,
    first: usize,
    rows: usize,
    groups: usize,
    x: &'p [u32],
}

impl Part<'_> {
    /// All channels: at once, or with 4-bit weights panel by panel, each widened to 8 bits in `buffer`.
    fn all_panels(&self, panel_bytes: usize, buffer: &mut [u8]) {
        let n = self.job.n;
        let mut channel = 0;
        let mut weights = self.job.weights.bytes;
        while channel < n {
            let whole = (n - channel) & !(PANEL - 1);
            if buffer.is_empty() {
                self.channels(channel, whole, weights);
                weights = weights.get(whole / PANEL * panel_bytes..).unwrap_or(&[]);
                channel += whole;
                if channel < n {
                    self.channels(channel, n - channel, weights);
                }
                return;
            }
            widen_panel(weights, buffer);
            self.channels(channel, PANEL.min(n - channel), buffer);
            weights = weights.get(panel_bytes..).unwrap_or(&[]);
            channel += PANEL;
        }
    }

    /// `count` channels from `channel` on, whole panels or one incomplete one, with their weights in 8 bits.
    fn channels(&self, channel: usize, count: usize, weights: &[u8]) {
        if count == 0 {
            return;
        }
        let Self { job, target, .. } = *self;
        let weights = weights.as_ptr().expose_provenance();
        let out = target.out + (self.first * job.out_stride + channel) * target.width;
        match target.block {
            Some(epilogue) if self.rows > 1 => self.block(epilogue, channel, count, weights, out),
            _ if count >= PANEL => self.row(channel, count / PANEL, weights, out),
            _ => self.row_end(channel, count, weights, out),
        }
    }

    fn block(&self, epilogue: block::Epilogue, channel: usize, count: usize, weights: usize, out: usize) {
        let Self { job, target, groups, x, .. } = *self;
        let multipliers = job.multipliers.as_ptr().expose_provenance();
        let x_end = x.as_ptr().expose_provenance() + size_of_val(x);
        let frame = block::Frame {
            multipliers: multipliers + channel * size_of::<i32>(),
            out,
            out_stride: job.out_stride * target.width,
            addend: target.addend,
            acc_shift: job.acc_shift,
            table_or_shift: target.table_or_shift,
            to_bias: job.bias.as_ptr().expose_provenance().wrapping_sub(multipliers),
            x: x.as_ptr().expose_provenance(),
            channels: -(count as i32),
            next_channel: GROUP as isize - (groups * PANEL_GROUP) as isize,
            x_end_groups: x_end,
            x_end,
            epilogue,
            weights: weights.wrapping_sub(block::DENSE_BIAS),
        };
        // SAFETY: `run` compared all slices with rows, strides, K and N. The channels are whole panels, or those of the
        // last, incomplete panel, which weights, bias and multipliers have in full.
        unsafe { block::dense(&frame) };
    }

    fn row(&self, channel: usize, panels: usize, weights: usize, out: usize) {
        let Self { job, target, groups, x, .. } = *self;
        let start = x.as_ptr().expose_provenance();
        let frame = row::Frame {
            bias: job.bias.as_ptr().expose_provenance() + channel * size_of::<i32>(),
            out,
            panels,
            multipliers: job.multipliers.as_ptr().expose_provenance() + channel * size_of::<i32>(),
            addend: target.addend,
            x: start,
            acc_shift: job.acc_shift,
            table_or_shift: target.table_or_shift,
            epilogue: target.row,
            weights: weights.wrapping_sub(row::WEIGHT_BIAS),
            x_end: start + groups * GROUP * size_of::<i16>(),
        };
        // SAFETY: as above; the caller gives room for whole panels at `out`.
        unsafe { row::panels(&frame) };
    }

    /// The channels of the last, incomplete panel: through a buffer with room for four.
    fn row_end(&self, channel: usize, count: usize, weights: usize, out: usize) {
        let mut buffer = [0u32; WIDEST * PANEL / size_of::<u32>()];
        let bytes = count * self.target.width;
        let target = core::ptr::with_exposed_provenance_mut::<u8>(out);
        // SAFETY: `count` outputs lie at `out`, which `run` compared with the job, and fit the buffer.
        unsafe { target.copy_to_nonoverlapping(buffer.as_mut_ptr().cast(), bytes) };
        self.row(channel, 1, weights, buffer.as_mut_ptr().expose_provenance());
        // SAFETY: as above.
        unsafe { target.copy_from_nonoverlapping(buffer.as_ptr().cast(), bytes) };
    }
}
