//! Cortex-M3: a multiply-accumulate and a 64-bit product, no SIMD.
//!
//! [`block`]: four rows by two channels, under all products; the rest is [`super::scalar`].
#![allow(unsafe_code)]

mod block;

use super::list::kernels;
use super::list::signatures::*;
use super::scalar::{dense, dot, norm, softmax};
use block::Mla;

/// The kernels of this instruction set.
#[derive(Clone, Copy, Debug)]
pub struct Armv7m;

kernels! {
    impl Armv7m {
        const NAME: &'static str = "armv7m";
    }
    linear => dense::linear::<Mla>,
    linear_acc => dense::linear_acc::<Mla>,
    linear_wide => portable,
    dot_i8 => dot::dot::<Mla, i8>,
    dot_u8 => dot::dot::<Mla, u8>,
    dot_u16 => dot::dot::<Mla, u16>,
    scores => portable,
    scale_scores => softmax::scale_scores,
    exp_row => softmax::exp_row,
    scale_row => softmax::scale_row,
    transpose => portable,
    attention => portable,
    attend => portable,
    norm_row => norm::norm_row,
    norm_rows => portable,
    requant => portable,
    multiply => portable,
    rotate => portable,
    lut_wide => portable,
    lut_in_place => portable,
    lut_i16_in_place => portable,
    add_i16_in_place => portable,
    depthwise => portable,
    depthwise_wide => portable,
    pool => portable,
}
