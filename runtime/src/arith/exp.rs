//! Powers of two with a fraction, by a quadratic and a shift: the exponential of the softmax.
//!
//! Scores arrive in log2 units with [`SCORE_FRACTION_BITS`] fractional bits, as distances below the row maximum.
//! `2^-(q + f/256) = 2^-(f/256) >> q`, and `2^-(f/256)` is a quadratic with constants found by exhaustive search:
//! largest relative error 0.24 %.
//!
//! # Error of a weighted sum
//! A softmax-weighted sum is `y = sum(e_i v_i) / sum(e_i)`; with computed `a_i` for `e_i` it differs from the exact one by
//! `sum((a_i - e_i)(v_i - y)) / sum(a_i)`, at most `R * sum|a_i - e_i| / sum(a_i)` where `R` is the range of the values
//! `v`. In units of the largest exponential:
//! - `|a_i - e_i| <= eps e_i + delta` with `eps` = 0.0024 of the quadratic and `delta` of the cut: `1 / 32640` for 16 bits
//!   (one floor), `(1/2 + 1/128) / 255` for 8 bits (that floor, then a rounding). The largest element itself is exact.
//! - `sum(a_i)` is at least 1, and at least `(1 - eps) E - delta (n - 1)` with `E` the exact sum. Both meet where the
//!   quotient is largest: `R (eps + delta (n - 1)) / (1 - eps)`, see [`sum_error`].
//!
//! It grows with the length of the row because a long flat tail may be rounded away as a whole. For 50, 197 and 1000
//! elements: 10 %, 39 % and 100 % of `R` with 8 bits, 0.4 %, 0.9 % and 3.3 % with 16 bits. Rows that are peaked or short
//! stay far below; the converter measures which width a model needs.
//!
//! To this the scores add what their own rounding does, `R (2^(1/256) - 1)` or 0.27 % (half a step of 1/256 for an element
//! and for the maximum), and the division `2^-14 |y|` ([`RowScale`]) and half a step of the result.

use super::requant::mulhi_floor;

/// Fractional bits of a score.
pub const SCORE_FRACTION_BITS: u32 = 8;
/// The value that stands for 1 in the 16-bit form; `255 * 128`, so that the rounded 8-bit form is 255.
pub const EXP2_ONE: u32 = 32640;
/// Linear coefficient of the quadratic, in 1/256.
pub const EXP2_A: u32 = 21926;
/// Quadratic coefficient, in 1/256.
pub const EXP2_B: u32 = 22;
/// A bias that switches a score off: 2^-128 of whatever the others have.
pub const MASKED: i16 = i16::MIN;

const FRACTION_MASK: u32 = (1 << SCORE_FRACTION_BITS) - 1;
/// Right shift from the 16-bit to the 8-bit form.
const U8_SHIFT: u32 = 7;

/// `EXP2_ONE * 2^-(f/256)` for `f` in `0..256`.
#[inline(always)]
pub const fn exp2_fraction(f: u32) -> u32 {
    EXP2_ONE - ((f * (EXP2_A - f * EXP2_B)) >> SCORE_FRACTION_BITS)
}

/// [`exp2_fraction`] of every `f`, for kernels that prefer a load.
pub static EXP2_FRACTION: [u16; 256] = {
    let mut table = [0; 256];
    let mut f = 0;
    while f < table.len() {
        table[f] = exp2_fraction(f as u32) as u16;
        f += 1;
    }
    table
};

/// `EXP2_ONE * 2^-(distance/256)`, floored.
#[inline(always)]
pub const fn exp_u16(distance: u32) -> u16 {
    let whole = distance >> SCORE_FRACTION_BITS;
    let whole = if whole > 31 { 31 } else { whole };
    (exp2_fraction(distance & FRACTION_MASK) >> whole) as u16
}

/// `255 * 2^-(distance/256)`, the 16-bit form rounded half up.
#[inline(always)]
pub const fn exp_u8(distance: u32) -> u8 {
    ((exp_u16(distance) as u32 + (1 << (U8_SHIFT - 1))) >> U8_SHIFT) as u8
}

/// Maximum error of a softmax-weighted sum over `n` elements, in 1/65536 of the range of the values: the bound of the
/// [module](self) for exponentials of 16 (`wide`) or 8 bits, at most 65536.
pub const fn sum_error(n: u32, wide: bool) -> u32 {
    const UNIT: u64 = 1 << 16;
    /// 0.0024, rounded up.
    const EPS: u64 = 158;
    let others = n.saturating_sub(1) as u64 * UNIT;
    // delta = 1 / 32640, or 65 / 128 / 255 = 65 / 32640.
    let cut = (others * if wide { 1 } else { 65 }).div_ceil(EXP2_ONE as u64);
    let sum = EPS + cut;
    // 1 / (1 - eps) < 1 + 1/400.
    let bound = sum + sum / 400 + 1;
    if bound < UNIT { bound as u32 } else { UNIT as u32 }
}

/// The scale `ratio / sum` of a row as a multiplier and a shift: the one division of a softmax row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowScale {
    /// In `2^29 ..= 2^31 - 1`.
    pub multiplier: i32,
    /// Right shift after the high half of the product, `1..=31`.
    pub shift: u32,
}

impl RowScale {
    /// `ratio = ratio_m * 2^-ratio_shift`, `ratio_m` in `2^14 .. 2^15`, `ratio_shift` in `10..=20`; `sum >= 128`.
    ///
    /// The reciprocal of the sum keeps 16 bits: its relative error is below 2^-14.
    #[inline(always)]
    pub const fn new(sum: u32, ratio_m: u32, ratio_shift: u32) -> Self {
        // A zero sum cannot come from `exp_row` (the maximum contributes 255); 1 keeps the function total.
        let sum = if sum == 0 { 1 } else { sum };
        let zeros = sum.leading_zeros();
        let divisor = (sum << zeros) >> 16;
        let reciprocal = match u32::MAX.checked_div(divisor) {
            Some(reciprocal) => reciprocal,
            None => 0,
        };
        // divisor in [2^15, 2^16), reciprocal in [2^16, 2^17], product in [2^30, 2^32).
        let multiplier = (ratio_m.wrapping_mul(reciprocal) >> 1) as i32;
        let shift = (ratio_shift + 15).saturating_sub(zeros);
        Self {
            multiplier,
            shift: if shift < 1 {
                1
            } else if shift > 31 {
                31
            } else {
                shift
            },
        }
    }

    /// `round_half_up(acc * ratio / sum)`, one rounding over the whole product.
    #[inline(always)]
    pub const fn apply(self, acc: i32) -> i32 {
        let high = mulhi_floor(acc, self.multiplier) as i64;
        ((high + (1 << (self.shift - 1))) >> self.shift) as i32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::Random;
    use std::vec::Vec;

    #[test]
    fn the_quadratic_is_within_a_quarter_percent() {
        for f in 0..256u32 {
            let exact = f64::from(EXP2_ONE) * (-f64::from(f) / 256.0).exp2();
            let error = f64::from(exp2_fraction(f)) / exact - 1.0;
            assert!(error.abs() < 0.0024, "f {f}: {error}");
            assert_eq!(u32::from(EXP2_FRACTION[f as usize]), exp2_fraction(f));
        }
    }

    #[test]
    fn exponentials_fall_monotonically_from_one_to_zero() {
        assert_eq!((exp_u8(0), exp_u16(0)), (255, EXP2_ONE as u16));
        for distance in 0..10_000u32 {
            assert!(exp_u16(distance + 1) <= exp_u16(distance));
            assert!(exp_u8(distance + 1) <= exp_u8(distance));
        }
        assert_eq!((exp_u8(u32::MAX), exp_u16(u32::MAX)), (0, 0));
    }

    #[test]
    fn row_scale_is_the_ratio_over_the_sum() {
        for sum in [255u32, 256, 1000, 12_345, 65_535, 32_640, 6_430_080, 16_777_216] {
            for ratio_shift in 10..=16u32 {
                let ratio = 20_000.0 / f64::from(1u32 << ratio_shift);
                let acc = (sum as i32).saturating_mul(50);
                let exact = f64::from(acc) * ratio / f64::from(sum);
                let y = RowScale::new(sum, 20_000, ratio_shift).apply(acc);
                assert!((f64::from(y) - exact).abs() <= 0.5 + exact.abs() / 16384.0, "{sum} {ratio}: {y} {exact}");
            }
        }
    }

    /// The exact weighted sum, the one with computed exponentials, and the sum of these.
    fn weighted(distances: &[u32], values: &[i32], wide: bool) -> (f64, f64, u32) {
        let (mut exact, mut exact_sum, mut acc, mut sum) = (0.0, 0.0, 0i64, 0u32);
        for (&d, &v) in distances.iter().zip(values) {
            let e = (-f64::from(d) / 256.0).exp2();
            let a = if wide { u32::from(exp_u16(d)) } else { u32::from(exp_u8(d)) };
            exact += e * f64::from(v);
            exact_sum += e;
            acc += i64::from(a) * i64::from(v);
            sum += a;
        }
        (exact / exact_sum, acc as f64 / f64::from(sum), sum)
    }

    /// Rows with one maximum and a tail: flat at every distance, random, and mixed; the signs split maximum and tail.
    fn rows(n: usize) -> Vec<(Vec<u32>, Vec<i32>)> {
        let mut random = Random(n as u64);
        let mut rows = Vec::new();
        for d in (0..4200).step_by(if n > 500 { 151 } else { 7 }) {
            let mut distances = std::vec![d; n];
            distances[0] = 0;
            let mut values = std::vec![-128; n];
            values[0] = 127;
            rows.push((distances, values));
        }
        for spread in [1, 300, 1500, 4000, 20_000] {
            let mut distances: Vec<u32> = (0..n).map(|_| random.below(spread) as u32).collect();
            distances[n / 2] = 0;
            let values =
                (0..n).map(|i| if distances[i] > 700 { 127 } else { random.below(256) as i32 - 128 }).collect();
            rows.push((distances, values));
        }
        rows
    }

    #[test]
    fn weighted_sums_stay_within_the_bound() {
        for n in [1, 2, 3, 8, 50, 99, 197, 1000, 4096] {
            for (distances, values) in rows(n) {
                let range = f64::from(values.iter().max().unwrap() - values.iter().min().unwrap());
                for wide in [false, true] {
                    let (exact, computed, _) = weighted(&distances, &values, wide);
                    let bound = range * f64::from(sum_error(n as u32, wide)) / 65536.0;
                    assert!((computed - exact).abs() <= bound + 1e-9, "n {n} wide {wide}: {computed} {exact} {bound}");
                }
            }
        }
    }

    #[test]
    fn the_bound_is_nearly_attained() {
        for (n, wide) in [(50, false), (197, false), (1000, true)] {
            let worst = rows(n).into_iter().map(|(d, v)| {
                let (exact, computed, _) = weighted(&d, &v, wide);
                (computed - exact).abs() / 255.0
            });
            let share = worst.fold(0.0, f64::max) / (f64::from(sum_error(n as u32, wide)) / 65536.0);
            assert!(share > if wide { 0.25 } else { 0.6 }, "n {n} wide {wide}: {share}");
        }
    }

    #[test]
    fn row_scales_are_exact_to_14_bits_for_any_row() {
        let mut random = Random(9);
        for _ in 0..200_000 {
            let sum = 128 + (random.below(1 << 30) >> random.below(30)) as u32;
            let (m, shift) = (16384 + random.below(16384) as u32, 10 + random.below(11) as u32);
            let limit = (i64::from(sum) * 128).min(i64::from(i32::MAX));
            let acc = (random.below(2 * limit as u64 + 1) as i64 - limit) as i32;
            let exact = f64::from(acc) / f64::from(sum) * f64::from(m) / f64::from(1u32 << shift);
            let y = f64::from(RowScale::new(sum, m, shift).apply(acc));
            assert!((y - exact).abs() <= 0.5 + exact.abs() / 16384.0 + 1e-3, "{sum} {m} {shift} {acc}: {y} {exact}");
        }
    }
}
