//! Strided copies: gathering words where the output is written contiguously, else scattering elements.

use super::builder::{Builder, product};
use crate::error::GpuError;
use crate::step::{Shader, Tensor, shader};
use shiftformer::ops::Extent;
use shiftformer::ops::copy::Copy;

static SHADER: Shader = shader!("copy", ["tensor", "memory", "views", "copy", "entry", "elementwise"], "shader.wgsl");
static SCATTER: Shader = shader!("copy scatter", ["tensor", "views", "copy", "entry"], "scatter.wgsl");

pub(super) fn steps(build: &mut Builder<'_>, op: &Copy) -> Result<(), GpuError> {
    let (x, out) = (build.input(0), build.output());
    if op.to == Extent::contiguous(op.dims) {
        let len = product(&op.dims);
        // The last word is written whole: what lies behind it in the tensor must be nobody else's.
        if len == build.operands.record.len() as u64 {
            let params = build.params(&[x]).with(*op);
            return build.elements(&SHADER, out, len, params);
        }
    }
    scatter(build, x, out, op)
}

/// Copies elements one by one into any view of `out` that repeats none: the operator is not admitted otherwise.
pub(super) fn scatter(build: &mut Builder<'_>, x: Tensor, out: Tensor, op: &Copy) -> Result<(), GpuError> {
    let len = product(&op.dims);
    let params = build.params(&[x, out]).with(len as u32).with(*op);
    build.groups(&SCATTER, params, len.div_ceil(crate::step::INVOCATIONS))
}

#[cfg(test)]
mod tests;
