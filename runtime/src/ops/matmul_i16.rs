//! Product of a 16-bit and an 8-bit activation: `y = requantize(a b)` for every matrix of a batch.

use super::halves::proof;
use super::matmul::MatMul;
use super::memory::{cast, cast_mut};
use super::{Division, Memory, OpFault, Operands, Operator, Proof, RunFault, require};
use crate::format::op_params;
use crate::kernels::{DotJob, Kernels, ROW_BLOCK, portable};
use crate::stepwise::stepwise;
use crate::tensor::Dtype;
use core::ops::Range;

op_params! {
    /// `a: [.., m, k] i16` times `b` (`i8`, `[.., n, k]` or `[.., k, n]`) to `y: [batch, m, n] i8 | i16`, contiguous.
    ///
    /// The sums are those of [`halves`](super::halves): `acc = (sum(a b) + 2^(drop-1)) >> drop`.
    MatMulI16 {
        /// As for 8-bit operands.
        product: MatMul,
        /// Low bits of the sum that are left out, 0..=8.
        drop: u32,
    }
}

impl MatMulI16 {
    fn plane(&self) -> usize {
        (ROW_BLOCK * self.product.k as usize).next_multiple_of(16)
    }
}

impl Operator for MatMulI16 {
    fn check(&self, io: &Operands<'_>) -> Result<Proof, OpFault> {
        self.product.check_operands(io, &[Dtype::I16], &[Dtype::I8, Dtype::I16])?;
        require(self.drop <= 8, OpFault::Range)?;
        let k = i64::from(self.product.k);
        let half = if self.drop > 0 { 1 << (self.drop - 1) } else { 0 };
        let (min, max) = (-128 * 127 * k, 128 * 128 * k);
        Ok(proof([(min, max), (min, max + half)], self.drop, self.product.acc_shift))
    }

    fn run<B: Kernels>(&self, memory: &mut Memory<'_>, pieces: Range<u32>) -> Result<(), RunFault> {
        let op = &self.product;
        let (a, b) = (cast::<i16>(memory.inputs.bytes(0)?)?, memory.inputs.get::<i8>(1)?);
        let (n, k, padded) = (op.n as usize, op.k as usize, op.padded_k());
        let blocks = op.blocks().max(1);
        let half = if self.drop > 0 { 1 << (self.drop - 1) } else { 0 };
        let (skipped, first_piece) = (memory.skipped(), pieces.start);
        for piece in pieces {
            let (matrix, block) = (piece / blocks, piece % blocks);
            let first = block as usize * ROW_BLOCK;
            let rows = (op.m as usize).saturating_sub(first).min(ROW_BLOCK);
            let a = a.get(op.start(matrix, op.a_batch) + first * op.a_row as usize..).ok_or(RunFault::Memory)?;
            let b = b.get(op.start(matrix, op.b_batch)..).ok_or(RunFault::Memory)?;
            let (columns, rest) = memory.scratch.split_at_mut_checked(op.column_bytes()).ok_or(RunFault::Memory)?;
            let (acc, rest) = rest.split_at_mut_checked(op.acc_bytes()).ok_or(RunFault::Memory)?;
            let (low_acc, rest) = rest.split_at_mut_checked(op.acc_bytes()).ok_or(RunFault::Memory)?;
            let (high, rest) = rest.split_at_mut_checked(self.plane()).ok_or(RunFault::Memory)?;
            let (low, scratch) = rest.split_at_mut_checked(self.plane()).ok_or(RunFault::Memory)?;
            let [columns, high, low]: [&mut [i8]; 3] = [cast_mut(columns)?, cast_mut(high)?, cast_mut(low)?];
            let (acc, low_acc): (&mut [i32], &mut [i32]) = (cast_mut(acc)?, cast_mut(low_acc)?);
            // The transposed matrix stays in the scratch for the other row blocks; another thread has a scratch of its own.
            let is_new = block == 0 || skipped > 0 && piece == first_piece;
            if !op.b_transposed && is_new {
                B::transpose(b, op.b_row as usize, k, n, columns, padded);
            }
            let (y, y_stride) = if op.b_transposed { (b, op.b_row as usize) } else { (&*columns, padded) };
            let halves = stepwise(high.chunks_exact_mut(k.max(1))).zip(stepwise(low.chunks_exact_mut(k.max(1))));
            for (row, (high, low)) in halves.enumerate() {
                let a = a.get(row * op.a_row as usize..).unwrap_or(&[]);
                portable::split_halves(a, high, low);
            }
            let job = DotJob { rows, cols: n, k, x_stride: k, y_stride, out_stride: n };
            B::dot_i8(&job, high, y, acc, scratch);
            B::dot_i8(&job, low, y, low_acc, scratch);
            low_acc.iter_mut().for_each(|low| *low = low.wrapping_add(half));
            portable::join_halves(acc, low_acc, self.drop);
            let start = ((matrix as usize * op.m as usize + first) * n).saturating_sub(skipped);
            op.write_sums(acc.get(..rows * n).ok_or(RunFault::Memory)?, start, memory.output.dtype, memory.out)?;
        }
        Ok(())
    }

    fn macs(&self) -> u64 {
        self.product.macs()
    }

    fn scratch_bytes(&self) -> u32 {
        let planes = 2 * self.plane() as u32;
        self.product.scratch_bytes().saturating_add(self.product.acc_bytes() as u32).saturating_add(planes)
    }

    fn division(&self) -> Option<Division> {
        let division = self.product.division()?;
        Some(Division { work: 2 * division.work, ..division })
    }

    fn piece_work(&self) -> u32 {
        // Two products, and the halves of both operands.
        self.product.piece_work().saturating_mul(3)
    }

    fn pieces(&self) -> u32 {
        self.product.pieces()
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Random, Weights, run, run_with};
    use super::*;
    use crate::arith::requant::{mulhi_round, sat_i16};
    use crate::kernels::Native;
    use std::vec::Vec;

    #[test]
    fn products_are_those_of_the_whole_values() {
        for (m, n, k) in [(1, 1, 1), (7, 5, 33), (12, 18, 400)] {
            for b_transposed in [false, true] {
                for drop in [0, 2, 8] {
                    let mut random = Random(k as u64);
                    let mut a = random.values(Dtype::I16, 2 * m * k);
                    a.iter_mut().take(k).for_each(|x| *x = -32768);
                    a[0] = 32767;
                    let b = random.values(Dtype::I8, 2 * n * k);
                    let product = MatMul {
                        batch: [1, 1, 2],
                        m: m as u32,
                        n: n as u32,
                        k: k as u32,
                        a_batch: [0, 0, (m * k) as u32],
                        a_row: k as u32,
                        b_batch: [0, 0, (n * k) as u32],
                        b_row: if b_transposed { k } else { n } as u32,
                        b_transposed,
                        acc_shift: 0,
                        multiplier: 1 << 22,
                        zero_point: 0,
                    };
                    let op = MatMulI16 { product, drop };
                    let at = |batch: usize, i: usize, j: usize| {
                        let b = |l: usize| b[batch * n * k + if b_transposed { j * k + l } else { l * n + j }];
                        let sum: i64 =
                            (0..k).map(|l| i64::from(a[(batch * m + i) * k + l].min(32639)) * i64::from(b(l))).sum();
                        let acc = if drop > 0 { (sum + (1 << (drop - 1))) >> drop } else { sum };
                        i32::from(sat_i16(mulhi_round(acc as i32, 1 << 22)))
                    };
                    let expected: Vec<i32> = (0..2 * m * n).map(|x| at(x / (m * n), x / n % m, x % n)).collect();
                    let inputs = [(Dtype::I16, &a[..]), (Dtype::I8, &b[..])];
                    let weights = Weights::default();
                    let output = (Dtype::I16, 2 * m * n);
                    assert_eq!(run(&op, &weights, &inputs, output).expect("runs").1, expected, "{m} {n} {k} {drop}");
                    let native = run_with::<Native>(&op, &weights, &inputs, output).expect("runs").1;
                    assert_eq!(native, expected, "native {m} {n} {k} {drop}");
                }
            }
        }
    }
}
