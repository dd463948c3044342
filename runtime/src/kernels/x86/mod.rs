//! x86-64: the level is chosen by what the processor has (feature `std`, detected once) or by the target features alone.
//!
//! Functions of a level carry its target features; the only way to them is a check of the level in this file. What has
//! no code of its own is the portable code, compiled with the features of the level.

#![allow(unsafe_code)]

mod avx2;
mod avx512;
mod transpose;

use super::list::signatures::*;
use super::list::{each_kernel, kernels};
use super::{Kernels, Portable};

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

/// Row of a table: a function of a level where the level is available, the portable definition elsewhere.
/// `available!(Level, function)`, or `available!(Level, function, more arguments)`.
macro_rules! available {
    (
        ($level:ident, $function:path $(, $more:expr)*)
        fn $name:ident($($arg:ident: $type:ty),*) $(-> $result:ty)? { $portable:expr }
    ) => {
        fn $name($($arg: $type),*) $(-> $result)? {
            if $level::is_available() {
                // SAFETY: the processor has the features of the function.
                unsafe { $function($($arg,)* $($more),*) }
            } else {
                $portable
            }
        }
    };
}

/// Row of a table: the portable definition, compiled with the features of a level where the level is available.
macro_rules! compiled {
    (
        ($level:ident, $features:literal)
        fn $name:ident($($arg:ident: $type:ty),*) $(-> $result:ty)? { $portable:expr }
    ) => {
        fn $name($($arg: $type),*) $(-> $result)? {
            #[target_feature(enable = $features)]
            fn compiled($($arg: $type),*) $(-> $result)? {
                $portable
            }
            if $level::is_available() {
                // SAFETY: the processor has the features of the function.
                unsafe { compiled($($arg),*) }
            } else {
                $portable
            }
        }
    };
}

/// Row of a table: both halves of 16-bit activations by the dense layers of a level; what makes the halves and joins their
/// sums is compiled with its features.
macro_rules! halves {
    (
        ($level:ident, $features:literal)
        fn $name:ident($($arg:ident: $type:ty),*) $(-> $result:ty)? { $portable:expr }
    ) => {
        fn $name($($arg: $type),*) $(-> $result)? {
            #[target_feature(enable = $features)]
            fn compiled($($arg: $type),*) $(-> $result)? {
                portable::linear_wide::<$level>($($arg),*)
            }
            if $level::is_available() {
                // SAFETY: the processor has the features of the function.
                unsafe { compiled($($arg),*) }
            } else {
                $portable
            }
        }
    };
}

kernels! {
    impl Avx512 {
        const NAME: &'static str = "avx512";
        const INTERLEAVES: bool = true;
        const GATHERED_ROWS: usize = GATHERED_ROWS;
        const ATTENDS: bool = true;
    }
    linear => available!(Avx512, avx512::linear::linear),
    linear_acc => available!(Avx512, avx512::linear::linear_acc),
    linear_wide => halves!(Avx512, "avx512bw,avx512vl"),
    dot_i8 => dot_i8,
    dot_u8 => dot_u8,
    dot_u16 => dot_u16,
    scores => portable,
    scale_scores => available!(Avx512, avx512::rows::scale_scores),
    exp_row => available!(Avx512, avx512::rows::exp_row),
    scale_row => available!(Avx512, avx512::rows::scale_row),
    transpose => transpose_512,
    attention => available!(Avx512, avx512::attention::attention),
    attend => portable,
    norm_row => available!(Avx512, avx512::rows::norm_row),
    norm_rows => available!(Avx512, avx512::rows::norm_rows),
    requant => available!(Avx512, avx512::rows::requant),
    multiply => compiled!(Avx512, "avx512bw,avx512vl"),
    rotate => compiled!(Avx512, "avx512bw,avx512vl"),
    lut_wide => compiled!(Avx512, "avx512bw,avx512vl"),
    lut_in_place => lut_in_place,
    lut_i16_in_place => available!(Avx512, avx2::lut::lut_i16_in_place),
    add_i16_in_place => available!(Avx512, avx512::rows::add_i16_in_place),
    depthwise => available!(Avx512, avx512::windows::depthwise),
    depthwise_wide => available!(Avx512, avx2::windows::depthwise_wide),
    pool => available!(Avx512, avx512::windows::pool),
}

/// Dot products by the tiles of AVX2, which every level has; the portable definition where slices do not hold the job.
macro_rules! dot {
    ($name:ident, $type:ty, $element:ident) => {
        fn $name(job: &DotJob, x: &[$type], y: &[i8], out: &mut [i32], scratch: &mut [u8]) {
            let bytes = bytemuck::cast_slice(x);
            // SAFETY: the processor has the features of the function.
            let mut dots = || unsafe { avx2::dots::dots::<{ avx2::dots::element::$element }>(job, bytes, y, out) };
            let done = Avx2::is_available() && dots();
            if !done {
                portable::dot(job, x, y, out, scratch);
            }
        }
    };
}

dot!(dot_i8, i8, I8);
dot!(dot_u8, u8, U8);
dot!(dot_u16, u16, U16);

/// Transpositions by tiles of 16 x 16; smaller ones compiled for AVX2.
fn transpose(x: &[i8], x_stride: usize, rows: usize, cols: usize, out: &mut [i8], out_stride: usize) {
    #[target_feature(enable = "avx2")]
    fn compiled(x: &[i8], x_stride: usize, rows: usize, cols: usize, out: &mut [i8], out_stride: usize) {
        if !transpose::tiles(x, x_stride, rows, cols, out, out_stride) {
            portable::transpose(x, x_stride, rows, cols, out, out_stride);
        }
    }
    if Avx2::is_available() {
        // SAFETY: the processor has the features of the function.
        unsafe { compiled(x, x_stride, rows, cols, out, out_stride) }
    } else {
        portable::transpose(x, x_stride, rows, cols, out, out_stride);
    }
}

/// Transpositions of few rows without padding by byte permutations, the others by tiles.
fn transpose_512(x: &[i8], x_stride: usize, rows: usize, cols: usize, out: &mut [i8], out_stride: usize) {
    let interleaves = out_stride == rows && features!("avx512bw", "avx512vl", "avx512vbmi");
    // SAFETY: the processor has the features of the function.
    if interleaves && unsafe { avx512::rows::interleave(x, x_stride, rows, cols, out) } {
        return;
    }
    transpose(x, x_stride, rows, cols, out, out_stride);
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
        kernels! {
            impl $level {
                const NAME: &'static str = $name;
            }
            linear => available!($level, avx2::linear, $tiles),
            linear_acc => available!($level, avx2::linear_acc, $tiles),
            linear_wide => available!($level, avx2::linear_wide::<$level>),
            dot_i8 => dot_i8,
            dot_u8 => dot_u8,
            dot_u16 => dot_u16,
            scores => portable,
            scale_scores => compiled!($level, "avx2"),
            exp_row => compiled!($level, "avx2"),
            scale_row => compiled!($level, "avx2"),
            transpose => transpose,
            attention => portable,
            attend => portable,
            norm_row => compiled!($level, "avx2"),
            norm_rows => portable,
            requant => compiled!($level, "avx2"),
            multiply => compiled!($level, "avx2"),
            rotate => compiled!($level, "avx2"),
            lut_wide => compiled!($level, "avx2"),
            lut_in_place => portable,
            lut_i16_in_place => available!($level, avx2::lut::lut_i16_in_place),
            add_i16_in_place => compiled!($level, "avx2"),
            depthwise => available!($level, avx2::windows::depthwise),
            depthwise_wide => available!($level, avx2::windows::depthwise_wide),
            pool => compiled!($level, "avx2"),
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
    (fn $name:ident($($arg:ident: $type:ty),*) $(-> $result:ty)?) => {
        fn $name($($arg: $type),*) $(-> $result)? {
            if Avx512::is_available() {
                Avx512::$name($($arg),*)
            } else if AvxVnni::is_available() {
                AvxVnni::$name($($arg),*)
            } else if Avx2::is_available() {
                Avx2::$name($($arg),*)
            } else {
                Portable::$name($($arg),*)
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
