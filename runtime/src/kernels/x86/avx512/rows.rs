//! Loops over one row, sixteen elements of 32 bits at a time; the last ones masked.

use super::{LANES, Multiplier, lanes, load};
use crate::arith::exp::{EXP2_A, EXP2_B, EXP2_ONE, RowScale, SCORE_FRACTION_BITS};
use crate::arith::norm::{FRACTION_I8, FRACTION_I16, RowNorm};
use crate::kernels::{ExpRow, NormJob, NormOut, NormRow, ScoreScale, whole_rows};
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

/// The greatest of a row.
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
/// their sum. Distances beyond [`FAR`] count as [`FAR`], whose exponential is 0 like theirs.
///
/// 64 at a time: 7 instructions for 32 exponentials, 2 for their rounding, 1 to pack, 1 to order, 1 to add up.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
pub(super) fn exps_u8(len: usize, out: &mut [u8], distance: impl Fn(usize, __mmask16) -> __m512i) -> u32 {
    let len = len.min(out.len());
    let mut sum = _mm512_setzero_si512();
    let whole = len / BYTE_LANES * BYTE_LANES;
    for at in (0..whole).step_by(BYTE_LANES) {
        let pair = |at| _mm512_packus_epi32(distance(at, FULL), distance(at + LANES, FULL));
        let [low, high] = [pair(at), pair(at + 2 * LANES)].map(|d| round_to_u8(exp_lanes(d)));
        let bytes = _mm512_permutexvar_epi32(quarters_in_order(), _mm512_packus_epi16(low, high));
        sum = _mm512_dpbusd_epi32(sum, bytes, _mm512_set1_epi8(1));
        // SAFETY: 64 elements from `at` lie below `whole`.
        unsafe { _mm512_storeu_si512(out.as_mut_ptr().add(at).cast(), bytes) };
    }
    for at in (whole..len).step_by(LANES) {
        let mask = lanes(len - at);
        let e = low_halves(mask, round_to_u8(exp_lanes(nearby(distance(at, mask)))));
        sum = _mm512_add_epi32(sum, e);
        // SAFETY: masked lanes are elements below `len`.
        unsafe { _mm_mask_storeu_epi8(out.as_mut_ptr().add(at).cast(), mask, _mm512_cvtepi32_epi8(e)) };
    }
    _mm512_reduce_add_epi32(sum) as u32
}

/// 16-bit exponentials of `len` distances, 32 at a time; otherwise as [`exps_u8`].
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
pub(super) fn exps_u16(len: usize, out: &mut [u16], distance: impl Fn(usize, __mmask16) -> __m512i) -> u32 {
    let len = len.min(out.len());
    let mut sum = _mm512_setzero_si512();
    let whole = len / HALF_LANES * HALF_LANES;
    for at in (0..whole).step_by(HALF_LANES) {
        let e = exp_lanes(_mm512_packus_epi32(distance(at, FULL), distance(at + LANES, FULL)));
        sum = _mm512_add_epi32(sum, _mm512_madd_epi16(e, _mm512_set1_epi16(1)));
        let e = _mm512_permutexvar_epi64(_mm512_set_epi64(7, 5, 3, 1, 6, 4, 2, 0), e);
        // SAFETY: 32 elements from `at` lie below `whole`.
        unsafe { _mm512_storeu_si512(out.as_mut_ptr().add(at).cast(), e) };
    }
    for at in (whole..len).step_by(LANES) {
        let mask = lanes(len - at);
        let e = low_halves(mask, exp_lanes(nearby(distance(at, mask))));
        sum = _mm512_add_epi32(sum, e);
        // SAFETY: masked lanes are elements below `len`.
        unsafe { _mm256_mask_storeu_epi16(out.as_mut_ptr().add(at).cast(), mask, _mm512_cvtepi32_epi16(e)) };
    }
    _mm512_reduce_add_epi32(sum) as u32
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
    _mm512_srlv_epi16(mantissa, _mm512_srli_epi16::<8>(distance))
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
            let y = _mm512_cvtsepi32_epi8(_mm512_add_epi32(y, _mm512_set1_epi32(zero_point)));
            _mm_mask_storeu_epi8(out.as_mut_ptr(), mask, y);
        }
    }
}

/// [`crate::kernels::Kernels::norm_row`].
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
pub fn norm_row(job: &NormJob<'_>, x: NormRow<'_>, out: NormOut<'_>) {
    let (sum, squares) = match x {
        NormRow::I8(x) => row_sums(x.len(), |at, mask| {
            // SAFETY: masked lanes are elements of the row.
            _mm512_cvtepi8_epi16(unsafe { _mm256_maskz_loadu_epi8(mask, x.as_ptr().add(at)) })
        }),
        NormRow::I16(x) => row_sums(x.len(), |at, mask| {
            // SAFETY: masked lanes are elements of the row.
            unsafe { _mm512_maskz_loadu_epi16(mask, x.as_ptr().add(at)) }
        }),
    };
    match x {
        NormRow::I8(x) => {
            let row = Normalize::new(job, RowNorm::from_sums(sum, squares, x.len() as u32, job.rms, job.eps));
            row.store(x.len(), out, |at, mask| {
                // SAFETY: masked lanes are elements of the row.
                _mm512_cvtepi8_epi32(unsafe { _mm_maskz_loadu_epi8(mask, x.as_ptr().add(at)) })
            });
        }
        NormRow::I16(x) => {
            let row = Normalize::new(job, RowNorm::from_sums(sum, squares, x.len() as u32, job.rms, job.eps));
            row.store(x.len(), out, |at, mask| {
                // SAFETY: masked lanes are elements of the row.
                _mm512_cvtepi16_epi32(unsafe { _mm256_maskz_loadu_epi16(mask, x.as_ptr().add(at)) })
            });
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
    for at in (0..len).step_by(HALF_LANES) {
        let mask = if len - at >= HALF_LANES { u32::MAX } else { (1 << (len - at)) - 1 };
        let x = load(at, mask);
        sum = _mm512_add_epi32(sum, _mm512_madd_epi16(x, _mm512_set1_epi16(1)));
        // Two squares are at most 2^31: as unsigned they fit.
        let pairs = _mm512_madd_epi16(x, x);
        squares = _mm512_add_epi64(squares, _mm512_and_si512(pairs, low_half));
        squares = _mm512_add_epi64(squares, _mm512_srli_epi64::<32>(pairs));
    }
    (_mm512_reduce_add_epi32(sum), _mm512_reduce_add_epi64(squares) as u64)
}

/// [`RowNorm::normalize`] and [`crate::arith::norm::affine`] of a row.
struct Normalize<'a> {
    job: &'a NormJob<'a>,
    factor: __m512i,
    offset: __m512i,
    right: __m128i,
    rsqrt: Multiplier,
}

impl<'a> Normalize<'a> {
    #[inline]
    #[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
    fn new(job: &'a NormJob<'a>, row: RowNorm) -> Self {
        let line = row.affine();
        Self {
            job,
            factor: _mm512_set1_epi32(line.factor),
            offset: _mm512_set1_epi32(line.offset),
            right: _mm_cvtsi32_si128(line.right as i32),
            rsqrt: Multiplier::new(_mm512_set1_epi32(line.rsqrt)),
        }
    }

    /// Writes `len` elements that `load` gives as `i32`, from a position and under a mask.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
    fn store(&self, len: usize, out: NormOut<'_>, load: impl Fn(usize, __mmask16) -> __m512i) {
        let len = len.min(self.job.gamma.len()).min(self.job.beta.len());
        match out {
            NormOut::I8(out) => {
                for (at, out) in (0..len).step_by(LANES).zip(out.chunks_mut(LANES)) {
                    let mask = lanes(len - at) & lanes(out.len());
                    let y = _mm512_srai_epi32::<FRACTION_I8>(self.lanes(at, mask, load(at, mask)));
                    // SAFETY: masked lanes are elements of the chunk.
                    unsafe { _mm_mask_storeu_epi8(out.as_mut_ptr(), mask, _mm512_cvtsepi32_epi8(y)) }
                }
            }
            NormOut::I16(out) => {
                for (at, out) in (0..len).step_by(LANES).zip(out.chunks_mut(LANES)) {
                    let mask = lanes(len - at) & lanes(out.len());
                    let y = _mm512_srai_epi32::<FRACTION_I16>(self.lanes(at, mask, load(at, mask)));
                    // SAFETY: masked lanes are elements of the chunk.
                    unsafe { _mm256_mask_storeu_epi16(out.as_mut_ptr(), mask, _mm512_cvtsepi32_epi16(y)) }
                }
            }
        }
    }

    /// Sixteen elements with the fractional bits of gamma and beta; masked lanes are below the length of both.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
    fn lanes(&self, at: usize, mask: __mmask16, x: __m512i) -> __m512i {
        let c = _mm512_add_epi32(_mm512_mullo_epi32(x, self.factor), self.offset);
        let t = self.rsqrt.mulhi_round(_mm512_sra_epi32(c, self.right));
        // SAFETY: masked lanes are elements of both.
        let (gamma, beta) = unsafe {
            let gamma = _mm512_maskz_loadu_epi32(mask, self.job.gamma.as_ptr().add(at));
            (gamma, _mm512_maskz_loadu_epi32(mask, self.job.beta.as_ptr().add(at)))
        };
        _mm512_add_epi32(Multiplier::new(gamma).mulhi_round(t), beta)
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
            _mm256_mask_storeu_epi16(out.as_mut_ptr(), mask, _mm512_cvtsepi32_epi16(y));
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
