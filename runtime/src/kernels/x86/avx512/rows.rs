//! Loops over one row, sixteen elements of 32 bits at a time; the last ones masked.
//!
//! A normalization takes 6 instructions for 32 elements of statistics and 20 for 16 values: 2 to load and widen, 2 for the
//! line before the reciprocal root, 7 for its product and 6 for that with gamma in even and odd lanes, 2 for beta and the
//! shift, 3 to pack and store 32.

use super::{LANES, Multiplier, lanes, load, store_i8, store_i16};
use crate::arith::exp::{EXP2_A, EXP2_B, EXP2_ONE, RowScale, SCORE_FRACTION_BITS};
use crate::arith::norm::{FRACTION_I8, FRACTION_I16, RowNorm};
use crate::kernels::{ExpRow, NormJob, NormOut, NormRow, ScoreScale, whole_rows};
use core::arch::asm;
use core::arch::x86_64::*;

/// Lanes of `i16`.
const HALF_LANES: usize = 32;
/// Lanes of `i8`.
const BYTE_LANES: usize = 64;
/// All lanes of `i32`.
const FULL: __mmask16 = __mmask16::MAX;
/// A distance of scores whose exponential is 0, as is that of every greater one.
const FAR: i32 = u16::MAX as i32;

/// [`crate::kernels::Kernels::scale_scores`].
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
pub fn scale_scores(scores: &mut [i32], scale: ScoreScale) {
    let multiplier = Multiplier::new(_mm512_set1_epi32(scale.multiplier));
    let acc_shift = _mm_cvtsi32_si128(scale.acc_shift as i32);
    for scores in scores.chunks_mut(LANES) {
        let mask = lanes(scores.len());
        // SAFETY: masked lanes are elements of the chunk.
        unsafe {
            let acc = _mm512_maskz_loadu_epi32(mask, scores.as_ptr());
            let scaled = multiplier.mulhi_round(_mm512_sll_epi32(acc, acc_shift));
            _mm512_mask_storeu_epi32(scores.as_mut_ptr(), mask, scaled);
        }
    }
}

/// [`crate::kernels::Kernels::exp_row`].
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
pub fn exp_row(scores: &[i32], out: ExpRow<'_>) -> u32 {
    let max = row_max(scores);
    // SAFETY: masked lanes are elements of the row.
    let load = |at: usize, mask: __mmask16| unsafe { _mm512_maskz_loadu_epi32(mask, scores.as_ptr().add(at)) };
    let distance = |at, mask| nearby(_mm512_sub_epi32(_mm512_set1_epi32(max), load(at, mask)));
    match out {
        ExpRow::U8(out) => exps_u8(scores.len(), out, distance),
        ExpRow::U16(out) => exps_u16(scores.len(), out, distance),
    }
}

/// The largest of a row.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
pub(super) fn row_max(scores: &[i32]) -> i32 {
    let mut max = _mm512_set1_epi32(i32::MIN);
    let (whole, rest) = scores.as_chunks::<LANES>();
    for scores in whole {
        // SAFETY: sixteen scores.
        max = _mm512_max_epi32(max, unsafe { load(scores.as_ptr()) });
    }
    let mask = lanes(rest.len());
    // SAFETY: masked lanes are elements of the rest.
    max = _mm512_mask_max_epi32(max, mask, max, unsafe { _mm512_maskz_loadu_epi32(mask, rest.as_ptr()) });
    _mm512_reduce_max_epi32(max)
}

/// 8-bit exponentials of `len` distances, which `distance` gives as `i32` from a position and under a mask, none negative;
/// their sum.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
fn exps_u8(len: usize, out: &mut [u8], distance: impl Fn(usize, __mmask16) -> __m512i) -> u32 {
    let len = len.min(out.len());
    let mut sum = _mm512_setzero_si512();
    let whole = len / BYTE_LANES * BYTE_LANES;
    for at in (0..whole).step_by(BYTE_LANES) {
        let bytes = exp_bytes([0, 1, 2, 3].map(|vector| distance(at + vector * LANES, FULL)));
        sum = _mm512_dpbusd_epi32(sum, bytes, _mm512_set1_epi8(1));
        // SAFETY: 64 elements from `at` lie below `whole`.
        unsafe { _mm512_storeu_si512(out.as_mut_ptr().add(at).cast(), bytes) };
    }
    for at in (whole..len).step_by(LANES) {
        let mask = lanes(len - at);
        let e = exp_bytes_lanes(mask, distance(at, mask));
        sum = _mm512_add_epi32(sum, e);
        // SAFETY: masked lanes are elements below `len`.
        unsafe { _mm_mask_storeu_epi8(out.as_mut_ptr().add(at).cast(), mask, _mm512_cvtepi32_epi8(e)) };
    }
    _mm512_reduce_add_epi32(sum) as u32
}

/// 16-bit exponentials of `len` distances, otherwise as [`exps_u8`].
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
fn exps_u16(len: usize, out: &mut [u16], distance: impl Fn(usize, __mmask16) -> __m512i) -> u32 {
    let len = len.min(out.len());
    let mut sum = _mm512_setzero_si512();
    let whole = len / HALF_LANES * HALF_LANES;
    for at in (0..whole).step_by(HALF_LANES) {
        let words = exp_words([distance(at, FULL), distance(at + LANES, FULL)]);
        sum = _mm512_add_epi32(sum, _mm512_madd_epi16(words, _mm512_set1_epi16(1)));
        // SAFETY: 32 elements from `at` lie below `whole`.
        unsafe { _mm512_storeu_si512(out.as_mut_ptr().add(at).cast(), words) };
    }
    for at in (whole..len).step_by(LANES) {
        let mask = lanes(len - at);
        let e = exp_words_lanes(mask, distance(at, mask));
        sum = _mm512_add_epi32(sum, e);
        // SAFETY: masked lanes are elements below `len`.
        unsafe { _mm256_mask_storeu_epi16(out.as_mut_ptr().add(at).cast(), mask, _mm512_cvtepi32_epi16(e)) };
    }
    _mm512_reduce_add_epi32(sum) as u32
}

/// 8-bit exponentials of 64 distances as `i32`, none negative, in their order. Distances beyond [`FAR`] count as [`FAR`],
/// whose exponential is 0 like theirs.
///
/// 6 instructions for 32 exponentials, 2 for their rounding, 1 to pack them; 2 to pack and order all.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
pub(super) fn exp_bytes([a, b, c, d]: [__m512i; 4]) -> __m512i {
    let [low, high] = [(a, b), (c, d)].map(|(a, b)| round_to_u8(exp_lanes(_mm512_packus_epi32(a, b))));
    _mm512_permutexvar_epi32(quarters_in_order(), _mm512_packus_epi16(low, high))
}

/// 8-bit exponentials of sixteen distances as `i32`; 0 where the mask has none.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
pub(super) fn exp_bytes_lanes(mask: __mmask16, distances: __m512i) -> __m512i {
    low_halves(mask, round_to_u8(exp_lanes(nearby(distances))))
}

/// 16-bit exponentials of 32 distances, otherwise as [`exp_bytes`].
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
fn exp_words([low, high]: [__m512i; 2]) -> __m512i {
    let e = exp_lanes(_mm512_packus_epi32(low, high));
    _mm512_permutexvar_epi64(_mm512_set_epi64(7, 5, 3, 1, 6, 4, 2, 0), e)
}

/// 16-bit exponentials of 64 distances, otherwise as [`exp_bytes`]: `e = 128 high + low` as bytes, high ones first, and
/// their sums by lanes.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
pub(super) fn exp_halves([a, b, c, d]: [__m512i; 4]) -> ([__m512i; 2], __m512i) {
    let [first, second] = [(a, b), (c, d)].map(|(a, b)| exp_lanes(_mm512_packus_epi32(a, b)));
    let [order, ones, low_bits] = [quarters_in_order(), _mm512_set1_epi16(1), _mm512_set1_epi16(127)];
    let high = _mm512_packus_epi16(_mm512_srli_epi16::<7>(first), _mm512_srli_epi16::<7>(second));
    let low = _mm512_packus_epi16(_mm512_and_si512(first, low_bits), _mm512_and_si512(second, low_bits));
    let sums = _mm512_add_epi32(_mm512_madd_epi16(first, ones), _mm512_madd_epi16(second, ones));
    ([high, low].map(|bytes| _mm512_permutexvar_epi32(order, bytes)), sums)
}

/// Both bytes of 16-bit exponentials in sixteen lanes, as [`exp_halves`].
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
pub(super) fn halves_of_lanes(e: __m512i) -> [__m128i; 2] {
    let low = _mm512_and_si512(e, _mm512_set1_epi32(127));
    [_mm512_srli_epi32::<7>(e), low].map(|lanes| _mm512_cvtepi32_epi8(lanes))
}

/// 16-bit exponentials of sixteen distances, otherwise as [`exp_bytes_lanes`].
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
pub(super) fn exp_words_lanes(mask: __mmask16, distances: __m512i) -> __m512i {
    low_halves(mask, exp_lanes(nearby(distances)))
}

/// Unsigned distances, none beyond [`FAR`].
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
fn nearby(distances: __m512i) -> __m512i {
    _mm512_min_epu32(distances, _mm512_set1_epi32(FAR))
}

/// The low halves of the lanes of a mask, 0 elsewhere.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
fn low_halves(mask: __mmask16, values: __m512i) -> __m512i {
    _mm512_maskz_and_epi32(mask, values, _mm512_set1_epi32(0xffff))
}

/// [`crate::arith::exp::exp_u16`] of unsigned 16-bit lanes. Shifts by 16 and more give 0, as there.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
fn exp_lanes(distance: __m512i) -> __m512i {
    const { assert!(SCORE_FRACTION_BITS == 8 && EXP2_B < 128, "fractions are the low bytes of the lanes") }
    // The low byte is the fraction: byte products leave the high one out.
    let slope = _mm512_maddubs_epi16(distance, _mm512_set1_epi16(EXP2_B as i16));
    let slope = _mm512_sub_epi16(_mm512_set1_epi16(EXP2_A as i16), slope);
    // (256 * fraction * slope) >> 16.
    let fall = _mm512_mulhi_epu16(_mm512_slli_epi16::<8>(distance), slope);
    let mantissa = _mm512_sub_epi16(_mm512_set1_epi16(EXP2_ONE as i16), fall);
    shift_right(mantissa, _mm512_srli_epi16::<8>(distance))
}

/// `x >> count` of 16-bit lanes; 0 for counts of 16 and more. In assembly since the compiler takes the intrinsic apart into a
/// shift and a comparison, which do not always find together again.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
fn shift_right(x: __m512i, count: __m512i) -> __m512i {
    let shifted: __m512i;
    // SAFETY: one instruction on registers, of the features of this function.
    unsafe {
        asm!("vpsrlvw {shifted}, {x}, {count}", shifted = lateout(zmm_reg) shifted, x = in(zmm_reg) x,
            count = in(zmm_reg) count, options(pure, nomem, nostack, preserves_flags));
    }
    shifted
}

/// 16-bit exponentials to 8 bits: halves up.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
fn round_to_u8(wide: __m512i) -> __m512i {
    _mm512_srli_epi16::<7>(_mm512_add_epi16(wide, _mm512_set1_epi16(1 << 6)))
}

/// Packing two pairs of vectors interleaves their quarters; this brings them into order.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
fn quarters_in_order() -> __m512i {
    _mm512_set_epi32(15, 11, 7, 3, 14, 10, 6, 2, 13, 9, 5, 1, 12, 8, 4, 0)
}

/// [`crate::kernels::Kernels::scale_row`].
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
pub fn scale_row(acc: &[i32], scale: RowScale, zero_point: i32, out: &mut [i8]) {
    let multiplier = Multiplier::new(_mm512_set1_epi32(scale.multiplier));
    // The high half is at most 2^30 in magnitude, half a step as well: their sum fits.
    let half = _mm512_set1_epi32(1 << (scale.shift - 1));
    let shift = _mm_cvtsi32_si128(scale.shift as i32);
    for (acc, out) in acc.chunks(LANES).zip(out.chunks_mut(LANES)) {
        let mask = lanes(acc.len().min(out.len()));
        // SAFETY: masked lanes are elements of both chunks.
        unsafe {
            let high = multiplier.mulhi_floor(_mm512_maskz_loadu_epi32(mask, acc.as_ptr()));
            let y = _mm512_sra_epi32(_mm512_add_epi32(high, half), shift);
            store_i8(out.as_mut_ptr(), mask, _mm512_add_epi32(y, _mm512_set1_epi32(zero_point)));
        }
    }
}

/// [`crate::kernels::Kernels::norm_row`].
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
pub fn norm_row(job: &NormJob<'_>, x: NormRow<'_>, out: NormOut<'_>) {
    normalize(job, statistics(job, x), x, out);
}

/// [`crate::kernels::Kernels::norm_rows`]: the statistics of four rows, then their values. The reciprocal square root is one
/// product after the other, in which those of four rows overlap.
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
pub fn norm_rows(job: &NormJob<'_>, x: NormRow<'_>, mut out: NormOut<'_>) {
    let n = job.gamma.len().max(1);
    for first in (0..).step_by(4) {
        let rows = [first, first + 1, first + 2, first + 3].map(|row| x.row(row, n).map(|x| (x, statistics(job, x))));
        for (row, values) in (first..).zip(rows) {
            let (Some((x, statistics)), Some(out)) = (values, out.row(row, n)) else { return };
            normalize(job, statistics, x, out);
        }
    }
}

/// Sums and reciprocal square root of a row.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
fn statistics(job: &NormJob<'_>, x: NormRow<'_>) -> RowNorm {
    let (len, (sum, squares)) = match x {
        NormRow::I8(x) => {
            let load = |at: usize, mask| {
                // SAFETY: masked lanes are elements of the row.
                _mm512_cvtepi8_epi16(unsafe { _mm256_maskz_loadu_epi8(mask, x.as_ptr().add(at)) })
            };
            (x.len(), row_sums(x.len(), load))
        }
        NormRow::I16(x) => {
            // SAFETY: masked lanes are elements of the row.
            let load = |at: usize, mask| unsafe { _mm512_maskz_loadu_epi16(mask, x.as_ptr().add(at)) };
            (x.len(), row_sums(x.len(), load))
        }
    };
    RowNorm::from_sums(sum, squares, len as u32, job.rms, job.eps)
}

/// The values of a row with these statistics.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
fn normalize(job: &NormJob<'_>, statistics: RowNorm, x: NormRow<'_>, out: NormOut<'_>) {
    let (row, shifted) = Normalize::new(job, statistics);
    match x {
        NormRow::I8(x) => {
            let load = |at: usize, mask| {
                // SAFETY: masked lanes are elements of the row.
                _mm512_cvtepi8_epi32(unsafe { _mm_maskz_loadu_epi8(mask, x.as_ptr().add(at)) })
            };
            if shifted { row.store::<true>(x.len(), out, load) } else { row.store::<false>(x.len(), out, load) }
        }
        NormRow::I16(x) => {
            let load = |at: usize, mask| {
                // SAFETY: masked lanes are elements of the row.
                _mm512_cvtepi16_epi32(unsafe { _mm256_maskz_loadu_epi16(mask, x.as_ptr().add(at)) })
            };
            if shifted { row.store::<true>(x.len(), out, load) } else { row.store::<false>(x.len(), out, load) }
        }
    }
}

/// Sum and sum of squares of `len` elements that `load` gives as `i16`, from a position and under a mask.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
fn row_sums(len: usize, load: impl Fn(usize, __mmask32) -> __m512i) -> (i32, u64) {
    let low_half = _mm512_set1_epi64(i64::from(u32::MAX));
    let mut sum = _mm512_setzero_si512();
    let mut squares = _mm512_setzero_si512();
    let mut add = |x| {
        sum = _mm512_add_epi32(sum, _mm512_madd_epi16(x, _mm512_set1_epi16(1)));
        // Two squares are at most 2^31: as unsigned they fit.
        let pairs = _mm512_madd_epi16(x, x);
        squares = _mm512_add_epi64(squares, _mm512_and_si512(pairs, low_half));
        squares = _mm512_add_epi64(squares, _mm512_srli_epi64::<32>(pairs));
    };
    let whole = len / HALF_LANES * HALF_LANES;
    (0..whole).step_by(HALF_LANES).for_each(|at| add(load(at, u32::MAX)));
    if whole < len {
        add(load(whole, (1 << (len - whole)) - 1));
    }
    (_mm512_reduce_add_epi32(sum), _mm512_reduce_add_epi64(squares) as u64)
}

/// [`RowNorm::normalize`] and [`crate::arith::norm::affine`] of a row.
struct Normalize<'a> {
    job: &'a NormJob<'a>,
    factor: __m512i,
    offset: __m512i,
    right: __m128i,
    rsqrt: __m512i,
}

impl<'a> Normalize<'a> {
    #[inline]
    #[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
    fn new(job: &'a NormJob<'a>, row: RowNorm) -> (Self, bool) {
        let line = row.affine();
        let row = Self {
            job,
            factor: _mm512_set1_epi32(line.factor),
            offset: _mm512_set1_epi32(line.offset),
            right: _mm_cvtsi32_si128(line.right as i32),
            rsqrt: _mm512_set1_epi32(line.rsqrt),
        };
        (row, line.right != 0)
    }

    /// Writes `len` elements that `load` gives as `i32`, from a position and under a mask.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
    fn store<const SHIFTED: bool>(&self, len: usize, out: NormOut<'_>, load: impl Fn(usize, __mmask16) -> __m512i) {
        let len = len.min(self.job.gamma.len()).min(self.job.beta.len());
        let lanes_of = |at, mask| self.lanes::<SHIFTED>(at, mask, load(at, mask));
        match out {
            NormOut::I8(out) => {
                let len = len.min(out.len());
                let whole = len / HALF_LANES * HALF_LANES;
                for at in (0..whole).step_by(HALF_LANES) {
                    let low = _mm512_srai_epi32::<FRACTION_I8>(lanes_of(at, FULL));
                    let high = _mm512_srai_epi32::<FRACTION_I8>(lanes_of(at + LANES, FULL));
                    let words = _mm512_packs_epi32(low, high);
                    let words = _mm512_permutexvar_epi64(_mm512_set_epi64(7, 5, 3, 1, 6, 4, 2, 0), words);
                    // SAFETY: 32 elements from `at` lie below `whole`.
                    unsafe { _mm256_storeu_si256(out.as_mut_ptr().add(at).cast(), _mm512_cvtsepi16_epi8(words)) };
                }
                for at in (whole..len).step_by(LANES) {
                    let mask = lanes(len - at);
                    let y = _mm512_srai_epi32::<FRACTION_I8>(lanes_of(at, mask));
                    // SAFETY: masked lanes are elements below `len`.
                    unsafe { store_i8(out.as_mut_ptr().add(at), mask, y) }
                }
            }
            NormOut::I16(out) => {
                let len = len.min(out.len());
                for at in (0..len).step_by(LANES) {
                    let mask = lanes(len - at);
                    let y = _mm512_srai_epi32::<FRACTION_I16>(lanes_of(at, mask));
                    // SAFETY: masked lanes are elements below `len`.
                    unsafe { store_i16(out.as_mut_ptr().add(at), mask, y) }
                }
            }
        }
    }

    /// Sixteen elements with the fractional bits of gamma and beta; masked lanes are below the length of both. Even and
    /// odd lanes go apart through both products.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
    fn lanes<const SHIFTED: bool>(&self, at: usize, mask: __mmask16, x: __m512i) -> __m512i {
        let half = _mm512_set1_epi64(1 << 31);
        let c = _mm512_add_epi32(_mm512_mullo_epi32(x, self.factor), self.offset);
        let c = if SHIFTED { _mm512_sra_epi32(c, self.right) } else { c };
        // SAFETY: masked lanes are elements of both.
        let (gamma, beta) = unsafe {
            let gamma = _mm512_maskz_loadu_epi32(mask, self.job.gamma.as_ptr().add(at));
            (gamma, _mm512_maskz_loadu_epi32(mask, self.job.beta.as_ptr().add(at)))
        };
        // High halves of the products, moved down.
        let normalized = |c| _mm512_srli_epi64::<32>(_mm512_add_epi64(_mm512_mul_epi32(c, self.rsqrt), half));
        let (even, odd) = (normalized(c), normalized(_mm512_srli_epi64::<32>(c)));
        let even = _mm512_add_epi64(_mm512_mul_epi32(even, gamma), half);
        let odd = _mm512_add_epi64(_mm512_mul_epi32(odd, _mm512_srli_epi64::<32>(gamma)), half);
        _mm512_add_epi32(Multiplier::high_halves(even, odd), beta)
    }
}

/// [`crate::kernels::Kernels::add_i16_in_place`].
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
pub fn add_i16_in_place(out: &mut [i16], b: &[i16], ma: i32, mb: i32, bias: i32, shift: u32) {
    let (ma, mb, bias) = (_mm512_set1_epi32(ma), _mm512_set1_epi32(mb), _mm512_set1_epi32(bias));
    let shift = _mm_cvtsi32_si128(shift as i32);
    for (out, b) in out.chunks_mut(LANES).zip(b.chunks(LANES)) {
        let mask = lanes(out.len().min(b.len()));
        // SAFETY: masked lanes are elements of both chunks.
        unsafe {
            let a = _mm512_cvtepi16_epi32(_mm256_maskz_loadu_epi16(mask, out.as_ptr()));
            let b = _mm512_cvtepi16_epi32(_mm256_maskz_loadu_epi16(mask, b.as_ptr()));
            let sum = _mm512_add_epi32(_mm512_mullo_epi32(a, ma), _mm512_mullo_epi32(b, mb));
            let y = _mm512_sra_epi32(_mm512_add_epi32(sum, bias), shift);
            store_i16(out.as_mut_ptr(), mask, y);
        }
    }
}

/// [`crate::kernels::Kernels::requant`].
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
pub fn requant(x: NormRow<'_>, out: NormOut<'_>, zeros: [i32; 2], scale: ScoreScale) {
    match x {
        NormRow::I8(x) => {
            let load = |at: usize, mask| {
                // SAFETY: masked lanes are elements of the row.
                _mm512_cvtepi8_epi32(unsafe { _mm_maskz_loadu_epi8(mask, x.as_ptr().add(at)) })
            };
            requant_of(x.len(), out, zeros, scale, load);
        }
        NormRow::I16(x) => {
            let load = |at: usize, mask| {
                // SAFETY: masked lanes are elements of the row.
                _mm512_cvtepi16_epi32(unsafe { _mm256_maskz_loadu_epi16(mask, x.as_ptr().add(at)) })
            };
            requant_of(x.len(), out, zeros, scale, load);
        }
    }
}

/// Requantizes `len` values that `load` gives as `i32`, from a position and under a mask.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
fn requant_of(
    len: usize,
    out: NormOut<'_>,
    zeros: [i32; 2],
    scale: ScoreScale,
    load: impl Fn(usize, __mmask16) -> __m512i,
) {
    let multiplier = Multiplier::new(_mm512_set1_epi32(scale.multiplier));
    let acc_shift = _mm_cvtsi32_si128(scale.acc_shift as i32);
    let [zero_in, zero_out] = zeros.map(|zero| _mm512_set1_epi32(zero));
    let values = |at, mask| {
        let shifted = _mm512_sll_epi32(_mm512_sub_epi32(load(at, mask), zero_in), acc_shift);
        _mm512_add_epi32(multiplier.mulhi_round(shifted), zero_out)
    };
    match out {
        NormOut::I8(out) => {
            let len = len.min(out.len());
            for at in (0..len).step_by(LANES) {
                let mask = lanes(len - at);
                // SAFETY: masked lanes are elements below `len`.
                unsafe { store_i8(out.as_mut_ptr().add(at), mask, values(at, mask)) };
            }
        }
        NormOut::I16(out) => {
            let len = len.min(out.len());
            for at in (0..len).step_by(LANES) {
                let mask = lanes(len - at);
                // SAFETY: masked lanes are elements below `len`.
                unsafe { store_i16(out.as_mut_ptr().add(at), mask, values(at, mask)) };
            }
        }
    }
}

/// [`crate::kernels::Kernels::lut_in_place`], with the byte permutations of VBMI: 64 look-ups in two of them.
#[target_feature(enable = "avx512bw,avx512vl,avx512vbmi")]
pub fn lut_in_place(data: &mut [i8], table: &[i8; 256]) {
    let [a, b, c, d] = [0, 1, 2, 3].map(|quarter: usize| {
        // SAFETY: a quarter of the table is 64 bytes.
        unsafe { _mm512_loadu_si512(table.as_ptr().add(quarter * BYTE_LANES).cast()) }
    });
    for data in data.chunks_mut(BYTE_LANES) {
        let mask = if data.len() == BYTE_LANES { u64::MAX } else { (1 << data.len()) - 1 };
        // SAFETY: masked lanes are elements of the chunk.
        unsafe {
            // 128 is added by the order of the halves: bits 0 to 6 choose the entry, the sign the half.
            let x = _mm512_maskz_loadu_epi8(mask, data.as_ptr());
            let (low, high) = (_mm512_permutex2var_epi8(a, x, b), _mm512_permutex2var_epi8(c, x, d));
            _mm512_mask_storeu_epi8(data.as_mut_ptr(), mask, _mm512_mask_blend_epi8(_mm512_movepi8_mask(x), high, low));
        }
    }
}

/// [`crate::kernels::Kernels::transpose`] of at most 4 rows of at most 16 bytes into `rows * cols` bytes: the rows are the
/// quarters of a vector, one byte permutation puts them in order. `false`: it was something else, nothing was written.
#[target_feature(enable = "avx512bw,avx512vl,avx512vbmi")]
pub fn interleave(x: &[i8], x_stride: usize, rows: usize, cols: usize, out: &mut [i8]) -> bool {
    let sizes = (1..=QUARTERS).contains(&rows) && (1..=LANES).contains(&cols) && out.len() == rows * cols;
    if !sizes || whole_rows(x.len(), x_stride, cols) < rows {
        return false;
    }
    let mut quarters = [_mm_setzero_si128(); QUARTERS];
    for (row, quarter) in quarters.iter_mut().enumerate().take(rows) {
        // SAFETY: masked lanes are elements of the row.
        *quarter = unsafe { _mm_maskz_loadu_epi8(lanes(cols), x.as_ptr().add(row * x_stride)) };
    }
    let [a, b, c, d] = quarters;
    let low = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(a), b);
    let high = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(c), d);
    let all = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high);
    // SAFETY: 64 bytes; masked lanes are bytes of the output.
    unsafe {
        let order = _mm512_loadu_si512(INTERLEAVED[rows - 1].as_ptr().cast());
        let mask = if out.len() >= BYTE_LANES { u64::MAX } else { (1 << out.len()) - 1 };
        _mm512_mask_storeu_epi8(out.as_mut_ptr(), mask, _mm512_permutexvar_epi8(order, all));
    }
    true
}

/// Vectors of 16 bytes in one of 64.
const QUARTERS: usize = 4;

/// `INTERLEAVED[rows - 1][col * rows + row]` is the place of element `col` of quarter `row`.
static INTERLEAVED: [[u8; BYTE_LANES]; QUARTERS] = {
    let mut table = [[0; BYTE_LANES]; QUARTERS];
    let mut rows = 1;
    while rows <= QUARTERS {
        let mut at = 0;
        while at < LANES * rows {
            table[rows - 1][at] = (at % rows * LANES + at / rows) as u8;
            at += 1;
        }
        rows += 1;
    }
    table
};
