//! Rows of a table by index.

use super::builder::{Builder, product};
use crate::error::GpuError;
use crate::step::{Shader, shader};
use shiftformer::ops::gather::Gather;

static SHADER: Shader = shader!("gather", ["tensor", "memory", "entry", "elementwise"], "shader.wgsl");

pub(super) fn steps(build: &mut Builder<'_>, op: &Gather) -> Result<(), GpuError> {
    let len = product(&[op.n, op.width]);
    let params = build.params(&[build.input(0), build.input(1), build.fault()]).with(build.op as u32).with(*op);
    build.elements(&SHADER, build.output(), len, params)
}

#[cfg(test)]
mod tests;
