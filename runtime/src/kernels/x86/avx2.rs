//! AVX2, and the 256-bit form of VNNI: dense layers over the weights as they lie, two panels of four channels at a time.
//!
//! - [`madd_tile`]: both factors widened to `i16`, `vpmaddwd` and an addition: exact. 2 rows x 4 channels: 8 accumulators,
//!   2 activations, 1 weight. Per 16 of K: 8 `vpmaddwd`, 8 additions and 6 widening loads for 128 MACs (a third row
//!   spills).
//! - [`vnni_tiles`]: `vpdpbusd` with the weight plus 128 as the unsigned factor, as in [`super::avx512::linear`]. 4 rows x
//!   2 vectors of 2 channels, and a third that sums the activations: 12 accumulators, 2 weights, 1 activation. Per 16 of
//!   K: 12 `vpdpbusd`, 2 loads and 4 broadcasts for 256 MACs.
//!
//! Rows are not rearranged and nothing is kept between panels: the sums of a tile go through a small buffer to one
//! epilogue.

pub mod dots;
pub mod lut;
#[cfg(feature = "std")]
pub mod packed;
pub mod windows;

use crate::kernels::{GROUP, Kernels, LinearJob, LinearOut, PANEL, WeightFormat, WideJob, portable};
use core::arch::x86_64::*;

/// Panels of a tile; their channels fill a vector of sums.
const PANELS: usize = 2;
/// Channels of a tile, and lanes of `i32`.
const LANES: usize = PANELS * PANEL;
/// Maximum number of rows of a tile.
const MAX_ROWS: usize = 4;

/// One panel and some rows.
#[derive(Clone, Copy)]
pub struct Tile {
    /// The packed panel.
    panel: *const u8,
    /// Bits of a weight.
    format: WeightFormat,
    /// The first row.
    x: *const i8,
    /// Elements between rows.
    stride: usize,
    /// Elements of a row.
    k: usize,
    /// `[rows][LANES]`, of which this panel fills four.
    out: *mut i32,
}

/// A way to compute tiles.
#[derive(Clone, Copy)]
pub struct Tiles {
    /// Rows at a time, at most [`MAX_ROWS`].
    rows: usize,
    /// Whether many rows are faster by `packed`, which has scratch memory of its own.
    #[cfg(feature = "std")]
    packs: bool,
    /// Computes the sums of up to `rows` rows. The processor must have what it needs; the pointers of the tile must be
    /// valid for what its fields say.
    sums: unsafe fn(usize, Tile),
}

/// Tiles by `vpmaddwd`.
pub const MADD: Tiles = Tiles {
    rows: 2,
    #[cfg(feature = "std")]
    packs: true,
    sums: madd_tile,
};

/// The output, with room for every row and channel of the job.
#[derive(Clone, Copy)]
pub enum Sink {
    I8(*mut i8),
    I16(*mut i16),
    Residual(*mut i16, u32),
    Acc(*mut i32),
}

/// [`crate::kernels::Kernels::linear`].
///
/// # Safety
/// The processor must have what `tiles` needs.
#[target_feature(enable = "avx2")]
pub unsafe fn linear(job: &LinearJob<'_>, x: &[i8], out: LinearOut<'_>, _scratch: &mut [u8], tiles: Tiles) {
    // SAFETY: the caller's contract; the sink has the elements of `out`.
    requantized(job, out, |len, sink| unsafe { dense(job, x, len, sink, tiles) });
}

/// [`crate::kernels::Kernels::linear_wide`] of the level `B`: the layer at once, or few rows by the halves of their activations.
#[inline]
#[target_feature(enable = "avx2")]
pub fn linear_wide<B: Kernels>(job: &WideJob<'_>, x: &[i16], out: LinearOut<'_>, scratch: &mut [u8]) {
    #[cfg(feature = "std")]
    if job.dense.rows >= packed::PACK_FROM {
        let activations = packed::Activations::wide(job, x);
        // SAFETY: the sink has the elements of `out`.
        return requantized(&job.dense, out, |len, sink| unsafe { packed::dense(&job.dense, activations, len, sink) });
    }
    portable::linear_wide::<B>(job, x, out, scratch);
}

/// Has `layer` write the elements of `out`, which returns the rows and channels written; then looks them up in its table.
fn requantized(job: &LinearJob<'_>, out: LinearOut<'_>, layer: impl FnOnce(usize, Sink) -> (usize, usize)) {
    let (len, sink, lut) = match out {
        LinearOut::I8 { out, lut } => (out.len(), Sink::I8(out.as_mut_ptr()), lut.map(|lut| (out, lut))),
        LinearOut::I16 { out } => (out.len(), Sink::I16(out.as_mut_ptr()), None),
        LinearOut::I16Residual { out, residual_shift } => {
            (out.len(), Sink::Residual(out.as_mut_ptr(), residual_shift), None)
        }
    };
    let (rows, n) = layer(len, sink);
    if let Some((out, lut)) = lut {
        for row in out.chunks_mut(job.out_stride.max(1)).take(rows) {
            portable::lut_in_place(row.get_mut(..n).unwrap_or(&mut []), lut);
        }
    }
}

/// [`crate::kernels::Kernels::linear_acc`].
///
/// # Safety
/// The processor must have what `tiles` needs.
#[target_feature(enable = "avx2")]
pub unsafe fn linear_acc(job: &LinearJob<'_>, x: &[i8], out: &mut [i32], _scratch: &mut [u8], tiles: Tiles) {
    // SAFETY: the caller's contract.
    unsafe { dense(job, x, out.len(), Sink::Acc(out.as_mut_ptr()), tiles) };
}

/// Fills `len` elements at `sink`; returns the rows and channels written.
///
/// # Safety
/// The processor must have what `tiles` needs, the sink `len` elements.
#[target_feature(enable = "avx2")]
unsafe fn dense(job: &LinearJob<'_>, x: &[i8], len: usize, sink: Sink, tiles: Tiles) -> (usize, usize) {
    #[cfg(feature = "std")]
    if tiles.packs && job.rows >= packed::PACK_FROM {
        // SAFETY: the caller's contract.
        return unsafe { packed::dense(job, packed::Activations::I8(x), len, sink) };
    }
    let (rows, n) = job.fit(x.len(), len);
    let panel_bytes = job.weights.format.panel_bytes(job.k);
    let mut sums = [0i32; MAX_ROWS * LANES];
    // Panels of a pair that do not exist leave their sums alone, and no lane of them is stored.
    for channel in (0..n).step_by(LANES) {
        let scale = Scale::new(job, channel, n);
        for row in (0..rows).step_by(tiles.rows) {
            let count = (rows - row).min(tiles.rows);
            // SAFETY: `fit` counts only rows and channels that `x`, the output and the weights hold.
            unsafe {
                for (half, first) in (channel..n).step_by(PANEL).take(PANELS).enumerate() {
                    let panel = job.weights.bytes.as_ptr().add(first / PANEL * panel_bytes);
                    let x = x.as_ptr().add(row * job.x_stride);
                    let out = sums.as_mut_ptr().add(half * PANEL);
                    let tile = Tile { panel, format: job.weights.format, x, stride: job.x_stride, k: job.k, out };
                    (tiles.sums)(count, tile);
                }
                for (row, sums) in (row..row + count).zip(sums.as_chunks::<LANES>().0) {
                    let acc = _mm256_loadu_si256(sums.as_ptr().cast());
                    scale.store(scale.with_bias(acc), sink, row * job.out_stride + channel, (n - channel).min(LANES));
                }
            }
        }
    }
    (rows, n)
}

/// The first eight values, zeros where there are fewer.
#[inline]
#[target_feature(enable = "avx2")]
fn lanes(values: &[i32]) -> __m256i {
    let mut lanes = [0i32; LANES];
    lanes.iter_mut().zip(values).for_each(|(lane, &value)| *lane = value);
    // SAFETY: eight values.
    unsafe { _mm256_loadu_si256(lanes.as_ptr().cast()) }
}

/// Requantization of eight channels.
struct Scale {
    bias: __m256i,
    multipliers: Multiplier,
    acc_shift: __m128i,
    zero_point: __m256i,
}

impl Scale {
    #[target_feature(enable = "avx2")]
    fn new(job: &LinearJob<'_>, channel: usize, n: usize) -> Self {
        let of = |values: &[i32]| lanes(values.get(channel..n).unwrap_or(&[]));
        Self {
            bias: of(job.bias),
            multipliers: Multiplier::new(of(job.multipliers)),
            acc_shift: _mm_cvtsi32_si128(job.acc_shift as i32),
            zero_point: _mm256_set1_epi32(job.zero_point),
        }
    }

    /// Sums with their biases.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn with_bias(&self, acc: __m256i) -> __m256i {
        _mm256_add_epi32(acc, self.bias)
    }

    /// Requantizes accumulators and stores `count` channels at element `at`.
    ///
    /// # Safety
    /// The sink has these elements.
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn store(&self, acc: __m256i, sink: Sink, at: usize, count: usize) {
        let y = || self.multipliers.mulhi_round(_mm256_sll_epi32(acc, self.acc_shift));
        // SAFETY: the caller's contract.
        unsafe {
            match sink {
                Sink::I8(out) => {
                    let y = narrow(_mm256_add_epi32(y(), self.zero_point));
                    store_bytes(_mm_packs_epi16(y, y), out.add(at).cast(), count);
                }
                Sink::I16(out) => store_bytes(narrow(y()), out.add(at).cast(), count * 2),
                Sink::Residual(out, shift) => {
                    let mut residual = [0i16; LANES];
                    core::ptr::copy_nonoverlapping(out.add(at), residual.as_mut_ptr(), count);
                    let residual = _mm256_cvtepi16_epi32(_mm_loadu_si128(residual.as_ptr().cast()));
                    let y = _mm256_add_epi32(y(), rshift_round(residual, shift));
                    store_bytes(narrow(y), out.add(at).cast(), count * 2);
                }
                Sink::Acc(out) => {
                    let mut lanes = [0i32; LANES];
                    _mm256_storeu_si256(lanes.as_mut_ptr().cast(), acc);
                    core::ptr::copy_nonoverlapping(lanes.as_ptr(), out.add(at), count);
                }
            }
        }
    }
}

/// Eight `i32` to `i16`, saturated.
#[inline]
#[target_feature(enable = "avx2")]
fn narrow(x: __m256i) -> __m128i {
    _mm_packs_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256::<1>(x))
}

/// Stores the first `count` bytes, at most 16.
///
/// # Safety
/// There must be room for them.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn store_bytes(x: __m128i, out: *mut u8, count: usize) {
    // SAFETY: the caller's contract.
    unsafe {
        match count {
            16 => _mm_storeu_si128(out.cast(), x),
            8 => _mm_storeu_si64(out, x),
            _ => {
                let mut bytes = [0u8; 16];
                _mm_storeu_si128(bytes.as_mut_ptr().cast(), x);
                core::ptr::copy_nonoverlapping(bytes.as_ptr(), out, count);
            }
        }
    }
}

/// [`crate::arith::requant::rshift_round`].
#[inline]
#[target_feature(enable = "avx2")]
fn rshift_round(x: __m256i, shift: u32) -> __m256i {
    let half = if shift == 0 { 0 } else { 1 << (shift - 1) };
    _mm256_sra_epi32(_mm256_add_epi32(x, _mm256_set1_epi32(half)), _mm_cvtsi32_si128(shift as i32))
}

/// Factors of [`crate::arith::requant::mulhi_round`], for even and odd lanes.
#[derive(Clone, Copy)]
struct Multiplier {
    even: __m256i,
    odd: __m256i,
}

impl Multiplier {
    #[inline]
    #[target_feature(enable = "avx2")]
    fn new(values: __m256i) -> Self {
        Self { even: values, odd: _mm256_srli_epi64::<32>(values) }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn mulhi_round(self, x: __m256i) -> __m256i {
        let half = _mm256_set1_epi64x(1 << 31);
        let even = _mm256_add_epi64(_mm256_mul_epi32(x, self.even), half);
        let odd = _mm256_add_epi64(_mm256_mul_epi32(_mm256_srli_epi64::<32>(x), self.odd), half);
        _mm256_blend_epi32::<0b1010_1010>(_mm256_srli_epi64::<32>(even), odd)
    }
}

/// The last activations of a row whose K is not whole groups, then zeros.
///
/// # Safety
/// The row has `k` elements.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn last_activations(row: *const i8, k: usize) -> __m128i {
    let mut bytes = [0i8; GROUP];
    // SAFETY: the caller's contract; less than a group is left.
    unsafe {
        core::ptr::copy_nonoverlapping(row.add(k / GROUP * GROUP), bytes.as_mut_ptr(), k % GROUP);
        _mm_loadu_si128(bytes.as_ptr().cast())
    }
}

/// Calls `$tile::<rows, bits>(tile)` with rows and bits as constants.
macro_rules! with_constants {
    ($rows:expr, $tile:expr, $function:ident, $($count:literal),*) => {
        match $tile.format {
            WeightFormat::I8 => match $rows {
                $($count => $function::<$count, 8>($tile),)*
                _ => {}
            },
            WeightFormat::I4 => match $rows {
                $($count => $function::<$count, 4>($tile),)*
                _ => {}
            },
            WeightFormat::I3 => match $rows {
                $($count => $function::<$count, 3>($tile),)*
                _ => {}
            },
            WeightFormat::I2 => match $rows {
                $($count => $function::<$count, 2>($tile),)*
                _ => {}
            },
        }
    };
}

/// See [`Tiles::sums`].
///
/// # Safety
/// See [`Tiles::sums`].
#[target_feature(enable = "avx2")]
unsafe fn madd_tile(rows: usize, tile: Tile) {
    // SAFETY: the caller's contract.
    unsafe { with_constants!(rows, tile, madd_rows, 1, 2) }
}

/// # Safety
/// As [`madd_tile`], for `R` rows of `BITS`-bit weights.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn madd_rows<const R: usize, const BITS: u32>(tile: Tile) {
    let mut acc = [[_mm256_setzero_si256(); PANEL]; R];
    // SAFETY: the caller's contract.
    unsafe {
        for group in 0..tile.k / GROUP {
            let mut x = [_mm256_setzero_si256(); R];
            for (r, x) in x.iter_mut().enumerate() {
                *x = _mm256_cvtepi8_epi16(_mm_loadu_si128(tile.x.add(r * tile.stride + group * GROUP).cast()));
            }
            madd_group::<R, BITS>(tile, group, x, &mut acc);
        }
        if !tile.k.is_multiple_of(GROUP) {
            let group = tile.k / GROUP;
            let mut x = [_mm256_setzero_si256(); R];
            for (r, x) in x.iter_mut().enumerate() {
                *x = _mm256_cvtepi8_epi16(last_activations(tile.x.add(r * tile.stride), tile.k));
            }
            madd_group::<R, BITS>(tile, group, x, &mut acc);
        }
        for (r, &[a, b, c, d]) in acc.iter().enumerate() {
            let sums = _mm256_hadd_epi32(_mm256_hadd_epi32(a, b), _mm256_hadd_epi32(c, d));
            let sums = _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256::<1>(sums));
            _mm_storeu_si128(tile.out.add(r * LANES).cast(), sums);
        }
    }
}

/// Adds the products of one group of four channels.
///
/// # Safety
/// The panel has the group.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn madd_group<const R: usize, const BITS: u32>(
    tile: Tile,
    group: usize,
    x: [__m256i; R],
    acc: &mut [[__m256i; PANEL]; R],
) {
    for channel in 0..PANEL {
        // SAFETY: the caller's contract.
        let w = _mm256_cvtepi8_epi16(unsafe { channel_weights::<BITS>(tile, group * PANEL + channel) });
        for (acc, &x) in acc.iter_mut().zip(&x) {
            acc[channel] = _mm256_add_epi32(acc[channel], _mm256_madd_epi16(x, w));
        }
    }
}

/// Of the sixteen weights number `index` of a panel, of 2 or 3 bits: the word of the lower two bits, to be shifted by
/// `2 j` for weights `4 j ..`, and that of the signs of 3 bits at bit 2 of each byte, to be shifted by `j`.
///
/// # Safety
/// The panel must have them.
#[inline(always)]
unsafe fn few_bits<const BITS: u32>(tile: Tile, index: usize) -> [i32; 2] {
    // SAFETY: the caller's contract; a group of one channel has two bytes per bit.
    unsafe {
        let group = tile.panel.add(index * 2 * BITS as usize);
        let low = group.cast::<i32>().read_unaligned();
        if BITS == 2 {
            return [low, 0];
        }
        let halves = i32::from(*group.add(4)) | i32::from(*group.add(5)) << 16;
        [low, (halves | halves << 4) << 2]
    }
}

/// The sixteen weights number `index` of a panel, one channel of one group.
///
/// # Safety
/// The panel must have them.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn channel_weights<const BITS: u32>(tile: Tile, index: usize) -> __m128i {
    // SAFETY: the caller's contract.
    unsafe {
        if BITS == 8 {
            return _mm_loadu_si128(tile.panel.add(index * GROUP).cast());
        }
        if BITS < 4 {
            let [low, signs] = few_bits::<BITS>(tile, index).map(|word| _mm_set1_epi32(word));
            let half = _mm_set1_epi8(1 << (BITS - 1));
            let low = _mm_and_si128(_mm_srlv_epi32(low, _mm_set_epi32(6, 4, 2, 0)), _mm_set1_epi8(3));
            let unsigned = match BITS {
                3 => _mm_or_si128(low, _mm_and_si128(_mm_srlv_epi32(signs, _mm_set_epi32(3, 2, 1, 0)), half)),
                _ => low,
            };
            return _mm_sub_epi8(_mm_xor_si128(unsigned, half), half);
        }
        let nibbles = _mm_loadu_si64(tile.panel.add(index * GROUP / 2));
        let unsigned = _mm_and_si128(_mm_unpacklo_epi64(nibbles, _mm_srli_epi64::<4>(nibbles)), _mm_set1_epi8(15));
        // (n ^ 8) - 8 is the signed nibble.
        _mm_sub_epi8(_mm_xor_si128(unsigned, _mm_set1_epi8(8)), _mm_set1_epi8(8))
    }
}

/// The weights of two channels of one group plus 128: number `index` of the pairs of a panel.
///
/// # Safety
/// The panel must have them.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn pair_weights<const BITS: u32>(tile: Tile, index: usize) -> __m256i {
    // SAFETY: the caller's contract.
    unsafe {
        if BITS == 8 {
            let w = _mm256_loadu_si256(tile.panel.add(index * 2 * GROUP).cast());
            return _mm256_xor_si256(w, _mm256_set1_epi8(i8::MIN));
        }
        if BITS < 4 {
            let ([low, signs], [next_low, next_signs]) =
                (few_bits::<BITS>(tile, 2 * index), few_bits::<BITS>(tile, 2 * index + 1));
            let pair = |a: i32, b: i32| _mm256_set_epi32(b, b, b, b, a, a, a, a);
            let half = _mm256_set1_epi8(1 << (BITS - 1));
            let shifted = _mm256_srlv_epi32(pair(low, next_low), _mm256_set_epi32(6, 4, 2, 0, 6, 4, 2, 0));
            let low = _mm256_and_si256(shifted, _mm256_set1_epi8(3));
            let unsigned = match BITS {
                3 => {
                    let shifts = _mm256_set_epi32(3, 2, 1, 0, 3, 2, 1, 0);
                    let signs = _mm256_srlv_epi32(pair(signs, next_signs), shifts);
                    _mm256_or_si256(low, _mm256_and_si256(signs, half))
                }
                _ => low,
            };
            return _mm256_add_epi8(
                _mm256_xor_si256(unsigned, half),
                _mm256_set1_epi8((128 - (1 << (BITS - 1))) as i8),
            );
        }
        let nibbles = _mm256_castsi128_si256(_mm_loadu_si128(tile.panel.add(index * GROUP).cast()));
        let twice = _mm256_permute4x64_epi64::<0b01_01_00_00>(nibbles);
        let shifted = _mm256_srlv_epi64(twice, _mm256_set_epi64x(4, 0, 4, 0));
        let unsigned = _mm256_and_si256(shifted, _mm256_set1_epi8(15));
        _mm256_add_epi8(_mm256_xor_si256(unsigned, _mm256_set1_epi8(8)), _mm256_set1_epi8(120))
    }
}

/// Tiles by a 256-bit `vpdpbusd`: the instruction has one encoding in AVX-VNNI and another in AVX-512.
macro_rules! vnni_tiles {
    ($features:literal, $dot:ident) => {
        use super::*;

        /// Tiles by `vpdpbusd`.
        pub const VNNI: Tiles = Tiles {
            rows: 4,
            #[cfg(feature = "std")]
            packs: false,
            sums,
        };

        /// See [`Tiles::sums`].
        ///
        /// # Safety
        /// See [`Tiles::sums`].
        #[target_feature(enable = $features)]
        unsafe fn sums(rows: usize, tile: Tile) {
            // SAFETY: the caller's contract.
            unsafe { with_constants!(rows, tile, vnni_rows, 1, 2, 3, 4) }
        }

        /// # Safety
        /// As [`sums`], for `R` rows of `BITS`-bit weights.
        #[inline]
        #[target_feature(enable = $features)]
        unsafe fn vnni_rows<const R: usize, const BITS: u32>(tile: Tile) {
            // The last vector sums the activations themselves.
            let mut acc = [[_mm256_setzero_si256(); 3]; R];
            // SAFETY: the caller's contract.
            unsafe {
                for group in 0..tile.k / GROUP {
                    let mut x = [_mm_setzero_si128(); R];
                    for (r, x) in x.iter_mut().enumerate() {
                        *x = _mm_loadu_si128(tile.x.add(r * tile.stride + group * GROUP).cast());
                    }
                    vnni_group::<R, BITS>(tile, group, x, &mut acc);
                }
                if !tile.k.is_multiple_of(GROUP) {
                    let mut x = [_mm_setzero_si128(); R];
                    for (r, x) in x.iter_mut().enumerate() {
                        *x = last_activations(tile.x.add(r * tile.stride), tile.k);
                    }
                    vnni_group::<R, BITS>(tile, tile.k / GROUP, x, &mut acc);
                }
                for (r, &[ab, cd, x]) in acc.iter().enumerate() {
                    // Lanes: a, c, sum of x, sum of x; and b, d, the same.
                    let sums = _mm256_hadd_epi32(_mm256_hadd_epi32(ab, cd), _mm256_hadd_epi32(x, x));
                    let excess = _mm256_slli_epi32::<7>(_mm256_shuffle_epi32::<0b10_10_10_10>(sums));
                    let sums = _mm256_sub_epi32(sums, excess);
                    let (ac, bd) = (_mm256_castsi256_si128(sums), _mm256_extracti128_si256::<1>(sums));
                    _mm_storeu_si128(tile.out.add(r * LANES).cast(), _mm_unpacklo_epi32(ac, bd));
                }
            }
        }

        /// Adds the products of one group of four channels, and the activations.
        ///
        /// # Safety
        /// The panel has the group.
        #[inline]
        #[target_feature(enable = $features)]
        unsafe fn vnni_group<const R: usize, const BITS: u32>(
            tile: Tile,
            group: usize,
            x: [__m128i; R],
            acc: &mut [[__m256i; 3]; R],
        ) {
            // SAFETY: the caller's contract.
            let w = unsafe { [pair_weights::<BITS>(tile, group * 2), pair_weights::<BITS>(tile, group * 2 + 1)] };
            for (acc, x) in acc.iter_mut().zip(x) {
                let x = _mm256_broadcastsi128_si256(x);
                acc[0] = $dot(acc[0], w[0], x);
                acc[1] = $dot(acc[1], w[1], x);
                acc[2] = $dot(acc[2], _mm256_set1_epi8(1), x);
            }
        }
    };
}

/// AVX-VNNI.
pub mod avx_vnni {
    vnni_tiles!("avx2,avxvnni", _mm256_dpbusd_avx_epi32);
}

/// The same code with the encoding of AVX-512, for tests on processors that have only that.
#[cfg(test)]
pub mod avx512_vnni {
    vnni_tiles!("avx2,avx512vl,avx512vnni", _mm256_dpbusd_epi32);
}
