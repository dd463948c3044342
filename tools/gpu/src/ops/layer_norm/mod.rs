//! LayerNorm and RMSNorm.

use super::Builder;
use crate::error::GpuError;
use crate::step::{Shader, shader};
use shiftformer::ops::layer_norm::LayerNorm;

static SHADER: Shader = shader!("layer_norm", ["tensor", "memory", "arith", "reduce", "rows", "entry"], "shader.wgsl");

pub(super) fn steps(build: &mut Builder<'_>, op: &LayerNorm) -> Result<(), GpuError> {
    let params = build.params(&[build.input(0), build.output()]).with(*op);
    build.row_stats(&SHADER, params, u64::from(op.rows), op.n)
}

#[cfg(test)]
mod tests;
