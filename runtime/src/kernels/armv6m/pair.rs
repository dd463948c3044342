//! Two rows of activations by one channel of weights at a time, for cores with eight registers that can multiply.
//!
//! Activations are widened once to 32 bits, rows interleaved, so that one `LDM` brings the values of both rows; `MULS`
//! overwrites them, so no copy is needed. Accumulators are in high registers, which `ADD` reaches.
//!
//! # Register plan
//! `r0 r1` activations, `r2` word of weights, `r3` one weight, `r4` output pointer, `r5` activation pointer, `r6` weight
//! pointer, `r7` bias pointer; `r8 r9` accumulators, `r10` end of the activations (whole groups), `r11` end of the
//! activations, `r12` their start, `lr` step to the next channel; the counter is at `sp`.
//!
//! # Instructions
//! Four K steps of two rows: 1 `LDR`, 6 to extract the weights, 4 `LDM`, 8 `MULS`, 8 `ADD` = 27 for 8 MACs (3.4); three
//! more for the loop over 16; 20 per channel.

use core::arch::naked_asm;

/// What a pair routine works on.
#[repr(C)]
pub struct Frame {
    /// First sum: two rows of a channel lie side by side.
    pub out: usize,
    /// Start of the widened activations.
    pub x: usize,
    /// First weights, aligned to 4.
    pub weights: usize,
    /// Bias of the first channel (dense only).
    pub bias: usize,
    /// Minus the number of channels; dense: whole panels, or one incomplete panel.
    pub channels: i32,
    /// End of the activations in whole groups of 16.
    pub x_end_groups: usize,
    /// End of the activations.
    pub x_end: usize,
    /// From the end of a channel's weights to the next channel.
    pub next_channel: isize,
}

/// The weight in `r3` by both rows.
macro_rules! multiply {
    () => {
        "ldmia r5!, {{r0, r1}}
         muls r0, r3, r0
         add r8, r0
         muls r1, r3, r1
         add r9, r1
        "
    };
}

/// Four K steps with the weights at `[r6, #$offset]`.
macro_rules! step {
    ($offset:literal) => {
        concat!(
            "ldr r2, [r6, #",
            $offset,
            "]\n",
            "sxtb r3, r2\n",
            multiply!(),
            "lsls r3, r2, #16\nasrs r3, r3, #24\n",
            multiply!(),
            "lsls r3, r2, #8\nasrs r3, r3, #24\n",
            multiply!(),
            "asrs r3, r2, #24\n",
            multiply!(),
        )
    };
}

macro_rules! enter {
    () => {
        "push {{r4-r7, lr}}
         mov r1, r8
         mov r2, r9
         mov r3, r10
         mov r4, r11
         push {{r1-r4}}
         sub sp, #4
         mov r1, r0
         adds r1, #16
         ldmia r1!, {{r2-r5}}
         str r2, [sp]
         mov r10, r3
         mov r11, r4
         mov lr, r5
         ldmia r0!, {{r4-r7}}
         mov r12, r5
        "
    };
}

macro_rules! leave {
    () => {
        "add sp, #4
         pop {{r1-r4}}
         mov r8, r1
         mov r9, r2
         mov r10, r3
         mov r11, r4
         pop {{r4-r7, pc}}
        "
    };
}

/// Sums of a dense layer, bias included.
///
/// # Safety
/// All addresses of the frame are valid for two rows of `channels` sums, panels of weights, biases, and the widened
/// activations of two rows.
#[unsafe(naked)]
pub unsafe extern "C" fn dense(frame: *const Frame) {
    naked_asm!(
        enter!(),
        "2:",
        "ldmia r7!, {{r0}}",
        "mov r8, r0",
        "mov r9, r0",
        "mov r5, r12",
        "3:",
        step!("0"),
        step!("4"),
        step!("8"),
        step!("12"),
        "adds r6, #64",
        "cmp r5, r10",
        "bne 3b",
        "mov r0, r8",
        "mov r1, r9",
        "stmia r4!, {{r0, r1}}",
        "add r6, lr",
        "ldr r0, [sp]",
        "adds r0, #1",
        "str r0, [sp]",
        "beq 4f",
        "lsls r1, r0, #30",
        "beq 5f",
        "b 2b",
        "5:",
        // From the panel's fifth channel, which it has not, to the next panel.
        "mov r1, lr",
        "subs r6, r6, r1",
        "subs r6, #48",
        "b 2b",
        "4:",
        leave!(),
    )
}

/// Sums of two rows with plain rows of bytes.
///
/// # Safety
/// As for [`dense`], without bias; rows of bytes are aligned to 4 and readable for all K steps, whole words.
#[unsafe(naked)]
pub unsafe extern "C" fn rows(frame: *const Frame) {
    naked_asm!(
        enter!(),
        "2:",
        "movs r0, #0",
        "mov r8, r0",
        "mov r9, r0",
        "mov r5, r12",
        "cmp r5, r10",
        "beq 4f",
        "3:",
        step!("0"),
        step!("4"),
        step!("8"),
        step!("12"),
        "adds r6, #16",
        "cmp r5, r10",
        "bne 3b",
        "4:",
        "cmp r5, r11",
        "beq 6f",
        "5:",
        step!("0"),
        "adds r6, #4",
        "cmp r5, r11",
        "bne 5b",
        "6:",
        "mov r0, r8",
        "mov r1, r9",
        "stmia r4!, {{r0, r1}}",
        "add r6, lr",
        "ldr r0, [sp]",
        "adds r0, #1",
        "str r0, [sp]",
        "beq 7f",
        "b 2b",
        "7:",
        leave!(),
    )
}
