//! Cortex-M0, M0+ and M1: no SIMD and no 64-bit product, eight registers for most instructions.
//!
//! - [`pair`]: two rows by one channel, under all products;
//! - [`row`]: one row by four channels, and a token over its cache ([`attend`]);
//! - [`product`]: the high half of a product from four 16-bit ones, in place of a library call;
//! - [`norm`], [`softmax`]: the rows between the products.
#![allow(unsafe_code)]

mod attend;
mod dense;
mod dot;
mod norm;
mod pair;
mod product;
mod row;
mod softmax;

use super::list::kernels;
use super::list::signatures::*;

/// The kernels of this instruction set.
#[derive(Clone, Copy, Debug)]
pub struct Armv6m;

kernels! {
    impl Armv6m {
        const NAME: &'static str = "armv6m";
    }
    linear => dense::linear,
    linear_acc => dense::linear_acc,
    linear_wide => portable,
    dot_i8 => dot::dot,
    dot_u8 => dot::dot,
    dot_u16 => dot::dot,
    scores => portable,
    scale_scores => softmax::scale_scores,
    exp_row => portable,
    scale_row => softmax::scale_row,
    transpose => portable,
    attention => portable,
    attend => attend::attend,
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
