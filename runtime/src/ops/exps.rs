//! Products with exponentials that were read from a tensor.

use crate::kernels::{DotJob, Kernels};
use crate::stepwise::stepwise;

/// [`Kernels::dot_u16`] of values that count as `most`, at most 2^15 - 1, where they are greater.
///
/// No operator writes such values, but a tensor may hold any bytes; kernels may take them as signed.
pub(crate) fn dot_limited<B: Kernels>(
    job: &DotJob,
    most: u16,
    x: &[u16],
    y: &[i8],
    out: &mut [i32],
    scratch: &mut [u8],
) {
    let rows = || stepwise(x.chunks(job.x_stride.max(1))).take(job.rows);
    if rows().all(|row| row.iter().take(job.k).all(|&x| x <= most)) {
        return B::dot_u16(job, x, y, out, scratch);
    }
    for (x, out) in rows().zip(out.chunks_mut(job.out_stride.max(1))) {
        for (y, out) in stepwise(y.chunks(job.y_stride.max(1))).zip(out).take(job.cols) {
            *out = x.iter().zip(y).take(job.k).map(|(&x, &y)| i32::from(x.min(most)) * i32::from(y)).sum();
        }
    }
}
