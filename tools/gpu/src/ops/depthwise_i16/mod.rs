//! Depthwise convolution of 16-bit images.

use super::builder::{Builder, product};
use crate::error::GpuError;
use crate::step::{Shader, shader};
use shiftformer::ops::depthwise_i16::DepthwiseConv2dI16;

static SHADER: Shader =
    shader!("depthwise_i16", ["tensor", "memory", "arith", "dense", "window", "entry", "elementwise"], "shader.wgsl");

pub(super) fn steps(build: &mut Builder<'_>, op: &DepthwiseConv2dI16) -> Result<(), GpuError> {
    let window = &op.conv.window;
    build.check_terms(product(&[window.kernel_h, window.kernel_w]))?;
    let len = product(&[window.out_h, window.out_w, op.conv.channels]);
    let params = build.params(&[build.input(0)]).with(*op);
    build.elements(&SHADER, build.output(), len, params)
}

#[cfg(test)]
mod tests;
