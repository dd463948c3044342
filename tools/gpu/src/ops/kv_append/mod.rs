//! Rows of a run into the state.

use super::builder::{Builder, product};
use crate::error::GpuError;
use crate::step::{Shader, shader};
use shiftformer::ops::kv_append::KvAppend;

static SHADER: Shader = shader!("kv_append", ["tensor", "memory", "entry", "elementwise"], "shader.wgsl");

pub(super) fn steps(build: &mut Builder<'_>, op: &KvAppend) -> Result<(), GpuError> {
    let params = build.params(&[build.input(0), build.position()]).with(*op);
    build.elements(&SHADER, build.output(), product(&[op.capacity, op.width]), params)
}
