//! Dyadic requantization of the published I-ViT models, see [`crate::arith::ivit`].

use super::{Division, Memory, OpFault, Operands, Operator, Proof, RunFault, require, signed_bits, wide};
use crate::arith::ivit::{mul_half_even, mul_half_even_wide};
use crate::arith::requant::sat_i32;
use crate::format::{Blob, op_params};
use crate::kernels::Kernels;
use crate::tensor::Dtype;
use core::ops::Range;

op_params! {
    /// `y = sat(round_half_even(x * m_c / 2^s_c))`, with an identity branch (input 1)
    /// `sat(round_half_even(x * m_c / 2^s_c) + round_half_even(identity * m / 2^s))`.
    ///
    /// `x: [rows, n]` of any element type, `identity: [rows, n]` likewise, `y: [rows, n] i8 | i16`; `c` is the column.
    /// `y` may lie in the memory of an identity of the same type.
    ///
    /// # Reference
    /// I-ViT section 3.2, dyadic arithmetic; the published `QuantAct`. Halves of the exact product go to the even
    /// neighbour; the branches are rounded each by itself.
    DyadicRequant {
        /// Rows.
        rows: u32,
        /// Columns.
        n: u32,
        /// Pairs `(m, s)` of `i32`: one for all columns, or one for each.
        ratios: Blob,
        /// `m` of the identity branch, `-2^31 < m < 2^31`.
        identity_multiplier: i32,
        /// `s` of the identity branch, at most 63.
        identity_shift: u32,
    }
}

/// A ratio `multiplier / 2^shift` as it lies in a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ratio {
    /// Not `i32::MIN`; a mantissa of `2^31` is written as `2^30` with the shift less one.
    pub multiplier: i32,
    /// `0..=63`.
    pub shift: i32,
}

impl Ratio {
    /// Encoded size.
    pub const BYTES: usize = 8;
    /// Maximum shift: it leaves nothing of any product.
    pub const MAX_SHIFT: u32 = 63;

    /// `round_half_even(x * ratio)`.
    #[inline]
    pub const fn apply(self, x: i32) -> i64 {
        mul_half_even(x, self.multiplier as i64, self.shift as u32)
    }

    /// [`apply`](Self::apply) of a value of up to 55 bits, limited to 32 bits.
    #[inline]
    pub const fn apply_wide(self, y: i64) -> i32 {
        mul_half_even_wide(y, self.multiplier, self.shift as u32)
    }

    /// From the pair in a blob.
    pub const fn of([multiplier, shift]: [i32; 2]) -> Self {
        Self { multiplier, shift }
    }

    const fn is_valid(self) -> bool {
        self.multiplier != i32::MIN && self.shift >= 0 && self.shift as u32 <= Self::MAX_SHIFT
    }

    /// The ratios of a blob of `len`, all valid.
    pub(super) fn check<'m>(
        io: &Operands<'m>,
        blob: Blob,
        len: u32,
    ) -> Result<impl Iterator<Item = Self> + 'm, OpFault> {
        let bytes = io.need_blob(blob, u64::from(len) * Self::BYTES as u64)?;
        let ratios = bytes.as_chunks::<8>().0.iter().map(|b| Ratio::of(bytemuck::cast(*b)));
        require(ratios.clone().all(Self::is_valid), OpFault::Range)?;
        Ok(ratios)
    }

    /// Maximum magnitude of this ratio times a value of `dtype`, rounded; at most 2^62.
    fn reach(self, dtype: Dtype) -> u64 {
        let (min, max) = dtype.range();
        let reach = min.unsigned_abs().max(max.unsigned_abs());
        ((u64::from(reach) * u64::from(self.multiplier.unsigned_abs())) >> self.shift) + 1
    }
}

/// Columns at a time.
const CHUNK: usize = 32;

impl DyadicRequant {
    fn per_column(&self) -> bool {
        self.ratios.bytes as usize != Ratio::BYTES
    }
}

/// Work of an element, see [`Division`].
const REQUANT_WORK: u64 = 800;

/// The same for [`Operator::piece_work`].
const ELEMENT_WORK: u32 = 150;

impl Operator for DyadicRequant {
    fn check(&self, io: &Operands<'_>) -> Result<Proof, OpFault> {
        require(self.rows > 0 && self.n > 0, OpFault::Range)?;
        let len = u64::from(self.rows) * u64::from(self.n);
        let any = &[Dtype::I8, Dtype::U8, Dtype::I16, Dtype::U16, Dtype::I32];
        let x = io.need_input(0, any, len)?;
        let out = io.need_output(&[Dtype::I8, Dtype::I16], len)?;
        let own = Ratio { multiplier: self.identity_multiplier, shift: self.identity_shift as i32 };
        require(own.is_valid(), OpFault::Range)?;
        let range = |dtype: Dtype| (i64::from(dtype.range().0), i64::from(dtype.range().1));
        let mut branch = ((0, 0), 0);
        if let Some(identity) = io.input(1) {
            io.need_input(1, any, len)?;
            let aliased = identity.place == out.place && identity.offset == out.offset;
            require(!aliased || identity.dtype == out.dtype, OpFault::Alias)?;
            branch = (range(identity.dtype), own.reach(identity.dtype));
        }
        let ratios = Ratio::check(io, self.ratios, if self.per_column() { self.n } else { 1 })?;
        let widest = ratios.map(|ratio| ratio.reach(x.dtype)).fold(0, u64::max);
        let wide_bits = signed_bits(widest + branch.1);
        Ok(Proof { second_acc: branch.0, wide_bits, ..Proof::of(range(x.dtype), 0) })
    }

    fn run<B: Kernels>(&self, memory: &mut Memory<'_>, pieces: Range<u32>) -> Result<(), RunFault> {
        let n = self.n as usize;
        let ratios = memory.inputs.blob::<[i32; 2]>(self.ratios)?;
        let has_identity = memory.inputs.record(1).is_some();
        let own = Ratio { multiplier: self.identity_multiplier, shift: self.identity_shift as i32 };
        let (mut x, mut identity) = ([0i32; CHUNK], [0i32; CHUNK]);
        for row in pieces {
            for column in (0..n).step_by(CHUNK) {
                let count = (n - column).min(CHUNK);
                let x = x.get_mut(..count).unwrap_or(&mut []);
                let identity = identity.get_mut(..count).unwrap_or(&mut []);
                let start = row as usize * n + column;
                wide::load_input(memory, 0, start, 1, x)?;
                if has_identity {
                    wide::load_input(memory, 1, start, 1, identity)?;
                }
                let ratios = if self.per_column() { ratios.get(column..).unwrap_or(&[]) } else { ratios };
                for ((x, &identity), &ratio) in x.iter_mut().zip(&*identity).zip(ratios.iter().cycle()) {
                    // Each branch is below 2^62 in magnitude.
                    *x = sat_i32(Ratio::of(ratio).apply(*x) + own.apply(identity));
                }
                wide::store_out(memory, start, x);
            }
        }
        Ok(())
    }

    fn division(&self) -> Option<Division> {
        Some(Division::rows(self.n, REQUANT_WORK * u64::from(self.n)))
    }

    fn in_place(&self) -> Option<usize> {
        Some(1)
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
    use crate::arith::ivit::{Dyadic, requantize, requantize_add};
    use std::vec::Vec;

    fn dyadic([multiplier, shift]: [i32; 2]) -> Dyadic {
        Dyadic { multiplier: i64::from(multiplier), shift: shift as u32 }
    }

    #[test]
    fn columns_have_their_own_ratio() {
        let mut random = Random(4);
        let ratios: Vec<[i32; 2]> = (0..35).map(|i| [(1 << 30) + random.below(1 << 30) as i32, 40 + i % 24]).collect();
        let mut weights = Weights::default();
        let blob = weights.add(&ratios);
        let op = DyadicRequant { rows: 3, n: 35, ratios: blob, identity_multiplier: 0, identity_shift: 0 };
        let x = random.values(Dtype::I32, 3 * 35);
        let (_, y) = run(&op, &weights, &[(Dtype::I32, &x)], (Dtype::I16, 3 * 35)).unwrap();
        for (i, (&x, &y)) in x.iter().zip(&y).enumerate() {
            assert_eq!(y, requantize(x, dyadic(ratios[i % 35]), 16), "element {i}");
        }
    }

    #[test]
    fn the_identity_is_rounded_by_itself() {
        let mut random = Random(5);
        let (ratio, own) = ([3 << 29, 50], [(1 << 30) + 7, 31]);
        let mut weights = Weights::default();
        let blob = weights.add(&[ratio]);
        let op =
            DyadicRequant { rows: 2, n: 40, ratios: blob, identity_multiplier: own[0], identity_shift: own[1] as u32 };
        let (x, identity) = (random.values(Dtype::I32, 80), random.values(Dtype::I16, 80));
        let inputs = [(Dtype::I32, &x[..]), (Dtype::I16, &identity[..])];
        let (_, y) = run(&op, &weights, &inputs, (Dtype::I16, 80)).unwrap();
        for ((&x, &identity), &y) in x.iter().zip(&identity).zip(&y) {
            assert_eq!(y, requantize_add(x, dyadic(ratio), identity, dyadic(own), 16));
        }
    }

    #[test]
    fn ratios_out_of_range_are_refused() {
        for ratio in [[i32::MIN, 31], [1 << 30, 64], [1 << 30, -1]] {
            let mut weights = Weights::default();
            let blob = weights.add(&[ratio]);
            let op = DyadicRequant { rows: 1, n: 1, ratios: blob, identity_multiplier: 0, identity_shift: 0 };
            assert_eq!(run(&op, &weights, &[(Dtype::I32, &[0])], (Dtype::I8, 1)).err(), Some(OpFault::Range));
        }
    }
}
