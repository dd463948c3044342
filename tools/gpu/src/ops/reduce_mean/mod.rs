//! Mean along a dimension; a long one is summed in parts first.

use super::builder::{Builder, MAX_TERMS, product};
use crate::error::GpuError;
use crate::step::{Shader, Tensor, shader};
use shiftformer::ops::reduce_mean::ReduceMean;
use shiftformer::tensor::Dtype;

static SHADER: Shader = shader!("reduce_mean", ["tensor", "memory", "arith", "entry", "elementwise"], "shader.wgsl");

pub(super) fn steps(build: &mut Builder<'_>, op: &ReduceMean) -> Result<(), GpuError> {
    let (x, out) = (build.input(0), build.output());
    let parts = op.r.div_ceil(MAX_TERMS);
    if parts == 1 {
        return pass(build, [x, out], op, 1);
    }
    let sums = build.scratch(product(&[op.outer, parts, op.inner]) * 4, Dtype::I32)?;
    pass(build, [x, sums], op, parts)?;
    pass(build, [sums, out], &ReduceMean { r: parts, ..*op }, 1)
}

/// One dispatch: the run in `parts` parts.
fn pass(build: &mut Builder<'_>, [x, out]: [Tensor; 2], op: &ReduceMean, parts: u32) -> Result<(), GpuError> {
    let len = product(&[op.outer, parts, op.inner]);
    let part = op.r.min(MAX_TERMS);
    let params = build.params(&[x]).with(parts).with(part).with(*op);
    build.elements(&SHADER, out, len, params)
}

#[cfg(test)]
mod tests;
