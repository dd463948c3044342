//! Table of a 16-bit argument.

use super::builder::Builder;
use crate::error::GpuError;
use crate::step::{Shader, shader};
use shiftformer::ops::lut_i16::LutI16;

static SHADER: Shader = shader!("lut_i16", ["tensor", "memory", "entry", "elementwise"], "shader.wgsl");

pub(super) fn steps(build: &mut Builder<'_>, op: &LutI16) -> Result<(), GpuError> {
    let len = u64::from(op.len);
    let params = build.params(&[build.input(0)]).with(*op);
    build.elements(&SHADER, build.output(), len, params)
}

#[cfg(test)]
mod tests;
