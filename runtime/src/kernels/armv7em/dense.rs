//! Dense layers: blocks of five rows by [`super::block`], rows left over by [`super::row`].

use super::widen::{Lanes, STEP, Words, widen, widen_row};
use super::{block, row};
use crate::kernels::{GROUP, LinearJob, LinearOut, PANEL, ROW_BLOCK, linear_scratch_bytes};

/// Bytes of a group of a panel, with 8-bit weights.
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
                // Only one routine has a shift: ratios above a half are rare with 8 bits.
                let (block, row) = match (&lut, job.acc_shift) {
                    (None, 0) => (Some(block::DENSE_I8), row::I8),
                    (Some(_), 0) => (Some(block::DENSE_TABLE), row::I8_TABLE),
                    _ => (None, row::I8_TABLE),
                };
                Self {
                    out: out.as_mut_ptr().expose_provenance(),
                    len: out.len(),
                    width: size_of::<i8>(),
                    block,
                    row,
                    addend: job.zero_point,
                    table_or_shift: lut.map_or(0, |table| table.as_ptr().expose_provenance() + table.len() / 2),
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

/// Whether slices hold all that the job names, besides the weights.
fn fits(job: &LinearJob<'_>, x: &[i8], out_len: usize) -> bool {
    let channels = job.n.next_multiple_of(PANEL);
    job.k > 0
        && job.n > 0
        && job.bias.len() >= channels
        && job.multipliers.len() >= channels
        && reach(job.rows, job.x_stride, job.k).is_some_and(|reach| x.len() >= reach)
        && reach(job.rows, job.out_stride, job.n).is_some_and(|reach| out_len >= reach)
}

/// Bytes of a panel of `groups` groups; `None` where the weights do not hold all panels, as whole words.
fn panel_bytes(job: &LinearJob<'_>, groups: usize) -> Option<usize> {
    let panel_bytes = groups.checked_mul(PANEL * job.weights.format.group_bytes())?;
    let whole = job.weights.bytes.len() >= job.n.div_ceil(PANEL).checked_mul(panel_bytes)?;
    (whole && job.weights.bytes.as_ptr().addr().is_multiple_of(4)).then_some(panel_bytes)
}

/// All rows: five at a time as long as there are five, then one by one. Nothing where slices do not fit the job.
#[inline(never)]
fn run(job: &LinearJob<'_>, x: &[i8], target: &Target, scratch: &mut [u8]) {
    let groups = job.k.div_ceil(GROUP);
    let Some(panel_bytes) = panel_bytes(job, groups).filter(|_| fits(job, x, target.len)) else { return };
    let Some((wide, panel)) = scratch.split_at_mut_checked(linear_scratch_bytes(groups * GROUP)) else { return };
    let Ok(wide) = bytemuck::try_cast_slice_mut(wide) else { return };
    let unpacked = job.weights.format.is_unpacked();
    let panel = if unpacked { Some(&mut [][..]) } else { panel.get_mut(..groups * PANEL_GROUP) };
    let Some(panel) = panel else { return };
    let mut layer = Layer { job, x, target, groups, panel_bytes, wide, panel };
    let mut first = 0;
    if let Some(epilogue) = target.block {
        first = job.rows - job.rows % ROW_BLOCK;
        if first > 0 {
            layer.blocks(first, epilogue);
        }
    }
    for row in first..job.rows {
        layer.row(row);
    }
}

/// A job that was compared with its slices, and memory for it.
struct Layer<'l> {
    job: &'l LinearJob<'l>,
    x: &'l [i8],
    target: &'l Target,
    groups: usize,
    panel_bytes: usize,
    /// Activations of up to [`ROW_BLOCK`] rows in 16 bits.
    wide: &'l mut [u32],
    /// Where a panel is unpacked; empty where that is not needed.
    panel: &'l mut [u8],
}

// Calls of their own: the compiler would otherwise prepare all that only some jobs need.
impl Layer<'_> {
    /// The rows before `end`, five at a time.
    #[inline(never)]
    fn blocks(&mut self, end: usize, epilogue: block::Epilogue) {
        let Self { job, groups, .. } = *self;
        for first in (0..end).step_by(ROW_BLOCK) {
            let mut to = Words { words: self.wide, rows: ROW_BLOCK, steps: groups * GROUP / STEP };
            widen(Lanes::i8(self.x), first * job.x_stride, job.x_stride, job.k, &mut to);
            let mut channel = 0;
            while channel < job.n {
                let (count, weights) = self.weights(channel);
                self.block(epilogue, channel, count, weights, self.out(first, channel));
                channel += count;
            }
        }
    }

    /// One row.
    #[inline(never)]
    fn row(&mut self, row: usize) {
        let Self { job, x, .. } = *self;
        let Some(x) = x.get(row * job.x_stride..).and_then(|x| x.get(..job.k)) else { return };
        widen_row(x, self.wide);
        let mut channel = 0;
        while channel < job.n {
            let (count, weights) = self.weights(channel);
            let out = self.out(row, channel);
            if count < PANEL {
                self.incomplete(channel, count, weights, out);
            } else {
                self.panels(channel, count / PANEL, weights, out);
            }
            channel += count;
        }
    }

    /// How many channels from `channel` on are done at once, and where their weights are in 8 bits: all whole panels,
    /// then the incomplete one; unpacked ones panel by panel.
    #[inline(always)]
    fn weights(&mut self, channel: usize) -> (usize, usize) {
        let left = self.job.n - channel;
        let packed = self.job.weights.bytes.as_ptr().expose_provenance() + channel / PANEL * self.panel_bytes;
        if self.panel.is_empty() {
            let count = if left < PANEL { left } else { left - left % PANEL };
            return (count, packed);
        }
        (left.min(PANEL), self.unpacked_panel(channel))
    }

    /// Unpacks the panel of `channel`; returns its address.
    #[inline(never)]
    fn unpacked_panel(&mut self, channel: usize) -> usize {
        let packed = self.job.weights.bytes.get(channel / PANEL * self.panel_bytes..).unwrap_or(&[]);
        self.job.weights.format.unpack(packed, self.panel);
        self.panel.as_ptr().expose_provenance()
    }

    /// The output of `row` and `channel`.
    fn out(&self, row: usize, channel: usize) -> usize {
        self.target.out + (row * self.job.out_stride + channel) * self.target.width
    }

    /// Five rows by `count` channels from `channel` on.
    fn block(&self, epilogue: block::Epilogue, channel: usize, count: usize, weights: usize, out: usize) {
        let Self { job, target, groups, .. } = *self;
        let multipliers = job.multipliers.as_ptr().expose_provenance();
        let x = self.wide.as_ptr_range();
        let frame = block::Frame {
            multipliers: multipliers + channel * size_of::<i32>(),
            out,
            out_stride: job.out_stride * target.width,
            addend: target.addend,
            acc_shift: job.acc_shift,
            table_or_shift: target.table_or_shift,
            to_bias: job.bias.as_ptr().expose_provenance().wrapping_sub(multipliers),
            x: x.start.expose_provenance(),
            channels: -(count as i32),
            next_channel: GROUP as isize - (groups * PANEL_GROUP) as isize,
            x_end_groups: x.end.expose_provenance(),
            x_end: x.end.expose_provenance(),
            epilogue,
            weights: weights.wrapping_sub(block::DENSE_BIAS),
        };
        // SAFETY: `run` compared all slices with rows, strides, K and N. The channels are whole panels, or those of the
        // last, incomplete panel, which weights, bias and multipliers have in full.
        unsafe { block::dense(&frame) };
    }

    /// One row by `panels` panels from `channel` on.
    #[inline(never)]
    fn panels(&self, channel: usize, panels: usize, weights: usize, out: usize) {
        let Self { job, target, .. } = *self;
        let x = self.wide.as_ptr().expose_provenance();
        let frame = row::Frame {
            acc_shift: job.acc_shift,
            table_or_shift: target.table_or_shift,
            bias: job.bias.as_ptr().expose_provenance() + channel * size_of::<i32>(),
            out,
            panels,
            multipliers: job.multipliers.as_ptr().expose_provenance() + channel * size_of::<i32>(),
            addend: target.addend,
            epilogue: target.row,
            x_end: x + self.groups * GROUP * size_of::<i16>(),
            weights: weights.wrapping_sub(row::WEIGHT_BIAS),
            x,
        };
        // SAFETY: as in `block`; the caller gives room for whole panels at `out`.
        unsafe { row::panels(&frame) };
    }

    /// One row by the `count` channels of the last, incomplete panel: through a buffer with room for four.
    #[inline(never)]
    fn incomplete(&self, channel: usize, count: usize, weights: usize, out: usize) {
        let mut buffer = [0u32; WIDEST * PANEL / size_of::<u32>()];
        let bytes = count * self.target.width;
        let out = core::ptr::with_exposed_provenance_mut::<u8>(out);
        // SAFETY: `count` outputs lie at `out`, which `run` compared with the job, and fit the buffer.
        unsafe { out.copy_to_nonoverlapping(buffer.as_mut_ptr().cast(), bytes) };
        self.panels(channel, 1, weights, buffer.as_mut_ptr().expose_provenance());
        // SAFETY: as above.
        unsafe { out.copy_from_nonoverlapping(buffer.as_ptr().cast(), bytes) };
    }
}
