//! Cortex-M52, M55 and M85: the vector extension of Armv8.1-M (`VMLADAVA`, `VRMULH`, tail-predicated loops).
//!
//! - [`quad`]: one row by four channels, under all products; [`scores`]: narrow heads;
//! - [`softmax`], [`norm`], [`bytes`]: the rows between the products.
#![allow(unsafe_code)]

mod bytes;
mod dense;
mod dot;
mod norm;
mod quad;
mod scores;
mod softmax;

use super::{DotJob, ExpRow, Kernels, LinearJob, LinearOut, NormJob, NormOut, NormRow, ScoreScale};
use crate::arith::exp::RowScale;
use dot::Lanes;

/// The kernels of this instruction set.
#[derive(Clone, Copy, Debug)]
pub struct Helium;

impl Kernels for Helium {
    const NAME: &'static str = "helium";

    fn linear(job: &LinearJob<'_>, x: &[i8], out: LinearOut<'_>, scratch: &mut [u8]) {
        dense::linear(job, x, out, scratch);
    }

    fn linear_acc(job: &LinearJob<'_>, x: &[i8], out: &mut [i32], scratch: &mut [u8]) {
        dense::linear_acc(job, x, out, scratch);
    }

    fn dot_i8(job: &DotJob, x: &[i8], y: &[i8], out: &mut [i32], _: &mut [u8]) {
        dot::dot(job, Lanes::i8(x), y, out);
    }

    fn dot_u8(job: &DotJob, x: &[u8], y: &[i8], out: &mut [i32], _: &mut [u8]) {
        dot::dot(job, Lanes::u8(x), y, out);
    }

    fn dot_u16(job: &DotJob, x: &[u16], y: &[i8], out: &mut [i32], _: &mut [u8]) {
        dot::dot(job, Lanes::u16(x), y, out);
    }

    fn scores(job: &DotJob, scale: ScoreScale, x: &[i8], y: &[i8], out: &mut [i32], _: &mut [u8]) {
        dot::scores(job, scale, x, y, out);
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

    fn transpose(x: &[i8], x_stride: usize, rows: usize, cols: usize, out: &mut [i8], out_stride: usize) {
        bytes::transpose(x, x_stride, rows, cols, out, out_stride);
    }

    fn norm_row(job: &NormJob<'_>, x: NormRow<'_>, out: NormOut<'_>) {
        norm::norm_row(job, x, out);
    }

    fn lut_in_place(data: &mut [i8], table: &[i8; 256]) {
        bytes::lut_in_place(data, table);
    }

    fn add_i16_in_place(out: &mut [i16], b: &[i16], ma: i32, mb: i32, bias: i32, shift: u32) {
        norm::add_i16_in_place(out, b, ma, mb, bias, shift);
    }
}
