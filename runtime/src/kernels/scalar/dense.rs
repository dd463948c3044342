//! Dense layers: blocks of four rows by [`Block::dense`], a row that is left over alone by [`Block::row`].

use super::product::mulhi_round;
use super::{Block, Frame, ROWS};
use crate::arith::requant::{sat_i8, sat_i16};
use crate::kernels::{GROUP, LinearJob, LinearOut, PANEL, linear_scratch_bytes, portable};

/// Sums of the rows by a panel.
type Sums = [[i32; PANEL]; ROWS];

/// Elements from the first of the first row to the last of the last; `None` when that is beyond `usize`.
pub fn reach(rows: usize, stride: usize, width: usize) -> Option<usize> {
    rows.checked_sub(1)?.checked_mul(stride)?.checked_add(width)
}

/// Rows from `first` on, `stride` apart, widened to 16 bits and interleaved, with zeros behind their `k` elements. Rows
/// beyond `rows` repeat the last one.
///
/// Inputs are 8-bit values, or exponentials below 2^15: the conversion keeps their value.
pub fn interleave<X: Copy + Into<i32>>(
    x: &[X],
    first: usize,
    rows: usize,
    stride: usize,
    k: usize,
    to: &mut [[i16; ROWS]],
) {
    let row = |index: usize| {
        let row = (first + index).min(rows.saturating_sub(1));
        x.get(row * stride..).and_then(|x| x.get(..k)).unwrap_or(&[])
    };
    let [a, b, c, d] = [row(0), row(1), row(2), row(3)];
    let (body, pad) = to.split_at_mut_checked(k).unwrap_or((&mut [], &mut []));
    for ((((to, &a), &b), &c), &d) in body.iter_mut().zip(a).zip(b).zip(c).zip(d) {
        *to = [a.into() as i16, b.into() as i16, c.into() as i16, d.into() as i16];
    }
    pad.iter_mut().for_each(|to| *to = [0; ROWS]);
}

/// [`crate::kernels::Kernels::linear`].
pub fn linear<B: Block>(job: &LinearJob<'_>, x: &[i8], mut out: LinearOut<'_>, scratch: &mut [u8]) {
    let out_len = match &out {
        LinearOut::I8 { out, .. } => out.len(),
        LinearOut::I16 { out } | LinearOut::I16Residual { out, .. } => out.len(),
    };
    match Dense::new(job, x, out_len, scratch) {
        Some(mut dense) => dense.run::<B>(&mut |part| epilogue(job, &part, &mut out)),
        None => portable::linear(job, x, out, scratch),
    }
}

/// [`crate::kernels::Kernels::linear_acc`].
pub fn linear_acc<B: Block>(job: &LinearJob<'_>, x: &[i8], out: &mut [i32], scratch: &mut [u8]) {
    match Dense::new(job, x, out.len(), scratch) {
        Some(mut dense) => dense.run::<B>(&mut |part| part.store(out, |acc, _, out| *out = acc)),
        None => portable::linear_acc(job, x, out, scratch),
    }
}

/// A job whose slices were found long enough for the routines.
struct Dense<'j, 's> {
    job: &'j LinearJob<'j>,
    x: &'j [i8],
    /// Activations of a block.
    wide: &'s mut [i16],
    /// Where a panel is unpacked; empty where that is not needed.
    panel: &'s mut [u8],
    padded_k: usize,
    panel_bytes: usize,
}

impl<'j, 's> Dense<'j, 's> {
    fn new(job: &'j LinearJob<'j>, x: &'j [i8], out_len: usize, scratch: &'s mut [u8]) -> Option<Self> {
        let (wide, panel) = scratch.split_at_mut_checked(linear_scratch_bytes(job.k))?;
        let wide = bytemuck::try_cast_slice_mut(wide).ok()?;
        let padded_k = job.k.checked_next_multiple_of(GROUP)?;
        let format = job.weights.format;
        let panel = if format.is_unpacked() { &mut [][..] } else { panel.get_mut(..padded_k * PANEL)? };
        let panel_bytes = format.panel_bytes(job.k);
        let panels = job.n.div_ceil(PANEL);
        let fits = job.k > 0
            && job.n > 0
            && job.weights.bytes.len() >= panels.checked_mul(panel_bytes)?
            && job.bias.len() / PANEL >= panels
            && job.multipliers.len() / PANEL >= panels
            && x.len() >= reach(job.rows, job.x_stride, job.k)?
            && out_len >= reach(job.rows, job.out_stride, job.n)?;
        fits.then_some(Self { job, x, wide, panel, padded_k, panel_bytes })
    }

    /// All rows, part by part through `epilogue`.
    fn run<B: Block>(&mut self, epilogue: &mut impl FnMut(Part<'_>)) {
        let job = self.job;
        let mut first = 0;
        while first < job.rows {
            let rows = (job.rows - first).min(ROWS);
            if rows > 1 {
                let (wide, _) = self.wide.as_chunks_mut::<ROWS>();
                let wide = wide.get_mut(..self.padded_k).unwrap_or(&mut []);
                interleave(self.x, first, job.rows, job.x_stride, job.k, wide);
            } else {
                let x = self.x.get(first * job.x_stride..).and_then(|x| x.get(..job.k)).unwrap_or(&[]);
                let mut values = x.iter();
                let wide = self.wide.get_mut(..self.padded_k).unwrap_or(&mut []);
                wide.iter_mut().for_each(|to| *to = values.next().map_or(0, |&value| i16::from(value)));
            }
            self.channels::<B>(first, rows, epilogue);
            first += rows;
        }
    }

    /// All channels of the rows that are widened.
    fn channels<B: Block>(&mut self, first: usize, rows: usize, epilogue: &mut impl FnMut(Part<'_>)) {
        let job = self.job;
        let panels = job.weights.bytes.chunks_exact(self.panel_bytes.max(1));
        let constants = job.bias.as_chunks::<PANEL>().0.iter().zip(job.multipliers.as_chunks::<PANEL>().0);
        for (index, (panel, (bias, multipliers))) in panels.zip(constants).enumerate() {
            let channel = index * PANEL;
            if channel >= job.n {
                return;
            }
            let weights = if self.panel.is_empty() {
                panel
            } else {
                job.weights.format.unpack(panel, self.panel);
                &*self.panel
            };
            let mut sums: Sums = [*bias; ROWS];
            if rows > 1 {
                self.block::<B>(weights, &mut sums);
            } else {
                self.row::<B>(weights, &mut sums);
            }
            let part = Part {
                start: first * job.out_stride + channel,
                stride: job.out_stride,
                count: (job.n - channel).min(PANEL),
                multipliers,
                sums: sums.get(..rows).unwrap_or(&[]),
            };
            epilogue(part);
        }
    }

    fn block<B: Block>(&self, weights: &[u8], sums: &mut Sums) {
        let x = self.wide.as_ptr().expose_provenance();
        let mut frame = Frame {
            sums: sums.as_mut_ptr().expose_provenance(),
            x,
            x_end: x + self.padded_k * size_of::<[i16; ROWS]>(),
            weights: [weights.as_ptr().expose_provenance(); PANEL],
        };
        for _ in 0..PANEL / B::CHANNELS {
            // SAFETY: `new` compared the weights with N and K; the scratch holds blocks up to `padded_k`, the sums are
            // those of a panel.
            unsafe { B::dense(&frame) };
            frame.sums += B::CHANNELS * size_of::<i32>();
            frame.weights[0] += B::CHANNELS * GROUP;
        }
    }

    fn row<B: Block>(&self, weights: &[u8], sums: &mut Sums) {
        let x = self.wide.as_ptr().expose_provenance();
        let frame = Frame {
            sums: sums.as_mut_ptr().expose_provenance(),
            x,
            x_end: x + self.padded_k * size_of::<i16>(),
            weights: [weights.as_ptr().expose_provenance(); PANEL],
        };
        // SAFETY: as in `block`, for one row.
        unsafe { B::row(&frame) };
    }
}

/// Requantizes the sums of a part.
#[inline(never)]
fn epilogue(job: &LinearJob<'_>, part: &Part<'_>, out: &mut LinearOut<'_>) {
    let requantize = |acc: i32, m: i32| mulhi_round(acc << job.acc_shift, m);
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

/// Sums of rows by a panel, on their way out.
struct Part<'p> {
    /// Element of the output.
    start: usize,
    /// Elements between rows of the output.
    stride: usize,
    /// Channels.
    count: usize,
    multipliers: &'p [i32; PANEL],
    sums: &'p [[i32; PANEL]],
}

impl Part<'_> {
    #[inline(always)]
    fn store<T>(&self, out: &mut [T], epilogue: impl Fn(i32, i32, &mut T)) {
        let mut start = self.start;
        for sums in self.sums {
            let out = out.get_mut(start..).and_then(|out| out.get_mut(..self.count)).unwrap_or(&mut []);
            for ((out, &acc), &m) in out.iter_mut().zip(sums).zip(self.multipliers) {
                epilogue(acc, m, out);
            }
            start += self.stride;
        }
    }
}
