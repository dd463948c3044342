//! Cortex-M0, M0+ and M1: no SIMD and no 64-bit product, eight registers for most instructions.
//!
//! - [`pair`]: two rows by one channel, under all products;
//! - [`product`]: the high half of a product from four 16-bit ones, in place of a library call;
//! - [`norm`], [`softmax`]: the rows between the products.
#![allow(unsafe_code)]

mod dense;
mod dot;
mod norm;
mod pair;
mod product;
mod softmax;

use super::{DotJob, Kernels, LinearJob, LinearOut, NormJob, NormOut, NormRow, ScoreScale};
use crate::arith::exp::RowScale;

/// The kernels of this instruction set.
#[derive(Clone, Copy, Debug)]
pub struct Armv6m;

impl Kernels for Armv6m {
    const NAME: &'static str = "armv6m";

    fn linear(job: &LinearJob<'_>, x: &[i8], out: LinearOut<'_>, scratch: &mut [u8]) {
        dense::linear(job, x, out, scratch);
    }

    fn linear_acc(job: &LinearJob<'_>, x: &[i8], out: &mut [i32], scratch: &mut [u8]) {
        dense::linear_acc(job, x, out, scratch);
    }

    fn dot_i8(job: &DotJob, x: &[i8], y: &[i8], out: &mut [i32], scratch: &mut [u8]) {
        dot::dot(job, x, y, out, scratch);
    }

    fn dot_u8(job: &DotJob, x: &[u8], y: &[i8], out: &mut [i32], scratch: &mut [u8]) {
        dot::dot(job, x, y, out, scratch);
    }

    fn dot_u16(job: &DotJob, x: &[u16], y: &[i8], out: &mut [i32], scratch: &mut [u8]) {
        dot::dot(job, x, y, out, scratch);
    }

    fn scale_scores(scores: &mut [i32], scale: ScoreScale) {
        softmax::scale_scores(scores, scale);
    }

    fn scale_row(acc: &[i32], scale: RowScale, zero_point: i32, out: &mut [i8]) {
        softmax::scale_row(acc, scale, zero_point, out);
    }

    fn norm_row(job: &NormJob<'_>, x: NormRow<'_>, out: NormOut<'_>) {
        norm::norm_row(job, x, out);
    }
}
