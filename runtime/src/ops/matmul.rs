//! Product of two activations: `y = requantize(a b)` for every matrix of a batch.

use super::linear::EPILOGUE_WORK;
use super::memory::{cast, cast_mut};
use super::{Division, Memory, OpFault, Operands, Operator, Proof, RunFault, require};
use crate::arith::requant::{requantize_i8, requantize_i16};
use crate::format::{TensorRecord, op_params};
use crate::kernels::{DotJob, Kernels, ROW_BLOCK, linear_scratch_bytes};
use crate::tensor::Dtype;
use core::ops::Range;

op_params! {
    /// `a: [.., m, k] i8` times `b` (`i8`, `[.., n, k]` or `[.., k, n]`) to `y: [batch, m, n] i8 | i16`, contiguous; in
    /// `i32` the sums themselves, for [`DyadicRequant`](super::dyadic_requant::DyadicRequant).
    ///
    /// `a` may be `u16`, of which greater values than 2^15 - 1 count as 2^15 - 1: the 16-bit probabilities of
    /// [`Shiftmax`](super::shiftmax::Shiftmax).
    ///
    /// The batch has three dimensions with strides of their own on both sides (0 repeats).
    MatMul {
        /// Batch dimensions.
        batch: [u32; 3],
        /// Rows of `a`.
        m: u32,
        /// Columns of `b`.
        n: u32,
        /// Length of the sums.
        k: u32,
        /// Elements between the matrices of `a` along each batch dimension.
        a_batch: [u32; 3],
        /// Elements between rows of `a`.
        a_row: u32,
        /// Elements between the matrices of `b` along each batch dimension.
        b_batch: [u32; 3],
        /// Elements between rows of `b`.
        b_row: u32,
        /// `b` holds `[n, k]` instead of `[k, n]`.
        b_transposed: bool,
        /// Left shift of accumulators.
        acc_shift: u32,
        /// Requantization.
        multiplier: i32,
        /// Added after requantization.
        zero_point: i32,
    }
}

const MAX_DIM: u32 = 1 << 16;
/// Maximum 16-bit probability, one less a step: greater values of `a` count as this one.
pub const MAX_PROBABILITY: u16 = i16::MAX as u16;

impl MatMul {
    /// Checks shapes and operands; the records of `a`, in one of `types`, and of the output.
    pub(super) fn check_operands(
        &self,
        io: &Operands<'_>,
        types: &[Dtype],
        outputs: &[Dtype],
    ) -> Result<(TensorRecord, TensorRecord), OpFault> {
        let dims = self.batch.iter().chain([&self.m, &self.n, &self.k]);
        require(dims.clone().all(|&d| d > 0 && d <= MAX_DIM) && self.multiplier >= 0, OpFault::Range)?;
        require(self.zero_point.unsigned_abs() <= 32768, OpFault::Range)?;
        let batches = super::product(&self.batch);
        require(batches.saturating_mul(u64::from(self.blocks())) <= u64::from(u32::MAX), OpFault::Range)?;
        let reach = |strides: [u32; 3], rows: u32, row: u32, width: u32| {
            let batch: u64 = strides.iter().zip(&self.batch).map(|(&s, &d)| u64::from(s) * u64::from(d - 1)).sum();
            batch + u64::from(row) * u64::from(rows - 1) + u64::from(width)
        };
        let (b_rows, b_width) = if self.b_transposed { (self.n, self.k) } else { (self.k, self.n) };
        require(self.a_row >= self.k && self.b_row >= b_width, OpFault::Range)?;
        let a = io.need_input(0, types, reach(self.a_batch, self.m, self.a_row, self.k))?;
        io.need_input(1, &[Dtype::I8], reach(self.b_batch, b_rows, self.b_row, b_width))?;
        let len = batches.saturating_mul(u64::from(self.m) * u64::from(self.n));
        let out = io.need_output(outputs, len)?;
        // In numbers of 64 bits: what is beyond `usize` is beyond this bound as well.
        let columns = u64::from(self.n) * u64::from(self.k).next_multiple_of(16);
        require(self.b_transposed || columns < 1 << 28, OpFault::Range)?;
        Ok((a, out))
    }

    pub(super) fn blocks(&self) -> u32 {
        self.m.div_ceil(ROW_BLOCK as u32)
    }

    pub(super) fn padded_k(&self) -> usize {
        (self.k as usize).next_multiple_of(16)
    }

    pub(super) fn column_bytes(&self) -> usize {
        if self.b_transposed { 0 } else { self.n as usize * self.padded_k() }
    }

    pub(super) fn acc_bytes(&self) -> usize {
        (ROW_BLOCK * self.n as usize * 4).next_multiple_of(16)
    }

    /// Writes sums to the elements of `out` from `start`, requantized unless the output is the sums.
    pub(super) fn write_sums(&self, acc: &[i32], start: usize, dtype: Dtype, out: &mut [u8]) -> Result<(), RunFault> {
        match dtype {
            Dtype::I8 => {
                let out: &mut [i8] = cast_mut(out)?;
                for (out, &acc) in out.get_mut(start..).unwrap_or(&mut []).iter_mut().zip(acc) {
                    *out = requantize_i8(acc, self.acc_shift, self.multiplier, self.zero_point);
                }
            }
            Dtype::I32 => {
                let out: &mut [i32] = cast_mut(out)?;
                out.get_mut(start..).unwrap_or(&mut []).iter_mut().zip(acc).for_each(|(out, &acc)| *out = acc);
            }
            _ => {
                let out: &mut [i16] = cast_mut(out)?;
                for (out, &acc) in out.get_mut(start..).unwrap_or(&mut []).iter_mut().zip(acc) {
                    *out = requantize_i16(acc, self.acc_shift, self.multiplier);
                }
            }
        }
        Ok(())
    }

    /// Offset of matrix `index` of the batch.
    pub(super) fn start(&self, index: u32, strides: [u32; 3]) -> usize {
        // Checked, since the test for zero dimensions may be far from here for the compiler.
        let split = |index: u32, by: u32| (index.checked_div(by).unwrap_or(0), index.checked_rem(by).unwrap_or(0));
        let [_, d1, d2] = self.batch;
        let (outer, i2) = split(index, d2);
        let (i0, i1) = split(outer, d1);
        let [s0, s1, s2] = strides;
        i0 as usize * s0 as usize + i1 as usize * s1 as usize + i2 as usize * s2 as usize
    }
}

/// Work of a product, see [`Division`].
const PRODUCT_WORK: u64 = 10;

/// Work of moving an element of a matrix to its place in the transposed one.
pub(super) const TRANSPOSE_WORK: u32 = 12;

impl Operator for MatMul {
    fn check(&self, io: &Operands<'_>) -> Result<Proof, OpFault> {
        let (a, out) = self.check_operands(io, &[Dtype::I8, Dtype::U16], &[Dtype::I8, Dtype::I16, Dtype::I32])?;
        let (min, max) = if a.dtype == Dtype::U16 { (0, i64::from(MAX_PROBABILITY)) } else { (-128, 127) };
        let k = i64::from(self.k);
        let dots = (-128 * max * k, (127 * max).max(-128 * min) * k);
        Ok(if out.dtype == Dtype::I32 { Proof::sums(dots) } else { Proof::of(dots, self.acc_shift) })
    }

    fn run<B: Kernels>(&self, memory: &mut Memory<'_>, pieces: Range<u32>) -> Result<(), RunFault> {
        let (a, b) = (memory.inputs.bytes(0)?, memory.inputs.get::<i8>(1)?);
        let a_type = memory.inputs.record(0).ok_or(RunFault::Memory)?.dtype;
        let (n, padded) = (self.n as usize, self.padded_k());
        let blocks = self.blocks().max(1);
        let (skipped, first_piece) = (memory.skipped(), pieces.start);
        for piece in pieces {
            let (matrix, block) = (piece / blocks, piece % blocks);
            let first = block as usize * ROW_BLOCK;
            let rows = (self.m as usize).saturating_sub(first).min(ROW_BLOCK);
            let a_start = self.start(matrix, self.a_batch) + first * self.a_row as usize;
            let a = a.get(a_start * a_type.bytes()..).ok_or(RunFault::Memory)?;
            let b = b.get(self.start(matrix, self.b_batch)..).ok_or(RunFault::Memory)?;
            let (columns, rest) = memory.scratch.split_at_mut_checked(self.column_bytes()).ok_or(RunFault::Memory)?;
            let (acc, scratch) = rest.split_at_mut_checked(self.acc_bytes()).ok_or(RunFault::Memory)?;
            let columns: &mut [i8] = cast_mut(columns)?;
            let acc: &mut [i32] = cast_mut(acc)?;
            // The transposed matrix stays in the scratch for the other row blocks; another thread has a scratch of its own.
            let is_new = block == 0 || skipped > 0 && piece == first_piece;
            if !self.b_transposed && is_new {
                B::transpose(b, self.b_row as usize, self.k as usize, n, columns, padded);
            }
            let (y, y_stride) = if self.b_transposed { (b, self.b_row as usize) } else { (&*columns, padded) };
            let job =
                DotJob { rows, cols: n, k: self.k as usize, x_stride: self.a_row as usize, y_stride, out_stride: n };
            if a_type == Dtype::U16 {
                super::dot_limited::<B>(&job, MAX_PROBABILITY, cast(a)?, y, acc, scratch);
            } else {
                B::dot_i8(&job, cast(a)?, y, acc, scratch);
            }
            let start = ((matrix as usize * self.m as usize + first) * n).saturating_sub(skipped);
            self.write_sums(acc.get(..rows * n).ok_or(RunFault::Memory)?, start, memory.output.dtype, memory.out)?;
        }
        Ok(())
    }

    fn macs(&self) -> u64 {
        super::product(&self.batch) * u64::from(self.m) * u64::from(self.n) * u64::from(self.k)
    }

    fn scratch_bytes(&self) -> u32 {
        (self.column_bytes() + self.acc_bytes() + linear_scratch_bytes(self.k as usize)) as u32
    }

    fn division(&self) -> Option<Division> {
        let rows = ROW_BLOCK as u32;
        let work = PRODUCT_WORK * u64::from(rows) * u64::from(self.n) * u64::from(self.k);
        Some(Division { out_row: self.n, group_rows: self.m, group: self.blocks(), rows, work })
    }

    fn piece_work(&self) -> u32 {
        let rows = super::work(&[ROW_BLOCK as u32, self.n, self.k.saturating_add(EPILOGUE_WORK)]);
        if self.b_transposed { rows } else { rows.saturating_add(super::work(&[TRANSPOSE_WORK, self.n, self.k])) }
    }

    fn pieces(&self) -> u32 {
        (super::product(&self.batch) as u32).saturating_mul(self.blocks())
    }
}
