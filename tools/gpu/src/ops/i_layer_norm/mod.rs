//! I-LayerNorm of the published I-ViT models.

use super::builder::Builder;
use crate::error::GpuError;
use crate::step::{Shader, shader};
use shiftformer::ops::i_layer_norm::ILayerNorm;

static SHADER: Shader =
    shader!("i_layer_norm", ["tensor", "memory", "packed", "arith", "ivit", "reduce", "rows", "entry"], "shader.wgsl");

pub(super) fn steps(build: &mut Builder<'_>, op: &ILayerNorm) -> Result<(), GpuError> {
    let rows = [build.input(0), build.output()];
    let params = build.params(&rows).with(*op);
    build.row_stats(&SHADER, rows, params, u64::from(op.rows), op.n)
}

#[cfg(test)]
mod tests;
