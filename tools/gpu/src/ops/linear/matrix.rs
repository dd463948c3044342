//! Dense layers on cooperative matrices.

use crate::error::GpuError;
use crate::ops::builder::{Builder, Following};
use crate::step::{Beside, Buffer, Params, Shader, Tensor, matrix_shader};
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

/// Layers of one dispatch.
const JOBS: usize = 4;

/// One size of tile.
struct Tile {
    rows: u32,
    channels: u32,
    shader: Shader,
    /// Time of a row and channel, and that of 64 K of them, both in no unit.
    cost: [u64; 2],
}

/// Channels for which a layer of fewer chooses its tile.
const NOMINAL_CHANNELS: u64 = 512;

/// Processors of a large card.
const PROCESSORS: u64 = 132;

/// A tile of `rows` by `channels` with the module beside, whose workgroups have so many invocations.
macro_rules! tile {
    ($form:literal, [$rows:literal, $channels:literal], $invocations:literal, $cost:expr) => {
        Tile {
            rows: $rows,
            channels: $channels,
            shader: matrix_shader!(
                concat!("linear matrix ", $rows, " x ", $channels, ", ", $form),
                concat!("matrix_", $form, "_", $rows, "x", $channels, ".spv"),
                $invocations
            ),
            cost: $cost,
        }
    };
}

/// The tiles whose outputs have one width.
macro_rules! tiles {
    ($form:literal) => {
        [tile!($form, [64, 64], 256, [60, 14]), tile!($form, [32, 64], 128, [64, 18])]
    };
}

static TILES_I8: [Tile; 2] = tiles!("i8");
static TILES_I16: [Tile; 2] = tiles!("i16");
static TILES_I32: [Tile; 2] = tiles!("i32");

/// Tiles as wide as a row, whose norm follows.
static NORM_TILES: [Tile; 5] = [
    tile!("norm", [64, 192], 192, [155, 9]),
    tile!("norm", [32, 192], 384, [112, 14]),
    tile!("norm", [16, 192], 192, [120, 30]),
    tile!("norm", [64, 64], 256, [112, 14]),
    tile!("norm", [32, 64], 128, [116, 18]),
];

impl Tile {
    /// Time for `rows` by `channels` sums of `k` terms, in no unit: that of the processor with the most tiles.
    fn time(&self, rows: u64, channels: u64, k: u64) -> u64 {
        let tiles = rows.div_ceil(u64::from(self.rows)) * channels.div_ceil(u64::from(self.channels));
        let [once, of_k] = self.cost;
        tiles.div_ceil(PROCESSORS) * u64::from(self.rows * self.channels) * (once + of_k * k.div_ceil(64))
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
        WeightFormat::I3 | WeightFormat::I2 => false,
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

/// The norm that follows a layer in its dispatch, for a layer that [`fits`].
fn norm_params(build: &Builder<'_>, out: Tensor, size: Matrix) -> Option<Params> {
    let Following { norm, out: normed, again, .. } = build.following?;
    let Matrix { rows, n, .. } = size;
    let row = normed.row_step(rows, words(normed, n))?;
    let alike =
        |t: Tensor| t == Tensor::ABSENT || (t.row_step(rows, words(t, n)) == Some(row) && t.dtype == normed.dtype);
    let fits = out.dtype == Dtype::I16
        && matches!(normed.dtype, Dtype::I8 | Dtype::I16)
        && (norm.rows, norm.n) == (rows, n)
        && [norm.gamma, norm.beta].iter().all(|blob| blob.offset.is_multiple_of(16))
        && alike(again);
    let params =
        build.params(&[normed, again]).with(row).with(norm.rms).with(norm.eps).with(norm.gamma).with(norm.beta);
    fits.then_some(params)
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
    let mut params = build.params(&[x, residual, out]).with(of_all as u32).with(step(x, x_stride / 4) / 4);
    params = params.with(step(out, words(out, n))).with(residual_row).with(k).with(n).with(residual_shift).with(dense);
    let time = |tile: &&Tile| tile.time(of_all, u64::from(n), u64::from(k));
    // A row in one tile, and not in a third of it.
    let wide = |tile: &&Tile| n <= tile.channels && 3 * n > tile.channels;
    let norm = norm_params(build, out, size).zip(NORM_TILES.iter().filter(wide).min_by_key(time));
    let tiles = match out.dtype {
        Dtype::I8 => &TILES_I8,
        Dtype::I16 => &TILES_I16,
        Dtype::I32 => &TILES_I32,
        Dtype::U8 | Dtype::U16 => return Err(build.broken("its outputs are unsigned")),
    };
    let (tile, alone) = match norm {
        Some((norm, tile)) => {
            params = params.followed_by(norm);
            build.absorb_following();
            (Some(tile), true)
        }
        // Layers that may run beside each other must choose alike.
        None => {
            let channels = u64::from(n).max(NOMINAL_CHANNELS);
            (tiles.iter().min_by_key(|tile| tile.time(of_all, channels, u64::from(k))), false)
        }
    };
    let Some(tile) = tile else {
        return Err(build.broken("there is no tile for it"));
    };
    let columns = u64::from(n).div_ceil(u64::from(tile.channels));
    build.batch_tiles(&tile.shader, params, u64::from(rows), u64::from(tile.rows), columns)?;
    if !alone {
        build.beside(Beside { reads: vec![x, residual], writes: out, most: JOBS });
    }
    Ok(())
}
