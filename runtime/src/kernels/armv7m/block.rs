//! Four rows of activations by two channels of weights at a time, by `MLA`.
//!
//! # Register plan
//! `r0-r7` accumulators, both channels of each row in turn, `r8` activation, `r9 r10` weights, `r11` activation pointer,
//! `r12` weight pointer, `lr` end of the activations or the second weight pointer. The frame's address is at `sp`.
//!
//! # Instructions
//! One K step of four rows by two channels: 2 loads of weights, 4 of activations, 8 `MLA` = 14 for 8 MACs (1.75); three
//! more for the loop over 16. One row by four channels: 5 loads, 4 `MLA` = 9 for 4 MACs.

use crate::kernels::scalar::{Block, Frame};
use core::arch::naked_asm;

/// The loops by `MLA`.
pub struct Mla;

impl Block for Mla {
    const CHANNELS: usize = 2;

    #[inline(always)]
    unsafe fn dense(frame: &Frame) {
        // SAFETY: the caller keeps the contract.
        unsafe { dense(frame) }
    }

    #[inline(always)]
    unsafe fn rows(frame: &Frame) {
        // SAFETY: the caller keeps the contract.
        unsafe { rows(frame) }
    }

    #[inline(always)]
    unsafe fn row(frame: &Frame) {
        // SAFETY: the caller keeps the contract.
        unsafe { row(frame) }
    }
}

/// Both weights by the activations of four rows.
macro_rules! multiply {
    () => {
        "ldrsh r8, [r11], #2
         mla r0, r8, r9, r0
         mla r1, r8, r10, r1
         ldrsh r8, [r11], #2
         mla r2, r8, r9, r2
         mla r3, r8, r10, r3
         ldrsh r8, [r11], #2
         mla r4, r8, r9, r4
         mla r5, r8, r10, r5
         ldrsh r8, [r11], #2
         mla r6, r8, r9, r6
         mla r7, r8, r10, r7
        "
    };
}

/// Saves what is the caller's and loads the accumulators: `r0` is the frame.
macro_rules! enter {
    () => {
        "push {{r4-r11, lr}}
         push {{r0}}
         ldr r11, [r0, #4]
         ldr r12, [r0, #12]
         ldr r8, [r0]
         ldrd r2, r3, [r8, #16]
         ldrd r4, r5, [r8, #32]
         ldrd r6, r7, [r8, #48]
        "
    };
}

/// Stores the accumulators and returns.
macro_rules! leave {
    () => {
        "pop {{r8}}
         ldr r8, [r8]
         strd r0, r1, [r8]
         strd r2, r3, [r8, #16]
         strd r4, r5, [r8, #32]
         strd r6, r7, [r8, #48]
         pop {{r4-r11, pc}}
        "
    };
}

/// [`Block::dense`].
#[unsafe(naked)]
unsafe extern "C" fn dense(frame: *const Frame) {
    naked_asm!(
        enter!(),
        "ldr lr, [r0, #8]",
        "ldrd r0, r1, [r8]",
        "2:",
        ".rept 16",
        "ldrsb r10, [r12, #16]",
        "ldrsb r9, [r12], #1",
        multiply!(),
        ".endr",
        "add r12, r12, #48",
        "cmp r11, lr",
        "bne.w 2b",
        leave!(),
    )
}

/// [`Block::rows`].
#[unsafe(naked)]
unsafe extern "C" fn rows(frame: *const Frame) {
    naked_asm!(
        enter!(),
        "ldr lr, [r0, #16]",
        "ldrd r0, r1, [r8]",
        "2:",
        ".rept 4",
        "ldrsb r9, [r12], #1",
        "ldrsb r10, [lr], #1",
        multiply!(),
        ".endr",
        "ldr r8, [sp]",
        "ldr r8, [r8, #8]",
        "cmp r11, r8",
        "bne.w 2b",
        leave!(),
    )
}

/// [`Block::row`].
#[unsafe(naked)]
unsafe extern "C" fn row(frame: *const Frame) {
    naked_asm!(
        "push {{r4-r9, lr}}",
        "mov r12, r0",
        "ldr r6, [r12, #4]",
        "ldr r7, [r12, #8]",
        "ldr r8, [r12, #12]",
        "ldr r9, [r12]",
        "ldmia r9, {{r0-r3}}",
        "2:",
        ".rept 16",
        "ldrsh r4, [r6], #2",
        "ldrsb r5, [r8, #16]",
        "ldrsb r12, [r8, #32]",
        "mla r1, r4, r5, r1",
        "ldrsb r5, [r8, #48]",
        "mla r2, r4, r12, r2",
        "ldrsb r12, [r8], #1",
        "mla r3, r4, r5, r3",
        "mla r0, r4, r12, r0",
        ".endr",
        "add r8, r8, #48",
        "cmp r6, r7",
        "bne.w 2b",
        "stmia r9, {{r0-r3}}",
        "pop {{r4-r9, pc}}",
    )
}
