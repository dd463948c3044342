//! Product of two tensors.

use super::{Builder, product};
use crate::gpu::GpuError;
use crate::step::{Shader, shader};
use shiftformer::ops::mul::Mul;

static SHADER: Shader = shader!("mul", ["memory", "arith", "views", "elementwise"], "shader.wgsl");

pub(super) fn steps(build: &mut Builder<'_>, op: &Mul) -> Result<(), GpuError> {
    let out = build.output();
    let len = product(&op.dims);
    let params = build.params(&[build.input(0), build.input(1), out]).with(len as u32).with(*op);
    build.elements(&SHADER, params, len, out.dtype)
}

#[cfg(test)]
mod tests;
