//! Strided copies: gathering words where the output is written contiguously, else scattering elements.

use super::{Builder, product};
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

/// Copies elements one by one into any view of `out`.
///
/// Where the view repeats an element (stride 0) the last copy stays, as in a run in order.
pub(super) fn scatter(build: &mut Builder<'_>, x: Tensor, out: Tensor, op: &Copy) -> Result<(), GpuError> {
    let mut op = *op;
    for axis in 0..op.dims.len() {
        if op.to.strides[axis] == 0 && op.dims[axis] > 1 {
            let last = i64::from(op.from.offset) + i64::from(op.from.strides[axis]) * i64::from(op.dims[axis] - 1);
            op.from.offset = u32::try_from(last).map_err(|_| build.broken("its input view leaves the tensor"))?;
            op.dims[axis] = 1;
        }
    }
    let len = product(&op.dims);
    let params = build.params(&[x, out]).with(len as u32).with(op);
    build.groups(&SCATTER, params, len.div_ceil(crate::step::INVOCATIONS))
}

#[cfg(test)]
mod tests;
