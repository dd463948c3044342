//! Rows of scores and weighted values, by 16-bit products.

use super::product::{Factor, asr_round_add};
use crate::arith::exp::RowScale;
use crate::arith::requant::sat_i8;
use crate::kernels::ScoreScale;

/// [`crate::kernels::Kernels::scale_scores`].
pub fn scale_scores(scores: &mut [i32], scale: ScoreScale) {
    let factor = Factor::new(scale.multiplier);
    for s in scores {
        *s = factor.mulhi_round(*s << scale.acc_shift);
    }
}

/// [`crate::kernels::Kernels::scale_row`].
pub fn scale_row(acc: &[i32], scale: RowScale, zero_point: i32, out: &mut [i8]) {
    let factor = Factor::new(scale.multiplier);
    for (&acc, out) in acc.iter().zip(out) {
        *out = sat_i8(asr_round_add(factor.mulhi_floor(acc), scale.shift, zero_point));
    }
}
