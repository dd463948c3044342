//! The published I-ViT operators in integers: Shiftmax, ShiftGELU, I-LayerNorm, dyadic requantization.
//!
//! The published code computes on floats that hold integers; these functions give the same values for every input on
//! which that code is exact. `S` is the scale of the input. It enters only through `period = -floor(-1 / S)` (for
//! ShiftGELU `S * 1.702`), which the converter computes; everything else is integers.
//!
//! # Limits of the published form
//! They are part of the definition, and the row types report them:
//! - The sum of exponentials is clamped to `2^31 - 1` ([`ShiftmaxRow::sum_saturates`]): the probabilities of such a row
//!   do not sum to one.
//! - ShiftGELU scales all exponentials of a row by the row maximum and keeps `n` halvings (9.4 real units for 23). An
//!   element further below it has the same exponential as 0, and a sigmoid of one half or less
//!   ([`ShiftGeluRow::is_out_of_reach`]).
//! - `period` is an integer: with a coarse `S` its rounding is the error of the exponential's base.
//! - I-LayerNorm's square root is ten Newton steps from `2^16`, too few for small variances: the result is never below
//!   64 ([`ILayerNormRow::std`]), and up to half too great for sums of squares below about 2^14.
//!
//! # Reference
//! Li and Gu, "I-ViT: Integer-only Quantization for Efficient Vision Transformer Inference", ICCV 2023: Algorithms 1
//! (Shiftmax) and 2 (ShiftGELU), section 3.5 (I-LayerNorm), and the published code where the paper leaves rounding open.

use core::num::NonZeroU32;

/// `n` of the published Shiftmax: halvings of the exponential that are kept.
pub const SHIFTMAX_N: u32 = 15;
/// `n` of the published ShiftGELU.
pub const SHIFTGELU_N: u32 = 23;
/// Output bits of the published sigmoid inside ShiftGELU.
pub const SIGMOID_BITS: u32 = 8;
/// Maximum `n`: with it the exponential of a non-positive argument fits 63 bits.
pub const MAX_N: u32 = 31;

/// Numerator of the integer divisions, and the clamp of the sums.
const ONE: u32 = i32::MAX as u32;
/// Fractional bits of `ONE`, rounded up: `ONE / 2^31` stands for 1.
const ONE_BITS: u32 = 31;
const NEWTON_START: u64 = 1 << 16;
const NEWTON_STEPS: u32 = 10;
/// `NEWTON_START >> NEWTON_STEPS`: no step more than halves.
const MIN_STD: u32 = 64;

/// The shift-based exponential `exp(S * x) * period * 2^n`.
///
/// `x * log2(e)` is `x + (x >> 1) - (x >> 4)`, the period of one halving is `1 / S`, and `2^-f` within a period is the
/// straight line `1 - f / 2`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShiftExp {
    period: NonZeroU32,
    n: u32,
}

impl ShiftExp {
    /// `None` unless `period >= 1`, `n <= `[`MAX_N`] and `period * n` fits `u32`.
    pub const fn new(period: u32, n: u32) -> Option<Self> {
        let Some(period) = NonZeroU32::new(period) else { return None };
        if n > MAX_N || period.get().checked_mul(n).is_none() {
            return None;
        }
        Some(Self { period, n })
    }

    /// The exponential of `x`, `|x| <= 2^32`.
    ///
    /// `x <= 0`: exact, at least 1, at most `period << n`. `x > 0`: exact below `2^31`, else some value not below it,
    /// which the callers clamp.
    pub fn exp(self, x: i64) -> u64 {
        let period = self.period.get();
        let scaled = x + (x >> 1) - (x >> 4);
        let min = -((period * self.n) as i64);
        let scaled = if scaled < min { min } else { scaled };
        let distance = if scaled.unsigned_abs() > u32::MAX as u64 { u32::MAX } else { scaled.unsigned_abs() as u32 };
        // scaled = -period * halvings - rest, 0 <= rest < period.
        let (shift, rest) = if scaled <= 0 {
            // `scaled >= least`, so there are at most n whole periods.
            (self.n - distance / self.period, distance % self.period)
        } else {
            let up = distance.div_ceil(period);
            // up * period - distance is below period: the wrapped difference is exact.
            (self.n.saturating_add(up), up.wrapping_mul(period).wrapping_sub(distance))
        };
        // (2 period - rest) >= 2: 31 more bits reach 2^31 after the halving.
        let shift = if shift > ONE_BITS { ONE_BITS } else { shift };
        ((2 * period as u64 - rest as u64) << shift) >> 1
    }

    /// Maximum exponential of all `x` from 0 up to `most`.
    pub fn bound(self, most: i64) -> u64 {
        let max = self.exp(most);
        // Exact values grow with x; greater ones are shifted by 31 at most.
        if max > u64::from(ONE) { u64::from(self.period.get()) << ONE_BITS } else { max }
    }
}

/// Bits, with sign, of an exponential of at most `peak` times the reciprocal of a sum it is part of: where the reciprocal is
/// above 1, the sum, and with it the product, is at most `2^31 - 1`.
pub const fn normalized_bits(peak: u64) -> u32 {
    let most = if peak > ONE as u64 { peak } else { ONE as u64 };
    65 - most.leading_zeros()
}

/// `floor(ONE / min(sum, ONE))`, `sum >= 1`.
const fn reciprocal(sum: u64) -> u32 {
    let sum = if sum > ONE as u64 { ONE } else { sum as u32 };
    match ONE.checked_div(sum) {
        Some(factor) => factor,
        None => 0,
    }
}

/// Shiftmax of one row: `y_i = floor(e_i * floor((2^31 - 1) / sum(e)) / 2^(32 - bits))`.
///
/// With `e_i` the [`ShiftExp`] of `x_i - max(x)`. The output has scale `2^(1 - bits)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShiftmaxRow {
    exp: ShiftExp,
    max: i32,
    factor: u32,
    shift: u32,
    saturates: bool,
}

impl ShiftmaxRow {
    /// Statistics of a row; `bits` in `1..=31`, 8 or 16 in the published models.
    pub fn new(exp: ShiftExp, bits: u32, row: impl Iterator<Item = i32> + Clone) -> Self {
        let max = row.clone().max().unwrap_or(0);
        let sum = row.fold(0u64, |sum, x| sum.saturating_add(exp.exp(i64::from(x) - i64::from(max))));
        let shift = (ONE_BITS + 1).saturating_sub(bits);
        Self { exp, max, factor: reciprocal(sum), shift, saturates: sum > u64::from(ONE) }
    }

    /// The probability of `x`, an element of the row.
    ///
    /// At most `2^(bits - 1) - 1` where the sum does not saturate: then `e * factor <= sum * factor < 2^31`.
    #[inline]
    pub fn probability(&self, x: i32) -> i64 {
        let e = self.exp.exp(x as i64 - self.max as i64);
        // A factor above 1 means that e is at most the sum, below 2^31.
        (e.saturating_mul(self.factor as u64) >> self.shift) as i64
    }

    /// Whether the sum of exponentials was clamped: the row's probabilities do not sum to one.
    pub const fn sum_saturates(&self) -> bool {
        self.saturates
    }
}

/// ShiftGELU of one row: `y_i = x_i * sigmoid(1.702 x_i)`, the sigmoid with `bits` bits.
///
/// `sigmoid_i = floor(e_i * floor((2^31 - 1) / min(e_i + e_0, 2^31 - 1)) / 2^(32 - bits))`, with `e_i` the [`ShiftExp`]
/// of `x_i - max(x)` and `e_0` that of `-max(x)`; `S` of the exponential is 1.702 times the scale of `x`. The output
/// has the scale of `x` times `2^(1 - bits)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShiftGeluRow {
    exp: ShiftExp,
    max: i32,
    at_zero: u64,
    shift: u32,
}

impl ShiftGeluRow {
    /// Statistics of a row; `bits` in `1..=31`, [`SIGMOID_BITS`] in the published models.
    pub fn new(exp: ShiftExp, bits: u32, row: impl Iterator<Item = i32>) -> Self {
        let max = row.max().unwrap_or(0);
        let shift = (ONE_BITS + 1).saturating_sub(bits);
        Self { exp, max, at_zero: exp.exp(-i64::from(max)), shift }
    }

    /// The sigmoid of `x`, an element of the row; below `2^(bits - 1)` where the sum is not clamped.
    #[inline]
    pub fn sigmoid(&self, x: i32) -> i64 {
        let e = self.exp.exp(x as i64 - self.max as i64);
        let factor = reciprocal(e.saturating_add(self.at_zero));
        (e.saturating_mul(factor as u64) >> self.shift) as i64
    }

    /// Whether `x`, an element of the row, is positive and so far below the maximum that its exponential is the smallest there
    /// is: its sigmoid, which should be above one half, cannot be told from that of 0.
    pub fn is_out_of_reach(&self, x: i32) -> bool {
        x > 0 && self.exp.exp(x as i64 - self.max as i64) <= self.exp.period.get() as u64
    }

    /// `x * sigmoid(x)`, limited to `i64`.
    #[inline]
    pub fn gelu(&self, x: i32) -> i64 {
        (x as i64).saturating_mul(self.sigmoid(x))
    }
}

/// I-LayerNorm of one row without weight: `y_i = ((x_i - mean) * floor((2^31 - 1) / std) >> 1) + bias`.
///
/// `mean` is rounded half to even; `std` is the integer square root of `sum((x - mean)^2)`, not divided by the width:
/// the output has scale `sqrt(width) / 2^30` (times the weight), and `bias` is `floor(beta / gamma / that scale)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ILayerNormRow {
    mean: i64,
    std: u64,
    factor: u32,
}

impl ILayerNormRow {
    /// Statistics of a row of any width; an empty row counts as one zero.
    pub fn new(row: impl Iterator<Item = i32> + Clone) -> Self {
        let (sum, width) = row.clone().fold((0i64, 0i64), |(sum, width), x| (sum + i64::from(x), width + 1));
        let mean = div_half_even(sum, width.max(1));
        let variance = row.fold(0u64, |variance, x| {
            let centred = (i64::from(x) - mean).unsigned_abs();
            variance.saturating_add(centred.saturating_mul(centred))
        });
        let std = newton_sqrt(variance);
        Self { mean, std, factor: reciprocal(std) }
    }

    /// The normalized value of `x` with `bias` added.
    #[inline]
    pub const fn normalize(&self, x: i32, bias: i64) -> i64 {
        (((x as i64 - self.mean) * self.factor as i64) >> 1).saturating_add(bias)
    }

    /// The square root of the sum of squares as the published iteration finds it, at least 64.
    pub const fn std(&self) -> u64 {
        self.std
    }
}

/// `round_half_even(a / b)`, `b >= 1`.
const fn div_half_even(a: i64, b: i64) -> i64 {
    // Half to even is the same on both sides of 0, and magnitudes have no quotient that overflows.
    let (size, divisor) = (a.unsigned_abs(), b.unsigned_abs());
    let (Some(quotient), Some(rest)) = (size.checked_div(divisor), size.checked_rem(divisor)) else { return 0 };
    // Compares rest with divisor - rest instead of doubling it.
    let up = rest > divisor - rest || (rest == divisor - rest && quotient & 1 == 1);
    let rounded = quotient.wrapping_add(up as u64) as i64;
    if a < 0 { rounded.wrapping_neg() } else { rounded }
}

/// Ten steps of `k = (k + v / k) / 2` from `2^16`.
const fn newton_sqrt(v: u64) -> u64 {
    let mut k = NEWTON_START;
    let mut step = 0;
    while step < NEWTON_STEPS {
        let quotient = match v.checked_div(k) {
            Some(quotient) => quotient,
            None => 0,
        };
        // Both are below 2^64 / 64 after the first step, and v / 2^16 is below 2^48 in it.
        k = k.wrapping_add(quotient) >> 1;
        step += 1;
    }
    debug_assert!(k >= MIN_STD as u64);
    k
}

/// `round_half_even(acc * multiplier / 2^shift)` over the exact 64-bit product.
///
/// `|multiplier| <= 2^31` (a ratio's mantissa in `[2^30, 2^31]`, negative where a scale is), so that the product is at
/// most `2^62` in magnitude; greater ones are limited. A `shift` of 63 or more gives 0: the quotient is at most one half,
/// and ties go to the even 0.
#[inline]
pub const fn mul_half_even(acc: i32, multiplier: i64, shift: u32) -> i64 {
    let multiplier = if multiplier > MAX_MULTIPLIER {
        MAX_MULTIPLIER
    } else if multiplier < -MAX_MULTIPLIER {
        -MAX_MULTIPLIER
    } else {
        multiplier
    };
    shift_half_even(acc as i64 * multiplier, shift, false)
}

/// Maximum magnitude of a multiplier.
pub const MAX_MULTIPLIER: i64 = 1 << 31;

/// `round_half_even((product + rest) / 2^shift)` for `|product| <= 2^62`, where `sticky` says whether the part `rest` in
/// `[0, 1)` that was cut off before is not zero.
#[inline]
const fn shift_half_even(product: i64, shift: u32, sticky: bool) -> i64 {
    match shift {
        0 => product,
        1..63 => {
            let floor = product >> shift;
            let rest = product - (floor << shift);
            let half = 1i64 << (shift - 1);
            floor + (rest > half || (rest == half && (sticky || floor & 1 == 1))) as i64
        }
        _ => 0,
    }
}

/// Maximum magnitude of a value for [`mul_half_even_wide`].
pub const MAX_WIDE: i64 = 1 << 54;

/// [`mul_half_even`] of a wider value, `|y| <= 2^54`, over the exact product, limited to 32 bits.
///
/// The product of up to 85 bits is formed in two parts: what the low 24 bits of `y` leave below the unit of the upper part
/// decides ties only.
#[inline]
pub const fn mul_half_even_wide(y: i64, multiplier: i32, shift: u32) -> i32 {
    const LOW_BITS: u32 = 24;
    let m = multiplier as i64;
    let (high, low) = (y >> LOW_BITS, y & ((1 << LOW_BITS) - 1));
    // |high * m| <= 2^61 and 0 <= |low * m| < 2^55.
    let low = low * m;
    let upper = high * m + (low >> LOW_BITS);
    if shift > LOW_BITS {
        let sticky = low & ((1 << LOW_BITS) - 1) != 0;
        return saturate(shift_half_even(upper, shift - LOW_BITS, sticky), 32);
    }
    // The result is at least upper in magnitude: beyond 32 bits it is limited, below the whole product fits.
    if saturate(upper, 32) as i64 != upper {
        return if upper < 0 { i32::MIN } else { i32::MAX };
    }
    saturate(shift_half_even((upper << LOW_BITS) + (low & ((1 << LOW_BITS) - 1)), shift, false), 32)
}

/// A multiplication by `multiplier / 2^shift`: see [`mul_half_even`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dyadic {
    /// In `2^30 ..= 2^31` or its negative, or 0.
    pub multiplier: i64,
    /// Right shift.
    pub shift: u32,
}

impl Dyadic {
    /// [`mul_half_even`] by this ratio.
    #[inline]
    pub const fn apply(self, acc: i32) -> i64 {
        mul_half_even(acc, self.multiplier, self.shift)
    }
}

/// `x` limited to a signed integer of `bits` bits, `1..=32`.
#[inline]
const fn saturate(x: i64, bits: u32) -> i32 {
    let bits = if bits > 32 {
        32
    } else if bits < 1 {
        1
    } else {
        bits
    };
    let max = (1i64 << (bits - 1)) - 1;
    if x > max {
        max as i32
    } else if x < -max - 1 {
        (-max - 1) as i32
    } else {
        x as i32
    }
}

/// Dyadic requantization to `bits` bits (`1..=32`): `sat(round_half_even(acc * ratio))`.
#[inline]
pub const fn requantize(acc: i32, ratio: Dyadic, bits: u32) -> i32 {
    saturate(ratio.apply(acc), bits)
}

/// Requantization with a residual branch: each is scaled and rounded to even by itself, then they are added.
///
/// `sat(round_half_even(acc * ratio) + round_half_even(identity * identity_ratio))`
#[inline]
pub const fn requantize_add(acc: i32, ratio: Dyadic, identity: i32, identity_ratio: Dyadic, bits: u32) -> i32 {
    saturate(ratio.apply(acc).saturating_add(identity_ratio.apply(identity)), bits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    #[test]
    fn halves_go_to_the_even_neighbour() {
        let half = |acc| mul_half_even(acc, 1 << 30, 31);
        assert_eq!([-5, -3, -1, 0, 1, 3, 5].map(half), [-2, -2, 0, 0, 0, 2, 2]);
        assert_eq!(mul_half_even(i32::MIN, 1 << 31, 62), -1);
        assert_eq!(mul_half_even(i32::MIN, 1 << 31, 63), 0);
        assert_eq!(mul_half_even(i32::MIN, -(1 << 31), 0), 1 << 62);
        assert_eq!(mul_half_even(i32::MIN, i64::MAX, 64), 0);
        assert_eq!(mul_half_even(i32::MIN, 1 << 31, 0), -(1 << 62));
        assert_eq!([-7, -6, -5, 5, 6, 7].map(|a| div_half_even(a, 4)), [-2, -2, -1, 1, 2, 2]);
    }

    #[test]
    fn wide_products_round_like_exact_ones() {
        let exact = |y: i64, m: i32, shift: u32| {
            let product = i128::from(y) * i128::from(m);
            let floor = product >> shift;
            let (rest, half) = ((product - (floor << shift)) * 2, 1i128 << shift);
            let up = rest > half || (rest == half && floor & 1 == 1);
            (floor + i128::from(up)).clamp(i128::from(i32::MIN), i128::from(i32::MAX)) as i32
        };
        let mut state = 1u64;
        let mut random = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state
        };
        for _ in 0..20_000 {
            let y = (random() as i64) >> (17 + random() % 46);
            let m = (random() >> 33) as i32 * if random() >> 63 == 0 { 1 } else { -1 };
            // Zeros at the end of both make ties.
            let y = y >> (random() % 30) << (random() % 8);
            let m = m >> (random() % 31) << (random() % 8);
            for shift in 0..=63 {
                assert_eq!(mul_half_even_wide(y, m, shift), exact(y, m, shift), "{y} {m} {shift}");
            }
        }
        for y in [MAX_WIDE, -MAX_WIDE, 1 << 24, -(1 << 24) - 1] {
            for (m, shift) in [(i32::MAX, 63), (i32::MIN + 1, 63), (1 << 30, 0), (1 << 30, 23), (1 << 30, 62)] {
                assert_eq!(mul_half_even_wide(y, m, shift), exact(y, m, shift), "{y} {m} {shift}");
            }
        }
    }

    #[test]
    fn requantization_saturates_at_any_width() {
        let one = Dyadic { multiplier: 1 << 30, shift: 30 };
        assert_eq!([127, 128, -128, -129].map(|a| requantize(a, one, 8)), [127, 127, -128, -128]);
        assert_eq!(requantize(i32::MIN, Dyadic { multiplier: 1 << 31, shift: 0 }, 32), i32::MIN);
        assert_eq!(requantize_add(100, one, 100, one, 8), 127);
        // 0.5 + 0.5: each half goes to 0 before the addition.
        let half = Dyadic { multiplier: 1 << 30, shift: 31 };
        assert_eq!(requantize_add(1, half, 1, half, 8), 0);
    }

    #[test]
    fn the_exponential_halves_once_a_period() {
        let exp = ShiftExp::new(8, SHIFTMAX_N).unwrap();
        assert_eq!(exp.exp(0), 8 << 15);
        // -6 * 1.5 + 1 = -8: one whole period.
        assert_eq!(exp.exp(-6), 8 << 14);
        // -3 - 2 + 1 = -4: half a period, on the straight line.
        assert_eq!(exp.exp(-3), 6 << 15);
        assert_eq!(exp.exp(-1000), 8);
        assert_eq!(exp.exp(-(1 << 32)), 8);
        assert!(exp.exp(1 << 32) >= u64::from(ONE));
        assert_eq!(ShiftExp::new(0, 15), None);
        assert_eq!(ShiftExp::new(1 << 31, 2), None);
        assert_eq!(ShiftExp::new(1, 32), None);
    }

    #[test]
    fn a_flat_row_shares_evenly() {
        let exp = ShiftExp::new(16, SHIFTMAX_N).unwrap();
        let row = ShiftmaxRow::new(exp, 8, [5; 4].into_iter());
        assert_eq!((row.probability(5), row.sum_saturates()), (31, false));
        // One element: e = 2^19, and floor((2^31 - 1) / 2^19) = 4095.
        let row = ShiftmaxRow::new(exp, 16, [i32::MIN].into_iter());
        assert_eq!(row.probability(i32::MIN), 32760);
    }

    #[test]
    fn a_saturated_sum_is_reported() {
        let exp = ShiftExp::new(1 << 20, SHIFTMAX_N).unwrap();
        let row = ShiftmaxRow::new(exp, 8, [0; 3].into_iter());
        assert!(row.sum_saturates());
        assert_eq!(row.probability(0), 1 << 11);
    }

    #[test]
    fn gelu_of_zero_and_of_extremes() {
        let exp = ShiftExp::new(19, SHIFTGELU_N).unwrap();
        let row = ShiftGeluRow::new(exp, SIGMOID_BITS, [0, 127, -128].into_iter());
        assert_eq!(row.gelu(0), 0);
        assert_eq!(row.gelu(127), 127 * row.sigmoid(127));
        assert!(row.sigmoid(127) <= 127 && row.sigmoid(-128) == 0);
        // 23 halvings of 19 steps each take 304 steps: 23 * 19 / (1 + 1/2 - 1/16).
        let row = ShiftGeluRow::new(exp, SIGMOID_BITS, [400, 90, 97].into_iter());
        assert_eq!([400, 97, 90, 0, -5].map(|x| row.is_out_of_reach(x)), [false, false, true, false, false]);
        // A negative maximum makes the exponential at zero huge: it is clamped, and the sigmoid vanishes.
        let row = ShiftGeluRow::new(exp, SIGMOID_BITS, [i32::MIN; 2].into_iter());
        assert_eq!(row.gelu(i32::MIN), i64::from(i32::MIN) * (19 << 23 >> 24));
    }

    #[test]
    fn constant_rows_normalize_to_the_bias() {
        let row = ILayerNormRow::new([-7; 9].into_iter());
        assert_eq!((row.std(), row.normalize(-7, 42)), (64, 42));
        let empty = ILayerNormRow::new(core::iter::empty());
        assert_eq!(empty.normalize(0, -1), -1);
    }

    #[test]
    fn the_mean_ties_to_even() {
        let means: Vec<i64> = [1i32, 3, 5, -1, -3].map(|x| ILayerNormRow::new([x, 0].into_iter()).mean).to_vec();
        assert_eq!(means, [0, 2, 2, 0, -2]);
    }

    #[test]
    fn the_square_root_is_the_published_iteration() {
        assert_eq!(newton_sqrt(0), 64);
        assert_eq!(newton_sqrt(1 << 32), 1 << 16);
        assert_eq!(newton_sqrt(10_000_000_000), 100_000);
        assert!(newton_sqrt(u64::MAX) >= u64::from(u32::MAX));
    }
}
