//! Strided copies: gathering words where the output is written contiguously, else scattering elements.

use super::builder::{Builder, product};
use crate::error::GpuError;
use crate::step::{Shader, Tensor, shader};
use shiftformer::ops::Extent;
use shiftformer::ops::copy::Copy;

static SHADER: Shader = shader!("copy", ["tensor", "memory", "views", "copy", "entry", "elementwise"], "shader.wgsl");
static SCATTER: Shader = shader!("copy scatter", ["tensor", "views", "copy", "entry"], "scatter.wgsl");

static RUNS: Shader = shader!("copy runs", ["tensor", "views", "entry"], "runs.wgsl");

/// Bytes that an invocation of [`RUNS`] copies.
const RUN: u32 = 16;

/// Whether the copy repeats its input, byte by byte.
pub fn is_whole(op: &Copy) -> bool {
    let contiguous = Extent::contiguous(op.dims);
    op.from == contiguous && op.to == contiguous && op.flip == 0 && !op.partial
}

pub(super) fn steps(build: &mut Builder<'_>, op: &Copy) -> Result<(), GpuError> {
    let (x, out) = (build.input(0), build.output());
    if let Some((dims, from, to)) = in_runs(op, x, out) {
        let chunks = product(&dims);
        let params = build.params(&[x, out]).with(chunks as u32).with(dims).with(from).with(to);
        return build.groups(&RUNS, params, chunks.div_ceil(crate::step::INVOCATIONS));
    }
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

/// The copy as one of 16-byte words: dimensions and views in such words, where both views have runs of them.
fn in_runs(op: &Copy, x: Tensor, out: Tensor) -> Option<([u32; 6], Extent, Extent)> {
    let size = out.dtype.bytes() as i32;
    let mut run = 1i32;
    let mut outer = op.dims.len();
    while let Some(axis) = outer.checked_sub(1) {
        let goes_on = op.dims[axis] == 1 || (op.from.strides[axis] == run && op.to.strides[axis] == run);
        if !goes_on {
            break;
        }
        run = run.checked_mul(op.dims[axis] as i32)?;
        outer = axis;
    }
    let run = run.checked_mul(size)? as u32;
    // The innermost dimension holds the run: it is free, for a run takes at least one dimension of more than one element.
    let mut dims = [1; 6];
    dims[..outer.min(5)].copy_from_slice(&op.dims[..outer.min(5)]);
    dims[5] = run / RUN;
    let words = |view: &Extent| {
        let mut strides = [0; 6];
        for (to, &from) in strides.iter_mut().zip(&view.strides[..outer.min(5)]) {
            *to = from * size / RUN as i32;
        }
        strides[5] = 1;
        Extent { offset: view.offset * size as u32 / RUN, strides }
    };
    let whole = |view: &Extent| {
        let strides = view.strides[..outer].iter().zip(&op.dims[..outer]);
        let mut steps = strides.filter(|&(_, &dim)| dim > 1).map(|(&stride, _)| stride);
        steps.all(|stride| (stride * size) % RUN as i32 == 0) && (view.offset * size as u32).is_multiple_of(RUN)
    };
    let fits = outer < 6
        && op.flip == 0
        && run.is_multiple_of(RUN)
        && whole(&op.from)
        && whole(&op.to)
        && (x.base.is_multiple_of(4) && x.stride.is_multiple_of(4));
    fits.then(|| (dims, words(&op.from), words(&op.to)))
}

#[cfg(test)]
mod tests;
