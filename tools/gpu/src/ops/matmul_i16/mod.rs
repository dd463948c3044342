//! Product of a 16-bit and an 8-bit activation, element by element.

use super::builder::{Builder, product};
use crate::error::GpuError;
use crate::step::{Shader, shader};
use shiftformer::ops::matmul_i16::MatMulI16;

static SHADER: Shader =
    shader!("matmul_i16", ["tensor", "memory", "arith", "matmul", "halves", "entry", "elementwise"], "shader.wgsl");

pub(super) fn steps(build: &mut Builder<'_>, op: &MatMulI16) -> Result<(), GpuError> {
    build.check_terms(u64::from(op.product.k))?;
    let len = product(&op.product.batch) * product(&[op.product.m, op.product.n]);
    let params = build.params(&[build.input(0), build.input(1)]).with(*op);
    build.elements(&SHADER, build.output(), len, params)
}

#[cfg(test)]
mod tests;
