//! Dense layers over 16-bit activations, element by element.

use super::builder::{Builder, product};
use crate::error::GpuError;
use crate::step::{Shader, shader};
use shiftformer::ops::linear_i16::LinearI16;

static SHADER: Shader = shader!(
    "linear_i16",
    ["tensor", "memory", "arith", "dense", "halves", "wide_dense", "entry", "elementwise"],
    "shader.wgsl"
);

pub(super) fn steps(build: &mut Builder<'_>, op: &LinearI16) -> Result<(), GpuError> {
    build.check_terms(u64::from(op.linear.k))?;
    let len = product(&[op.linear.rows, op.linear.n]);
    let params = build.params(&[build.input(0), build.input(1)]).with(*op);
    build.elements(&SHADER, build.output(), len, params)
}

#[cfg(test)]
mod tests;
