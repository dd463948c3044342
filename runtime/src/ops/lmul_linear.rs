//! Dense layer whose products are additions: L-Mul over floating-point patterns, see [`crate::arith::lmul`].

use super::memory::{cast, cast_mut};
use super::{Division, Inputs, Memory, OpFault, Operands, Operator, Proof, RowAccess, RowRead, RunFault, require};
use crate::arith::lmul::{Fixed, FloatFormat, MAX_TOP};
use crate::arith::requant::{mulhi_round, sat_i8, sat_i16};
use crate::format::{Blob, op_params};
use crate::kernels::Kernels;
use crate::stepwise::stepwise;
use crate::tensor::Dtype;
use core::ops::Range;

op_params! {
    /// `x: [rows, k]`, bit patterns of `format` (in `i8` those of 8 bits, in `i16` those of 16), to `y: [rows, n]` in `i8`
    /// or `i16`: `y = sat(zero_point + mulhi_round(acc << acc_shift, multiplier[ch]))` with
    /// `acc = bias[ch] + sum_k fixed(x[k] (*) w[ch][k])`, where `(*)` is one addition of patterns and `fixed` a shift.
    LmulLinear {
        /// Rows (tokens).
        rows: u32,
        /// Input width.
        k: u32,
        /// Output width.
        n: u32,
        /// Format of the patterns.
        format: FloatFormat,
        /// [`Fixed::base`].
        base: u32,
        /// [`Fixed::top`].
        top: u32,
        /// Left shift of accumulators.
        acc_shift: u32,
        /// Added after requantization.
        zero_point: i32,
        /// `[n, k]` patterns.
        weights: Blob,
        /// `[n] i32`.
        bias: Blob,
        /// `[n] i32`, none negative.
        multipliers: Blob,
    }
}

/// Longest sum.
const MAX_K: u32 = 1 << 16;
/// Sums of two patterns of 8 bits without sign, and the constant of L-Mul.
const PATTERNS: usize = 256;
/// Work of a product, and of an output besides.
const PRODUCT_WORK: u32 = 16;
const OUTPUT_WORK: u32 = 60;

impl LmulLinear {
    fn fixed(&self) -> Fixed {
        Fixed { format: self.format, base: self.base, top: self.top }
    }

    /// Largest magnitude of `bias + sum` of a channel, for any patterns of the activations.
    fn reach(&self, bias: i32, weights: impl Iterator<Item = u32>) -> i64 {
        let (fixed, largest) = (self.fixed(), self.format.sign() - 1);
        let sum: i64 = weights.map(|w| i64::from(fixed.product(largest, w & largest))).sum();
        sum + i64::from(bias.unsigned_abs())
    }

    /// One code for all instruction sets.
    #[inline(never)]
    fn run_rows(&self, memory: &mut Memory<'_>, rows: Range<u32>) -> Result<(), RunFault> {
        let inputs = memory.inputs;
        // Without a table there is no scratch, and where nothing is, it need not be aligned.
        if self.scratch_bytes() > 0 {
            let table: &mut [i32] = cast_mut(memory.scratch)?;
            table.iter_mut().zip(0..).for_each(|(to, pattern)| *to = self.fixed().of_pattern(pattern));
        }
        for row in rows {
            let row = row as usize..row as usize + 1;
            if memory.output.dtype == Dtype::I8 {
                let (out, table) = memory.out_rows::<i8>(row.clone(), self.n as usize)?;
                self.row(&inputs, row, table, out, sat_i8)?;
            } else {
                let (out, table) = memory.out_rows::<i16>(row.clone(), self.n as usize)?;
                self.row(&inputs, row, table, out, sat_i16)?;
            }
        }
        Ok(())
    }

    /// One row; `table` holds [`Fixed::of_pattern`] of all sums of patterns of 8 bits.
    fn row<T>(
        &self,
        inputs: &Inputs<'_>,
        row: Range<usize>,
        table: &[u8],
        out: &mut [T],
        saturate: impl Fn(i32) -> T,
    ) -> Result<(), RunFault> {
        let (bias, multipliers) = (inputs.blob::<i32>(self.bias)?, inputs.blob::<i32>(self.multipliers)?);
        let write = |out: &mut T, acc: i32, multiplier: i32| {
            *out = saturate(self.zero_point.wrapping_add(mulhi_round(acc << self.acc_shift, multiplier)));
        };
        let channels = out.iter_mut().zip(bias.iter().zip(multipliers));
        let k = self.k as usize;
        if self.format.bytes() == 1 {
            let table: &[i32; PATTERNS] = cast(table)?.first_chunk().ok_or(RunFault::Memory)?;
            let (x, value) = (inputs.rows::<u8>(0, row, k)?, self.narrow_products(table));
            let weights = stepwise(inputs.blob::<u8>(self.weights)?.chunks_exact(k.max(1)));
            for (weights, (out, (&bias, &multiplier))) in weights.zip(channels) {
                write(out, sum(bias, x, weights, &value), multiplier);
            }
        } else {
            let (x, fixed) = (inputs.rows::<u16>(0, row, k)?, self.fixed());
            let value = |x: u16, w: u16| fixed.product(x.into(), w.into());
            let weights = stepwise(inputs.blob::<u16>(self.weights)?.chunks_exact(k.max(1)));
            for (weights, (out, (&bias, &multiplier))) in weights.zip(channels) {
                write(out, sum(bias, x, weights, value), multiplier);
            }
        }
        Ok(())
    }
}

/// `bias` and the values of all products. A model that was checked has no sum that wraps.
#[inline(always)]
fn sum<T: Copy>(bias: i32, x: &[T], weights: &[T], value: impl Fn(T, T) -> i32) -> i32 {
    x.iter().zip(weights).fold(bias, |acc, (&x, &w)| acc.wrapping_add(value(x, w)))
}

impl Operator for LmulLinear {
    fn check(&self, io: &Operands<'_>) -> Result<Proof, OpFault> {
        require(self.k > 0 && self.k <= MAX_K && self.n > 0 && self.n <= MAX_K && self.rows > 0, OpFault::Range)?;
        require(
            self.top <= MAX_TOP && self.base <= 1 << 10 && self.zero_point.unsigned_abs() <= 32768,
            OpFault::Range,
        )?;
        let (rows, k, n) = (u64::from(self.rows), u64::from(self.k), u64::from(self.n));
        let pattern = if self.format.bytes() == 1 { Dtype::I8 } else { Dtype::I16 };
        io.need_input(0, &[pattern], rows * k)?;
        io.need_output(&[Dtype::I8, Dtype::I16], rows * n)?;
        let weights = io.need_blob(self.weights, n * k * u64::from(self.format.bytes()))?;
        let bias = io.need_blob(self.bias, n * 4)?;
        let multipliers = io.need_blob(self.multipliers, n * 4)?;
        if io.proven {
            return Ok(Proof::NONE);
        }
        require(super::linear::are_positive(multipliers), OpFault::Range)?;
        let biases = bias.as_chunks::<4>().0.iter().map(|bias| i32::from_le_bytes(*bias));
        let row_bytes = self.k as usize * self.format.bytes() as usize;
        let mut most = 0;
        for (weights, bias) in stepwise(weights.chunks_exact(row_bytes.max(1))).zip(biases) {
            let reach = match self.format.bytes() {
                1 => self.reach(bias, weights.iter().map(|&w| w.into())),
                _ => self.reach(bias, weights.as_chunks::<2>().0.iter().map(|w| u16::from_le_bytes(*w).into())),
            };
            most = most.max(reach);
        }
        Ok(Proof::of((-most, most), self.acc_shift))
    }

    fn run<B: Kernels>(&self, memory: &mut Memory<'_>, rows: Range<u32>) -> Result<(), RunFault> {
        self.run_rows(memory, rows)
    }

    /// Products, none of which is a multiplication.
    fn macs(&self) -> u64 {
        u64::from(self.rows) * u64::from(self.k) * u64::from(self.n)
    }

    fn scratch_bytes(&self) -> u32 {
        if self.format.bytes() == 1 { (PATTERNS * size_of::<i32>()) as u32 } else { 0 }
    }

    fn pieces(&self) -> u32 {
        self.rows
    }

    fn piece_work(&self) -> u32 {
        super::work(&[self.n, self.k.saturating_mul(PRODUCT_WORK).saturating_add(OUTPUT_WORK)])
    }

    fn division(&self) -> Option<Division> {
        Some(Division::rows(self.n, 4 * u64::from(self.n) * u64::from(self.k)))
    }

    fn row_access(&self) -> Option<RowAccess> {
        Some(RowAccess::rows(RowRead::first(self.k), self.n))
    }
}

impl LmulLinear {
    /// Products of patterns of 8 bits: an addition and the whole number of the sum from a table, which holds what
    /// [`Fixed::of_pattern`] gives.
    #[inline(always)]
    fn narrow_products<'t>(&self, table: &'t [i32; PATTERNS]) -> impl Fn(u8, u8) -> i32 + use<'t> {
        let m = self.format.mantissa_bits();
        let unit = 1u32 << m;
        move |x, w| {
            let (x, w) = (u32::from(x), u32::from(w));
            let (size_x, size_w) = (x & 0x7f, w & 0x7f);
            if size_x < unit || size_w < unit {
                return 0;
            }
            let sum = crate::arith::lmul::product(size_x, size_w, m);
            let size = table[usize::from(sum as u8)];
            if (x ^ w) & 0x80 == 0 { size } else { -size }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Random, Weights, run};
    use super::*;
    use std::vec::Vec;

    fn layer(format: FloatFormat, [rows, k, n]: [u32; 3], seed: u64) -> (LmulLinear, Weights, Vec<i32>, Vec<i32>) {
        let (mut random, mut weights) = (Random(seed), Weights::default());
        let limit = u64::from(format.sign()) * 2;
        let w: Vec<i32> = (0..n * k).map(|_| random.below(limit) as i32).collect();
        let x: Vec<i32> = (0..rows * k).map(|_| random.below(limit) as i32).collect();
        let bias: Vec<i32> = (0..n).map(|_| random.below(2000) as i32 - 1000).collect();
        let blob = match format.bytes() {
            1 => weights.add(&w.iter().map(|&w| w as u8).collect::<Vec<_>>()),
            _ => weights.add(&w.iter().map(|&w| w as u16).collect::<Vec<_>>()),
        };
        let base = if format == FloatFormat::Bf16 { 300 } else { (1 << format.exponent_bits()) + 2 };
        let op = LmulLinear {
            rows,
            k,
            n,
            format,
            base,
            top: 14,
            acc_shift: 1,
            zero_point: -3,
            weights: blob,
            bias: weights.add(&bias),
            multipliers: weights.add(&std::vec![1 << 17; n as usize]),
        };
        (op, weights, x, w)
    }

    fn pattern(format: FloatFormat) -> Dtype {
        if format.bytes() == 1 { Dtype::I8 } else { Dtype::I16 }
    }

    /// The pattern as its type holds it.
    fn signed(format: FloatFormat, x: &[i32]) -> Vec<i32> {
        let narrow = |&x: &i32| if format.bytes() == 1 { i32::from(x as i8) } else { i32::from(x as i16) };
        x.iter().map(narrow).collect()
    }

    #[test]
    fn sums_are_those_of_single_products() {
        for &format in FloatFormat::ALL {
            for (size, dtype) in [([3, 35, 6], Dtype::I16), ([1, 1, 1], Dtype::I8), ([2, 64, 9], Dtype::I8)] {
                let (op, weights, x, w) = layer(format, size, 3);
                let [rows, k, n] = size.map(|d| d as usize);
                let (proof, y) =
                    run(&op, &weights, &[(pattern(format), &signed(format, &x))], (dtype, rows * n)).unwrap();
                let bias = &weights.0[op.bias.offset as usize..];
                for (at, &y) in y.iter().enumerate() {
                    let (row, channel) = (at / n, at % n);
                    let bias = i32::from_le_bytes(bias[4 * channel..][..4].try_into().unwrap());
                    let product = |i: usize| op.fixed().product(x[row * k + i] as u32, w[channel * k + i] as u32);
                    let acc = (0..k).map(|i| i64::from(product(i))).sum::<i64>() + i64::from(bias);
                    assert!(proof.acc.0 <= acc && acc <= proof.acc.1);
                    let (low, high) = dtype.range();
                    let wanted = ((2 * acc * (1 << 17) + (1 << 31)) >> 32) - 3;
                    assert_eq!(i64::from(y), wanted.clamp(low.into(), high.into()), "{format:?} {at}");
                }
            }
        }
    }

    #[test]
    fn sums_that_could_overflow_are_refused() {
        let (op, mut weights, ..) = layer(FloatFormat::E4m3, [1, 20, 2], 4);
        let op = LmulLinear { weights: weights.add(&[0xffu8; 40]), base: 1, top: 22, acc_shift: 0, ..op };
        let proof =
            |op: LmulLinear| run(&op, &weights, &[(Dtype::I8, &[0; 20])], (Dtype::I8, 2)).map(|(proof, _)| proof);
        assert!(proof(op).unwrap().certificate().is_ok());
        assert!(proof(LmulLinear { acc_shift: 1, ..op }).unwrap().certificate().is_err());
        for wrong in [LmulLinear { top: 23, ..op }, LmulLinear { k: 0, ..op }, LmulLinear { base: 1025, ..op }] {
            assert_eq!(proof(wrong), Err(OpFault::Range));
        }
        assert_eq!(proof(LmulLinear { k: 19, ..op }), Err(OpFault::Blob));
        assert_eq!(proof(LmulLinear { format: FloatFormat::Bf16, ..op }), Err(OpFault::Operand));
    }
}
