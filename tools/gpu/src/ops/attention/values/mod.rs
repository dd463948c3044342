//! Values weighted by exponentials.

use super::{AttentionParams, Builder, padded_v, place_rows, row_scratch, rows};
use crate::error::GpuError;
use crate::step::{Shader, shader};

static SHADER: Shader = shader!(
    "attention_values",
    ["tensor", "memory", "arith", "exp", "attention", "entry", "elementwise"],
    "shader.wgsl"
);

pub(in crate::ops) fn steps(build: &mut Builder<'_>, op: &AttentionParams) -> Result<(), GpuError> {
    build.check_terms(u64::from(op.n_k))?;
    let gathered = row_scratch(build, op)?;
    let padded = padded_v(op);
    let len = rows(op) * u64::from(padded);
    let params = build.params(&[build.input(0), build.input(2)]).with(padded).with(*op);
    build.elements(&SHADER, gathered, len, params)?;
    place_rows(build, op, gathered)
}
