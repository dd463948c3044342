//! Table.

use super::builder::Builder;
use crate::error::GpuError;
use crate::step::{Shader, shader};
use shiftformer::ops::lut::Lut;

static SHADER: Shader = shader!("lut", ["tensor", "memory", "entry", "elementwise"], "shader.wgsl");

pub(super) fn steps(build: &mut Builder<'_>, op: &Lut) -> Result<(), GpuError> {
    let len = u64::from(op.len);
    let params = build.params(&[build.input(0)]).with(*op);
    build.elements(&SHADER, build.output(), len, params)
}

#[cfg(test)]
mod tests;
