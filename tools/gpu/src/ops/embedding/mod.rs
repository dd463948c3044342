//! Rows of a compressed table by index.

use super::builder::{Builder, product};
use crate::error::GpuError;
use crate::step::{Shader, shader};
use shiftformer::ops::embedding::Embedding;

static SHADER: Shader = shader!("embedding", ["tensor", "memory", "arith", "entry", "elementwise"], "shader.wgsl");

pub(super) fn steps(build: &mut Builder<'_>, op: &Embedding) -> Result<(), GpuError> {
    let len = product(&[op.n, op.width]);
    let params = build.params(&[build.input(0), build.fault()]).with(build.op as u32).with(*op);
    build.elements(&SHADER, build.output(), len, params)
}

#[cfg(test)]
mod tests;
