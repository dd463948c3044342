//! Mean along one run of dimensions.

use super::{Division, Memory, OpFault, Operands, Operator, Proof, RunFault, require, wide};
use crate::arith::requant::mulhi_round;
use crate::format::op_params;
use crate::kernels::Kernels;
use crate::tensor::Dtype;
use core::ops::Range;

op_params! {
    /// `x: [outer, r, inner]` to `y: [outer, inner]`: `sat(zero_point + mulhi_round((bias + sum_r x) << acc_shift, M))`.
    ReduceMean {
        /// Dimensions before.
        outer: u32,
        /// Summed dimension.
        r: u32,
        /// Dimensions after.
        inner: u32,
        /// Added to the sum: `-r` times the input's zero point.
        bias: i32,
        /// Left shift of the sum.
        acc_shift: u32,
        /// Requantization, `1 / r` included.
        multiplier: i32,
        /// Zero point of the output.
        zero_point: i32,
    }
}

/// Columns summed at a time.
const CHUNK: usize = 16;

/// Work of adding an element, see [`Division`].
const SUM_WORK: u64 = 50;
/// The same for [`Operator::piece_work`], and what comes to it for a chunk.
const STEP_SUM_WORK: u32 = 30;
const PIECE_WORK: u32 = 500;

impl ReduceMean {
    /// Chunks of columns of a row of the output.
    fn chunks(&self) -> u32 {
        self.inner.div_ceil(CHUNK as u32)
    }
}

impl Operator for ReduceMean {
    fn check(&self, io: &Operands<'_>) -> Result<Proof, OpFault> {
        require(self.r > 0 && self.r <= 65535 && self.outer > 0 && self.inner > 0, OpFault::Range)?;
        require(self.zero_point.unsigned_abs() <= 32768 && self.multiplier != i32::MIN, OpFault::Range)?;
        let out = u64::from(self.outer) * u64::from(self.inner);
        let len = out.saturating_mul(u64::from(self.r));
        let input = io.need_input(0, &[Dtype::I8, Dtype::I16], len)?;
        io.need_output(&[Dtype::I8, Dtype::I16], out)?;
        let (min, max) = input.dtype.range();
        let r = i64::from(self.r);
        let bias = i64::from(self.bias);
        Ok(Proof::of((r * i64::from(min) + bias.min(0), r * i64::from(max) + bias.max(0)), self.acc_shift))
    }

    fn run<B: Kernels>(&self, memory: &mut Memory<'_>, pieces: Range<u32>) -> Result<(), RunFault> {
        let (r, inner) = (self.r as usize, self.inner as usize);
        let dtype = memory.inputs.record(0).ok_or(RunFault::Memory)?.dtype;
        let x = memory.inputs.bytes(0)?;
        let (mut sums, mut values) = ([0i32; CHUNK], [0i32; CHUNK]);
        let chunks = self.chunks().max(1);
        for piece in pieces {
            let (outer, start) = ((piece / chunks) as usize, (piece % chunks) as usize * CHUNK);
            let count = inner.saturating_sub(start).min(CHUNK);
            let sums = sums.get_mut(..count).unwrap_or(&mut []);
            sums.iter_mut().for_each(|s| *s = self.bias);
            let mut row = 0;
            while row < r {
                // Of a single column as many rows as a chunk takes lie side by side.
                let rows = if inner == 1 { (r - row).min(CHUNK) } else { 1 };
                let values = values.get_mut(..rows.max(count)).unwrap_or(&mut []);
                wide::load(dtype, x, (outer * r + row) * inner + start, 1, values);
                if let [sum] = sums {
                    *sum = values.iter().fold(*sum, |s, &v| s.wrapping_add(v));
                } else {
                    sums.iter_mut().zip(&*values).for_each(|(s, &v)| *s = s.wrapping_add(v));
                }
                row += rows;
            }
            for s in sums.iter_mut() {
                *s = mulhi_round(*s << self.acc_shift, self.multiplier).wrapping_add(self.zero_point);
            }
            wide::store_out(memory, outer * inner + start, sums);
        }
        Ok(())
    }

    fn division(&self) -> Option<Division> {
        let work = SUM_WORK * u64::from(self.r) * CHUNK as u64;
        Some(Division { out_row: 1, group_rows: self.inner, group: self.chunks(), rows: CHUNK as u32, work })
    }

    fn pieces(&self) -> u32 {
        self.outer.saturating_mul(self.chunks())
    }

    fn piece_work(&self) -> u32 {
        super::work(&[STEP_SUM_WORK, self.r, self.inner.min(CHUNK as u32)]).saturating_add(PIECE_WORK)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Random, Weights, run};
    use super::*;
    use std::vec::Vec;

    #[test]
    fn means_are_those_of_every_column() {
        let mut random = Random(5);
        for (outer, inner) in [(1, 1), (3, 1), (1, 16), (2, 17), (2, 5)] {
            for r in [1u32, 15, 16, 17, 40] {
                for dtype in [Dtype::I8, Dtype::I16] {
                    let len = (outer * r * inner) as usize;
                    let x = random.values(dtype, len);
                    let multiplier =
                        (1i64 << 31).checked_div(i64::from(r)).map_or(0, |m| m.min(i32::MAX.into())) as i32;
                    let op = ReduceMean { outer, r, inner, bias: 3, acc_shift: 1, multiplier, zero_point: -2 };
                    let expected: Vec<i32> = (0..outer * inner)
                        .map(|at| {
                            let (row, column) = (at / inner, at % inner);
                            let column = (0..r).map(|i| x[((row * r + i) * inner + column) as usize]);
                            let sum = 3 + column.sum::<i32>();
                            (mulhi_round(sum << 1, multiplier) - 2).clamp(dtype.range().0, dtype.range().1)
                        })
                        .collect();
                    let output = (dtype, (outer * inner) as usize);
                    let (_, y) = run(&op, &Weights::default(), &[(dtype, &x)], output).expect("runs");
                    assert_eq!(y, expected, "{outer} {r} {inner} {dtype:?}");
                }
            }
        }
    }
}
