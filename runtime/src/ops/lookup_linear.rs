//! A layer of look-ups in place of products: MemoryFormer's memory layer in integers.
//!
//! A row is cut into chunks. The signs of a chunk's elements are the number of a row of its table; those rows, each times
//! how sure its signs are, add up to the output:
//!
//! ```text
//! code_k = sum_i 2^i [x_ki >= x_zero]                     p_k = prod_i f(x_ki),  f(x) = 1 / (1 + exp(-2 |x| / t))
//! acc[ch] = bias[ch] + sum_k weight_k * table_k[code_k][ch]        weight_k = round(64 p_k)
//! ```
//!
//! `f` is a table over all values of an element, in units of 2^-15; products of factors are rounded to that unit one after the
//! other. With weights of at most 64 and table entries of 8 bits (stored plus 128) the products of two channels lie beside
//! each other in a word, and four of them are summed before they are taken apart: a multiplication for two channels, whatever
//! the length of a chunk.
//!
//! # Reference
//! Ding et al., "MemoryFormer: Minimize Transformer Computation by Removing Fully-Connected Layers", NeurIPS 2024
//! (arXiv 2411.12992), section 3.2. `p` is the softmax over the `2^tau` codes of `<z, code> / t` at the code of `z` itself,
//! which is the product above; a zero counts as positive. Differs: the weights have 7 bits, the tables 8.

use super::memory::cast_mut;
use super::{Division, Inputs, Memory, OpFault, Operands, Operator, Proof, RowAccess, RowRead, RunFault, require};
use crate::arith::requant::{mulhi_round, sat_i8, sat_i16};
use crate::format::{Blob, op_params};
use crate::kernels::Kernels;
use crate::stepwise::stepwise;
use crate::tensor::Dtype;
use core::ops::Range;

op_params! {
    /// `x: [rows, k] i8` to `y: [rows, n]` in `i8` or `i16`:
    /// `y = sat(zero_point + mulhi_round(acc << acc_shift, multiplier[ch]))`.
    LookupLinear {
        /// Rows (tokens).
        rows: u32,
        /// Input width, a multiple of `chunk`.
        k: u32,
        /// Output width.
        n: u32,
        /// Elements of a chunk, 1 to [`MAX_CHUNK`].
        chunk: u32,
        /// Elements from this on count as positive.
        x_zero: i32,
        /// Left shift of accumulators.
        acc_shift: u32,
        /// Added after requantization.
        zero_point: i32,
        /// `[256] u16`: the factor of element `x` at `x + 128`, at most [`ONE`].
        factors: Blob,
        /// `[k / chunk][2^chunk][n padded to 4] u8`: entries plus 128.
        tables: Blob,
        /// `[n] i32`.
        bias: Blob,
        /// `[n] i32`, none negative.
        multipliers: Blob,
    }
}

/// Longest chunk.
pub const MAX_CHUNK: u32 = 8;
/// A factor of 1.
pub const ONE: u32 = 1 << 15;
/// Weight of a chunk whose factors are 1.
pub const MAX_WEIGHT: u32 = 64;
/// What is added to the entries of tables.
pub const ENTRY_ZERO: u32 = 128;
/// Entries of the table of factors.
const FACTORS: usize = 256;
/// Channels of a word of a table.
pub const WORD: usize = 4;
/// Chunks whose products fit the halves of a word: `4 * 64 * 255 < 2^16`.
const CHUNKS: usize = 4;
/// Widest layer.
const MAX_WIDTH: u32 = 1 << 16;
/// Work of an element of the input, of a chunk's word of channels, of an output.
const ELEMENT_WORK: u32 = 16;
const WORD_WORK: u32 = 16;
const OUTPUT_WORK: u32 = 40;

const _: () = assert!(CHUNKS as u32 * MAX_WEIGHT * 255 < 1 << 16);

/// Where a chunk's row of its table starts, in words, and its weight.
type Selected = [u32; 2];

impl LookupLinear {
    fn chunks(&self) -> u32 {
        self.k / self.chunk.max(1)
    }

    /// Words of a row of a table.
    fn row_words(&self) -> u32 {
        self.n.div_ceil(WORD as u32)
    }

    /// Finds the row and the weight of every chunk of `x`; entries beyond have none. The sum of the weights.
    #[inline(always)]
    fn select(&self, x: &[i8], factors: &[u16; FACTORS], to: &mut [Selected]) -> u32 {
        let mut sum = 0;
        let mut chunks = x.chunks_exact(self.chunk.max(1) as usize);
        for (index, to) in to.iter_mut().enumerate() {
            let Some(chunk) = chunks.next() else {
                *to = [0, 0];
                continue;
            };
            let (mut code, mut p) = (index as u32, ONE);
            // The last element is the highest bit.
            for &x in chunk.iter().rev() {
                code = code << 1 | u32::from(i32::from(x) >= self.x_zero);
                let factor = u32::from(factors[usize::from(x as u8 ^ 0x80)]);
                p = (p * factor + ONE / 2) / ONE;
            }
            let weight = (p + ONE / MAX_WEIGHT / 2) / (ONE / MAX_WEIGHT);
            sum += weight;
            *to = [code * self.row_words(), weight];
        }
        sum
    }

    /// One code for all instruction sets.
    #[inline(never)]
    fn run_rows(&self, memory: &mut Memory<'_>, rows: Range<u32>) -> Result<(), RunFault> {
        let inputs = memory.inputs;
        for row in rows {
            let row = row as usize..row as usize + 1;
            if memory.output.dtype == Dtype::I8 {
                let (out, scratch) = memory.out_rows::<i8>(row.clone(), self.n as usize)?;
                self.row(&inputs, row, scratch, out, sat_i8)?;
            } else {
                let (out, scratch) = memory.out_rows::<i16>(row.clone(), self.n as usize)?;
                self.row(&inputs, row, scratch, out, sat_i16)?;
            }
        }
        Ok(())
    }

    /// One row.
    #[inline(never)]
    fn row<Y>(
        &self,
        inputs: &Inputs<'_>,
        row: Range<usize>,
        scratch: &mut [u8],
        out: &mut [Y],
        saturate: impl Fn(i32) -> Y,
    ) -> Result<(), RunFault> {
        let (bias, multipliers) = (inputs.blob::<i32>(self.bias)?, inputs.blob::<i32>(self.multipliers)?);
        let factors = inputs.blob::<u16>(self.factors)?.first_chunk().ok_or(RunFault::Memory)?;
        let tables = inputs.blob::<u32>(self.tables)?;
        let words: &mut [u32] = cast_mut(scratch)?;
        let selected = words.as_chunks_mut::<2>().0;
        let weights = self.select(inputs.rows::<i8>(0, row, self.k as usize)?, factors, selected);
        let excess = (weights * ENTRY_ZERO) as i32;
        let quads = selected.as_chunks::<CHUNKS>().0;
        let constants = stepwise(bias.chunks(WORD)).zip(stepwise(multipliers.chunks(WORD)));
        for ((column, out), (bias, multipliers)) in stepwise(out.chunks_mut(WORD)).enumerate().zip(constants) {
            let sums = sums(quads, tables.get(column..).unwrap_or(&[]));
            for (((to, sum), bias), &multiplier) in out.iter_mut().zip(sums).zip(bias).zip(multipliers) {
                let acc = bias.wrapping_add(sum as i32).wrapping_sub(excess) << self.acc_shift;
                *to = saturate(self.zero_point.wrapping_add(mulhi_round(acc, multiplier)));
            }
        }
        Ok(())
    }
}

/// `sum weight * entry` of the four channels of a word, entries as they are stored.
#[inline(always)]
fn sums(quads: &[[Selected; CHUNKS]], tables: &[u32]) -> [u32; WORD] {
    const EVEN: u32 = 0x00ff_00ff;
    let mut sums = [0; WORD];
    for quad in quads {
        let (mut even, mut odd) = (0, 0);
        for &[at, weight] in quad {
            let word = tables.get(at as usize).copied().unwrap_or(0);
            even += (word & EVEN) * weight;
            odd += (word >> 8 & EVEN) * weight;
        }
        sums[0] += even & 0xffff;
        sums[1] += odd & 0xffff;
        sums[2] += even >> 16;
        sums[3] += odd >> 16;
    }
    sums
}

impl Operator for LookupLinear {
    fn check(&self, io: &Operands<'_>) -> Result<Proof, OpFault> {
        let in_range = |width: u32| width > 0 && width <= MAX_WIDTH;
        require(self.rows > 0 && in_range(self.k) && in_range(self.n), OpFault::Range)?;
        require(self.chunk > 0 && self.chunk <= MAX_CHUNK && self.k.is_multiple_of(self.chunk), OpFault::Range)?;
        let zeros = self.x_zero.unsigned_abs().max(self.zero_point.unsigned_abs());
        require(zeros <= 32768, OpFault::Range)?;
        let (rows, k, n) = (u64::from(self.rows), u64::from(self.k), u64::from(self.n));
        io.need_input(0, &[Dtype::I8], rows * k)?;
        io.need_output(&[Dtype::I8, Dtype::I16], rows * n)?;
        let factors = io.need_blob(self.factors, 2 * FACTORS as u64)?;
        let row_bytes = self.row_words() as usize * WORD;
        let codes = 1u64 << self.chunk;
        let table_bytes = codes * row_bytes as u64;
        let tables = io.need_blob(self.tables, u64::from(self.chunks()) * table_bytes)?;
        let bias = io.need_blob(self.bias, n * 4)?;
        let multipliers = io.need_blob(self.multipliers, n * 4)?;
        if io.proven {
            return Ok(Proof::NONE);
        }
        require(super::linear::are_positive(multipliers), OpFault::Range)?;
        let mut factors = factors.as_chunks::<2>().0.iter().map(|factor| u16::from_le_bytes(*factor));
        require(factors.all(|factor| u32::from(factor) <= ONE), OpFault::Range)?;
        let mut acc = (0i64, 0i64);
        for (channel, bias) in stepwise(bias.as_chunks::<4>().0.iter()).enumerate() {
            let bias = i64::from(i32::from_le_bytes(*bias));
            let (mut low, mut high) = (bias, bias);
            for table in tables.chunks_exact((table_bytes as usize).max(1)) {
                let entries = table.iter().skip(channel).step_by(row_bytes.max(1));
                let (mut least, mut most) = (0, 0);
                for entry in entries.map(|&entry| i64::from(entry) - i64::from(ENTRY_ZERO)) {
                    (least, most) = (entry.min(least), entry.max(most));
                }
                low += i64::from(MAX_WEIGHT) * least;
                high += i64::from(MAX_WEIGHT) * most;
            }
            acc = (acc.0.min(low), acc.1.max(high));
        }
        Ok(Proof::of(acc, self.acc_shift))
    }

    fn run<B: Kernels>(&self, memory: &mut Memory<'_>, rows: Range<u32>) -> Result<(), RunFault> {
        self.run_rows(memory, rows)
    }

    /// Products of a weight and an entry; one multiplication makes two.
    fn macs(&self) -> u64 {
        u64::from(self.rows) * u64::from(self.chunks()) * u64::from(self.n)
    }

    fn scratch_bytes(&self) -> u32 {
        self.chunks().next_multiple_of(CHUNKS as u32).saturating_mul(size_of::<Selected>() as u32)
    }

    fn pieces(&self) -> u32 {
        self.rows
    }

    fn piece_work(&self) -> u32 {
        let words = super::work(&[self.row_words(), self.chunks(), WORD_WORK]);
        let (elements, outputs) = (super::work(&[self.k, ELEMENT_WORK]), super::work(&[self.n, OUTPUT_WORK]));
        words.saturating_add(elements).saturating_add(outputs)
    }

    fn division(&self) -> Option<Division> {
        Some(Division::rows(self.n, u64::from(self.n) * u64::from(self.chunks())))
    }

    fn row_access(&self) -> Option<RowAccess> {
        Some(RowAccess::rows(RowRead::first(self.k), self.n))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Random, Weights, run};
    use super::*;
    use std::vec::Vec;

    /// A layer and its entries, not shifted, by chunk, code and channel.
    fn layer([rows, k, n, chunk]: [u32; 4], x_zero: i32, seed: u64) -> (LookupLinear, Weights, Vec<i32>, Vec<u32>) {
        let (mut random, mut weights) = (Random(seed), Weights::default());
        let padded = n.next_multiple_of(WORD as u32);
        let entries: Vec<u8> = (0..(k / chunk * padded) << chunk).map(|_| random.below(256) as u8).collect();
        let factors: Vec<u32> = (0..256).map(|_| ONE / 2 + random.below(u64::from(ONE / 2) + 1) as u32).collect();
        let bias: Vec<i32> = (0..n).map(|_| random.below(2000) as i32 - 1000).collect();
        let op = LookupLinear {
            rows,
            k,
            n,
            chunk,
            x_zero,
            acc_shift: 2,
            zero_point: -3,
            factors: weights.add(&factors.iter().map(|&f| f as u16).collect::<Vec<_>>()),
            tables: weights.add(&entries),
            bias: weights.add(&bias),
            multipliers: weights.add(&std::vec![1 << 22; n as usize]),
        };
        (op, weights, entries.iter().map(|&e| i32::from(e) - 128).collect(), factors)
    }

    /// The definition, one look-up after the other.
    fn expected(op: &LookupLinear, entries: &[i32], factors: &[u32], bias: &[i32], x: &[i32]) -> Vec<i64> {
        let [k, n, chunk] = [op.k, op.n, op.chunk].map(|d| d as usize);
        let padded = n.next_multiple_of(WORD);
        let one = |row: &[i32], channel: usize| {
            let mut acc = i64::from(bias[channel]);
            for (index, z) in row.chunks(chunk).enumerate() {
                let code: usize = z.iter().enumerate().map(|(i, &z)| usize::from(z >= op.x_zero) << i).sum();
                let p = z.iter().rev().fold(1 << 15, |p, &z| (p * factors[(z + 128) as usize] + (1 << 14)) >> 15);
                let weight = i64::from((p + 256) >> 9);
                acc += weight * i64::from(entries[((index << chunk) + code) * padded + channel]);
            }
            (((acc << op.acc_shift) * (1 << 22) + (1 << 31)) >> 32) + i64::from(op.zero_point)
        };
        x.chunks(k).flat_map(|row| (0..n).map(move |channel| one(row, channel))).collect()
    }

    #[test]
    fn sums_are_those_of_single_look_ups() {
        for (seed, size) in
            [[1, 1, 1, 1], [3, 24, 6, 4], [2, 40, 9, 8], [2, 33, 5, 3], [1, 64, 16, 4]].into_iter().enumerate()
        {
            for (x_zero, dtype) in [(0, Dtype::I16), (-128, Dtype::I8), (57, Dtype::I16)] {
                let (op, weights, entries, factors) = layer(size, x_zero, 7 + seed as u64);
                let mut random = Random(seed as u64 + 1);
                let x: Vec<i32> = (0..op.rows * op.k).map(|_| random.below(256) as i32 - 128).collect();
                let (proof, y) = run(&op, &weights, &[(Dtype::I8, &x)], (dtype, (op.rows * op.n) as usize)).unwrap();
                assert!(proof.certificate().is_ok());
                let bias = weights.0[op.bias.offset as usize..].as_chunks::<4>().0;
                let bias: Vec<i32> = bias[..op.n as usize].iter().map(|b| i32::from_le_bytes(*b)).collect();
                let (low, high) = dtype.range();
                let wanted =
                    expected(&op, &entries, &factors, &bias, &x).into_iter().map(|y| y.clamp(low.into(), high.into()));
                assert_eq!(
                    y.into_iter().map(i64::from).collect::<Vec<_>>(),
                    wanted.collect::<Vec<_>>(),
                    "{size:?} {x_zero}"
                );
            }
        }
    }

    #[test]
    fn wrong_parameters_are_refused() {
        let (op, mut weights, ..) = layer([1, 8, 4, 4], 0, 3);
        let beyond = weights.add(&[32769u16; FACTORS]);
        let proof = |op: LookupLinear| run(&op, &weights, &[(Dtype::I8, &[0; 8])], (Dtype::I8, 4)).map(|_| ());
        assert_eq!(proof(op), Ok(()));
        for wrong in [
            LookupLinear { chunk: 0, ..op },
            LookupLinear { chunk: 3, ..op },
            LookupLinear { chunk: 9, k: 9, ..op },
            LookupLinear { n: 0, ..op },
            LookupLinear { x_zero: 1 << 16, ..op },
            LookupLinear { factors: beyond, ..op },
        ] {
            assert_eq!(proof(wrong), Err(OpFault::Range));
        }
        assert_eq!(proof(LookupLinear { tables: op.bias, ..op }), Err(OpFault::Blob));
    }
}
