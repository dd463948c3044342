//! Rows between the products, four elements of 32 bits at a time: exponentials, division, normalization, additions and
//! requantization. What is left of a row is portable.
//!
//! WebAssembly has no high half of a 32-bit product and no shift by lanes: [`mulhi_round`] takes two products of 64 bits,
//! [`powers`] makes a shift a product.

use crate::arith::exp::{EXP2_A, EXP2_B, EXP2_ONE, RowScale, SCORE_FRACTION_BITS, exp_u8, exp_u16};
use crate::arith::norm::{FRACTION_I8, FRACTION_I16, RowNorm, affine};
use crate::arith::requant::{sat_i8, sat_i16};
use crate::kernels::{ExpRow, NormJob, NormOut, NormRow, ScoreScale, portable};
use core::arch::wasm32::*;

/// Elements that a turn of a loop takes.
const LANES: usize = 4;

/// Four lanes.
#[inline(always)]
pub fn vector(from: &[i32; LANES]) -> v128 {
    // SAFETY: there are 16 bytes, at any address.
    unsafe { v128_load(from.as_ptr().cast()) }
}

/// The lanes of a vector.
#[inline(always)]
pub fn lanes(from: v128) -> [i32; LANES] {
    let mut to = [0; LANES];
    // SAFETY: there are 16 bytes, at any address.
    unsafe { v128_store(to.as_mut_ptr().cast(), from) };
    to
}

/// Four lanes of 16-bit values.
#[inline(always)]
fn from_i16(from: &[i16; LANES]) -> v128 {
    // SAFETY: there are 8 bytes, at any address.
    i32x4_extend_low_i16x8(unsafe { v128_load64_zero(from.as_ptr().cast()) })
}

/// Four lanes of 8-bit values.
#[inline(always)]
fn from_i8(from: &[i8; LANES]) -> v128 {
    // SAFETY: there are 4 bytes, at any address.
    i32x4_extend_low_i16x8(i16x8_extend_low_i8x16(unsafe { v128_load32_zero(from.as_ptr().cast()) }))
}

/// The lanes limited to 16 bits.
#[inline(always)]
pub fn to_i16(x: v128) -> [i16; LANES] {
    let bits = i64x2_extract_lane::<0>(i16x8_narrow_i32x4(x, x)) as u64;
    [0, 16, 32, 48].map(|shift| (bits >> shift) as i16)
}

/// The lanes and `zero_point`, limited to 8 bits.
#[inline(always)]
pub fn to_i8(x: v128, zero_point: i32) -> [i8; LANES] {
    let x = i32x4_add(x, i32x4_splat(zero_point));
    let x = i16x8_narrow_i32x4(x, x);
    (i32x4_extract_lane::<0>(i8x16_narrow_i16x8(x, x))).to_le_bytes().map(|byte| byte as i8)
}

/// The sum, modulo 2^32.
#[inline(always)]
pub fn plus(a: v128, b: v128) -> v128 {
    i32x4_add(a, b)
}

/// `round_half_up(a * b / 2^32)`.
#[inline(always)]
fn mulhi_round(a: v128, b: v128) -> v128 {
    let half = i64x2_splat(1 << 31);
    let (low, high) = (i64x2_extmul_low_i32x4(a, b), i64x2_extmul_high_i32x4(a, b));
    i32x4_shuffle::<1, 3, 5, 7>(i64x2_add(low, half), i64x2_add(high, half))
}

/// `floor(a * b / 2^32)`.
#[inline(always)]
fn mulhi_floor(a: v128, b: v128) -> v128 {
    i32x4_shuffle::<1, 3, 5, 7>(i64x2_extmul_low_i32x4(a, b), i64x2_extmul_high_i32x4(a, b))
}

/// The sums of a panel times its multipliers.
#[inline(always)]
pub fn requantized(sums: v128, acc_shift: u32, multipliers: v128) -> v128 {
    mulhi_round(i32x4_shl(sums, acc_shift), multipliers)
}

/// `rshift_round(out, shift)`.
#[inline(always)]
pub fn residual(out: &[i16; LANES], shift: u32) -> v128 {
    let half = if shift == 0 { 0 } else { 1 << (shift - 1) };
    i32x4_shr(i32x4_add(from_i16(out), i32x4_splat(half)), shift)
}

/// [`crate::kernels::Kernels::scale_scores`].
pub fn scale_scores(scores: &mut [i32], scale: ScoreScale) {
    let (chunks, rest) = scores.as_chunks_mut::<LANES>();
    let multiplier = i32x4_splat(scale.multiplier);
    for chunk in chunks {
        *chunk = lanes(mulhi_round(i32x4_shl(vector(chunk), scale.acc_shift), multiplier));
    }
    portable::scale_scores(rest, scale);
}

/// `2^(15 - q)` for `q` in `0..=15`: one look-up gives both bytes, the other half of its table is zero.
#[inline(always)]
fn powers(q: v128) -> v128 {
    let table = i8x16(0, 0, 0, 0, 0, 0, 0, 0, -128, 64, 32, 16, 8, 4, 2, 1);
    // The low byte is entry q, the high one entry q + 8 modulo 16; beyond the table there are zeros.
    let high = v128_xor(i32x4_shl(q, 8), i32x4_splat(0x0800));
    i8x16_swizzle(table, v128_or(v128_or(q, high), i32x4_splat(0x8080_0000_u32 as i32)))
}

/// Exponentials in 16 bits of distances below the maximum.
#[inline(always)]
fn exps(distance: v128) -> v128 {
    let f = v128_and(distance, i32x4_splat((1 << SCORE_FRACTION_BITS) - 1));
    // From 15 on nothing is left of a value below 2^15.
    let q = u32x4_min(u32x4_shr(distance, SCORE_FRACTION_BITS), u32x4_splat(15));
    let line = i32x4_sub(i32x4_splat(EXP2_A as i32), i32x4_mul(f, i32x4_splat(EXP2_B as i32)));
    let e = i32x4_sub(i32x4_splat(EXP2_ONE as i32), u32x4_shr(i32x4_mul(f, line), SCORE_FRACTION_BITS));
    u32x4_shr(i32x4_mul(e, powers(q)), 15)
}

/// [`crate::kernels::Kernels::exp_row`].
pub fn exp_row(scores: &[i32], out: ExpRow<'_>) -> u32 {
    let (chunks, rest) = scores.as_chunks::<LANES>();
    let max = chunks.iter().fold(i32x4_splat(i32::MIN), |max, chunk| i32x4_max(max, vector(chunk)));
    let max = lanes(max).into_iter().chain(rest.iter().copied()).fold(i32::MIN, i32::max);
    let distances = |chunk: &[i32; LANES]| i32x4_sub(i32x4_splat(max), vector(chunk));
    let distance = |score: i32| max.wrapping_sub(score) as u32;
    let mut sums = i32x4_splat(0);
    match out {
        ExpRow::U8(out) => {
            let (out, out_rest) = out.split_at_mut((chunks.len() * LANES).min(out.len() / LANES * LANES));
            for (chunk, out) in chunks.iter().zip(out.as_chunks_mut::<LANES>().0) {
                let e = u32x4_shr(i32x4_add(exps(distances(chunk)), i32x4_splat(64)), 7);
                sums = i32x4_add(sums, e);
                *out = lanes(e).map(|e| e as u8);
            }
            let sum = lanes(sums).into_iter().fold(0u32, |sum, lane| sum + lane as u32);
            scores.iter().skip(out.len()).zip(out_rest).fold(sum, |sum, (&score, e)| {
                *e = exp_u8(distance(score));
                sum + u32::from(*e)
            })
        }
        ExpRow::U16(out) => {
            let (out, out_rest) = out.split_at_mut((chunks.len() * LANES).min(out.len() / LANES * LANES));
            for (chunk, out) in chunks.iter().zip(out.as_chunks_mut::<LANES>().0) {
                let e = exps(distances(chunk));
                sums = i32x4_add(sums, e);
                *out = lanes(e).map(|e| e as u16);
            }
            let sum = lanes(sums).into_iter().fold(0u32, |sum, lane| sum + lane as u32);
            scores.iter().skip(out.len()).zip(out_rest).fold(sum, |sum, (&score, e)| {
                *e = exp_u16(distance(score));
                sum + u32::from(*e)
            })
        }
    }
}

/// [`crate::kernels::Kernels::scale_row`].
pub fn scale_row(acc: &[i32], scale: RowScale, zero_point: i32, out: &mut [i8]) {
    let whole = acc.len().min(out.len()) / LANES * LANES;
    let (out, out_rest) = out.split_at_mut(whole);
    let (multiplier, half) = (i32x4_splat(scale.multiplier), i32x4_splat(1 << scale.shift.saturating_sub(1)));
    for (acc, out) in acc.as_chunks::<LANES>().0.iter().zip(out.as_chunks_mut::<LANES>().0) {
        // The high half is below 2^30, so half a unit of the shift fits.
        let high = i32x4_add(mulhi_floor(vector(acc), multiplier), half);
        *out = to_i8(i32x4_shr(high, scale.shift), zero_point);
    }
    portable::scale_row(acc.get(whole..).unwrap_or(&[]), scale, zero_point, out_rest);
}

/// An element of a row of 8 or 16 bits.
trait Value: Copy + Into<i32> {
    /// Four of them in 32 bits.
    fn widen(from: &[Self; LANES]) -> v128;
}

impl Value for i8 {
    #[inline(always)]
    fn widen(from: &[Self; LANES]) -> v128 {
        from_i8(from)
    }
}

impl Value for i16 {
    #[inline(always)]
    fn widen(from: &[Self; LANES]) -> v128 {
        from_i16(from)
    }
}

/// Calls `lane` for four elements at a time and `one` for the rest, and writes what they return.
#[inline(always)]
fn map<X: Value>(x: &[X], out: NormOut<'_>, lane: impl Fn(usize, v128) -> v128, one: impl Fn(usize, i32) -> i32) {
    match out {
        NormOut::I8(out) => {
            let whole = x.len().min(out.len()) / LANES * LANES;
            let (head, rest) = out.split_at_mut(whole);
            for (at, (x, out)) in x.as_chunks::<LANES>().0.iter().zip(head.as_chunks_mut::<LANES>().0).enumerate() {
                *out = to_i8(lane(at, X::widen(x)), 0);
            }
            let values = x.iter().enumerate().skip(whole);
            rest.iter_mut().zip(values).for_each(|(out, (at, &x))| *out = sat_i8(one(at, x.into())));
        }
        NormOut::I16(out) => {
            let whole = x.len().min(out.len()) / LANES * LANES;
            let (head, rest) = out.split_at_mut(whole);
            for (at, (x, out)) in x.as_chunks::<LANES>().0.iter().zip(head.as_chunks_mut::<LANES>().0).enumerate() {
                *out = to_i16(lane(at, X::widen(x)));
            }
            let values = x.iter().enumerate().skip(whole);
            rest.iter_mut().zip(values).for_each(|(out, (at, &x))| *out = sat_i16(one(at, x.into())));
        }
    }
}

/// Sum and sum of squares.
#[inline(always)]
fn statistics<X: Value>(x: &[X]) -> (i32, u64) {
    let (chunks, rest) = x.as_chunks::<LANES>();
    let (mut sums, mut squares) = (i32x4_splat(0), i64x2_splat(0));
    for chunk in chunks {
        let x = X::widen(chunk);
        sums = i32x4_add(sums, x);
        squares = i64x2_add(squares, i64x2_extmul_low_i32x4(x, x));
        squares = i64x2_add(squares, i64x2_extmul_high_i32x4(x, x));
    }
    let sum = lanes(sums).into_iter().fold(0i32, i32::wrapping_add);
    let squares = (i64x2_extract_lane::<0>(squares) as u64).wrapping_add(i64x2_extract_lane::<1>(squares) as u64);
    rest.iter().fold((sum, squares), |(sum, squares), &x| {
        let x: i32 = x.into();
        (sum.wrapping_add(x), squares + u64::from(x.unsigned_abs() * x.unsigned_abs()))
    })
}

/// [`crate::kernels::Kernels::norm_row`].
pub fn norm_row(job: &NormJob<'_>, x: NormRow<'_>, out: NormOut<'_>) {
    match x {
        NormRow::I8(x) => norm_row_of(job, x, out),
        NormRow::I16(x) => norm_row_of(job, x, out),
    }
}

#[inline(always)]
fn norm_row_of<X: Value>(job: &NormJob<'_>, x: &[X], out: NormOut<'_>) {
    let (sum, squares) = statistics(x);
    let row = RowNorm::from_sums(sum, squares, x.len() as u32, job.rms, job.eps);
    let line = row.affine();
    let fraction = match out {
        NormOut::I8(_) => FRACTION_I8,
        NormOut::I16(_) => FRACTION_I16,
    };
    let width = x.len().min(job.gamma.len()).min(job.beta.len());
    let (gamma, beta) = (job.gamma.as_chunks::<LANES>().0, job.beta.as_chunks::<LANES>().0);
    let (factor, offset, rsqrt) = (i32x4_splat(line.factor), i32x4_splat(line.offset), i32x4_splat(line.rsqrt));
    let lane = |at: usize, x: v128| {
        let zero = &[0; LANES];
        let (gamma, beta) = (gamma.get(at).unwrap_or(zero), beta.get(at).unwrap_or(zero));
        let c = i32x4_shr(i32x4_add(i32x4_mul(x, factor), offset), line.right);
        let y = i32x4_add(mulhi_round(mulhi_round(c, rsqrt), vector(gamma)), vector(beta));
        i32x4_shr(y, fraction)
    };
    let one = |at: usize, x: i32| {
        let parameter = |from: &[i32]| from.get(at).copied().unwrap_or(0);
        affine(row.normalize(x), parameter(job.gamma), parameter(job.beta)) >> fraction
    };
    map(x.get(..width).unwrap_or(&[]), out, lane, one);
}

/// [`crate::kernels::Kernels::requant`].
pub fn requant(x: NormRow<'_>, out: NormOut<'_>, zeros: [i32; 2], scale: ScoreScale) {
    match x {
        NormRow::I8(x) => requant_of(x, out, zeros, scale),
        NormRow::I16(x) => requant_of(x, out, zeros, scale),
    }
}

#[inline(always)]
fn requant_of<X: Value>(x: &[X], out: NormOut<'_>, [zero_in, zero_out]: [i32; 2], scale: ScoreScale) {
    let lane = |_, x| {
        let x = i32x4_shl(i32x4_sub(x, i32x4_splat(zero_in)), scale.acc_shift);
        i32x4_add(mulhi_round(x, i32x4_splat(scale.multiplier)), i32x4_splat(zero_out))
    };
    let one = |_, x: i32| {
        let x = x.wrapping_sub(zero_in) << scale.acc_shift;
        crate::arith::requant::mulhi_round(x, scale.multiplier).wrapping_add(zero_out)
    };
    map(x, out, lane, one);
}

/// [`crate::kernels::Kernels::add_i16_in_place`].
pub fn add_i16_in_place(out: &mut [i16], b: &[i16], ma: i32, mb: i32, bias: i32, shift: u32) {
    let whole = out.len().min(b.len()) / LANES * LANES;
    let (head, rest) = out.split_at_mut(whole);
    let (factor_a, factor_b, offset) = (i32x4_splat(ma), i32x4_splat(mb), i32x4_splat(bias));
    for (out, b) in head.as_chunks_mut::<LANES>().0.iter_mut().zip(b.as_chunks::<LANES>().0) {
        let sum = i32x4_add(i32x4_mul(from_i16(out), factor_a), i32x4_mul(from_i16(b), factor_b));
        *out = to_i16(i32x4_shr(i32x4_add(sum, offset), shift));
    }
    portable::add_i16_in_place(rest, b.get(whole..).unwrap_or(&[]), ma, mb, bias, shift);
}
