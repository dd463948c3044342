//! Max pooling of 16-bit images.

use super::builder::{Builder, product};
use crate::error::GpuError;
use crate::step::{Shader, shader};
use shiftformer::ops::max_pool_i16::MaxPoolI16;

static SHADER: Shader = shader!("max_pool_i16", ["tensor", "memory", "window", "entry", "elementwise"], "shader.wgsl");

pub(super) fn steps(build: &mut Builder<'_>, op: &MaxPoolI16) -> Result<(), GpuError> {
    build.check_terms(product(&[op.window.kernel_h, op.window.kernel_w]))?;
    let len = product(&[op.window.out_h, op.window.out_w, op.channels]);
    let params = build.params(&[build.input(0)]).with(*op);
    build.elements(&SHADER, build.output(), len, params)
}

#[cfg(test)]
mod tests;
