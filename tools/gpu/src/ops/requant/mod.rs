//! Change of scale.

use super::builder::Builder;
use crate::error::GpuError;
use crate::step::{Shader, shader};
use shiftformer::ops::requant::Requant;

static SHADER: Shader = shader!("requant", ["tensor", "memory", "arith", "entry", "elementwise"], "shader.wgsl");

pub(super) fn steps(build: &mut Builder<'_>, op: &Requant) -> Result<(), GpuError> {
    let len = u64::from(op.len);
    let params = build.params(&[build.input(0)]).with(*op);
    build.elements(&SHADER, build.output(), len, params)
}

#[cfg(test)]
mod tests;
