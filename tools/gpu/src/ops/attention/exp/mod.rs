//! Exponentials of scores.

use super::{AttentionParams, Builder, rows};
use crate::error::GpuError;
use crate::step::{Shader, shader};

static SHADER: Shader = shader!(
    "attention_exp",
    ["tensor", "memory", "packed", "arith", "exp", "attention", "reduce", "rows", "entry"],
    "shader.wgsl"
);

pub(in crate::ops) fn steps(build: &mut Builder<'_>, op: &AttentionParams) -> Result<(), GpuError> {
    let (scores, out) = (build.input(0), build.output());
    let params = build.params(&[scores, out]).with(rows(op) as u32).with(op.n_k).with(*op);
    build.row_stats(&SHADER, [scores, out], params, rows(op), op.n_k)
}
