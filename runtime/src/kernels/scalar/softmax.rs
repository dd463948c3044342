//! Rows of scores, exponentials and weighted values.

use super::product::mulhi_round;
use crate::arith::exp::{EXP2_FRACTION, RowScale, SCORE_FRACTION_BITS};
use crate::arith::requant::{mulhi_floor, sat_i8};
use crate::kernels::{ExpRow, ScoreScale};

/// Right shift from the 16-bit to the 8-bit exponential.
const U8_SHIFT: u32 = 7;

/// [`crate::kernels::Kernels::scale_scores`].
pub fn scale_scores(scores: &mut [i32], scale: ScoreScale) {
    for s in scores {
        *s = mulhi_round(*s << scale.acc_shift, scale.multiplier);
    }
}

/// [`crate::kernels::Kernels::exp_row`]: the quadratic from its table.
pub fn exp_row(scores: &[i32], out: ExpRow<'_>) -> u32 {
    let max = scores.iter().copied().fold(i32::MIN, i32::max);
    let wide = |s: i32| {
        let distance = max.wrapping_sub(s) as u32;
        let fraction = u32::from(EXP2_FRACTION[usize::from(distance as u8)]);
        fraction >> (distance >> SCORE_FRACTION_BITS).min(31)
    };
    let mut sum = 0;
    match out {
        ExpRow::U8(out) => {
            for (&s, e) in scores.iter().zip(out) {
                let value = (wide(s) + (1 << (U8_SHIFT - 1))) >> U8_SHIFT;
                *e = value as u8;
                sum += value;
            }
        }
        ExpRow::U16(out) => {
            for (&s, e) in scores.iter().zip(out) {
                let value = wide(s);
                *e = value as u16;
                sum += value;
            }
        }
    }
    sum
}

/// [`crate::kernels::Kernels::scale_row`].
///
/// `floor((h + 2^(s-1)) / 2^s) = (floor(h / 2^(s-1)) + 1) >> 1`, which cannot overflow.
pub fn scale_row(acc: &[i32], scale: RowScale, zero_point: i32, out: &mut [i8]) {
    let shift = scale.shift.wrapping_sub(1) & 31;
    for (&acc, out) in acc.iter().zip(out) {
        let half_steps = mulhi_floor(acc, scale.multiplier) >> shift;
        *out = sat_i8(((half_steps + 1) >> 1).wrapping_add(zero_point));
    }
}
