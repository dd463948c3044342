//! Cortex-M4, M7 and M33: the DSP extension of Armv7E-M and Armv8-M (`SMLAD`, `SXTB16`, `SMMLAR`, `SSAT`).
//!
//! - [`block`]: five rows by one channel, the bulk of a dense layer and of attention;
//! - [`row`]: one row by four channels, for a single token;
//! - [`softmax`], [`norm`]: the rows between the products.
#![allow(unsafe_code)]

/// Assembly outside a function does not see the features of the crate: on Armv8-M, name a core that has them.
#[cfg(arm_v8m)]
macro_rules! core {
    () => {
        ".cpu cortex-m33"
    };
}
/// Armv7E-M has them without being asked.
#[cfg(not(arm_v8m))]
macro_rules! core {
    () => {
        ""
    };
}

mod block;
mod dense;
mod dot;
mod ins;
mod norm;
mod row;
mod softmax;
mod widen;

use super::{DotJob, ExpRow, Kernels, LinearJob, LinearOut, NormJob, NormOut, NormRow, ScoreScale};
use crate::arith::exp::RowScale;
use widen::Lanes;

/// The kernels of this instruction set.
#[derive(Clone, Copy, Debug)]
pub struct Armv7em;

impl Kernels for Armv7em {
    const NAME: &'static str = "armv7em";

    fn linear(job: &LinearJob<'_>, x: &[i8], out: LinearOut<'_>, scratch: &mut [u8]) {
        dense::linear(job, x, out, scratch);
    }

    fn linear_acc(job: &LinearJob<'_>, x: &[i8], out: &mut [i32], scratch: &mut [u8]) {
        dense::linear_acc(job, x, out, scratch);
    }

    fn dot_i8(job: &DotJob, x: &[i8], y: &[i8], out: &mut [i32], scratch: &mut [u8]) {
        dot::dot(job, None, Lanes::i8(x), y, out, scratch);
    }

    fn dot_u8(job: &DotJob, x: &[u8], y: &[i8], out: &mut [i32], scratch: &mut [u8]) {
        dot::dot(job, None, Lanes::u8(x), y, out, scratch);
    }

    fn dot_u16(job: &DotJob, x: &[u16], y: &[i8], out: &mut [i32], scratch: &mut [u8]) {
        dot::dot(job, None, Lanes::u16(x), y, out, scratch);
    }

    fn scores(job: &DotJob, scale: ScoreScale, x: &[i8], y: &[i8], out: &mut [i32], scratch: &mut [u8]) {
        dot::dot(job, Some(&scale), Lanes::i8(x), y, out, scratch);
    }

    fn scale_scores(scores: &mut [i32], scale: ScoreScale) {
        softmax::scale_scores(scores, scale);
    }

    fn exp_row(scores: &[i32], out: ExpRow<'_>) -> u32 {
        softmax::exp_row(scores, out)
    }

    fn scale_row(acc: &[i32], scale: RowScale, zero_point: i32, out: &mut [i8]) {
        softmax::scale_row(acc, scale, zero_point, out);
    }

    fn norm_row(job: &NormJob<'_>, x: NormRow<'_>, out: NormOut<'_>) {
        norm::norm_row(job, x, out);
    }
}
