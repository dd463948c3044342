//! Dense layers on cooperative matrices.

use crate::error::GpuError;
use crate::ops::builder::Builder;
use crate::step::{Buffer, Shader, Tensor, matrix_shader};
use shiftformer::ops::linear::Dense;
use shiftformer::tensor::Dtype;
use shiftformer::weights::WeightFormat;

/// Sizes of a dense layer over one sample.
#[derive(Clone, Copy)]
pub(in crate::ops) struct Matrix {
    /// Rows.
    pub rows: u32,
    /// Bytes between rows of the input.
    pub x_stride: u32,
    /// Length of the sums.
    pub k: u32,
    /// Channels, a multiple of 4.
    pub n: u32,
    /// Right shift of the residual.
    pub residual_shift: u32,
}

/// One size of tile.
struct Tile {
    rows: u32,
    channels: u32,
    shader: Shader,
    /// Time per sum beside the tile of 128 x 128, in percent: smaller ones load more for each.
    cost: u64,
}

static TILES: [Tile; 4] = [
    Tile {
        rows: 128,
        channels: 128,
        shader: matrix_shader!("linear matrix 128 x 128", "matrix_128x128.spv", 256),
        cost: 100,
    },
    Tile {
        rows: 64,
        channels: 192,
        shader: matrix_shader!("linear matrix 64 x 192", "matrix_64x192.spv", 256),
        cost: 105,
    },
    Tile {
        rows: 64,
        channels: 128,
        shader: matrix_shader!("linear matrix 64 x 128", "matrix_64x128.spv", 256),
        cost: 120,
    },
    Tile {
        rows: 64,
        channels: 64,
        shader: matrix_shader!("linear matrix 64 x 64", "matrix_64x64.spv", 256),
        cost: 150,
    },
];

/// Workgroups that a large card runs at a time: two on each of some 130 processors.
const AT_ONCE: u64 = 264;

impl Tile {
    /// Time for `rows` by `channels` sums, in no unit: tiles run in rounds.
    fn time(&self, rows: u64, channels: u64) -> u64 {
        let tiles = rows.div_ceil(u64::from(self.rows)) * channels.div_ceil(u64::from(self.channels));
        tiles.div_ceil(AT_ONCE) * u64::from(self.rows * self.channels) * self.cost
    }
}

/// Rows of 16-byte words in one matrix over all samples, whole groups of channels, and operands where 16-byte words start.
pub(super) fn fits([x, residual, out]: [Tensor; 3], size: Matrix, dense: &Dense) -> bool {
    let Matrix { rows, x_stride, n, .. } = size;
    let bytes = [dense.weights.offset, dense.bias.offset, x_stride];
    let multipliers = if out.dtype == Dtype::I32 { 0 } else { dense.multipliers.offset };
    let residual_fits = residual == Tensor::ABSENT || residual.row_step(rows, n / 2).is_some();
    // The formats that `weights.glsl` reads.
    let readable = match dense.format {
        WeightFormat::I8 | WeightFormat::I4 => true,
    };
    readable
        && bytes.iter().chain([&multipliers]).all(|b| b.is_multiple_of(16))
        && n.is_multiple_of(8)
        && matches!(out.dtype, Dtype::I8 | Dtype::I16 | Dtype::I32)
        && x.row_step(rows, x_stride / 4).is_some()
        && out.row_step(rows, words(out, n)).is_some()
        && residual_fits
}

/// Words of `n` elements.
fn words(t: Tensor, n: u32) -> u32 {
    n * t.dtype.bytes() as u32 / 4
}

/// The layer, for operands that [`fits`] has seen.
pub(super) fn steps(
    build: &mut Builder<'_>,
    [x, residual, out]: [Tensor; 3],
    size: Matrix,
    dense: Dense,
) -> Result<(), GpuError> {
    let Matrix { rows, x_stride, k, n, residual_shift } = size;
    let of_all = u64::from(rows) * build.capacity;
    let step = |t: Tensor, words| t.row_step(rows, words).unwrap_or(0);
    let residual_row = if residual.buffer == Buffer::Absent { 0 } else { step(residual, n / 2) };
    let params = build.params(&[x, residual, out]).with(of_all as u32).with(step(x, x_stride / 4) / 4);
    let params =
        params.with(step(out, words(out, n))).with(residual_row).with(k).with(n).with(residual_shift).with(dense);
    let time = |tile: &&Tile| tile.time(of_all, u64::from(n));
    let Some(tile) = TILES.iter().min_by_key(time) else {
        return Err(build.broken("there is no tile for it"));
    };
    let columns = u64::from(n).div_ceil(u64::from(tile.channels));
    build.batch_tiles(&tile.shader, params, u64::from(rows), u64::from(tile.rows), columns)
}
