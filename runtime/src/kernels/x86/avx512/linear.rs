//! Dense layers. The unsigned factor is the weight plus 128 (its sign bit flipped), so that activations can be
//! broadcast from memory as they are. `sum (w + 128) x - 128 sum x` is the exact sum; `128 sum x` is made once per row and the
//! accumulators start from its negative.
//!
//! Two ways to the same sums:
//! - [`packed_tile`], many rows: 32 channels are rearranged to `[k / 4][32][4]` in a buffer on the stack that all rows
//!   then use. 6 rows x 2 vectors: 12 accumulators, 2 weights, 1 broadcast. Per 4 of K: 12 `vpdpbusd`, 2 loads,
//!   6 broadcasts, for 768 MACs; Zen 4 starts one 512-bit `vpdpbusd` a cycle, so 12 cycles.
//! - [`direct_tile`], few rows or K beyond the buffer: a group of 4 channels x 16 K is a whole vector as it lies.
//!   6 rows x 4 panels: 24 accumulators, 4 weights, 1 broadcast, and nine instructions per row and 16 channels at the
//!   end to add up the quarters.

use super::factors::WEIGHTS_UNSIGNED;
use super::{LANES, Multiplier, Rows, TILE_ROWS, lanes, load, packed_tile, row_sum, rshift_round, with_rows};
use crate::kernels::{GROUP, LinearJob, LinearOut, PANEL};
use core::arch::x86_64::*;
use core::mem::MaybeUninit;
use core::ops::Range;

/// Panels whose channels fill a vector of sums.
const PANELS: usize = LANES / PANEL;
/// Bytes of a group of one panel, 8 bits.
const PANEL_GROUP: usize = PANEL * GROUP;
/// Vectors of channels in a packed block.
const VECTORS: usize = 2;
/// Channels in a block of sums.
const BLOCK: usize = VECTORS * LANES;
/// Rearranged weights kept on the stack: 32 channels of K up to 2048.
const PACKED_BYTES: usize = 64 * 1024;
/// Bytes of a cache line.
const LINE: usize = 64;
/// Fewest rows for which rearranging the weights pays.
const PACK_FROM: usize = 12;
/// Rows whose sums are kept at a time.
const ROW_CHUNK: usize = 256;

/// Weights of a block, rearranged: `[k / 4][VECTORS][LANES][4]`.
#[repr(align(64))]
struct Packed(MaybeUninit<[u8; PACKED_BYTES]>);

/// Sums of a tile: `[TILE_ROWS][BLOCK]`.
#[repr(align(64))]
struct Sums([i32; TILE_ROWS * BLOCK]);

/// The output, with room for every row and channel of the job.
#[derive(Clone, Copy)]
enum Sink {
    I8(*mut i8),
    I16(*mut i16),
    Residual(*mut i16, u32),
    Acc(*mut i32),
}

/// [`crate::kernels::Kernels::linear`].
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
pub fn linear(job: &LinearJob<'_>, x: &[i8], out: LinearOut<'_>) {
    let (len, sink, lut) = match out {
        LinearOut::I8 { out, lut } => (out.len(), Sink::I8(out.as_mut_ptr()), lut.map(|lut| (out, lut))),
        LinearOut::I16 { out } => (out.len(), Sink::I16(out.as_mut_ptr()), None),
        LinearOut::I16Residual { out, residual_shift } => {
            (out.len(), Sink::Residual(out.as_mut_ptr(), residual_shift), None)
        }
    };
    let (rows, n) = dense(job, x, len, sink);
    if let Some((out, lut)) = lut {
        for row in out.chunks_mut(job.out_stride.max(1)).take(rows) {
            crate::kernels::x86::lut_in_place(row.get_mut(..n).unwrap_or(&mut []), lut);
        }
    }
}

/// [`crate::kernels::Kernels::linear_acc`].
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
pub fn linear_acc(job: &LinearJob<'_>, x: &[i8], out: &mut [i32]) {
    dense(job, x, out.len(), Sink::Acc(out.as_mut_ptr()));
}

/// Fills `len` elements at `sink`; returns the rows and channels written.
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
fn dense(job: &LinearJob<'_>, x: &[i8], len: usize, sink: Sink) -> (usize, usize) {
    let (rows, n) = job.fit(x.len(), len);
    let all = Rows { first: x.as_ptr(), stride: job.x_stride, k: job.k };
    let dense = Dense { job, n, sink };
    for first in (0..rows).step_by(ROW_CHUNK) {
        let rows = first..(first + ROW_CHUNK).min(rows);
        // SAFETY: `fit` counts only rows and channels that `x`, the output and the weights hold.
        unsafe { dense.chunk(all, rows) };
    }
    (rows, n)
}

/// A dense layer whose slices have been checked.
#[derive(Clone, Copy)]
struct Dense<'a> {
    job: &'a LinearJob<'a>,
    /// Channels to compute.
    n: usize,
    sink: Sink,
}

impl Dense<'_> {
    /// Rows `rows` (at most [`ROW_CHUNK`]) of all channels.
    ///
    /// # Safety
    /// `all` and the sink have these rows, the job's slices have the channels.
    #[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
    unsafe fn chunk(self, all: Rows, rows: Range<usize>) {
        let mut init = [0i32; ROW_CHUNK];
        for (init, row) in init.iter_mut().zip(rows.clone()) {
            // SAFETY: the caller's contract.
            *init = unsafe { row_sum(all.from(row)) }.wrapping_mul(-128);
        }
        let packs = rows.len() >= PACK_FROM && all.k.next_multiple_of(GROUP) * BLOCK <= PACKED_BYTES;
        let mut packed = Packed(MaybeUninit::uninit());
        let mut sums = Sums([0; TILE_ROWS * BLOCK]);
        for channel in (0..self.n).step_by(BLOCK) {
            let vectors = (self.n - channel).div_ceil(LANES).min(VECTORS);
            // SAFETY: the buffer holds `k` rounded up to whole groups for `BLOCK` channels, as tested above; tiles read
            // what `pack` wrote, rows of the chunk, and write `TILE_ROWS * BLOCK` sums at most.
            unsafe {
                if packs {
                    self.pack(channel, vectors, packed.0.as_mut_ptr().cast());
                }
                let tiles = rows.len().div_ceil(TILE_ROWS);
                for (tile, first) in rows.clone().step_by(TILE_ROWS).enumerate() {
                    self.prefetch(channel + BLOCK, tile, tiles);
                    let count = (rows.end - first).min(TILE_ROWS);
                    let init = init.as_ptr().add(tile * TILE_ROWS);
                    let out = sums.0.as_mut_ptr();
                    let x = all.from(first);
                    if packs {
                        let w: *const u8 = packed.0.as_ptr().cast();
                        if vectors == 1 {
                            with_rows!(count, R => packed_tile::<R, 1, WEIGHTS_UNSIGNED>(w, x, init, out, BLOCK));
                        } else {
                            with_rows!(count, R => packed_tile::<R, 2, WEIGHTS_UNSIGNED>(w, x, init, out, BLOCK));
                        }
                    } else {
                        for vector in 0..vectors {
                            let panels = self.panels(channel + vector * LANES);
                            let out = out.add(vector * LANES);
                            if self.job.weights.bits == 8 {
                                with_rows!(count, R => direct_tile::<R, 8>(panels, x, init, out));
                            } else {
                                with_rows!(count, R => direct_tile::<R, 4>(panels, x, init, out));
                            }
                        }
                    }
                    self.finish(out, first..first + count, channel);
                }
            }
        }
    }

    /// Asks for part `part` of `parts` of the weights of the block at `channel`: a model is larger than the second-level
    /// cache, so that weights come from afar once per inference.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
    fn prefetch(self, channel: usize, part: usize, parts: usize) {
        let bytes = self.job.k.div_ceil(GROUP) * PANEL_GROUP * self.job.weights.bits as usize / 8;
        let lines = (bytes * BLOCK / PANEL).div_ceil(LINE);
        let start = self.job.weights.bytes.as_ptr().wrapping_add(channel / PANEL * bytes);
        for line in part * lines / parts..(part + 1) * lines / parts {
            _mm_prefetch::<_MM_HINT_T0>(start.wrapping_add(line * LINE).cast());
        }
    }

    /// The panels of the sixteen channels from `channel`; beyond the last panel, the last one again.
    ///
    /// # Safety
    /// `channel < self.n`.
    unsafe fn panels(self, channel: usize) -> [*const u8; PANELS] {
        let groups = self.job.k.div_ceil(GROUP);
        let bytes = groups * PANEL_GROUP * self.job.weights.bits as usize / 8;
        let first = channel / PANEL;
        let last = (self.n - 1) / PANEL;
        let at = |panel: usize| {
            // SAFETY: `n` counts only channels whose panel is whole.
            unsafe { self.job.weights.bytes.as_ptr().add((first + panel).min(last) * bytes) }
        };
        [at(0), at(1), at(2), at(3)]
    }

    /// Rearranges the weights of `vectors` x 16 channels to `[k / 4][vectors][16][4]`, sign bits flipped.
    ///
    /// # Safety
    /// `channel < self.n`; `to` has room for `vectors * 16` times K rounded up to whole groups, and is aligned to 64.
    #[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
    unsafe fn pack(self, channel: usize, vectors: usize, to: *mut u8) {
        let order = channel_order();
        for vector in 0..vectors {
            // SAFETY: the caller's contract; vectors before the last have channels below `n`.
            let panels = unsafe { self.panels(channel + vector * LANES) };
            for group in 0..self.job.k.div_ceil(GROUP) {
                // SAFETY: a panel has this many groups, the buffer four quads for each.
                unsafe {
                    let [a, b, c, d] = if self.job.weights.bits == 8 {
                        panels.map_group::<8>(group)
                    } else {
                        panels.map_group::<4>(group)
                    };
                    let (ab, cd) = (_mm512_unpacklo_epi32(a, b), _mm512_unpacklo_epi32(c, d));
                    let (ab_high, cd_high) = (_mm512_unpackhi_epi32(a, b), _mm512_unpackhi_epi32(c, d));
                    let quads = [
                        _mm512_unpacklo_epi64(ab, cd),
                        _mm512_unpackhi_epi64(ab, cd),
                        _mm512_unpacklo_epi64(ab_high, cd_high),
                        _mm512_unpackhi_epi64(ab_high, cd_high),
                    ];
                    for (quad, bytes) in quads.into_iter().enumerate() {
                        let at = ((group * 4 + quad) * vectors + vector) * 4 * LANES;
                        _mm512_store_si512(to.add(at).cast(), _mm512_permutexvar_epi32(order, bytes));
                    }
                }
            }
        }
    }

    /// Bias, requantization and the store of a tile's sums.
    ///
    /// # Safety
    /// `sums` holds `[rows.len()][BLOCK]`; the sink has these rows, the job's slices the channels below `self.n`.
    #[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
    unsafe fn finish(self, sums: *const i32, rows: Range<usize>, channel: usize) {
        let whole = self.n - channel >= BLOCK;
        // SAFETY: the caller's contract; a whole block of channels is below `n`.
        unsafe {
            match self.sink {
                Sink::I8(out) if whole => self.finish_i8(sums, rows, channel, out),
                Sink::I16(out) if whole => self.finish_i16(sums, rows, channel, out, None),
                Sink::Residual(out, shift) if whole => self.finish_i16(sums, rows, channel, out, Some(shift)),
                _ => self.finish_lanes(sums, rows, channel),
            }
        }
    }

    /// [`finish`](Self::finish) of a whole block in 8 bits: the 64 values of two rows are packed with saturation, ordered
    /// and stored without masks.
    ///
    /// # Safety
    /// As [`finish`](Self::finish), with `BLOCK` channels from `channel`.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
    unsafe fn finish_i8(self, sums: *const i32, rows: Range<usize>, channel: usize, out: *mut i8) {
        let stride = self.job.out_stride;
        // SAFETY: the caller's contract.
        let [low, high] = unsafe { Requantizer::pair(self.job, channel, self.job.zero_point) };
        for index in (0..rows.len()).step_by(2) {
            // SAFETY: the caller's contract; an odd last row is made twice.
            unsafe {
                let next = (index + 1).min(rows.len() - 1);
                let [first, second] = [sums.add(index * BLOCK), sums.add(next * BLOCK)];
                let first = _mm512_packs_epi32(low.apply(first), high.apply(first.add(LANES)));
                let second = _mm512_packs_epi32(low.apply(second), high.apply(second.add(LANES)));
                let bytes = _mm512_permutexvar_epi32(channel_order(), _mm512_packs_epi16(first, second));
                let out = out.add((rows.start + index) * stride + channel);
                _mm256_storeu_si256(out.cast(), _mm512_castsi512_si256(bytes));
                let out = out.add((next - index) * stride);
                _mm256_storeu_si256(out.cast(), _mm512_extracti64x4_epi64::<1>(bytes));
            }
        }
    }

    /// [`finish`](Self::finish) of a whole block in 16 bits, the residual shifted where there is one: the 32 values of a
    /// row are packed with saturation, ordered and stored without masks.
    ///
    /// # Safety
    /// As [`finish`](Self::finish), with `BLOCK` channels from `channel`.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
    unsafe fn finish_i16(
        self,
        sums: *const i32,
        rows: Range<usize>,
        channel: usize,
        out: *mut i16,
        residual: Option<u32>,
    ) {
        let order = _mm512_set_epi64(7, 5, 3, 1, 6, 4, 2, 0);
        // SAFETY: the caller's contract.
        let [low, high] = unsafe { Requantizer::pair(self.job, channel, 0) };
        for (index, row) in rows.enumerate() {
            // SAFETY: the caller's contract.
            unsafe {
                let sums = sums.add(index * BLOCK);
                let out: *mut __m512i = out.add(row * self.job.out_stride + channel).cast();
                let (mut a, mut b) = (low.apply(sums), high.apply(sums.add(LANES)));
                if let Some(shift) = residual {
                    let before = _mm512_loadu_si512(out);
                    let [first, second] = [_mm512_castsi512_si256(before), _mm512_extracti64x4_epi64::<1>(before)];
                    a = _mm512_add_epi32(a, rshift_round(_mm512_cvtepi16_epi32(first), shift));
                    b = _mm512_add_epi32(b, rshift_round(_mm512_cvtepi16_epi32(second), shift));
                }
                _mm512_storeu_si512(out, _mm512_permutexvar_epi64(order, _mm512_packs_epi32(a, b)));
            }
        }
    }

    /// [`finish`](Self::finish) sixteen channels at a time, masked.
    ///
    /// # Safety
    /// As [`finish`](Self::finish).
    #[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
    unsafe fn finish_lanes(self, sums: *const i32, rows: Range<usize>, channel: usize) {
        let job = self.job;
        let acc_shift = _mm_cvtsi32_si128(job.acc_shift as i32);
        let zero_point = _mm512_set1_epi32(job.zero_point);
        for vector in 0..(self.n - channel).div_ceil(LANES).min(VECTORS) {
            let channel = channel + vector * LANES;
            let mask = lanes(self.n - channel);
            // SAFETY: masked lanes are channels below `n`, for which bias, multipliers and output have room.
            unsafe {
                let bias = _mm512_maskz_loadu_epi32(mask, job.bias.as_ptr().add(channel));
                let multiplier = match self.sink {
                    Sink::Acc(_) => _mm512_setzero_si512(),
                    _ => _mm512_maskz_loadu_epi32(mask, job.multipliers.as_ptr().add(channel)),
                };
                let multiplier = Multiplier::new(multiplier);
                for (index, row) in rows.clone().enumerate() {
                    let acc = _mm512_add_epi32(load(sums.add(index * BLOCK + vector * LANES)), bias);
                    let y = multiplier.mulhi_round(_mm512_sll_epi32(acc, acc_shift));
                    let at = row * job.out_stride + channel;
                    match self.sink {
                        Sink::I8(out) => {
                            let y = _mm512_cvtsepi32_epi8(_mm512_add_epi32(y, zero_point));
                            _mm_mask_storeu_epi8(out.add(at), mask, y);
                        }
                        Sink::Acc(out) => _mm512_mask_storeu_epi32(out.add(at), mask, acc),
                        Sink::I16(out) => _mm256_mask_storeu_epi16(out.add(at), mask, _mm512_cvtsepi32_epi16(y)),
                        Sink::Residual(out, shift) => {
                            let residual = _mm512_cvtepi16_epi32(_mm256_maskz_loadu_epi16(mask, out.add(at)));
                            let y = _mm512_add_epi32(y, rshift_round(residual, shift));
                            _mm256_mask_storeu_epi16(out.add(at), mask, _mm512_cvtsepi32_epi16(y));
                        }
                    }
                }
            }
        }
    }
}

/// Requantization of sixteen channels.
#[derive(Clone, Copy)]
struct Requantizer {
    bias: __m512i,
    multiplier: Multiplier,
    acc_shift: __m128i,
    /// Half a step and the zero point, in the words of the products.
    addend: __m512i,
}

impl Requantizer {
    /// Those of the block of channels at `channel`.
    ///
    /// # Safety
    /// The job has bias and multipliers of the block.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
    unsafe fn pair(job: &LinearJob<'_>, channel: usize, zero_point: i32) -> [Self; VECTORS] {
        // SAFETY: the caller's contract.
        unsafe { [Self::new(job, channel, zero_point), Self::new(job, channel + LANES, zero_point)] }
    }

    /// # Safety
    /// The job has bias and multipliers of sixteen channels from `channel`.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
    unsafe fn new(job: &LinearJob<'_>, channel: usize, zero_point: i32) -> Self {
        // SAFETY: the caller's contract.
        let (bias, multipliers) =
            unsafe { (load(job.bias.as_ptr().add(channel)), load(job.multipliers.as_ptr().add(channel))) };
        Self {
            bias,
            multiplier: Multiplier::new(multipliers),
            acc_shift: _mm_cvtsi32_si128(job.acc_shift as i32),
            addend: _mm512_set1_epi64((i64::from(zero_point) << 32) + (1 << 31)),
        }
    }

    /// Values of sixteen sums, not yet saturated.
    ///
    /// # Safety
    /// There are sixteen sums.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
    unsafe fn apply(&self, sums: *const i32) -> __m512i {
        // SAFETY: the caller's contract.
        let acc = _mm512_add_epi32(unsafe { load(sums) }, self.bias);
        self.multiplier.mulhi_add(_mm512_sll_epi32(acc, self.acc_shift), self.addend)
    }
}

trait Panels {
    /// Group `group` of each panel as `w + 128`.
    ///
    /// # Safety
    /// The panels have this group.
    unsafe fn map_group<const BITS: u32>(self, group: usize) -> [__m512i; PANELS];
}

impl Panels for [*const u8; PANELS] {
    #[inline(always)]
    unsafe fn map_group<const BITS: u32>(self, group: usize) -> [__m512i; PANELS] {
        let [a, b, c, d] = self;
        // SAFETY: the caller's contract.
        unsafe {
            [
                panel_group::<BITS>(a, group),
                panel_group::<BITS>(b, group),
                panel_group::<BITS>(c, group),
                panel_group::<BITS>(d, group),
            ]
        }
    }
}

/// A group of a panel: `[4 channels][16]` of `w + 128`.
///
/// # Safety
/// The panel has this group.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
unsafe fn panel_group<const BITS: u32>(panel: *const u8, group: usize) -> __m512i {
    if BITS == 8 {
        // SAFETY: the caller's contract.
        let w = unsafe { _mm512_loadu_si512(panel.add(group * PANEL_GROUP).cast()) };
        return _mm512_xor_si512(w, super::sign_bits());
    }
    // SAFETY: the caller's contract.
    let nibbles = unsafe { _mm256_loadu_si256(panel.add(group * PANEL_GROUP / 2).cast()) };
    // Each channel's 8 bytes twice, the second copy shifted to its high nibbles.
    let twice = _mm512_permutexvar_epi64(_mm512_set_epi64(3, 3, 2, 2, 1, 1, 0, 0), _mm512_castsi256_si512(nibbles));
    let shifted = _mm512_srlv_epi64(twice, _mm512_set_epi64(4, 0, 4, 0, 4, 0, 4, 0));
    let unsigned = _mm512_and_si512(shifted, _mm512_set1_epi8(15));
    // (n ^ 8) - 8 is the signed nibble, 128 more is the unsigned factor.
    _mm512_add_epi8(_mm512_xor_si512(unsigned, _mm512_set1_epi8(8)), _mm512_set1_epi8(120))
}

/// `out[r][lane] = init[r] + sum_k (w[lane][k] + 128) * x[r][k]` for the sixteen channels of four panels; rows of `out`
/// are [`BLOCK`] apart.
///
/// # Safety
/// The panels have `ceil(k / 16)` groups of `BITS`-bit weights; `x` has `R` rows, `init` `R` values, `out` `R` rows.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
unsafe fn direct_tile<const R: usize, const BITS: u32>(
    panels: [*const u8; PANELS],
    x: Rows,
    init: *const i32,
    out: *mut i32,
) {
    const FIRST_QUARTERS: __mmask16 = 0x1111;
    let mut acc = [[_mm512_setzero_si512(); PANELS]; R];
    let (groups, tail) = (x.k / GROUP, x.k % GROUP);
    // SAFETY: the caller's contract; the last group reads only `tail` bytes of each row.
    unsafe {
        for (r, acc) in acc.iter_mut().enumerate() {
            *acc = [_mm512_maskz_set1_epi32(FIRST_QUARTERS, *init.add(r)); PANELS];
        }
        for group in 0..groups {
            let weights = panels.map_group::<BITS>(group);
            for (r, acc) in acc.iter_mut().enumerate() {
                let x = _mm512_broadcast_i32x4(_mm_loadu_si128(x.first.add(r * x.stride + group * GROUP).cast()));
                for (acc, &w) in acc.iter_mut().zip(&weights) {
                    *acc = _mm512_dpbusd_epi32(*acc, w, x);
                }
            }
        }
        if tail != 0 {
            let weights = panels.map_group::<BITS>(groups);
            for (r, acc) in acc.iter_mut().enumerate() {
                let bytes = _mm_maskz_loadu_epi8((1 << tail) - 1, x.first.add(r * x.stride + groups * GROUP));
                let x = _mm512_broadcast_i32x4(bytes);
                for (acc, &w) in acc.iter_mut().zip(&weights) {
                    *acc = _mm512_dpbusd_epi32(*acc, w, x);
                }
            }
        }
        for (r, acc) in acc.iter().enumerate() {
            _mm512_storeu_si512(out.add(r * BLOCK).cast(), add_quarters(*acc));
        }
    }
}

/// `[channel * 4 + panel]` to `[panel * 4 + channel]`.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
fn channel_order() -> __m512i {
    _mm512_set_epi32(15, 11, 7, 3, 14, 10, 6, 2, 13, 9, 5, 1, 12, 8, 4, 0)
}

/// Sums of groups of four lanes of four vectors: lane `i` of vector `p` to lane `p * 4 + i / 4`.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
fn add_quarters([a, b, c, d]: [__m512i; PANELS]) -> __m512i {
    let ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    let cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
    let sums = _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
    _mm512_permutexvar_epi32(channel_order(), sums)
}
