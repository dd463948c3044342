//! Powers of two with a fraction, by a quadratic and a shift: the exponential of the softmax.
//!
//! Scores arrive in log2 units with [`SCORE_FRACTION_BITS`] fractional bits, as distances below the row maximum.
//! `2^-(q + f/256) = 2^-(f/256) >> q`, and `2^-(f/256)` is a quadratic with constants found by exhaustive search:
//! largest relative error 0.24 %.

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
        Self { multiplier, shift: if shift < 1 { 1 } else if shift > 31 { 31 } else { shift } }
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
}
