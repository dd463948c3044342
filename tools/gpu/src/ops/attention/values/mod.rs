//! Values weighted by exponentials.

use super::{AttentionParams, Builder, padded_v, place_rows, row_scratch, rows};
use crate::gpu::GpuError;
use crate::step::{Shader, shader};
use shiftformer::tensor::Dtype;

static SHADER: Shader =
    shader!("attention_values", ["memory", "arith", "exp", "attention", "elementwise"], "shader.wgsl");

pub(in crate::ops) fn steps(build: &mut Builder<'_>, op: &AttentionParams) -> Result<(), GpuError> {
    build.check_terms(u64::from(op.n_k))?;
    let gathered = row_scratch(build, op)?;
    let padded = padded_v(op);
    let len = rows(op) * u64::from(padded);
    let params = build.params(&[build.input(0), build.input(2), gathered]).with(len as u32).with(padded).with(*op);
    build.elements(&SHADER, params, len, Dtype::I8)?;
    place_rows(build, op, gathered)
}
