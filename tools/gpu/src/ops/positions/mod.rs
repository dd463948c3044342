//! Rows of a table by position.

use super::builder::{Builder, product};
use crate::error::GpuError;
use crate::step::{Shader, shader};
use shiftformer::ops::positions::Positions;

static SHADER: Shader = shader!("positions", ["tensor", "memory", "entry", "elementwise"], "shader.wgsl");

pub(super) fn steps(build: &mut Builder<'_>, op: &Positions) -> Result<(), GpuError> {
    let params = build.params(&[build.input(0), build.position()]).with(*op);
    build.elements(&SHADER, build.output(), product(&[op.rows, op.width]), params)
}
