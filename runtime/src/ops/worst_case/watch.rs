//! Runs an operator over the worst inputs there are and holds what it computed against its proof.

use super::super::testing::{Random, Weights, run_with};
use super::super::{OpFault, Operator, Proof};
use crate::kernels::Native;
use crate::kernels::list::kernels;
use crate::kernels::list::signatures::*;
use crate::tensor::Dtype;
use std::cell::RefCell;
use std::vec::Vec;

/// Minimum and maximum of the intermediate values of a run, zero included.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    acc: (i128, i128),
    shifted: (i128, i128),
    product: (i128, i128),
    wide: (i128, i128),
    row_sum: (i128, i128),
}

fn widen(range: &mut (i128, i128), value: i128) {
    *range = (range.0.min(value), range.1.max(value));
}

impl Seen {
    /// A 32-bit accumulator.
    pub fn acc(&mut self, value: impl Into<i128>) {
        widen(&mut self.acc, value.into());
    }

    /// An accumulator that is shifted and multiplied.
    pub fn scaled(&mut self, acc: impl Into<i128>, shift: u32, multiplier: i32) {
        let acc = acc.into();
        self.acc(acc);
        widen(&mut self.shifted, acc << shift);
        self.product((acc << shift) * i128::from(multiplier));
    }

    /// A product with a multiplier.
    pub fn product(&mut self, value: i128) {
        widen(&mut self.product, value);
    }

    /// A sum that is kept in 64 bits.
    pub fn wide(&mut self, value: i128) {
        widen(&mut self.wide, value);
    }

    /// The sum over a row.
    pub fn row_sum(&mut self, value: impl Into<i128>) {
        widen(&mut self.row_sum, value.into());
    }

    /// Fails unless `proof` and its certificate cover all of this.
    fn assert_covered(&self, proof: &Proof) {
        let cert = proof.certificate().unwrap_or_else(|fault| panic!("{fault}"));
        let within = |(low, high): (i128, i128), bits: u32| {
            // A width of 0 states that there is no such value.
            let limit = if bits == 0 { 0 } else { 1i128 << (bits - 1) };
            -limit <= low && high <= (limit - 1).max(0)
        };
        let acc = i128::from(cert.acc_min) <= self.acc.0 && self.acc.1 <= i128::from(cert.acc_max);
        assert!(acc && within(self.shifted, 32), "accumulators: {self:?} {cert:?}");
        assert!(within(self.product, cert.product_bits), "products: {self:?} {cert:?}");
        assert!(within(self.wide, cert.wide_bits), "wide sums: {self:?} {cert:?}");
        assert!(self.row_sum.1 <= i128::from(proof.row_sum), "row sums: {self:?} {proof:?}");
        assert!(self.row_sum.1 >> cert.sum_bits == 0, "row sums: {self:?} {cert:?}");
    }
}

std::thread_local! {
    static SEEN: RefCell<Seen> = RefCell::default();
}

fn note(f: impl FnOnce(&mut Seen)) {
    SEEN.with_borrow_mut(f);
}

/// The portable kernels, which compute with checked arithmetic in a test build; what they compute with is noted.
struct Watched;

kernels! {
    impl Watched {
        const NAME: &'static str = "watched";
    }
    linear => linear,
    linear_acc => linear_acc,
    // Of the sums above; the operator's reference sees how they are joined.
    linear_wide => portable,
    dot_i8 => dot,
    dot_u8 => dot,
    dot_u16 => dot,
    // Of the methods above and below.
    scores => portable,
    scale_scores => scale_scores,
    exp_row => exp_row,
    scale_row => scale_row,
    // No arithmetic.
    transpose => portable,
    // Not taken.
    attention => portable,
    // Of the methods above.
    attend => portable,
    norm_row => norm_row,
    norm_rows => portable,
    // On hosts alone: `scale_scores` and sums around it are what devices compute with.
    requant => portable,
    // Their products and sums are seen by the operator's reference.
    multiply => portable,
    rotate => portable,
    // No arithmetic.
    lut_wide => portable,
    lut_in_place => portable,
    lut_i16_in_place => portable,
    // Their sums are seen by the operator's reference.
    add_i16_in_place => portable,
    depthwise => portable,
    depthwise_wide => portable,
    pool => portable,
}

fn note_sums(job: &DotJob, out: &[i32]) {
    let rows = out.chunks(job.out_stride).take(job.rows);
    note(|seen| rows.for_each(|row| row.iter().take(job.cols).for_each(|&acc| seen.acc(acc))));
}

fn linear(job: &LinearJob<'_>, x: &[i8], out: LinearOut<'_>, scratch: &mut [u8]) {
    let mut sums = std::vec![0; job.rows * job.n];
    portable::linear_acc(&LinearJob { out_stride: job.n, ..*job }, x, &mut sums, &mut []);
    note(|seen| {
        for row in sums.chunks(job.n) {
            row.iter().zip(job.multipliers).for_each(|(&acc, &m)| seen.scaled(acc, job.acc_shift, m));
        }
    });
    portable::linear(job, x, out, scratch);
}

fn linear_acc(job: &LinearJob<'_>, x: &[i8], out: &mut [i32], scratch: &mut [u8]) {
    portable::linear_acc(job, x, out, scratch);
    note_sums(&DotJob { rows: job.rows, cols: job.n, k: 0, x_stride: 0, y_stride: 0, out_stride: job.n }, out);
}

fn dot<X: Copy + Into<i32>>(job: &DotJob, x: &[X], y: &[i8], out: &mut [i32], scratch: &mut [u8]) {
    portable::dot(job, x, y, out, scratch);
    note_sums(job, out);
}

fn scale_scores(scores: &mut [i32], scale: ScoreScale) {
    note(|seen| scores.iter().for_each(|&s| seen.scaled(s, scale.acc_shift, scale.multiplier)));
    portable::scale_scores(scores, scale);
}

fn exp_row(scores: &[i32], out: ExpRow<'_>) -> u32 {
    let sum = portable::exp_row(scores, out);
    note(|seen| seen.row_sum(sum));
    sum
}

fn scale_row(acc: &[i32], scale: RowScale, zero_point: i32, out: &mut [i8]) {
    note(|seen| acc.iter().for_each(|&acc| seen.scaled(acc, 0, scale.multiplier)));
    portable::scale_row(acc, scale, zero_point, out);
}

fn norm_row(job: &NormJob<'_>, x: NormRow<'_>, out: NormOut<'_>) {
    let row: Vec<i128> = match x {
        NormRow::I8(x) => x.iter().map(|&x| x.into()).collect(),
        NormRow::I16(x) => x.iter().map(|&x| x.into()).collect(),
    };
    let n = row.len() as i128;
    let sum = if job.rms { 0 } else { row.iter().sum::<i128>() };
    note(|seen| {
        seen.acc(row.iter().sum::<i128>());
        seen.row_sum(n * row.iter().map(|x| x * x).sum::<i128>() + i128::from(job.eps));
        row.iter().for_each(|x| seen.acc(n * x - sum));
    });
    portable::norm_row(job, x, out);
}

/// Values of one operand: minimum, maximum, alternating from either, random.
fn pattern(index: usize, dtype: Dtype, len: usize) -> Vec<i32> {
    let (min, max) = dtype.range();
    let mut random = Random(len as u64);
    let value = |i: usize| match (index, i.is_multiple_of(2)) {
        (0, _) | (2, true) | (3, false) => min,
        (1, _) | (2, false) | (3, true) => max,
        _ => random.value(dtype),
    };
    (0..len).map(value).collect()
}

const PATTERNS: usize = 5;

/// Runs `op` over every combination of patterns: nothing leaves its type, its certificate exists and covers what the
/// kernels computed with, sums that are put out, and what `reference` computes from the operands. The processor's own
/// kernels put out the same.
pub fn survives(
    op: &impl Operator,
    weights: &Weights,
    inputs: &[(Dtype, usize)],
    output: (Dtype, usize),
    reference: impl Fn(&[Vec<i32>], &mut Seen),
) {
    for combination in 0..PATTERNS.pow(inputs.len() as u32) {
        let choice = |input: usize| combination / PATTERNS.pow(input as u32) % PATTERNS;
        let values: Vec<Vec<i32>> =
            inputs.iter().enumerate().map(|(i, &(dtype, len))| pattern(choice(i), dtype, len)).collect();
        let operands: Vec<(Dtype, &[i32])> = inputs.iter().zip(&values).map(|(i, v)| (i.0, v.as_slice())).collect();
        SEEN.set(Seen::default());
        let ran = run_with::<Watched>(op, weights, &operands, output);
        let (proof, y) = ran.unwrap_or_else(|fault: OpFault| panic!("{fault}"));
        let mut seen = SEEN.take();
        reference(&values, &mut seen);
        if output.0 == Dtype::I32 {
            y.iter().for_each(|&y| seen.acc(y));
        }
        seen.assert_covered(&proof);
        let native = run_with::<Native>(op, weights, &operands, output).map(|(_, y)| y);
        assert!(native == Ok(y), "kernels differ");
    }
}

/// For operators whose every sum is seen in the kernels or in the output.
pub fn in_kernels(_: &[Vec<i32>], _: &mut Seen) {}
