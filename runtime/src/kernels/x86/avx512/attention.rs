//! Attention of one head: keys and values are packed once on the stack, then six query rows at a time are scored,
//! exponentiated and multiplied by the values, all in the first-level cache.
//!
//! The keys are packed like weights, the sign bit flipped; exponentials are unsigned as they are, and 16-bit ones take
//! two elements of K a lane.

use super::factors::{ROWS_UNSIGNED, WEIGHTS_UNSIGNED, WIDE};
use super::rows::{exp_row, exps_u8, exps_u16, row_max, scale_row};
use super::{LANES, Multiplier, Rows, TILE_ROWS, lanes, load, packed_tile, row_sum, with_rows};
use crate::arith::exp::RowScale;
use crate::arith::requant::mulhi_round;
use crate::kernels::{AttentionJob, ExpRow, ScoreBias, whole_rows};
use core::arch::x86_64::*;
use core::mem::MaybeUninit;

/// Bytes of packed keys, and of packed values: 512 keys of width 64.
const PACKED_BYTES: usize = 32 * 1024;
/// Longest row of scores.
const MAX_KEYS: usize = 1024;
/// Widest row of values.
const MAX_WIDTH: usize = 256;

#[repr(align(64))]
struct Packed(MaybeUninit<[u8; PACKED_BYTES]>);

/// What six query rows need.
#[repr(align(64))]
struct Block {
    scores: [i32; TILE_ROWS * MAX_KEYS],
    /// `u8` or `u16`.
    exps: [u16; TILE_ROWS * MAX_KEYS],
    acc: [i32; TILE_ROWS * MAX_WIDTH],
}

/// Whether the job fits the stack, and every slice the job.
fn fits(job: &AttentionJob<'_>, out_len: usize) -> bool {
    let keys = job.n_k.next_multiple_of(LANES);
    let width = job.v_dim.next_multiple_of(LANES);
    let element = if job.wide_exp { 2 } else { 1 };
    let packs = keys * job.head_dim.next_multiple_of(4) <= PACKED_BYTES && width * keys * element <= PACKED_BYTES;
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
        if job.wide_exp {
            pack_values::<2>(job, values.0.as_mut_ptr().cast());
        } else {
            pack_values::<4>(job, values.0.as_mut_ptr().cast());
        }
        for first in (0..job.rows).step_by(TILE_ROWS) {
            let rows = first..(first + TILE_ROWS).min(job.rows);
            query_rows(job, rows, keys.0.as_ptr().cast(), values.0.as_ptr().cast(), block.as_mut_ptr(), out);
        }
    }
    true
}

/// Up to six query rows.
///
/// # Safety
/// As in [`attention`].
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
unsafe fn query_rows(
    job: &AttentionJob<'_>,
    rows: core::ops::Range<usize>,
    keys: *const u8,
    values: *const u8,
    block: *mut Block,
    out: &mut [i8],
) {
    let padded = job.n_k.next_multiple_of(LANES);
    let count = rows.len();
    // SAFETY: the caller's contract; every row of scores and exponentials has `padded` elements, at most `MAX_KEYS`.
    unsafe {
        let scores: *mut i32 = (&raw mut (*block).scores).cast();
        let exps: *mut u8 = (&raw mut (*block).exps).cast();
        let acc: *mut i32 = (&raw mut (*block).acc).cast();
        let q = Rows { first: job.q.as_ptr().add(rows.start * job.q_stride), stride: job.q_stride, k: job.head_dim };
        let mut init = [0i32; TILE_ROWS];
        for (row, init) in init.iter_mut().take(count).enumerate() {
            *init = row_sum(q.from(row)).wrapping_mul(-128);
        }
        tiles::<WEIGHTS_UNSIGNED>(count, keys, q, &init, scores, padded);

        let mut sums = [0u32; TILE_ROWS];
        let element = if job.wide_exp { 2 } else { 1 };
        for (row, sum) in sums.iter_mut().take(count).enumerate() {
            let scores = core::slice::from_raw_parts_mut(scores.add(row * padded), job.n_k);
            let exps = exps.add(row * padded * element);
            // Lanes beyond the row multiply zeros among the values; they only have to be initialized.
            core::ptr::write_bytes(exps.add(job.n_k * element), 0, (padded - job.n_k) * element);
            let exps = if job.wide_exp {
                ExpRow::U16(core::slice::from_raw_parts_mut(exps.cast(), job.n_k))
            } else {
                ExpRow::U8(core::slice::from_raw_parts_mut(exps, job.n_k))
            };
            *sum = exponentials(job, rows.start + row, scores, exps);
        }

        let width = job.v_dim.next_multiple_of(LANES);
        let bytes = padded * element;
        let exps = Rows { first: exps.cast(), stride: bytes, k: (job.n_k * element).next_multiple_of(4) };
        if job.wide_exp {
            tiles::<WIDE>(count, values, exps, &[0; TILE_ROWS], acc, width);
        } else {
            tiles::<ROWS_UNSIGNED>(count, values, exps, &[0; TILE_ROWS], acc, width);
        }
        for (row, sum) in sums.into_iter().take(count).enumerate() {
            let acc = core::slice::from_raw_parts(acc.add(row * width), job.v_dim);
            let out = out.get_mut((rows.start + row) * job.out_stride..).unwrap_or(&mut []);
            scale_row(acc, RowScale::new(sum, job.ratio_m, job.ratio_shift), job.zero_point, out);
        }
    }
}

/// Products of `rows` rows with `columns` packed columns, 32 at a time.
///
/// # Safety
/// `w` is what [`pack_keys`] or [`pack_values`] made for `columns` columns and the bytes of a row; `out` has `rows` rows
/// of `columns` values.
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
unsafe fn tiles<const F: u8>(
    rows: usize,
    w: *const u8,
    x: Rows,
    init: &[i32; TILE_ROWS],
    out: *mut i32,
    columns: usize,
) {
    let vector = x.k.div_ceil(4) * 4 * LANES;
    // SAFETY: the caller's contract: a vector of columns takes 64 bytes for every four of a row.
    unsafe {
        for column in (0..columns).step_by(2 * LANES) {
            let (w, out) = (w.add(column / LANES * vector), out.add(column));
            let init = init.as_ptr();
            if columns - column > LANES {
                with_rows!(rows, R => packed_tile::<R, 2, F>(w, x, init, out, columns));
            } else {
                with_rows!(rows, R => packed_tile::<R, 1, F>(w, x, init, out, columns));
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

/// Packs the values, `KEYS` keys to a lane: four `i8`, or two widened to `i16`. Keys and columns beyond the last are 0.
///
/// # Safety
/// The slices of the job hold its rows, `to` holds the packed values and is aligned to 64.
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
unsafe fn pack_values<const KEYS: usize>(job: &AttentionJob<'_>, to: *mut u8) {
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
            // Byte `b` of a lane of 32 bits is that of key `b`, or bytes `2b` and `2b + 1` are.
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

/// Exponentials of the sums of query row `row`; their sum.
///
/// Without biases the scores need not be stored: scaling keeps the order, so that the greatest sum makes the greatest
/// score, and one pass scales, subtracts and exponentiates.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
fn exponentials(job: &AttentionJob<'_>, row: usize, scores: &mut [i32], out: ExpRow<'_>) -> u32 {
    if job.biases.iter().any(Option::is_some) {
        scale(job, row, scores);
        return exp_row(scores, out);
    }
    let AttentionJob { scale, .. } = *job;
    let max = mulhi_round(row_max(scores).wrapping_shl(scale.acc_shift), scale.multiplier);
    let multiplier = Multiplier::new(_mm512_set1_epi32(scale.multiplier));
    let acc_shift = _mm_cvtsi32_si128(scale.acc_shift as i32);
    let distance = |at: usize, mask: __mmask16| {
        // SAFETY: masked lanes are elements of the row.
        let acc = unsafe { _mm512_maskz_loadu_epi32(mask, scores.as_ptr().add(at)) };
        multiplier.below(max, _mm512_sll_epi32(acc, acc_shift))
    };
    match out {
        ExpRow::U8(out) => exps_u8(scores.len(), out, distance),
        ExpRow::U16(out) => exps_u16(scores.len(), out, distance),
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
