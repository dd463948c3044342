//! Layer of look-ups.

use super::builder::{Builder, product};
use crate::error::GpuError;
use crate::step::{Shader, shader};
use shiftformer::ops::lookup_linear::LookupLinear;

static SHADER: Shader = shader!("lookup_linear", ["tensor", "memory", "arith", "entry", "elementwise"], "shader.wgsl");

pub(super) fn steps(build: &mut Builder<'_>, op: &LookupLinear) -> Result<(), GpuError> {
    build.check_terms(u64::from(op.k))?;
    let len = product(&[op.rows, op.n]);
    let params = build.params(&[build.input(0)]).with(*op);
    build.elements(&SHADER, build.output(), len, params)
}

#[cfg(test)]
mod tests;
