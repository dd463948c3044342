//! Softmax of rows.

use super::Builder;
use crate::error::GpuError;
use crate::step::{Shader, shader};
use shiftformer::ops::softmax::Softmax;

static SHADER: Shader =
    shader!("softmax", ["tensor", "memory", "arith", "exp", "reduce", "rows", "entry"], "shader.wgsl");

pub(super) fn steps(build: &mut Builder<'_>, op: &Softmax) -> Result<(), GpuError> {
    let params = build.params(&[build.input(0), build.output()]).with(*op);
    build.row_stats(&SHADER, params, u64::from(op.rows), op.n)
}

#[cfg(test)]
mod tests;
