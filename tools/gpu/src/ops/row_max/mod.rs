//! The greatest element of each row: a pass of operators that look at whole rows.

use super::Builder;
use crate::gpu::GpuError;
use crate::step::{Shader, Tensor, shader};
use shiftformer::tensor::Dtype;

static SHADER: Shader = shader!("row_max", ["memory", "reduce"], "shader.wgsl");

/// Adds the pass over `rows` rows of `n` elements; returns where the `rows` words of the result lie.
pub(super) fn steps(build: &mut Builder<'_>, x: Tensor, rows: u64, n: u32) -> Result<Tensor, GpuError> {
    let row_max = build.scratch(rows * 4, Dtype::I32)?;
    let params = build.params(&[x, row_max]).with(rows as u32).with(n);
    build.groups(&SHADER, params, rows)?;
    Ok(row_max)
}
