//! Sum of two tensors.

use super::builder::{Builder, product};
use crate::error::GpuError;
use crate::step::{INVOCATIONS, Shader, shader};
use shiftformer::ops::add::Add;
use shiftformer::tensor::Dtype;

static SHADER: Shader = shader!("add", ["tensor", "memory", "views", "binary", "entry", "elementwise"], "shader.wgsl");
static FOURS: Shader = shader!("add fours", ["tensor", "memory", "packed", "fours", "entry"], "fours.wgsl");

pub(super) fn steps(build: &mut Builder<'_>, op: &Add) -> Result<(), GpuError> {
    let len = product(&op.dims);
    let (a, b, out) = (build.input(0), build.input(1), build.output());
    let narrow = [a, b, out].iter().all(|t| matches!(t.dtype, Dtype::I8 | Dtype::I16));
    if narrow && len.is_multiple_of(4) && [&op.a, &op.b].iter().all(|view| view.is_contiguous(&op.dims)) {
        let params = build.params(&[a, b, out]).with((len / 4) as u32);
        let params = params.with(op.ma).with(op.mb).with(op.bias).with(op.shift);
        let params = params.constant("A", a.dtype as u32).constant("B", b.dtype as u32);
        let params = params.constant("TO", out.dtype as u32);
        return build.groups(&FOURS, params, (len / 4).div_ceil(INVOCATIONS));
    }
    let params = build.params(&[build.input(0), build.input(1)]).with(*op);
    build.elements(&SHADER, build.output(), len, params)
}

#[cfg(test)]
pub(crate) mod tests;
