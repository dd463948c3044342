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
//!
//! # Error bound
//! In units of the last of the [`NORMALIZED_FRACTION_BITS`]: the reciprocal square root and the cut of `V` to 32 bits are
//! relatively exact to `2^-26 + 2^-30`, that is 2.2 of at most `2^27`; the cut of `c_i` is a quarter, the rounding of the
//! product half a unit: below 3 in all. [`affine`] multiplies by less than `2^31 / 2^32` of the output's fraction, and
//! rounds the product, `gamma` (to half a unit times a value below `2^27`) and `beta` to half a unit each.
//! - 8-bit output: `gamma / s_y < 2^12`, so `3 * 2^-21 * 2^12 + (1/2 + 1/64 + 1/2) / 256 < 0.01` steps.
//! - 16-bit output: `gamma / s_y < 2^16`, so `3 * 2^-21 * 2^16 + (1/2 + 1/64 + 1/2) / 16 < 0.16` steps.
//!
//! An error below one step before rounding moves the rounded value by at most one: the output is within one step of the
//! correctly rounded one for every row, gamma and beta that fit their words. A row without variance and without `eps`
//! normalizes to 0, so its output is `beta`.

use super::requant::mulhi_round;

/// Maximum width of a normalized row.
pub const MAX_WIDTH: u32 = 4096;
/// Maximum `eps` term: keeps `V` below 2^58.
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
    const ONE: u32 = 1 << 29;
    const START: u32 = (ONE as u64 * 11 / 5) as u32;
    const SLOPE: u32 = (ONE as u64 * 6 / 5) as u32;
    // High part of a product: every value below is less than 2^32, so that one long multiplication is all it takes.
    const fn product(a: u32, b: u32, shift: u32) -> u32 {
        ((a as u64 * b as u64) >> shift) as u32
    }
    let mut r = START - product(m, SLOPE, 32);
    let mut iteration = 0;
    while iteration < 4 {
        let square = product(m, product(r, r, 29), 32);
        r = product(r, (3 * ONE).saturating_sub(square), 30);
        iteration += 1;
    }
    r
}

/// A row as `normalized(x) = mulhi_round((factor * x + offset) >> right, rsqrt)`, all sums modulo 2^32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arith::requant::{sat_i8, sat_i16};
    use crate::ops::testing::Random;
    use std::vec::Vec;

    #[test]
    fn reciprocal_roots_have_26_bits() {
        let mut m = 1u32 << 30;
        while let Some(next) = m.checked_add(65_537) {
            for m in [m, next - 1] {
                let exact = 2f64.powi(29) / (f64::from(m) / 2f64.powi(32)).sqrt();
                let error = f64::from(rsqrt(m)) / exact - 1.0;
                assert!(error.abs() < 2f64.powi(-26), "{m}: {error}");
            }
            m = next;
        }
        assert!(rsqrt(1 << 30) <= 1 << 30 && rsqrt(u32::MAX) >= 1 << 29);
    }

    /// Rows that are hard: constant, one outlier at either end, alternating extremes, a single step, noise.
    fn rows(n: usize) -> Vec<Vec<i32>> {
        let mut random = Random(n as u64);
        let mut rows: Vec<Vec<i32>> = [0, 1, -1, 32767, -32768, 255].iter().map(|&v| std::vec![v; n]).collect();
        for (outlier, rest) in [(32767, 0), (-32768, 0), (32767, -32768), (-32768, 32767), (1, 0), (32767, 32766)] {
            let mut row = std::vec![rest; n];
            row[n - 1] = outlier;
            rows.push(row);
        }
        rows.push((0..n).map(|i| if i % 2 == 0 { -32768 } else { 32767 }).collect());
        rows.push((0..n).map(|i| if i < n / 2 { 7 } else { 8 }).collect());
        for spread in [3u64, 200, 5000, 65536] {
            let center = random.below(65537 - spread) as i32 - 32768;
            rows.push((0..n).map(|_| center + random.below(spread) as i32).collect());
        }
        rows
    }

    /// `x` normalized without any rounding.
    fn exact(row: &[i32], x: i32, rms: bool, eps: u64) -> f64 {
        let n = row.len() as i128;
        let sum: i128 = if rms { 0 } else { row.iter().map(|&x| i128::from(x)).sum() };
        let squares: i128 = row.iter().map(|&x| i128::from(x) * i128::from(x)).sum();
        let v = n * squares - sum * sum + i128::from(eps);
        let c = n * i128::from(x) - sum;
        if v == 0 { 0.0 } else { c as f64 / (v as f64).sqrt() }
    }

    const WIDTHS: [usize; 12] = [8, 9, 16, 31, 64, 100, 192, 255, 768, 1000, 4095, 4096];

    #[test]
    fn normalized_values_are_within_three_units() {
        for n in WIDTHS {
            for row in rows(n) {
                for rms in [false, true] {
                    for eps in [0, 1, 1000, 1 << 40, MAX_EPS] {
                        let norm = RowNorm::new(row.iter().copied(), n as u32, rms, eps);
                        for &x in row.iter().step_by(1 + n / 40).chain(row.last()) {
                            let exact = exact(&row, x, rms, eps) * 2f64.powi(NORMALIZED_FRACTION_BITS as i32);
                            let error = f64::from(norm.normalize(x)) - exact;
                            assert!(error.abs() < 3.0, "n {n} rms {rms} eps {eps} x {x}: {error}");
                        }
                    }
                }
            }
        }
    }

    /// The word for `gamma / s_y`, as the converter rounds it.
    fn gamma_word(gamma: f64, fraction: u32) -> i32 {
        let scaled = gamma * 2f64.powi(32 - NORMALIZED_FRACTION_BITS as i32 + fraction as i32);
        scaled.round().clamp(-f64::from(i32::MAX), f64::from(i32::MAX)) as i32
    }

    #[test]
    fn outputs_are_within_one_step_of_the_correctly_rounded_value() {
        let mut random = Random(11);
        for n in WIDTHS {
            for row in rows(n) {
                for (rms, eps) in [(false, 0), (false, 123_456), (true, 0), (true, 1)] {
                    let norm = RowNorm::new(row.iter().copied(), n as u32, rms, eps);
                    for &x in row.iter().step_by(1 + n / 16).chain(row.last()) {
                        let normalized = exact(&row, x, rms, eps);
                        for (fraction, top) in [(FRACTION_I8, 127.0), (FRACTION_I16, 32767.0)] {
                            // Output ranges from a hundredth to a hundred times the usual one.
                            let gamma = (random.below(2001) as f64 - 1000.0) / 1000.0
                                * top
                                * 2f64.powi(random.below(9) as i32 - 7);
                            let beta = (random.below(2001) as f64 - 1000.0) / 1000.0 * top;
                            let beta_word = (beta * 2f64.powi(fraction as i32)).round() as i32 + (1 << (fraction - 1));
                            let y = affine(norm.normalize(x), gamma_word(gamma, fraction), beta_word) >> fraction;
                            let y = if top == 127.0 { i32::from(sat_i8(y)) } else { i32::from(sat_i16(y)) };
                            let correct = (normalized * gamma + beta).round().clamp(-top - 1.0, top);
                            assert!(
                                (f64::from(y) - correct).abs() <= 1.0,
                                "n {n} rms {rms} x {x} {gamma}: {y} {correct}"
                            );
                        }
                    }
                }
            }
        }
    }
}
