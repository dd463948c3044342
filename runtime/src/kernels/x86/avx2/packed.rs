//! Dense layers of many rows, of 8-bit and of 16-bit activations alike.
//!
//! Activations are widened to `i16` once, the weights of 16 channels rearranged to `[k / 2][2 vectors][8 channels][2]` in `i16`:
//! a pair of activations is broadcast, and `vpmaddwd` adds its products to the sums of eight channels, which need not be added up
//! across a vector at the end. 6 rows x 2 vectors: 12 accumulators, 2 weights, 1 pair, 1 product. Per 2 of K: 12 `vpmaddwd`,
//! 12 additions, 2 loads and 6 broadcasts for 192 MACs.
//!
//! A sum of 16-bit activations is `S = sum(x w)`, of a part of K so short that it fits `i32`. With `S = 256 (S >> 8) + (S & 255)` it
//! gives the sums of high and low halves of [`WideJob`], which the parts are added up in: the halves themselves are never made.

use super::{LANES, Scale, Sink, Tile, channel_weights};
use crate::kernels::portable::MAX_VALUE;
use crate::kernels::{GROUP, LinearJob, PANEL, WeightFormat, WideJob, with_scratch};
use core::arch::x86_64::*;
use core::ops::Range;

/// Rows of a tile.
const TILE_ROWS: usize = 6;
/// Vectors of channels of a tile.
const VECTORS: usize = 2;
/// Channels of a tile.
const BLOCK: usize = VECTORS * LANES;
/// Fewest rows for which rearranging the weights pays.
pub const PACK_FROM: usize = 12;
/// Rows that are widened at a time.
const ROW_CHUNK: usize = 252;
/// Activations of 16 bits whose products with 8-bit weights fit `i32`, whatever they are.
const PART: usize = 31 * GROUP;

/// Activations of a layer.
#[derive(Clone, Copy)]
pub enum Activations<'a> {
    /// 8 bits.
    I8(&'a [i8]),
    /// 16 bits, and what joins the sums of their halves.
    I16 { x: &'a [i16], low_bias: &'a [i32], drop: u32 },
}

impl<'a> Activations<'a> {
    /// Those of a wide job.
    pub fn wide(job: &WideJob<'a>, x: &'a [i16]) -> Self {
        Self::I16 { x, low_bias: job.low_bias, drop: job.drop.min(8) }
    }

    /// Rows and channels that these, the slices of the job and an output of `len` elements hold whole.
    fn fit(self, job: &LinearJob<'_>, len: usize) -> (usize, usize) {
        match self {
            Self::I8(x) => job.fit(x.len(), len),
            Self::I16 { x, low_bias, .. } => {
                let (rows, n) = job.fit(x.len(), len);
                (rows, n.min(low_bias.len()))
            }
        }
    }
}

/// Fills `len` elements at `sink`; returns the rows and channels written.
///
/// # Safety
/// The sink has `len` elements.
#[target_feature(enable = "avx2")]
pub unsafe fn dense(job: &LinearJob<'_>, x: Activations<'_>, len: usize, sink: Sink) -> (usize, usize) {
    let (rows, n) = x.fit(job, len);
    let stride = job.k.next_multiple_of(GROUP);
    // Chunks of equal length, of whole tiles.
    let chunk = rows.div_ceil(rows.div_ceil(ROW_CHUNK).max(1)).next_multiple_of(TILE_ROWS);
    let (x_bytes, w_bytes) = (chunk * stride * size_of::<i16>(), stride * BLOCK * size_of::<i16>());
    with_scratch(x_bytes + w_bytes, |scratch| {
        let (wide, packed) = scratch.split_at_mut(x_bytes);
        let (wide, packed) = (wide.as_mut_ptr().cast::<i16>(), packed.as_mut_ptr().cast::<i16>());
        let layer = Layer { job, x, n, sink, wide, packed, stride };
        for first in (0..rows).step_by(chunk.max(TILE_ROWS)) {
            // SAFETY: `fit` counts only rows and channels that the slices hold; the areas have a chunk of rows and a block of
            // channels.
            unsafe { layer.chunk(first..(first + chunk).min(rows)) };
        }
    });
    (rows, n)
}

/// A layer whose slices have been checked.
#[derive(Clone, Copy)]
struct Layer<'a> {
    job: &'a LinearJob<'a>,
    x: Activations<'a>,
    /// Channels to compute.
    n: usize,
    sink: Sink,
    /// Room for the rows of a chunk, `stride` elements each.
    wide: *mut i16,
    /// Room for the weights of a block.
    packed: *mut i16,
    stride: usize,
}

impl Layer<'_> {
    /// # Safety
    /// There are these rows, at most [`ROW_CHUNK`].
    #[target_feature(enable = "avx2")]
    unsafe fn chunk(self, rows: Range<usize>) {
        // SAFETY: the caller's contract; blocks and tiles stay within rows and channels.
        unsafe {
            self.widen(rows.clone());
            for channel in (0..self.n).step_by(BLOCK) {
                let scales: [Scale; VECTORS] =
                    core::array::from_fn(|vector| Scale::new(self.job, channel + vector * LANES, self.n));
                let joins: [Join; VECTORS] = core::array::from_fn(|vector| Join::new(self.x, channel + vector * LANES));
                self.pack(channel);
                for first in (0..rows.len()).step_by(TILE_ROWS) {
                    let count = (rows.len() - first).min(TILE_ROWS);
                    let x = self.wide.add(first * self.stride);
                    let mut sums = [[_mm256_setzero_si256(); VECTORS]; TILE_ROWS];
                    match self.x {
                        Activations::I8(_) => self.tile(count, x, 0..self.stride, &mut sums),
                        Activations::I16 { .. } => self.wide_tile(count, x, &scales, &joins, &mut sums),
                    }
                    for (row, sums) in sums.iter().enumerate().take(count) {
                        let at = (rows.start + first + row) * self.job.out_stride + channel;
                        for (vector, (&acc, scale)) in sums.iter().zip(&scales).enumerate() {
                            let left = (self.n - channel).saturating_sub(vector * LANES).min(LANES);
                            let acc = match self.x {
                                Activations::I8(_) => scale.with_bias(acc),
                                Activations::I16 { .. } => acc,
                            };
                            scale.store(acc, self.sink, at + vector * LANES, left);
                        }
                    }
                }
            }
        }
    }

    /// Sums of 16-bit activations, with their biases.
    ///
    /// # Safety
    /// As for [`tile`](Self::tile).
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn wide_tile(
        self,
        count: usize,
        x: *const i16,
        scales: &[Scale; VECTORS],
        joins: &[Join; VECTORS],
        sums: &mut [[__m256i; VECTORS]; TILE_ROWS],
    ) {
        let zero = [[_mm256_setzero_si256(); VECTORS]; TILE_ROWS];
        let (mut high, mut low) = (zero, zero);
        for first in (0..self.stride).step_by(PART) {
            // SAFETY: the caller's contract.
            unsafe { self.tile(count, x, first..(first + PART).min(self.stride), sums) };
            for row in 0..count {
                for vector in 0..VECTORS {
                    let sum = sums[row][vector];
                    high[row][vector] = _mm256_add_epi32(high[row][vector], _mm256_srai_epi32::<8>(sum));
                    let rest = _mm256_and_si256(sum, _mm256_set1_epi32(0xff));
                    low[row][vector] = _mm256_add_epi32(low[row][vector], rest);
                }
            }
        }
        for row in 0..count {
            for vector in 0..VECTORS {
                let high = scales[vector].with_bias(high[row][vector]);
                sums[row][vector] = joins[vector].join(high, low[row][vector]);
            }
        }
    }

    /// Sums over the elements `part` of K of `count` rows at `x`.
    ///
    /// # Safety
    /// There are these rows, and the packed weights of this part, which is of whole groups.
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn tile(self, count: usize, x: *const i16, part: Range<usize>, sums: &mut [[__m256i; VECTORS]; TILE_ROWS]) {
        // What is beyond K is zero: the last group has as many pairs as are needed.
        let pairs = part.end.min(self.job.k).saturating_sub(part.start).div_ceil(2);
        // SAFETY: the caller's contract.
        unsafe {
            let (x, w) = (x.add(part.start), self.packed.add(part.start * BLOCK));
            match count {
                6 => rows::<6>(x, self.stride, w, pairs, sums),
                5 => rows::<5>(x, self.stride, w, pairs, sums),
                4 => rows::<4>(x, self.stride, w, pairs, sums),
                3 => rows::<3>(x, self.stride, w, pairs, sums),
                2 => rows::<2>(x, self.stride, w, pairs, sums),
                1 => rows::<1>(x, self.stride, w, pairs, sums),
                _ => unreachable!("a tile has 1 to {TILE_ROWS} rows"),
            }
        }
    }

    /// Rows as `i16`, zeros behind them.
    ///
    /// # Safety
    /// As for [`chunk`](Self::chunk).
    #[target_feature(enable = "avx2")]
    unsafe fn widen(self, rows: Range<usize>) {
        let k = self.job.k;
        for (to, row) in rows.enumerate() {
            let first = row * self.job.x_stride;
            // SAFETY: the caller's contract.
            let to = unsafe { core::slice::from_raw_parts_mut(self.wide.add(to * self.stride), self.stride) };
            let (to, rest) = to.split_at_mut(k);
            rest.fill(0);
            match self.x {
                Activations::I8(x) => to.iter_mut().zip(&x[first..]).for_each(|(to, &x)| *to = i16::from(x)),
                Activations::I16 { x, .. } => {
                    to.iter_mut().zip(&x[first..]).for_each(|(to, &x)| *to = x.min(MAX_VALUE));
                }
            }
        }
    }

    /// The weights of the block at `channel`. Channels of panels that do not exist keep what was there: no lane of them is stored.
    ///
    /// # Safety
    /// `packed` has room for a block.
    #[target_feature(enable = "avx2")]
    unsafe fn pack(self, channel: usize) {
        // SAFETY: the caller's contract.
        unsafe {
            match self.job.weights.format {
                WeightFormat::I8 => self.pack_as::<8>(channel),
                WeightFormat::I4 => self.pack_as::<4>(channel),
                WeightFormat::I3 => self.pack_as::<3>(channel),
                WeightFormat::I2 => self.pack_as::<2>(channel),
            }
        }
    }

    /// [`pack`](Self::pack) of weights of `BITS` bits.
    ///
    /// # Safety
    /// As for [`pack`](Self::pack).
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn pack_as<const BITS: u32>(self, channel: usize) {
        let LinearJob { weights, k, .. } = *self.job;
        let panel_bytes = weights.format.panel_bytes(k);
        let groups = self.stride / GROUP;
        for vector in 0..VECTORS {
            let first = channel + vector * LANES;
            if first >= self.n {
                break;
            }
            for group in 0..groups {
                let mut lanes = [_mm256_setzero_si256(); LANES];
                for (half, first) in (first..self.n).step_by(PANEL).take(LANES / PANEL).enumerate() {
                    // SAFETY: `fit` counts only channels whose panel is there.
                    unsafe {
                        let panel = weights.bytes.as_ptr().add(first / PANEL * panel_bytes);
                        let tile = Tile {
                            panel,
                            format: weights.format,
                            x: core::ptr::null(),
                            stride: 0,
                            k,
                            out: core::ptr::null_mut(),
                        };
                        for channel in 0..PANEL {
                            let w = channel_weights::<BITS>(tile, group * PANEL + channel);
                            lanes[half * PANEL + channel] = _mm256_cvtepi8_epi16(w);
                        }
                    }
                }
                for (pair, lanes) in transposed(lanes).into_iter().enumerate() {
                    let at = ((group * LANES + pair) * VECTORS + vector) * GROUP;
                    // SAFETY: the caller's contract.
                    unsafe { _mm256_storeu_si256(self.packed.add(at).cast(), lanes) };
                }
            }
        }
    }
}

/// Rows by the pairs of a part: `sums[row][vector]` of eight channels.
///
/// # Safety
/// There are `R` rows and weights of `pairs` pairs.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn rows<const R: usize>(
    x: *const i16,
    stride: usize,
    w: *const i16,
    pairs: usize,
    sums: &mut [[__m256i; VECTORS]; TILE_ROWS],
) {
    let mut acc = [[_mm256_setzero_si256(); VECTORS]; R];
    // SAFETY: the caller's contract.
    let x: [*const i32; R] = core::array::from_fn(|row| unsafe { x.add(row * stride).cast() });
    for pair in 0..pairs {
        // SAFETY: the caller's contract.
        unsafe {
            let w: [__m256i; VECTORS] =
                core::array::from_fn(|vector| _mm256_loadu_si256(w.add((pair * VECTORS + vector) * GROUP).cast()));
            for (x, acc) in x.iter().zip(&mut acc) {
                let x = _mm256_set1_epi32(x.add(pair).read_unaligned());
                for (acc, w) in acc.iter_mut().zip(w) {
                    *acc = _mm256_add_epi32(*acc, _mm256_madd_epi16(x, w));
                }
            }
        }
    }
    sums.iter_mut().zip(acc).for_each(|(to, from)| *to = from);
}

/// Eight rows of eight `i32`, as columns.
#[inline]
#[target_feature(enable = "avx2")]
fn transposed(rows: [__m256i; LANES]) -> [__m256i; LANES] {
    let [a, b, c, d, e, f, g, h] = rows;
    let pairs = |x, y| (_mm256_unpacklo_epi32(x, y), _mm256_unpackhi_epi32(x, y));
    let ((ab, ab2), (cd, cd2), (ef, ef2), (gh, gh2)) = (pairs(a, b), pairs(c, d), pairs(e, f), pairs(g, h));
    let quads = |x, y| [_mm256_unpacklo_epi64(x, y), _mm256_unpackhi_epi64(x, y)];
    let ([a0, a1], [a2, a3]) = (quads(ab, cd), quads(ab2, cd2));
    let ([b0, b1], [b2, b3]) = (quads(ef, gh), quads(ef2, gh2));
    let low = |x, y| _mm256_permute2x128_si256::<0x20>(x, y);
    let high = |x, y| _mm256_permute2x128_si256::<0x31>(x, y);
    [low(a0, b0), low(a1, b1), low(a2, b2), low(a3, b3), high(a0, b0), high(a1, b1), high(a2, b2), high(a3, b3)]
}

/// How the sums of both halves of eight channels become one, see [`WideJob`].
struct Join {
    low_bias: __m256i,
    up: __m128i,
    down: __m128i,
}

impl Join {
    /// Of the channels from `channel` on; of 8-bit activations nothing that is used.
    #[target_feature(enable = "avx2")]
    fn new(x: Activations<'_>, channel: usize) -> Self {
        let (low_bias, drop) = match x {
            Activations::I8(_) => (&[][..], 0),
            Activations::I16 { low_bias, drop, .. } => (low_bias, drop),
        };
        let shift = |count: u32| _mm_cvtsi32_si128(count as i32);
        Self { low_bias: super::lanes(low_bias.get(channel..).unwrap_or(&[])), up: shift(8 - drop), down: shift(drop) }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn join(&self, high: __m256i, low: __m256i) -> __m256i {
        let low = _mm256_sra_epi32(_mm256_add_epi32(low, self.low_bias), self.down);
        _mm256_add_epi32(_mm256_sll_epi32(high, self.up), low)
    }
}
