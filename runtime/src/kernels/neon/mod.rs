//! AArch64: products by SMMLA where the processor has it (Armv8.6 and many of Armv8.4), by SDOT (Cortex-A55, A76 and
//! later), else by SMULL, SMLAL and SADALP (Cortex-A53, A72).
//!
//! - [`engine`]: tiles of packed rows and columns, the bulk of dense layers and attention;
//! - [`dense`], [`attention`]: what surrounds them, in blocks on the stack;
//! - [`tiles`]: few rows as they lie, and dot products;
//! - [`rows`], [`windows`]: the rows between the products, depthwise convolutions and pooling, the same for every level.
//!
//! The level is chosen by what the processor has (feature `std`, detected once) or by the target features alone. NEON
//! belongs to the target.

#![allow(unsafe_code)]

mod attention;
mod dense;
mod engine;
mod rows;
mod tiles;
mod windows;

use super::Kernels;
use super::list::signatures::*;
use super::list::{each_kernel, kernels};
use engine::Engine;
use tiles::{Products, Sdot, Smull};

/// Windows that are gathered at a time: whole tiles of twelve rows.
const GATHERED_ROWS: usize = 48;

/// Whether code for this feature may run.
macro_rules! feature {
    ($name:tt) => {{
        #[cfg(feature = "std")]
        let has = std::arch::is_aarch64_feature_detected!($name);
        #[cfg(not(feature = "std"))]
        let has = cfg!(target_feature = $name);
        has
    }};
}

/// SMMLA for dense layers and attention, SDOT for dot products. As [`Neon`] where the processor lacks them.
#[derive(Clone, Copy, Debug)]
pub struct NeonI8mm;

/// SDOT. As [`Neon`] where the processor lacks it.
#[derive(Clone, Copy, Debug)]
pub struct NeonDot;

/// SMULL and SADALP: every AArch64 processor.
#[derive(Clone, Copy, Debug)]
pub struct Neon;

impl NeonI8mm {
    /// Whether this processor has what the level needs.
    pub fn is_available() -> bool {
        feature!("i8mm") && feature!("dotprod")
    }
}

impl NeonDot {
    /// Whether this processor has what the level needs.
    pub fn is_available() -> bool {
        feature!("dotprod")
    }
}

kernels! {
    impl Neon {
        const NAME: &'static str = "neon";
        const INTERLEAVES: bool = true;
        const GATHERED_ROWS: usize = GATHERED_ROWS;
        const ATTENDS: bool = true;
    }
    linear => smull::linear,
    linear_acc => smull::linear_acc,
    linear_wide => portable,
    dot_i8 => smull::dot_i8,
    dot_u8 => smull::dot_u8,
    dot_u16 => tiles::dot_u16,
    // Products by SDOT or SMULL, then `scale_scores`.
    scores => portable,
    scale_scores => rows::scale_scores,
    exp_row => rows::exp_row,
    scale_row => rows::scale_row,
    transpose => rows::transpose,
    attention => smull::attention,
    attend => portable,
    norm_row => rows::norm_row,
    norm_rows => rows::norm_rows,
    requant => rows::requant,
    multiply => portable,
    rotate => portable,
    lut_wide => portable,
    lut_in_place => rows::lut_in_place,
    lut_i16_in_place => rows::lut_i16_in_place,
    add_i16_in_place => rows::add_i16_in_place,
    depthwise => windows::depthwise,
    depthwise_wide => windows::depthwise_wide,
    pool => windows::pool,
}

kernels! {
    impl NeonDot {
        const NAME: &'static str = "neon-dotprod";
        const INTERLEAVES: bool = true;
        const GATHERED_ROWS: usize = GATHERED_ROWS;
        const ATTENDS: bool = true;
    }
    linear => sdot::linear,
    linear_acc => sdot::linear_acc,
    linear_wide => portable,
    dot_i8 => sdot::dot_i8,
    dot_u8 => sdot::dot_u8,
    dot_u16 => Neon::dot_u16,
    scores => Neon::scores,
    scale_scores => Neon::scale_scores,
    exp_row => Neon::exp_row,
    scale_row => Neon::scale_row,
    transpose => Neon::transpose,
    attention => sdot::attention,
    attend => portable,
    norm_row => Neon::norm_row,
    norm_rows => Neon::norm_rows,
    requant => Neon::requant,
    multiply => portable,
    rotate => portable,
    lut_wide => portable,
    lut_in_place => Neon::lut_in_place,
    lut_i16_in_place => Neon::lut_i16_in_place,
    add_i16_in_place => Neon::add_i16_in_place,
    depthwise => Neon::depthwise,
    depthwise_wide => Neon::depthwise_wide,
    pool => Neon::pool,
}

kernels! {
    impl NeonI8mm {
        const NAME: &'static str = "neon-i8mm";
        const INTERLEAVES: bool = true;
        const GATHERED_ROWS: usize = GATHERED_ROWS;
        const ATTENDS: bool = true;
    }
    linear => smmla::linear,
    linear_acc => smmla::linear_acc,
    linear_wide => portable,
    dot_i8 => NeonDot::dot_i8,
    dot_u8 => NeonDot::dot_u8,
    dot_u16 => NeonDot::dot_u16,
    scores => NeonDot::scores,
    scale_scores => NeonDot::scale_scores,
    exp_row => NeonDot::exp_row,
    scale_row => NeonDot::scale_row,
    transpose => NeonDot::transpose,
    attention => smmla::attention,
    attend => portable,
    norm_row => NeonDot::norm_row,
    norm_rows => NeonDot::norm_rows,
    requant => NeonDot::requant,
    multiply => portable,
    rotate => portable,
    lut_wide => portable,
    lut_in_place => NeonDot::lut_in_place,
    lut_i16_in_place => NeonDot::lut_i16_in_place,
    add_i16_in_place => NeonDot::add_i16_in_place,
    depthwise => NeonDot::depthwise,
    depthwise_wide => NeonDot::depthwise_wide,
    pool => NeonDot::pool,
}

/// Products by SMULL and SADALP.
mod smull {
    use super::*;

    pub fn linear(job: &LinearJob<'_>, x: &[i8], out: LinearOut<'_>, _scratch: &mut [u8]) {
        // SAFETY: SMULL is in every AArch64.
        unsafe { super::linear::<Smull, engine::Smull>(job, x, out) }
    }

    pub fn linear_acc(job: &LinearJob<'_>, x: &[i8], out: &mut [i32], _scratch: &mut [u8]) {
        // SAFETY: SMULL is in every AArch64.
        unsafe { super::dense::<Smull, engine::Smull>(job, x, tiles::Sink::Acc(out.as_mut_ptr()), out.len()) };
    }

    pub fn dot_i8(job: &DotJob, x: &[i8], y: &[i8], out: &mut [i32], _scratch: &mut [u8]) {
        // SAFETY: SMULL is in every AArch64.
        unsafe { tiles::dots::<Smull, false>(job, x, y, out) }
    }

    pub fn dot_u8(job: &DotJob, x: &[u8], y: &[i8], out: &mut [i32], _scratch: &mut [u8]) {
        // SAFETY: SMULL is in every AArch64.
        unsafe { tiles::dots::<Smull, true>(job, bytemuck::cast_slice(x), y, out) }
    }

    pub fn attention(job: &AttentionJob<'_>, out: &mut [i8]) -> bool {
        // SAFETY: SMULL is in every AArch64.
        unsafe { super::attention::attention::<engine::Smull>(job, out) }
    }
}

/// Products by SDOT.
mod sdot {
    use super::*;

    pub fn linear(job: &LinearJob<'_>, x: &[i8], out: LinearOut<'_>, scratch: &mut [u8]) {
        if !NeonDot::is_available() {
            return Neon::linear(job, x, out, scratch);
        }
        // SAFETY: the processor has SDOT.
        unsafe { super::linear::<Sdot, engine::Sdot>(job, x, out) }
    }

    pub fn linear_acc(job: &LinearJob<'_>, x: &[i8], out: &mut [i32], scratch: &mut [u8]) {
        if !NeonDot::is_available() {
            return Neon::linear_acc(job, x, out, scratch);
        }
        // SAFETY: the processor has SDOT.
        unsafe { super::dense::<Sdot, engine::Sdot>(job, x, tiles::Sink::Acc(out.as_mut_ptr()), out.len()) };
    }

    pub fn dot_i8(job: &DotJob, x: &[i8], y: &[i8], out: &mut [i32], scratch: &mut [u8]) {
        if !NeonDot::is_available() {
            return Neon::dot_i8(job, x, y, out, scratch);
        }
        // SAFETY: the processor has SDOT.
        unsafe { tiles::dots::<Sdot, false>(job, x, y, out) }
    }

    pub fn dot_u8(job: &DotJob, x: &[u8], y: &[i8], out: &mut [i32], scratch: &mut [u8]) {
        if !NeonDot::is_available() {
            return Neon::dot_u8(job, x, y, out, scratch);
        }
        // SAFETY: the processor has SDOT.
        unsafe { tiles::dots::<Sdot, true>(job, bytemuck::cast_slice(x), y, out) }
    }

    pub fn attention(job: &AttentionJob<'_>, out: &mut [i8]) -> bool {
        if !NeonDot::is_available() {
            return Neon::attention(job, out);
        }
        // SAFETY: the processor has SDOT.
        unsafe { super::attention::attention::<engine::Sdot>(job, out) }
    }
}

/// Dense layers and attention by SMMLA.
mod smmla {
    use super::*;

    pub fn linear(job: &LinearJob<'_>, x: &[i8], out: LinearOut<'_>, scratch: &mut [u8]) {
        if !NeonI8mm::is_available() || !tiles::pairs_fit(job, scratch) {
            return NeonDot::linear(job, x, out, scratch);
        }
        let (len, sink, lut) = sink(out);
        // SAFETY: the processor has SMMLA, the scratch the size that `pairs_fit` tests.
        let (rows, n) = unsafe { matrix(job, x, sink, len, scratch) };
        look_up(job, lut, rows, n);
    }

    pub fn linear_acc(job: &LinearJob<'_>, x: &[i8], out: &mut [i32], scratch: &mut [u8]) {
        if !NeonI8mm::is_available() || !tiles::pairs_fit(job, scratch) {
            return NeonDot::linear_acc(job, x, out, scratch);
        }
        // SAFETY: the processor has SMMLA, the scratch the size that `pairs_fit` tests.
        unsafe { matrix(job, x, tiles::Sink::Acc(out.as_mut_ptr()), out.len(), scratch) };
    }

    pub fn attention(job: &AttentionJob<'_>, out: &mut [i8]) -> bool {
        if !NeonI8mm::is_available() {
            return NeonDot::attention(job, out);
        }
        // SAFETY: the processor has SMMLA.
        unsafe { super::attention::attention::<engine::Smmla>(job, out) }
    }
}

/// A dense layer by the instructions of `P`.
///
/// # Safety
/// The processor must have them.
unsafe fn linear<P: Products, E: Engine>(job: &LinearJob<'_>, x: &[i8], out: LinearOut<'_>) {
    let (len, sink, lut) = sink(out);
    // SAFETY: the caller's contract.
    let (rows, n) = unsafe { dense::<P, E>(job, x, sink, len) };
    look_up(job, lut, rows, n);
}

/// Fills the sink: many rows packed for `E`, few as they lie. Returns the rows and channels written.
///
/// # Safety
/// The processor must have the instructions of both; the sink has `len` elements.
unsafe fn dense<P: Products, E: Engine>(
    job: &LinearJob<'_>,
    x: &[i8],
    sink: tiles::Sink,
    len: usize,
) -> (usize, usize) {
    // SAFETY: the caller's contract.
    unsafe {
        if dense::takes(job) { dense::dense::<E>(job, x, sink, len) } else { tiles::dense::<P>(job, x, sink, len) }
    }
}

/// [`dense`] by SMMLA.
///
/// # Safety
/// The processor must have i8mm; the sink has `len` elements; [`tiles::pairs_fit`].
unsafe fn matrix(job: &LinearJob<'_>, x: &[i8], sink: tiles::Sink, len: usize, scratch: &mut [u8]) -> (usize, usize) {
    // SAFETY: the caller's contract.
    unsafe {
        if dense::takes(job) {
            dense::dense::<engine::Smmla>(job, x, sink, len)
        } else {
            tiles::dense_pairs(job, x, sink, len, scratch)
        }
    }
}

/// Outputs that a table still has to be applied to.
type Lut<'a> = Option<(&'a mut [i8], &'a [i8; 256])>;

/// Elements of an output, where they go, and the table.
fn sink(out: LinearOut<'_>) -> (usize, tiles::Sink, Lut<'_>) {
    match out {
        LinearOut::I8 { out, lut } => (out.len(), tiles::Sink::I8(out.as_mut_ptr()), lut.map(|lut| (out, lut))),
        LinearOut::I16 { out } => (out.len(), tiles::Sink::I16(out.as_mut_ptr()), None),
        LinearOut::I16Residual { out, residual_shift } => {
            (out.len(), tiles::Sink::Residual(out.as_mut_ptr(), residual_shift), None)
        }
    }
}

fn look_up(job: &LinearJob<'_>, lut: Lut<'_>, count: usize, n: usize) {
    let Some((out, table)) = lut else { return };
    if job.out_stride == n {
        return rows::lut_in_place(out.get_mut(..count * n).unwrap_or(&mut []), table);
    }
    for row in out.chunks_mut(job.out_stride.max(1)).take(count) {
        rows::lut_in_place(row.get_mut(..n).unwrap_or(&mut []), table);
    }
}

/// The fastest kernels of this processor.
#[derive(Clone, Copy, Debug)]
pub struct Native;

/// Calls a method of the best level there is. The processor is asked once; the answer is kept by the standard library.
macro_rules! best {
    (fn $name:ident($($arg:ident: $type:ty),*) $(-> $result:ty)?) => {
        fn $name($($arg: $type),*) $(-> $result)? {
            if NeonI8mm::is_available() {
                NeonI8mm::$name($($arg),*)
            } else {
                // Falls back by itself.
                NeonDot::$name($($arg),*)
            }
        }
    };
}

impl Kernels for Native {
    const NAME: &'static str = "native";
    const INTERLEAVES: bool = true;
    const GATHERED_ROWS: usize = GATHERED_ROWS;
    const ATTENDS: bool = true;
    each_kernel! { best }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;
    use std::vec;

    fn check<B: Kernels>(available: bool) {
        if !available {
            std::eprintln!("SKIPPED: this processor has no {}", B::NAME);
            return;
        }
        let mut memory = vec![0u8; testing::LARGE_BYTES];
        testing::check::<B>(&mut memory).unwrap_or_else(|d| panic!("{}: {d:?}", B::NAME));
        testing::check_large::<B>(&mut memory).unwrap_or_else(|d| panic!("{}: {d:?}", B::NAME));
    }

    #[test]
    fn neon_is_portable() {
        check::<Neon>(true);
    }

    #[test]
    fn dotprod_is_portable() {
        check::<NeonDot>(NeonDot::is_available());
    }

    #[test]
    fn i8mm_is_portable() {
        check::<NeonI8mm>(NeonI8mm::is_available());
    }

    #[test]
    fn native_is_portable() {
        check::<Native>(true);
    }
}
