//! ShiftGELU of the published I-ViT models.

use super::{Builder, product, row_max};
use crate::gpu::GpuError;
use crate::step::{Shader, shader};
use shiftformer::ops::shiftgelu::ShiftGelu;

static SHADER: Shader = shader!("shiftgelu", ["memory", "arith", "ivit", "elementwise"], "shader.wgsl");

pub(super) fn steps(build: &mut Builder<'_>, op: &ShiftGelu) -> Result<(), GpuError> {
    let (x, out) = (build.input(0), build.output());
    let row_max = row_max::steps(build, x, u64::from(op.rows), op.n)?;
    let len = product(&[op.rows, op.n]);
    let params = build.params(&[x, row_max, out]).with(len as u32).with(*op);
    build.elements(&SHADER, params, len, out.dtype)
}

#[cfg(test)]
mod tests;
