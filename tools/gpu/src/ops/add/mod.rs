//! Sum of two tensors.

use super::{Builder, product};
use crate::gpu::GpuError;
use crate::step::{Shader, shader};
use shiftformer::ops::add::Add;

static SHADER: Shader = shader!("add", ["memory", "views", "elementwise"], "shader.wgsl");

pub(super) fn steps(build: &mut Builder<'_>, op: &Add) -> Result<(), GpuError> {
    let out = build.output();
    let len = product(&op.dims);
    let params = build.params(&[build.input(0), build.input(1), out]).with(len as u32).with(*op);
    build.elements(&SHADER, params, len, out.dtype)
}

#[cfg(test)]
pub(crate) mod tests;
