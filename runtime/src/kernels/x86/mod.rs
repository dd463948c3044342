//! x86-64: the level is chosen by what the processor has (feature `std`, detected once) or by the target features alone.
//!
//! Functions of a level carry its target features; the only way to them is a check of the level in this file. What has
//! no code of its own is the portable code, compiled with the features of the level.

#![allow(unsafe_code)]

mod avx2;
mod avx512;

use super::{
    AttentionJob, DotJob, ExpRow, Kernels, LinearJob, LinearOut, NormJob, NormOut, NormRow, Portable, ScoreScale,
    portable,
};
use crate::arith::exp::RowScale;

/// `features!("avx2", ...)`: whether code for all of these features may run.
macro_rules! features {
    ($($name:tt),*) => {{
        #[cfg(feature = "std")]
        let all = true $(&& std::arch::is_x86_feature_detected!($name))*;
        #[cfg(not(feature = "std"))]
        let all = true $(&& cfg!(target_feature = $name))*;
        all
    }};
}

/// The portable code, compiled with target features.
macro_rules! compiled_for {
    ($features:literal, $(fn $name:ident $(<$generic:ident>)? ($($arg:ident: $type:ty),*) $(-> $result:ty)?;)*) => { $(
        #[doc = concat!("[`portable::", stringify!($name), "`].")]
        #[target_feature(enable = $features)]
        pub fn $name $(<$generic: Copy + Into<i32>>)? ($($arg: $type),*) $(-> $result)? {
            super::portable::$name($($arg),*)
        }
    )* };
}

mod compiled_for_avx512 {
    use super::*;
    compiled_for! {
        "avx512bw,avx512vl,avx512vnni",
        fn dot<X>(job: &DotJob, x: &[X], y: &[i8], out: &mut [i32]);
        fn transpose(x: &[i8], x_stride: usize, rows: usize, cols: usize, out: &mut [i8], out_stride: usize);
    }
}

mod compiled_for_avx2 {
    use super::*;
    compiled_for! {
        "avx2",
        fn dot<X>(job: &DotJob, x: &[X], y: &[i8], out: &mut [i32]);
        fn transpose(x: &[i8], x_stride: usize, rows: usize, cols: usize, out: &mut [i8], out_stride: usize);
        fn scale_scores(scores: &mut [i32], scale: ScoreScale);
        fn exp_row(scores: &[i32], out: ExpRow<'_>) -> u32;
        fn scale_row(acc: &[i32], scale: RowScale, zero_point: i32, out: &mut [i8]);
        fn norm_row(job: &NormJob<'_>, x: NormRow<'_>, out: NormOut<'_>);
        fn add_i16_in_place(out: &mut [i16], b: &[i16], ma: i32, mb: i32, bias: i32, shift: u32);
    }
}

/// Windows that are gathered at a time: enough for the tiles of many rows, and whole tiles of six.
const GATHERED_ROWS: usize = 48;

/// AVX-512 with VNNI (Ice Lake, Zen 4 and later). Portable where the processor lacks them.
#[derive(Clone, Copy, Debug)]
pub struct Avx512;

/// AVX2 with AVX-VNNI (Alder Lake and later). Portable where the processor lacks them.
#[derive(Clone, Copy, Debug)]
pub struct AvxVnni;

/// AVX2 (Haswell, Zen and later). Portable where the processor lacks it.
#[derive(Clone, Copy, Debug)]
pub struct Avx2;

impl Avx512 {
    /// Whether this processor has what the level needs.
    pub fn is_available() -> bool {
        features!("avx512f", "avx512bw", "avx512vl", "avx512vnni")
    }
}

impl AvxVnni {
    /// Whether this processor has what the level needs.
    pub fn is_available() -> bool {
        features!("avx2", "avxvnni")
    }
}

impl Avx2 {
    /// Whether this processor has what the level needs.
    pub fn is_available() -> bool {
        features!("avx2")
    }
}

/// Calls a function of a level where the level is available, the portable function elsewhere.
macro_rules! available {
    ($level:ident, $fast:expr, $portable:expr) => {
        if $level::is_available() {
            // SAFETY: the processor has the features of the function.
            unsafe { $fast }
        } else {
            $portable
        }
    };
}

impl Kernels for Avx512 {
    const NAME: &'static str = "avx512";
    const INTERLEAVES: bool = true;
    const GATHERED_ROWS: usize = GATHERED_ROWS;
    const ATTENDS: bool = true;

    fn linear(job: &LinearJob<'_>, x: &[i8], out: LinearOut<'_>, _scratch: &mut [u8]) {
        available!(Avx512, avx512::linear::linear(job, x, out), portable::linear(job, x, out))
    }

    fn linear_acc(job: &LinearJob<'_>, x: &[i8], out: &mut [i32], _scratch: &mut [u8]) {
        available!(Avx512, avx512::linear::linear_acc(job, x, out), portable::linear_acc(job, x, out))
    }

    fn dot_i8(job: &DotJob, x: &[i8], y: &[i8], out: &mut [i32], _scratch: &mut [u8]) {
        available!(Avx512, compiled_for_avx512::dot(job, x, y, out), portable::dot(job, x, y, out))
    }

    fn dot_u8(job: &DotJob, x: &[u8], y: &[i8], out: &mut [i32], _scratch: &mut [u8]) {
        available!(Avx512, compiled_for_avx512::dot(job, x, y, out), portable::dot(job, x, y, out))
    }

    fn dot_u16(job: &DotJob, x: &[u16], y: &[i8], out: &mut [i32], _scratch: &mut [u8]) {
        available!(Avx512, compiled_for_avx512::dot(job, x, y, out), portable::dot(job, x, y, out))
    }

    fn scale_scores(scores: &mut [i32], scale: ScoreScale) {
        available!(Avx512, avx512::rows::scale_scores(scores, scale), portable::scale_scores(scores, scale))
    }

    fn exp_row(scores: &[i32], out: ExpRow<'_>) -> u32 {
        available!(Avx512, avx512::rows::exp_row(scores, out), portable::exp_row(scores, out))
    }

    fn scale_row(acc: &[i32], scale: RowScale, zero_point: i32, out: &mut [i8]) {
        available!(
            Avx512,
            avx512::rows::scale_row(acc, scale, zero_point, out),
            portable::scale_row(acc, scale, zero_point, out)
        )
    }

    fn transpose(x: &[i8], x_stride: usize, rows: usize, cols: usize, out: &mut [i8], out_stride: usize) {
        let interleaves = out_stride == rows && features!("avx512bw", "avx512vl", "avx512vbmi");
        // SAFETY: the processor has the features of the function.
        if interleaves && unsafe { avx512::rows::interleave(x, x_stride, rows, cols, out) } {
            return;
        }
        available!(
            Avx512,
            compiled_for_avx512::transpose(x, x_stride, rows, cols, out, out_stride),
            portable::transpose(x, x_stride, rows, cols, out, out_stride)
        )
    }

    fn attention(job: &AttentionJob<'_>, out: &mut [i8]) -> bool {
        available!(Avx512, avx512::attention::attention(job, out), false)
    }

    fn norm_row(job: &NormJob<'_>, x: NormRow<'_>, out: NormOut<'_>) {
        available!(Avx512, avx512::rows::norm_row(job, x, out), portable::norm_row(job, x, out))
    }

    fn norm_rows(job: &NormJob<'_>, x: NormRow<'_>, out: NormOut<'_>) {
        available!(Avx512, avx512::rows::norm_rows(job, x, out), Portable::norm_rows(job, x, out))
    }

    fn lut_in_place(data: &mut [i8], table: &[i8; 256]) {
        lut_in_place(data, table);
    }

    fn add_i16_in_place(out: &mut [i16], b: &[i16], ma: i32, mb: i32, bias: i32, shift: u32) {
        available!(
            Avx512,
            avx512::rows::add_i16_in_place(out, b, ma, mb, bias, shift),
            portable::add_i16_in_place(out, b, ma, mb, bias, shift)
        )
    }
}

/// Table look-ups: byte permutations where the processor has them, which not every AVX-512 has.
fn lut_in_place(data: &mut [i8], table: &[i8; 256]) {
    if features!("avx512bw", "avx512vl", "avx512vbmi") {
        // SAFETY: the processor has the features of the function.
        unsafe { avx512::rows::lut_in_place(data, table) }
    } else {
        portable::lut_in_place(data, table);
    }
}

/// The kernels of a 256-bit level: dense layers by its own tiles, the rest compiled for AVX2.
macro_rules! level_256 {
    ($level:ident, $name:literal, $tiles:expr) => {
        impl Kernels for $level {
            const NAME: &'static str = $name;

            fn linear(job: &LinearJob<'_>, x: &[i8], out: LinearOut<'_>, _scratch: &mut [u8]) {
                available!($level, avx2::linear(job, x, out, $tiles), portable::linear(job, x, out))
            }

            fn linear_acc(job: &LinearJob<'_>, x: &[i8], out: &mut [i32], _scratch: &mut [u8]) {
                available!($level, avx2::linear_acc(job, x, out, $tiles), portable::linear_acc(job, x, out))
            }

            fn dot_i8(job: &DotJob, x: &[i8], y: &[i8], out: &mut [i32], _scratch: &mut [u8]) {
                available!($level, compiled_for_avx2::dot(job, x, y, out), portable::dot(job, x, y, out))
            }

            fn dot_u8(job: &DotJob, x: &[u8], y: &[i8], out: &mut [i32], _scratch: &mut [u8]) {
                available!($level, compiled_for_avx2::dot(job, x, y, out), portable::dot(job, x, y, out))
            }

            fn dot_u16(job: &DotJob, x: &[u16], y: &[i8], out: &mut [i32], _scratch: &mut [u8]) {
                available!($level, compiled_for_avx2::dot(job, x, y, out), portable::dot(job, x, y, out))
            }

            fn scale_scores(scores: &mut [i32], scale: ScoreScale) {
                available!(
                    $level,
                    compiled_for_avx2::scale_scores(scores, scale),
                    portable::scale_scores(scores, scale)
                )
            }

            fn exp_row(scores: &[i32], out: ExpRow<'_>) -> u32 {
                available!($level, compiled_for_avx2::exp_row(scores, out), portable::exp_row(scores, out))
            }

            fn scale_row(acc: &[i32], scale: RowScale, zero_point: i32, out: &mut [i8]) {
                available!(
                    $level,
                    compiled_for_avx2::scale_row(acc, scale, zero_point, out),
                    portable::scale_row(acc, scale, zero_point, out)
                )
            }

            fn transpose(x: &[i8], x_stride: usize, rows: usize, cols: usize, out: &mut [i8], out_stride: usize) {
                available!(
                    $level,
                    compiled_for_avx2::transpose(x, x_stride, rows, cols, out, out_stride),
                    portable::transpose(x, x_stride, rows, cols, out, out_stride)
                )
            }

            fn norm_row(job: &NormJob<'_>, x: NormRow<'_>, out: NormOut<'_>) {
                available!($level, compiled_for_avx2::norm_row(job, x, out), portable::norm_row(job, x, out))
            }

            fn add_i16_in_place(out: &mut [i16], b: &[i16], ma: i32, mb: i32, bias: i32, shift: u32) {
                available!(
                    $level,
                    compiled_for_avx2::add_i16_in_place(out, b, ma, mb, bias, shift),
                    portable::add_i16_in_place(out, b, ma, mb, bias, shift)
                )
            }
        }
    };
}

level_256!(AvxVnni, "avx-vnni", avx2::avx_vnni::VNNI);
level_256!(Avx2, "avx2", avx2::MADD);

/// The fastest kernels of this processor.
#[derive(Clone, Copy, Debug)]
pub struct Native;

/// Calls a method of the best level there is. The processor is asked once; the answer is kept by the standard library.
macro_rules! best {
    ($method:ident($($arg:expr),*)) => {
        if Avx512::is_available() {
            Avx512::$method($($arg),*)
        } else if AvxVnni::is_available() {
            AvxVnni::$method($($arg),*)
        } else if Avx2::is_available() {
            Avx2::$method($($arg),*)
        } else {
            Portable::$method($($arg),*)
        }
    };
}

impl Kernels for Native {
    const NAME: &'static str = "native";
    const INTERLEAVES: bool = true;
    const GATHERED_ROWS: usize = GATHERED_ROWS;
    const ATTENDS: bool = true;

    fn linear(job: &LinearJob<'_>, x: &[i8], out: LinearOut<'_>, scratch: &mut [u8]) {
        best!(linear(job, x, out, scratch))
    }

    fn linear_acc(job: &LinearJob<'_>, x: &[i8], out: &mut [i32], scratch: &mut [u8]) {
        best!(linear_acc(job, x, out, scratch))
    }

    fn dot_i8(job: &DotJob, x: &[i8], y: &[i8], out: &mut [i32], scratch: &mut [u8]) {
        best!(dot_i8(job, x, y, out, scratch))
    }

    fn dot_u8(job: &DotJob, x: &[u8], y: &[i8], out: &mut [i32], scratch: &mut [u8]) {
        best!(dot_u8(job, x, y, out, scratch))
    }

    fn dot_u16(job: &DotJob, x: &[u16], y: &[i8], out: &mut [i32], scratch: &mut [u8]) {
        best!(dot_u16(job, x, y, out, scratch))
    }

    fn scale_scores(scores: &mut [i32], scale: ScoreScale) {
        best!(scale_scores(scores, scale))
    }

    fn exp_row(scores: &[i32], out: ExpRow<'_>) -> u32 {
        best!(exp_row(scores, out))
    }

    fn scale_row(acc: &[i32], scale: RowScale, zero_point: i32, out: &mut [i8]) {
        best!(scale_row(acc, scale, zero_point, out))
    }

    fn transpose(x: &[i8], x_stride: usize, rows: usize, cols: usize, out: &mut [i8], out_stride: usize) {
        best!(transpose(x, x_stride, rows, cols, out, out_stride))
    }

    fn attention(job: &AttentionJob<'_>, out: &mut [i8]) -> bool {
        best!(attention(job, out))
    }

    fn norm_row(job: &NormJob<'_>, x: NormRow<'_>, out: NormOut<'_>) {
        best!(norm_row(job, x, out))
    }

    fn norm_rows(job: &NormJob<'_>, x: NormRow<'_>, out: NormOut<'_>) {
        best!(norm_rows(job, x, out))
    }

    fn lut_in_place(data: &mut [i8], table: &[i8; 256]) {
        best!(lut_in_place(data, table))
    }

    fn add_i16_in_place(out: &mut [i16], b: &[i16], ma: i32, mb: i32, bias: i32, shift: u32) {
        best!(add_i16_in_place(out, b, ma, mb, bias, shift))
    }
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

    /// The code of AVX-VNNI with the instruction's other encoding.
    struct Vnni256;

    impl Vnni256 {
        fn is_available() -> bool {
            features!("avx2", "avx512vl", "avx512vnni")
        }
    }

    level_256!(Vnni256, "256-bit VNNI", avx2::avx512_vnni::VNNI);

    #[test]
    fn avx2_is_portable() {
        check::<Avx2>(Avx2::is_available());
    }

    #[test]
    fn avx_vnni_is_portable() {
        check::<AvxVnni>(AvxVnni::is_available());
        check::<Vnni256>(Vnni256::is_available());
    }

    #[test]
    fn native_is_portable() {
        check::<Native>(true);
    }

    #[test]
    fn avx512_is_portable() {
        check::<Avx512>(Avx512::is_available());
    }
}
