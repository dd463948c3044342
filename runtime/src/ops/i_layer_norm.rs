//! I-LayerNorm of the published I-ViT models, see [`crate::arith::ivit`].

use super::dyadic_requant::Ratio;
use super::{Division, Memory, OpFault, Operands, Operator, Proof, RunFault, require, signed_bits, wide};
use crate::arith::ivit::{ILayerNormRow, MAX_WIDE};
use crate::format::{Blob, op_params};
use crate::kernels::Kernels;
use crate::tensor::Dtype;
use core::ops::Range;

op_params! {
    /// `x: [rows, n] i8 | i16` to `y: [rows, n] i8 | i16`:
    /// `y = sat(round_half_even((((x - mean) * floor((2^31 - 1) / std) >> 1) + bias_c) * m_c / 2^s_c))`.
    ///
    /// The normalized value has scale `sqrt(n) * gamma_c / 2^30` before the dyadic requantization, which is part of the
    /// operator because with its bias it may exceed 32 bits. A negative gamma makes `m_c` negative.
    ///
    /// # Reference
    /// I-ViT section 3.5, and the published `IntLayerNorm` followed by `QuantAct`.
    ILayerNorm {
        /// Rows (tokens).
        rows: u32,
        /// Width.
        n: u32,
        /// `[n] i64`: `floor(beta / gamma / (sqrt(n) / 2^30))`; with the normalized value, at most 2^30, it must not exceed
        /// [`MAX_WIDE`] in magnitude.
        bias: Blob,
        /// `[n]` pairs `(m, s)`, see [`Ratio`].
        ratios: Blob,
    }
}

/// Maximum width: the sum of squared distances stays below 2^49.
const MAX_WIDTH: u32 = 1 << 16;
/// The square root is never below the distance, so that the normalized value is at most half of 2^31.
const MAX_NORMALIZED: i64 = 1 << 30;

/// Work of an element, see [`Division`].
const NORM_WORK: u64 = 3300;

/// The same for [`Operator::piece_work`].
const ELEMENT_WORK: u32 = 500;

impl Operator for ILayerNorm {
    fn check(&self, io: &Operands<'_>) -> Result<Proof, OpFault> {
        require(self.rows > 0 && self.n > 0 && self.n <= MAX_WIDTH, OpFault::Range)?;
        let len = u64::from(self.rows) * u64::from(self.n);
        let (min, max) = io.need_input(0, &[Dtype::I8, Dtype::I16], len)?.dtype.range();
        io.need_output(&[Dtype::I8, Dtype::I16], len)?;
        let bias = io.need_blob(self.bias, u64::from(self.n) * 8)?;
        let ratios = Ratio::check(io, self.ratios, self.n)?;
        let widest = u64::from(min.abs_diff(max));
        let variance = u64::from(self.n) * widest * widest;
        // The sum of a row, and the normalized value before its halving.
        let mut widest_sum = (u64::from(self.n) * u64::from(min.unsigned_abs())).max(2 * MAX_NORMALIZED as u64);
        let mut product = 0;
        for (bias, ratio) in bias.as_chunks::<8>().0.iter().zip(ratios) {
            let sum = i64::from_le_bytes(*bias).unsigned_abs().saturating_add(MAX_NORMALIZED as u64);
            widest_sum = widest_sum.max(sum);
            // At most one bit too many.
            let bits = signed_bits(sum) + signed_bits(ratio.multiplier.unsigned_abs().into()) - 1;
            product = bits.max(product);
        }
        require(widest_sum <= MAX_WIDE as u64, OpFault::Overflow)?;
        Ok(Proof {
            row_sum: variance,
            product_bits: product,
            wide_bits: signed_bits(widest_sum),
            ..Proof::sums((-MAX_NORMALIZED, MAX_NORMALIZED))
        })
    }

    fn run<B: Kernels>(&self, memory: &mut Memory<'_>, pieces: Range<u32>) -> Result<(), RunFault> {
        let dtype = memory.inputs.record(0).ok_or(RunFault::Memory)?.dtype;
        let x = memory.inputs.bytes(0)?;
        let bias = memory.inputs.blob::<i64>(self.bias)?;
        let ratios = memory.inputs.blob::<[i32; 2]>(self.ratios)?;
        let n = self.n as usize;
        for row in pieces {
            let start = row as usize * n;
            let statistics = ILayerNormRow::new(wide::values(dtype, x, start..start + n));
            let mut channels = bias.iter().zip(ratios);
            wide::rowwise(memory, 0, start..start + n, |x| {
                channels.next().map_or(0, |(&bias, &ratio)| Ratio::of(ratio).apply_wide(statistics.normalize(x, bias)))
            })?;
        }
        Ok(())
    }

    fn division(&self) -> Option<Division> {
        Some(Division::rows(self.n, NORM_WORK * u64::from(self.n)))
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
    use std::vec::Vec;

    #[test]
    fn rows_equal_the_published_operator_behind_an_exact_requantization() {
        let mut random = Random(3);
        let (rows, n) = (4, 50);
        let bias: Vec<i64> =
            (0..n).map(|i| (i as i64 - 25) << (i % 53)).map(|b| b.clamp(-(1 << 53), 1 << 53)).collect();
        let ratios: Vec<[i32; 2]> = (0..n)
            .map(|i| [((1 << 30) + random.below(1 << 30) as i32) * if i % 3 == 0 { -1 } else { 1 }, 48 + i % 16])
            .collect();
        let mut weights = Weights::default();
        let op = ILayerNorm { rows, n: n as u32, bias: weights.add(&bias), ratios: weights.add(&ratios) };
        let mut x = random.values(Dtype::I16, rows as usize * n as usize);
        x[..n as usize].fill(-32768);
        x[60] = 32767;
        let (proof, y) = run(&op, &weights, &[(Dtype::I16, &x)], (Dtype::I8, x.len())).unwrap();
        for (x, y) in x.chunks(n as usize).zip(y.chunks(n as usize)) {
            let row = ILayerNormRow::new(x.iter().copied());
            for (((&x, &y), &bias), &[m, s]) in x.iter().zip(y).zip(&bias).zip(&ratios) {
                assert!((proof.acc.0..=proof.acc.1).contains(&row.normalize(x, 0)));
                let product = i128::from(row.normalize(x, bias)) * i128::from(m);
                let floor = product >> s;
                let rest = (product - (floor << s)) * 2;
                let up = rest > 1 << s || (rest == 1 << s && floor & 1 == 1);
                assert_eq!(i128::from(y), (floor + i128::from(up)).clamp(-128, 127));
            }
        }
    }

    #[test]
    fn the_normalized_value_never_exceeds_the_proof() {
        // One outlier is the worst row: its distance is the whole square root.
        for n in [1, 2, 3, 8, 100, 4096] {
            for (outlier, rest) in [(32767, -32768), (-32768, 32767), (1, 0), (127, 0), (-9000, 9)] {
                let mut row = std::vec![rest; n];
                row[0] = outlier;
                let statistics = ILayerNormRow::new(row.iter().copied());
                for &x in &row {
                    assert!(statistics.normalize(x, 0).abs() <= MAX_NORMALIZED);
                }
            }
        }
    }

    #[test]
    fn a_bias_that_overflows_is_refused() {
        let mut weights = Weights::default();
        let (bias, ratios) = (weights.add(&[(1i64 << 54) - (1 << 30) + 1]), weights.add(&[[1 << 30, 40]]));
        let op = ILayerNorm { rows: 1, n: 1, bias, ratios };
        assert_eq!(run(&op, &weights, &[(Dtype::I16, &[0])], (Dtype::I8, 1)).err(), Some(OpFault::Overflow));
    }
}
