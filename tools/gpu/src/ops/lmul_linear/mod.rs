//! Dense layer whose products are additions.

use super::builder::{Builder, product};
use crate::error::GpuError;
use crate::step::{Shader, shader};
use shiftformer::ops::lmul_linear::LmulLinear;

static SHADER: Shader = shader!("lmul_linear", ["tensor", "memory", "arith", "entry", "elementwise"], "shader.wgsl");

pub(super) fn steps(build: &mut Builder<'_>, op: &LmulLinear) -> Result<(), GpuError> {
    build.check_terms(u64::from(op.k))?;
    let len = product(&[op.rows, op.n]);
    let params = build.params(&[build.input(0)]).with(*op);
    build.elements(&SHADER, build.output(), len, params)
}

#[cfg(test)]
mod tests;
