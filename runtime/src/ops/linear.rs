//! Dense layer: `y = requantize(x W^T + b)`, with an optional 256-entry table or residual behind it.

use super::{
    Division, Inputs, Memory, OpFault, Operands, Operator, Proof, RowAccess, RowRead, RunFault, STEP_WORK, require,
};
use crate::format::{Blob, op_params};
use crate::kernels::{self, Kernels, LinearJob, LinearOut};
use crate::tensor::Dtype;
use crate::weights::{PANEL, PackedWeights, WeightFormat};
use core::ops::Range;

op_params! {
    /// `x: [rows, k] i8` and optionally `residual: [rows, n] i16` to `y: [rows, n]` in `i8` or `i16`; in `i32` the sums
    /// themselves, for [`DyadicRequant`](super::dyadic_requant::DyadicRequant).
    ///
    /// With a residual (input 1) `y` is `i16` and may lie in the residual's memory.
    Linear {
        /// Rows (tokens).
        rows: u32,
        /// Input width.
        k: u32,
        /// Output width.
        n: u32,
        /// Right shift of the residual, 0..=15.
        residual_shift: u32,
        /// Weights and requantization.
        dense: Dense,
    }
}

op_params! {
    /// What every layer with packed weights shares: weights, bias, requantization, table.
    Dense {
        /// How the weights are packed.
        format: WeightFormat,
        /// Left shift of accumulators.
        acc_shift: u32,
        /// Zero point of the value before the table.
        zero_point: i32,
        /// [`PackedWeights`].
        weights: Blob,
        /// `i32` per channel, padded to a multiple of 4.
        bias: Blob,
        /// `i32` per channel, padded to a multiple of 4; none where the output is the sums.
        multipliers: Blob,
        /// 256 bytes applied to `i8` outputs, or none.
        lut: Blob,
    }
}

/// Whether no multiplier is negative.
pub(super) fn are_positive(multipliers: &[u8]) -> bool {
    multipliers.as_chunks::<4>().0.iter().all(|m| i32::from_le_bytes(*m) >= 0)
}

/// Longest sum: keeps the sizes of scratch memory inside 32 bits.
const MAX_K: u32 = 1 << 24;

/// Bytes of an `i32` for each of `n` channels, padded to whole panels.
pub(super) fn channel_bytes(n: u32) -> u64 {
    u64::from(n).next_multiple_of(PANEL as u64) * size_of::<i32>() as u64
}

impl Dense {
    /// Checks the blobs of an `[n, k]` layer and, from the weights, that no accumulator leaves the certificate.
    pub(super) fn check(&self, io: &Operands<'_>, n: u32, k: u32, out: Dtype) -> Result<Proof, OpFault> {
        let (weights, bias) = self.check_blobs(io, n, k, out)?;
        if io.proven {
            return Ok(Proof::NONE);
        }
        let bounds = weights.acc_bounds(bias, k as usize);
        Ok(if out == Dtype::I32 { Proof::sums(bounds) } else { Proof::of(bounds, self.acc_shift) })
    }

    /// Checks the blobs of an `[n, k]` layer; returns its weights and biases.
    pub(super) fn check_blobs<'a>(
        &self,
        io: &Operands<'a>,
        n: u32,
        k: u32,
        out: Dtype,
    ) -> Result<(PackedWeights<'a>, &'a [u8]), OpFault> {
        require(n > 0 && k > 0 && k <= MAX_K, OpFault::Range)?;
        require(self.zero_point >= -32768 && self.zero_point <= 32767, OpFault::Range)?;
        let bytes = io.need_blob(self.weights, self.format.bytes(n, k))?;
        let channels = channel_bytes(n);
        let bias = io.need_blob(self.bias, channels)?;
        if self.lut.is_some() {
            io.need_blob(self.lut, 256)?;
            require(out == Dtype::I8, OpFault::Blob)?;
        }
        if out == Dtype::I32 {
            require(!self.multipliers.is_some() && self.acc_shift == 0, OpFault::Range)?;
        } else {
            let multipliers = io.need_blob(self.multipliers, channels)?;
            require(io.proven || are_positive(multipliers), OpFault::Range)?;
        }
        // The weights are there: `k` fits memory.
        Ok((PackedWeights { bytes, format: self.format }, bias))
    }

    /// The job of `rows` rows. Inlined: its parameters then go from the file to the job without a copy between them.
    #[inline(always)]
    pub(super) fn job<'a>(&self, inputs: &Inputs<'a>, size: JobSize) -> Result<LinearJob<'a>, RunFault> {
        // Raw sums have no multipliers; the kernels want a slice of this length.
        let multipliers = if self.multipliers.is_some() { self.multipliers } else { self.bias };
        Ok(LinearJob {
            rows: size.rows,
            k: size.k,
            n: size.n,
            x_stride: size.x_stride,
            out_stride: size.out_stride,
            weights: PackedWeights { bytes: inputs.blob(self.weights)?, format: self.format },
            bias: inputs.blob(self.bias)?,
            multipliers: inputs.blob(multipliers)?,
            acc_shift: self.acc_shift,
            zero_point: self.zero_point,
        })
    }

    /// The table, where there is one.
    pub(super) fn table<'a>(&self, inputs: &Inputs<'a>) -> Result<Option<&'a [i8; 256]>, RunFault> {
        if !self.lut.is_some() {
            return Ok(None);
        }
        inputs.blob::<i8>(self.lut)?.first_chunk().map(Some).ok_or(RunFault::Memory)
    }
}

/// Rows, widths and strides of one dense job.
#[derive(Clone, Copy)]
pub(super) struct JobSize {
    pub rows: usize,
    pub k: usize,
    pub n: usize,
    pub x_stride: usize,
    pub out_stride: usize,
}

/// Work of an output besides its products.
pub(super) const EPILOGUE_WORK: u32 = 24;

/// Rows of a part.
const ROW_BLOCK: u32 = kernels::ROW_BLOCK as u32;

impl Linear {
    /// Work of an output.
    fn channel_work(&self) -> u32 {
        self.k.saturating_add(EPILOGUE_WORK)
    }

    /// Parts of a block of rows: as few as have no more work than a step, of a panel at least.
    fn groups(&self) -> u32 {
        let of_a_step = STEP_WORK / super::work(&[ROW_BLOCK, PANEL as u32, self.channel_work()]).max(1);
        self.n.div_ceil(PANEL as u32).div_ceil(of_a_step.max(1))
    }

    /// Channels of a part, whole panels.
    fn group(&self) -> u32 {
        self.n.div_ceil(PANEL as u32).div_ceil(self.groups().max(1)).saturating_mul(PANEL as u32)
    }

    /// Rows `rows`, the channels `channels`, which start a panel.
    fn run_rows<B: Kernels>(
        &self,
        memory: &mut Memory<'_>,
        rows: Range<u32>,
        channels: Range<u32>,
    ) -> Result<(), RunFault> {
        let (k, n) = (self.k as usize, self.n as usize);
        let rows = rows.start as usize..rows.end as usize;
        let size = JobSize { rows: rows.len(), k, n, x_stride: k, out_stride: n };
        // By reference: a move would copy it.
        let Ok(job) = &mut self.dense.job(&memory.inputs, size) else { return Err(RunFault::Memory) };
        let first = channels.start as usize;
        // A row alone is too little work to take all of it.
        if channels.len() < n {
            job.take_channels(first, channels.len()).ok_or(RunFault::Memory)?;
        }
        let lut = self.dense.table(&memory.inputs)?;
        let x = memory.inputs.rows::<i8>(0, rows.clone(), k)?;
        if memory.output.dtype == Dtype::I8 {
            let (out, scratch) = memory.out_rows_from::<i8>(rows, n, first)?;
            B::linear(job, x, LinearOut::I8 { out, lut }, scratch);
            return Ok(());
        }
        if memory.output.dtype == Dtype::I32 {
            let (out, scratch) = memory.out_rows_from::<i32>(rows, n, first)?;
            B::linear_acc(job, x, out, scratch);
            return Ok(());
        }
        let adds = memory.inputs.record(1).is_some();
        // Once for all parts of the rows: the first.
        let residual = match adds && first == 0 && !memory.inputs.is_in_place(1) {
            true => memory.inputs.rows::<i16>(1, rows.clone(), n)?,
            false => &[],
        };
        let (out, scratch) = memory.out_rows_from::<i16>(rows, n, first)?;
        for (to, &from) in out.iter_mut().zip(residual) {
            *to = from;
        }
        let residual_shift = self.residual_shift;
        let out = if adds { LinearOut::I16Residual { out, residual_shift } } else { LinearOut::I16 { out } };
        B::linear(job, x, out, scratch);
        Ok(())
    }
}

impl Operator for Linear {
    fn check(&self, io: &Operands<'_>) -> Result<Proof, OpFault> {
        let (rows, k, n) = (u64::from(self.rows), u64::from(self.k), u64::from(self.n));
        io.need_input(0, &[Dtype::I8], rows * k)?;
        let out = io.need_output(&[Dtype::I8, Dtype::I16, Dtype::I32], rows * n)?;
        if io.input(1).is_some() {
            let residual = io.need_input(1, &[Dtype::I16], rows * n)?;
            let same = out.dtype == Dtype::I16 && residual.len() == out.len();
            require(same && out.len() as u64 == rows * n, OpFault::Operand)?;
            require(self.residual_shift <= 15, OpFault::Range)?;
        }
        self.dense.check(io, self.n, self.k, out.dtype)
    }

    fn run<B: Kernels>(&self, memory: &mut Memory<'_>, rows: Range<u32>) -> Result<(), RunFault> {
        self.run_rows::<B>(memory, rows, 0..self.n)
    }

    fn run_parts<B: Kernels>(&self, memory: &mut Memory<'_>, mut parts: Range<u32>) -> Result<(), RunFault> {
        // The channels of a block of rows, then those of the next block.
        let (groups, group) = (self.groups().max(1), self.group());
        parts.try_for_each(|part| {
            let (row, channel) = (part / groups * ROW_BLOCK, part % groups * group);
            let rows = row..row.saturating_add(ROW_BLOCK).min(self.rows);
            let channels = channel..channel.saturating_add(group).min(self.n);
            // Whole panels a part may leave none for the last one.
            if channels.is_empty() { Ok(()) } else { self.run_rows::<B>(memory, rows, channels) }
        })
    }

    fn macs(&self) -> u64 {
        u64::from(self.rows) * u64::from(self.k) * u64::from(self.n)
    }

    fn scratch_bytes(&self) -> u32 {
        kernels::dense_scratch_bytes(self.k as usize, self.dense.format) as u32
    }

    fn in_place(&self) -> Option<usize> {
        Some(1)
    }

    fn piece_work(&self) -> u32 {
        self.n.saturating_mul(self.channel_work())
    }

    fn pieces(&self) -> u32 {
        self.rows
    }

    fn block(&self) -> u32 {
        ROW_BLOCK
    }

    fn parts(&self) -> u32 {
        match self.groups() {
            1 => 0,
            groups => self.rows.div_ceil(ROW_BLOCK).saturating_mul(groups),
        }
    }

    fn part_work(&self) -> u32 {
        super::work(&[ROW_BLOCK, self.group(), self.channel_work()])
    }

    fn division(&self) -> Option<Division> {
        Some(Division::rows(self.n, u64::from(self.n) * u64::from(self.k)))
    }

    fn row_access(&self) -> Option<RowAccess> {
        let [_, _, rest @ ..] = RowRead::NONE;
        let [c, d, e, f] = rest;
        Some(RowAccess::rows([RowRead::Row(self.k), RowRead::Row(self.n), c, d, e, f], self.n))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Random, Weights, run, run_in_place};
    use super::*;
    use std::vec::Vec;

    fn pack(w: &[i8], n: usize, k: usize) -> Vec<i8> {
        let groups = k.div_ceil(kernels::GROUP);
        let mut packed = std::vec![0; PackedWeights::bytes_for(n, k, WeightFormat::I8)];
        for (i, &w) in w.iter().enumerate() {
            let (ch, k) = (i / k, i % k);
            packed[((ch / PANEL) * groups + k / 16) * 64 + (ch % PANEL) * 16 + k % 16] = w;
        }
        packed
    }

    #[test]
    fn raw_sums_stay_in_the_proof_for_extreme_inputs() {
        let mut random = Random(6);
        let (rows, k, n) = (7usize, 35usize, 6usize);
        let w: Vec<i8> = random.values(Dtype::I8, n * k).into_iter().map(|w| w as i8).collect();
        let bias: Vec<i32> = random.values(Dtype::I16, n.next_multiple_of(PANEL));
        let mut weights = Weights::default();
        let dense = Dense {
            format: WeightFormat::I8,
            acc_shift: 0,
            zero_point: 0,
            weights: weights.add(&pack(&w, n, k)),
            bias: weights.add(&bias),
            multipliers: Blob::NONE,
            lut: Blob::NONE,
        };
        let op = Linear { rows: rows as u32, k: k as u32, n: n as u32, residual_shift: 0, dense };
        // The first rows have the signs of a channel's weights: they attain the bounds.
        let mut x = random.values(Dtype::I8, rows * k);
        for row in 0..rows - 1 {
            for i in 0..k {
                let extreme = match row {
                    0 => -128,
                    1 => 127,
                    2 => {
                        if i % 2 == 0 {
                            -128
                        } else {
                            127
                        }
                    }
                    row => {
                        if (w[row * k + i] > 0) == (row % 2 == 0) {
                            127
                        } else {
                            -128
                        }
                    }
                };
                x[row * k + i] = extreme;
            }
        }
        let (proof, y) = run(&op, &weights, &[(Dtype::I8, &x)], (Dtype::I32, rows * n)).unwrap();
        for (i, &y) in y.iter().enumerate() {
            let (row, ch) = (i / n, i % n);
            let sum: i32 = (0..k).map(|i| x[row * k + i] * i32::from(w[ch * k + i])).sum();
            assert_eq!(y, bias[ch] + sum);
            assert!((proof.acc.0..=proof.acc.1).contains(&i64::from(y)));
        }
    }

    /// `run` compares parts with the whole run.
    #[test]
    fn a_layer_with_more_than_a_step_of_five_rows_runs_in_parts() {
        let mut random = Random(8);
        let (rows, k, n) = (8usize, 100usize, 190usize);
        let w: Vec<i8> = random.values(Dtype::I8, n * k).into_iter().map(|w| w as i8).collect();
        let padded = n.next_multiple_of(PANEL);
        let mut weights = Weights::default();
        let mut dense = Dense {
            format: WeightFormat::I8,
            acc_shift: 0,
            zero_point: 3,
            weights: weights.add(&pack(&w, n, k)),
            bias: weights.add(&random.values(Dtype::I16, padded)),
            multipliers: weights.add(&std::vec![1 << 20; padded]),
            lut: Blob::NONE,
        };
        let (x, residual) = (random.values(Dtype::I8, rows * k), random.values(Dtype::I16, rows * n));
        let op = |dense| Linear { rows: rows as u32, k: k as u32, n: n as u32, residual_shift: 2, dense };
        assert_eq!(op(dense).parts(), 4, "two blocks of rows by two groups of channels");
        assert!(op(dense).part_work() <= STEP_WORK);
        let (x, residual) = ((Dtype::I8, &x[..]), (Dtype::I16, &residual[..]));
        let apart = run(&op(dense), &weights, &[x, residual], (Dtype::I16, rows * n)).unwrap().1;
        let in_place = run_in_place(&op(dense), &weights, &[x, residual], (Dtype::I16, rows * n)).unwrap().1;
        assert_eq!(apart, in_place);
        dense.lut = weights.add(&random.values(Dtype::I8, 256).into_iter().map(|y| y as i8).collect::<Vec<_>>());
        run(&op(dense), &weights, &[x], (Dtype::I8, rows * n)).unwrap();
        (dense.lut, dense.multipliers) = (Blob::NONE, Blob::NONE);
        let (_, sums) = run(&op(dense), &weights, &[x], (Dtype::I32, rows * n)).unwrap();
        let last: i32 = (0..k).map(|i| x.1[(rows - 1) * k + i] * i32::from(w[(n - 1) * k + i])).sum();
        assert_eq!(sums.last().copied(), Some(last + weights_bias(&weights, dense.bias, n - 1)));
    }

    fn weights_bias(weights: &Weights, bias: Blob, channel: usize) -> i32 {
        let bytes = bias.of(&weights.0).and_then(|bytes| bytes.as_chunks::<4>().0.get(channel));
        bytes.map_or(0, |bytes| i32::from_le_bytes(*bytes))
    }

    #[test]
    fn a_layer_that_can_overflow_has_no_certificate() {
        let k = 140_000;
        let mut weights = Weights::default();
        let dense = Dense {
            format: WeightFormat::I8,
            acc_shift: 0,
            zero_point: 0,
            weights: weights.add(&pack(&std::vec![127; k], 1, k)),
            bias: weights.add(&[0i32; 4]),
            multipliers: Blob::NONE,
            lut: Blob::NONE,
        };
        let op = Linear { rows: 1, k: k as u32, n: 1, residual_shift: 0, dense };
        let x = std::vec![0; k];
        let (proof, _) = run(&op, &weights, &[(Dtype::I8, &x)], (Dtype::I32, 1)).unwrap();
        assert_eq!(proof.certificate().err(), Some(OpFault::Overflow));
    }
}
