//! Rows of a table by index.

use super::{Builder, product};
use crate::gpu::GpuError;
use crate::step::{Shader, shader};
use shiftformer::ops::gather::Gather;

static SHADER: Shader = shader!("gather", ["memory", "elementwise"], "shader.wgsl");

pub(super) fn steps(build: &mut Builder<'_>, op: &Gather) -> Result<(), GpuError> {
    let out = build.output();
    let len = product(&[op.n, op.width]);
    let tensors = [build.input(0), build.input(1), build.fault(), out];
    let params = build.params(&tensors).with(len as u32).with(build.op as u32).with(*op);
    build.elements(&SHADER, params, len, out.dtype)
}

#[cfg(test)]
mod tests;
