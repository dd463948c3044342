//! LayerNorm and RMSNorm of one row, by an integer reciprocal square root.
//!
//! With `n` the width, `c_i = n * x_i - sum(x)` and `V = n * sum(x^2) - sum(x)^2 + n^2 * eps`, the normalized value is
//! exactly `c_i / sqrt(V)`; nothing is rounded before the square root. RMSNorm has `c_i = n * x_i` and
//! `V = n * sum(x^2) + n^2 * eps`.
//!
//! # Ranges, for `n <= 4096` and 16-bit `x`
//! - `|sum(x)| <= 2^12 * 2^15 = 2^27`, `sum(x^2) <= 2^42`, `V <= 2^54` plus the term of `eps`.
//! - `|c_i| <= n * |x_i - mean| <= 2^12 * 2^16 = 2^28`.
//! - `|c_i| / sqrt(V) <= sqrt(n) <= 2^6` (a single outlier is the worst row).
//! - `V = m * 4^e` with `m` in `[2^30, 2^32)`: `sqrt(V) < 2^(16 + e)`, so `|c_i| <= 2^(22 + e)` and
//!   `|c_i * 2^(8 - e)| <= 2^30`.

use super::requant::mulhi_round;

/// Greatest width of a normalized row.
pub const MAX_WIDTH: u32 = 4096;
/// Greatest `eps` term: keeps `V` below 2^58.
pub const MAX_EPS: u64 = 1 << 57;
/// Fractional bits of gamma and beta for an 8-bit output.
pub const FRACTION_I8: u32 = 8;
/// Fractional bits of gamma and beta for a 16-bit output.
pub const FRACTION_I16: u32 = 4;
/// Fractional bits of a normalized value.
pub const NORMALIZED_FRACTION_BITS: u32 = 21;

/// `2^29 / sqrt(m / 2^32)` for `m >= 2^30`, by Newton's iteration; in `[2^29, 2^30]`, relative error below 2^-26.
///
/// The start is the straight line `2.2 - 1.2 m`, within 10 % over `[1/4, 1)`; each of the four iterations
/// `r (3 - m r^2) / 2` squares the error: 2e-2, 4e-4, 3e-7, then the truncation of the 30-bit products.
#[inline]
pub const fn rsqrt(m: u32) -> u32 {
    const ONE: u64 = 1 << 29;
    let m = m as u64;
    let mut r = (ONE * 11 / 5) - ((m * (ONE * 6 / 5)) >> 32);
    let mut iteration = 0;
    while iteration < 4 {
        let r2 = (r * r) >> 29;
        let product = (m * r2) >> 32;
        r = (r * (3 * ONE).saturating_sub(product)) >> 30;
        iteration += 1;
    }
    r as u32
}

/// A row as `normalized(x) = mulhi_round((factor * x + offset) >> right, rsqrt)`, all sums modulo 2^32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Affine {
    /// Of `x`.
    pub factor: i32,
    /// Added to the product.
    pub offset: i32,
    /// As in [`RowNorm`].
    pub rsqrt: i32,
    /// Right shift of the sum.
    pub right: u32,
}

/// What all elements of a row share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowNorm {
    /// `n`.
    width: i32,
    /// `sum(x)`, or 0 for RMSNorm.
    sum: i32,
    /// `2^29 / sqrt(m / 2^32)`, or 0 for a row without variance and without `eps`.
    rsqrt: i32,
    /// Left shift of `c_i`; negative is a right shift.
    shift: i32,
}

impl RowNorm {
    /// Statistics of a row of `width` values.
    pub fn new(row: impl Iterator<Item = i32>, width: u32, rms: bool, eps: u64) -> Self {
        let mut sum = 0i32;
        let mut squares = 0u64;
        for x in row {
            sum = sum.wrapping_add(x);
            squares += u64::from(x.unsigned_abs().wrapping_mul(x.unsigned_abs()));
        }
        Self::from_sums(sum, squares, width, rms, eps)
    }

    /// The same from `sum(x)` and `sum(x^2)`.
    #[inline]
    pub fn from_sums(sum: i32, squares: u64, width: u32, rms: bool, eps: u64) -> Self {
        let sum = if rms { 0 } else { sum };
        let square_of_sum = u64::from(sum.unsigned_abs()) * u64::from(sum.unsigned_abs());
        // By Cauchy-Schwarz the difference is never negative.
        let v = (u64::from(width) * squares).saturating_sub(square_of_sum).saturating_add(eps);
        let width = width as i32;
        if v == 0 {
            return Self { width, sum, rsqrt: 0, shift: 0 };
        }
        // Even shift that brings the highest bit of V to bit 30 or 31.
        let top = 63 - v.leading_zeros() as i32;
        let e = (top >> 1) - 15;
        let m = if e >= 0 { (v >> (2 * e)) as u32 } else { (v << (-2 * e)) as u32 };
        Self { width, sum, rsqrt: rsqrt(m) as i32, shift: 8 - e }
    }

    /// The same row as a straight line before the reciprocal root, for kernels.
    ///
    /// A left shift of `width * x - sum` goes into factor and offset: modulo 2^32 that is the same value, which fits.
    #[inline]
    pub fn affine(&self) -> Affine {
        let left = self.shift.clamp(0, 31) as u32;
        Affine {
            factor: self.width.wrapping_shl(left),
            offset: self.sum.wrapping_neg().wrapping_shl(left),
            rsqrt: self.rsqrt,
            right: (-self.shift).clamp(0, 31) as u32,
        }
    }

    /// The normalized value of `x`, with [`NORMALIZED_FRACTION_BITS`]; at most `2^27` in magnitude.
    #[inline(always)]
    pub fn normalize(&self, x: i32) -> i32 {
        let c = self.width.wrapping_mul(x).wrapping_sub(self.sum);
        let c = if self.shift >= 0 { c << self.shift } else { c >> -self.shift };
        mulhi_round(c, self.rsqrt)
    }
}

/// `t * gamma + beta` with the fractional bits of the output width.
#[inline(always)]
pub fn affine(t: i32, gamma: i32, beta: i32) -> i32 {
    mulhi_round(t, gamma).wrapping_add(beta)
}
