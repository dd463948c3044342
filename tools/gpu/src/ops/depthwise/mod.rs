//! Depthwise convolution.

use super::builder::{Builder, product};
use crate::error::GpuError;
use crate::step::{Shader, shader};
use shiftformer::ops::depthwise::DepthwiseConv2d;

static SHADER: Shader =
    shader!("depthwise", ["tensor", "memory", "arith", "dense", "window", "entry", "elementwise"], "shader.wgsl");

pub(super) fn steps(build: &mut Builder<'_>, op: &DepthwiseConv2d) -> Result<(), GpuError> {
    build.check_terms(product(&[op.window.kernel_h, op.window.kernel_w]))?;
    let len = product(&[op.window.out_h, op.window.out_w, op.channels]);
    let params = build.params(&[build.input(0)]).with(*op);
    build.elements(&SHADER, build.output(), len, params)
}

#[cfg(test)]
mod tests;
