//! Attention of one token over its cache, by [`super::row`].

use super::softmax::{scale_row, scale_scores};
use super::{Armv6m, row};
use crate::arith::exp::RowScale;
use crate::kernels::{AttentionJob, ExpRow, portable};

/// K values, and columns, that one load brings.
const STEP: usize = 4;

/// [`crate::kernels::Kernels::attend`].
pub fn attend(job: &AttentionJob<'_>, out: &mut [i8], scratch: &mut [u8]) {
    if rows(job, out, scratch).is_none() {
        portable::attend::<Armv6m>(job, out, scratch);
    }
}

/// `None`, with nothing that counts written, where the slices do not fit the job, rows are not made of whole words, or
/// exponentials have 16 bits.
fn rows(job: &AttentionJob<'_>, out: &mut [i8], scratch: &mut [u8]) -> Option<()> {
    let (scores, exps, sums) = portable::attend_areas(job, scratch)?;
    let words = |rows: &[i8], stride: usize, width: usize| {
        rows.as_ptr().addr().is_multiple_of(STEP) && stride.is_multiple_of(STEP) && width.is_multiple_of(STEP)
    };
    let whole_words = words(job.k, job.k_stride, job.head_dim) && words(job.v, job.v_stride, job.v_dim);
    if !job.fits(out.len()) || !whole_words || job.wide_exp || job.n_k == 0 || job.v_dim == 0 {
        return None;
    }
    let (exps, areas) = (exps.get_mut(..job.n_k)?, bytemuck::try_cast_slice_mut::<u8, i32>(sums).ok()?);
    for index in 0..job.rows {
        // Scores come first: the area of the sums holds the query then.
        let query = areas.get_mut(..job.head_dim)?;
        let q = job.q.get(index * job.q_stride..)?;
        query.iter_mut().zip(q).for_each(|(to, &from)| *to = i32::from(from));
        let (query, ends) = (query.as_ptr_range(), scores.as_mut_ptr_range());
        let frame = row::Scores {
            keys: job.k.as_ptr().expose_provenance(),
            query: query.start.expose_provenance(),
            end: ends.end.expose_provenance(),
            query_end: query.end.expose_provenance(),
            next: job.k_stride as isize - job.head_dim as isize,
            out: ends.start.expose_provenance(),
        };
        // SAFETY: keys and scores were compared with the job, which has at least one key; all are whole words.
        unsafe { row::scores(&frame) };
        scale_scores(scores, job.scale);
        let sum = portable::exp_row(scores, ExpRow::U8(&mut *exps));
        let acc = areas.get_mut(..job.v_dim)?;
        for (group, acc) in acc.chunks_exact_mut(STEP).enumerate() {
            let exps = exps.as_ptr_range();
            let frame = row::Values {
                values: job.v.as_ptr().expose_provenance() + group * STEP,
                exps: exps.start.expose_provenance(),
                end: exps.end.expose_provenance(),
                stride: job.v_stride,
                out: acc.as_mut_ptr().expose_provenance(),
            };
            // SAFETY: values and exponentials were compared with the job; `acc` has four sums.
            unsafe { row::values(&frame) };
        }
        let out = out.get_mut(index * job.out_stride..)?.get_mut(..job.v_dim)?;
        scale_row(acc, RowScale::new(sum, job.ratio_m, job.ratio_shift), job.zero_point, out);
    }
    Some(())
}
