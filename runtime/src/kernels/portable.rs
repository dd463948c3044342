//! Safe Rust for every core: the definition of the right answer.
//!
//! Loops are written over fixed-size chunks so that the compiler needs no bounds check and can use whatever vector
//! instructions the target has.

use super::job::attend_scratch;
use super::{
    AttentionJob, DepthwiseJob, DepthwiseOut, DotJob, ExpRow, Kernels, LUT_I16_ENTRIES, LinearJob, LinearOut, NormJob,
    NormOut, NormRow, PANEL, PoolJob, RotaryJob, ScoreScale, WideJob, Windows,
};
use crate::arith::{exp, norm, requant};
use crate::stepwise::stepwise;

/// The portable kernels alone: the definition of the right answer.
#[derive(Clone, Copy, Debug)]
pub struct Portable;

impl Kernels for Portable {
    const NAME: &'static str = "portable";
}

/// [`super::Kernels::linear`]; needs no scratch.
#[inline(always)]
pub fn linear(job: &LinearJob<'_>, x: &[i8], out: LinearOut<'_>, _scratch: &mut [u8]) {
    match out {
        LinearOut::I8 { out, lut } => linear_rows(job, x, out, |acc, ch, out| {
            let y = requant::requantize_i8(acc, job.acc_shift, ch.multiplier, job.zero_point);
            *out = match lut {
                Some(table) => lut_value(table, y),
                None => y,
            };
        }),
        LinearOut::I16 { out } => linear_rows(job, x, out, |acc, ch, out| {
            *out = requant::requantize_i16(acc, job.acc_shift, ch.multiplier);
        }),
        LinearOut::I16Residual { out, residual_shift } => linear_rows(job, x, out, |acc, ch, out| {
            let y = requant::mulhi_round(acc << job.acc_shift, ch.multiplier);
            let residual = requant::rshift_round(i32::from(*out), residual_shift);
            *out = requant::sat_i16(y.wrapping_add(residual));
        }),
    }
}

/// [`super::Kernels::linear_acc`]; needs no scratch.
pub fn linear_acc(job: &LinearJob<'_>, x: &[i8], out: &mut [i32], _scratch: &mut [u8]) {
    linear_rows(job, x, out, |acc, _, out| *out = acc);
}

/// [`super::Kernels::linear_wide`] by the dense layers of `B`.
#[inline(always)]
pub fn linear_wide<B: Kernels>(job: &WideJob<'_>, x: &[i16], out: LinearOut<'_>, scratch: &mut [u8]) {
    let LinearJob { rows, k, n, x_stride, .. } = job.dense;
    let plane = (rows * k).next_multiple_of(16);
    let (high, scratch) = scratch.split_at_mut(plane.min(scratch.len()));
    let (low, scratch) = scratch.split_at_mut(plane.min(scratch.len()));
    let sums = (rows * n * size_of::<i32>()).next_multiple_of(16).min(scratch.len());
    let (high_sums, scratch) = scratch.split_at_mut(sums);
    let (low_sums, scratch) = scratch.split_at_mut(sums.min(scratch.len()));
    let [Ok(high), Ok(low)] = [high, low].map(bytemuck::try_cast_slice_mut::<u8, i8>) else { return };
    let [Ok(sums), Ok(low_sums)] = [high_sums, low_sums].map(bytemuck::try_cast_slice_mut::<u8, i32>) else { return };
    let halves = stepwise(high.chunks_exact_mut(k.max(1))).zip(stepwise(low.chunks_exact_mut(k.max(1))));
    for (x, (high, low)) in stepwise(x.chunks(x_stride.max(1))).zip(halves).take(rows) {
        split_halves(x, high, low);
    }
    let high_job = LinearJob { x_stride: k, out_stride: n, ..job.dense };
    B::linear_acc(&high_job, high, sums, scratch);
    B::linear_acc(&LinearJob { bias: job.low_bias, ..high_job }, low, low_sums, scratch);
    join_halves(sums, low_sums, job.drop);
    requantize_rows(&job.dense, sums, out);
}

/// Requantizes sums `[rows, n]` as [`linear`] does.
#[inline(always)]
fn requantize_rows(job: &LinearJob<'_>, sums: &[i32], out: LinearOut<'_>) {
    let LinearJob { rows, n, out_stride, multipliers, acc_shift, zero_point, .. } = *job;
    let scaled = |acc: i32, multiplier: i32| requant::mulhi_round(acc << acc_shift, multiplier);
    let rows = stepwise(sums.chunks_exact(n.max(1))).take(rows).map(|sums| sums.iter().zip(multipliers));
    match out {
        LinearOut::I8 { out, lut } => {
            for (out, sums) in stepwise(out.chunks_mut(out_stride.max(1))).zip(rows) {
                for (out, (&acc, &m)) in out.iter_mut().zip(sums) {
                    let y = requant::requantize_i8(acc, acc_shift, m, zero_point);
                    *out = lut.map_or(y, |table| lut_value(table, y));
                }
            }
        }
        LinearOut::I16 { out } => {
            for (out, sums) in stepwise(out.chunks_mut(out_stride.max(1))).zip(rows) {
                out.iter_mut().zip(sums).for_each(|(out, (&acc, &m))| *out = requant::sat_i16(scaled(acc, m)));
            }
        }
        LinearOut::I16Residual { out, residual_shift } => {
            for (out, sums) in stepwise(out.chunks_mut(out_stride.max(1))).zip(rows) {
                for (out, (&acc, &m)) in out.iter_mut().zip(sums) {
                    let residual = requant::rshift_round(i32::from(*out), residual_shift);
                    *out = requant::sat_i16(scaled(acc, m).wrapping_add(residual));
                }
            }
        }
    }
}

/// Maximum that has two signed halves: `256 * 127 + 127`.
pub const MAX_VALUE: i16 = 32639;

/// `x = 256 high + low`, `x` at most [`MAX_VALUE`].
#[inline(always)]
pub(crate) fn split_halves(x: &[i16], high: &mut [i8], low: &mut [i8]) {
    for (&x, (high, low)) in x.iter().zip(high.iter_mut().zip(low)) {
        let x = x.min(MAX_VALUE);
        (*high, *low) = (((x + 128) >> 8) as i8, x as i8);
    }
}

/// `out = (out << (8 - drop)) + (low >> drop)`. The sums are proven to fit; a file that was never checked may wrap.
#[inline(always)]
pub(crate) fn join_halves(out: &mut [i32], low: &[i32], drop: u32) {
    let (up, down) = (8u32.saturating_sub(drop), drop.min(8));
    out.iter_mut().zip(low).for_each(|(out, &low)| *out = (*out << up).wrapping_add(low >> down));
}

/// What the epilogue needs to know about an output channel.
struct Channel {
    multiplier: i32,
}

#[inline(always)]
fn linear_rows<T>(job: &LinearJob<'_>, x: &[i8], out: &mut [T], epilogue: impl Fn(i32, Channel, &mut T)) {
    let format = job.weights.format;
    let panel_bytes = format.panel_bytes(job.k);
    // No weights, no channels; said here, it spares every loop below the question.
    if panel_bytes == 0 {
        return;
    }
    let rows = stepwise(x.chunks(job.x_stride.max(1))).zip(out.chunks_mut(job.out_stride.max(1))).take(job.rows);
    for (x, out) in rows {
        let (Some(x), Some(out)) = (x.get(..job.k), out.get_mut(..job.n)) else { return };
        let panels = job.weights.bytes.chunks_exact(panel_bytes);
        let biases = job.bias.as_chunks::<PANEL>().0;
        let multipliers = job.multipliers.as_chunks::<PANEL>().0;
        let channels = stepwise(out.chunks_mut(PANEL)).zip(panels).zip(biases.iter().zip(multipliers));
        for ((out, panel), (bias, multipliers)) in channels {
            let sums = format.dot_panel(x, panel, *bias);
            for ((out, acc), &multiplier) in out.iter_mut().zip(sums).zip(multipliers) {
                epilogue(acc, Channel { multiplier }, out);
            }
        }
    }
}

#[inline(always)]
fn lut_value(table: &[i8; 256], y: i8) -> i8 {
    // XOR with 0x80 is + 128 as an index; a u8 cannot leave 256 entries.
    table[usize::from(y as u8 ^ 0x80)]
}

/// [`super::Kernels::dot_i8`] and its siblings; needs no scratch.
#[inline(always)]
pub fn dot<X: Copy + Into<i32>>(job: &DotJob, x: &[X], y: &[i8], out: &mut [i32], _scratch: &mut [u8]) {
    let rows = stepwise(x.chunks(job.x_stride.max(1))).zip(out.chunks_mut(job.out_stride.max(1))).take(job.rows);
    for (x, out) in rows {
        let Some(x) = x.get(..job.k) else { return };
        let cols = stepwise(y.chunks(job.y_stride.max(1))).zip(out.iter_mut()).take(job.cols);
        for (y, out) in cols {
            let Some(y) = y.get(..job.k) else { return };
            *out = x.iter().zip(y).map(|(&x, &y)| x.into() * i32::from(y)).sum();
        }
    }
}

/// [`super::Kernels::scores`] of the dot products and the scaling of `B`.
#[inline(always)]
pub fn scores<B: Kernels>(job: &DotJob, scale: ScoreScale, x: &[i8], y: &[i8], out: &mut [i32], scratch: &mut [u8]) {
    B::dot_i8(job, x, y, out, scratch);
    for row in out.chunks_mut(job.out_stride.max(1)).take(job.rows) {
        B::scale_scores(row.get_mut(..job.cols).unwrap_or(&mut []), scale);
    }
}

/// [`super::Kernels::scale_scores`].
#[inline(always)]
pub fn scale_scores(scores: &mut [i32], scale: ScoreScale) {
    for s in scores {
        *s = requant::mulhi_round(*s << scale.acc_shift, scale.multiplier);
    }
}

/// [`super::Kernels::exp_row`].
#[inline(always)]
pub fn exp_row(scores: &[i32], out: ExpRow<'_>) -> u32 {
    let max = scores.iter().copied().fold(i32::MIN, i32::max);
    let distance = |s: i32| max.wrapping_sub(s) as u32;
    let mut sum = 0u32;
    match out {
        ExpRow::U8(out) => {
            for (&s, e) in scores.iter().zip(out) {
                *e = exp::exp_u8(distance(s));
                sum += u32::from(*e);
            }
        }
        ExpRow::U16(out) => {
            for (&s, e) in scores.iter().zip(out) {
                *e = exp::exp_u16(distance(s));
                sum += u32::from(*e);
            }
        }
    }
    sum
}

/// [`super::Kernels::scale_row`].
#[inline(always)]
pub fn scale_row(acc: &[i32], scale: exp::RowScale, zero_point: i32, out: &mut [i8]) {
    for (&acc, out) in acc.iter().zip(out) {
        *out = requant::sat_i8(zero_point.wrapping_add(scale.apply(acc)));
    }
}

/// [`super::Kernels::transpose`].
#[inline(always)]
pub fn transpose(x: &[i8], x_stride: usize, rows: usize, cols: usize, out: &mut [i8], out_stride: usize) {
    for (col, out) in out.chunks_mut(out_stride.max(1)).take(cols).enumerate() {
        let column = x.get(col..).unwrap_or(&[]).iter().step_by(x_stride.max(1));
        let (body, rest) = out.split_at_mut(column.len().min(rows).min(out.len()));
        for (out, &value) in body.iter_mut().zip(column) {
            *out = value;
        }
        fill(rest, 0);
    }
}

/// `out = value`. A call: one loop that sets bytes to a value for all that do, not one more that sets them to 0.
#[inline(never)]
pub fn fill<T: Copy>(out: &mut [T], value: T) {
    out.fill(value);
}

/// [`super::Kernels::attention`]: not taken, portable code has no memory of its own.
#[inline(always)]
pub fn attention(_job: &AttentionJob<'_>, _out: &mut [i8]) -> bool {
    false
}

/// [`super::Kernels::attend`] by the products, exponentials and scaling of `B`, row by row. Nothing where slices do not fit
/// the job.
#[inline(always)]
pub fn attend<B: Kernels>(job: &AttentionJob<'_>, out: &mut [i8], scratch: &mut [u8]) {
    if !job.fits(out.len()) {
        return;
    }
    let Some((scores, exps, sums)) = attend_areas(job, scratch) else { return };
    let (n_k, head_dim, q_stride) = (job.n_k, job.head_dim, job.q_stride);
    let dots = DotJob { rows: 1, cols: n_k, k: head_dim, x_stride: q_stride, y_stride: job.k_stride, out_stride: n_k };
    let queries = stepwise(job.q.chunks(q_stride.max(1)));
    for (q, out) in queries.zip(out.chunks_mut(job.out_stride.max(1))).take(job.rows) {
        B::scores(&dots, job.scale, q, job.k, scores, sums);
        attend_values::<B>(job, scores, exps, sums, out);
    }
}

/// The areas of [`super::attend_scratch_bytes`] for the keys of the job: its scores, bytes for exponentials, sums.
#[inline(always)]
pub(crate) fn attend_areas<'s>(
    job: &AttentionJob<'_>,
    scratch: &'s mut [u8],
) -> Option<(&'s mut [i32], &'s mut [u8], &'s mut [u8])> {
    let [scores, exps, sums] = attend_scratch(job.n_k, job.head_dim, job.v_dim, job.wide_exp);
    let (scores, rest) = scratch.split_at_mut_checked(scores)?;
    let (exps, rest) = rest.split_at_mut_checked(exps)?;
    let scores = bytemuck::try_cast_slice_mut(scores).ok()?;
    Some((scores.get_mut(..job.n_k)?, exps, rest.get_mut(..sums)?))
}

/// One row of [`attend`] from its scores.
#[inline(always)]
fn attend_values<B: Kernels>(job: &AttentionJob<'_>, scores: &[i32], exps: &mut [u8], sums: &mut [u8], out: &mut [i8]) {
    let Ok(acc) = bytemuck::try_cast_slice_mut::<u8, i32>(sums) else { return };
    let (Some(acc), Some(out)) = (acc.get_mut(..job.v_dim), out.get_mut(..job.v_dim)) else { return };
    acc.iter_mut().for_each(|acc| *acc = 0);
    let sum = if job.wide_exp {
        let Ok(exps) = bytemuck::try_cast_slice_mut::<u8, u16>(exps) else { return };
        let Some(exps) = exps.get_mut(..job.n_k) else { return };
        let sum = B::exp_row(scores, ExpRow::U16(&mut *exps));
        add_weighted(acc, job.v, job.v_stride, exps);
        sum
    } else {
        let Some(exps) = exps.get_mut(..job.n_k) else { return };
        let sum = B::exp_row(scores, ExpRow::U8(&mut *exps));
        add_weighted(acc, job.v, job.v_stride, exps);
        sum
    };
    B::scale_row(acc, exp::RowScale::new(sum, job.ratio_m, job.ratio_shift), job.zero_point, out);
}

/// `acc += weight * row` for the rows of `v`, each with its weight.
#[inline(always)]
pub(crate) fn add_weighted<X: Copy + Into<i32>>(acc: &mut [i32], v: &[i8], v_stride: usize, weights: &[X]) {
    for (row, &weight) in stepwise(v.chunks(v_stride.max(1))).zip(weights) {
        let weight: i32 = weight.into();
        acc.iter_mut().zip(row).for_each(|(acc, &v)| *acc = acc.wrapping_add(weight.wrapping_mul(i32::from(v))));
    }
}

/// [`super::Kernels::norm_rows`] by the rows of `B`.
#[inline(always)]
pub fn norm_rows<B: Kernels>(job: &NormJob<'_>, x: NormRow<'_>, mut out: NormOut<'_>) {
    let (n, mut row) = (job.gamma.len().max(1), 0);
    while let (Some(x), Some(out)) = (x.row(row, n), out.row(row, n)) {
        B::norm_row(job, x, out);
        row += 1;
    }
}

/// [`super::Kernels::norm_row`].
#[inline(always)]
pub fn norm_row(job: &NormJob<'_>, x: NormRow<'_>, out: NormOut<'_>) {
    match x {
        NormRow::I8(x) => norm_row_of(job, x, out),
        NormRow::I16(x) => norm_row_of(job, x, out),
    }
}

#[inline(always)]
fn norm_row_of<T: Copy + Into<i32>>(job: &NormJob<'_>, x: &[T], out: NormOut<'_>) {
    let row = norm::RowNorm::new(x.iter().map(|&v| v.into()), x.len() as u32, job.rms, job.eps);
    let affine = job.gamma.iter().zip(job.beta);
    match out {
        NormOut::I8(out) => {
            for ((&x, out), (&g, &b)) in x.iter().zip(out).zip(affine) {
                *out = requant::sat_i8(norm::affine(row.normalize(x.into()), g, b) >> norm::FRACTION_I8);
            }
        }
        NormOut::I16(out) => {
            for ((&x, out), (&g, &b)) in x.iter().zip(out).zip(affine) {
                *out = requant::sat_i16(norm::affine(row.normalize(x.into()), g, b) >> norm::FRACTION_I16);
            }
        }
    }
}

/// [`super::Kernels::requant`].
#[inline(always)]
pub fn requant(x: NormRow<'_>, out: NormOut<'_>, zeros: [i32; 2], scale: ScoreScale) {
    match x {
        NormRow::I8(x) => requant_of(x, out, zeros, scale),
        NormRow::I16(x) => requant_of(x, out, zeros, scale),
    }
}

#[inline(always)]
fn requant_of<T: Copy + Into<i32>>(x: &[T], out: NormOut<'_>, [zero_in, zero_out]: [i32; 2], scale: ScoreScale) {
    let value = |x: T| {
        let x = x.into().wrapping_sub(zero_in) << scale.acc_shift;
        requant::mulhi_round(x, scale.multiplier).wrapping_add(zero_out)
    };
    match out {
        NormOut::I8(out) => x.iter().zip(out).for_each(|(&x, out)| *out = requant::sat_i8(value(x))),
        NormOut::I16(out) => x.iter().zip(out).for_each(|(&x, out)| *out = requant::sat_i16(value(x))),
    }
}

/// [`super::Kernels::multiply`].
#[inline(always)]
pub fn multiply(a: NormRow<'_>, b: NormRow<'_>, out: NormOut<'_>, zeros: [i32; 3], scale: ScoreScale) {
    match a {
        NormRow::I8(a) => multiply_by(a, b, out, zeros, scale),
        NormRow::I16(a) => multiply_by(a, b, out, zeros, scale),
    }
}

#[inline(always)]
fn multiply_by<A: Copy + Into<i32>>(a: &[A], b: NormRow<'_>, out: NormOut<'_>, zeros: [i32; 3], scale: ScoreScale) {
    match b {
        NormRow::I8(b) => multiply_of(a, b, out, zeros, scale),
        NormRow::I16(b) => multiply_of(a, b, out, zeros, scale),
    }
}

#[inline(always)]
fn multiply_of<A: Copy + Into<i32>, B: Copy + Into<i32>>(
    a: &[A],
    b: &[B],
    out: NormOut<'_>,
    [zero_a, zero_b, zero_out]: [i32; 3],
    scale: ScoreScale,
) {
    let value = |(&a, &b): (&A, &B)| {
        let product = a.into().wrapping_sub(zero_a).wrapping_mul(b.into().wrapping_sub(zero_b)) << scale.acc_shift;
        requant::mulhi_round(product, scale.multiplier).wrapping_add(zero_out)
    };
    let pairs = a.iter().zip(b);
    match out {
        NormOut::I8(out) => out.iter_mut().zip(pairs).for_each(|(out, pair)| *out = requant::sat_i8(value(pair))),
        NormOut::I16(out) => out.iter_mut().zip(pairs).for_each(|(out, pair)| *out = requant::sat_i16(value(pair))),
    }
}

/// [`super::Kernels::rotate`].
#[inline(always)]
pub fn rotate(job: &RotaryJob, x: NormRow<'_>, angles: &[i16], out: &mut [i8]) {
    match x {
        NormRow::I8(x) => rotate_of(job, x, angles, 0, out),
        // The products of 16-bit elements fill 32 bits: the table counts half.
        NormRow::I16(x) => rotate_of(job, x, angles, 1, out),
    }
}

/// 1 as a cosine, which its table does not reach.
const COSINE_ONE: i32 = 1 << 15;

#[inline(always)]
fn rotate_of<T: Copy + Into<i32>>(job: &RotaryJob, x: &[T], angles: &[i16], halved: u32, out: &mut [i8]) {
    let head_dim = job.head_dim.max(1);
    let requantize = |acc: i32| requant::requantize_i8(acc, job.scale.acc_shift, job.scale.multiplier, 0);
    for (x, out) in stepwise(x.chunks_exact(head_dim)).zip(out.chunks_exact_mut(head_dim)) {
        let at = |place: usize| x.get(place).map_or(0, |&x| x.into());
        for (pair, &[cos, sin]) in angles.as_chunks::<2>().0.iter().enumerate() {
            let (a, b) = if job.interleaved { (2 * pair, 2 * pair + 1) } else { (pair, pair + job.rotary / 2) };
            let (cos, sin) = (i32::from(cos) >> halved, i32::from(sin) >> halved);
            let turned = [(a, at(a) * cos - at(b) * sin), (b, at(b) * cos + at(a) * sin)];
            for (place, acc) in turned {
                if let Some(out) = out.get_mut(place) {
                    *out = requantize(acc);
                }
            }
        }
        for (out, &x) in out.iter_mut().zip(x).skip(job.rotary) {
            *out = requantize(x.into() * (COSINE_ONE >> halved));
        }
    }
}

/// [`super::Kernels::lut_wide`].
#[inline(always)]
pub fn lut_wide(x: &[i8], table: &[i16; 256], out: &mut [i16]) {
    // XOR with 0x80 is + 128 as an index; a u8 cannot leave 256 entries.
    out.iter_mut().zip(x).for_each(|(out, &x)| *out = table[usize::from(x as u8 ^ 0x80)]);
}

/// [`super::Kernels::lut_i16_in_place`].
#[inline(always)]
pub fn lut_i16_in_place(data: &mut [i16], table: &[i16; LUT_I16_ENTRIES]) {
    for value in data {
        let at = (i32::from(*value) + 32768) as usize;
        let [low, high] = match table.get(at >> 7..).and_then(<[i16]>::first_chunk::<2>) {
            Some(pair) => pair.map(i32::from),
            None => [0, 0],
        };
        // Between two entries: within i16.
        *value = (low + (((high - low) * (at & 127) as i32 + 64) >> 7)) as i16;
    }
}

/// [`super::Kernels::lut_in_place`].
#[inline(always)]
pub fn lut_in_place(data: &mut [i8], table: &[i8; 256]) {
    for value in data {
        *value = lut_value(table, *value);
    }
}

/// [`super::Kernels::add_i16_in_place`].
#[inline(always)]
pub fn add_i16_in_place(out: &mut [i16], b: &[i16], ma: i32, mb: i32, bias: i32, shift: u32) {
    for (out, &b) in out.iter_mut().zip(b) {
        let sum = (i32::from(*out) * ma).wrapping_add(i32::from(b) * mb).wrapping_add(bias);
        *out = requant::sat_i16(sum >> shift);
    }
}

/// Channels whose sums are kept side by side.
const CHANNELS: usize = 16;

/// [`super::Kernels::depthwise`].
#[inline(always)]
pub fn depthwise(job: &DepthwiseJob<'_>, x: &[i8], out: DepthwiseOut<'_>) {
    depthwise_of(job, x, out)
}

/// [`super::Kernels::depthwise_wide`].
#[inline(always)]
pub fn depthwise_wide(job: &DepthwiseJob<'_>, x: &[i16], out: DepthwiseOut<'_>) {
    depthwise_of(job, x, out)
}

#[inline(always)]
fn depthwise_of<X: Copy + Into<i32>>(job: &DepthwiseJob<'_>, x: &[X], out: DepthwiseOut<'_>) {
    match out {
        DepthwiseOut::I8(out) => depthwise_pixels(job, x, out, |acc, multiplier| {
            requant::requantize_i8(acc, job.acc_shift, multiplier, job.zero_point)
        }),
        DepthwiseOut::I16(out) => {
            depthwise_pixels(job, x, out, |acc, multiplier| requant::requantize_i16(acc, job.acc_shift, multiplier))
        }
    }
}

#[inline(always)]
fn depthwise_pixels<X: Copy + Into<i32>, T>(
    job: &DepthwiseJob<'_>,
    x: &[X],
    out: &mut [T],
    requantize: impl Fn(i32, i32) -> T,
) {
    let windows = &job.windows;
    let pixels = job.fit(x.len(), out.len());
    let weights = |tap: usize, channel: usize| job.weights.get(tap * windows.channels + channel..).unwrap_or(&[]);
    for (pixel, out) in stepwise(out.chunks_exact_mut(windows.channels.max(1))).take(pixels).enumerate() {
        let x = x.get(pixel.wrapping_mul(windows.pixel_stride)..).unwrap_or(&[]);
        let scales = stepwise(job.bias.chunks(CHANNELS)).zip(job.multipliers.chunks(CHANNELS));
        for (block, (out, (bias, multipliers))) in stepwise(out.chunks_mut(CHANNELS)).zip(scales).enumerate() {
            let channel = block * CHANNELS;
            let mut acc = [0; CHANNELS];
            acc.iter_mut().zip(bias).for_each(|(acc, &bias)| *acc = bias);
            for tap in windows.taps_outside() {
                let weights = weights(tap, channel).iter();
                acc.iter_mut().zip(weights).for_each(|(a, &w)| *a = a.wrapping_add(job.pad_value * i32::from(w)));
            }
            for (tap, at) in windows.taps_inside() {
                add_products(&mut acc, channels_from(windows, x, at, channel), weights(tap, channel), windows);
            }
            for ((out, &acc), &multiplier) in out.iter_mut().zip(&acc).zip(multipliers) {
                *out = requantize(acc, multiplier);
            }
        }
    }
}

/// The image from channel `channel` of the tap at `at` on.
#[inline(always)]
fn channels_from<'a, X>(windows: &Windows, x: &'a [X], at: usize, channel: usize) -> &'a [X] {
    x.get(at + channel * windows.channel_stride..).unwrap_or(&[])
}

/// Adds the products of a tap. Sums beyond the last channel are of no use, and nobody looks at them.
#[inline(always)]
fn add_products<X: Copy + Into<i32>>(acc: &mut [i32; CHANNELS], x: &[X], weights: &[i8], windows: &Windows) {
    let add = |(acc, (&x, &w)): (&mut i32, (&X, &i8))| *acc = acc.wrapping_add(x.into() * i32::from(w));
    match (windows.channel_stride, x.first_chunk::<CHANNELS>(), weights.first_chunk::<CHANNELS>()) {
        (1, Some(x), Some(weights)) => acc.iter_mut().zip(x.iter().zip(weights)).for_each(add),
        _ => acc.iter_mut().zip(x.iter().step_by(windows.channel_stride.max(1)).zip(weights)).for_each(add),
    }
}

/// [`super::Kernels::pool`].
#[inline(always)]
pub fn pool(job: &PoolJob, x: &[i8], out: &mut [i8]) {
    let windows = &job.windows;
    let pixels = windows.fit(x.len(), out.len());
    let start = match job.mean {
        Some(mean) => (windows.inside.iter().product::<usize>() as i32).wrapping_mul(mean.zero_in).wrapping_neg(),
        None => i32::from(i8::MIN),
    };
    for (pixel, out) in stepwise(out.chunks_exact_mut(windows.channels.max(1))).take(pixels).enumerate() {
        let x = x.get(pixel.wrapping_mul(windows.pixel_stride)..).unwrap_or(&[]);
        for (block, out) in stepwise(out.chunks_mut(CHANNELS)).enumerate() {
            let mut acc = [start; CHANNELS];
            for (_, at) in windows.taps_inside() {
                let x = channels_from(windows, x, at, block * CHANNELS);
                match job.mean {
                    Some(_) => each_channel(&mut acc, x, windows, |acc, x| acc.wrapping_add(x)),
                    None => each_channel(&mut acc, x, windows, i32::max),
                }
            }
            for (out, &acc) in out.iter_mut().zip(&acc) {
                *out = match job.mean {
                    Some(mean) => requant::requantize_i8(acc, mean.acc_shift, mean.multiplier, mean.zero_point),
                    None => requant::sat_i8(acc),
                };
            }
        }
    }
}

/// `acc = f(acc, x)` for every channel, as [`add_products`].
#[inline(always)]
fn each_channel(acc: &mut [i32; CHANNELS], x: &[i8], windows: &Windows, f: impl Fn(i32, i32) -> i32) {
    let apply = |(acc, &x): (&mut i32, &i8)| *acc = f(*acc, i32::from(x));
    match (windows.channel_stride, x.first_chunk::<CHANNELS>()) {
        (1, Some(x)) => acc.iter_mut().zip(x).for_each(apply),
        _ => acc.iter_mut().zip(x.iter().step_by(windows.channel_stride.max(1))).for_each(apply),
    }
}
