//! Table.

use super::Builder;
use crate::gpu::GpuError;
use crate::step::{Shader, shader};
use shiftformer::ops::lut::Lut;

static SHADER: Shader = shader!("lut", ["memory", "elementwise"], "shader.wgsl");

pub(super) fn steps(build: &mut Builder<'_>, op: &Lut) -> Result<(), GpuError> {
    let out = build.output();
    let len = u64::from(op.len);
    let params = build.params(&[build.input(0), out]).with(len as u32).with(*op);
    build.elements(&SHADER, params, len, out.dtype)
}

#[cfg(test)]
mod tests;
