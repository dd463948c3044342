//! Dense layers: in tiles over the rows of the whole batch where output rows are whole words, on cooperative matrices
//! where the device has them, else word by word.

use super::builder::{Builder, product};
use crate::error::GpuError;
use crate::step::{Shader, Tensor, shader};
use shiftformer::ops::linear::{Dense, Linear};

static SHADER: Shader =
    shader!("linear", ["tensor", "memory", "arith", "dense", "entry", "elementwise"], "shader.wgsl");
static TILE: Shader = shader!("linear tile", ["tensor", "memory", "arith", "packed", "dense", "entry"], "tile.wgsl");

mod matrix;

pub(super) use matrix::Matrix;

/// Rows and channels of a tile.
const TILE_SIZE: u64 = 64;

pub(super) fn steps(build: &mut Builder<'_>, op: &Linear) -> Result<(), GpuError> {
    let (x, residual, out) = (build.input(0), build.input(1), build.output());
    if op.n.is_multiple_of(4) {
        let matrix = Matrix { rows: op.rows, x_stride: op.k, k: op.k, n: op.n, residual_shift: op.residual_shift };
        return tiles(build, [x, residual, out], matrix, op.dense);
    }
    let len = product(&[op.rows, op.n]);
    let params = build.params(&[x, residual]).with(*op);
    build.elements(&SHADER, out, len, params)
}

/// The layer `dense` from `x` (with an optional residual) to `out`, in tiles.
pub(super) fn tiles(
    build: &mut Builder<'_>,
    [x, residual, out]: [Tensor; 3],
    size: Matrix,
    dense: Dense,
) -> Result<(), GpuError> {
    if build.abilities.matrices && matrix::fits([x, residual, out], size, &dense) {
        return matrix::steps(build, [x, residual, out], size, dense);
    }
    let Matrix { rows, x_stride, k, n, residual_shift } = size;
    let params = build.params(&[x, residual, out]);
    let params = params.with(rows).with(build.capacity as u32).with(x_stride).with(k).with(n).with(residual_shift);
    let columns = u64::from(n).div_ceil(TILE_SIZE);
    let params = params.with(dense).constant("ALIGNED", x_stride.is_multiple_of(4));
    build.batch_tiles(&TILE, params, u64::from(rows), TILE_SIZE, columns)
}

#[cfg(test)]
pub(crate) mod tests;
