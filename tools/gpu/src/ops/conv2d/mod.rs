//! Convolution: windows are gathered into scratch memory, then each group is a dense layer.

use super::builder::{Builder, product};
use super::linear::{self, Matrix};
use crate::error::GpuError;
use crate::step::{Shader, Tensor, shader};
use shiftformer::ops::conv2d::Conv2d;
use shiftformer::tensor::Dtype;

static GATHER: Shader =
    shader!("conv2d gather", ["tensor", "memory", "window", "conv2d", "entry", "elementwise"], "gather.wgsl");
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
    let params = build.params(&[x]).with(padded_k as u32).with(*op);
    build.elements(&GATHER, gathered, len, params)?;
    if op.groups == 1 && op.n.is_multiple_of(4) {
        let k = product(&[op.window.kernel_h, op.window.kernel_w, op.channels]) as u32;
        let size = Matrix { rows: pixels as u32, x_stride: padded_k as u32, k, n: op.n, residual_shift: 0 };
        return linear::tiles(build, [gathered, Tensor::ABSENT, out], size, op.dense);
    }
    let len = pixels * u64::from(op.n);
    let params = build.params(&[gathered]).with(padded_k as u32).with(*op);
    build.elements(&SHADER, out, len, params)
}

#[cfg(test)]
pub(crate) mod tests;
