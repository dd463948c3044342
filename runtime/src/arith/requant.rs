//! Requantization: a wide sum becomes a narrow value by one multiplication and one rounding.
//!
//! `y = sat(zero_point + round_half_up(acc * ratio))` with `ratio = multiplier * 2^(acc_shift - 32)`. On Cortex-M4 this
//! is one `SMMLAR` and one `SSAT`, on Helium one `VRMULH` per four lanes.

/// `round_half_up(a * b / 2^32)`.
#[inline(always)]
pub const fn mulhi_round(a: i32, b: i32) -> i32 {
    ((a as i64 * b as i64 + (1 << 31)) >> 32) as i32
}

/// `floor(a * b / 2^32)`.
#[inline(always)]
pub const fn mulhi_floor(a: i32, b: i32) -> i32 {
    ((a as i64 * b as i64) >> 32) as i32
}

/// `round_half_up(x / 2^shift)`, `shift` in `0..=30`; `x + 2^(shift-1)` must fit `i32`.
#[inline(always)]
pub const fn rshift_round(x: i32, shift: u32) -> i32 {
    if shift == 0 { x } else { (x + (1 << (shift - 1))) >> shift }
}

/// `x` limited to the range of `i8`.
#[inline(always)]
pub const fn sat_i8(x: i32) -> i8 {
    if x > i8::MAX as i32 {
        i8::MAX
    } else if x < i8::MIN as i32 {
        i8::MIN
    } else {
        x as i8
    }
}

/// `x` limited to the range of `i16`.
#[inline(always)]
pub const fn sat_i16(x: i32) -> i16 {
    if x > i16::MAX as i32 {
        i16::MAX
    } else if x < i16::MIN as i32 {
        i16::MIN
    } else {
        x as i16
    }
}

/// `x` limited to the range of `i32`.
#[inline(always)]
pub const fn sat_i32(x: i64) -> i32 {
    if x > i32::MAX as i64 {
        i32::MAX
    } else if x < i32::MIN as i64 {
        i32::MIN
    } else {
        x as i32
    }
}

/// `sat_i8(zero_point + mulhi_round(acc << acc_shift, multiplier))`.
///
/// `acc << acc_shift` must fit `i32` (the converter proves it per operator); `multiplier` is in `0..2^31`, so the
/// rounded product is at most half of the `i32` range and the sum with a zero point of 16 bits cannot overflow.
#[inline(always)]
pub const fn requantize_i8(acc: i32, acc_shift: u32, multiplier: i32, zero_point: i32) -> i8 {
    sat_i8(zero_point + mulhi_round(acc << acc_shift, multiplier))
}

/// `sat_i16(mulhi_round(acc << acc_shift, multiplier))`, under the conditions of [`requantize_i8`].
#[inline(always)]
pub const fn requantize_i16(acc: i32, acc_shift: u32, multiplier: i32) -> i16 {
    sat_i16(mulhi_round(acc << acc_shift, multiplier))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::Random;

    #[test]
    fn mulhi_round_ties_go_up() {
        assert_eq!(mulhi_round(1, i32::MIN), 0);
        assert_eq!(mulhi_round(1 << 30, 2), 1);
        assert_eq!(mulhi_round(-(1 << 30), 2), 0);
        assert_eq!(mulhi_round(-(1 << 30) - 1, 2), -1);
        assert_eq!(mulhi_round(i32::MIN, i32::MIN), 1 << 30);
    }

    #[test]
    fn rshift_round_ties_go_up() {
        assert_eq!(rshift_round(-5, 0), -5);
        assert_eq!(rshift_round(3, 1), 2);
        assert_eq!(rshift_round(-3, 1), -1);
        assert_eq!(rshift_round(i32::from(i16::MAX), 15), 1);
    }

    #[test]
    fn requantization_saturates_on_both_sides() {
        let half = i32::MAX;
        assert_eq!(requantize_i8(i32::MAX, 0, half, 0), i8::MAX);
        assert_eq!(requantize_i8(i32::MIN, 0, half, 0), i8::MIN);
        assert_eq!(requantize_i8(0, 0, half, 5), 5);
        assert_eq!(requantize_i16(1 << 20, 0, 1 << 28), i16::MAX);
        assert_eq!(requantize_i16(100, 4, 1 << 28), 100);
    }

    #[test]
    fn requantization_is_the_rounded_exact_product_and_monotone() {
        let mut random = Random(8);
        for _ in 0..20_000 {
            let acc_shift = random.below(12) as u32;
            let limit = i32::MAX >> acc_shift;
            let acc = (random.below(2 * limit as u64) as i64 - i64::from(limit)) as i32;
            let multiplier = (random.below(1 << 31) >> random.below(31)) as i32;
            let zero = random.below(256) as i32 - 128;
            let exact = f64::from(acc) * f64::from(multiplier) * 2f64.powi(acc_shift as i32 - 32);
            let rounded = (exact + 0.5).floor();
            let y = requantize_i8(acc, acc_shift, multiplier, zero);
            assert_eq!(
                f64::from(y),
                (rounded + f64::from(zero)).clamp(-128.0, 127.0),
                "{acc} {multiplier} {acc_shift}"
            );
            let y16 = requantize_i16(acc, acc_shift, multiplier);
            assert_eq!(f64::from(y16), rounded.clamp(-32768.0, 32767.0), "{acc} {multiplier} {acc_shift}");
            assert!(requantize_i8(acc + (acc < limit) as i32, acc_shift, multiplier, zero) >= y);
        }
    }
}
