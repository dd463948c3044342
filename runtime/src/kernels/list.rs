//! The list of kernel methods. Everything that must have each of them comes from it: the trait with its portable
//! definitions, the forwarders, and the tables of the instruction sets.
//!
//! # Adding a kernel method
//!
//! 1. A portable definition in `portable.rs`, and a line with its signature in [`kernel_methods`](self) below. The trait
//!    and the forwarders (`Parallel`, `Native` of the hosts) have it then.
//! 2. A row in the table of each instruction set ([`kernels!`]): the function that does it faster, or `portable`. A table
//!    without that row does not compile, so that no instruction set runs portable code without having said so. Take the
//!    same arguments as the method, used or not.
//! 3. A comparison in [`crate::testing`], which then covers every instruction set.
//!
//! An instruction set that becomes faster replaces `portable` in its row by the path of a function.

use crate::kernels::job::ROW_BLOCK;
use signatures::*;

/// What the signatures of kernel methods are made of: for the modules that have a table or forward every method.
pub(crate) mod signatures {
    pub use super::super::job::{
        AttentionJob, DepthwiseJob, DepthwiseOut, DotJob, ExpRow, LUT_I16_ENTRIES, LinearJob, LinearOut, NormJob,
        NormOut, NormRow, PoolJob, RotaryJob, ScoreScale, WideJob,
    };
    pub use super::super::portable;
    pub use crate::arith::exp::RowScale;
}

/// Makes of the list: the trait [`Kernels`], the names [`METHODS`], and the macros `row_of!` and `each_kernel!`.
macro_rules! kernel_methods {
    ($d:tt $(
        $(#[$meta:meta])*
        fn $name:ident($($arg:ident: $type:ty),*) $(-> $result:ty)? { $portable:expr }
    )*) => {
        /// The inner loops. All methods are total: rows and slices that do not fit together shorten the work, down to
        /// nothing, they never panic. The operators check every length and address when a model is opened.
        ///
        /// The provided methods are the portable definitions. A new version may add methods, with such definitions.
        pub trait Kernels: Sized + 'static {
            /// Name shown in reports.
            const NAME: &'static str;

            /// Whether [`transpose`](Self::transpose) is fast for few rows, so that windows of planar images are
            /// gathered by it.
            const INTERLEAVES: bool = false;

            /// Windows of an image that are gathered for one dense layer; more than [`ROW_BLOCK`] on hosts, which have
            /// memory of their own for them.
            const GATHERED_ROWS: usize = ROW_BLOCK;

            /// Whether [`attention`](Self::attention) may take a job.
            const ATTENDS: bool = false;

            /// The rows of the table that makes these kernels, by name.
            #[doc(hidden)]
            const ROWS: &'static [&'static str] = &[];

            $(
                $(#[$meta])*
                fn $name($($arg: $type),*) $(-> $result)? { $portable }
            )*

            /// Into how many parts operators divide rows that take `work` multiplications; see `Parallel`.
            fn parts(work: u64) -> usize {
                let _ = work;
                1
            }

            /// Calls both, at the same time where there are threads for them.
            fn join<X: Send, Y: Send>(a: impl FnOnce() -> X + Send, b: impl FnOnce() -> Y + Send) -> (X, Y) {
                (a(), b())
            }
        }

        /// The names of the kernel methods.
        pub const METHODS: &[&str] = &[$(stringify!($name)),*];

        /// The method that a row of a table stands for.
        ///
        /// `row_of!(NAME => path)` calls a function with the arguments of the method. `row_of!(NAME => m!(..))` hands
        /// `m!` the signature and the portable definition: `m! { (..) fn NAME(arg: type, ..) -> result { portable } }`.
        #[allow(unused_macros)]
        macro_rules! row_of { $(
            ($name => $d make:ident!($d($d tt:tt)*)) => {
                $d make! { ($d($d tt)*) fn $name($($arg: $type),*) $(-> $result)? { $portable } }
            };
            ($name => $d function:path) => {
                fn $name($($arg: $type),*) $(-> $result)? { $d function($($arg),*) }
            };
        )* }
        #[allow(unused_imports)]
        pub(crate) use row_of;

        /// `each_kernel!(m)` is `m! { fn NAME(arg: type, ..) -> result }` for every method: for those who forward them.
        #[allow(unused_macros)]
        macro_rules! each_kernel {
            ($d make:ident) => { $( $d make! { fn $name($($arg: $type),*) $(-> $result)? } )* };
        }
        #[allow(unused_imports)]
        pub(crate) use each_kernel;
    };
}

kernel_methods! { $
    /// A dense layer. `scratch` has [`dense_scratch_bytes`](super::dense_scratch_bytes) bytes, aligned to 16.
    fn linear(job: &LinearJob<'_>, x: &[i8], out: LinearOut<'_>, scratch: &mut [u8]) {
        portable::linear(job, x, out, scratch)
    }

    /// The sums of a dense layer without requantization: `out = acc`, `[rows, n]` with `out_stride`. `scratch` as for
    /// [`linear`](Self::linear); the multipliers are not read.
    fn linear_acc(job: &LinearJob<'_>, x: &[i8], out: &mut [i32], scratch: &mut [u8]) {
        portable::linear_acc(job, x, out, scratch)
    }

    /// A dense layer over 16-bit activations, see [`WideJob`]. `scratch` has
    /// [`wide_scratch_bytes`](super::wide_scratch_bytes) bytes, aligned to 16, and behind them that of
    /// [`linear`](Self::linear).
    fn linear_wide(job: &WideJob<'_>, x: &[i16], out: LinearOut<'_>, scratch: &mut [u8]) {
        portable::linear_wide::<Self>(job, x, out, scratch)
    }

    /// Dot products of signed rows. `scratch` as for [`linear`](Self::linear).
    fn dot_i8(job: &DotJob, x: &[i8], y: &[i8], out: &mut [i32], scratch: &mut [u8]) {
        portable::dot(job, x, y, out, scratch)
    }

    /// Dot products of 8-bit exponentials with signed rows. `scratch` as for [`linear`](Self::linear).
    fn dot_u8(job: &DotJob, x: &[u8], y: &[i8], out: &mut [i32], scratch: &mut [u8]) {
        portable::dot(job, x, y, out, scratch)
    }

    /// Dot products of 16-bit exponentials (at most 2^15 - 1) with signed rows. `scratch` as for
    /// [`linear`](Self::linear).
    fn dot_u16(job: &DotJob, x: &[u16], y: &[i8], out: &mut [i32], scratch: &mut [u8]) {
        portable::dot(job, x, y, out, scratch)
    }

    /// Scores of query rows `x` with key rows `y`: [`dot_i8`](Self::dot_i8), then
    /// [`scale_scores`](Self::scale_scores).
    fn scores(job: &DotJob, scale: ScoreScale, x: &[i8], y: &[i8], out: &mut [i32], scratch: &mut [u8]) {
        portable::scores::<Self>(job, scale, x, y, out, scratch)
    }

    /// Scales scores to log2 units with 8 fractional bits: `s = mulhi_round(s << acc_shift, multiplier)`.
    fn scale_scores(scores: &mut [i32], scale: ScoreScale) {
        portable::scale_scores(scores, scale)
    }

    /// `e = 2^-(max - s)` of a row of scaled scores; returns the sum of `e`.
    fn exp_row(scores: &[i32], out: ExpRow<'_>) -> u32 {
        portable::exp_row(scores, out)
    }

    /// Requantizes a row of sums by the row's own scale: `sat8(zero_point + acc * scale)`.
    fn scale_row(acc: &[i32], scale: RowScale, zero_point: i32, out: &mut [i8]) {
        portable::scale_row(acc, scale, zero_point, out)
    }

    /// `out[c][r] = x[r][c]` for `rows` x `cols` elements; the rest of each output row, up to `out_stride`, becomes 0.
    fn transpose(x: &[i8], x_stride: usize, rows: usize, cols: usize, out: &mut [i8], out_stride: usize) {
        portable::transpose(x, x_stride, rows, cols, out, out_stride)
    }

    /// Attention of many query rows of a head at once, where the kernels have memory of their own for it (a host's
    /// stack). `false`: nothing was written, the operator goes on in blocks of [`ROW_BLOCK`] rows. The answer does not
    /// depend on `rows`.
    fn attention(job: &AttentionJob<'_>, out: &mut [i8]) -> bool {
        portable::attention(job, out)
    }

    /// Attention of a few rows, those of the heads that share keys and values, over these as they lie: no value is moved.
    /// `scratch` has [`attend_scratch_bytes`](super::attend_scratch_bytes) bytes, aligned to 16; the biases are not read.
    /// The answer is that of [`attention`](Self::attention).
    fn attend(job: &AttentionJob<'_>, out: &mut [i8], scratch: &mut [u8]) {
        portable::attend::<Self>(job, out, scratch)
    }

    /// LayerNorm or RMSNorm of one row.
    fn norm_row(job: &NormJob<'_>, x: NormRow<'_>, out: NormOut<'_>) {
        portable::norm_row(job, x, out)
    }

    /// [`norm_row`](Self::norm_row) of every row; rows have the length of gamma.
    fn norm_rows(job: &NormJob<'_>, x: NormRow<'_>, out: NormOut<'_>) {
        portable::norm_rows::<Self>(job, x, out)
    }

    /// `out = sat(zeros[1] + mulhi_round((x - zeros[0]) << acc_shift, multiplier))`; of rows of different length the
    /// shorter one counts.
    fn requant(x: NormRow<'_>, out: NormOut<'_>, zeros: [i32; 2], scale: ScoreScale) {
        portable::requant(x, out, zeros, scale)
    }

    /// `out = sat(zeros[2] + mulhi_round(((a - zeros[0]) * (b - zeros[1])) << acc_shift, multiplier))`, the multiplier of any
    /// sign; of rows of different length the shortest one counts.
    fn multiply(a: NormRow<'_>, b: NormRow<'_>, out: NormOut<'_>, zeros: [i32; 3], scale: ScoreScale) {
        portable::multiply(a, b, out, zeros, scale)
    }

    /// Heads of one row, turned: `angles` has cosine and sine of every pair, times 2^15; see [`RotaryJob`].
    fn rotate(job: &RotaryJob, x: NormRow<'_>, angles: &[i16], out: &mut [i8]) {
        portable::rotate(job, x, angles, out)
    }

    /// `out = table[x + 128]`; of rows of different length the shorter one counts.
    fn lut_wide(x: &[i8], table: &[i16; 256], out: &mut [i16]) {
        portable::lut_wide(x, table, out)
    }

    /// `out = table[x + 128]` in place.
    fn lut_in_place(data: &mut [i8], table: &[i8; 256]) {
        portable::lut_in_place(data, table)
    }

    /// `out = t[n] + (((t[n + 1] - t[n]) * f + 64) >> 7)` for `x + 32768 = 128 n + f`, in place.
    fn lut_i16_in_place(data: &mut [i16], table: &[i16; LUT_I16_ENTRIES]) {
        portable::lut_i16_in_place(data, table)
    }

    /// `out = sat16((out * ma + b * mb + bias) >> shift)`: the residual addition, in place.
    fn add_i16_in_place(out: &mut [i16], b: &[i16], ma: i32, mb: i32, bias: i32, shift: u32) {
        portable::add_i16_in_place(out, b, ma, mb, bias, shift)
    }

    /// A depthwise convolution over the windows of a run of pixels; see [`DepthwiseJob`].
    fn depthwise(job: &DepthwiseJob<'_>, x: &[i8], out: DepthwiseOut<'_>) {
        portable::depthwise(job, x, out)
    }

    /// [`depthwise`](Self::depthwise) of 16-bit values.
    fn depthwise_wide(job: &DepthwiseJob<'_>, x: &[i16], out: DepthwiseOut<'_>) {
        portable::depthwise_wide(job, x, out)
    }

    /// The maximum or the mean of the windows of a run of pixels; see [`PoolJob`]. `i8::MIN` is the maximum of nothing.
    fn pool(job: &PoolJob, x: &[i8], out: &mut [i8]) {
        portable::pool(job, x, out)
    }
}

/// The table of an instruction set: one row per kernel method, which names a function with the arguments of the method,
/// a macro that makes the method (see `row_of!`), or `portable`. Constants of the trait come first.
///
/// The module imports `list::signatures::*`.
#[allow(unused_macros)]
macro_rules! kernels {
    (impl $kernels:ty { $(const $constant:ident: $type:ty = $value:expr;)* } $($rows:tt)*) => {
        impl $crate::kernels::Kernels for $kernels {
            $(const $constant: $type = $value;)*
            $crate::kernels::list::rows! { [] $($rows)* }
        }
        const _: () = assert!(
            $crate::kernels::list::covers(<$kernels as $crate::kernels::Kernels>::ROWS),
            "the table lacks a row, or has one twice: a function, or `portable`, for every method of `kernel_methods!`",
        );
    };
}
#[allow(unused_imports)]
pub(crate) use kernels;

/// The rows of a table, one after the other, and their names.
#[allow(unused_macros)]
macro_rules! rows {
    ([$($name:ident)*]) => {
        const ROWS: &'static [&'static str] = &[$(stringify!($name)),*];
    };
    ([$($done:ident)*] $name:ident => portable, $($rest:tt)*) => {
        $crate::kernels::list::rows! { [$($done)* $name] $($rest)* }
    };
    ([$($done:ident)*] $name:ident => $make:ident!($($tt:tt)*), $($rest:tt)*) => {
        $crate::kernels::list::row_of! { $name => $make!($($tt)*) }
        $crate::kernels::list::rows! { [$($done)* $name] $($rest)* }
    };
    ([$($done:ident)*] $name:ident => $function:path, $($rest:tt)*) => {
        $crate::kernels::list::row_of! { $name => $function }
        $crate::kernels::list::rows! { [$($done)* $name] $($rest)* }
    };
}
#[allow(unused_imports)]
pub(crate) use rows;

/// The constants of a forwarder to `$kernels`, but for its name.
#[allow(unused_macros)]
macro_rules! same_constants {
    ($kernels:ty) => {
        const INTERLEAVES: bool = <$kernels>::INTERLEAVES;
        const GATHERED_ROWS: usize = <$kernels>::GATHERED_ROWS;
        const ATTENDS: bool = <$kernels>::ATTENDS;
    };
}
#[allow(unused_imports)]
pub(crate) use same_constants;

/// Whether a table has one row for every kernel method.
#[allow(dead_code)]
pub(crate) const fn covers(rows: &[&str]) -> bool {
    let mut method = 0;
    while method < METHODS.len() {
        let (mut row, mut found) = (0, false);
        while row < rows.len() {
            found |= same(rows[row].as_bytes(), METHODS[method].as_bytes());
            row += 1;
        }
        if !found {
            return false;
        }
        method += 1;
    }
    rows.len() == METHODS.len()
}

const fn same(a: &[u8], b: &[u8]) -> bool {
    let mut at = 0;
    while at < a.len() && at < b.len() && a[at] == b[at] {
        at += 1;
    }
    at == a.len() && at == b.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    #[test]
    fn a_table_has_one_row_for_every_method() {
        let all: Vec<&str> = METHODS.to_vec();
        assert!(covers(&all));
        for at in 0..all.len() {
            let mut rows = all.clone();
            rows.remove(at);
            assert!(!covers(&rows), "{} is missing", all[at]);
            rows.push("linear_of_another_name");
            assert!(!covers(&rows), "{} has another name", all[at]);
            rows.extend([all[at]; 2]);
            assert!(!covers(&rows), "{} is there twice", all[at]);
        }
    }
}
