//! Dense layers. The unsigned factor is the weight plus 128 (its sign bit flipped), so that activations can be
//! broadcast from memory as they are. `sum (w + 128) x - 128 sum x` is the exact sum; `128 sum x` is made once per row and the
//! accumulators start from its negative.
//!
//! Two ways to the same sums:
//! - [`packed_tile`], many rows: 32 channels are rearranged to `[k / 4][32][4]` in a buffer on the stack that all rows
//!   then use. 6 rows x 2 vectors: 12 accumulators, 2 weights, 1 broadcast. Per 4 of K: 12 `vpdpbusd`, 2 loads,
//!   6 broadcasts, for 768 MACs; Zen 4 starts one 512-bit `vpdpbusd` a cycle, so 12 cycles.
//!   Between its products the sums of the tile before are requantized ([`Dense::whole_tiles`]): 5 instructions for 16 sums
//!   (two products with their loads, two additions, one for their high halves), 5 to pack and store 64. Of 32 registers 12
//!   are accumulators, 3 factors, 9 constants of requantization.
//! - [`direct_tile`], few rows or K beyond the buffer: a group of 4 channels x 16 K is a whole vector as it lies.
//!   6 rows x 4 panels: 24 accumulators, 4 weights, 1 broadcast, and nine instructions per row and 16 channels at the
//!   end to add up the quarters.

use super::factors::WEIGHTS_UNSIGNED;
use super::{LANES, Multiplier, Rows, TILE_ROWS, lanes, load, packed_tile, row_sum, rshift_round, with_rows};
use crate::kernels::{GROUP, LinearJob, LinearOut, PANEL, WeightFormat};
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
/// Parts of a tile between which the sums of the tile before are requantized.
const STEPS: usize = 3;
/// Rows that are requantized at a time.
const STEP_ROWS: usize = TILE_ROWS / STEPS;
/// Rows whose sums are kept at a time.
const ROW_CHUNK: usize = 256;

/// Weights of a block, rearranged: `[k / 4][VECTORS][LANES][4]`.
#[repr(align(64))]
struct Packed(MaybeUninit<[u8; PACKED_BYTES]>);

/// Sums of a tile: `[TILE_ROWS][BLOCK]`, and a word to be read with the last.
#[repr(align(64))]
struct Sums([i32; TILE_ROWS * BLOCK + 1]);

impl Sums {
    const ZERO: Self = Self([0; TILE_ROWS * BLOCK + 1]);
}

/// Some rows by a block of channels whose weights are packed.
struct Block<'b> {
    w: *const u8,
    channel: usize,
    all: Rows,
    rows: Range<usize>,
    /// What the sums of each row start from.
    init: &'b [i32; ROW_CHUNK],
}

impl Block<'_> {
    /// Rows of tile `tile`, and what their sums start from.
    ///
    /// # Safety
    /// There is a tile of that number.
    unsafe fn tile(&self, tile: usize) -> (Rows, *const i32) {
        let first = tile * TILE_ROWS;
        // SAFETY: the caller's contract.
        unsafe { (self.all.from(self.rows.start + first), self.init.as_ptr().add(first)) }
    }
}

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
pub fn linear(job: &LinearJob<'_>, x: &[i8], out: LinearOut<'_>, _scratch: &mut [u8]) {
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
pub fn linear_acc(job: &LinearJob<'_>, x: &[i8], out: &mut [i32], _scratch: &mut [u8]) {
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
        let shifted = self.job.acc_shift != 0;
        // SAFETY: the caller's contract; `packed_blocks` is called where the weights of a block fit the buffer.
        unsafe {
            match self.sink {
                _ if !packs => self.direct_blocks(all, rows, &init),
                Sink::I8(out) if shifted => self.packed_blocks::<_, true>(all, rows, &init, Some(ToI8(out))),
                Sink::I8(out) => self.packed_blocks::<_, false>(all, rows, &init, Some(ToI8(out))),
                Sink::I16(out) if shifted => self.packed_blocks::<_, true>(all, rows, &init, Some(ToI16(out))),
                Sink::I16(out) => self.packed_blocks::<_, false>(all, rows, &init, Some(ToI16(out))),
                Sink::Residual(out, shift) => {
                    let store = Some(ToResidual(out, shift));
                    if shifted {
                        self.packed_blocks::<_, true>(all, rows, &init, store);
                    } else {
                        self.packed_blocks::<_, false>(all, rows, &init, store);
                    }
                }
                Sink::Acc(_) => self.packed_blocks::<ToI8, false>(all, rows, &init, None),
            }
        }
    }

    /// All channels of some rows with [`direct_tile`].
    ///
    /// # Safety
    /// As for [`chunk`](Self::chunk).
    #[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
    unsafe fn direct_blocks(self, all: Rows, rows: Range<usize>, init: &[i32; ROW_CHUNK]) {
        let mut sums = Sums::ZERO;
        let lines = self.lines(rows.len().div_ceil(TILE_ROWS));
        for channel in (0..self.n).step_by(BLOCK) {
            let vectors = (self.n - channel).div_ceil(LANES).min(VECTORS);
            for (tile, first) in rows.clone().step_by(TILE_ROWS).enumerate() {
                let count = (rows.end - first).min(TILE_ROWS);
                // SAFETY: the caller's contract; tiles read rows of the chunk and write `TILE_ROWS * BLOCK` sums at most.
                unsafe {
                    self.prefetch(channel + BLOCK, tile, lines);
                    let (x, init) = (all.from(first), init.as_ptr().add(tile * TILE_ROWS));
                    for vector in 0..vectors {
                        let panels = self.panels(channel + vector * LANES);
                        let out = sums.0.as_mut_ptr().add(vector * LANES);
                        match self.job.weights.format {
                            WeightFormat::I8 => with_rows!(count, R => direct_tile::<R, 8>(panels, x, init, out)),
                            WeightFormat::I4 => with_rows!(count, R => direct_tile::<R, 4>(panels, x, init, out)),
                            WeightFormat::I3 => with_rows!(count, R => direct_tile::<R, 3>(panels, x, init, out)),
                            WeightFormat::I2 => with_rows!(count, R => direct_tile::<R, 2>(panels, x, init, out)),
                        }
                    }
                    self.finish(sums.0.as_ptr(), first..first + count, channel);
                }
            }
        }
    }

    /// All channels of some rows with [`packed_tile`], whole blocks of channels by `store`.
    ///
    /// # Safety
    /// As for [`chunk`](Self::chunk); a block of weights fits [`PACKED_BYTES`].
    #[inline(never)]
    #[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
    unsafe fn packed_blocks<S: Store, const SHIFTED: bool>(
        self,
        all: Rows,
        rows: Range<usize>,
        init: &[i32; ROW_CHUNK],
        store: Option<S>,
    ) {
        let mut packed = Packed(MaybeUninit::uninit());
        let whole_tiles = rows.len() / TILE_ROWS;
        for channel in (0..self.n).step_by(BLOCK) {
            let vectors = (self.n - channel).div_ceil(LANES).min(VECTORS);
            // SAFETY: the caller's contract; the buffer holds the block. Whole blocks have bias and multipliers for all
            // channels.
            unsafe {
                self.pack(channel, vectors, packed.0.as_mut_ptr().cast());
                let block = Block { w: packed.0.as_ptr().cast(), channel, all, rows: rows.clone(), init };
                match store {
                    Some(store) if self.n - channel >= BLOCK => {
                        self.whole_tiles::<S, SHIFTED>(&block, store, whole_tiles);
                        self.tiles::<VECTORS>(&block, whole_tiles);
                    }
                    _ if vectors == VECTORS => self.tiles::<VECTORS>(&block, 0),
                    _ => self.tiles::<1>(&block, 0),
                }
            }
        }
    }

    /// The first `tiles` tiles of a block, which have all rows and channels. The sums of one are requantized and stored
    /// during the products of the next, which leave half of the processor's vector units idle.
    ///
    /// # Safety
    /// As for [`packed_blocks`](Self::packed_blocks); the block has been packed, its rows and channels are there.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
    unsafe fn whole_tiles<S: Store, const SHIFTED: bool>(self, block: &Block<'_>, store: S, tiles: usize) {
        let Self { job, .. } = self;
        let mut sums = [Sums::ZERO; 2];
        let [even, odd] = sums.each_mut().map(|sums| sums.0.as_mut_ptr());
        let sums_of = |tile: usize| if tile.is_multiple_of(2) { even } else { odd };
        let lines = self.lines(block.rows.len().div_ceil(TILE_ROWS));
        // SAFETY: the caller's contract; a tile writes `TILE_ROWS * BLOCK` sums.
        unsafe {
            let requantizers = Requantizer::pair(job, block.channel, S::ZERO_POINT);
            let finish = |tile: usize, step: usize| {
                let row = block.rows.start + tile * TILE_ROWS + step * STEP_ROWS;
                let sums = sums_of(tile).add(step * STEP_ROWS * BLOCK);
                store.rows::<SHIFTED>(&requantizers, sums, row * job.out_stride + block.channel, job.out_stride);
            };
            // A step behind: what a tile has just stored cannot be loaded yet.
            for tile in 0..tiles {
                self.prefetch(block.channel + BLOCK, tile, lines);
                let ((x, init), out) = (block.tile(tile), sums_of(tile));
                let parts = (tile * STEPS).saturating_sub(STEPS);
                let meanwhile = |step| {
                    if tile > 0 && parts + step > 0 {
                        let part = parts + step - 1;
                        finish(part / STEPS, part % STEPS);
                    }
                };
                packed_tile::<TILE_ROWS, VECTORS, WEIGHTS_UNSIGNED, STEPS>(block.w, x, init, out, BLOCK, meanwhile);
            }
            for part in (STEPS * (tiles - 1)).saturating_sub(1)..STEPS * tiles {
                finish(part / STEPS, part % STEPS);
            }
        }
    }

    /// The tiles of a block from tile `from` on, whatever rows and channels they have.
    ///
    /// # Safety
    /// As for [`whole_tiles`](Self::whole_tiles).
    #[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
    unsafe fn tiles<const V: usize>(self, block: &Block<'_>, from: usize) {
        let mut sums = Sums::ZERO;
        let out = sums.0.as_mut_ptr();
        let tiles = block.rows.len().div_ceil(TILE_ROWS);
        let lines = self.lines(tiles);
        for tile in from..tiles {
            self.prefetch(block.channel + BLOCK, tile, lines);
            let first = block.rows.start + tile * TILE_ROWS;
            let count = (block.rows.end - first).min(TILE_ROWS);
            // SAFETY: the caller's contract; a tile writes `TILE_ROWS * BLOCK` sums at most.
            unsafe {
                let (x, init) = block.tile(tile);
                with_rows!(count, R => packed_tile::<R, V, WEIGHTS_UNSIGNED, 1>(block.w, x, init, out, BLOCK, |_| {}));
                self.finish(out, first..first + count, block.channel);
            }
        }
    }

    /// Lines of a block of weights that each of `parts` asks for.
    fn lines(self, parts: usize) -> usize {
        let bytes = self.job.weights.format.panel_bytes(self.job.k);
        (bytes * BLOCK / PANEL).div_ceil(LINE * parts.max(1))
    }

    /// Asks for part `part`, of `lines` lines, of the weights of the block at `channel`: a model is larger than the
    /// second-level cache, so that weights come from afar once per inference.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
    fn prefetch(self, channel: usize, part: usize, lines: usize) {
        let bytes = self.job.weights.format.panel_bytes(self.job.k);
        let start = self.job.weights.bytes.as_ptr().wrapping_add(channel / PANEL * bytes);
        for line in part * lines..(part + 1) * lines {
            _mm_prefetch::<_MM_HINT_T0>(start.wrapping_add(line * LINE).cast());
        }
    }

    /// The panels of the sixteen channels from `channel`; beyond the last panel, the last one again.
    ///
    /// # Safety
    /// `channel < self.n`.
    unsafe fn panels(self, channel: usize) -> [*const u8; PANELS] {
        let bytes = self.job.weights.format.panel_bytes(self.job.k);
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
                    let [a, b, c, d] = match self.job.weights.format {
                        WeightFormat::I8 => panels.map_group::<8>(group),
                        WeightFormat::I4 => panels.map_group::<4>(group),
                        WeightFormat::I3 => panels.map_group::<3>(group),
                        WeightFormat::I2 => panels.map_group::<2>(group),
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

    /// Bias, requantization and the store of a tile's sums, sixteen channels at a time, masked.
    ///
    /// # Safety
    /// `sums` holds `[rows.len()][BLOCK]`; the sink has these rows, the job's slices the channels below `self.n`.
    #[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
    unsafe fn finish(self, sums: *const i32, rows: Range<usize>, channel: usize) {
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
                            super::store_i8(out.add(at), mask, _mm512_add_epi32(y, zero_point));
                        }
                        Sink::Acc(out) => _mm512_mask_storeu_epi32(out.add(at), mask, acc),
                        Sink::I16(out) => super::store_i16(out.add(at), mask, y),
                        Sink::Residual(out, shift) => {
                            let residual = _mm512_cvtepi16_epi32(_mm256_maskz_loadu_epi16(mask, out.add(at)));
                            super::store_i16(out.add(at), mask, _mm512_add_epi32(y, rshift_round(residual, shift)));
                        }
                    }
                }
            }
        }
    }
}

/// Requantization of sixteen channels, bias included: `(sum + bias) * multiplier` is made as
/// `sum * multiplier + bias * multiplier`. K is so small that the sum without its bias fits `i32` as well.
#[derive(Clone, Copy)]
struct Requantizer {
    even: __m512i,
    odd: __m512i,
    /// Bias times multiplier, half a step and the zero point, in the words of the products.
    even_addend: __m512i,
    odd_addend: __m512i,
    /// Left shift of products, and the right shift that is left for their high halves.
    shifts: [__m128i; 2],
}

impl Requantizer {
    /// Those of the block of channels at `channel`.
    ///
    /// # Safety
    /// The job has bias and multipliers of the block.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
    unsafe fn pair(job: &LinearJob<'_>, channel: usize, with_zero_point: bool) -> [Self; VECTORS] {
        let zero_point = if with_zero_point { job.zero_point } else { 0 };
        // SAFETY: the caller's contract.
        unsafe { [Self::new(job, channel, zero_point), Self::new(job, channel + LANES, zero_point)] }
    }

    /// # Safety
    /// The job has bias and multipliers of sixteen channels from `channel`.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
    unsafe fn new(job: &LinearJob<'_>, channel: usize, zero_point: i32) -> Self {
        // SAFETY: the caller's contract.
        let (bias, even) =
            unsafe { (load(job.bias.as_ptr().add(channel)), load(job.multipliers.as_ptr().add(channel))) };
        let odd = _mm512_srli_epi64::<32>(even);
        let rounded = _mm512_set1_epi64(((i64::from(zero_point) << 32) + (1 << 31)) >> job.acc_shift);
        let odd_bias = _mm512_srli_epi64::<32>(bias);
        Self {
            even,
            odd,
            even_addend: _mm512_add_epi64(_mm512_mul_epi32(bias, even), rounded),
            odd_addend: _mm512_add_epi64(_mm512_mul_epi32(odd_bias, odd), rounded),
            shifts: [job.acc_shift as i32, 32 - job.acc_shift as i32].map(|shift| _mm_cvtsi32_si128(shift)),
        }
    }

    /// Values of sixteen sums, not yet saturated. The sums of odd channels are loaded to where those of even ones lie.
    ///
    /// # Safety
    /// There are sixteen sums and a word after them.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
    unsafe fn apply<const SHIFTED: bool>(&self, sums: *const i32) -> __m512i {
        // SAFETY: the caller's contract.
        let (even, odd) = unsafe { (load(sums), load(sums.add(1))) };
        let even = _mm512_add_epi64(_mm512_mul_epi32(even, self.even), self.even_addend);
        let odd = _mm512_add_epi64(_mm512_mul_epi32(odd, self.odd), self.odd_addend);
        if !SHIFTED {
            return Multiplier::high_halves(even, odd);
        }
        let [left, right] = self.shifts;
        _mm512_mask_blend_epi32(0xaaaa, _mm512_srl_epi64(even, right), _mm512_sll_epi64(odd, left))
    }
}

/// Where and how whole blocks of channels are stored.
trait Store: Copy {
    /// Whether the zero point of the job counts.
    const ZERO_POINT: bool;

    /// Requantizes and stores [`STEP_ROWS`] rows of a block, from element `at` of the output on, `stride` elements apart.
    ///
    /// # Safety
    /// `sums` holds `[STEP_ROWS][BLOCK]` and a word more, the output the rows.
    unsafe fn rows<const SHIFTED: bool>(
        self,
        requantizers: &[Requantizer; VECTORS],
        sums: *const i32,
        at: usize,
        stride: usize,
    );
}

#[derive(Clone, Copy)]
struct ToI8(*mut i8);

impl Store for ToI8 {
    const ZERO_POINT: bool = true;

    /// The 64 values of two rows are packed with saturation, ordered and stored.
    #[inline(always)]
    unsafe fn rows<const SHIFTED: bool>(
        self,
        [low, high]: &[Requantizer; VECTORS],
        sums: *const i32,
        at: usize,
        stride: usize,
    ) {
        // SAFETY: the caller's contract.
        unsafe {
            let next = sums.add(BLOCK);
            let first = _mm512_packs_epi32(low.apply::<SHIFTED>(sums), high.apply::<SHIFTED>(sums.add(LANES)));
            let second = _mm512_packs_epi32(low.apply::<SHIFTED>(next), high.apply::<SHIFTED>(next.add(LANES)));
            let bytes = _mm512_permutexvar_epi32(channel_order(), _mm512_packs_epi16(first, second));
            let out = self.0.add(at);
            _mm256_storeu_si256(out.cast(), _mm512_castsi512_si256(bytes));
            _mm256_storeu_si256(out.add(stride).cast(), _mm512_extracti64x4_epi64::<1>(bytes));
        }
    }
}

/// The 32 values of a row of 16 bits, packed with saturation and ordered.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
fn packed_i16(low: __m512i, high: __m512i) -> __m512i {
    _mm512_permutexvar_epi64(_mm512_set_epi64(7, 5, 3, 1, 6, 4, 2, 0), _mm512_packs_epi32(low, high))
}

#[derive(Clone, Copy)]
struct ToI16(*mut i16);

impl Store for ToI16 {
    const ZERO_POINT: bool = false;

    #[inline(always)]
    unsafe fn rows<const SHIFTED: bool>(
        self,
        [low, high]: &[Requantizer; VECTORS],
        sums: *const i32,
        at: usize,
        stride: usize,
    ) {
        for row in 0..STEP_ROWS {
            // SAFETY: the caller's contract.
            unsafe {
                let sums = sums.add(row * BLOCK);
                let y = packed_i16(low.apply::<SHIFTED>(sums), high.apply::<SHIFTED>(sums.add(LANES)));
                _mm512_storeu_si512(self.0.add(at + row * stride).cast(), y);
            }
        }
    }
}

/// With the right shift of the residual.
#[derive(Clone, Copy)]
struct ToResidual(*mut i16, u32);

impl Store for ToResidual {
    const ZERO_POINT: bool = false;

    #[inline(always)]
    unsafe fn rows<const SHIFTED: bool>(
        self,
        [low, high]: &[Requantizer; VECTORS],
        sums: *const i32,
        at: usize,
        stride: usize,
    ) {
        for row in 0..STEP_ROWS {
            // SAFETY: the caller's contract.
            unsafe {
                let (sums, out) = (sums.add(row * BLOCK), self.0.add(at + row * stride));
                let [first, second] = [0, LANES]
                    .map(|lane| rshift_round(_mm512_cvtepi16_epi32(_mm256_loadu_si256(out.add(lane).cast())), self.1));
                let a = _mm512_add_epi32(low.apply::<SHIFTED>(sums), first);
                let b = _mm512_add_epi32(high.apply::<SHIFTED>(sums.add(LANES)), second);
                _mm512_storeu_si512(out.cast(), packed_i16(a, b));
            }
        }
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
    if BITS < 4 {
        // SAFETY: the caller's contract.
        return unsafe { few_bits::<BITS>(panel, group) };
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

/// [`panel_group`] of 2 or 3 bits: the four channels' words of two bits, each in four lanes, shifted by 0, 2, 4 and 6; the
/// signs of 3 bits likewise by 0 to 3.
///
/// # Safety
/// The panel has this group.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
unsafe fn few_bits<const BITS: u32>(panel: *const u8, group: usize) -> __m512i {
    let lanes = |words: __m128i, shifts: __m512i| {
        let order = _mm512_set_epi32(3, 3, 3, 3, 2, 2, 2, 2, 1, 1, 1, 1, 0, 0, 0, 0);
        _mm512_srlv_epi32(_mm512_permutexvar_epi32(order, _mm512_castsi128_si512(words)), shifts)
    };
    let pairs = _mm512_set_epi32(6, 4, 2, 0, 6, 4, 2, 0, 6, 4, 2, 0, 6, 4, 2, 0);
    let half = _mm512_set1_epi8(1 << (BITS - 1));
    let three = _mm512_set1_epi8(3);
    // SAFETY: the caller's contract; a group of four channels has eight bytes per bit, of which both loads of 3 bits read 16.
    let unsigned = unsafe {
        let at = panel.add(group * 8 * BITS as usize);
        let first = _mm_loadu_si128(at.cast());
        if BITS == 2 {
            _mm512_and_si512(lanes(first, pairs), three)
        } else {
            let last = _mm_loadu_si128(at.add(8).cast());
            // Channel c has its low bits in bytes 6 c .. 6 c + 4 of the group, its signs in the two after them.
            let gather = |[a, b]: [__m128i; 2]| _mm_or_si128(_mm_shuffle_epi8(first, a), _mm_shuffle_epi8(last, b));
            let low = gather([
                _mm_set_epi8(-1, -1, -1, -1, 15, 14, 13, 12, 9, 8, 7, 6, 3, 2, 1, 0),
                _mm_set_epi8(13, 12, 11, 10, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1),
            ]);
            let halves = gather([
                _mm_set_epi8(-1, -1, -1, -1, -1, -1, -1, -1, -1, 11, -1, 10, -1, 5, -1, 4),
                _mm_set_epi8(-1, 15, -1, 14, -1, 9, -1, 8, -1, -1, -1, -1, -1, -1, -1, -1),
            ]);
            let signs = _mm_slli_epi32::<2>(_mm_or_si128(halves, _mm_slli_epi32::<4>(halves)));
            let ones = _mm512_set_epi32(3, 2, 1, 0, 3, 2, 1, 0, 3, 2, 1, 0, 3, 2, 1, 0);
            let low = _mm512_and_si512(lanes(low, pairs), three);
            _mm512_or_si512(low, _mm512_and_si512(lanes(signs, ones), half))
        }
    };
    // (n ^ half) - half is the signed weight, 128 more is the unsigned factor.
    _mm512_add_epi8(_mm512_xor_si512(unsigned, half), _mm512_set1_epi8((128 - (1 << (BITS - 1))) as i8))
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
