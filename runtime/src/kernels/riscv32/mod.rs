//! RV32IM and its supersets (rv32imc, rv32imac): a product of either half, no SIMD.
//!
//! [`block`]: four rows by four channels, under all products; the rest is [`super::scalar`].
#![allow(unsafe_code)]

mod block;

use super::list::kernels;
use super::list::signatures::*;
use super::scalar::{dense, dot, norm, softmax};
use block::MulAdd;

/// The kernels of this instruction set.
#[derive(Clone, Copy, Debug)]
pub struct Riscv32;

kernels! {
    impl Riscv32 {
        const NAME: &'static str = "riscv32";
    }
    linear => dense::linear::<MulAdd>,
    linear_acc => dense::linear_acc::<MulAdd>,
    linear_wide => portable,
    dot_i8 => dot::dot::<MulAdd, i8>,
    dot_u8 => dot::dot::<MulAdd, u8>,
    dot_u16 => dot::dot::<MulAdd, u16>,
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
