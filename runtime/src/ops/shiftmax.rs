//! Shiftmax, the softmax of the published I-ViT models, see [`crate::arith::ivit`].

use super::{Division, Memory, OpFault, Operands, Operator, Proof, RunFault, require, wide};
use crate::arith::ivit::{ShiftExp, ShiftmaxRow, normalized_bits};
use crate::arith::requant::sat_i32;
use crate::format::op_params;
use crate::kernels::Kernels;
use crate::tensor::Dtype;
use core::ops::Range;

op_params! {
    /// `x: [rows, n] i8 | i16` to probabilities `y: [rows, n]`: `i8` with scale 2^-7, or `u16` with scale 2^-15 and values
    /// below 2^15.
    ///
    /// # Reference
    /// I-ViT Algorithm 1, with 8 or 16 output bits.
    Shiftmax {
        /// Rows.
        rows: u32,
        /// Length of a row.
        n: u32,
        /// `-floor(-1 / S)`, `S` the scale of `x`: the steps of one halving.
        period: u32,
        /// `n` of the paper, 15 in the published models: halvings of the exponential that are kept.
        halvings: u32,
    }
}

/// Work of an element, see [`Division`].
const SHIFTMAX_WORK: u64 = 2800;

/// The same for [`Operator::piece_work`].
const ELEMENT_WORK: u32 = 600;

impl Operator for Shiftmax {
    fn check(&self, io: &Operands<'_>) -> Result<Proof, OpFault> {
        require(self.rows > 0 && self.n > 0, OpFault::Range)?;
        require(ShiftExp::new(self.period, self.halvings).is_some(), OpFault::Range)?;
        let len = u64::from(self.rows) * u64::from(self.n);
        let (min, max) = io.need_input(0, &[Dtype::I8, Dtype::I16], len)?.dtype.range();
        io.need_output(&[Dtype::I8, Dtype::U16], len)?;
        // An exponential is at most period * 2^halvings < 2^63; the sum of a row stops at 2^64 - 1.
        let one = u64::from(self.period) << self.halvings;
        // The exponent, x + x / 2 - x / 16 of a distance from the maximum.
        let distance = i64::from(min) - i64::from(max);
        let proof = Proof::sums((distance + (distance >> 1), 0));
        Ok(Proof { row_sum: one.saturating_mul(u64::from(self.n)), product_bits: normalized_bits(one), ..proof })
    }

    fn run<B: Kernels>(&self, memory: &mut Memory<'_>, pieces: Range<u32>) -> Result<(), RunFault> {
        let exp = ShiftExp::new(self.period, self.halvings).ok_or(RunFault::Memory)?;
        let dtype = memory.inputs.record(0).ok_or(RunFault::Memory)?.dtype;
        let bits = memory.output.dtype.bytes() as u32 * 8;
        let x = memory.inputs.bytes(0)?;
        let n = self.n as usize;
        for row in pieces {
            let start = row as usize * n;
            let values = wide::values(dtype, x, start..start + n);
            let statistics = ShiftmaxRow::new(exp, bits, values);
            // A row whose sum was clamped may have probabilities beyond one.
            let top = (1i64 << (bits - 1)) - 1;
            wide::rowwise(memory, 0, start..start + n, |x| sat_i32(statistics.probability(x).min(top)))?;
        }
        Ok(())
    }

    fn division(&self) -> Option<Division> {
        Some(Division::rows(self.n, SHIFTMAX_WORK * u64::from(self.n)))
    }

    fn piece_work(&self) -> u32 {
        self.n.saturating_mul(ELEMENT_WORK)
    }

    fn pieces(&self) -> u32 {
        self.rows
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Random, Weights, run};
    use super::*;

    #[test]
    fn rows_equal_the_published_operator() {
        let mut random = Random(1);
        for (input, output, bits) in
            [(Dtype::I8, Dtype::I8, 8), (Dtype::I16, Dtype::U16, 16), (Dtype::I8, Dtype::U16, 16)]
        {
            let op = Shiftmax { rows: 3, n: 37, period: 20, halvings: 15 };
            let x = random.values(input, 3 * 37);
            let (_, y) = run(&op, &Weights::default(), &[(input, &x)], (output, 3 * 37)).unwrap();
            for (x, y) in x.chunks(37).zip(y.chunks(37)) {
                let row = ShiftmaxRow::new(ShiftExp::new(20, 15).unwrap(), bits, x.iter().copied());
                let expected: std::vec::Vec<i64> = x.iter().map(|&x| row.probability(x)).collect();
                assert_eq!(y.iter().map(|&y| i64::from(y)).collect::<std::vec::Vec<_>>(), expected);
            }
        }
    }

    #[test]
    fn a_period_that_overflows_is_refused() {
        let op = Shiftmax { rows: 1, n: 1, period: 1 << 30, halvings: 15 };
        let refused = run(&op, &Weights::default(), &[(Dtype::I8, &[0])], (Dtype::I8, 1));
        assert_eq!(refused.err(), Some(OpFault::Range));
        let op = Shiftmax { rows: 1, n: 2, period: 0, halvings: 15 };
        let refused = run(&op, &Weights::default(), &[(Dtype::I8, &[0, 0])], (Dtype::I8, 2));
        assert_eq!(refused.err(), Some(OpFault::Range));
    }
}
