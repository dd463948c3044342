//! Mean along a dimension.

use super::{Builder, product};
use crate::gpu::GpuError;
use crate::step::{Shader, shader};
use shiftformer::ops::reduce_mean::ReduceMean;

static SHADER: Shader = shader!("reduce_mean", ["memory", "arith", "elementwise"], "shader.wgsl");

pub(super) fn steps(build: &mut Builder<'_>, op: &ReduceMean) -> Result<(), GpuError> {
    let out = build.output();
    let len = product(&[op.outer, op.inner]);
    let params = build.params(&[build.input(0), out]).with(len as u32).with(*op);
    build.elements(&SHADER, params, len, out.dtype)
}

#[cfg(test)]
mod tests;
