//! LayerNorm and RMSNorm.

use super::builder::Builder;
use crate::error::GpuError;
use crate::step::{Shader, shader};
use shiftformer::ops::layer_norm::LayerNorm;

static SHADER: Shader =
    shader!("layer_norm", ["tensor", "memory", "packed", "arith", "reduce", "rows", "entry"], "shader.wgsl");

pub(super) fn steps(build: &mut Builder<'_>, op: &LayerNorm) -> Result<(), GpuError> {
    let rows = [build.input(0), build.output()];
    let params = build.params(&rows).with(*op);
    build.row_stats(&SHADER, rows, params, u64::from(op.rows), op.n)
}

#[cfg(test)]
mod tests;
