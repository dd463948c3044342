//! 32-bit Arm with NEON under Linux (Cortex-A7, A8, A9, A15, and 64-bit cores in 32-bit mode): dense layers and dot products.
//!
//! The target does not promise NEON, so the kernel of the system is asked; without NEON, and without the feature `std`, all
//! is portable. The rows between the products are portable code.

#![allow(unsafe_code)]

mod tile;

use super::list::each_kernel;
use super::list::kernels;
use super::list::signatures::*;
use super::{GROUP, Kernels, PANEL, Portable, WeightFormat};
use crate::arith::requant;
use tile::{AttentionInputs, COLUMNS, ROWS, Sums};

/// VMULL, VMLAL and VPADAL. As [`Portable`] where the processor lacks NEON.
#[derive(Clone, Copy, Debug)]
pub struct Neon32;

impl Neon32 {
    /// Whether this processor has NEON.
    #[cfg(feature = "std")]
    pub fn is_available() -> bool {
        use std::sync::OnceLock;
        static HAS: OnceLock<bool> = OnceLock::new();
        unsafe extern "C" {
            /// Of the C library that `std` is linked with.
            safe fn getauxval(kind: core::ffi::c_ulong) -> core::ffi::c_ulong;
        }
        /// The entry with the features of the processor, and NEON among them.
        const HWCAP: core::ffi::c_ulong = 16;
        const NEON: core::ffi::c_ulong = 1 << 12;
        *HAS.get_or_init(|| getauxval(HWCAP) & NEON != 0)
    }

    /// Whether this processor has NEON: nobody can be asked.
    #[cfg(not(feature = "std"))]
    pub fn is_available() -> bool {
        false
    }
}

kernels! {
    impl Neon32 {
        const NAME: &'static str = "neon32";
    }
    linear => linear,
    linear_acc => linear_acc,
    linear_wide => portable,
    dot_i8 => dot_i8,
    dot_u8 => dot_u8,
    dot_u16 => portable,
    scores => portable,
    scale_scores => portable,
    exp_row => portable,
    scale_row => portable,
    transpose => portable,
    attention => portable,
    depthwise => portable,
    pool => portable,
    norm_row => portable,
    norm_rows => portable,
    lut_in_place => portable,
    add_i16_in_place => portable,
}

fn linear(job: &LinearJob<'_>, x: &[i8], out: LinearOut<'_>, scratch: &mut [u8]) {
    if !Neon32::is_available() {
        return Portable::linear(job, x, out, scratch);
    }
    let LinearJob { acc_shift, zero_point, .. } = *job;
    match out {
        LinearOut::I8 { out, lut } => dense(job, x, out, scratch, |acc, multiplier, out| {
            let y = requant::requantize_i8(acc, acc_shift, multiplier, zero_point);
            // + 128 as an index.
            *out = lut.map_or(y, |lut| lut[usize::from(y as u8 ^ 0x80)]);
        }),
        LinearOut::I16 { out } => dense(job, x, out, scratch, |acc, multiplier, out| {
            *out = requant::requantize_i16(acc, acc_shift, multiplier);
        }),
        LinearOut::I16Residual { out, residual_shift } => dense(job, x, out, scratch, |acc, multiplier, out| {
            let residual = requant::rshift_round(i32::from(*out), residual_shift);
            *out = requant::sat_i16(requant::mulhi_round(acc << acc_shift, multiplier).wrapping_add(residual));
        }),
    }
}

fn linear_acc(job: &LinearJob<'_>, x: &[i8], out: &mut [i32], scratch: &mut [u8]) {
    if !Neon32::is_available() {
        return Portable::linear_acc(job, x, out, scratch);
    }
    dense(job, x, out, scratch, |acc, _, out| *out = acc);
}

/// A dense layer on a processor with NEON; `finish` makes an output of its sum and multiplier.
fn dense<T>(job: &LinearJob<'_>, x: &[i8], out: &mut [T], scratch: &mut [u8], finish: impl Fn(i32, i32, &mut T)) {
    let (rows, n) = job.fit(x.len(), out.len());
    let panel_bytes = job.weights.format.panel_bytes(job.k);
    let wide_bytes = WeightFormat::I8.panel_bytes(job.k);
    let channels = job.bias.as_chunks::<PANEL>().0.iter().zip(job.multipliers.as_chunks::<PANEL>().0);
    let panels = job.weights.bytes.chunks_exact(panel_bytes.max(1)).zip(channels).take(n.div_ceil(PANEL));
    for (index, (panel, (bias, multipliers))) in panels.enumerate() {
        let panel = if job.weights.format.is_unpacked() {
            panel
        } else {
            let Some(wide) = scratch.get_mut(..wide_bytes) else { return };
            job.weights.format.unpack(panel, wide);
            wide
        };
        let exact = panel.contains(&(i8::MIN as u8));
        let first: *const i8 = panel.as_ptr().cast();
        let w = [0, 1, 2, 3].map(|channel| first.wrapping_add(channel * GROUP));
        for row in (0..rows).step_by(ROWS) {
            let last = (row + 1).min(rows - 1);
            let x = [row, last].map(|row| x.as_ptr().wrapping_add(row * job.x_stride));
            // SAFETY: `fit` counts only rows and channels that `x` and the weights hold; NEON is there.
            let sums =
                unsafe { AttentionInputs { x, w, step: PANEL * GROUP, groups: 0, flip: 0 }.sums(job.k, exact, true) };
            for (row, sums) in (row..=last).zip(sums) {
                let out = out.get_mut(row * job.out_stride..).and_then(|out| out.get_mut(..n)).unwrap_or(&mut []);
                let out = out.get_mut(index * PANEL..).unwrap_or(&mut []);
                for (((out, sum), bias), &multiplier) in out.iter_mut().zip(sums).zip(bias).zip(multipliers) {
                    finish(sum.wrapping_add(*bias), multiplier, out);
                }
            }
        }
    }
}

fn dot_i8(job: &DotJob, x: &[i8], y: &[i8], out: &mut [i32], scratch: &mut [u8]) {
    if !Neon32::is_available() {
        return Portable::dot_i8(job, x, y, out, scratch);
    }
    dots::<false>(job, x, y, out);
}

fn dot_u8(job: &DotJob, x: &[u8], y: &[i8], out: &mut [i32], scratch: &mut [u8]) {
    if !Neon32::is_available() {
        return Portable::dot_u8(job, x, y, out, scratch);
    }
    dots::<true>(job, bytemuck::cast_slice(x), y, out);
}

/// Dot products on a processor with NEON. Of `UNSIGNED` rows 128 is subtracted, and 128 times the sum of the column added at
/// the end.
fn dots<const UNSIGNED: bool>(job: &DotJob, x: &[i8], y: &[i8], out: &mut [i32]) {
    let rows = job.rows.min(super::whole_rows(x.len(), job.x_stride, job.k));
    let columns = job.cols.min(super::whole_rows(y.len(), job.y_stride, job.k));
    for column in (0..columns).step_by(COLUMNS) {
        let at = |index: usize| (column + index).min(columns - 1) * job.y_stride;
        let each = [0, 1, 2, 3].map(|index| y.get(at(index)..).and_then(|y| y.get(..job.k)).unwrap_or(&[]));
        let exact = each.iter().any(|y| y.contains(&i8::MIN));
        let excess = each.map(|y| if UNSIGNED { y.iter().map(|&y| i32::from(y)).sum::<i32>() << 7 } else { 0 });
        let w = each.map(|y| y.as_ptr());
        for row in (0..rows).step_by(ROWS) {
            let last = (row + 1).min(rows - 1);
            let x = [row, last].map(|row| x.as_ptr().wrapping_add(row * job.x_stride));
            let flip = if UNSIGNED { 0x80 } else { 0 };
            // SAFETY: `rows` and `columns` count only what the slices hold; NEON is there.
            let sums: Sums =
                unsafe { AttentionInputs { x, w, step: GROUP, groups: 0, flip }.sums(job.k, exact, false) };
            for (row, sums) in (row..=last).zip(sums) {
                let out = out.get_mut(row * job.out_stride + column..).unwrap_or(&mut []);
                for ((out, sum), excess) in out.iter_mut().zip(sums).zip(excess).take(columns - column) {
                    *out = sum.wrapping_add(excess);
                }
            }
        }
    }
}

/// The fastest kernels of this processor.
#[derive(Clone, Copy, Debug)]
pub struct Native;

/// Falls back by itself.
macro_rules! forward {
    (fn $name:ident($($arg:ident: $type:ty),*) $(-> $result:ty)?) => {
        fn $name($($arg: $type),*) $(-> $result)? {
            Neon32::$name($($arg),*)
        }
    };
}

impl Kernels for Native {
    const NAME: &'static str = "native";
    each_kernel! { forward }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;
    use std::vec;

    #[test]
    fn neon32_is_portable() {
        if !Neon32::is_available() {
            std::eprintln!("SKIPPED: this processor has no NEON");
            return;
        }
        let mut memory = vec![0u8; testing::LARGE_BYTES];
        testing::check::<Neon32>(&mut memory).unwrap_or_else(|d| panic!("{d:?}"));
        testing::check_large::<Neon32>(&mut memory).unwrap_or_else(|d| panic!("{d:?}"));
        testing::check::<Native>(&mut memory).unwrap_or_else(|d| panic!("{d:?}"));
    }
}
