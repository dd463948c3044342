//! Attention of the rows of a run to the state: scores, their maximum, weighted values.

use super::{AttentionParams, Builder, padded_v, place_rows, row_scratch, rows, score_len};
use crate::error::GpuError;
use crate::step::{Shader, shader};
use shiftformer::tensor::Dtype;

static SCORES: Shader =
    shader!("causal_scores", ["tensor", "memory", "arith", "exp", "attention", "entry", "elementwise"], "scores.wgsl");
static MAXIMUM: Shader = shader!(
    "causal_maximum",
    ["tensor", "memory", "arith", "exp", "attention", "entry", "elementwise"],
    "maximum.wgsl"
);
static VALUES: Shader =
    shader!("causal_values", ["tensor", "memory", "arith", "exp", "attention", "entry", "elementwise"], "values.wgsl");

pub(in crate::ops) fn steps(build: &mut Builder<'_>, op: &AttentionParams, window: u32) -> Result<(), GpuError> {
    build.check_terms(u64::from(op.n_k.max(op.head_dim)))?;
    let step = build.position();
    let scores = build.scratch(4 * score_len(op), Dtype::I32)?;
    let params = build.params(&[build.input(0), build.input(1), step]).with(window).with(*op);
    build.elements(&SCORES, scores, score_len(op), params)?;
    let maximum = build.scratch(4 * rows(op), Dtype::I32)?;
    let params = build.params(&[scores, step]).with(window).with(*op);
    build.elements(&MAXIMUM, maximum, rows(op), params)?;
    let gathered = row_scratch(build, op)?;
    let padded = padded_v(op);
    let params = build.params(&[scores, maximum, build.input(2), step]).with(padded).with(window).with(*op);
    build.elements(&VALUES, gathered, rows(op) * u64::from(padded), params)?;
    place_rows(build, op, gathered)
}
