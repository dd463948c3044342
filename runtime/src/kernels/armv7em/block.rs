//! Five rows of activations by one channel of weights at a time: the loop under all products.
//!
//! Activations are widened once to 16 bits, rows interleaved ([`super::widen`]), so that one `LDM` brings the same two
//! values of all five rows. A word of weights gives bytes 0 and 2 by `SXTB16` and bytes 1 and 3 by `SXTB16` with
//! rotation: activations are in that order, no shuffle is left.
//!
//! # Register plan
//! `r0-r4` accumulators, `r5-r9` activations, `r10` word of weights, `r11` widened weights, `r12` activation pointer,
//! `lr` weight pointer: all fourteen. What changes per channel lives in a frame at `sp`, a copy of [`Frame`].
//!
//! # Instructions
//! Four K steps of five rows: 1 `LDR`, 2 `LDM`, 2 `SXTB16`, 10 `SMLAD` = 15 for 20 MACs (0.75); three more for the loop
//! over 16. Per channel of a dense layer with 8-bit output: 3 per output and 19 for pointers and counters.
//!
//! # Epilogues
//! One walk serves every output: it jumps to the epilogue that the frame names and is jumped back to by [`resume`].
//! What is not named in the program is not linked.

use core::arch::naked_asm;

/// What a block routine works on: addresses, strides in bytes, constants. Copied to the stack by the routine.
#[repr(C)]
pub struct Frame {
    /// Multiplier of the first channel (dense), or the one multiplier itself (scores).
    pub multipliers: usize,
    /// First output of the first row.
    pub out: usize,
    /// Bytes between rows of the output.
    pub out_stride: usize,
    /// Zero point, or half a step of the residual.
    pub addend: i32,
    /// Left shift of accumulators.
    pub acc_shift: u32,
    /// Middle of the table, or the right shift of the residual.
    pub table_or_shift: usize,
    /// From a multiplier to the bias of the same channel.
    pub to_bias: usize,
    /// Start of the widened activations.
    pub x: usize,
    /// Minus the number of channels; dense: a multiple of four, or one incomplete panel.
    pub channels: i32,
    /// From the end of a channel's weights to the next channel.
    pub next_channel: isize,
    /// End of the activations in whole groups of 16, at least one.
    pub x_end_groups: usize,
    /// End of the activations; dense: as above.
    pub x_end: usize,
    /// What becomes of the sums: [`DENSE_I8`] and its siblings for [`dense`], [`ROWS_I32`] or [`ROWS_SCORES`] for
    /// [`rows`].
    pub epilogue: Epilogue,
    /// First weights, less the distance of the addressing mode: [`DENSE_BIAS`] or [`ROWS_BIAS`].
    pub weights: usize,
}

/// A piece of code that is jumped to with the registers of a walk.
pub type Epilogue = unsafe extern "C" fn();

/// The loop addresses weights of a panel from 52 bytes below, so that the last load of a group steps to the next.
pub const DENSE_BIAS: usize = 52;
/// The same for plain rows.
pub const ROWS_BIAS: usize = 4;

/// Four K steps for five rows; `$load` brings the word of weights into `r10`.
macro_rules! step {
    ($load:literal) => {
        concat!(
            "ldr r10, ",
            $load,
            "\n",
            "ldmia r12!, {{r5-r9}}\n",
            "sxtb16 r11, r10\n",
            "smlad r0, r5, r11, r0\n",
            "smlad r1, r6, r11, r1\n",
            "smlad r2, r7, r11, r2\n",
            "smlad r3, r8, r11, r3\n",
            "smlad r4, r9, r11, r4\n",
            step_odd!(),
        )
    };
}

/// The second half of a step.
macro_rules! step_odd {
    () => {
        "ldmia r12!, {{r5-r9}}
         sxtb16 r11, r10, ror #8
         smlad r0, r5, r11, r0
         smlad r1, r6, r11, r1
         smlad r2, r7, r11, r2
         smlad r3, r8, r11, r3
         smlad r4, r9, r11, r4
        "
    };
}

macro_rules! enter {
    () => {
        "push {{r4-r11, lr}}
         sub sp, #56
         ldmia r0!, {{r1-r7}}
         stm sp, {{r1-r7}}
         ldmia r0!, {{r1-r6}}
         add r7, sp, #28
         stmia r7!, {{r1-r6}}
         ldr lr, [r0]
         adr.w r1, 8f
         orr r1, r1, #1
         str r1, [r7]
        "
    };
}

macro_rules! leave {
    () => {
        "add sp, #56
         pop {{r4-r11, pc}}
        "
    };
}

/// To the epilogue: sums in `r0-r4`, output of row 0 in `r6`, of row 1 in `r12`, stride in `r7`, addend in `r8`, shift in
/// `r9`. It leaves `r6` at the next channel and may overwrite all but `lr`.
macro_rules! conclude {
    () => {
        "ldr pc, [sp, #48]"
    };
}

/// From an epilogue back to the walk.
macro_rules! resume {
    () => {
        "ldr pc, [sp, #52]"
    };
}

/// A dense layer over the channels of whole panels, or of one incomplete panel. The epilogue also finds the multiplier in
/// `r11` and the table in `r10`.
///
/// # Safety
/// All addresses of the frame are valid for what the loop reads and writes: `5` rows of `channels` outputs, panels of
/// weights, multipliers and biases padded to whole panels, widened activations for five rows.
#[unsafe(naked)]
pub unsafe extern "C" fn dense(frame: *const Frame) {
    naked_asm!(
        core!(),
        enter!(),
        "5:",
        "ldr r5, [sp]",
        "ldrd r10, r12, [sp, #24]",
        "ldr r0, [r5, r10]",
        // The first step starts all sums from the bias.
        "ldr r10, [lr, #52]",
        "ldmia r12!, {{r5-r9}}",
        "sxtb16 r11, r10",
        "smlad r4, r9, r11, r0",
        "smlad r3, r8, r11, r0",
        "smlad r2, r7, r11, r0",
        "smlad r1, r6, r11, r0",
        "smlad r0, r5, r11, r0",
        step_odd!(),
        "b 4f",
        "3:",
        step!("[lr, #52]"),
        "4:",
        step!("[lr, #56]"),
        step!("[lr, #60]"),
        step!("[lr, #64]!"),
        "ldr r10, [sp, #40]",
        "cmp r12, r10",
        "bne 3b",
        "ldm sp, {{r5-r9}}",
        "ldr r11, [r5], #4",
        "str r5, [sp]",
        "ldr r10, [sp, #20]",
        "add r12, r6, r7",
        conclude!(),
        "8:",
        "str r6, [sp, #4]",
        "ldrd r6, r7, [sp, #32]",
        "add lr, r7",
        "adds r6, #1",
        "str r6, [sp, #32]",
        "lsls r5, r6, #30",
        "bne 5b",
        "cbz r6, 6f",
        "sub lr, r7",
        "sub lr, #48",
        "b 5b",
        "6:",
        leave!(),
    )
}

/// Dot products of five rows with rows of bytes.
///
/// # Safety
/// As for [`dense`]; rows of weights are readable for all K steps, at least 16 bytes.
#[unsafe(naked)]
pub unsafe extern "C" fn rows(frame: *const Frame) {
    naked_asm!(
        core!(),
        enter!(),
        "5:",
        "ldr r12, [sp, #28]",
        "ldr r10, [lr, #4]",
        "ldmia r12!, {{r5-r9}}",
        "sxtb16 r11, r10",
        "smuad r0, r5, r11",
        "smuad r1, r6, r11",
        "smuad r2, r7, r11",
        "smuad r3, r8, r11",
        "smuad r4, r9, r11",
        step_odd!(),
        "b 4f",
        "3:",
        step!("[lr, #4]"),
        "4:",
        step!("[lr, #8]"),
        step!("[lr, #12]"),
        step!("[lr, #16]!"),
        "ldr r10, [sp, #40]",
        "cmp r12, r10",
        "bne 3b",
        "ldr r10, [sp, #44]",
        "cmp r12, r10",
        "beq 7f",
        "6:",
        step!("[lr, #4]!"),
        "ldr r10, [sp, #44]",
        "cmp r12, r10",
        "bne 6b",
        "7:",
        "ldm sp, {{r5-r9}}",
        "add r12, r6, r7",
        conclude!(),
        "8:",
        "str r6, [sp, #4]",
        "ldrd r6, r7, [sp, #32]",
        "add lr, r7",
        "adds r6, #1",
        "str r6, [sp, #32]",
        "bne 5b",
        leave!(),
    )
}

/// `sat8(addend + mulhi_round(sum, multiplier))` of row `$acc`, stored at `$to`.
macro_rules! store_i8 {
    ($acc:literal, $to:literal) => {
        concat!("smmlar ", $acc, ", ", $acc, ", r11, r8\nssat ", $acc, ", #8, ", $acc, "\nstrb ", $acc, ", ", $to, "\n")
    };
}

/// As [`store_i8`], through the table.
macro_rules! store_table {
    ($acc:literal, $to:literal) => {
        concat!(
            "smmlar ",
            $acc,
            ", ",
            $acc,
            ", r11, r8\nssat ",
            $acc,
            ", #8, ",
            $acc,
            "\nldrb ",
            $acc,
            ", [r10, ",
            $acc,
            "]\nstrb ",
            $acc,
            ", ",
            $to,
            "\n"
        )
    };
}

macro_rules! store_i16 {
    ($acc:literal, $to:literal) => {
        concat!(
            "lsl ",
            $acc,
            ", ",
            $acc,
            ", r9\nsmmulr ",
            $acc,
            ", ",
            $acc,
            ", r11\nssat ",
            $acc,
            ", #16, ",
            $acc,
            "\nstrh ",
            $acc,
            ", ",
            $to,
            "\n"
        )
    };
}

macro_rules! store_residual {
    ($acc:literal, $to:literal) => {
        concat!(
            "ldrsh r5, ",
            $to,
            "\nadd r5, r5, r8\nasr r5, r5, r10\nlsl ",
            $acc,
            ", ",
            $acc,
            ", r9\nsmmlar ",
            $acc,
            ", ",
            $acc,
            ", r11, r5\nssat ",
            $acc,
            ", #16, ",
            $acc,
            "\nstrh ",
            $acc,
            ", ",
            $to,
            "\n"
        )
    };
}

macro_rules! five_rows {
    ($store:ident, $step:literal) => {
        concat!(
            $store!("r0", "[r6]"),
            $store!("r1", "[r12]"),
            $store!("r2", "[r6, r7, lsl #1]"),
            $store!("r3", "[r12, r7, lsl #1]"),
            $store!("r4", "[r6, r7, lsl #2]"),
            $step,
        )
    };
}

macro_rules! epilogue {
    ($(#[$meta:meta])* $public:ident, $name:ident, $store:ident, $step:literal) => {
        #[unsafe(naked)]
        unsafe extern "C" fn $name() {
            naked_asm!(core!(), five_rows!($store, $step), resume!())
        }
        $(#[$meta])*
        pub const $public: Epilogue = $name;
    };
}

epilogue! {
    /// 8-bit output without a table; `acc_shift` is 0.
    DENSE_I8, dense_i8, store_i8, "adds r6, #1"
}
epilogue! {
    /// 8-bit output through a table; `acc_shift` is 0.
    DENSE_TABLE, dense_table, store_table, "adds r6, #1"
}
epilogue! {
    /// 16-bit output.
    DENSE_I16, dense_i16, store_i16, "adds r6, #2"
}
epilogue! {
    /// 16-bit output added to the residual that is there.
    DENSE_RESIDUAL, dense_residual, store_residual, "adds r6, #2"
}

macro_rules! store_sum {
    ($acc:literal, $to:literal) => {
        concat!("str ", $acc, ", ", $to, "\n")
    };
}

/// The multiplier is in `r5`.
macro_rules! store_score {
    ($acc:literal, $to:literal) => {
        concat!("lsl ", $acc, ", ", $acc, ", r9\nsmmulr ", $acc, ", ", $acc, ", r5\nstr ", $acc, ", ", $to, "\n")
    };
}

epilogue! {
    /// Plain sums of [`rows`].
    ROWS_I32, rows_i32, store_sum, "adds r6, #4"
}
epilogue! {
    /// Sums of [`rows`] shifted and multiplied.
    ROWS_SCORES, rows_scores, store_score, "adds r6, #4"
}
