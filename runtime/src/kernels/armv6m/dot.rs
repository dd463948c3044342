//! Dot products of activations with activations, two rows at a time by [`super::pair`].

use super::dense::{Sums, reach, widen_pair};
use super::pair;
use crate::kernels::{DotJob, GROUP, linear_scratch_bytes, portable};

/// K values that one load of weights brings.
const STEP: usize = 4;

/// [`crate::kernels::Kernels::dot_i8`] and its siblings.
pub fn dot<X: Copy + Into<i32>>(job: &DotJob, x: &[X], y: &[i8], out: &mut [i32], scratch: &mut [u8]) {
    if pairs(job, x, y, out, scratch).is_none() {
        portable::dot(job, x, y, out, scratch);
    }
}

/// `None`, with nothing written, when the slices do not fit the job or rows of `y` are not made of whole words.
fn pairs<X: Copy + Into<i32>>(job: &DotJob, x: &[X], y: &[i8], out: &mut [i32], scratch: &mut [u8]) -> Option<()> {
    let scratch: &mut [i32] = bytemuck::try_cast_slice_mut(scratch.get_mut(..linear_scratch_bytes(job.k))?).ok()?;
    let read = job.k.next_multiple_of(STEP);
    let aligned = y.as_ptr().addr().is_multiple_of(STEP) && (job.y_stride.is_multiple_of(STEP) || job.cols == 1);
    let fits = job.k > 0
        && aligned
        && x.len() >= reach(job.rows, job.x_stride, job.k)?
        && y.len() >= reach(job.cols, job.y_stride, read)?
        && out.len() >= reach(job.rows, job.out_stride, job.cols)?;
    if !fits {
        return None;
    }
    for first in (0..job.rows).step_by(2) {
        let second = (first + 1).min(job.rows - 1);
        let row = |index: usize| x.get(index * job.x_stride..).and_then(|x| x.get(..job.k)).unwrap_or(&[]);
        let x = widen_pair(row(first), row(second), read, scratch);
        for column in (0..job.cols).step_by(Sums::CHANNELS) {
            let count = (job.cols - column).min(Sums::CHANNELS);
            let mut sums = Sums::new();
            let groups = read - read % GROUP;
            let start = x.as_ptr().expose_provenance();
            let frame = pair::Frame {
                out: sums.0.as_mut_ptr().expose_provenance(),
                x: start,
                weights: y.as_ptr().expose_provenance() + column * job.y_stride,
                bias: 0,
                channels: -(count as i32),
                x_end_groups: start + groups * size_of::<[i32; 2]>(),
                x_end: start + read * size_of::<[i32; 2]>(),
                next_channel: job.y_stride as isize - read as isize,
            };
            // SAFETY: `y` has `cols` rows of `read` bytes, found above; `x` holds `read` pairs, `sums` all channels.
            unsafe { pair::rows(&frame) };
            for (index, row) in [first, second].into_iter().enumerate() {
                let out = out.get_mut(row * job.out_stride + column..).unwrap_or(&mut []);
                for (out, sums) in out.iter_mut().zip(&sums.0).take(count) {
                    *out = if index == 0 { sums[0] } else { sums[1] };
                }
            }
        }
    }
    Some(())
}
