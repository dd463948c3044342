//! Cortex-M4, M7 and M33: the DSP extension of Armv7E-M and Armv8-M (`SMLAD`, `SXTB16`, `SMMLAR`, `SSAT`).
//!
//! - [`block`]: five rows by one channel, the bulk of a dense layer and of attention;
//! - [`row`]: one row by four channels, for a single token;
//! - [`attend`]: a token over its cache;
//! - [`softmax`], [`norm`], [`pointwise`]: the rows between the products;
//! - [`windows`]: depthwise convolutions.
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

mod attend;
mod block;
mod dense;
mod dot;
mod ins;
mod norm;
mod pointwise;
mod row;
mod softmax;
mod widen;
mod windows;

use super::list::kernels;
use super::list::signatures::*;

/// The kernels of this instruction set.
#[derive(Clone, Copy, Debug)]
pub struct Armv7em;

kernels! {
    impl Armv7em {
        const NAME: &'static str = "armv7em";
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
    transpose => portable,
    attention => portable,
    attend => attend::attend,
    norm_row => norm::norm_row,
    norm_rows => portable,
    requant => portable,
    multiply => pointwise::multiply,
    rotate => pointwise::rotate,
    lut_wide => portable,
    lut_in_place => portable,
    lut_i16_in_place => portable,
    add_i16_in_place => portable,
    depthwise => windows::depthwise,
    depthwise_wide => portable,
    pool => portable,
}
