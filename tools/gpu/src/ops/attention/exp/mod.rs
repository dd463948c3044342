//! Exponentials of scores.

use super::{AttentionParams, Builder, rows, score_len};
use crate::gpu::GpuError;
use crate::step::{Shader, shader};
use shiftformer::tensor::Dtype;

static ROW_MAX: Shader = shader!("attention_exp row_max", ["memory", "reduce"], "row_max.wgsl");
static SHADER: Shader = shader!("attention_exp", ["memory", "arith", "exp", "attention", "elementwise"], "shader.wgsl");

pub(in crate::ops) fn steps(build: &mut Builder<'_>, op: &AttentionParams) -> Result<(), GpuError> {
    let (scores, out) = (build.input(0), build.output());
    let row_max = build.scratch(rows(op) * 4, Dtype::I32)?;
    let params = build.params(&[scores, row_max]).with(rows(op) as u32).with(op.n_k);
    build.groups(&ROW_MAX, params, rows(op))?;
    let len = score_len(op);
    let params = build.params(&[scores, row_max, out]).with(len as u32).with(*op);
    build.elements(&SHADER, params, len, out.dtype)
}
