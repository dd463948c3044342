//! Dyadic requantization of the published I-ViT models.

use super::builder::{Builder, product};
use crate::error::GpuError;
use crate::step::{Shader, shader};
use shiftformer::ops::dyadic_requant::DyadicRequant;

static SHADER: Shader =
    shader!("dyadic_requant", ["tensor", "memory", "arith", "ivit", "entry", "elementwise"], "shader.wgsl");

pub(super) fn steps(build: &mut Builder<'_>, op: &DyadicRequant) -> Result<(), GpuError> {
    let len = product(&[op.rows, op.n]);
    let params = build.params(&[build.input(0), build.input(1)]).with(*op);
    build.elements(&SHADER, build.output(), len, params)
}

#[cfg(test)]
mod tests;
