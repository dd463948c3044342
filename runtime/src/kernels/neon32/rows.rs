//! Rows between the products, eight elements at a time: exponentials, division, normalization, additions, requantization,
//! transposition. The arithmetic is that of the 64-bit rows (`neon/rows.rs`); what is left of a row is portable.
//!
//! Per eight elements, beside loads and stores:
//!
//! | row | instructions |
//! |---|---|
//! | scores | 2 VSHL, 2 VQDMULH, 2 VRSHR |
//! | exponentials, 16 bits | 2 VSUB, 2 VQMOVN, VMIN, VSHL, VAND, 2 VQDMULH, 2 VSUB, VSHR, VNEG, VSHL, VPADAL |
//! | to 8 bits | VRSHRN, VMOVL |
//! | sums times the row's scale | 2 VQDMULH, 2 VRSHL, 2 VADD, 3 VQMOVN |
//! | statistics of a normalization | VPADAL, VMULL, VMLAL, VPADAL |
//! | its values, 8 bits | 3 VMOVL, 2 VMOV, 2 VMLA, 2 VSHL, 4 VQDMULH, 2 VRSHR, 2 VRSRA, 2 VQSHRN, VQMOVN |
//! | a sum of two 16-bit rows | 4 VMOVL, 2 VMOV, 4 VMLA, 2 VSHL, 2 VQMOVN |
//! | sums of a dense layer to 8 bits | 2 VADD, 2 VSHL, 2 VQDMULH, 2 VRSHR, 2 VADD, 4 VQMOVN |

use super::asm::{function, lines};
use crate::arith::exp::{EXP2_A, EXP2_B, EXP2_ONE, RowScale, SCORE_FRACTION_BITS, exp_u8, exp_u16};
use crate::arith::norm::{FRACTION_I8, FRACTION_I16, RowNorm, affine};
use crate::arith::requant::{sat_i8, sat_i16};
use crate::kernels::{ExpRow, NormJob, NormOut, NormRow, PANEL, ScoreScale, portable, whole_rows};

/// Elements that a turn of a loop takes.
const LANES: usize = 8;

unsafe extern "C" {
    /// Scales `chunks` chunks of scores, at least one.
    fn shiftformer_neon32_scale_scores(scores: *mut i32, chunks: usize, multiplier: i32, shift: u32);
    /// The maximum of `chunks` chunks, at least one.
    fn shiftformer_neon32_max(scores: *const i32, chunks: usize) -> i32;
    /// Exponentials of `chunks` chunks, at least one; their sum.
    fn shiftformer_neon32_exp_u8(scores: *const i32, out: *mut u8, chunks: usize, max: i32) -> u32;
    /// The same in 16 bits.
    fn shiftformer_neon32_exp_u16(scores: *const i32, out: *mut u16, chunks: usize, max: i32) -> u32;
    /// Divides `chunks` chunks of sums, at least one.
    fn shiftformer_neon32_scale_row(acc: *const i32, out: *mut i8, chunks: usize, factors: *const ScaleFactors);
    /// Sum and sum of squares of `chunks` chunks, at least one.
    fn shiftformer_neon32_sums_i8(x: *const i8, chunks: usize, sums: *mut RowSums);
    /// The same of 16-bit values.
    fn shiftformer_neon32_sums_i16(x: *const i16, chunks: usize, sums: *mut RowSums);
    /// Normalizes 8-bit values to 8 bits.
    fn shiftformer_neon32_norm_i8_i8(row: *const NormInputs);
    /// 8-bit values to 16 bits.
    fn shiftformer_neon32_norm_i8_i16(row: *const NormInputs);
    /// 16-bit values to 8 bits.
    fn shiftformer_neon32_norm_i16_i8(row: *const NormInputs);
    /// 16-bit values to 16 bits.
    fn shiftformer_neon32_norm_i16_i16(row: *const NormInputs);
    /// Adds two rows.
    fn shiftformer_neon32_add(rows: *const AddInputs);
    /// Requantizes 8-bit values to 8 bits.
    fn shiftformer_neon32_requant_i8_i8(row: *const RequantInputs);
    /// 8-bit values to 16 bits.
    fn shiftformer_neon32_requant_i8_i16(row: *const RequantInputs);
    /// 16-bit values to 8 bits.
    fn shiftformer_neon32_requant_i16_i8(row: *const RequantInputs);
    /// 16-bit values to 16 bits.
    fn shiftformer_neon32_requant_i16_i16(row: *const RequantInputs);
    /// Transposes 8 x 8 bytes.
    fn shiftformer_neon32_transpose(x: *const i8, stride: usize, out: *mut i8, out_stride: usize);
    /// Requantizes a panel of sums to 8 bits.
    fn shiftformer_neon32_panel_i8(panel: *const PanelInputs);
    /// To 16 bits.
    fn shiftformer_neon32_panel_i16(panel: *const PanelInputs);
    /// To 16 bits, the residual in the output.
    fn shiftformer_neon32_panel_sum(panel: *const PanelInputs);
}

function!(
    "shiftformer_neon32_scale_scores",
    "vdup.32 q8, r2",
    "vdup.32 q9, r3",
    "1:",
    "vld1.32 {{d0-d3}}, [r0]",
    "vshl.s32 q0, q0, q9",
    "vshl.s32 q1, q1, q9",
    "vqdmulh.s32 q0, q0, q8",
    "vqdmulh.s32 q1, q1, q8",
    "vrshr.s32 q0, q0, #1",
    "vrshr.s32 q1, q1, #1",
    "vst1.32 {{d0-d3}}, [r0]!",
    "subs r1, r1, #1",
    "bne 1b",
    "bx lr",
);

function!(
    "shiftformer_neon32_max",
    "vld1.32 {{d0-d3}}, [r0]!",
    "subs r1, r1, #1",
    "beq 2f",
    "1:",
    "vld1.32 {{d4-d7}}, [r0]!",
    "vmax.s32 q0, q0, q2",
    "vmax.s32 q1, q1, q3",
    "subs r1, r1, #1",
    "bne 1b",
    "2:",
    "vmax.s32 q0, q0, q1",
    "vpmax.s32 d0, d0, d1",
    "vpmax.s32 d0, d0, d0",
    "vmov.32 r0, d0[0]",
    "bx lr",
);

// The factors of the quadratic are written out in `exps!`.
const _: () = assert!(EXP2_A == 21926 && EXP2_B << SCORE_FRACTION_BITS == 5632 && EXP2_ONE == 32640);

/// Exponentials: Q0 has them in 16 bits where `$store` is.
macro_rules! exps {
    ($name:literal, $store:expr) => {
        function!(
            $name,
            "vdup.32 q8, r3",
            "movw r12, #0x7f80",
            "vdup.16 q9, r12",
            "movw r12, #5632",
            "vdup.16 q10, r12",
            "movw r12, #21926",
            "vdup.16 q11, r12",
            "movw r12, #32640",
            "vdup.16 q12, r12",
            "movw r12, #0x7fff",
            "vdup.16 q13, r12",
            "vmov.i32 q14, #0",
            "1:",
            "vld1.32 {{d0-d3}}, [r0]!",
            "vsub.i32 q0, q8, q0",
            "vsub.i32 q1, q8, q1",
            "vqmovn.u32 d4, q0",
            "vqmovn.u32 d5, q1",
            "vmin.u16 q2, q2, q13",
            "vshl.i16 q0, q2, #7",
            "vand q0, q0, q9",
            "vqdmulh.s16 q1, q0, q10",
            "vsub.i16 q1, q11, q1",
            "vqdmulh.s16 q1, q0, q1",
            "vshr.u16 q0, q2, #8",
            "vsub.i16 q1, q12, q1",
            "vneg.s16 q0, q0",
            "vshl.u16 q0, q1, q0",
            $store,
            "vpadal.u16 q14, q0",
            "subs r2, r2, #1",
            "bne 1b",
            "vadd.i32 d28, d28, d29",
            "vpadd.i32 d28, d28, d28",
            "vmov.32 r0, d28[0]",
            "bx lr",
        );
    };
}

exps!("shiftformer_neon32_exp_u8", lines!("vrshrn.i16 d0, q0, #7", "vst1.8 {{d0}}, [r1]!", "vmovl.u8 q0, d0"));
exps!("shiftformer_neon32_exp_u16", "vst1.16 {{d0, d1}}, [r1]!");

/// What divides a row of sums: the assembly knows this layout.
#[repr(C)]
struct ScaleFactors {
    multiplier: i32,
    /// Left shift by a negative number.
    shift: i32,
    zero_point: i32,
}

function!(
    "shiftformer_neon32_scale_row",
    "vld1.32 {{d16[], d17[]}}, [r3]!",
    "vld1.32 {{d18[], d19[]}}, [r3]!",
    "vld1.32 {{d20[], d21[]}}, [r3]",
    "1:",
    "vld1.32 {{d0-d3}}, [r0]!",
    "vqdmulh.s32 q0, q0, q8",
    "vqdmulh.s32 q1, q1, q8",
    "vrshl.s32 q0, q0, q9",
    "vrshl.s32 q1, q1, q9",
    "vadd.i32 q0, q0, q10",
    "vadd.i32 q1, q1, q10",
    "vqmovn.s32 d0, q0",
    "vqmovn.s32 d1, q1",
    "vqmovn.s16 d0, q0",
    "vst1.8 {{d0}}, [r1]!",
    "subs r2, r2, #1",
    "bne 1b",
    "bx lr",
);

/// Sums of a row: the assembly knows this layout.
#[repr(C)]
#[derive(Default)]
struct RowSums {
    sum: i32,
    _same: i32,
    squares: u64,
}

macro_rules! sums {
    ($name:literal, $load:expr) => {
        function!(
            $name,
            "vmov.i32 q8, #0",
            "vmov.i32 q9, #0",
            "1:",
            $load,
            "vpadal.s16 q8, q0",
            // Two squares are at most 2^31: as unsigned they fit.
            "vmull.s16 q1, d0, d0",
            "vmlal.s16 q1, d1, d1",
            "vpadal.u32 q9, q1",
            "subs r1, r1, #1",
            "bne 1b",
            "vadd.i32 d16, d16, d17",
            "vpadd.i32 d16, d16, d16",
            "vadd.i64 d17, d18, d19",
            "vst1.64 {{d16, d17}}, [r2]",
            "bx lr",
        );
    };
}

/// Eight values from R0 on as 16 bits in Q0.
macro_rules! load {
    (i8) => {
        lines!("vld1.8 {{d0}}, [r0]!", "vmovl.s8 q0, d0")
    };
    (i16) => {
        "vld1.16 {{d0, d1}}, [r0]!"
    };
}

sums!("shiftformer_neon32_sums_i8", load!(i8));
sums!("shiftformer_neon32_sums_i16", load!(i16));

/// A row of whole chunks, at least one: the assembly knows this layout.
#[repr(C)]
struct NormInputs {
    x: *const u8,
    out: *mut u8,
    gamma: *const i32,
    beta: *const i32,
    chunks: usize,
    factor: i32,
    offset: i32,
    rsqrt: i32,
    /// Left shift by a negative number.
    right: i32,
}

/// Fractional bits of gamma and beta go, and eight values from Q14 and Q15 to R1.
macro_rules! store {
    (i8) => {
        lines!("vqshrn.s32 d0, q14, #8", "vqshrn.s32 d1, q15, #8", "vqmovn.s16 d0, q0", "vst1.8 {{d0}}, [r1]!")
    };
    (i16) => {
        lines!("vqshrn.s32 d0, q14, #4", "vqshrn.s32 d1, q15, #4", "vst1.16 {{d0, d1}}, [r1]!")
    };
}

const _: () = assert!(FRACTION_I8 == 8 && FRACTION_I16 == 4);

macro_rules! norm {
    ($name:literal, $x:ident to $out:ident) => {
        function!(
            $name,
            "add r12, r0, #20",
            "vld1.32 {{d16[], d17[]}}, [r12]!",
            "vld1.32 {{d18[], d19[]}}, [r12]!",
            "vld1.32 {{d20[], d21[]}}, [r12]!",
            "vld1.32 {{d22[], d23[]}}, [r12]",
            "ldm r0, {{r0, r1, r2, r3, r12}}",
            "1:",
            load!($x),
            "vmovl.s16 q1, d0",
            "vmovl.s16 q2, d1",
            "vmov q12, q9",
            "vmov q13, q9",
            "vmla.i32 q12, q1, q8",
            "vmla.i32 q13, q2, q8",
            "vshl.s32 q12, q12, q11",
            "vshl.s32 q13, q13, q11",
            "vqdmulh.s32 q12, q12, q10",
            "vqdmulh.s32 q13, q13, q10",
            "vld1.32 {{d0-d3}}, [r2]!",
            "vrshr.s32 q12, q12, #1",
            "vrshr.s32 q13, q13, #1",
            "vld1.32 {{d28-d31}}, [r3]!",
            "vqdmulh.s32 q12, q12, q0",
            "vqdmulh.s32 q13, q13, q1",
            "vrsra.s32 q14, q12, #1",
            "vrsra.s32 q15, q13, #1",
            store!($out),
            "subs r12, r12, #1",
            "bne 1b",
            "bx lr",
        );
    };
}

norm!("shiftformer_neon32_norm_i8_i8", i8 to i8);
norm!("shiftformer_neon32_norm_i8_i16", i8 to i16);
norm!("shiftformer_neon32_norm_i16_i8", i16 to i8);
norm!("shiftformer_neon32_norm_i16_i16", i16 to i16);

/// Two rows of whole chunks, at least one: the assembly knows this layout.
#[repr(C)]
struct AddInputs {
    out: *mut i16,
    b: *const i16,
    chunks: usize,
    ma: i32,
    mb: i32,
    bias: i32,
    /// Left shift by a negative number.
    shift: i32,
}

function!(
    "shiftformer_neon32_add",
    "add r12, r0, #12",
    "vld1.32 {{d16[], d17[]}}, [r12]!",
    "vld1.32 {{d18[], d19[]}}, [r12]!",
    "vld1.32 {{d20[], d21[]}}, [r12]!",
    "vld1.32 {{d22[], d23[]}}, [r12]",
    "ldm r0, {{r0, r1, r2}}",
    "1:",
    "vld1.16 {{d0, d1}}, [r0]",
    "vld1.16 {{d2, d3}}, [r1]!",
    "vmovl.s16 q2, d0",
    "vmovl.s16 q3, d1",
    "vmovl.s16 q12, d2",
    "vmovl.s16 q13, d3",
    "vmov q14, q10",
    "vmov q15, q10",
    "vmla.i32 q14, q2, q8",
    "vmla.i32 q15, q3, q8",
    "vmla.i32 q14, q12, q9",
    "vmla.i32 q15, q13, q9",
    "vshl.s32 q14, q14, q11",
    "vshl.s32 q15, q15, q11",
    "vqmovn.s32 d0, q14",
    "vqmovn.s32 d1, q15",
    "vst1.16 {{d0, d1}}, [r0]!",
    "subs r2, r2, #1",
    "bne 1b",
    "bx lr",
);

/// A row of whole chunks, at least one: the assembly knows this layout.
#[repr(C)]
struct RequantInputs {
    x: *const u8,
    out: *mut u8,
    chunks: usize,
    zero_in: i32,
    shift: u32,
    multiplier: i32,
    zero_out: i32,
}

/// Eight values from Q0 to R1.
macro_rules! put {
    (i8) => {
        lines!("vqmovn.s16 d0, q0", "vst1.8 {{d0}}, [r1]!")
    };
    (i16) => {
        "vst1.16 {{d0, d1}}, [r1]!"
    };
}

macro_rules! requant {
    ($name:literal, $x:ident to $out:ident) => {
        function!(
            $name,
            "add r12, r0, #12",
            "vld1.32 {{d16[], d17[]}}, [r12]!",
            "vld1.32 {{d18[], d19[]}}, [r12]!",
            "vld1.32 {{d20[], d21[]}}, [r12]!",
            "vld1.32 {{d22[], d23[]}}, [r12]",
            "ldm r0, {{r0, r1, r2}}",
            "1:",
            load!($x),
            "vmovl.s16 q1, d0",
            "vmovl.s16 q2, d1",
            "vsub.i32 q1, q1, q8",
            "vsub.i32 q2, q2, q8",
            "vshl.s32 q1, q1, q9",
            "vshl.s32 q2, q2, q9",
            "vqdmulh.s32 q1, q1, q10",
            "vqdmulh.s32 q2, q2, q10",
            "vmov q12, q11",
            "vmov q13, q11",
            "vrsra.s32 q12, q1, #1",
            "vrsra.s32 q13, q2, #1",
            "vqmovn.s32 d0, q12",
            "vqmovn.s32 d1, q13",
            put!($out),
            "subs r2, r2, #1",
            "bne 1b",
            "bx lr",
        );
    };
}

requant!("shiftformer_neon32_requant_i8_i8", i8 to i8);
requant!("shiftformer_neon32_requant_i8_i16", i8 to i16);
requant!("shiftformer_neon32_requant_i16_i8", i16 to i8);
requant!("shiftformer_neon32_requant_i16_i16", i16 to i16);

function!(
    "shiftformer_neon32_transpose",
    "vld1.8 {{d0}}, [r0], r1",
    "vld1.8 {{d1}}, [r0], r1",
    "vld1.8 {{d2}}, [r0], r1",
    "vld1.8 {{d3}}, [r0], r1",
    "vld1.8 {{d4}}, [r0], r1",
    "vld1.8 {{d5}}, [r0], r1",
    "vld1.8 {{d6}}, [r0], r1",
    "vld1.8 {{d7}}, [r0]",
    "vtrn.32 d0, d4",
    "vtrn.32 d1, d5",
    "vtrn.32 d2, d6",
    "vtrn.32 d3, d7",
    "vtrn.16 d0, d2",
    "vtrn.16 d1, d3",
    "vtrn.16 d4, d6",
    "vtrn.16 d5, d7",
    "vtrn.8 d0, d1",
    "vtrn.8 d2, d3",
    "vtrn.8 d4, d5",
    "vtrn.8 d6, d7",
    "vst1.8 {{d0}}, [r2], r3",
    "vst1.8 {{d1}}, [r2], r3",
    "vst1.8 {{d2}}, [r2], r3",
    "vst1.8 {{d3}}, [r2], r3",
    "vst1.8 {{d4}}, [r2], r3",
    "vst1.8 {{d5}}, [r2], r3",
    "vst1.8 {{d6}}, [r2], r3",
    "vst1.8 {{d7}}, [r2]",
    "bx lr",
);

/// Sums of four channels, row after row, at least one, and where they go: the assembly knows this layout.
#[repr(C)]
pub struct PanelInputs {
    pub sums: *const [i32; PANEL],
    pub out: *mut u8,
    /// Bytes between rows of the output.
    pub stride: usize,
    pub rows: usize,
    pub bias: *const [i32; PANEL],
    pub multipliers: *const [i32; PANEL],
    /// Left shift of the sums.
    pub shift: u32,
    /// Zero point of 8-bit outputs; minus the right shift of the residual.
    pub last: i32,
}

macro_rules! panel {
    ($name:literal, $store:expr) => {
        function!(
            $name,
            "push {{r4, r5}}",
            "add r12, r0, #24",
            "vld1.32 {{d20[], d21[]}}, [r12]!",
            "vld1.32 {{d22[], d23[]}}, [r12]",
            "ldm r0, {{r0-r5}}",
            "vld1.32 {{d16, d17}}, [r4]",
            "vld1.32 {{d18, d19}}, [r5]",
            "1:",
            "vld1.32 {{d0, d1}}, [r0]!",
            "vadd.i32 q0, q0, q8",
            "vshl.s32 q0, q0, q10",
            "vqdmulh.s32 q0, q0, q9",
            "vrshr.s32 q0, q0, #1",
            $store,
            "subs r3, r3, #1",
            "bne 1b",
            "pop {{r4, r5}}",
            "bx lr",
        );
    };
}

panel!(
    "shiftformer_neon32_panel_i8",
    lines!("vadd.i32 q0, q0, q11", "vqmovn.s32 d0, q0", "vqmovn.s16 d0, q0", "vst1.32 {{d0[0]}}, [r1], r2")
);
panel!("shiftformer_neon32_panel_i16", lines!("vqmovn.s32 d0, q0", "vst1.16 {{d0}}, [r1], r2"));
panel!(
    "shiftformer_neon32_panel_sum",
    lines!(
        "vld1.16 {{d2}}, [r1]",
        "vmovl.s16 q1, d2",
        "vrshl.s32 q1, q1, q11",
        "vadd.i32 q0, q0, q1",
        "vqmovn.s32 d0, q0",
        "vst1.16 {{d0}}, [r1], r2"
    )
);

/// What becomes of the sums of a panel.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// 8 bits with a zero point.
    I8,
    /// 16 bits.
    I16,
    /// 16 bits, the residual in the output.
    Sum,
}

/// Requantizes the sums of a panel.
///
/// # Safety
/// The processor has NEON; the pointers have their rows and four channels of each.
pub unsafe fn requantize(panel: &PanelInputs, finish: Finish) {
    // SAFETY: the caller's contract.
    unsafe {
        match finish {
            Finish::I8 => shiftformer_neon32_panel_i8(panel),
            Finish::I16 => shiftformer_neon32_panel_i16(panel),
            Finish::Sum => shiftformer_neon32_panel_sum(panel),
        }
    }
}

/// [`crate::kernels::Kernels::scale_scores`].
///
/// # Safety
/// The processor has NEON.
pub unsafe fn scale_scores(scores: &mut [i32], scale: ScoreScale) {
    let (chunks, rest) = scores.as_chunks_mut::<LANES>();
    if !chunks.is_empty() {
        // SAFETY: the caller's contract; the chunks are there.
        unsafe {
            let first = chunks.as_mut_ptr().cast();
            shiftformer_neon32_scale_scores(first, chunks.len(), scale.multiplier, scale.acc_shift);
        }
    }
    portable::scale_scores(rest, scale);
}

/// [`crate::kernels::Kernels::exp_row`].
///
/// # Safety
/// The processor has NEON.
pub unsafe fn exp_row(scores: &[i32], out: ExpRow<'_>) -> u32 {
    let (chunks, rest) = scores.as_chunks::<LANES>();
    let max = match chunks {
        [] => i32::MIN,
        // SAFETY: the caller's contract; the chunks are there.
        [first, ..] => unsafe { shiftformer_neon32_max(first.as_ptr(), chunks.len()) },
    };
    let max = rest.iter().copied().fold(max, i32::max);
    let out_len = match &out {
        ExpRow::U8(out) => out.len(),
        ExpRow::U16(out) => out.len(),
    };
    let count = chunks.len().min(out_len / LANES);
    let (whole, first) = (count * LANES, scores.as_ptr());
    let rest = scores.iter().skip(whole).map(|&score| max.wrapping_sub(score) as u32);
    match out {
        ExpRow::U8(out) => {
            let sum = match count {
                0 => 0,
                // SAFETY: the caller's contract; both have the chunks.
                _ => unsafe { shiftformer_neon32_exp_u8(first, out.as_mut_ptr(), count, max) },
            };
            out.iter_mut().skip(whole).zip(rest).fold(sum, |sum, (e, distance)| {
                *e = exp_u8(distance);
                sum + u32::from(*e)
            })
        }
        ExpRow::U16(out) => {
            let sum = match count {
                0 => 0,
                // SAFETY: the caller's contract; both have the chunks.
                _ => unsafe { shiftformer_neon32_exp_u16(first, out.as_mut_ptr(), count, max) },
            };
            out.iter_mut().skip(whole).zip(rest).fold(sum, |sum, (e, distance)| {
                *e = exp_u16(distance);
                sum + u32::from(*e)
            })
        }
    }
}

/// [`crate::kernels::Kernels::scale_row`].
///
/// # Safety
/// The processor has NEON.
pub unsafe fn scale_row(acc: &[i32], scale: RowScale, zero_point: i32, out: &mut [i8]) {
    let count = acc.len().min(out.len()) / LANES;
    let whole = count * LANES;
    if count > 0 {
        // A doubled product's high half has one bit more.
        let factors = ScaleFactors { multiplier: scale.multiplier, shift: -(scale.shift as i32 + 1), zero_point };
        // SAFETY: the caller's contract; both have the chunks.
        unsafe { shiftformer_neon32_scale_row(acc.as_ptr(), out.as_mut_ptr(), count, &factors) };
    }
    portable::scale_row(acc.get(whole..).unwrap_or(&[]), scale, zero_point, out.get_mut(whole..).unwrap_or(&mut []));
}

/// Element `at` of a row; 0 beyond its end.
fn element(x: NormRow<'_>, at: usize) -> i32 {
    match x {
        NormRow::I8(x) => x.get(at).map_or(0, |&x| i32::from(x)),
        NormRow::I16(x) => x.get(at).map_or(0, |&x| i32::from(x)),
    }
}

/// [`crate::kernels::Kernels::norm_row`].
///
/// # Safety
/// The processor has NEON.
pub unsafe fn norm_row(job: &NormJob<'_>, x: NormRow<'_>, mut out: NormOut<'_>) {
    let x_len = match x {
        NormRow::I8(x) => x.len(),
        NormRow::I16(x) => x.len(),
    };
    let mut sums = RowSums::default();
    if x_len >= LANES {
        // SAFETY: the caller's contract; the row has the chunks.
        unsafe {
            match x {
                NormRow::I8(x) => shiftformer_neon32_sums_i8(x.as_ptr(), x_len / LANES, &mut sums),
                NormRow::I16(x) => shiftformer_neon32_sums_i16(x.as_ptr(), x_len / LANES, &mut sums),
            }
        }
    }
    for at in x_len / LANES * LANES..x_len {
        let x = element(x, at);
        sums.sum = sums.sum.wrapping_add(x);
        sums.squares += u64::from(x.unsigned_abs() * x.unsigned_abs());
    }
    let row = RowNorm::from_sums(sums.sum, sums.squares, x_len as u32, job.rms, job.eps);
    let (first, out_len) = match &mut out {
        NormOut::I8(out) => (out.as_mut_ptr().cast(), out.len()),
        NormOut::I16(out) => (out.as_mut_ptr().cast(), out.len()),
    };
    let len = x_len.min(out_len).min(job.gamma.len()).min(job.beta.len());
    let (line, whole) = (row.affine(), len / LANES * LANES);
    let inputs = NormInputs {
        x: match x {
            NormRow::I8(x) => x.as_ptr().cast(),
            NormRow::I16(x) => x.as_ptr().cast(),
        },
        out: first,
        gamma: job.gamma.as_ptr(),
        beta: job.beta.as_ptr(),
        chunks: whole / LANES,
        factor: line.factor,
        offset: line.offset,
        rsqrt: line.rsqrt,
        right: -(line.right as i32),
    };
    if whole > 0 {
        // SAFETY: the caller's contract; all slices have the chunks.
        unsafe {
            match (x, &out) {
                (NormRow::I8(_), NormOut::I8(_)) => shiftformer_neon32_norm_i8_i8(&inputs),
                (NormRow::I8(_), NormOut::I16(_)) => shiftformer_neon32_norm_i8_i16(&inputs),
                (NormRow::I16(_), NormOut::I8(_)) => shiftformer_neon32_norm_i16_i8(&inputs),
                (NormRow::I16(_), NormOut::I16(_)) => shiftformer_neon32_norm_i16_i16(&inputs),
            }
        }
    }
    let parameters = job.gamma.iter().zip(job.beta);
    let values = (whole..len).zip(parameters.skip(whole));
    let values = values.map(|(at, (&gamma, &beta))| affine(row.normalize(element(x, at)), gamma, beta));
    match out {
        NormOut::I8(out) => out.iter_mut().skip(whole).zip(values).for_each(|(out, y)| *out = sat_i8(y >> FRACTION_I8)),
        NormOut::I16(out) => {
            out.iter_mut().skip(whole).zip(values).for_each(|(out, y)| *out = sat_i16(y >> FRACTION_I16));
        }
    }
}

/// [`crate::kernels::Kernels::add_i16_in_place`].
///
/// # Safety
/// The processor has NEON.
pub unsafe fn add_i16_in_place(out: &mut [i16], b: &[i16], ma: i32, mb: i32, bias: i32, shift: u32) {
    let chunks = out.len().min(b.len()) / LANES;
    if chunks > 0 {
        let rows = AddInputs { out: out.as_mut_ptr(), b: b.as_ptr(), chunks, ma, mb, bias, shift: -(shift as i32) };
        // SAFETY: the caller's contract; both rows have the chunks.
        unsafe { shiftformer_neon32_add(&rows) };
    }
    let whole = chunks * LANES;
    let (out, b) = (out.get_mut(whole..).unwrap_or(&mut []), b.get(whole..).unwrap_or(&[]));
    portable::add_i16_in_place(out, b, ma, mb, bias, shift);
}

/// [`crate::kernels::Kernels::requant`].
///
/// # Safety
/// The processor has NEON.
pub unsafe fn requant(x: NormRow<'_>, mut out: NormOut<'_>, zeros: [i32; 2], scale: ScoreScale) {
    let (first, x_len) = match x {
        NormRow::I8(x) => (x.as_ptr().cast(), x.len()),
        NormRow::I16(x) => (x.as_ptr().cast(), x.len()),
    };
    let (to, out_len) = match &mut out {
        NormOut::I8(out) => (out.as_mut_ptr().cast(), out.len()),
        NormOut::I16(out) => (out.as_mut_ptr().cast(), out.len()),
    };
    let (chunks, [zero_in, zero_out]) = (x_len.min(out_len) / LANES, zeros);
    let ScoreScale { acc_shift: shift, multiplier } = scale;
    let inputs = RequantInputs { x: first, out: to, chunks, zero_in, shift, multiplier, zero_out };
    if chunks > 0 {
        // SAFETY: the caller's contract; both have the chunks.
        unsafe {
            match (x, &out) {
                (NormRow::I8(_), NormOut::I8(_)) => shiftformer_neon32_requant_i8_i8(&inputs),
                (NormRow::I8(_), NormOut::I16(_)) => shiftformer_neon32_requant_i8_i16(&inputs),
                (NormRow::I16(_), NormOut::I8(_)) => shiftformer_neon32_requant_i16_i8(&inputs),
                (NormRow::I16(_), NormOut::I16(_)) => shiftformer_neon32_requant_i16_i16(&inputs),
            }
        }
    }
    let whole = chunks * LANES;
    let rest = match x {
        NormRow::I8(x) => NormRow::I8(x.get(whole..).unwrap_or(&[])),
        NormRow::I16(x) => NormRow::I16(x.get(whole..).unwrap_or(&[])),
    };
    let out = match out {
        NormOut::I8(out) => NormOut::I8(out.get_mut(whole..).unwrap_or(&mut [])),
        NormOut::I16(out) => NormOut::I16(out.get_mut(whole..).unwrap_or(&mut [])),
    };
    portable::requant(rest, out, zeros, scale);
}

/// [`crate::kernels::Kernels::transpose`], in tiles of 8 x 8; those at the edges are copied.
///
/// # Safety
/// The processor has NEON.
pub unsafe fn transpose(x: &[i8], x_stride: usize, rows: usize, cols: usize, out: &mut [i8], out_stride: usize) {
    let whole = cols.checked_mul(out_stride).is_some_and(|len| out.len() >= len) && rows <= out_stride;
    if !whole || rows == 0 || whole_rows(x.len(), x_stride, cols) < rows {
        return portable::transpose(x, x_stride, rows, cols, out, out_stride);
    }
    for column in (0..cols).step_by(LANES) {
        let columns = (cols - column).min(LANES);
        for row in (0..out_stride).step_by(LANES) {
            let (count, width) = (rows.saturating_sub(row).min(LANES), (out_stride - row).min(LANES));
            let (mut from, mut to) = ([0i8; LANES * LANES], [0i8; LANES * LANES]);
            let at = row * x_stride + column;
            let inside = count == LANES && columns == LANES;
            if !inside {
                for (row, from) in from.chunks_exact_mut(LANES).enumerate().take(count) {
                    let x = x.get(at + row * x_stride..).unwrap_or(&[]);
                    from.iter_mut().zip(x).take(columns).for_each(|(from, &x)| *from = x);
                }
            }
            let (first, stride) = if inside { (x.as_ptr().wrapping_add(at), x_stride) } else { (from.as_ptr(), LANES) };
            let place = column * out_stride + row;
            // SAFETY: the caller's contract; rows and columns of the tile are inside, or it is a copy.
            unsafe {
                if columns == LANES && width == LANES {
                    let to = out.as_mut_ptr().add(place);
                    shiftformer_neon32_transpose(first, stride, to, out_stride);
                    continue;
                }
                shiftformer_neon32_transpose(first, stride, to.as_mut_ptr(), LANES);
            }
            for (column, to) in to.chunks_exact(LANES).enumerate().take(columns) {
                let out = out.get_mut(place + column * out_stride..).unwrap_or(&mut []);
                out.iter_mut().zip(to).take(width).for_each(|(out, &to)| *out = to);
            }
        }
    }
}
