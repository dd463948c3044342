//! Convolution: windows are gathered into scratch memory, then each group is a dense layer.

use super::builder::{Builder, product};
use super::linear::{self, Matrix};
use crate::error::GpuError;
use crate::step::{Buffer, INVOCATIONS, Shader, Tensor, shader};
use shiftformer::ops::conv2d::Conv2d;
use shiftformer::tensor::Dtype;

static GATHER: Shader =
    shader!("conv2d gather", ["tensor", "memory", "window", "conv2d", "entry", "elementwise"], "gather.wgsl");
static QUADS: Shader = shader!("conv2d quads", ["tensor", "memory", "window", "conv2d", "entry"], "quads.wgsl");
static SHADER: Shader = shader!(
    "conv2d",
    ["tensor", "memory", "arith", "dense", "window", "conv2d", "entry", "elementwise"],
    "shader.wgsl"
);

pub(super) fn steps(build: &mut Builder<'_>, op: &Conv2d) -> Result<(), GpuError> {
    let (x, out) = (build.input(0), build.output());
    let padded_k = product(&[op.window.kernel_h, op.window.kernel_w, op.channels]).next_multiple_of(16);
    let pixels = product(&[op.window.out_h, op.window.out_w]);
    let len = u64::from(op.groups) * pixels * padded_k;
    if len > u64::from(u32::MAX) {
        return Err(build.broken("its gathered windows are too large"));
    }
    let gathered = build.scratch(len, Dtype::I8)?;
    if in_quads(op, x) {
        let quads = len / 4 / u64::from(op.channels);
        let params = build.params(&[gathered, x]).with(quads as u32).with(padded_k as u32).with(*op);
        let params = params.constant("CHANNELS", op.channels);
        build.groups(&QUADS, params, quads.div_ceil(INVOCATIONS))?;
    } else {
        let params = build.params(&[x]).with(padded_k as u32).with(*op);
        build.elements(&GATHER, gathered, len, params)?;
    }
    if op.groups == 1 && op.n.is_multiple_of(4) {
        let k = product(&[op.window.kernel_h, op.window.kernel_w, op.channels]) as u32;
        let size = Matrix { rows: pixels as u32, x_stride: padded_k as u32, k, n: op.n, residual_shift: 0 };
        return linear::tiles(build, [gathered, Tensor::ABSENT, out], size, op.dense);
    }
    let len = pixels * u64::from(op.n);
    let params = build.params(&[gathered]).with(padded_k as u32).with(*op);
    build.elements(&SHADER, out, len, params)
}

/// Whether windows are whole words of each channel's rows, without padding anywhere: patches of an image of few channels.
fn in_quads(op: &Conv2d, x: Tensor) -> bool {
    let w = &op.window;
    let inside = |out: u32, stride: u32, kernel: u32, size: u32| {
        u64::from(out.saturating_sub(1)) * u64::from(stride) + u64::from(kernel) <= u64::from(size)
    };
    op.groups == 1
        && (1..=4).contains(&op.channels)
        && (w.pad_top, w.pad_left, w.dilation_h, w.dilation_w, w.column_stride) == (0, 0, 1, 1, 1)
        && [w.kernel_w, w.stride_w, w.row_stride, w.channel_stride].iter().all(|v| v.is_multiple_of(4))
        && product(&[w.kernel_h, w.kernel_w, op.channels]).is_multiple_of(16)
        && inside(w.out_h, w.stride_h, w.kernel_h, w.in_h)
        && inside(w.out_w, w.stride_w, w.kernel_w, w.in_w)
        && x.buffer == Buffer::Data
}

#[cfg(test)]
pub(crate) mod tests;
