//! ShiftGELU of the published I-ViT models, see [`crate::arith::ivit`].

use super::{Division, Memory, OpFault, Operands, Operator, Proof, RunFault, require, wide};
use crate::arith::ivit::{SIGMOID_BITS, ShiftExp, ShiftGeluRow, normalized_bits};
use crate::arith::requant::sat_i32;
use crate::format::op_params;
use crate::kernels::Kernels;
use crate::tensor::Dtype;
use core::ops::Range;

op_params! {
    /// `x: [rows, n] i8 | i16` to `y: [rows, n] i32` of the scale of `x` times 2^-7: `y = x * sigmoid(1.702 x)`.
    ///
    /// The sigmoid of an element depends on the maximum of its row.
    ///
    /// # Reference
    /// I-ViT Algorithm 2, with a sigmoid of 8 bits.
    ShiftGelu {
        /// Rows.
        rows: u32,
        /// Length of a row.
        n: u32,
        /// `-floor(-1 / (1.702 S))`, `S` the scale of `x`: the steps of one halving.
        period: u32,
        /// `n` of the paper, 23 in the published models: halvings of the exponential that are kept.
        halvings: u32,
    }
}

/// Work of an element, see [`Division`].
const GELU_WORK: u64 = 1900;

/// The same for [`Operator::piece_work`].
const ELEMENT_WORK: u32 = 600;

impl Operator for ShiftGelu {
    fn check(&self, io: &Operands<'_>) -> Result<Proof, OpFault> {
        require(self.rows > 0 && self.n > 0, OpFault::Range)?;
        let exp = ShiftExp::new(self.period, self.halvings).ok_or(OpFault::Range)?;
        let len = u64::from(self.rows) * u64::from(self.n);
        let (min, max) = io.need_input(0, &[Dtype::I8, Dtype::I16], len)?.dtype.range();
        io.need_output(&[Dtype::I32], len)?;
        // The sigmoid is below 128, or the exponential itself, at most period * 2^halvings, without its low 24 bits.
        let one = (1i64 << (SIGMOID_BITS - 1)) - 1;
        let sigmoid = one.max(i64::from(self.period) << self.halvings >> (32 - SIGMOID_BITS));
        let product = |x: i32| i64::from(x).checked_mul(sigmoid).ok_or(OpFault::Overflow);
        let peak = u64::from(self.period) << self.halvings;
        // The exponential of zero, above the maximum of a row without positive values.
        let sum = peak.saturating_add(exp.bound(-i64::from(min)));
        let proof = Proof::sums((product(min)?, product(max)?));
        Ok(Proof { row_sum: sum, product_bits: normalized_bits(peak), ..proof })
    }

    fn run<B: Kernels>(&self, memory: &mut Memory<'_>, pieces: Range<u32>) -> Result<(), RunFault> {
        let exp = ShiftExp::new(self.period, self.halvings).ok_or(RunFault::Memory)?;
        let dtype = memory.inputs.record(0).ok_or(RunFault::Memory)?.dtype;
        let x = memory.inputs.bytes(0)?;
        let n = self.n as usize;
        for row in pieces {
            let start = row as usize * n;
            let statistics = ShiftGeluRow::new(exp, SIGMOID_BITS, wide::values(dtype, x, start..start + n));
            wide::rowwise(memory, 0, start..start + n, |x| sat_i32(statistics.gelu(x)))?;
        }
        Ok(())
    }

    fn division(&self) -> Option<Division> {
        Some(Division::rows(self.n, GELU_WORK * u64::from(self.n)))
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
    fn rows_equal_the_published_operator_and_stay_in_the_proof() {
        let mut random = Random(2);
        for (input, period) in [(Dtype::I8, 19), (Dtype::I8, 700), (Dtype::I16, 90)] {
            let op = ShiftGelu { rows: 3, n: 41, period, halvings: 23 };
            let mut x = random.values(input, 3 * 41);
            // A row without positive values, where the sigmoid of the published form is out of range.
            x[..41].iter_mut().for_each(|x| *x = -x.abs() - 1);
            let (proof, y) = run(&op, &Weights::default(), &[(input, &x)], (Dtype::I32, 3 * 41)).unwrap();
            for (x, y) in x.chunks(41).zip(y.chunks(41)) {
                let row = ShiftGeluRow::new(ShiftExp::new(period, 23).unwrap(), 8, x.iter().copied());
                for (&x, &y) in x.iter().zip(y) {
                    assert_eq!(i64::from(y), row.gelu(x));
                    assert!((proof.acc.0..=proof.acc.1).contains(&i64::from(y)));
                }
            }
        }
    }

    #[test]
    fn a_product_that_overflows_is_refused() {
        let op = ShiftGelu { rows: 1, n: 1, period: 1 << 20, halvings: 23 };
        let (proof, _) = run(&op, &Weights::default(), &[(Dtype::I16, &[0])], (Dtype::I32, 1)).unwrap();
        assert_eq!(proof.certificate().err(), Some(OpFault::Overflow));
    }
}
