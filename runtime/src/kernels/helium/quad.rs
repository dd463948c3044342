//! One row of activations by four channels: the loop under all products.
//!
//! `VMLADAVA` adds sixteen 8-bit products to one core register. The low-overhead loop `DLSTP`/`LETP` switches off the
//! lanes beyond K, so that rows of any length at any address need no tail and no padding.
//!
//! # Register plan
//! Dense: `r0 r2 r4 r6` accumulators (`VMLADAVA` wants even registers), `r1` activations, then the shift, `r3` weights,
//! `r5` K, `r7` output (narrowing stores want low registers), `r8` biases, `r9` multipliers, `r10` start of the row,
//! `r11` panels left, `r12` addend. Plain rows: `r0 r8 r10 r12` accumulators, `r1` activations, `r3-r6` rows, `r2` their
//! stride, `r7` starting values, `r9` output, `r11` groups of four rows left, or bytes between them. Both: `lr` loop
//! counter; `q0` activations, `q1 q2` weights, `q3` sign bits, or `q4-q7` activations and `q0-q3` weights; constants in a
//! frame at `sp`.
//!
//! # Instructions
//! Sixteen K steps of four channels: 5 `VLDRB`, 4 `VMLADAVA`, 1 `LETP` = 10 for 64 MACs (0.16); with the row in registers
//! 8 (0.125). Per four channels of a dense layer with 8-bit output 15 more, 11 with the row in registers; of plain rows 15
//! and 9.

use core::arch::naked_asm;

/// What a dense routine works on.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Dense {
    /// Left shift of accumulators.
    pub acc_shift: i32,
    /// Zero point, or minus the right shift of the residual.
    pub addend: i32,
    /// Middle of the table.
    pub table: usize,
    /// Start of the row.
    pub x: usize,
    /// Length of the sum.
    pub k: usize,
    /// First weights.
    pub weights: usize,
    /// Biases of the first panel.
    pub bias: usize,
    /// Multipliers of the first panel.
    pub multipliers: usize,
    /// First output.
    pub out: usize,
    /// Panels.
    pub panels: usize,
}

/// Assembly outside a function does not see the features of the crate: name a core that has them.
macro_rules! core {
    () => {
        ".cpu cortex-m55"
    };
}
pub(super) use core;

/// Sums of a panel over any K, from the row at `r10`.
macro_rules! streamed {
    () => {
        "mov r1, r10
         dlstp.8 lr, r5
        3:
         vldrb.8 q0, [r1], #16
         vldrb.8 q1, [r3, #16]
         vmladava.s8 r2, q0, q1
         vldrb.8 q2, [r3, #32]
         vmladava.s8 r4, q0, q2
         vldrb.8 q1, [r3, #48]
         vmladava.s8 r6, q0, q1
         vldrb.8 q2, [r3], #64
         vmladava.s8 r0, q0, q2
         letp lr, 3b
        "
    };
}

/// Brings a row of 49 to 64 values into `q4-q7`, and the constants into registers.
macro_rules! fetch_resident {
    () => {
        "vldrb.8 q4, [r10]
         vldrb.8 q5, [r10, #16]
         vldrb.8 q6, [r10, #32]
         sub r1, r5, #48
         vctp.8 r1
         vpst
         vldrbt.u8 q7, [r10, #48]
         ldrd r1, r12, [sp]
         dls lr, r11
        "
    };
}

/// Sums of a panel over one group of 16.
macro_rules! resident_group {
    ($x:literal) => {
        concat!(
            "vldrb.8 q0, [r3], #16\nvmladava.s8 r0, ",
            $x,
            ", q0\n",
            "vldrb.8 q1, [r3], #16\nvmladava.s8 r2, ",
            $x,
            ", q1\n",
            "vldrb.8 q2, [r3], #16\nvmladava.s8 r4, ",
            $x,
            ", q2\n",
            "vldrb.8 q3, [r3], #16\nvmladava.s8 r6, ",
            $x,
            ", q3\n",
        )
    };
}

/// Sums of a panel over 49 to 64 values, from the row in `q4-q7`.
macro_rules! resident {
    () => {
        concat!(resident_group!("q4"), resident_group!("q5"), resident_group!("q6"), resident_group!("q7"))
    };
}

/// The sums times their multipliers.
macro_rules! scaled {
    () => {
        "vldrw.32 q1, [r9], #16
         vshl.s32 q0, r1
         vrmulh.s32 q0, q0, q1
        "
    };
}

/// The constants, where they are not in registers.
macro_rules! streamed_constants {
    () => {
        "ldrd r1, r12, [sp]"
    };
}

macro_rules! streamed_end {
    () => {
        "subs r11, #1
         bne 2b
        "
    };
}

macro_rules! resident_end {
    () => {
        "le lr, 2b"
    };
}

macro_rules! nothing {
    () => {
        ""
    };
}

macro_rules! dense_routine {
    (
        $(#[$meta:meta])* $name:ident, $fetch:ident, $sums:ident, $constants:ident, $end:ident, $($epilogue:expr),+
    ) => {
        $(#[$meta])*
        ///
        /// # Safety
        /// All addresses of the frame are valid for `k` activations and `panels` whole panels, outputs included.
        #[unsafe(naked)]
        pub unsafe extern "C" fn $name(frame: *const Dense) {
            naked_asm!(
                core!(),
                "push {{r4-r11, lr}}",
                "vpush {{d8-d15}}",
                "sub sp, #12",
                "ldmia r0!, {{r1-r3}}",
                "stm sp, {{r1-r3}}",
                "ldmia r0, {{r1, r2, r3, r8, r9, r10, r11}}",
                "mov r7, r10",
                "mov r10, r1",
                "mov r5, r2",
                $fetch!(),
                "2:",
                "ldmia r8!, {{r0, r2, r4, r6}}",
                $sums!(),
                "vmov q0[2], q0[0], r0, r4",
                "vmov q0[3], q0[1], r2, r6",
                $constants!(),
                $($epilogue,)+
                $end!(),
                "add sp, #12",
                "vpop {{d8-d15}}",
                "pop {{r4-r11, pc}}",
            )
        }
    };
}

/// A routine for any K, and one for K from 49 to 64: a common width of small models, and four registers.
macro_rules! dense {
    ($(#[$meta:meta])* $any:ident, $resident:ident, $($epilogue:expr),+) => {
        dense_routine! { $(#[$meta])* $any, nothing, streamed, streamed_constants, streamed_end, $($epilogue),+ }
        dense_routine! {
            $(#[$meta])* $resident, fetch_resident, resident, nothing, resident_end, $($epilogue),+
        }
    };
}

/// Values of a row that stays in registers.
pub const RESIDENT_K: core::ops::RangeInclusive<usize> = 49..=64;

dense! {
    /// 8-bit output without a table.
    dense_i8, resident_i8,
    scaled!(),
    "vadd.i32 q0, q0, r12",
    "vqmovnb.s32 q0, q0",
    "vqmovnb.s16 q0, q0",
    "vstrb.32 q0, [r7], #4"
}
dense! {
    /// 8-bit output through a table.
    dense_table, resident_table,
    scaled!(),
    "vadd.i32 q0, q0, r12",
    "vqmovnb.s32 q0, q0",
    "vqmovnb.s16 q0, q0",
    "vmovlb.s8 q0, q0",
    "vmovlb.s16 q0, q0",
    "ldr r0, [sp, #8]",
    "vldrb.u32 q1, [r0, q0]",
    "vstrb.32 q1, [r7], #4"
}
dense! {
    /// 16-bit output.
    dense_i16, resident_i16,
    scaled!(),
    "vqmovnb.s32 q0, q0",
    "vstrh.32 q0, [r7], #8"
}
dense! {
    /// 16-bit output added to the residual that is there.
    dense_residual, resident_residual,
    scaled!(),
    "vldrh.s32 q1, [r7]",
    "vrshl.s32 q1, r12",
    "vadd.i32 q0, q0, q1",
    "vqmovnb.s32 q0, q0",
    "vstrh.32 q0, [r7], #8"
}

dense! {
    /// The sums themselves.
    dense_i32, resident_i32,
    "vstrw.32 q0, [r7], #16"
}

/// What a routine for plain rows works on.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Rows {
    /// First row of activations.
    pub x: usize,
    /// First row of weights.
    pub y: usize,
    /// Length of the sum.
    pub k: usize,
    /// Bytes between rows of activations.
    pub x_stride: usize,
    /// First sum of the first row of activations.
    pub out: usize,
    /// Bytes between rows of sums.
    pub out_stride: usize,
    /// Rows of activations.
    pub rows: usize,
    /// What the sums start from, one for each row of weights.
    pub start: usize,
    /// Groups of four rows of weights.
    pub quads: usize,
    /// Bytes between rows of weights.
    pub y_stride: usize,
}

macro_rules! rows {
    (
        $(#[$meta:meta])* $name:ident, $tail:literal, $load_x:literal, $flip:literal, $load_y:literal, $step:literal,
        $mac:literal, $finish:literal
    ) => {
        $(#[$meta])*
        ///
        /// # Safety
        /// All addresses of the frame are valid for `rows` rows of `k` activations and as many rows of sums, and for
        /// `4 * quads` rows of weights and starts.
        #[unsafe(naked)]
        pub unsafe extern "C" fn $name(frame: *const Rows) {
            naked_asm!(
                core!(),
                "push {{r4-r11, lr}}",
                "sub sp, #44",
                "ldmia r0!, {{r3-r9}}",
                "stm sp, {{r3-r9}}",
                "ldmia r0, {{r3, r4, r5}}",
                // start, quads, y stride
                "add r0, sp, #28",
                "stm r0, {{r3, r4, r5}}",
                "mov r2, r5",
                "movs r0, #128",
                "vdup.8 q3, r0",
                "4:",
                // Next row of activations.
                "ldr r3, [sp, #4]",
                "ldr r9, [sp, #16]",
                "ldrd r7, r11, [sp, #28]",
                "2:",
                "ldr r1, [sp]",
                "ldr lr, [sp, #8]",
                "add r4, r3, r2",
                "add r5, r4, r2",
                "add r6, r5, r2",
                "add r0, r6, r2",
                "str r0, [sp, #40]",
                "ldmia r7!, {{r0, r8, r10, r12}}",
                concat!("dlstp.", $tail, " lr, lr"),
                "3:",
                $load_x,
                $flip,
                concat!($load_y, " q1, [r3], #", $step),
                concat!($mac, " r0, q0, q1"),
                concat!($load_y, " q2, [r4], #", $step),
                concat!($mac, " r8, q0, q2"),
                concat!($load_y, " q1, [r5], #", $step),
                concat!($mac, " r10, q0, q1"),
                concat!($load_y, " q2, [r6], #", $step),
                concat!($mac, " r12, q0, q2"),
                "letp lr, 3b",
                "vmov q0[2], q0[0], r0, r10",
                "vmov q0[3], q0[1], r8, r12",
                $finish,
                "vstrw.32 q0, [r9], #16",
                "ldr r3, [sp, #40]",
                "subs r11, #1",
                "bne 2b",
                "ldrd r0, r1, [sp, #12]",
                "ldr r3, [sp]",
                "ldrd r4, r5, [sp, #20]",
                "add r3, r0",
                "str r3, [sp]",
                "add r1, r4",
                "str r1, [sp, #16]",
                "subs r5, #1",
                "str r5, [sp, #24]",
                "bne 4b",
                "add sp, #44",
                "pop {{r4-r11, pc}}",
            )
        }
    };
}

rows! {
    /// Signed bytes by signed bytes.
    rows_i8, "8", "vldrb.8 q0, [r1], #16", "", "vldrb.8", "16", "vmladava.s8", ""
}
rows! {
    /// Unsigned bytes less 128 by signed bytes.
    rows_u8, "8", "vldrb.8 q0, [r1], #16", "veor q0, q0, q3", "vldrb.8", "16", "vmladava.s8", ""
}
rows! {
    /// 16-bit values by signed bytes.
    rows_i16, "16", "vldrh.16 q0, [r1], #16", "", "vldrb.s16", "8", "vmladava.s16", ""
}
rows! {
    /// 128 times the sums of signed bytes, whatever the activations.
    rows_128, "8", "vmov.i8 q0, #64", "", "vldrb.8", "16", "vmladava.s8", "vadd.i32 q0, q0, q0"
}

/// Sums over one group of 16 with the activations `$x`, `$at` bytes into the rows.
macro_rules! resident_rows_group {
    ($x:literal, $at:literal) => {
        concat!(
            "vldrb.8 q0, [r3, #",
            $at,
            "]\nvmladava.s8 r0, ",
            $x,
            ", q0\nvldrb.8 q1, [r4, #",
            $at,
            "]\nvmladava.s8 r8, ",
            $x,
            ", q1\nvldrb.8 q2, [r5, #",
            $at,
            "]\nvmladava.s8 r10, ",
            $x,
            ", q2\nvldrb.8 q3, [r6, #",
            $at,
            "]\nvmladava.s8 r12, ",
            $x,
            ", q3\n"
        )
    };
}

macro_rules! resident_rows {
    ($(#[$meta:meta])* $name:ident, $flip:literal, $last:literal) => {
        $(#[$meta])*
        ///
        /// # Safety
        /// As for the other routines, K being in [`RESIDENT_K`]; all rows of weights are readable for 64 bytes.
        #[unsafe(naked)]
        pub unsafe extern "C" fn $name(frame: *const Rows) {
            naked_asm!(
                core!(),
                "push {{r4-r11, lr}}",
                "vpush {{d8-d15}}",
                "sub sp, #44",
                "ldmia r0!, {{r3-r9}}",
                "stm sp, {{r3-r9}}",
                "ldmia r0, {{r3, r4, r5}}",
                // start, quads, y stride
                "add r0, sp, #28",
                "stm r0, {{r3, r4, r5}}",
                "mov r2, r5",
                "lsl r11, r5, #2",
                "4:",
                // Next row of activations.
                "ldrd r1, r3, [sp]",
                "ldrd r8, r0, [sp, #8]",
                "add r0, r1",
                "str r0, [sp]",
                "sub r8, #48",
                "vctp.8 r8",
                "vldrb.8 q4, [r1]",
                "vldrb.8 q5, [r1, #16]",
                "vldrb.8 q6, [r1, #32]",
                $flip,
                $last,
                "add r4, r3, r2",
                "add r5, r4, r2",
                "add r6, r5, r2",
                "ldrd r9, r0, [sp, #16]",
                "add r0, r9",
                "str r0, [sp, #16]",
                "ldrd r7, lr, [sp, #28]",
                "dls lr, lr",
                "2:",
                "ldmia r7!, {{r0, r8, r10, r12}}",
                resident_rows_group!("q4", "0"),
                resident_rows_group!("q5", "16"),
                resident_rows_group!("q6", "32"),
                resident_rows_group!("q7", "48"),
                "add r3, r11",
                "add r4, r11",
                "add r5, r11",
                "add r6, r11",
                "vmov q0[2], q0[0], r0, r10",
                "vmov q0[3], q0[1], r8, r12",
                "vstrw.32 q0, [r9], #16",
                "le lr, 2b",
                "ldr r0, [sp, #24]",
                "subs r0, #1",
                "str r0, [sp, #24]",
                "bne 4b",
                "add sp, #44",
                "vpop {{d8-d15}}",
                "pop {{r4-r11, pc}}",
            )
        }
    };
}

resident_rows! {
    /// [`rows_i8`] for K from 49 to 64.
    resident_rows_i8, "", "vpst\nvldrbt.u8 q7, [r1, #48]"
}
resident_rows! {
    /// [`rows_u8`] for K from 49 to 64.
    resident_rows_u8,
    "vmov.i8 q0, #128\nveor q4, q4, q0\nveor q5, q5, q0\nveor q6, q6, q0",
    "vpstt\nvldrbt.u8 q7, [r1, #48]\nveort q7, q7, q0"
}
