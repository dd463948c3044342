//! I-LayerNorm of the published I-ViT models: a pass for the statistics of each row, a pass for its elements.

use super::{Builder, product};
use crate::gpu::GpuError;
use crate::step::{Shader, shader};
use shiftformer::ops::i_layer_norm::ILayerNorm;
use shiftformer::tensor::Dtype;

static STATS: Shader = shader!("i_layer_norm stats", ["memory", "arith", "reduce"], "stats.wgsl");
static SHADER: Shader = shader!("i_layer_norm", ["memory", "arith", "ivit", "elementwise"], "shader.wgsl");

/// Words of statistics per row.
const STATS_WORDS: u64 = 2;

pub(super) fn steps(build: &mut Builder<'_>, op: &ILayerNorm) -> Result<(), GpuError> {
    let (x, out) = (build.input(0), build.output());
    let rows = u64::from(op.rows);
    let stats = build.scratch(rows * STATS_WORDS * 4, Dtype::I32)?;
    let params = build.params(&[x, stats]).with(op.rows).with(op.n);
    build.groups(&STATS, params, rows)?;
    let len = product(&[op.rows, op.n]);
    let params = build.params(&[x, stats, out]).with(len as u32).with(*op);
    build.elements(&SHADER, params, len, out.dtype)
}

#[cfg(test)]
mod tests;
