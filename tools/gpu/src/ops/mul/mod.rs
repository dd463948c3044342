//! Product of two tensors.

use super::builder::{Builder, product};
use crate::error::GpuError;
use crate::step::{Shader, shader};
use shiftformer::ops::mul::Mul;

static SHADER: Shader =
    shader!("mul", ["tensor", "memory", "arith", "views", "binary", "entry", "elementwise"], "shader.wgsl");

pub(super) fn steps(build: &mut Builder<'_>, op: &Mul) -> Result<(), GpuError> {
    let len = product(&op.dims);
    let params = build.params(&[build.input(0), build.input(1)]).with(*op);
    build.elements(&SHADER, build.output(), len, params)
}

#[cfg(test)]
mod tests;
