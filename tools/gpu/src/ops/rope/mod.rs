//! Rotary position embedding.

use super::builder::{Builder, product};
use crate::error::GpuError;
use crate::step::{Shader, shader};
use shiftformer::ops::rope::Rope;

static SHADER: Shader = shader!("rope", ["tensor", "memory", "arith", "entry", "elementwise"], "shader.wgsl");

pub(super) fn steps(build: &mut Builder<'_>, op: &Rope) -> Result<(), GpuError> {
    let params = build.params(&[build.input(0), build.position()]).with(*op);
    build.elements(&SHADER, build.output(), product(&[op.rows, op.heads, op.head_dim]), params)
}
