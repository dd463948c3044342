//! 32-bit Arm with NEON under Linux (Cortex-A7, A8, A9, A15, and 64-bit cores in 32-bit mode).
//!
//! - [`tile`]: products, two rows by four columns at a time;
//! - [`rows`]: what lies between them;
//! - [`windows`]: depthwise convolutions and pooling.
//!
//! Tables are portable code: a table of 256 bytes fills all registers, and eight look-ups by VTBX take as many
//! instructions as by LDRB and STRB.
//!
//! The target does not promise NEON, so the kernel of the system is asked; without NEON, and without the feature `std`, all
//! is portable.

#![allow(unsafe_code)]

mod asm;
mod rows;
mod tile;
mod windows;

use super::list::each_kernel;
use super::list::kernels;
use super::list::signatures::*;
use super::{GROUP, Kernels, PANEL, Portable};
use crate::arith::requant;
use rows::{Finish, PanelInputs};
use tile::{COLUMNS, Operands, ROWS, Sums, WORDS, WideOperands};

/// Windows that are gathered at a time.
const GATHERED_ROWS: usize = 48;

/// Rows whose sums are requantized together.
const SUM_ROWS: usize = 32;

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

/// Row of a table: a function where the processor has NEON, the portable definition elsewhere.
macro_rules! available {
    (
        ($function:path)
        fn $name:ident($($arg:ident: $type:ty),*) $(-> $result:ty)? { $portable:expr }
    ) => {
        fn $name($($arg: $type),*) $(-> $result)? {
            if Neon32::is_available() {
                // SAFETY: the processor has NEON.
                unsafe { $function($($arg),*) }
            } else {
                $portable
            }
        }
    };
}

kernels! {
    impl Neon32 {
        const NAME: &'static str = "neon32";
        const GATHERED_ROWS: usize = GATHERED_ROWS;
    }
    linear => linear,
    linear_acc => linear_acc,
    // Products of the halves.
    linear_wide => portable,
    dot_i8 => dot_i8,
    dot_u8 => dot_u8,
    dot_u16 => dot_u16,
    // Products, then `scale_scores`.
    scores => portable,
    scale_scores => available!(rows::scale_scores),
    exp_row => available!(rows::exp_row),
    scale_row => available!(rows::scale_row),
    transpose => available!(rows::transpose),
    // In blocks of rows, by the rows above.
    attention => portable,
    attend => portable,
    depthwise => available!(windows::depthwise),
    depthwise_wide => available!(windows::depthwise_wide),
    pool => available!(windows::pool),
    norm_row => available!(rows::norm_row),
    // Row by row.
    norm_rows => portable,
    requant => available!(rows::requant),
    multiply => portable,
    rotate => portable,
    lut_wide => portable,
    lut_in_place => portable,
    lut_i16_in_place => portable,
    add_i16_in_place => available!(rows::add_i16_in_place),
}

fn linear(job: &LinearJob<'_>, x: &[i8], out: LinearOut<'_>, scratch: &mut [u8]) {
    if !Neon32::is_available() {
        return Portable::linear(job, x, out, scratch);
    }
    let LinearJob { acc_shift, zero_point, .. } = *job;
    match out {
        LinearOut::I8 { out, lut } => {
            let table = lut;
            dense(job, x, out, scratch, Some((Finish::I8, zero_point)), |acc, multiplier, out| {
                *out = requant::requantize_i8(acc, acc_shift, multiplier, zero_point);
            });
            let Some(table) = table else { return };
            for row in out.chunks_mut(job.out_stride.max(1)).take(job.fit(x.len(), usize::MAX).0) {
                portable::lut_in_place(row.get_mut(..job.n).unwrap_or(&mut []), table);
            }
        }
        LinearOut::I16 { out } => dense(job, x, out, scratch, Some((Finish::I16, 0)), |acc, multiplier, out| {
            *out = requant::requantize_i16(acc, acc_shift, multiplier);
        }),
        LinearOut::I16Residual { out, residual_shift } => {
            let finish = Some((Finish::Sum, -(residual_shift as i32)));
            dense(job, x, out, scratch, finish, |acc, multiplier, out| {
                let residual = requant::rshift_round(i32::from(*out), residual_shift);
                *out = requant::sat_i16(requant::mulhi_round(acc << acc_shift, multiplier).wrapping_add(residual));
            });
        }
    }
}

fn linear_acc(job: &LinearJob<'_>, x: &[i8], out: &mut [i32], scratch: &mut [u8]) {
    if !Neon32::is_available() {
        return Portable::linear_acc(job, x, out, scratch);
    }
    dense(job, x, out, scratch, None, |acc, _, out| *out = acc);
}

/// A dense layer on a processor with NEON. `finish` says what becomes of the sums of a whole panel, with the number that
/// [`PanelInputs`] has for it; `one` makes an output of its sum and multiplier where there is no whole panel, or no `finish`.
fn dense<T>(
    job: &LinearJob<'_>,
    x: &[i8],
    out: &mut [T],
    scratch: &mut [u8],
    finish: Option<(Finish, i32)>,
    one: impl Fn(i32, i32, &mut T),
) {
    let (rows, n) = job.fit(x.len(), out.len());
    job.each_panel(n, scratch, |index, panel, bias, multipliers| {
        let exact = panel.contains(&(i8::MIN as u8));
        let first: *const i8 = panel.as_ptr().cast();
        let w = [0, 1, 2, 3].map(|channel| first.wrapping_add(channel * GROUP));
        let mut sums = [[0i32; PANEL]; SUM_ROWS];
        for block in (0..rows).step_by(SUM_ROWS) {
            let count = (rows - block).min(SUM_ROWS);
            for (pair, sums) in sums.chunks_mut(ROWS).enumerate().take(count.div_ceil(ROWS)) {
                let row = block + pair * ROWS;
                let x = [row, (row + 1).min(rows - 1)].map(|row| x.as_ptr().wrapping_add(row * job.x_stride));
                let operands = Operands { x, w, step: PANEL * GROUP, groups: 0, flip: 0 };
                // SAFETY: `fit` counts only rows and channels that `x` and the weights hold; NEON is there.
                let tile = unsafe { operands.sums(job.k, exact, true) };
                sums.iter_mut().zip(tile).for_each(|(to, from)| *to = from);
            }
            let at = block * job.out_stride + index * PANEL;
            if let (Some((finish, last)), true) = (finish, n - index * PANEL >= PANEL) {
                let panel = PanelInputs {
                    sums: sums.as_ptr(),
                    out: out.as_mut_ptr().wrapping_add(at).cast(),
                    stride: job.out_stride * size_of::<T>(),
                    rows: count,
                    bias,
                    multipliers,
                    shift: job.acc_shift,
                    last,
                };
                // SAFETY: `fit` counts only rows and channels that the output holds, `count` of them are summed; NEON is
                // there.
                unsafe { rows::requantize(&panel, finish) };
                continue;
            }
            for (row, sums) in sums.iter().enumerate().take(count) {
                let out = out.get_mut(at + row * job.out_stride..).unwrap_or(&mut []);
                let out = out.iter_mut().take(n - index * PANEL);
                for (((out, sum), bias), &multiplier) in out.zip(sums).zip(bias).zip(multipliers) {
                    one(sum.wrapping_add(*bias), multiplier, out);
                }
            }
        }
    });
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
            let sums: Sums = unsafe { Operands { x, w, step: GROUP, groups: 0, flip }.sums(job.k, exact, false) };
            for (row, sums) in (row..=last).zip(sums) {
                let out = out.get_mut(row * job.out_stride + column..).unwrap_or(&mut []);
                for ((out, sum), excess) in out.iter_mut().zip(sums).zip(excess).take(columns - column) {
                    *out = sum.wrapping_add(excess);
                }
            }
        }
    }
}

fn dot_u16(job: &DotJob, x: &[u16], y: &[i8], out: &mut [i32], scratch: &mut [u8]) {
    if !Neon32::is_available() {
        return Portable::dot_u16(job, x, y, out, scratch);
    }
    let rows = job.rows.min(super::whole_rows(x.len(), job.x_stride, job.k));
    let columns = job.cols.min(super::whole_rows(y.len(), job.y_stride, job.k));
    let (groups, whole) = (job.k / WORDS, job.k / WORDS * WORDS);
    for column in (0..columns).step_by(COLUMNS) {
        let columns_at = [0, 1, 2, 3].map(|index| (column + index).min(columns - 1) * job.y_stride);
        for row in (0..rows).step_by(ROWS) {
            let rows_at = [row, (row + 1).min(rows - 1)].map(|row| row * job.x_stride);
            let operands = WideOperands {
                x: rows_at.map(|at| x.as_ptr().wrapping_add(at)),
                y: columns_at.map(|at| y.as_ptr().wrapping_add(at)),
                groups,
            };
            // SAFETY: `rows` and `columns` count only what the slices hold; NEON is there.
            let sums = if groups > 0 { unsafe { operands.sums() } } else { Sums::default() };
            for ((row, sums), from) in (row..rows).zip(sums).zip(rows_at) {
                let x = x.get(from + whole..).unwrap_or(&[]).iter().take(job.k - whole);
                let out = out.get_mut(row * job.out_stride + column..).unwrap_or(&mut []);
                for ((out, sum), from) in out.iter_mut().zip(sums).zip(columns_at).take(columns - column) {
                    let y = y.get(from + whole..).unwrap_or(&[]);
                    *out = x.clone().zip(y).fold(sum, |sum, (&x, &y)| sum + i32::from(x) * i32::from(y));
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
    const GATHERED_ROWS: usize = GATHERED_ROWS;
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
