//! LayerNorm and RMSNorm of one row.
//!
//! # Instructions per element
//! Statistics of 16-bit rows: half a load, half an `SMLALD`, half an `SMLAD`. Values: three loads, `MLA`, shift where it
//! is to the right, `SMMULR`, `SMMLAR`, `SSAT`, store.

use super::ins;
use crate::arith::norm::{Affine, FRACTION_I8, FRACTION_I16, RowNorm};
use crate::kernels::{NormJob, NormOut, NormRow};

const ONES: u32 = 0x0001_0001;

/// [`crate::kernels::Kernels::norm_row`].
pub fn norm_row(job: &NormJob<'_>, x: NormRow<'_>, out: NormOut<'_>) {
    match x {
        NormRow::I8(x) => {
            let (sum, squares) = x.iter().fold((0i32, 0u64), |(sum, squares), &x| {
                let x = i32::from(x);
                (sum + x, squares + (x * x) as u64)
            });
            write(job, RowNorm::from_sums(sum, squares, x.len() as u32, job.rms, job.eps), x, out);
        }
        NormRow::I16(x) => {
            let (sum, squares) = sums_i16(x);
            write(job, RowNorm::from_sums(sum, squares, x.len() as u32, job.rms, job.eps), x, out);
        }
    }
}

fn sums_i16(x: &[i16]) -> (i32, u64) {
    let (pairs, tail) = x.as_chunks::<2>();
    let (mut sum, mut squares) = (0i32, 0u64);
    for &[low, high] in pairs {
        let pair = u32::from(low as u16) | u32::from(high as u16) << 16;
        squares = ins::smlald(pair, pair, squares);
        sum = ins::smlad(pair, ONES, sum);
    }
    for &x in tail {
        sum = sum.wrapping_add(i32::from(x));
        squares += u64::from(x.unsigned_abs()) * u64::from(x.unsigned_abs());
    }
    (sum, squares)
}

fn write<T: Copy + Into<i32>>(job: &NormJob<'_>, row: RowNorm, x: &[T], out: NormOut<'_>) {
    match out {
        NormOut::I8(out) => {
            const { assert!(FRACTION_I8 == 8) };
            values(job, row, x, out, |y| ins::ssat8_asr8(y) as i8);
        }
        NormOut::I16(out) => {
            const { assert!(FRACTION_I16 == 4) };
            values(job, row, x, out, |y| ins::ssat16_asr4(y) as i16);
        }
    }
}

/// `(width * x - sum) << shift` is linear in `x`: a left shift goes into the factors, once.
#[inline(always)]
fn values<T: Copy + Into<i32>, Y>(job: &NormJob<'_>, row: RowNorm, x: &[T], out: &mut [Y], narrow: impl Fn(i32) -> Y) {
    let Affine { factor, offset, rsqrt, right } = row.affine();
    let elements = x.iter().zip(out).zip(job.gamma.iter().zip(job.beta));
    if right == 0 {
        for ((&x, out), (&g, &b)) in elements {
            let c = factor.wrapping_mul(x.into()).wrapping_add(offset);
            *out = narrow(ins::smmlar(ins::smmulr(c, rsqrt), g, b));
        }
    } else {
        for ((&x, out), (&g, &b)) in elements {
            let c = factor.wrapping_mul(x.into()).wrapping_add(offset) >> right;
            *out = narrow(ins::smmlar(ins::smmulr(c, rsqrt), g, b));
        }
    }
}
