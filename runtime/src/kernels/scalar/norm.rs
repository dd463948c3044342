//! LayerNorm and RMSNorm of one row: a straight line before the reciprocal root.

use super::product::mulhi_round;
use crate::arith::norm::{Affine, FRACTION_I8, FRACTION_I16, RowNorm};
use crate::arith::requant::{sat_i8, sat_i16};
use crate::kernels::{NormJob, NormOut, NormRow};

/// [`crate::kernels::Kernels::norm_row`].
pub fn norm_row(job: &NormJob<'_>, x: NormRow<'_>, out: NormOut<'_>) {
    match x {
        NormRow::I8(x) => write(job, x, out),
        NormRow::I16(x) => write(job, x, out),
    }
}

fn write<T: Copy + Into<i32>>(job: &NormJob<'_>, x: &[T], out: NormOut<'_>) {
    let row = RowNorm::new(x.iter().map(|&v| v.into()), x.len() as u32, job.rms, job.eps).affine();
    match out {
        NormOut::I8(out) => values(job, row, x, out, |y| sat_i8(y >> FRACTION_I8)),
        NormOut::I16(out) => values(job, row, x, out, |y| sat_i16(y >> FRACTION_I16)),
    }
}

#[inline(always)]
fn values<T: Copy + Into<i32>, Y>(job: &NormJob<'_>, row: Affine, x: &[T], out: &mut [Y], narrow: impl Fn(i32) -> Y) {
    for ((&x, out), (&gamma, &beta)) in x.iter().zip(out).zip(job.gamma.iter().zip(job.beta)) {
        let c = row.factor.wrapping_mul(x.into()).wrapping_add(row.offset) >> row.right;
        let scaled = mulhi_round(mulhi_round(c, row.rsqrt), gamma);
        *out = narrow(scaled.wrapping_add(beta));
    }
}
