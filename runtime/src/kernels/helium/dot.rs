//! Dot products of activations with activations, row by row by [`super::quad`].

use super::dense::reach;
use super::{quad, scores, softmax};
use crate::kernels::{DotJob, ScoreScale};

/// Rows of `y` that one call of a routine takes at a time.
const QUAD: usize = 4;
/// Columns that share one buffer of starting values.
const CHUNK: usize = 32;
/// What sums start from where there is nothing to correct.
static ZEROS: [i32; CHUNK] = [0; CHUNK];

type Routine = unsafe extern "C" fn(*const quad::Rows);

/// Rows of elements, by address: one walk for all types.
#[derive(Clone, Copy)]
struct Lanes {
    x: usize,
    /// Elements.
    len: usize,
    /// Bytes of an element.
    size: usize,
    any: Routine,
    /// For K in [`quad::RESIDENT_K`].
    resident: Option<Routine>,
    /// Whether the routines work with activations less 128.
    sign_flipped: bool,
}

impl Lanes {
    /// Signed bytes.
    fn i8(x: &[i8]) -> Self {
        Self {
            x: x.as_ptr().expose_provenance(),
            len: x.len(),
            size: 1,
            any: quad::rows_i8,
            resident: Some(quad::resident_rows_i8),
            sign_flipped: false,
        }
    }

    /// Unsigned bytes.
    fn u8(x: &[u8]) -> Self {
        Self {
            x: x.as_ptr().expose_provenance(),
            len: x.len(),
            size: 1,
            any: quad::rows_u8,
            resident: Some(quad::resident_rows_u8),
            sign_flipped: true,
        }
    }

    /// 16-bit values below 2^15.
    fn u16(x: &[u16]) -> Self {
        Self {
            x: x.as_ptr().expose_provenance(),
            len: x.len(),
            size: 2,
            any: quad::rows_i16,
            resident: None,
            sign_flipped: false,
        }
    }
}

/// [`crate::kernels::Kernels::dot_i8`].
pub fn dot_i8(job: &DotJob, x: &[i8], y: &[i8], out: &mut [i32], _scratch: &mut [u8]) {
    dot(job, Lanes::i8(x), y, out);
}

/// [`crate::kernels::Kernels::dot_u8`].
pub fn dot_u8(job: &DotJob, x: &[u8], y: &[i8], out: &mut [i32], _scratch: &mut [u8]) {
    dot(job, Lanes::u8(x), y, out);
}

/// [`crate::kernels::Kernels::dot_u16`].
pub fn dot_u16(job: &DotJob, x: &[u16], y: &[i8], out: &mut [i32], _scratch: &mut [u8]) {
    dot(job, Lanes::u16(x), y, out);
}

/// [`crate::kernels::Kernels::scores`].
pub fn scores(job: &DotJob, scale: ScoreScale, x: &[i8], y: &[i8], out: &mut [i32], _scratch: &mut [u8]) {
    if fits(job, x.len(), y, out) && scores::scores(job, scale, x, y, out) {
        return;
    }
    dot(job, Lanes::i8(x), y, out);
    for row in out.chunks_mut(job.out_stride.max(1)).take(job.rows) {
        softmax::scale_scores(row.get_mut(..job.cols).unwrap_or(&mut []), scale);
    }
}

/// Whether the slices hold all that the job names.
fn fits(job: &DotJob, x_len: usize, y: &[i8], out: &[i32]) -> bool {
    let long_enough = |len: usize, rows: usize, stride: usize, width: usize| {
        reach(rows, stride, width).is_some_and(|reach| len >= reach)
    };
    job.k > 0
        && long_enough(x_len, job.rows, job.x_stride, job.k)
        && long_enough(y.len(), job.cols, job.y_stride, job.k)
        && long_enough(out.len(), job.rows, job.out_stride, job.cols)
}

/// Dot products. Nothing where slices do not fit the job.
fn dot(job: &DotJob, x: Lanes, y: &[i8], out: &mut [i32]) {
    if !fits(job, x.len, y, out) {
        return;
    }
    // The routine with the row in registers reads whole registers of `y`.
    let readable = reach(job.cols, job.y_stride, *quad::RESIDENT_K.end()).is_some_and(|reach| y.len() >= reach);
    let resident = x.resident.filter(|_| readable && quad::RESIDENT_K.contains(&job.k));
    let mut all = Pass {
        routine: resident.unwrap_or(x.any),
        rows: quad::Rows {
            x: x.x,
            y: y.as_ptr().expose_provenance(),
            k: job.k,
            x_stride: job.x_stride * x.size,
            out: out.as_mut_ptr().expose_provenance(),
            out_stride: job.out_stride * size_of::<i32>(),
            rows: job.rows,
            start: ZEROS.as_ptr().expose_provenance(),
            quads: 0,
            y_stride: job.y_stride,
        },
        count: 0,
    };
    let mut first = 0;
    while first < job.cols {
        all.count = (job.cols - first).min(CHUNK);
        let mut start = [0i32; CHUNK];
        if x.sign_flipped {
            // x = (x - 128) + 128: the routine computes with the first part, sums start from the second.
            let rows = quad::Rows { rows: 1, out: start.as_mut_ptr().expose_provenance(), ..all.rows };
            Pass { routine: quad::rows_128, rows, ..all }.columns();
            all.rows.start = start.as_ptr().expose_provenance();
        }
        all.columns();
        all.rows.y += all.count * job.y_stride;
        all.rows.out += all.count * size_of::<i32>();
        all.rows.start = ZEROS.as_ptr().expose_provenance();
        first += CHUNK;
    }
}

/// All rows of `x` with at most [`CHUNK`] rows of `y`.
#[derive(Clone, Copy)]
struct Pass {
    routine: Routine,
    rows: quad::Rows,
    /// Rows of `y`, at least one.
    count: usize,
}

impl Pass {
    /// The frame from column `first` on, `quads` times four columns.
    fn from(&self, first: usize, quads: usize) -> quad::Rows {
        quad::Rows {
            y: self.rows.y + first * self.rows.y_stride,
            out: self.rows.out + first * size_of::<i32>(),
            start: self.rows.start + first * size_of::<i32>(),
            quads,
            ..self.rows
        }
    }

    fn columns(&self) {
        let whole = self.count / QUAD;
        if whole > 0 {
            // SAFETY: `dot` compared the slices with the job, of which these are `4 * whole <= count` columns.
            unsafe { (self.routine)(&self.from(0, whole)) };
        }
        if self.count.is_multiple_of(QUAD) {
            return;
        }
        if whole > 0 {
            // SAFETY: the last four columns once more: the same sums where they overlap.
            return unsafe { (self.routine)(&self.from(self.count - QUAD, 1)) };
        }
        for row in 0..self.rows.rows {
            for column in 0..self.count {
                let mut same = [0i32; QUAD];
                let mut frame = self.from(column, 1);
                let out = core::ptr::with_exposed_provenance_mut::<i32>(frame.out + row * frame.out_stride);
                frame.out = same.as_mut_ptr().expose_provenance();
                frame.x += row * frame.x_stride;
                frame.y_stride = 0;
                frame.rows = 1;
                // SAFETY: stride 0: four times the same row of `y`, the first of which has this column's start. Three
                // starts beyond it are readable: of ZEROS, or of a buffer as long. The sum is one of the job's.
                unsafe {
                    (self.routine)(&frame);
                    out.write(same[0]);
                }
            }
        }
    }
}
