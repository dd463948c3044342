//! Exponentials of scores.

use super::{AttentionParams, Builder, rows, score_len};
use crate::gpu::GpuError;
use crate::ops::row_max;
use crate::step::{Shader, shader};

static SHADER: Shader = shader!("attention_exp", ["memory", "arith", "exp", "attention", "elementwise"], "shader.wgsl");

pub(in crate::ops) fn steps(build: &mut Builder<'_>, op: &AttentionParams) -> Result<(), GpuError> {
    let (scores, out) = (build.input(0), build.output());
    let row_max = row_max::steps(build, scores, rows(op), op.n_k)?;
    let len = score_len(op);
    let params = build.params(&[scores, row_max, out]).with(len as u32).with(*op);
    build.elements(&SHADER, params, len, out.dtype)
}
