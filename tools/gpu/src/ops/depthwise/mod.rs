//! Depthwise convolution.

use super::{Builder, product};
use crate::gpu::GpuError;
use crate::step::{Shader, shader};
use shiftformer::ops::depthwise::DepthwiseConv2d;

static SHADER: Shader = shader!("depthwise", ["memory", "arith", "dense", "window", "elementwise"], "shader.wgsl");

pub(super) fn steps(build: &mut Builder<'_>, op: &DepthwiseConv2d) -> Result<(), GpuError> {
    let out = build.output();
    build.check_terms(product(&[op.window.kernel_h, op.window.kernel_w]))?;
    let len = product(&[op.window.out_h, op.window.out_w, op.channels]);
    let params = build.params(&[build.input(0), out]).with(len as u32).with(*op);
    build.elements(&SHADER, params, len, out.dtype)
}

#[cfg(test)]
mod tests;
