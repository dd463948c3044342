//! Dense layer.

use super::Builder;
use crate::gpu::GpuError;
use crate::step::{Shader, shader};
use shiftformer::ops::linear::Linear;

static SHADER: Shader = shader!("linear", ["memory", "arith", "dense", "elementwise"], "shader.wgsl");

pub(super) fn steps(build: &mut Builder<'_>, op: &Linear) -> Result<(), GpuError> {
    let out = build.output();
    let len = u64::from(op.rows) * u64::from(op.n);
    let params = build.params(&[build.input(0), build.input(1), out]).with(len as u32).with(*op);
    build.elements(&SHADER, params, len, out.dtype)
}

#[cfg(test)]
pub(crate) mod tests;
