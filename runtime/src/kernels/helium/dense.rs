//! Dense layers, row by row by [`super::quad`].

use super::quad;
use crate::kernels::{GROUP, LinearJob, LinearOut, PANEL, portable};

type Routine = unsafe extern "C" fn(*const quad::Dense);

/// [`crate::kernels::Kernels::linear`].
pub fn linear(job: &LinearJob<'_>, x: &[i8], out: LinearOut<'_>) {
    if !fits(job, x, &out) {
        return portable::linear(job, x, out);
    }
    let pick = |any: Routine, resident: Routine| if quad::RESIDENT_K.contains(&job.k) { resident } else { any };
    match out {
        LinearOut::I8 { out, lut: None } => {
            rows(job, x, out, pick(quad::dense_i8, quad::resident_i8), job.zero_point, 0);
        }
        LinearOut::I8 { out, lut: Some(table) } => {
            let middle = table.as_ptr().expose_provenance() + table.len() / 2;
            rows(job, x, out, pick(quad::dense_table, quad::resident_table), job.zero_point, middle);
        }
        LinearOut::I16 { out } => rows(job, x, out, pick(quad::dense_i16, quad::resident_i16), 0, 0),
        LinearOut::I16Residual { out, residual_shift } => {
            let routine = pick(quad::dense_residual, quad::resident_residual);
            rows(job, x, out, routine, -(residual_shift as i32), 0);
        }
    }
}

/// Elements from the first of the first row to the last of the last; `None` when that is beyond `usize`.
pub fn reach(rows: usize, stride: usize, width: usize) -> Option<usize> {
    rows.checked_sub(1)?.checked_mul(stride)?.checked_add(width)
}

fn fits(job: &LinearJob<'_>, x: &[i8], out: &LinearOut<'_>) -> bool {
    let out_len = match out {
        LinearOut::I8 { out, .. } => out.len(),
        LinearOut::I16 { out } | LinearOut::I16Residual { out, .. } => out.len(),
    };
    let padded = job.n.checked_next_multiple_of(PANEL).zip(job.k.checked_next_multiple_of(GROUP));
    let Some((channels, padded_k)) = padded else { return false };
    job.weights.bits == 8
        && job.k > 0
        && job.n > 0
        && channels.checked_mul(padded_k).is_some_and(|bytes| job.weights.bytes.len() >= bytes)
        && job.bias.len() >= channels
        && job.multipliers.len() >= channels
        && reach(job.rows, job.x_stride, job.k).is_some_and(|len| x.len() >= len)
        && reach(job.rows, job.out_stride, job.n).is_some_and(|len| out_len >= len)
}

/// All rows of a job that fits; the channels of an incomplete panel go through a buffer.
fn rows<T: Copy + Default>(job: &LinearJob<'_>, x: &[i8], out: &mut [T], routine: Routine, addend: i32, table: usize) {
    let panel_bytes = job.k.next_multiple_of(GROUP) * PANEL;
    let whole = job.n / PANEL;
    for row in 0..job.rows {
        let start = row * job.out_stride;
        let Some(out) = out.get_mut(start..start + job.n) else { return };
        let (panels, tail) = out.split_at_mut(whole * PANEL);
        let mut frame = quad::Dense {
            acc_shift: job.acc_shift as i32,
            addend,
            table,
            x: x.as_ptr().expose_provenance() + row * job.x_stride,
            k: job.k,
            weights: job.weights.bytes.as_ptr().expose_provenance(),
            bias: job.bias.as_ptr().expose_provenance(),
            multipliers: job.multipliers.as_ptr().expose_provenance(),
            out: panels.as_mut_ptr().expose_provenance(),
            panels: whole,
        };
        if whole > 0 {
            // SAFETY: `fits` compared all slices with the job.
            unsafe { routine(&frame) };
        }
        if !tail.is_empty() {
            let mut last = [T::default(); PANEL];
            last.iter_mut().zip(&*tail).for_each(|(to, &from)| *to = from);
            frame.weights += whole * panel_bytes;
            frame.bias += whole * PANEL * size_of::<i32>();
            frame.multipliers += whole * PANEL * size_of::<i32>();
            frame.out = last.as_mut_ptr().expose_provenance();
            frame.panels = 1;
            // SAFETY: as above; weights, bias and multipliers are padded to whole panels, `last` is one.
            unsafe { routine(&frame) };
            tail.iter_mut().zip(last).for_each(|(to, from)| *to = from);
        }
    }
}
