//! WebAssembly with 128-bit vectors (`-Ctarget-feature=+simd128`): browsers since 2021, Node.js, Wasmtime.
//!
//! - [`tile`]: products, two rows by four columns at a time;
//! - [`rows`]: what lies between them.
//!
//! A module either has vectors or does not load where there are none, so nothing is asked when it runs. Without the
//! feature all is portable, and the build says so.

#![allow(unsafe_code)]

mod rows;
mod tile;

use super::PANEL;
use super::list::kernels;
use super::list::signatures::*;
use crate::arith::requant;
use core::arch::wasm32::v128;
use tile::{COLUMNS, Element, ROWS, Tile};

/// `i32x4.dot_i16x8_s`, extended products.
#[derive(Clone, Copy, Debug)]
pub struct Simd128;

kernels! {
    impl Simd128 {
        const NAME: &'static str = "simd128";
    }
    linear => linear,
    linear_acc => linear_acc,
    // Products of the halves.
    linear_wide => portable,
    dot_i8 => dots,
    dot_u8 => dots,
    dot_u16 => dots,
    // Products, then `scale_scores`.
    scores => portable,
    scale_scores => rows::scale_scores,
    exp_row => rows::exp_row,
    scale_row => rows::scale_row,
    // Byte by byte: a matter of loads and stores.
    transpose => portable,
    // In blocks of rows, by the rows above.
    attention => portable,
    // By the rows above.
    attend => portable,
    depthwise => portable,
    depthwise_wide => portable,
    pool => portable,
    norm_row => rows::norm_row,
    // Row by row.
    norm_rows => portable,
    requant => rows::requant,
    multiply => portable,
    rotate => portable,
    lut_wide => portable,
    // There is no look-up in more than 16 bytes.
    lut_in_place => portable,
    lut_i16_in_place => portable,
    add_i16_in_place => rows::add_i16_in_place,
}

fn linear(job: &LinearJob<'_>, x: &[i8], out: LinearOut<'_>, scratch: &mut [u8]) {
    let LinearJob { acc_shift, zero_point, .. } = *job;
    match out {
        LinearOut::I8 { out, lut } => {
            let whole = |sums, multipliers: v128, out: &mut [i8; PANEL]| {
                *out = rows::to_i8(rows::requantized(sums, acc_shift, multipliers), zero_point);
            };
            dense(job, x, out, scratch, whole, |acc, multiplier, out| {
                *out = requant::requantize_i8(acc, acc_shift, multiplier, zero_point);
            });
            let Some(table) = lut else { return };
            for row in out.chunks_mut(job.out_stride.max(1)).take(job.fit(x.len(), usize::MAX).0) {
                portable::lut_in_place(row.get_mut(..job.n).unwrap_or(&mut []), table);
            }
        }
        LinearOut::I16 { out } => {
            let whole = |sums, multipliers: v128, out: &mut [i16; PANEL]| {
                *out = rows::to_i16(rows::requantized(sums, acc_shift, multipliers));
            };
            dense(job, x, out, scratch, whole, |acc, multiplier, out| {
                *out = requant::requantize_i16(acc, acc_shift, multiplier);
            });
        }
        LinearOut::I16Residual { out, residual_shift } => {
            let whole = |sums, multipliers: v128, out: &mut [i16; PANEL]| {
                let residual = rows::residual(out, residual_shift);
                *out = rows::to_i16(rows::plus(rows::requantized(sums, acc_shift, multipliers), residual));
            };
            dense(job, x, out, scratch, whole, |acc, multiplier, out| {
                let residual = requant::rshift_round(i32::from(*out), residual_shift);
                *out = requant::sat_i16(requant::mulhi_round(acc << acc_shift, multiplier).wrapping_add(residual));
            });
        }
    }
}

fn linear_acc(job: &LinearJob<'_>, x: &[i8], out: &mut [i32], scratch: &mut [u8]) {
    let whole = |sums, _: v128, out: &mut [i32; PANEL]| *out = rows::lanes(sums);
    dense(job, x, out, scratch, whole, |acc, _, out| *out = acc);
}

/// A dense layer. `whole` makes the outputs of a panel from its sums and multipliers, `one` those of a panel that ends
/// before its last channel.
#[inline(always)]
fn dense<T>(
    job: &LinearJob<'_>,
    x: &[i8],
    out: &mut [T],
    scratch: &mut [u8],
    whole: impl Fn(v128, v128, &mut [T; PANEL]),
    one: impl Fn(i32, i32, &mut T),
) {
    let (rows, n) = job.fit(x.len(), out.len());
    job.each_panel(n, scratch, |index, panel, bias, multipliers| {
        let bias = rows::vector(bias);
        for row in (0..rows).step_by(ROWS) {
            let last = (row + 1).min(rows - 1);
            let x = [row, last].map(|row| x.as_ptr().wrapping_add(row * job.x_stride));
            // SAFETY: `fit` counts only rows and channels that `x` and the weights hold.
            let sums = unsafe { Tile::of_panel(x, panel).sums(job.k) };
            for (row, sums) in (row..=last).zip(sums) {
                let (sums, at) = (rows::plus(sums, bias), row * job.out_stride + index * PANEL);
                let out = out.get_mut(at..).unwrap_or(&mut []);
                match out.first_chunk_mut::<PANEL>() {
                    Some(out) if n - index * PANEL >= PANEL => whole(sums, rows::vector(multipliers), out),
                    _ => {
                        let channels = rows::lanes(sums).into_iter().zip(multipliers).take(n - index * PANEL);
                        out.iter_mut().zip(channels).for_each(|(out, (sum, &multiplier))| one(sum, multiplier, out));
                    }
                }
            }
        }
    });
}

/// Dot products of rows of any element with signed columns.
fn dots<X: Element>(job: &DotJob, x: &[X], y: &[i8], out: &mut [i32], _scratch: &mut [u8]) {
    let rows = job.rows.min(super::whole_rows(x.len(), job.x_stride, job.k));
    let columns = job.cols.min(super::whole_rows(y.len(), job.y_stride, job.k));
    for column in (0..columns).step_by(COLUMNS) {
        let at = |index: usize| y.as_ptr().wrapping_add((column + index).min(columns - 1) * job.y_stride);
        let columns_at = [0, 1, 2, 3].map(at);
        for row in (0..rows).step_by(ROWS) {
            let last = (row + 1).min(rows - 1);
            let x = [row, last].map(|row| x.as_ptr().wrapping_add(row * job.x_stride));
            // SAFETY: `rows` and `columns` count only what the slices hold.
            let sums = unsafe { Tile::of_columns(x, columns_at).sums(job.k) };
            for (row, sums) in (row..=last).zip(sums) {
                let out = out.get_mut(row * job.out_stride + column..).unwrap_or(&mut []);
                out.iter_mut().zip(rows::lanes(sums)).take(columns - column).for_each(|(out, sum)| *out = sum);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;
    use std::vec;

    #[test]
    fn simd128_is_portable() {
        let mut memory = vec![0u8; testing::LARGE_BYTES];
        testing::check::<Simd128>(&mut memory).unwrap_or_else(|d| panic!("{d:?}"));
        testing::check_large::<Simd128>(&mut memory).unwrap_or_else(|d| panic!("{d:?}"));
    }
}
