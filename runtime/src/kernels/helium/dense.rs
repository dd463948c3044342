//! Dense layers, row by row by [`super::quad`].

use super::quad;
use crate::kernels::{GROUP, LinearJob, LinearOut, PANEL, linear_scratch_bytes, portable};
use core::ops::Range;

type Routine = unsafe extern "C" fn(*const quad::Dense);

/// [`crate::kernels::Kernels::linear`].
pub fn linear(job: &LinearJob<'_>, x: &[i8], out: LinearOut<'_>, scratch: &mut [u8]) {
    let out_len = match &out {
        LinearOut::I8 { out, .. } => out.len(),
        LinearOut::I16 { out } | LinearOut::I16Residual { out, .. } => out.len(),
    };
    let Some(dense) = Dense::new(job, x, out_len, scratch) else { return portable::linear(job, x, out, &mut []) };
    let pick = |any: Routine, resident: Routine| if quad::RESIDENT_K.contains(&job.k) { resident } else { any };
    match out {
        LinearOut::I8 { out, lut: None } => {
            dense.rows(out, pick(quad::dense_i8, quad::resident_i8), job.zero_point, 0);
        }
        LinearOut::I8 { out, lut: Some(table) } => {
            let middle = table.as_ptr().expose_provenance() + table.len() / 2;
            dense.rows(out, pick(quad::dense_table, quad::resident_table), job.zero_point, middle);
        }
        LinearOut::I16 { out } => dense.rows(out, pick(quad::dense_i16, quad::resident_i16), 0, 0),
        LinearOut::I16Residual { out, residual_shift } => {
            let routine = pick(quad::dense_residual, quad::resident_residual);
            dense.rows(out, routine, -(residual_shift as i32), 0);
        }
    }
}

/// [`crate::kernels::Kernels::linear_acc`].
pub fn linear_acc(job: &LinearJob<'_>, x: &[i8], out: &mut [i32], scratch: &mut [u8]) {
    let Some(dense) = Dense::new(job, x, out.len(), scratch) else { return portable::linear_acc(job, x, out, &mut []) };
    let resident = quad::RESIDENT_K.contains(&job.k);
    dense.rows(out, if resident { quad::resident_i32 } else { quad::dense_i32 }, 0, 0);
}

/// Elements from the first of the first row to the last of the last; `None` when that is beyond `usize`.
pub fn reach(rows: usize, stride: usize, width: usize) -> Option<usize> {
    rows.checked_sub(1)?.checked_mul(stride)?.checked_add(width)
}

/// A job whose slices were found long enough for the routines.
struct Dense<'j, 's> {
    job: &'j LinearJob<'j>,
    x: &'j [i8],
    /// Where a panel is unpacked; empty where that is not needed.
    panel: &'s mut [u8],
    padded_k: usize,
}

impl<'j, 's> Dense<'j, 's> {
    fn new(job: &'j LinearJob<'j>, x: &'j [i8], out_len: usize, scratch: &'s mut [u8]) -> Option<Self> {
        let channels = job.n.checked_next_multiple_of(PANEL)?;
        let padded_k = job.k.checked_next_multiple_of(GROUP)?;
        let format = job.weights.format;
        let panel = if format.is_unpacked() {
            &mut [][..]
        } else {
            scratch.get_mut(linear_scratch_bytes(job.k)..)?.get_mut(..padded_k * PANEL)?
        };
        let fits = job.k > 0
            && job.n > 0
            && job.weights.bytes.len() >= (channels / PANEL).checked_mul(format.panel_bytes(job.k))?
            && job.bias.len() >= channels
            && job.multipliers.len() >= channels
            && x.len() >= reach(job.rows, job.x_stride, job.k)?
            && out_len >= reach(job.rows, job.out_stride, job.n)?;
        fits.then_some(Self { job, x, panel, padded_k })
    }

    /// All rows: row by row, or panel by panel, each unpacked once for all rows.
    fn rows<T: Copy + Default>(self, out: &mut [T], routine: Routine, addend: i32, table: usize) {
        let job = self.job;
        let panels = job.n.div_ceil(PANEL);
        let constants = quad::Dense { acc_shift: job.acc_shift as i32, addend, table, ..quad::Dense::default() };
        if self.panel.is_empty() {
            for row in 0..job.rows {
                self.row(row, 0..panels, job.weights.bytes, out, routine, &constants);
            }
            return;
        }
        let panel_bytes = job.weights.format.panel_bytes(job.k);
        for panel in 0..panels {
            job.weights.format.unpack(job.weights.bytes.get(panel * panel_bytes..).unwrap_or(&[]), self.panel);
            for row in 0..job.rows {
                self.row(row, panel..panel + 1, self.panel, out, routine, &constants);
            }
        }
    }

    /// Panels of one row; the channels of an incomplete panel go through a buffer. `weights` are theirs, 8 bits each.
    fn row<T: Copy + Default>(
        &self,
        row: usize,
        panels: Range<usize>,
        weights: &[u8],
        out: &mut [T],
        routine: Routine,
        constants: &quad::Dense,
    ) {
        let job = self.job;
        let start = row * job.out_stride;
        let Some(out) = out.get_mut(start..start + job.n) else { return };
        let out = out.get_mut(panels.start * PANEL..(panels.end * PANEL).min(job.n)).unwrap_or(&mut []);
        let whole = out.len() / PANEL;
        let (body, tail) = out.split_at_mut(whole * PANEL);
        let mut frame = quad::Dense {
            x: self.x.as_ptr().expose_provenance() + row * job.x_stride,
            k: job.k,
            weights: weights.as_ptr().expose_provenance(),
            bias: job.bias.as_ptr().expose_provenance() + panels.start * PANEL * size_of::<i32>(),
            multipliers: job.multipliers.as_ptr().expose_provenance() + panels.start * PANEL * size_of::<i32>(),
            out: body.as_mut_ptr().expose_provenance(),
            panels: whole,
            ..*constants
        };
        if whole > 0 {
            // SAFETY: `new` compared all slices with the job.
            unsafe { routine(&frame) };
        }
        if !tail.is_empty() {
            let mut last = [T::default(); PANEL];
            last.iter_mut().zip(&*tail).for_each(|(to, &from)| *to = from);
            frame.weights += whole * self.padded_k * PANEL;
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
