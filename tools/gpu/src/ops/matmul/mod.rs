//! Product of two activations.

use super::{Builder, product};
use crate::gpu::GpuError;
use crate::step::{Shader, shader};
use shiftformer::ops::matmul::MatMul;

static SHADER: Shader = shader!("matmul", ["memory", "arith", "elementwise"], "shader.wgsl");

pub(super) fn steps(build: &mut Builder<'_>, op: &MatMul) -> Result<(), GpuError> {
    let out = build.output();
    let len = product(&op.batch) * product(&[op.m, op.n]);
    let params = build.params(&[build.input(0), build.input(1), out]).with(len as u32).with(*op);
    build.elements(&SHADER, params, len, out.dtype)
}

#[cfg(test)]
mod tests;
