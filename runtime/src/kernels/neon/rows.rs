//! Rows between the products: exponentials, division, normalization, tables, additions, transposition.
//!
//! `mulhi_round(a, b)` is `(2ab >> 32 + 1) >> 1`: SQDMULH and a rounding shift by one, which saturates nowhere since one
//! factor is never -2^31. Per eight elements, beside loads and stores:
//!
//! | row | instructions |
//! |---|---|
//! | scores to distances | 2 SQDMULH, 2 SHSUB, 2 SQXTN |
//! | distances to exponentials, 16 bits | SHL, AND, 2 SQDMULH, 2 SUB, USHR, NEG, USHL |
//! | to 8 bits, and their sum | RSHRN, half of EOR, UADDLP, UADALP |
//! | sums times the row's scale | 2 SQDMULH, 2 SRSHL, 2 ADD, 3 SQXTN |
//! | statistics of a normalization | SADALP, SMULL, SMLAL2, UADALP |
//! | its values, 8 bits | 2 SXTL, 2 MUL, 2 ADD, 2 SQDMULH, 2 SRSHR, 2 SQDMULH, 2 SRSRA, 2 SQSHRN, SQXTN |
//! | requantization | 2 SXTL, 2 SUB, 2 SSHL, 2 SQDMULH, 2 MOV, 2 SRSRA, 2 SQXTN, SQXTN |
//! | a table, sixteen bytes | TBL, 3 SUB, 3 TBX |
//! | a sum of two 16-bit rows | 4 SMLAL, 2 SSHL, 2 SQXTN |

use crate::arith::exp::{EXP2_A, EXP2_B, EXP2_ONE, RowScale, SCORE_FRACTION_BITS, exp_u8, exp_u16};
use crate::arith::norm::{FRACTION_I8, FRACTION_I16, RowNorm, affine};
use crate::arith::requant::{sat_i8, sat_i16};
use crate::kernels::{ExpRow, LUT_I16_ENTRIES, NormJob, NormOut, NormRow, ScoreScale, portable, whole_rows};
use core::arch::aarch64::*;

/// Elements that most loops take at a time.
const LANES: usize = 8;
/// Bytes of a vector.
const BYTES: usize = 16;

/// [`crate::kernels::Kernels::scale_scores`].
pub fn scale_scores(scores: &mut [i32], scale: ScoreScale) {
    let (chunks, rest) = scores.as_chunks_mut::<4>();
    // SAFETY: every chunk has four values.
    unsafe {
        let (shift, multiplier) = (vdupq_n_s32(scale.acc_shift as i32), vdupq_n_s32(scale.multiplier));
        for chunk in chunks {
            let shifted = vshlq_s32(vld1q_s32(chunk.as_ptr()), shift);
            vst1q_s32(chunk.as_mut_ptr(), vrshrq_n_s32::<1>(vqdmulhq_s32(shifted, multiplier)));
        }
    }
    portable::scale_scores(rest, scale);
}

/// 16-bit exponentials of distances below 2^15: [`exp_u16`].
#[inline(always)]
pub fn exp_lanes(distance: uint16x8_t) -> uint16x8_t {
    const { assert!(SCORE_FRACTION_BITS == 8 && EXP2_A < 1 << 15 && EXP2_B < 1 << 7 && EXP2_ONE < 1 << 15) }
    // SAFETY: NEON is in every AArch64.
    unsafe {
        // 128 times the fraction: a doubled product's high half is then the fraction times the factor, over 256.
        let fraction = vreinterpretq_s16_u16(vandq_u16(vshlq_n_u16::<7>(distance), vdupq_n_u16(0x7f80)));
        let slope = vqdmulhq_s16(fraction, vdupq_n_s16((EXP2_B << SCORE_FRACTION_BITS) as i16));
        let slope = vsubq_s16(vdupq_n_s16(EXP2_A as i16), slope);
        let mantissa = vsubq_s16(vdupq_n_s16(EXP2_ONE as i16), vqdmulhq_s16(fraction, slope));
        let octaves = vnegq_s16(vreinterpretq_s16_u16(vshrq_n_u16::<8>(distance)));
        vshlq_u16(vreinterpretq_u16_s16(mantissa), octaves)
    }
}

/// Distances of eight scores below `max`, as unsigned numbers that saturate at 2^15 - 1.
#[inline(always)]
pub fn distances(max: int32x4_t, low: int32x4_t, high: int32x4_t) -> uint16x8_t {
    // SAFETY: NEON is in every AArch64.
    unsafe {
        let [low, high] = [low, high].map(|scores| vreinterpretq_u32_s32(vsubq_s32(max, scores)));
        vminq_u16(vqmovn_high_u32(vqmovn_u32(low), high), vdupq_n_u16(i16::MAX as u16))
    }
}

/// Maximum value; `i32::MIN` of none.
#[inline(always)]
pub fn max_of(scores: &[i32]) -> i32 {
    let (chunks, rest) = scores.as_chunks::<LANES>();
    // SAFETY: every chunk has eight values.
    let max = unsafe {
        let mut max = [vdupq_n_s32(i32::MIN); 2];
        for chunk in chunks {
            max[0] = vmaxq_s32(max[0], vld1q_s32(chunk.as_ptr()));
            max[1] = vmaxq_s32(max[1], vld1q_s32(chunk.as_ptr().add(4)));
        }
        vmaxvq_s32(vmaxq_s32(max[0], max[1]))
    };
    rest.iter().copied().fold(max, i32::max)
}

/// [`crate::kernels::Kernels::exp_row`].
pub fn exp_row(scores: &[i32], out: ExpRow<'_>) -> u32 {
    let max = max_of(scores);
    match out {
        ExpRow::U8(out) => {
            let whole = scores.len().min(out.len()) / LANES * LANES;
            // SAFETY: eight elements from `at` lie below `whole`, in both.
            let mut sum = unsafe {
                let mut sums = vdupq_n_u32(0);
                for at in (0..whole).step_by(LANES) {
                    let e = vrshrn_n_u16::<7>(exp_lanes(distances_at(max, scores.as_ptr().add(at))));
                    vst1_u8(out.as_mut_ptr().add(at), e);
                    sums = vpadalq_u16(sums, vmovl_u8(e));
                }
                vaddvq_u32(sums)
            };
            for (e, &score) in out.iter_mut().zip(scores).skip(whole) {
                *e = exp_u8(max.wrapping_sub(score) as u32);
                sum += u32::from(*e);
            }
            sum
        }
        ExpRow::U16(out) => {
            let whole = scores.len().min(out.len()) / LANES * LANES;
            // SAFETY: eight elements from `at` lie below `whole`, in both.
            let mut sum = unsafe {
                let mut sums = vdupq_n_u32(0);
                for at in (0..whole).step_by(LANES) {
                    let e = exp_lanes(distances_at(max, scores.as_ptr().add(at)));
                    vst1q_u16(out.as_mut_ptr().add(at), e);
                    sums = vpadalq_u16(sums, e);
                }
                vaddvq_u32(sums)
            };
            for (e, &score) in out.iter_mut().zip(scores).skip(whole) {
                *e = exp_u16(max.wrapping_sub(score) as u32);
                sum += u32::from(*e);
            }
            sum
        }
    }
}

/// Distances of eight scores.
///
/// # Safety
/// There are eight.
#[inline(always)]
unsafe fn distances_at(max: i32, scores: *const i32) -> uint16x8_t {
    // SAFETY: the caller's contract.
    unsafe { distances(vdupq_n_s32(max), vld1q_s32(scores), vld1q_s32(scores.add(4))) }
}

/// [`RowScale::apply`] of four sums: the floor of `2 acc multiplier / 2^32`, then one rounding shift more than of the high
/// half, which is half of it.
#[inline(always)]
pub fn scaled(acc: int32x4_t, multiplier: int32x4_t, shift: int32x4_t) -> int32x4_t {
    // SAFETY: NEON is in every AArch64.
    unsafe { vrshlq_s32(vqdmulhq_s32(acc, multiplier), shift) }
}

/// The multiplier and the shift that [`scaled`] takes.
#[inline(always)]
pub fn scale_factors(scale: RowScale) -> (i32, i32) {
    (scale.multiplier, -(scale.shift as i32 + 1))
}

/// [`crate::kernels::Kernels::scale_row`].
pub fn scale_row(acc: &[i32], scale: RowScale, zero_point: i32, out: &mut [i8]) {
    let whole = acc.len().min(out.len()) / LANES * LANES;
    let (multiplier, shift) = scale_factors(scale);
    // SAFETY: eight elements from `at` lie below `whole`, in both.
    unsafe {
        let (multiplier, shift, zero) = (vdupq_n_s32(multiplier), vdupq_n_s32(shift), vdupq_n_s32(zero_point));
        for at in (0..whole).step_by(LANES) {
            let four = |at: usize| vaddq_s32(scaled(vld1q_s32(acc.as_ptr().add(at)), multiplier, shift), zero);
            let y = vqmovn_high_s32(vqmovn_s32(four(at)), four(at + 4));
            vst1_s8(out.as_mut_ptr().add(at), vqmovn_s16(y));
        }
    }
    portable::scale_row(acc.get(whole..).unwrap_or(&[]), scale, zero_point, out.get_mut(whole..).unwrap_or(&mut []));
}

/// [`crate::kernels::Kernels::norm_row`].
pub fn norm_row(job: &NormJob<'_>, x: NormRow<'_>, out: NormOut<'_>) {
    normalize(job, statistics(job, x), x, out);
}

/// [`crate::kernels::Kernels::norm_rows`]: the statistics of four rows, then their values. The reciprocal square root is one
/// product after the other, in which those of four rows overlap.
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
#[inline(always)]
fn statistics(job: &NormJob<'_>, x: NormRow<'_>) -> RowNorm {
    let (len, (mut sum, mut squares)) = match x {
        // SAFETY: `row_sums` asks for whole vectors of the row.
        NormRow::I8(x) => (x.len(), row_sums(x.len(), |at| unsafe { vmovl_s8(vld1_s8(x.as_ptr().add(at))) })),
        // SAFETY: `row_sums` asks for whole vectors of the row.
        NormRow::I16(x) => (x.len(), row_sums(x.len(), |at| unsafe { vld1q_s16(x.as_ptr().add(at)) })),
    };
    for at in len / LANES * LANES..len {
        let x = element(x, at);
        sum = sum.wrapping_add(x);
        squares += u64::from(x.unsigned_abs() * x.unsigned_abs());
    }
    RowNorm::from_sums(sum, squares, len as u32, job.rms, job.eps)
}

/// Element `at` of a row; 0 beyond its end.
#[inline(always)]
fn element(x: NormRow<'_>, at: usize) -> i32 {
    match x {
        NormRow::I8(x) => x.get(at).map_or(0, |&x| i32::from(x)),
        NormRow::I16(x) => x.get(at).map_or(0, |&x| i32::from(x)),
    }
}

/// Sum and sum of squares of the whole vectors among `len` elements, which `load` gives.
#[inline(always)]
fn row_sums(len: usize, load: impl Fn(usize) -> int16x8_t) -> (i32, u64) {
    // SAFETY: NEON is in every AArch64.
    unsafe {
        let (mut sum, mut squares) = (vdupq_n_s32(0), vdupq_n_u64(0));
        for at in (0..len / LANES * LANES).step_by(LANES) {
            let x = load(at);
            sum = vpadalq_s16(sum, x);
            // Two squares are at most 2^31: as unsigned they fit.
            let two = vmlal_high_s16(vmull_s16(vget_low_s16(x), vget_low_s16(x)), x, x);
            squares = vpadalq_u32(squares, vreinterpretq_u32_s32(two));
        }
        (vaddvq_s32(sum), vaddvq_u64(squares))
    }
}

/// The values of a row with these statistics.
#[inline(always)]
fn normalize(job: &NormJob<'_>, row: RowNorm, x: NormRow<'_>, out: NormOut<'_>) {
    let len = job.gamma.len().min(job.beta.len());
    match x {
        NormRow::I8(values) => {
            // SAFETY: `store` asks for whole vectors below the length it has.
            let load = |at: usize| unsafe { vmovl_s8(vld1_s8(values.as_ptr().add(at))) };
            store(job, row, x, out, len.min(values.len()), load);
        }
        NormRow::I16(values) => {
            // SAFETY: `store` asks for whole vectors below the length it has.
            let load = |at: usize| unsafe { vld1q_s16(values.as_ptr().add(at)) };
            store(job, row, x, out, len.min(values.len()), load);
        }
    }
}

/// Writes `len` elements, at most as many as the output has; `load` gives whole vectors of `x`.
#[inline(always)]
fn store(
    job: &NormJob<'_>,
    row: RowNorm,
    x: NormRow<'_>,
    out: NormOut<'_>,
    len: usize,
    load: impl Fn(usize) -> int16x8_t,
) {
    let parameters = |at: usize| {
        let of = |values: &[i32]| values.get(at).copied().unwrap_or(0);
        (of(job.gamma), of(job.beta))
    };
    let value = |at: usize| {
        let (gamma, beta) = parameters(at);
        affine(row.normalize(element(x, at)), gamma, beta)
    };
    let line = Line::new(job, row);
    match out {
        NormOut::I8(out) => {
            let len = len.min(out.len());
            let whole = len / LANES * LANES;
            for at in (0..whole).step_by(LANES) {
                // SAFETY: eight elements from `at` lie below `whole`, in all slices.
                unsafe {
                    let [low, high] = line.values(at, load(at));
                    const FRACTION: i32 = FRACTION_I8 as i32;
                    let y = vqshrn_high_n_s32::<FRACTION>(vqshrn_n_s32::<FRACTION>(low), high);
                    vst1_s8(out.as_mut_ptr().add(at), vqmovn_s16(y));
                }
            }
            for (at, out) in out.iter_mut().enumerate().take(len).skip(whole) {
                *out = sat_i8(value(at) >> FRACTION_I8);
            }
        }
        NormOut::I16(out) => {
            let len = len.min(out.len());
            let whole = len / LANES * LANES;
            for at in (0..whole).step_by(LANES) {
                // SAFETY: eight elements from `at` lie below `whole`, in all slices.
                unsafe {
                    let [low, high] = line.values(at, load(at));
                    const FRACTION: i32 = FRACTION_I16 as i32;
                    let y = vqshrn_high_n_s32::<FRACTION>(vqshrn_n_s32::<FRACTION>(low), high);
                    vst1q_s16(out.as_mut_ptr().add(at), y);
                }
            }
            for (at, out) in out.iter_mut().enumerate().take(len).skip(whole) {
                *out = sat_i16(value(at) >> FRACTION_I16);
            }
        }
    }
}

/// [`RowNorm::normalize`] and [`affine`] of a row.
struct Line<'a> {
    job: &'a NormJob<'a>,
    factor: int32x4_t,
    offset: int32x4_t,
    rsqrt: int32x4_t,
    /// Left shift by a negative number.
    right: int32x4_t,
    shifted: bool,
}

impl<'a> Line<'a> {
    #[inline(always)]
    fn new(job: &'a NormJob<'a>, row: RowNorm) -> Self {
        let line = row.affine();
        // SAFETY: NEON is in every AArch64.
        let [factor, offset, rsqrt, right] =
            [line.factor, line.offset, line.rsqrt, -(line.right as i32)].map(|value| unsafe { vdupq_n_s32(value) });
        Self { job, factor, offset, rsqrt, right, shifted: line.right != 0 }
    }

    /// Eight values with the fractional bits of gamma and beta. The reciprocal root is at most 2^30, so that no factor of
    /// gamma is -2^31.
    ///
    /// # Safety
    /// Gamma and beta have eight elements from `at`.
    #[inline(always)]
    unsafe fn values(&self, at: usize, x: int16x8_t) -> [int32x4_t; 2] {
        // SAFETY: the caller's contract.
        unsafe {
            let (gamma, beta) = (self.job.gamma.as_ptr().add(at), self.job.beta.as_ptr().add(at));
            let x = [vmovl_s16(vget_low_s16(x)), vmovl_high_s16(x)];
            let c = x.map(|x| vmlaq_s32(self.offset, x, self.factor));
            // The same for a whole row: the compiler makes two loops of it.
            let [low, high] = if self.shifted { c.map(|c| vshlq_s32(c, self.right)) } else { c };
            let value = |c, at: usize| {
                let normalized = vrshrq_n_s32::<1>(vqdmulhq_s32(c, self.rsqrt));
                let product = vqdmulhq_s32(normalized, vld1q_s32(gamma.add(at)));
                vrsraq_n_s32::<1>(vld1q_s32(beta.add(at)), product)
            };
            [value(low, 0), value(high, 4)]
        }
    }
}

/// [`crate::kernels::Kernels::requant`].
pub fn requant(x: NormRow<'_>, out: NormOut<'_>, zeros: [i32; 2], scale: ScoreScale) {
    match x {
        NormRow::I8(values) => {
            // SAFETY: `requant_of` asks for whole vectors of the row.
            let load = |at: usize| unsafe { vmovl_s8(vld1_s8(values.as_ptr().add(at))) };
            requant_of(values.len(), out, zeros, scale, load, |at| NormRow::I8(values.get(at..).unwrap_or(&[])));
        }
        NormRow::I16(values) => {
            // SAFETY: `requant_of` asks for whole vectors of the row.
            let load = |at: usize| unsafe { vld1q_s16(values.as_ptr().add(at)) };
            requant_of(values.len(), out, zeros, scale, load, |at| NormRow::I16(values.get(at..).unwrap_or(&[])));
        }
    }
}

/// Requantizes `len` values, at most as many as the output has; `load` gives whole vectors, `rest` what follows them.
#[inline(always)]
fn requant_of<'a>(
    len: usize,
    out: NormOut<'_>,
    zeros: [i32; 2],
    scale: ScoreScale,
    load: impl Fn(usize) -> int16x8_t,
    rest: impl Fn(usize) -> NormRow<'a>,
) {
    // SAFETY: NEON is in every AArch64.
    let [zero_in, zero_out, shift, multiplier] =
        [zeros[0], zeros[1], scale.acc_shift as i32, scale.multiplier].map(|value| unsafe { vdupq_n_s32(value) });
    let values = |at: usize| {
        // SAFETY: NEON is in every AArch64.
        unsafe {
            let x = load(at);
            let [low, high] = [vmovl_s16(vget_low_s16(x)), vmovl_high_s16(x)].map(|x| {
                let product = vqdmulhq_s32(vshlq_s32(vsubq_s32(x, zero_in), shift), multiplier);
                vrsraq_n_s32::<1>(zero_out, product)
            });
            vqmovn_high_s32(vqmovn_s32(low), high)
        }
    };
    match out {
        NormOut::I8(out) => {
            let whole = len.min(out.len()) / LANES * LANES;
            for at in (0..whole).step_by(LANES) {
                // SAFETY: eight elements from `at` lie below `whole`.
                unsafe { vst1_s8(out.as_mut_ptr().add(at), vqmovn_s16(values(at))) };
            }
            portable::requant(rest(whole), NormOut::I8(out.get_mut(whole..).unwrap_or(&mut [])), zeros, scale);
        }
        NormOut::I16(out) => {
            let whole = len.min(out.len()) / LANES * LANES;
            for at in (0..whole).step_by(LANES) {
                // SAFETY: eight elements from `at` lie below `whole`.
                unsafe { vst1q_s16(out.as_mut_ptr().add(at), values(at)) };
            }
            portable::requant(rest(whole), NormOut::I16(out.get_mut(whole..).unwrap_or(&mut [])), zeros, scale);
        }
    }
}

/// [`crate::kernels::Kernels::lut_in_place`].
pub fn lut_in_place(data: &mut [i8], table: &[i8; 256]) {
    let (chunks, rest) = data.as_chunks_mut::<BYTES>();
    // SAFETY: a quarter of the table is 64 bytes, a chunk sixteen.
    unsafe {
        // As an unsigned index, a value from 0 on is in the upper half of the table.
        let [a, b, c, d] = [128, 192, 0, 64].map(|at| vld1q_s8_x4(table.as_ptr().add(at)));
        let quarter = vdupq_n_u8(64);
        for chunk in chunks {
            let x = vreinterpretq_u8_s8(vld1q_s8(chunk.as_ptr()));
            let y = vqtbl4q_s8(a, x);
            let x = vsubq_u8(x, quarter);
            let y = vqtbx4q_s8(y, b, x);
            let x = vsubq_u8(x, quarter);
            let y = vqtbx4q_s8(y, c, x);
            vst1q_s8(chunk.as_mut_ptr(), vqtbx4q_s8(y, d, vsubq_u8(x, quarter)));
        }
    }
    portable::lut_in_place(rest, table);
}

/// [`crate::kernels::Kernels::lut_i16_in_place`]: an entry and the next by one load of a lane, eight lines between them by
/// SMULL and SMLAL.
pub fn lut_i16_in_place(data: &mut [i16], table: &[i16; LUT_I16_ENTRIES]) {
    let (chunks, rest) = data.as_chunks_mut::<LANES>();
    for chunk in chunks {
        // SAFETY: an index is 511 at most; that entry and the next are the last four bytes of the table.
        unsafe {
            let at = veorq_u16(vreinterpretq_u16_s16(vld1q_s16(chunk.as_ptr())), vdupq_n_u16(0x8000));
            let mut indices = [0u16; LANES];
            vst1q_u16(indices.as_mut_ptr(), vshrq_n_u16::<7>(at));
            let pairs = indices.map(|index| table.as_ptr().add(usize::from(index)).cast::<u32>().read_unaligned());
            let [low, high] =
                [vld1q_u32(pairs.as_ptr()), vld1q_u32(pairs.as_ptr().add(4))].map(|x| vreinterpretq_s16_u32(x));
            let (entries, next) = (vuzp1q_s16(low, high), vuzp2q_s16(low, high));
            let fraction = vreinterpretq_s16_u16(vandq_u16(at, vdupq_n_u16(127)));
            let other = vsubq_s16(vdupq_n_s16(128), fraction);
            let first = vmull_s16(vget_low_s16(entries), vget_low_s16(other));
            let first = vmlal_s16(first, vget_low_s16(next), vget_low_s16(fraction));
            let second = vmlal_high_s16(vmull_high_s16(entries, other), next, fraction);
            vst1q_s16(chunk.as_mut_ptr(), vrshrn_high_n_s32::<7>(vrshrn_n_s32::<7>(first), second));
        }
    }
    portable::lut_i16_in_place(rest, table);
}

/// [`crate::kernels::Kernels::add_i16_in_place`].
pub fn add_i16_in_place(out: &mut [i16], b: &[i16], ma: i32, mb: i32, bias: i32, shift: u32) {
    let narrow = i16::try_from(ma).ok().zip(i16::try_from(mb).ok());
    let whole = out.len().min(b.len()) / LANES * LANES;
    // SAFETY: eight elements from `at` lie below `whole`, in both.
    unsafe {
        let (start, right) = (vdupq_n_s32(bias), vdupq_n_s32(-(shift as i32)));
        let finish = |sums: [int32x4_t; 2], to: *mut i16| {
            let [low, high] = sums.map(|sums| vshlq_s32(sums, right));
            vst1q_s16(to, vqmovn_high_s32(vqmovn_s32(low), high));
        };
        if let Some((ma, mb)) = narrow {
            let (ma, mb) = (vdupq_n_s16(ma), vdupq_n_s16(mb));
            for at in (0..whole).step_by(LANES) {
                let (a, b) = (vld1q_s16(out.as_ptr().add(at)), vld1q_s16(b.as_ptr().add(at)));
                let low = vmlal_s16(start, vget_low_s16(a), vget_low_s16(ma));
                let low = vmlal_s16(low, vget_low_s16(b), vget_low_s16(mb));
                let high = vmlal_high_s16(vmlal_high_s16(start, a, ma), b, mb);
                finish([low, high], out.as_mut_ptr().add(at));
            }
        } else {
            for at in (0..whole).step_by(LANES) {
                let (a, b) = (vld1q_s16(out.as_ptr().add(at)), vld1q_s16(b.as_ptr().add(at)));
                let sum = |a, b| vmlaq_n_s32(vmlaq_n_s32(start, vmovl_s16(a), ma), vmovl_s16(b), mb);
                let low = sum(vget_low_s16(a), vget_low_s16(b));
                finish([low, sum(vget_high_s16(a), vget_high_s16(b))], out.as_mut_ptr().add(at));
            }
        }
    }
    let (out, b) = (out.get_mut(whole..).unwrap_or(&mut []), b.get(whole..).unwrap_or(&[]));
    portable::add_i16_in_place(out, b, ma, mb, bias, shift);
}

/// [`crate::kernels::Kernels::transpose`].
pub fn transpose(x: &[i8], x_stride: usize, rows: usize, cols: usize, out: &mut [i8], out_stride: usize) {
    let whole = cols.checked_mul(out_stride).is_some_and(|len| out.len() >= len) && rows <= out_stride;
    if !whole || rows == 0 || whole_rows(x.len(), x_stride, cols) < rows {
        return portable::transpose(x, x_stride, rows, cols, out, out_stride);
    }
    if out_stride == rows && rows <= 4 && cols <= BYTES {
        // SAFETY: the rows and the output have been measured.
        return unsafe { interleave(x.as_ptr(), x_stride, rows, cols, out.as_mut_ptr()) };
    }
    for column in (0..cols).step_by(LANES) {
        let columns = (cols - column).min(LANES);
        for row in (0..out_stride).step_by(BYTES) {
            let count = rows.saturating_sub(row).min(BYTES);
            // SAFETY: rows below `rows` have the columns; the output has the columns with their stride.
            unsafe {
                let block = transposed(x.as_ptr().wrapping_add(row * x_stride + column), x_stride, count, columns);
                let width = (out_stride - row).min(BYTES);
                for (index, block) in block.into_iter().enumerate().take(columns) {
                    let to = out.as_mut_ptr().add((column + index) * out_stride + row);
                    if width == BYTES {
                        vst1q_s8(to, block);
                    } else {
                        let mut bytes = [0i8; BYTES];
                        vst1q_s8(bytes.as_mut_ptr(), block);
                        core::ptr::copy_nonoverlapping(bytes.as_ptr(), to, width);
                    }
                }
            }
        }
    }
}

/// Eight columns of sixteen rows, of which `rows` and `columns` exist; zeros elsewhere.
///
/// # Safety
/// The rows have the columns.
#[inline(always)]
pub unsafe fn transposed(x: *const i8, stride: usize, rows: usize, columns: usize) -> [int8x16_t; LANES] {
    // SAFETY: the caller's contract.
    unsafe {
        let mut r = [vdup_n_s8(0); BYTES];
        if rows == BYTES && columns == LANES {
            for (index, row) in r.iter_mut().enumerate() {
                *row = vld1_s8(x.add(index * stride));
            }
        } else {
            for (index, row) in r.iter_mut().enumerate().take(rows) {
                let mut bytes = [0i8; LANES];
                core::ptr::copy_nonoverlapping(x.add(index * stride), bytes.as_mut_ptr(), columns);
                *row = vld1_s8(bytes.as_ptr());
            }
        }
        // Rows 8 apart side by side, then 4, 2 and 1 apart: every step doubles the rows of a column that lie together.
        let pair = |a: int8x8_t, b: int8x8_t| {
            let pairs = vzip_s8(a, b);
            vcombine_s8(pairs.0, pairs.1)
        };
        let a = [0, 1, 2, 3, 4, 5, 6, 7].map(|i| pair(r[i], r[i + 8]));
        let [b0, b1, b2, b3] = [0, 1, 2, 3].map(|i| [vzip1q_s8(a[i], a[i + 4]), vzip2q_s8(a[i], a[i + 4])]);
        let zip = |a: [int8x16_t; 2], b: [int8x16_t; 2]| {
            [vzip1q_s8(a[0], b[0]), vzip2q_s8(a[0], b[0]), vzip1q_s8(a[1], b[1]), vzip2q_s8(a[1], b[1])]
        };
        let (even, odd) = (zip(b0, b2), zip(b1, b3));
        let last = |i: usize| [vzip1q_s8(even[i], odd[i]), vzip2q_s8(even[i], odd[i])];
        let [[c0, c1], [c2, c3], [c4, c5], [c6, c7]] = [last(0), last(1), last(2), last(3)];
        [c0, c1, c2, c3, c4, c5, c6, c7]
    }
}

/// Transposes at most 4 rows of at most 16 bytes into `rows * cols` bytes: ST2, ST3 or ST4 of the rows.
///
/// # Safety
/// There are such rows, at least one, and such an output.
unsafe fn interleave(x: *const i8, stride: usize, rows: usize, cols: usize, out: *mut i8) {
    // SAFETY: the caller's contract.
    unsafe {
        let row = |index: usize| super::tiles::elements(x.add(index.min(rows - 1) * stride), cols);
        let mut bytes = [0i8; 4 * BYTES];
        let to = if cols == BYTES { out } else { bytes.as_mut_ptr() };
        match rows {
            1 => vst1q_s8(to, row(0)),
            2 => vst2q_s8(to, int8x16x2_t(row(0), row(1))),
            3 => vst3q_s8(to, int8x16x3_t(row(0), row(1), row(2))),
            _ => vst4q_s8(to, int8x16x4_t(row(0), row(1), row(2), row(3))),
        }
        if cols < BYTES {
            core::ptr::copy_nonoverlapping(bytes.as_ptr(), out, rows * cols);
        }
    }
}
