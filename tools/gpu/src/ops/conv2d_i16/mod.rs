//! Convolution of 16-bit images, element by element.

use super::builder::{Builder, product};
use crate::error::GpuError;
use crate::step::{Shader, shader};
use shiftformer::ops::conv2d_i16::Conv2dI16;

static SHADER: Shader = shader!(
    "conv2d_i16",
    ["tensor", "memory", "arith", "dense", "halves", "wide_dense", "window", "entry", "elementwise"],
    "shader.wgsl"
);

pub(super) fn steps(build: &mut Builder<'_>, op: &Conv2dI16) -> Result<(), GpuError> {
    let window = &op.conv.window;
    build.check_terms(product(&[window.kernel_h, window.kernel_w, op.conv.channels]))?;
    let len = product(&[window.out_h, window.out_w, op.conv.n]);
    let params = build.params(&[build.input(0)]).with(*op);
    build.elements(&SHADER, build.output(), len, params)
}

#[cfg(test)]
mod tests;
