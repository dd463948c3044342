//! One row of activations by the four channels of a panel: the loop for a single token, and for rows left over.
//!
//! # Register plan
//! `r0-r3` accumulators, `r4-r7` activations (8 K steps), `r8 r9` weights of one channel, `r10` widened weights,
//! `r11` weight pointer, `r12` activation pointer, `lr` end of the activations.
//!
//! # Instructions
//! Eight K steps of four channels: 1 `LDM`, 4 `LDRD`, 16 `SXTB16`, 16 `SMLAD` = 37 for 32 MACs; with the loop over 16
//! 76 for 64 (1.19). Per panel 20 more with the 8-bit epilogue.

use core::arch::naked_asm;

/// What a row routine works on.
#[repr(C)]
pub struct Frame {
    /// Biases of the first panel.
    pub bias: usize,
    /// First output.
    pub out: usize,
    /// Panels.
    pub panels: usize,
    /// Multipliers of the first panel.
    pub multipliers: usize,
    /// Zero point.
    pub zero_point: i32,
    /// Start of the widened activations.
    pub x: usize,
    /// Weights less [`WEIGHT_BIAS`]; aligned to 4.
    pub weights: usize,
    /// End of the widened activations, whole groups.
    pub x_end: usize,
}

/// The loop addresses weights from 8 bytes below, so that its last load steps to the next group.
pub const WEIGHT_BIAS: usize = 8;

/// Eight K steps of one channel with the activations `r4-r7`.
macro_rules! channel {
    ($acc:literal, $weights:literal) => {
        concat!(
            "ldrd r8, r9, ",
            $weights,
            "\n",
            "sxtb16 r10, r8\nsmlad ",
            $acc,
            ", r4, r10, ",
            $acc,
            "\n",
            "sxtb16 r10, r8, ror #8\nsmlad ",
            $acc,
            ", r5, r10, ",
            $acc,
            "\n",
            "sxtb16 r10, r9\nsmlad ",
            $acc,
            ", r6, r10, ",
            $acc,
            "\n",
            "sxtb16 r10, r9, ror #8\nsmlad ",
            $acc,
            ", r7, r10, ",
            $acc,
            "\n",
        )
    };
}

macro_rules! row {
    ($(#[$meta:meta])* $name:ident, $($epilogue:literal),+) => {
        $(#[$meta])*
        ///
        /// # Safety
        /// All addresses of the frame are valid for `panels` panels and the activations between `x` and `x_end`.
        #[unsafe(naked)]
        pub unsafe extern "C" fn $name(frame: *const Frame) {
            naked_asm!(
                core!(),
                "push {{r4-r11, lr}}",
                "sub sp, #28",
                "ldmia r0!, {{r4-r8, r12}}",
                "stm sp, {{r4-r8, r12}}",
                "ldmia r0, {{r11, lr}}",
                "2:",
                "ldmia r4!, {{r0-r3}}",
                "stm sp, {{r4-r7}}",
                "3:",
                "ldmia r12!, {{r4-r7}}",
                channel!("r0", "[r11, #8]"),
                channel!("r1", "[r11, #24]"),
                channel!("r2", "[r11, #40]"),
                channel!("r3", "[r11, #56]"),
                "ldmia r12!, {{r4-r7}}",
                channel!("r0", "[r11, #16]"),
                channel!("r1", "[r11, #32]"),
                channel!("r2", "[r11, #48]"),
                channel!("r3", "[r11, #64]!"),
                "cmp r12, lr",
                "bne 3b",
                "ldm sp, {{r4-r8, r12}}",
                $($epilogue,)+
                "subs r6, #1",
                "bne 2b",
                "add sp, #28",
                "pop {{r4-r11, pc}}",
            )
        }
    };
}

row! {
    /// Sums of all channels as `i32`.
    row_i32, "stmia r5!, {{r0-r3}}"
}
row! {
    /// 8-bit output without a table; `acc_shift` is 0.
    row_i8,
    "ldmia r7!, {{r9, r10}}",
    "smmlar r0, r0, r9, r8",
    "smmlar r1, r1, r10, r8",
    "ldmia r7!, {{r9, r10}}",
    "smmlar r2, r2, r9, r8",
    "smmlar r3, r3, r10, r8",
    "ssat r0, #8, r0",
    "ssat r1, #8, r1",
    "ssat r2, #8, r2",
    "ssat r3, #8, r3",
    "strb r0, [r5]",
    "strb r1, [r5, #1]",
    "strb r2, [r5, #2]",
    "strb r3, [r5, #3]",
    "adds r5, #4"
}
