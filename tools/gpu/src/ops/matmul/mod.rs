//! Product of two activations: in tiles where the output's rows are whole words, else element by element.

use super::builder::{Builder, product};
use crate::error::GpuError;
use crate::step::{Shader, Tensor, shader};
use shiftformer::ops::matmul::MatMul;
use shiftformer::tensor::Dtype;

static SHADER: Shader =
    shader!("matmul", ["tensor", "memory", "arith", "matmul", "entry", "elementwise"], "shader.wgsl");
static TILE: Shader = shader!("matmul tile", ["tensor", "memory", "arith", "packed", "matmul", "entry"], "tile.wgsl");

/// Rows and columns of a tile.
const TILE_SIZE: u32 = 32;

pub(super) fn steps(build: &mut Builder<'_>, op: &MatMul) -> Result<(), GpuError> {
    let out = build.output();
    if out.dtype == Dtype::I32 || op.n.is_multiple_of(4) {
        return tiles(build, op);
    }
    build.check_terms(u64::from(op.k))?;
    let len = product(&op.batch) * product(&[op.m, op.n]);
    let params = build.params(&[build.input(0), build.input(1)]).with(*op);
    build.elements(&SHADER, out, len, params)
}

fn tiles(build: &mut Builder<'_>, op: &MatMul) -> Result<(), GpuError> {
    let (a, b, out) = (build.input(0), build.input(1), build.output());
    let columns = op.n.div_ceil(TILE_SIZE);
    let tiles = product(&op.batch) * product(&[op.m.div_ceil(TILE_SIZE), columns]);
    let params = build.params(&[a, b, out]).with(columns).with(tiles as u32).with(*op);
    let params = params.constant("ALIGNED", is_aligned(op, a)).constant("WIDE", a.dtype == Dtype::U16);
    build.groups(&TILE, params, tiles)
}

/// Whether all rows start at whole words.
fn is_aligned(op: &MatMul, a: Tensor) -> bool {
    let per_word = 4 / a.dtype.bytes() as u32;
    let a_whole = op.a_batch.iter().chain([&op.a_row]).all(|stride| stride.is_multiple_of(per_word));
    a_whole && op.b_batch.iter().chain([&op.b_row]).all(|stride| stride.is_multiple_of(4))
}

#[cfg(test)]
mod tests;
