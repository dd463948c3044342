//! LayerNorm and RMSNorm over the last dimension, see [`crate::arith::norm`].

use super::memory::{cast, cast_mut};
use super::{Division, Memory, OpFault, Operands, Operator, Proof, RowAccess, RowRead, RunFault, require};
use crate::arith::norm;
use crate::format::{Blob, op_params};
use crate::kernels::{Kernels, NormJob, NormOut, NormRow};
use crate::tensor::Dtype;
use core::ops::Range;

op_params! {
    /// `x: [rows, n] i8 | i16` to `y: [rows, n] i8 | i16`; an output may lie in the memory of an input of its
    /// type.
    LayerNorm {
        /// Rows (tokens).
        rows: u32,
        /// Width.
        n: u32,
        /// RMSNorm: the mean is not subtracted.
        rms: bool,
        /// `eps / s_x^2 * n^2`.
        eps: u64,
        /// `[n] i32`: `gamma / s_y * 2^(11 + F)`, `F` being the fractional bits of the output width.
        gamma: Blob,
        /// `[n] i32`: `beta / s_y * 2^F + 2^(F - 1)`.
        beta: Blob,
    }
}

/// Maximum magnitude of an entry of `beta`: the sum with the scaled value (below 2^26) stays in `i32`.
const MAX_BETA: u32 = 1 << 30;

/// Work of an element, see [`Division`].
const NORM_WORK: u64 = 80;

/// The same for [`Operator::piece_work`], and of a row besides.
const ELEMENT_WORK: u32 = 40;
const ROW_WORK: u32 = 600;

impl Operator for LayerNorm {
    fn check(&self, io: &Operands<'_>) -> Result<Proof, OpFault> {
        let len = u64::from(self.rows) * u64::from(self.n);
        require(self.n > 0 && self.n <= norm::MAX_WIDTH && self.eps <= norm::MAX_EPS, OpFault::Range)?;
        let input = io.need_input(0, &[Dtype::I8, Dtype::I16], len)?;
        let out = io.need_output(&[Dtype::I8, Dtype::I16], len)?;
        let aliased = out.offset == input.offset && out.place == input.place;
        require(!aliased || out.dtype == input.dtype, OpFault::Alias)?;
        io.need_blob(self.gamma, u64::from(self.n) * 4)?;
        let beta = io.need_blob(self.beta, u64::from(self.n) * 4)?;
        let beta = beta.as_chunks::<4>().0.iter().map(|b| i32::from_le_bytes(*b).unsigned_abs());
        let beta = beta.fold(0, u32::max);
        require(beta <= MAX_BETA, OpFault::Range)?;
        // sqrt(n), rounded up to a power of two: |c| * 2^(8 - e) <= sqrt(n) * 2^24, see `arith::norm`. Before its shift
        // |c| <= n * 2^16, which |sum x| <= n * 2^15 does not reach.
        let root = (u32::BITS - (self.n - 1).leading_zeros()).div_ceil(2);
        let centred = (i64::from(self.n) << 16).max(1 << (24 + root));
        // The reciprocal root, at most 2^30, and then gamma, at most 2^31, are the multipliers.
        let scaled = (centred >> 3) + 1 + i64::from(beta);
        // V <= n * sum x^2 + eps <= n^2 * 2^30 + 2^57 <= 2^58.
        let variance = ((u64::from(self.n) * u64::from(self.n)) << 30) + self.eps;
        Ok(Proof { row_sum: variance, second_acc: (-scaled, scaled), ..Proof::of((-centred, centred), 0) })
    }

    fn run<B: Kernels>(&self, memory: &mut Memory<'_>, rows: Range<u32>) -> Result<(), RunFault> {
        let n = self.n as usize;
        let (gamma, beta) = (memory.inputs.blob(self.gamma)?, memory.inputs.blob(self.beta)?);
        let job = NormJob { rms: self.rms, eps: self.eps, gamma, beta };
        let input = memory.inputs.record(0).ok_or(RunFault::Memory)?.dtype;
        let size = input.bytes();
        let narrow = memory.output.dtype == Dtype::I8;
        let rows = rows.start as usize..rows.end as usize;
        let held = rows.start - memory.output.first_held(rows.start);
        if !memory.inputs.is_in_place(0) {
            let all = memory.index(held * n)..memory.index((held + rows.len()) * n);
            let rows = norm_row(input, memory.inputs.rows(0, rows, n * size)?)?;
            B::norm_rows(&job, rows, norm_out(narrow, memory.out, all)?);
            return Ok(());
        }
        for row in 0..rows.len() {
            let first = memory.index((held + row) * n);
            // The row is overwritten while it is read: work from a copy.
            let row = memory.out.get(first * size..(first + n) * size).ok_or(RunFault::Memory)?;
            let copy = memory.scratch.get_mut(..n * size).ok_or(RunFault::Memory)?;
            copy.iter_mut().zip(row).for_each(|(to, from)| *to = *from);
            B::norm_row(&job, norm_row(input, copy)?, norm_out(narrow, memory.out, first..first + n)?);
        }
        Ok(())
    }

    fn scratch_bytes(&self) -> u32 {
        (self.n * 2).next_multiple_of(16)
    }

    fn in_place(&self) -> Option<usize> {
        Some(0)
    }

    fn piece_work(&self) -> u32 {
        self.n.saturating_mul(ELEMENT_WORK).saturating_add(ROW_WORK)
    }

    fn pieces(&self) -> u32 {
        self.rows
    }

    fn division(&self) -> Option<Division> {
        Some(Division::rows(self.n, NORM_WORK * u64::from(self.n)))
    }

    fn row_access(&self) -> Option<RowAccess> {
        Some(RowAccess::rows(RowRead::first(self.n), self.n))
    }
}

fn norm_row(dtype: Dtype, bytes: &[u8]) -> Result<NormRow<'_>, RunFault> {
    Ok(if dtype == Dtype::I8 { NormRow::I8(cast(bytes)?) } else { NormRow::I16(cast(bytes)?) })
}

/// Elements `range` of an output of 8 bits (`narrow`) or 16.
fn norm_out(narrow: bool, out: &mut [u8], range: Range<usize>) -> Result<NormOut<'_>, RunFault> {
    Ok(if narrow {
        NormOut::I8(cast_mut(out)?.get_mut(range).ok_or(RunFault::Memory)?)
    } else {
        NormOut::I16(cast_mut(out)?.get_mut(range).ok_or(RunFault::Memory)?)
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Random, Weights, run, run_in_place};
    use super::*;

    fn norm(weights: &mut Weights) -> LayerNorm {
        let (gamma, beta) = (weights.add(&[1i32 << 20; 5]), weights.add(&[(3i32 << 8) + 128; 5]));
        LayerNorm { rows: 2, n: 5, rms: false, eps: 1, gamma, beta }
    }

    #[test]
    fn constant_rows_give_beta() {
        let mut weights = Weights::default();
        let op = norm(&mut weights);
        let (_, y) = run(&op, &weights, &[(Dtype::I8, &[-128; 10])], (Dtype::I8, 10)).unwrap();
        assert_eq!(y, [3; 10]);
    }

    #[test]
    fn in_place_gives_the_same_in_both_widths() {
        let mut weights = Weights::default();
        let op = norm(&mut weights);
        for dtype in [Dtype::I8, Dtype::I16] {
            let x = Random(3).values(dtype, 10);
            let apart = run(&op, &weights, &[(dtype, &x)], (dtype, 10)).unwrap();
            assert_eq!(run_in_place(&op, &weights, &[(dtype, &x)], (dtype, 10)).unwrap(), apart);
        }
    }

    #[test]
    fn other_widths_may_not_share_memory() {
        let mut weights = Weights::default();
        let op = norm(&mut weights);
        let fault = run_in_place(&op, &weights, &[(Dtype::I16, &[0; 10])], (Dtype::I8, 10)).unwrap_err();
        assert_eq!(fault, OpFault::Alias);
    }
}
