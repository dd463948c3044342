//! What the kernels are asked to do: operands with their shapes and strides, and the memory a call may use.

use crate::weights::{GROUP, PANEL, PackedWeights, WeightFormat};

/// A dense layer over some rows: `acc[row][ch] = bias[ch] + sum_k x[row][k] * w[ch][k]`, then requantization.
#[derive(Clone, Copy)]
pub struct LinearJob<'a> {
    /// Rows of `x` and of the output.
    pub rows: usize,
    /// Length of the sum.
    pub k: usize,
    /// Output channels.
    pub n: usize,
    /// Elements between rows of `x`, at least `k`.
    pub x_stride: usize,
    /// Elements between rows of the output, at least `n`.
    pub out_stride: usize,
    /// `[n, k]` weights.
    pub weights: PackedWeights<'a>,
    /// `[n]`, padded to a multiple of [`PANEL`].
    pub bias: &'a [i32],
    /// `[n]`, padded like `bias`; each in `0..2^31`. For raw sums any values do.
    pub multipliers: &'a [i32],
    /// Left shift of the accumulator before the multiplication.
    pub acc_shift: u32,
    /// Added after the multiplication (8-bit output only).
    pub zero_point: i32,
}

impl LinearJob<'_> {
    /// Leaves the channels from `first` on, `count` at most; `first` is a multiple of [`PANEL`]. `None` where it is not there.
    // Out of line: layers in parts alone need it.
    #[cold]
    #[inline(never)]
    pub(crate) fn take_channels(&mut self, first: usize, count: usize) -> Option<()> {
        let panel_bytes = self.weights.format.panel_bytes(self.k);
        self.weights.bytes = self.weights.bytes.get(first / PANEL * panel_bytes..)?;
        self.bias = self.bias.get(first..)?;
        self.multipliers = self.multipliers.get(first..)?;
        self.n = self.n.checked_sub(first)?.min(count);
        Some(())
    }

    /// Rows and channels for which `x`, the output and the weights hold everything: what a kernel may touch.
    pub fn fit(&self, x_len: usize, out_len: usize) -> (usize, usize) {
        let rows = self.rows.min(whole_rows(x_len, self.x_stride, self.k));
        let rows = rows.min(whole_rows(out_len, self.out_stride, self.n));
        let panel_bytes = self.weights.format.panel_bytes(self.k);
        let panels = self.weights.bytes.len().checked_div(panel_bytes).unwrap_or(0);
        let panels = panels.min(self.bias.len() / PANEL).min(self.multipliers.len() / PANEL);
        (rows, self.n.min(panels * PANEL))
    }

    /// Calls `visit` with the number, the weights in the layout of [`WeightFormat::I8`], the biases and the multipliers of the
    /// panels of the first `n` channels. Other formats are unpacked to the start of `scratch`; where it has no room for a panel,
    /// or the job has no more of them, it ends.
    #[allow(dead_code, reason = "of the kernels that a build has, some compute with panels of one layout")]
    #[inline(always)]
    pub(crate) fn each_panel(
        &self,
        n: usize,
        scratch: &mut [u8],
        mut visit: impl FnMut(usize, &[u8], &[i32; PANEL], &[i32; PANEL]),
    ) {
        let format = self.weights.format;
        let channels = self.bias.as_chunks::<PANEL>().0.iter().zip(self.multipliers.as_chunks::<PANEL>().0);
        let panels = self.weights.bytes.chunks_exact(format.panel_bytes(self.k).max(1)).zip(channels);
        for (index, (panel, (bias, multipliers))) in panels.take(n.div_ceil(PANEL)).enumerate() {
            let panel = if format.is_unpacked() {
                panel
            } else {
                let Some(wide) = scratch.get_mut(..WeightFormat::I8.panel_bytes(self.k)) else { return };
                format.unpack(panel, wide);
                wide
            };
            visit(index, panel, bias, multipliers);
        }
    }
}

/// Rows of `width` elements, `stride` apart, in `len` elements.
pub(crate) fn whole_rows(len: usize, stride: usize, width: usize) -> usize {
    if width == 0 || stride < width || len < width { 0 } else { (len - width) / stride + 1 }
}

/// A dense layer over 16-bit activations, by the halves `x = 256 h + l` in `-128..=127`, `x` at most 32639:
/// `acc[row][ch] = ((bias[ch] + sum(h w)) << (8 - drop)) + ((low_bias[ch] + sum(l w)) >> drop)`.
#[derive(Clone, Copy)]
pub struct WideJob<'a> {
    /// Rows, strides in elements, weights, requantization; `bias` is that of the high halves.
    pub dense: LinearJob<'a>,
    /// `[n]`, padded like `bias`.
    pub low_bias: &'a [i32],
    /// Low bits that are left out, 0..=8.
    pub drop: u32,
}

/// Where a dense layer writes, and how the requantized value gets there.
pub enum LinearOut<'a> {
    /// `out = sat8(zero_point + requantized)`, then through `lut` (indexed by value + 128) where there is one.
    I8 {
        /// `[rows, n]` with `out_stride`.
        out: &'a mut [i8],
        /// 256 entries.
        lut: Option<&'a [i8; 256]>,
    },
    /// `out = sat16(requantized)`.
    I16 {
        /// `[rows, n]` with `out_stride`.
        out: &'a mut [i16],
    },
    /// `out = sat16(requantized + rshift_round(out, residual_shift))`: the residual is in `out` on entry.
    I16Residual {
        /// `[rows, n]` with `out_stride`.
        out: &'a mut [i16],
        /// Right shift of the residual, 0..=15.
        residual_shift: u32,
    },
}

impl LinearOut<'_> {
    /// The same rows without the channels before `first`.
    pub(crate) fn channels_from(&mut self, first: usize) -> Option<LinearOut<'_>> {
        Some(match self {
            Self::I8 { out, lut } => LinearOut::I8 { out: out.get_mut(first..)?, lut: *lut },
            Self::I16 { out } => LinearOut::I16 { out: out.get_mut(first..)? },
            Self::I16Residual { out, residual_shift } => {
                LinearOut::I16Residual { out: out.get_mut(first..)?, residual_shift: *residual_shift }
            }
        })
    }
}

/// Dot products of rows with rows: `out[i][j] = sum_k x[i][k] * y[j][k]`.
#[derive(Clone, Copy)]
pub struct DotJob {
    /// Rows of `x`.
    pub rows: usize,
    /// Rows of `y`.
    pub cols: usize,
    /// Length of the sum.
    pub k: usize,
    /// Elements between rows of `x`.
    pub x_stride: usize,
    /// Elements between rows of `y`.
    pub y_stride: usize,
    /// Elements between rows of the output.
    pub out_stride: usize,
}

/// Sums to scores in log2 units with 8 fractional bits: `mulhi_round(acc << acc_shift, multiplier)`.
#[derive(Clone, Copy)]
pub struct ScoreScale {
    /// Left shift before the multiplication; the shifted sum fits `i32`.
    pub acc_shift: u32,
    /// In `0..2^31`.
    pub multiplier: i32,
}

/// Query rows of one head against all its keys: see [`crate::ops::attention`] for the formula.
#[derive(Clone, Copy)]
pub struct AttentionJob<'a> {
    /// `[rows, head_dim]`, rows `q_stride` elements apart.
    pub q: &'a [i8],
    /// `[n_k, head_dim]`, rows `k_stride` apart.
    pub k: &'a [i8],
    /// `[n_k, v_dim]`, rows `v_stride` apart.
    pub v: &'a [i8],
    /// Query rows.
    pub rows: usize,
    /// Keys.
    pub n_k: usize,
    /// Width of a query and of a key.
    pub head_dim: usize,
    /// Width of a value and of an output row.
    pub v_dim: usize,
    /// Elements between rows of `q`.
    pub q_stride: usize,
    /// Elements between rows of `k`.
    pub k_stride: usize,
    /// Elements between rows of `v`.
    pub v_stride: usize,
    /// Elements between rows of the output.
    pub out_stride: usize,
    /// Sums to scores.
    pub scale: ScoreScale,
    /// Added to the scores.
    pub biases: [Option<ScoreBias<'a>>; 2],
    /// 16-bit exponentials instead of 8-bit.
    pub wide_exp: bool,
    /// See [`RowScale::new`](crate::arith::exp::RowScale::new).
    pub ratio_m: u32,
    /// See [`RowScale::new`](crate::arith::exp::RowScale::new).
    pub ratio_shift: u32,
    /// Zero point of the output.
    pub zero_point: i32,
}

/// A bias of scores: that of query row `i` and key `j` is at `i * row + j * column`.
#[derive(Clone, Copy)]
pub struct ScoreBias<'a> {
    /// From the bias of the first query row and key on.
    pub values: &'a [i16],
    /// Elements between query rows; 0 repeats.
    pub row: usize,
    /// Elements between keys; 0 repeats.
    pub column: usize,
}

/// Windows of a run of output pixels in one row, all of which have the same taps inside the image.
///
/// The image begins at the first tap inside of the first window. Channels of an output pixel lie one after the other.
#[derive(Clone, Copy, Debug)]
pub struct Windows {
    /// Output pixels.
    pub pixels: usize,
    /// Channels.
    pub channels: usize,
    /// Rows and columns of a window.
    pub kernel: [usize; 2],
    /// First row and first column inside the image.
    pub first: [usize; 2],
    /// Rows and columns inside the image.
    pub inside: [usize; 2],
    /// Elements of the image between rows, and between columns, of a window.
    pub strides: [usize; 2],
    /// Elements of the image between windows.
    pub pixel_stride: usize,
    /// Elements of the image between channels.
    pub channel_stride: usize,
}

impl Windows {
    /// Taps inside the image: number in the window, row by row, and offset in the image.
    pub fn taps_inside(&self) -> impl Iterator<Item = (usize, usize)> + Clone + use<> {
        let Self { kernel: [_, width], first: [row, column], inside: [rows, columns], strides: [down, right], .. } =
            *self;
        (0..rows).flat_map(move |y| {
            let tap = (row + y) * width + column;
            (0..columns).map(move |x| (tap + x, y.wrapping_mul(down).wrapping_add(x.wrapping_mul(right))))
        })
    }

    /// Numbers of the taps outside.
    pub fn taps_outside(&self) -> impl Iterator<Item = usize> + Clone + use<> {
        let Self { kernel: [height, width], first: [row, column], inside: [rows, columns], .. } = *self;
        (0..height).flat_map(move |y| {
            let inside = row <= y && y - row < rows;
            let all = (0..width).filter(move |&x| !inside || x < column || x - column >= columns);
            all.map(move |x| y * width + x)
        })
    }

    /// Taps of a window.
    pub fn taps(&self) -> usize {
        self.kernel.iter().product()
    }

    /// Pixels that an image of `x_len` and an output of `out_len` elements hold whole: what a kernel may touch. None where
    /// the taps inside are not taps of the window.
    pub fn fit(&self, x_len: usize, out_len: usize) -> usize {
        let Self {
            kernel: [height, width], first: [row, column], inside: [rows, columns], strides: [down, right], ..
        } = *self;
        let has = |extent: usize, first: usize, count: usize| first.checked_add(count).is_some_and(|end| end <= extent);
        if !has(height, row, rows) || !has(width, column, columns) || height.checked_mul(width).is_none() {
            return 0;
        }
        let pixels = self.pixels.min(out_len.checked_div(self.channels).unwrap_or(0));
        if rows == 0 || columns == 0 {
            return pixels;
        }
        let reach = |count: usize, stride: usize| count.saturating_sub(1).saturating_mul(stride);
        let last = reach(rows, down).saturating_add(reach(columns, right));
        let last = last.saturating_add(reach(self.channels, self.channel_stride));
        match x_len.checked_sub(last.saturating_add(1)) {
            Some(spare) => pixels.min(spare.checked_div(self.pixel_stride).map_or(usize::MAX, |n| n.saturating_add(1))),
            None => 0,
        }
    }
}

/// A depthwise convolution: every channel has its own weights.
///
/// `acc[pixel][c] = bias[c] + sum_tap x[pixel][tap][c] * weights[tap][c]`, then requantization.
#[derive(Clone, Copy)]
pub struct DepthwiseJob<'a> {
    /// Where the windows lie.
    pub windows: Windows,
    /// Value of the taps outside the image.
    pub pad_value: i32,
    /// `[taps, channels]`.
    pub weights: &'a [i8],
    /// `[channels]`.
    pub bias: &'a [i32],
    /// `[channels]`, each in `0..2^31`.
    pub multipliers: &'a [i32],
    /// Left shift of the accumulator before the multiplication.
    pub acc_shift: u32,
    /// Added after the multiplication (8-bit output only).
    pub zero_point: i32,
}

impl DepthwiseJob<'_> {
    /// Pixels that all slices hold whole; 0 where the weights do not have every channel of every tap.
    pub fn fit(&self, x_len: usize, out_len: usize) -> usize {
        let channels = self.windows.channels;
        let whole = self.bias.len() >= channels
            && self.multipliers.len() >= channels
            && self.windows.taps().checked_mul(channels).is_some_and(|len| self.weights.len() >= len);
        if whole { self.windows.fit(x_len, out_len) } else { 0 }
    }
}

/// Entries of a table of 16-bit values: the function at `-32768, -32640, .., 32640, 32768`, one more than it has steps.
pub const LUT_I16_ENTRIES: usize = 513;

/// Where a depthwise convolution writes: `[pixels, channels]`.
pub enum DepthwiseOut<'a> {
    /// `out = sat8(zero_point + requantized)`.
    I8(&'a mut [i8]),
    /// `out = sat16(requantized)`.
    I16(&'a mut [i16]),
}

/// The maximum or the mean of the taps inside the image, for every channel.
#[derive(Clone, Copy, Debug)]
pub struct PoolJob {
    /// Where the windows lie.
    pub windows: Windows,
    /// The mean instead of the maximum.
    pub mean: Option<PoolMean>,
}

/// `sat8(zero_point + mulhi_round((sum - taps_inside * zero_in) << acc_shift, multiplier))`.
#[derive(Clone, Copy, Debug)]
pub struct PoolMean {
    /// Zero point of the image.
    pub zero_in: i32,
    /// Left shift of the sum.
    pub acc_shift: u32,
    /// In `0..2^31`.
    pub multiplier: i32,
    /// Zero point of the output.
    pub zero_point: i32,
}

/// Pairs of the elements of heads, turned by the angles of a position; see [`crate::ops::rope::Rope`].
#[derive(Clone, Copy)]
pub struct RotaryJob {
    /// Elements of a head.
    pub head_dim: usize,
    /// Elements of a head that are turned, even.
    pub rotary: usize,
    /// Pairs are neighbours; otherwise half of `rotary` apart.
    pub interleaved: bool,
    /// Sums to values.
    pub scale: ScoreScale,
}

/// Exponentials of one row, in the width the operator asks for.
pub enum ExpRow<'a> {
    /// Largest value 255.
    U8(&'a mut [u8]),
    /// Largest value 32640.
    U16(&'a mut [u16]),
}

/// Row statistics and affine parameters of a normalization.
#[derive(Clone, Copy)]
pub struct NormJob<'a> {
    /// RMSNorm instead of LayerNorm: the mean is not subtracted.
    pub rms: bool,
    /// `eps / s_x^2 * n^2`.
    pub eps: u64,
    /// `[n]`.
    pub gamma: &'a [i32],
    /// `[n]`, half an output step included.
    pub beta: &'a [i32],
}

/// A row of a normalization's input, or several one after the other.
#[derive(Clone, Copy)]
pub enum NormRow<'a> {
    /// 8-bit input.
    I8(&'a [i8]),
    /// 16-bit input.
    I16(&'a [i16]),
}

/// A row of a normalization's output, or several one after the other.
pub enum NormOut<'a> {
    /// 8 fractional bits in `gamma` and `beta`.
    I8(&'a mut [i8]),
    /// 4 fractional bits in `gamma` and `beta`.
    I16(&'a mut [i16]),
}

impl<'a> NormRow<'a> {
    /// Row `row` of rows of `n` elements, if there is one.
    #[inline]
    pub fn row(self, row: usize, n: usize) -> Option<Self> {
        let first = row.checked_mul(n)?;
        Some(match self {
            Self::I8(x) => Self::I8(x.get(first..)?.get(..n)?),
            Self::I16(x) => Self::I16(x.get(first..)?.get(..n)?),
        })
    }
}

impl NormOut<'_> {
    /// Row `row` of rows of `n` elements, if there is one.
    #[inline]
    pub fn row(&mut self, row: usize, n: usize) -> Option<NormOut<'_>> {
        let first = row.checked_mul(n)?;
        Some(match self {
            Self::I8(out) => NormOut::I8(out.get_mut(first..)?.get_mut(..n)?),
            Self::I16(out) => NormOut::I16(out.get_mut(first..)?.get_mut(..n)?),
        })
    }
}

/// Scratch of [`Kernels::linear`](super::Kernels::linear) with 8-bit weights and of the dot products: room to widen
/// [`ROW_BLOCK`] rows of activations to 16 bits.
pub const fn linear_scratch_bytes(k: usize) -> usize {
    ROW_BLOCK * k.next_multiple_of(GROUP) * 2
}

/// Scratch of [`Kernels::linear`](super::Kernels::linear) with weights of this format: where kernels compute with another
/// one, an unpacked panel besides.
pub const fn dense_scratch_bytes(k: usize, format: WeightFormat) -> usize {
    let panel = if format.is_unpacked() { 0 } else { WeightFormat::I8.panel_bytes(k) };
    linear_scratch_bytes(k) + panel
}

/// Scratch of [`Kernels::linear_wide`](super::Kernels::linear_wide) for `rows` rows and `n` channels, before that of the
/// dense layers it is made of: both halves of the rows, and the sums of each.
pub const fn wide_scratch_bytes(rows: usize, n: usize, k: usize) -> usize {
    2 * (rows * k).next_multiple_of(16) + 2 * (rows * n * size_of::<i32>()).next_multiple_of(16)
}

/// Scratch of [`Kernels::attend`](super::Kernels::attend) with up to `n_k` keys: the scores and the exponentials of a row,
/// and the sums of its values, the last area serving the products of queries and keys before.
pub const fn attend_scratch_bytes(n_k: usize, head_dim: usize, v_dim: usize, wide_exp: bool) -> usize {
    let [scores, exps, sums] = attend_scratch(n_k, head_dim, v_dim, wide_exp);
    scores + exps + sums
}

/// The areas of [`attend_scratch_bytes`]; keys are padded so that kernels can work in groups of 16.
pub(crate) const fn attend_scratch(n_k: usize, head_dim: usize, v_dim: usize, wide_exp: bool) -> [usize; 3] {
    let keys = n_k.next_multiple_of(GROUP);
    let (dots, sums) = (linear_scratch_bytes(head_dim), (v_dim * size_of::<i32>()).next_multiple_of(16));
    [keys * size_of::<i32>(), if wide_exp { 2 * keys } else { keys }, if dots > sums { dots } else { sums }]
}

impl AttentionJob<'_> {
    /// Whether queries, keys, values and an output of `out` elements have all rows that [`Kernels::attend`](super::Kernels::attend)
    /// takes.
    #[inline(always)]
    pub(crate) fn fits(&self, out: usize) -> bool {
        whole_rows(self.q.len(), self.q_stride, self.head_dim) >= self.rows
            && whole_rows(self.k.len(), self.k_stride, self.head_dim) >= self.n_k
            && whole_rows(self.v.len(), self.v_stride, self.v_dim) >= self.n_k
            && whole_rows(out, self.out_stride, self.v_dim) >= self.rows
    }
}

/// Rows that blocked kernels take at a time. On Cortex-M4 five accumulators, five activations loaded by one `LDM`, the
/// weights and the pointers are exactly the fourteen registers there are.
pub const ROW_BLOCK: usize = 5;
