//! One row of activations by the four channels of a panel: the loop for a single token, and for rows left over.
//!
//! # Register plan
//! `r0-r3` accumulators, `r4-r7` activations (8 K steps), `r8 r9` weights of one channel, `lr` widened weights,
//! `r11` weight pointer, `r12` activation pointer, `r10` end of the activations.
//!
//! # Instructions
//! Eight K steps of four channels: 1 `LDM`, 4 `LDRD`, 16 `SXTB16`, 16 `SMLAD` = 37 for 32 MACs; with the loop over 64
//! 298 for 256 (1.16). Per panel 19 more with 8-bit output, one more where the groups are not whole fours.
//!
//! # Stack
//! From `sp` on: epilogue, end and start of the activations, address of the start of a panel, shift, table. While the sums
//! of a panel are formed, `r4-r9` lie below; one `LDM` takes them back and jumps to the epilogue, one takes back what
//! the next panel starts from and jumps there. Nothing below `sp` is read: an interrupt may overwrite it.
//!
//! # Epilogues
//! As in [`super::block`]: one walk that jumps to the epilogue the frame names.

use core::arch::naked_asm;

/// A piece of code that is jumped to with the registers of the walk.
pub type Epilogue = unsafe extern "C" fn();

/// What a row routine works on.
#[repr(C)]
pub struct Frame {
    /// Left shift of accumulators.
    pub acc_shift: u32,
    /// Middle of the table (0: none), or the right shift of the residual.
    pub table_or_shift: usize,
    /// Biases of the first panel.
    pub bias: usize,
    /// First output.
    pub out: usize,
    /// Panels, at least one.
    pub panels: usize,
    /// Multipliers of the first panel.
    pub multipliers: usize,
    /// Zero point, or half a step of the residual.
    pub addend: i32,
    /// What becomes of the sums: [`I8`] and its siblings.
    pub epilogue: Epilogue,
    /// End of the widened activations, whole groups.
    pub x_end: usize,
    /// Weights less [`WEIGHT_BIAS`]; aligned to 4.
    pub weights: usize,
    /// Start of the widened activations.
    pub x: usize,
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
            "sxtb16 lr, r8\nsmlad ",
            $acc,
            ", r4, lr, ",
            $acc,
            "\n",
            "sxtb16 lr, r8, ror #8\nsmlad ",
            $acc,
            ", r5, lr, ",
            $acc,
            "\n",
            "sxtb16 lr, r9\nsmlad ",
            $acc,
            ", r6, lr, ",
            $acc,
            "\n",
            "sxtb16 lr, r9, ror #8\nsmlad ",
            $acc,
            ", r7, lr, ",
            $acc,
            "\n",
        )
    };
}

/// A group of 16 K steps of the four channels.
macro_rules! group {
    () => {
        concat!(
            "ldmia r12!, {{r4-r7}}\n",
            channel!("r0", "[r11, #8]"),
            channel!("r1", "[r11, #24]"),
            channel!("r2", "[r11, #40]"),
            channel!("r3", "[r11, #56]"),
            "ldmia r12!, {{r4-r7}}\n",
            channel!("r0", "[r11, #16]"),
            channel!("r1", "[r11, #32]"),
            channel!("r2", "[r11, #48]"),
            channel!("r3", "[r11, #64]!")
        )
    };
}

/// The start of a panel: its biases; what the epilogue works with, and where it is, goes to the stack.
macro_rules! start {
    () => {
        "ldmia r4!, {{r0-r3}}
         stmdb sp!, {{r4-r9}}
        "
    };
}

/// The start of a panel of some other number of groups than whole fours: it enters the loop at `$group`.
///
/// It takes 10 bytes and [`panels`] aligns it to 8, so that such starts lie 16 bytes apart.
macro_rules! start_at {
    ($group:literal) => {
        concat!(".balign 8\n", start!(), "b.w ", $group, "\n")
    };
}

/// All panels of the frame. The loop takes four groups a turn; other numbers enter it in the middle: with `n` groups
/// more than whole fours, a panel starts `16 n` bytes before `2:`.
///
/// # Safety
/// All addresses of the frame are valid for `panels` panels and the activations between `x` and `x_end`.
#[unsafe(naked)]
pub unsafe extern "C" fn panels(frame: *const Frame) {
    naked_asm!(
        core!(),
        "push {{r4-r11, lr}}",
        "sub sp, #24",
        "ldmia r0!, {{r2-r8}}",
        "ldmia r0, {{r9-r12}}",
        "strd r2, r3, [sp, #16]",
        "stm sp, {{r9, r10, r12}}",
        "sub r2, r10, r12",
        "and r2, r2, #96",
        "adr.w r1, 2f",
        "sub r1, r1, r2, lsr #1",
        "orr r1, r1, #1",
        "str r1, [sp, #12]",
        "bx r1",
        start_at!("5f"),
        start_at!("6f"),
        start_at!("7f"),
        ".balign 8",
        "2:",
        start!(),
        "3:",
        group!(),
        "5:",
        group!(),
        "6:",
        group!(),
        "7:",
        group!(),
        "cmp r12, r10",
        "bne 3b",
        "ldmia sp!, {{r4-r8, pc}}",
    )
}

/// An epilogue: sums in `r0-r3`, pointer to the biases to come in `r4`, output in `r5`, panels left in `r6`, multipliers
/// in `r7`, addend in `r8`; `r9`, `r10`, `r12` and `lr` are free. It leaves `r5` and `r7` at the next panel.
macro_rules! epilogue {
    ($(#[$meta:meta])* $public:ident, $name:ident, $($text:expr),+) => {
        #[unsafe(naked)]
        unsafe extern "C" fn $name() {
            naked_asm!(
                core!(),
                $($text,)+
                "subs r6, #1",
                "it ne",
                "ldmne sp, {{r9, r10, r12, pc}}",
                "add sp, #24",
                "pop {{r4-r11, pc}}",
            )
        }
        $(#[$meta])*
        pub const $public: Epilogue = $name;
    };
}

/// The sums shifted left.
macro_rules! shifted {
    () => {
        "ldr r9, [sp, #16]
         lsl r0, r0, r9
         lsl r1, r1, r9
         lsl r2, r2, r9
         lsl r3, r3, r9
        "
    };
}

/// The sums multiplied, with `$mul` being the instruction up to its operands and `$add` its last operand.
macro_rules! multiplied {
    ($mul:literal, $add:literal) => {
        concat!(
            "ldmia r7!, {{r9, r10, r12, lr}}\n",
            $mul,
            " r0, r0, r9",
            $add,
            "\n",
            $mul,
            " r1, r1, r10",
            $add,
            "\n",
            $mul,
            " r2, r2, r12",
            $add,
            "\n",
            $mul,
            " r3, r3, lr",
            $add,
            "\n"
        )
    };
}

macro_rules! saturated_i8 {
    () => {
        "ssat r0, #8, r0
         ssat r1, #8, r1
         ssat r2, #8, r2
         ssat r3, #8, r3
        "
    };
}

macro_rules! stored_i8 {
    () => {
        "strb r0, [r5], #1
         strb r1, [r5], #1
         strb r2, [r5], #1
         strb r3, [r5], #1
        "
    };
}

/// One output added to its residual; the shift of the residual is in `r10`.
macro_rules! residual {
    ($acc:literal) => {
        concat!(
            "ldrsh r9, [r5]\nadd r9, r9, r8\nasr r9, r9, r10\nldr r12, [r7], #4\nsmmlar ",
            $acc,
            ", ",
            $acc,
            ", r12, r9\nssat ",
            $acc,
            ", #16, ",
            $acc,
            "\nstrh ",
            $acc,
            ", [r5], #2\n"
        )
    };
}

epilogue! {
    /// Sums of all channels as `i32`.
    I32, row_i32, "stmia r5!, {{r0-r3}}"
}
epilogue! {
    /// 8-bit output without a table; `acc_shift` is 0.
    I8, row_i8, multiplied!("smmlar", ", r8"), saturated_i8!(), stored_i8!()
}
epilogue! {
    /// 8-bit output with any shift, through a table if there is one.
    I8_TABLE, row_i8_table,
    shifted!(),
    multiplied!("smmlar", ", r8"),
    saturated_i8!(),
    "ldr r10, [sp, #20]",
    "cmp r10, #0",
    "itttt ne",
    "ldrbne r0, [r10, r0]",
    "ldrbne r1, [r10, r1]",
    "ldrbne r2, [r10, r2]",
    "ldrbne r3, [r10, r3]",
    stored_i8!()
}
epilogue! {
    /// 16-bit output.
    I16, row_i16,
    shifted!(),
    multiplied!("smmulr", ""),
    "ssat r0, #16, r0",
    "ssat r1, #16, r1",
    "ssat r2, #16, r2",
    "ssat r3, #16, r3",
    "strh r0, [r5], #2",
    "strh r1, [r5], #2",
    "strh r2, [r5], #2",
    "strh r3, [r5], #2"
}
epilogue! {
    /// 16-bit output added to the residual that is there.
    RESIDUAL, row_residual,
    shifted!(),
    "ldr r10, [sp, #20]",
    residual!("r0"),
    residual!("r1"),
    residual!("r2"),
    residual!("r3")
}
