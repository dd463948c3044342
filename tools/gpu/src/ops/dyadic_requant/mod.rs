//! Dyadic requantization of the published I-ViT models.

use super::{Builder, product};
use crate::gpu::GpuError;
use crate::step::{Shader, shader};
use shiftformer::ops::dyadic_requant::DyadicRequant;

static SHADER: Shader = shader!("dyadic_requant", ["memory", "arith", "ivit", "elementwise"], "shader.wgsl");

pub(super) fn steps(build: &mut Builder<'_>, op: &DyadicRequant) -> Result<(), GpuError> {
    let out = build.output();
    let len = product(&[op.rows, op.n]);
    let params = build.params(&[build.input(0), build.input(1), out]).with(len as u32).with(*op);
    build.elements(&SHADER, params, len, out.dtype)
}

#[cfg(test)]
mod tests;
