//! Attention of one head: keys and values are packed once on the stack, then six query rows at a time are scored,
//! exponentiated and multiplied by the values, all near the first-level cache. The exponentials of six rows are made
//! during the scores of the next six, see [`Head::all_rows`].
//!
//! Of 32 registers the tile of products takes 15 as in [`super::linear`], the exponentials between them 3 for distances, 5
//! constants and up to 6 for values. 64 exponentials are 20 instructions for their distances, 12 for two times 32 mantissas, 4
//! to round, 5 to pack, order, add up and store.
//!
//! The keys are packed like weights, the sign bit flipped; exponentials are unsigned as they are. 16-bit ones are two factors,
//! `e = 128 high + low`, the high one in 8 bits like these, the low one in 7: two products, joined by a shift and an addition.

use super::factors::{ROWS_UNSIGNED, WEIGHTS_UNSIGNED};
use super::rows::{
    exp_bytes, exp_bytes_lanes, exp_halves, exp_row, exp_words_lanes, halves_of_lanes, row_max, scale_row,
};
use super::{LANES, Multiplier, Rows, TILE_ROWS, lanes, load, packed_tile, row_sum, with_rows};
use crate::arith::exp::RowScale;
use crate::arith::requant::mulhi_round;
use crate::kernels::{AttentionJob, ExpRow, ScoreBias, ScoreScale, whole_rows};
use core::arch::x86_64::*;
use core::mem::MaybeUninit;

/// Bytes of packed keys, and of packed values: 1024 keys of width 64.
const PACKED_BYTES: usize = 64 * 1024;
/// Parts of a tile of scores between which other work is done: its 16 quads of K are so for a head of 64.
const SCORE_STEPS: usize = 3;
/// Parts of a tile of weighted sums.
const VALUE_STEPS: usize = 8;
/// Longest row of scores.
const MAX_KEYS: usize = 1024;
/// Widest row of values.
const MAX_WIDTH: usize = 256;

#[repr(align(64))]
struct Packed(MaybeUninit<[u8; PACKED_BYTES]>);

/// What six query rows need. Up to three blocks of rows are under way at a time, each with what it has at its number modulo
/// the length of the array.
#[repr(align(64))]
struct Block {
    /// Filled up, since the last scores are also read from the second on.
    scores: [[i32; TILE_ROWS * MAX_KEYS + LANES]; 2],
    /// Of 16-bit ones the high factors of all rows, then the low ones.
    exps: [[u8; 2 * TILE_ROWS * MAX_KEYS]; 2],
    /// Weighted sums, as the exponentials.
    acc: [[i32; 2 * TILE_ROWS * MAX_WIDTH]; 2],
    /// 16-bit exponentials of a row with biases.
    words: [u16; MAX_KEYS],
    /// Sums of exponentials, by lanes.
    sums: [[[i32; LANES]; TILE_ROWS]; 3],
    /// Of the rows whose exponentials are being made: see [`Distances`].
    tops: [i64; TILE_ROWS],
}

/// Whether the job fits the stack, and every slice the job.
fn fits(job: &AttentionJob<'_>, out_len: usize) -> bool {
    let keys = job.n_k.next_multiple_of(LANES);
    let width = job.v_dim.next_multiple_of(LANES);
    let packs = keys * job.head_dim.next_multiple_of(4) <= PACKED_BYTES && width * keys <= PACKED_BYTES;
    let has = |bias: ScoreBias<'_>| {
        let last = (job.rows.saturating_sub(1)).saturating_mul(bias.row);
        last.saturating_add((job.n_k - 1).saturating_mul(bias.column)) < bias.values.len()
    };
    let sizes = job.n_k > 0 && keys <= MAX_KEYS && width <= MAX_WIDTH && job.rows > 0 && packs;
    sizes
        && whole_rows(job.q.len(), job.q_stride, job.head_dim) >= job.rows
        && whole_rows(job.k.len(), job.k_stride, job.head_dim) >= job.n_k
        && whole_rows(job.v.len(), job.v_stride, job.v_dim) >= job.n_k
        && whole_rows(out_len, job.out_stride, job.v_dim) >= job.rows
        && job.biases.iter().flatten().all(|&bias| has(bias))
}

/// [`crate::kernels::Kernels::attention`].
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
pub fn attention(job: &AttentionJob<'_>, out: &mut [i8]) -> bool {
    if !fits(job, out.len()) {
        return false;
    }
    let (mut keys, mut values) = (Packed(MaybeUninit::uninit()), Packed(MaybeUninit::uninit()));
    let mut block = MaybeUninit::<Block>::uninit();
    // SAFETY: the buffers are aligned and hold what `fits` computed; the slices hold the rows of the job. All bytes of
    // a `Block` are integers, and each is written before it is read.
    unsafe {
        pack_keys(job, keys.0.as_mut_ptr().cast());
        let (keys, to) = (keys.0.as_ptr().cast(), values.0.as_mut_ptr().cast());
        pack_values(job, to);
        if job.wide_exp {
            Head::<true>::new(job, keys, to, block.as_mut_ptr()).all_rows(out);
        } else {
            Head::<false>::new(job, keys, to, block.as_mut_ptr()).all_rows(out);
        }
    }
    true
}

/// A head whose keys and values are packed; `WIDE` is whether its exponentials have 16 bits.
#[derive(Clone, Copy)]
struct Head<'a, const WIDE: bool> {
    job: &'a AttentionJob<'a>,
    keys: *const u8,
    values: *const u8,
    block: *mut Block,
    /// Keys, and elements of a value, filled up to whole vectors.
    padded: usize,
    width: usize,
}

impl<'a, const WIDE: bool> Head<'a, WIDE> {
    /// Factors of an exponential, each a byte.
    const FACTORS: usize = if WIDE { 2 } else { 1 };
    /// Exponentials that are made at a time.
    const AT_ONCE: usize = 4 * LANES;

    fn new(job: &'a AttentionJob<'a>, keys: *const u8, values: *const u8, block: *mut Block) -> Self {
        let (padded, width) = (job.n_k.next_multiple_of(LANES), job.v_dim.next_multiple_of(LANES));
        Self { job, keys, values, block, padded, width }
    }

    /// All query rows, six at a time. Exponentials and divisions by the row sums are made between the products of other rows,
    /// which alone leave half of the processor's vector units idle: those of block `i` with the values leave room for
    /// exponentials of `i + 1` and divisions of `i - 1`, those of `i + 2` with the keys for the rest of the exponentials.
    ///
    /// # Safety
    /// As in [`attention`].
    #[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
    unsafe fn all_rows(self, out: &mut [i8]) {
        let blocks = self.job.rows.div_ceil(TILE_ROWS);
        // Scores with biases are made at once.
        let biased = self.job.biases.iter().any(Option::is_some);
        let [score_parts, value_parts] = [(self.padded, SCORE_STEPS), (self.width * Self::FACTORS, VALUE_STEPS)]
            .map(|(columns, steps)| columns / (2 * LANES) * steps);
        let quota = if biased { 0 } else { (TILE_ROWS * self.units()).div_ceil((score_parts + value_parts).max(1)) };
        let rows_at_once = TILE_ROWS.div_ceil(value_parts.max(1));
        // SAFETY: the caller's contract; what is read of a block was written by the steps before.
        unsafe {
            self.scores(0, || {});
            let mut exps = Progress::of(0, self.rows(0).1);
            let mut sums = Progress::of(0, 0);
            for block in 0..blocks {
                let next = block + 1;
                let next_rows = if next < blocks { self.rows(next).1 } else { 0 };
                if next < blocks {
                    self.scores(next, || self.exps(&mut exps, quota));
                }
                if biased {
                    self.biased_exps(block);
                } else {
                    self.exps(&mut exps, usize::MAX);
                }
                exps = Progress::of(next, next_rows);
                self.weighted_sums(block, || {
                    self.exps(&mut exps, quota);
                    self.divide(&mut sums, rows_at_once, out);
                });
                self.divide(&mut sums, TILE_ROWS, out);
                sums = Progress::of(block, self.rows(block).1);
            }
            self.divide(&mut sums, TILE_ROWS, out);
        }
    }

    /// Units of work of the exponentials of a row.
    fn units(self) -> usize {
        1 + self.job.n_k.div_ceil(Self::AT_ONCE)
    }

    /// First query row of block `block`, and their number.
    fn rows(self, block: usize) -> (usize, usize) {
        let first = block * TILE_ROWS;
        (first, (self.job.rows - first).min(TILE_ROWS))
    }

    /// Products of the queries of a block with the keys, with other work meanwhile.
    ///
    /// # Safety
    /// As in [`attention`].
    #[inline]
    #[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
    unsafe fn scores(self, block: usize, meanwhile: impl FnMut()) {
        let Self { job, .. } = self;
        let (first, rows) = self.rows(block);
        // SAFETY: the caller's contract; every row has `padded` scores, at most `MAX_KEYS`.
        unsafe {
            let scores: *mut i32 = (&raw mut (*self.block).scores[block % 2]).cast();
            let q = Rows { first: job.q.as_ptr().add(first * job.q_stride), stride: job.q_stride, k: job.head_dim };
            let mut init = [0i32; TILE_ROWS];
            for (row, init) in init.iter_mut().take(rows).enumerate() {
                *init = row_sum(q.from(row)).wrapping_mul(-128);
            }
            tiles::<WEIGHTS_UNSIGNED, SCORE_STEPS>(rows, self.keys, q, &init, (scores, self.padded), meanwhile);
        }
    }

    /// Where the scores and the exponentials of row `row` of block `block` are.
    ///
    /// # Safety
    /// There is a row of that number.
    #[inline(always)]
    unsafe fn row(self, block: usize, row: usize) -> (*mut i32, *mut u8) {
        // SAFETY: every row has `padded` scores and exponentials, at most `MAX_KEYS`.
        unsafe {
            let scores: *mut i32 = (&raw mut (*self.block).scores[block % 2]).cast();
            let exps: *mut u8 = (&raw mut (*self.block).exps[block % 2]).cast();
            (scores.add(row * self.padded), exps.add(row * self.padded))
        }
    }

    /// Bytes from the high factors of exponentials to the low ones.
    fn low_factors(self) -> usize {
        TILE_ROWS * self.padded
    }

    /// Goes on with the exponentials of a block of scores without biases, for `units` units: a row is one to find its
    /// largest sum, and one per vector of exponentials.
    ///
    /// The scores need not be scaled apart from that: scaling keeps the order, so that the largest sum makes the largest
    /// score.
    ///
    /// # Safety
    /// As in [`attention`], after [`scores`](Self::scores).
    #[inline(always)]
    unsafe fn exps(self, at: &mut Progress, units: usize) {
        let block = at.block;
        for _ in 0..units {
            if at.row == at.rows {
                return;
            }
            // SAFETY: the caller's contract; there is a row of this number.
            unsafe {
                let (scores, exps) = self.row(block, at.row);
                let sums: *mut __m512i = (&raw mut (*self.block).sums[block % 3][at.row]).cast();
                if let Some(key) = at.key {
                    let distances = Distances::new((*self.block).tops[at.row], self.job.scale);
                    let added = self.vector_of_exps(&distances, scores, exps, key);
                    _mm512_store_si512(sums, _mm512_add_epi32(_mm512_load_si512(sums), added));
                    at.key = Some(key + Self::AT_ONCE).filter(|&key| key < self.job.n_k);
                    at.row += usize::from(at.key.is_none());
                } else {
                    let max = row_max(core::slice::from_raw_parts(scores, self.job.n_k));
                    (*self.block).tops[at.row] = Distances::top(max, self.job.scale);
                    _mm512_store_si512(sums, _mm512_setzero_si512());
                    at.key = Some(0);
                }
            }
        }
    }

    /// A vector of exponentials from key `key` on, with zeros beyond the last up to a whole sixteen; their sums by lanes.
    ///
    /// # Safety
    /// There are scores for and exponentials from all keys.
    #[inline(always)]
    unsafe fn vector_of_exps(self, distances: &Distances, scores: *const i32, exps: *mut u8, key: usize) -> __m512i {
        let Self { job, .. } = self;
        // SAFETY: the caller's contract; a whole vector of keys is there, or single sixteens under a mask.
        unsafe {
            let exps = exps.add(key);
            let low_exps = exps.add(self.low_factors());
            let scores = scores.add(key);
            let left = job.n_k - key;
            if left >= Self::AT_ONCE {
                let lanes = |vector: usize| distances.lanes(scores.add(vector * LANES));
                let distances = [lanes(0), lanes(1), lanes(2), lanes(3)];
                if WIDE {
                    let ([high, low], sums) = exp_halves(distances);
                    _mm512_storeu_si512(exps.cast(), high);
                    _mm512_storeu_si512(low_exps.cast(), low);
                    return sums;
                }
                let bytes = exp_bytes(distances);
                _mm512_storeu_si512(exps.cast(), bytes);
                return _mm512_dpbusd_epi32(_mm512_setzero_si512(), bytes, _mm512_set1_epi8(1));
            }
            let mut sums = _mm512_setzero_si512();
            for at in (0..left).step_by(LANES) {
                let (mask, distance) = (lanes(left - at), distances.lanes(scores.add(at)));
                let e = if WIDE {
                    let e = exp_words_lanes(mask, distance);
                    let [high, low] = halves_of_lanes(e);
                    _mm_storeu_si128(exps.add(at).cast(), high);
                    _mm_storeu_si128(low_exps.add(at).cast(), low);
                    e
                } else {
                    let e = exp_bytes_lanes(mask, distance);
                    _mm_storeu_si128(exps.add(at).cast(), _mm512_cvtepi32_epi8(e));
                    e
                };
                sums = _mm512_add_epi32(sums, e);
            }
            sums
        }
    }

    /// Exponentials of a block of scores with biases, and their sums.
    ///
    /// # Safety
    /// As for [`exps`](Self::exps).
    #[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
    unsafe fn biased_exps(self, block: usize) {
        let Self { job, padded, .. } = self;
        let (first, rows) = self.rows(block);
        for row in 0..rows {
            // SAFETY: the caller's contract.
            unsafe {
                let (scores, exps) = self.row(block, row);
                let scores = core::slice::from_raw_parts_mut(scores, job.n_k);
                scale(job, first + row, scores);
                // Lanes beyond the row multiply zeros among the values; they only have to be initialized.
                let sum = if WIDE {
                    let words: *mut u16 = (&raw mut (*self.block).words).cast();
                    core::ptr::write_bytes(words.add(job.n_k), 0, padded - job.n_k);
                    let sum = exp_row(scores, ExpRow::U16(core::slice::from_raw_parts_mut(words, job.n_k)));
                    for at in (0..padded).step_by(LANES) {
                        let e = _mm512_cvtepu16_epi32(_mm256_loadu_si256(words.add(at).cast()));
                        let [high, low] = halves_of_lanes(e);
                        _mm_storeu_si128(exps.add(at).cast(), high);
                        _mm_storeu_si128(exps.add(self.low_factors() + at).cast(), low);
                    }
                    sum
                } else {
                    core::ptr::write_bytes(exps.add(job.n_k), 0, padded - job.n_k);
                    exp_row(scores, ExpRow::U8(core::slice::from_raw_parts_mut(exps, job.n_k)))
                };
                (*self.block).sums[block % 3][row] = [0; LANES];
                (*self.block).sums[block % 3][row][0] = sum as i32;
            }
        }
    }

    /// Products of the exponentials of a block with the values, with other work meanwhile.
    ///
    /// # Safety
    /// As in [`attention`], after all exponentials of the block.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
    unsafe fn weighted_sums(self, block: usize, mut meanwhile: impl FnMut()) {
        let Self { job, padded, .. } = self;
        let (_, rows) = self.rows(block);
        // SAFETY: the caller's contract; every row has `width` sums of each factor, at most `MAX_WIDTH`.
        unsafe {
            let exps: *const i8 = (&raw const (*self.block).exps[block % 2]).cast();
            let acc: *mut i32 = (&raw mut (*self.block).acc[block % 2]).cast();
            for factor in 0..Self::FACTORS {
                let first = exps.add(factor * self.low_factors());
                let exps = Rows { first, stride: padded, k: job.n_k.next_multiple_of(4) };
                let to = (acc.add(factor * TILE_ROWS * self.width), self.width);
                tiles::<ROWS_UNSIGNED, VALUE_STEPS>(rows, self.values, exps, &[0; TILE_ROWS], to, &mut meanwhile);
            }
        }
    }

    /// Divides `count` rows of weighted sums of a block from row `next` on, as far as there are so many, by their sums of
    /// exponentials.
    ///
    /// # Safety
    /// As in [`attention`], after [`weighted_sums`](Self::weighted_sums).
    #[inline(always)]
    unsafe fn divide(self, at: &mut Progress, count: usize, out: &mut [i8]) {
        let (Self { job, .. }, block) = (self, at.block);
        let rows = at.row..(at.row + count).min(at.rows);
        at.row = rows.end;
        for row in rows {
            let first = block * TILE_ROWS;
            // SAFETY: the caller's contract.
            let (acc, sum) = unsafe {
                let acc: *mut i32 = (&raw mut (*self.block).acc[block % 2]).cast();
                let acc = acc.add(row * self.width);
                if WIDE {
                    for at in (0..self.width).step_by(LANES) {
                        let (high, low) = (load(acc.add(at)), load(acc.add(TILE_ROWS * self.width + at)));
                        let sums = _mm512_add_epi32(_mm512_slli_epi32::<7>(high), low);
                        _mm512_storeu_si512(acc.add(at).cast(), sums);
                    }
                }
                let acc = core::slice::from_raw_parts(acc, job.v_dim);
                let sums: *const __m512i = (&raw const (*self.block).sums[block % 3][row]).cast();
                (acc, _mm512_reduce_add_epi32(_mm512_load_si512(sums)) as u32)
            };
            let out = out.get_mut((first + row) * job.out_stride..).unwrap_or(&mut []);
            // SAFETY: the caller has the features.
            unsafe { scale_row(acc, RowScale::new(sum, job.ratio_m, job.ratio_shift), job.zero_point, out) };
        }
    }
}

/// How far the rows of a block have come with their exponentials, or with the divisions.
struct Progress {
    block: usize,
    rows: usize,
    row: usize,
    /// Next key, where the largest sum of the row is known.
    key: Option<usize>,
}

impl Progress {
    fn of(block: usize, rows: usize) -> Self {
        Self { block, rows, row: 0, key: None }
    }
}

/// Distances of the scores of a row from the largest, from sums that are not scaled.
#[derive(Clone, Copy)]
struct Distances {
    top: __m512i,
    multiplier: __m512i,
    shifts: [__m128i; 2],
    shifted: bool,
}

impl Distances {
    /// `max - floor((p + 2^31) / 2^32) = floor((max * 2^32 + 2^31 - 1 - p) / 2^32)` for products `p`; this is the first
    /// part of the numerator, without the left shift of the sums.
    fn top(max: i32, scale: ScoreScale) -> i64 {
        let max = mulhi_round(max.wrapping_shl(scale.acc_shift), scale.multiplier);
        ((i64::from(max) << 32) + (1 << 31) - 1) >> scale.acc_shift
    }

    #[inline]
    #[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
    fn new(top: i64, scale: ScoreScale) -> Self {
        Self {
            top: _mm512_set1_epi64(top),
            multiplier: _mm512_set1_epi32(scale.multiplier),
            shifts: [scale.acc_shift as i32, 32 - scale.acc_shift as i32].map(|shift| _mm_cvtsi32_si128(shift)),
            shifted: scale.acc_shift != 0,
        }
    }

    /// Those of sixteen sums.
    ///
    /// # Safety
    /// There are sixteen sums and a word after them.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
    unsafe fn lanes(&self, sums: *const i32) -> __m512i {
        // SAFETY: the caller's contract.
        let (even, odd) = unsafe { (load(sums), load(sums.add(1))) };
        let even = _mm512_sub_epi64(self.top, _mm512_mul_epi32(even, self.multiplier));
        let odd = _mm512_sub_epi64(self.top, _mm512_mul_epi32(odd, self.multiplier));
        if !self.shifted {
            return Multiplier::high_halves(even, odd);
        }
        let [left, right] = self.shifts;
        _mm512_mask_blend_epi32(0xaaaa, _mm512_srl_epi64(even, right), _mm512_sll_epi64(odd, left))
    }
}

/// Products of `rows` rows with packed columns, 32 at a time. `to` is where they go and their number: rows of so many
/// values. Other work is done by `meanwhile` between them.
///
/// # Safety
/// `w` is what [`pack_keys`] or [`pack_values`] made for the columns and the bytes of a row; there is room for the rows.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
unsafe fn tiles<const F: bool, const STEPS: usize>(
    rows: usize,
    w: *const u8,
    x: Rows,
    init: &[i32; TILE_ROWS],
    (out, columns): (*mut i32, usize),
    mut meanwhile: impl FnMut(),
) {
    let vector = x.k.div_ceil(4) * 4 * LANES;
    // SAFETY: the caller's contract: a vector of columns takes 64 bytes for every four of a row.
    unsafe {
        for column in (0..columns).step_by(2 * LANES) {
            let (w, out) = (w.add(column / LANES * vector), out.add(column));
            let init = init.as_ptr();
            if rows == TILE_ROWS && columns - column > LANES {
                packed_tile::<TILE_ROWS, 2, F, STEPS>(w, x, init, out, columns, |_| meanwhile());
                continue;
            }
            if columns - column > LANES {
                with_rows!(rows, R => packed_tile::<R, 2, F, 1>(w, x, init, out, columns, |_| {}));
            } else {
                with_rows!(rows, R => packed_tile::<R, 1, F, 1>(w, x, init, out, columns, |_| {}));
            }
        }
    }
}

/// Where the vector of sixteen columns `vector` of quad `quad` lies in what [`packed_tile`] reads, in bytes: two vectors
/// of columns alternate, the last one stands alone where their number is odd.
fn packed_at(vector: usize, vectors: usize, quad: usize, quads: usize) -> usize {
    let first = vector / 2 * 2;
    let width = (vectors - first).min(2);
    (first * quads + quad * width + vector - first) * 4 * LANES
}

/// Packs the keys, their sign bits flipped; keys and elements beyond the last are 0 before.
///
/// # Safety
/// The slices of the job hold its rows, `to` holds the packed keys and is aligned to 64.
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
unsafe fn pack_keys(job: &AttentionJob<'_>, to: *mut u8) {
    let (quads, vectors) = (job.head_dim.div_ceil(4), job.n_k.div_ceil(LANES));
    for vector in 0..vectors {
        for first in (0..quads).step_by(LANES) {
            let bytes = (job.head_dim - first * 4).min(4 * LANES);
            let mask = if bytes == 4 * LANES { u64::MAX } else { (1 << bytes) - 1 };
            let mut rows = [_mm512_setzero_si512(); LANES];
            for (row, key) in rows.iter_mut().zip(vector * LANES..job.n_k) {
                // SAFETY: masked lanes are elements of the key.
                *row = unsafe { _mm512_maskz_loadu_epi8(mask, job.k.as_ptr().add(key * job.k_stride + first * 4)) };
            }
            for (quad, columns) in (first..quads).zip(transpose(rows)) {
                let at = packed_at(vector, vectors, quad, quads);
                // SAFETY: the caller's contract.
                unsafe { _mm512_store_si512(to.add(at).cast(), _mm512_xor_si512(columns, super::sign_bits())) };
            }
        }
    }
}

/// Transposes sixteen rows of sixteen lanes.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
fn transpose(rows: [__m512i; LANES]) -> [__m512i; LANES] {
    let zero = _mm512_setzero_si512();
    let mut quads = [zero; LANES];
    // `quads[g * 4 + c]`, lane `l * 4 + i`: row `g * 4 + i`, column `l * 4 + c`.
    for (rows, quads) in rows.as_chunks::<4>().0.iter().zip(quads.as_chunks_mut::<4>().0) {
        let [a, b, c, d] = *rows;
        let (ab, cd) = (_mm512_unpacklo_epi32(a, b), _mm512_unpacklo_epi32(c, d));
        let (ab_high, cd_high) = (_mm512_unpackhi_epi32(a, b), _mm512_unpackhi_epi32(c, d));
        *quads = [
            _mm512_unpacklo_epi64(ab, cd),
            _mm512_unpackhi_epi64(ab, cd),
            _mm512_unpacklo_epi64(ab_high, cd_high),
            _mm512_unpackhi_epi64(ab_high, cd_high),
        ];
    }
    let mut out = [zero; LANES];
    for column in 0..4 {
        let [a, b, c, d] = [quads[column], quads[4 + column], quads[8 + column], quads[12 + column]];
        let (ab_even, ab_odd) = (_mm512_shuffle_i32x4::<0x88>(a, b), _mm512_shuffle_i32x4::<0xdd>(a, b));
        let (cd_even, cd_odd) = (_mm512_shuffle_i32x4::<0x88>(c, d), _mm512_shuffle_i32x4::<0xdd>(c, d));
        out[column] = _mm512_shuffle_i32x4::<0x88>(ab_even, cd_even);
        out[8 + column] = _mm512_shuffle_i32x4::<0xdd>(ab_even, cd_even);
        out[4 + column] = _mm512_shuffle_i32x4::<0x88>(ab_odd, cd_odd);
        out[12 + column] = _mm512_shuffle_i32x4::<0xdd>(ab_odd, cd_odd);
    }
    out
}

/// Keys that share a lane.
const KEYS: usize = 4;

/// Packs the values, [`KEYS`] keys to a lane. Keys and columns beyond the last are 0.
///
/// # Safety
/// The slices of the job hold its rows, `to` holds the packed values and is aligned to 64.
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
unsafe fn pack_values(job: &AttentionJob<'_>, to: *mut u8) {
    let (quads, vectors) = (job.n_k.div_ceil(KEYS), job.v_dim.div_ceil(LANES));
    for vector in 0..vectors {
        let mask = lanes(job.v_dim - vector * LANES);
        for quad in 0..quads {
            let mut rows = [_mm_setzero_si128(); KEYS];
            for (row, key) in rows.iter_mut().zip(quad * KEYS..job.n_k) {
                let at = key * job.v_stride + vector * LANES;
                // SAFETY: masked lanes are elements of the value.
                *row = unsafe { _mm_maskz_loadu_epi8(mask, job.v.as_ptr().add(at)) };
            }
            // Byte `b` of a lane of 32 bits is that of key `b`.
            let mut lane = _mm512_setzero_si512();
            for (key, row) in rows.into_iter().enumerate() {
                let wide = _mm512_cvtepi8_epi32(row);
                let bits = 32 / KEYS as u32;
                let low = _mm512_set1_epi32((u32::MAX >> (32 - bits)) as i32);
                let part = _mm512_sll_epi32(_mm512_and_si512(wide, low), _mm_cvtsi32_si128(key as i32 * bits as i32));
                lane = _mm512_or_si512(lane, part);
            }
            // SAFETY: the caller's contract.
            unsafe { _mm512_store_si512(to.add(packed_at(vector, vectors, quad, quads)).cast(), lane) };
        }
    }
}

/// Scales and biases the scores of query row `row`.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
fn scale(job: &AttentionJob<'_>, row: usize, scores: &mut [i32]) {
    let multiplier = Multiplier::new(_mm512_set1_epi32(job.scale.multiplier));
    let acc_shift = _mm_cvtsi32_si128(job.scale.acc_shift as i32);
    for (index, scores) in scores.chunks_mut(LANES).enumerate() {
        let mask = lanes(scores.len());
        // SAFETY: masked lanes are elements of the chunk.
        let acc = unsafe { _mm512_maskz_loadu_epi32(mask, scores.as_ptr()) };
        let mut scaled = multiplier.mulhi_round(_mm512_sll_epi32(acc, acc_shift));
        for bias in job.biases.iter().flatten() {
            scaled = _mm512_add_epi32(scaled, bias_lanes(*bias, row, index * LANES, scores.len()));
        }
        // SAFETY: masked lanes are elements of the chunk.
        unsafe { _mm512_mask_storeu_epi32(scores.as_mut_ptr(), mask, scaled) };
    }
}

/// `count` biases of query row `row` from key `key` on.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
fn bias_lanes(bias: ScoreBias<'_>, row: usize, key: usize, count: usize) -> __m512i {
    let values = bias.values.get(row * bias.row + key * bias.column..).unwrap_or(&[]);
    if bias.column == 0 {
        return _mm512_set1_epi32(values.first().map_or(0, |&b| i32::from(b)));
    }
    if bias.column == 1 {
        let mask = lanes(count.min(values.len()));
        // SAFETY: masked lanes are elements of the slice.
        return _mm512_cvtepi16_epi32(unsafe { _mm256_maskz_loadu_epi16(mask, values.as_ptr()) });
    }
    let mut gathered = [0i32; LANES];
    for (to, &from) in gathered.iter_mut().zip(values.iter().step_by(bias.column)).take(count) {
        *to = i32::from(from);
    }
    // SAFETY: sixteen values.
    unsafe { load(gathered.as_ptr()) }
}
