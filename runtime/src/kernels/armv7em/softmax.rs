//! Rows of scores, exponentials and weighted values.
//!
//! # Instructions per element
//! Exponential: 3 for the maximum, 8 for the value (`QSUB`, `USAT`, `UXTB`, `LDRH` of the table, `LSRS`, `ADC`, store,
//! sum) and the load. Weighted values: load, `SMMUL`, `ASRS`, `ADC`, `SSAT`, store.

use super::{ins, portable};
use crate::arith::exp::{EXP2_FRACTION, RowScale};
use crate::kernels::{ExpRow, ScoreScale};

/// [`crate::kernels::Kernels::scale_scores`].
pub fn scale_scores(scores: &mut [i32], scale: ScoreScale) {
    for s in scores {
        *s = ins::smmulr(*s << scale.acc_shift, scale.multiplier);
    }
}

/// From the 16-bit exponential to the 8-bit one, added to the distance in its units: the shift that rounds.
const U8_STEP: i32 = 7 << 8;

/// [`crate::kernels::Kernels::exp_row`].
pub fn exp_row(scores: &[i32], out: ExpRow<'_>) -> u32 {
    let max = scores.iter().copied().fold(i32::MIN, i32::max);
    match out {
        // The bound shifted by 7 octaves must fit.
        ExpRow::U8(out) if max <= i32::MAX - U8_STEP => {
            let top = max + U8_STEP;
            let mut sum = 0;
            for (e, &s) in out.iter_mut().zip(scores) {
                // A distance beyond i32 saturates: with 31 octaves either way the value is 0.
                let distance = ins::qsub(top, s);
                let value = ins::lsr_round(fraction(distance), ins::usat5_asr8(distance));
                *e = value as u8;
                sum += value;
            }
            sum
        }
        ExpRow::U16(out) => {
            let mut sum = 0;
            for (e, &s) in out.iter_mut().zip(scores) {
                let distance = ins::qsub(max, s);
                let value = fraction(distance) >> ins::usat5_asr8(distance);
                *e = value as u16;
                sum += value;
            }
            sum
        }
        out => portable::exp_row(scores, out),
    }
}

#[inline(always)]
fn fraction(distance: i32) -> u32 {
    // A u8 cannot leave 256 entries.
    u32::from(EXP2_FRACTION[usize::from(distance as u8)])
}

/// [`crate::kernels::Kernels::scale_row`].
pub fn scale_row(acc: &[i32], scale: RowScale, zero_point: i32, out: &mut [i8]) {
    for (&acc, out) in acc.iter().zip(out) {
        let high = ins::smmul(acc, scale.multiplier);
        *out = ins::ssat8(ins::asr_round_add(high, scale.shift, zero_point)) as i8;
    }
}
