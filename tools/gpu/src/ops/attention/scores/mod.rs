//! Scores of all pairs of rows.

use super::{AttentionParams, Builder, score_len};
use crate::gpu::GpuError;
use crate::step::{Shader, shader};

static SHADER: Shader =
    shader!("attention_scores", ["memory", "arith", "exp", "attention", "elementwise"], "shader.wgsl");

pub(in crate::ops) fn steps(build: &mut Builder<'_>, op: &AttentionParams) -> Result<(), GpuError> {
    build.check_terms(u64::from(op.head_dim))?;
    let (out, len) = (build.output(), score_len(op));
    let tensors = [build.input(0), build.input(1), build.input(3), build.input(4), out];
    let params = build.params(&tensors).with(len as u32).with(*op);
    build.elements(&SHADER, params, len, out.dtype)
}
