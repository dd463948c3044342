//! Scores of all pairs of rows.

use super::{AttentionParams, Builder, score_len};
use crate::error::GpuError;
use crate::step::{Shader, shader};

static SHADER: Shader = shader!(
    "attention_scores",
    ["tensor", "memory", "arith", "exp", "attention", "entry", "elementwise"],
    "shader.wgsl"
);

pub(in crate::ops) fn steps(build: &mut Builder<'_>, op: &AttentionParams) -> Result<(), GpuError> {
    build.check_terms(u64::from(op.head_dim))?;
    let (out, len) = (build.output(), score_len(op));
    let params = build.params(&[0, 1, 3, 4].map(|i| build.input(i))).with(*op);
    build.elements(&SHADER, out, len, params)
}
