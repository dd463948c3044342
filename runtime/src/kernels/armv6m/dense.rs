//! Dense layers, two rows at a time by [`super::pair`], a row left over by [`super::row`].

use super::product::Factor;
use super::{pair, row};
use crate::arith::requant::{sat_i8, sat_i16};
use crate::kernels::{GROUP, LinearJob, LinearOut, PANEL, linear_scratch_bytes, portable};

/// Sums of two rows, some channels at a time.
pub struct Sums(pub [[i32; 2]; Self::CHANNELS]);

impl Sums {
    /// A multiple of a panel.
    pub const CHANNELS: usize = 4 * PANEL;

    /// No sums yet.
    pub const fn new() -> Self {
        Self([[0; 2]; Self::CHANNELS])
    }
}

/// Elements from the first of the first row to the last of the last; `None` when that is beyond `usize`.
pub fn reach(rows: usize, stride: usize, width: usize) -> Option<usize> {
    rows.checked_sub(1)?.checked_mul(stride)?.checked_add(width)
}

/// Both rows widened to 32 bits, interleaved, with zeros up to `len` pairs.
pub fn widen_pair<'s, X: Copy + Into<i32>>(a: &[X], b: &[X], len: usize, to: &'s mut [i32]) -> &'s [[i32; 2]] {
    let pairs = to.as_chunks_mut::<2>().0;
    let pairs = pairs.get_mut(..len).unwrap_or(&mut []);
    let (body, pad) = pairs.split_at_mut_checked(a.len().min(len)).unwrap_or((&mut [], &mut []));
    for (pair, (&a, &b)) in body.iter_mut().zip(a.iter().zip(b)) {
        *pair = [a.into(), b.into()];
    }
    pad.iter_mut().for_each(|pair| *pair = [0; 2]);
    pairs
}

/// [`crate::kernels::Kernels::linear`].
pub fn linear(job: &LinearJob<'_>, x: &[i8], mut out: LinearOut<'_>, scratch: &mut [u8]) {
    let out_len = match &out {
        LinearOut::I8 { out, .. } => out.len(),
        LinearOut::I16 { out } | LinearOut::I16Residual { out, .. } => out.len(),
    };
    let Some(mut dense) = Dense::new(job, x, out_len, scratch) else { return portable::linear(job, x, out, &mut []) };
    for first in (0..job.rows).step_by(2) {
        dense.rows(first, |part| epilogue(job, &part, &mut out));
    }
}

/// [`crate::kernels::Kernels::linear_acc`].
pub fn linear_acc(job: &LinearJob<'_>, x: &[i8], out: &mut [i32], scratch: &mut [u8]) {
    let Some(mut dense) = Dense::new(job, x, out.len(), scratch) else {
        return portable::linear_acc(job, x, out, &mut []);
    };
    for first in (0..job.rows).step_by(2) {
        dense.rows(first, |part| part.store(out, |acc, _, out| *out = acc));
    }
}

/// A job whose slices were found long enough for the routine.
struct Dense<'j, 's> {
    job: &'j LinearJob<'j>,
    x: &'j [i8],
    scratch: &'s mut [i32],
    /// Where a panel is unpacked; empty where that is not needed.
    panel: &'s mut [u8],
    padded_k: usize,
}

impl<'j, 's> Dense<'j, 's> {
    fn new(job: &'j LinearJob<'j>, x: &'j [i8], out_len: usize, scratch: &'s mut [u8]) -> Option<Self> {
        let (scratch, panel) = scratch.split_at_mut_checked(linear_scratch_bytes(job.k))?;
        let scratch = bytemuck::try_cast_slice_mut(scratch).ok()?;
        let padded_k = job.k.checked_next_multiple_of(GROUP)?;
        let channels = job.n.checked_next_multiple_of(PANEL)?;
        let weights = job.weights.bytes;
        let format = job.weights.format;
        let panel = if format.is_unpacked() { &mut [][..] } else { panel.get_mut(..padded_k * PANEL)? };
        let fits = job.k > 0
            && job.n > 0
            && weights.len() >= (channels / PANEL).checked_mul(format.panel_bytes(job.k))?
            && weights.as_ptr().addr().is_multiple_of(4)
            && job.bias.len() >= channels
            && job.multipliers.len() >= channels
            && x.len() >= reach(job.rows, job.x_stride, job.k)?
            && out_len >= reach(job.rows, job.out_stride, job.n)?;
        fits.then_some(Self { job, x, scratch, panel, padded_k })
    }

    /// The last row, where it has no other beside it.
    fn single(&mut self, row: usize, mut epilogue: impl FnMut(Part<'_>)) {
        let job = self.job;
        let x = self.x.get(row * job.x_stride..).and_then(|x| x.get(..job.k)).unwrap_or(&[]);
        let Some((body, pad)) = self.scratch.get_mut(..self.padded_k).and_then(|wide| wide.split_at_mut_checked(job.k))
        else {
            return;
        };
        body.iter_mut().zip(x).for_each(|(to, &from)| *to = i32::from(from));
        pad.iter_mut().for_each(|to| *to = 0);
        let panel_bytes = job.weights.format.panel_bytes(job.k);
        for channel in (0..job.n).step_by(Sums::CHANNELS) {
            let count = (job.n - channel).min(Sums::CHANNELS);
            let mut sums = Sums::new();
            let packed = job.weights.bytes.get(channel / PANEL * panel_bytes..).unwrap_or(&[]);
            if self.panel.is_empty() {
                self.panels(channel, count.div_ceil(PANEL), packed, &mut sums.0);
            } else {
                for (index, sums) in sums.0.chunks_mut(PANEL).enumerate().take(count.div_ceil(PANEL)) {
                    job.weights.format.unpack(packed.get(index * panel_bytes..).unwrap_or(&[]), self.panel);
                    self.panels(channel + index * PANEL, 1, self.panel, sums);
                }
            }
            let multipliers = job.multipliers.get(channel..channel + count).unwrap_or(&[]);
            epilogue(Part { start: row * job.out_stride + channel, row: 0, multipliers, sums: &sums });
        }
    }

    /// Sums of one row by `panels` panels from channel `first` on, with the 8-bit weights of these.
    fn panels(&self, first: usize, panels: usize, weights: &[u8], sums: &mut [[i32; 2]]) {
        debug_assert!(sums.len() >= panels * PANEL);
        let x = self.scratch.as_ptr().expose_provenance();
        let frame = row::Dense {
            out: sums.as_mut_ptr().expose_provenance(),
            bias: self.job.bias.as_ptr().expose_provenance() + first * size_of::<i32>(),
            panels,
            weights: weights.as_ptr().expose_provenance(),
            x,
            x_end: x + self.padded_k * size_of::<i32>(),
        };
        // SAFETY: `new` compared weights and bias, which have whole panels, with N and K; the scratch holds `padded_k` values.
        unsafe { row::dense(&frame) };
    }

    /// Rows `first` and, where there is one, `first + 1`, part by part through `epilogue`.
    fn rows(&mut self, first: usize, mut epilogue: impl FnMut(Part<'_>)) {
        let job = self.job;
        if first + 1 == job.rows {
            return self.single(first, epilogue);
        }
        let second = first + 1;
        let row = |index: usize| self.x.get(index * job.x_stride..).and_then(|x| x.get(..job.k)).unwrap_or(&[]);
        widen_pair(row(first), row(second), self.padded_k, self.scratch);
        for channel in (0..job.n).step_by(Sums::CHANNELS) {
            let count = (job.n - channel).min(Sums::CHANNELS);
            let mut sums = Sums::new();
            self.part_sums(channel, count, &mut sums);
            let multipliers = job.multipliers.get(channel..channel + count).unwrap_or(&[]);
            for (index, row) in [first, second].iter().enumerate() {
                let part = Part { start: row * job.out_stride + channel, row: index, multipliers, sums: &sums };
                epilogue(part);
            }
        }
    }

    /// Sums of `count` channels from `first`, the first of a panel.
    fn part_sums(&mut self, first: usize, count: usize, sums: &mut Sums) {
        let weights = self.job.weights.bytes;
        let panel_bytes = self.job.weights.format.panel_bytes(self.job.k);
        let of_panel = |panel: usize| weights.get(panel * panel_bytes..).unwrap_or(&[]);
        if !self.panel.is_empty() {
            for (index, sums) in sums.0.chunks_mut(PANEL).enumerate().take(count.div_ceil(PANEL)) {
                self.job.weights.format.unpack(of_panel(first / PANEL + index), self.panel);
                let channels = (count - index * PANEL).min(PANEL);
                self.sums(first + index * PANEL, channels, self.panel, sums);
            }
            return;
        }
        let whole = count - count % PANEL;
        if whole > 0 {
            self.sums(first, whole, of_panel(first / PANEL), &mut sums.0);
        }
        if whole < count {
            let rest = sums.0.get_mut(whole..).unwrap_or(&mut []);
            self.sums(first + whole, count - whole, of_panel((first + whole) / PANEL), rest);
        }
    }

    /// Sums of `channels` channels (whole panels, or less than one) from `first`, the first of a panel, with the
    /// 8-bit weights of these.
    fn sums(&self, first: usize, channels: usize, weights: &[u8], sums: &mut [[i32; 2]]) {
        let job = self.job;
        debug_assert!(sums.len() >= channels);
        let x = self.scratch.as_ptr().expose_provenance();
        let x_end = x + self.padded_k * size_of::<[i32; 2]>();
        let frame = pair::Frame {
            out: sums.as_mut_ptr().expose_provenance(),
            x,
            weights: weights.as_ptr().expose_provenance(),
            bias: job.bias.as_ptr().expose_provenance() + first * size_of::<i32>(),
            channels: -(channels as i32),
            x_end_groups: x_end,
            x_end,
            next_channel: GROUP as isize - (self.padded_k * PANEL) as isize,
        };
        // SAFETY: `new` compared weights and bias with N and K; the scratch holds pairs up to `padded_k`.
        unsafe { pair::dense(&frame) };
    }
}

/// Requantizes the sums of a part.
fn epilogue(job: &LinearJob<'_>, part: &Part<'_>, out: &mut LinearOut<'_>) {
    let requantize = |acc: i32, m: i32| Factor::new(m).mulhi_round(acc << job.acc_shift);
    match out {
        LinearOut::I8 { out, lut: None } => part.store(out, |acc, m, out| {
            *out = sat_i8(requantize(acc, m).wrapping_add(job.zero_point));
        }),
        LinearOut::I8 { out, lut: Some(table) } => part.store(out, |acc, m, out| {
            let y = sat_i8(requantize(acc, m).wrapping_add(job.zero_point));
            // XOR with 0x80 is + 128 as an index; a u8 cannot leave 256 entries.
            *out = table[usize::from(y as u8 ^ 0x80)];
        }),
        LinearOut::I16 { out } => part.store(out, |acc, m, out| *out = sat_i16(requantize(acc, m))),
        LinearOut::I16Residual { out, residual_shift } => {
            let (half, shift) = ((1 << *residual_shift) >> 1, *residual_shift);
            part.store(out, |acc, m, out| {
                let residual = (i32::from(*out) + half) >> shift;
                *out = sat_i16(requantize(acc, m).wrapping_add(residual));
            });
        }
    }
}

/// Sums of one row, on their way out.
struct Part<'p> {
    /// Element of the output.
    start: usize,
    /// 0 or 1.
    row: usize,
    multipliers: &'p [i32],
    sums: &'p Sums,
}

impl Part<'_> {
    #[inline(always)]
    fn store<T>(&self, out: &mut [T], epilogue: impl Fn(i32, i32, &mut T)) {
        let out = out.get_mut(self.start..).unwrap_or(&mut []);
        for ((out, sums), &m) in out.iter_mut().zip(&self.sums.0).zip(self.multipliers) {
            epilogue(if self.row == 0 { sums[0] } else { sums[1] }, m, out);
        }
    }
}
