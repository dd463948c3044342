//! Cortex-M52, M55 and M85: the vector extension of Armv8.1-M (`VMLADAVA`, `VRMULH`, tail-predicated loops).
//!
//! - [`quad`]: one row by four channels, under all products; [`scores`]: narrow heads; [`attend`]: a token over its cache;
//! - [`softmax`], [`norm`], [`rotary`], [`bytes`]: the rows between the products;
//! - [`windows`]: depthwise convolutions and pools.
#![allow(unsafe_code)]

mod attend;
mod bytes;
mod dense;
mod dot;
mod norm;
mod quad;
mod rotary;
mod scores;
mod softmax;
mod windows;

use super::list::kernels;
use super::list::signatures::*;

/// The kernels of this instruction set.
#[derive(Clone, Copy, Debug)]
pub struct Helium;

kernels! {
    impl Helium {
        const NAME: &'static str = "helium";
    }
    linear => dense::linear,
    linear_acc => dense::linear_acc,
    linear_wide => portable,
    dot_i8 => dot::dot_i8,
    dot_u8 => dot::dot_u8,
    dot_u16 => dot::dot_u16,
    scores => dot::scores,
    scale_scores => softmax::scale_scores,
    exp_row => softmax::exp_row,
    scale_row => softmax::scale_row,
    transpose => bytes::transpose,
    attention => portable,
    attend => attend::attend,
    norm_row => norm::norm_row,
    norm_rows => portable,
    requant => portable,
    multiply => norm::multiply,
    rotate => rotary::rotate,
    lut_wide => bytes::lut_wide,
    lut_in_place => bytes::lut_in_place,
    lut_i16_in_place => portable,
    add_i16_in_place => norm::add_i16_in_place,
    depthwise => windows::depthwise,
    depthwise_wide => portable,
    pool => windows::pool,
}
