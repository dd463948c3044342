//! Four rows of activations by four channels of weights at a time.
//!
//! # Register plan
//! `s0-s11 t3-t6` accumulators (four rows of each channel in turn), `a2-a5` weights, `a6` activation, `a7` product, `a0`
//! activation pointer, `a1` weight pointer (plain rows: `a1 t0 t1 t2`), `ra` end of the activations; dense: `t0` end of a
//! group. The frame's address is at `sp`.
//!
//! # Instructions
//! One K step of four rows by four channels: 8 loads, 16 `MUL`, 16 `ADD` = 40 for 16 MACs (2.5); three more for the loop
//! over four (plain rows: six). One row by four channels: 5 loads, 4 `MUL`, 4 `ADD` = 13 for 4 MACs.

use crate::kernels::scalar::{Block, Frame};
use core::arch::naked_asm;

/// Assembly outside a function does not see the features of the crate.
macro_rules! core {
    () => {
        ".option push
         .option arch, +m
        "
    };
}

/// The loops by `MUL` and `ADD`.
pub struct MulAdd;

impl Block for MulAdd {
    const CHANNELS: usize = 4;

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

/// The activation of a row at `$x` by the weights of four channels, into the accumulators of that row.
macro_rules! multiply {
    ($x:literal, $a:literal, $b:literal, $c:literal, $d:literal) => {
        concat!(
            "lh a6, ",
            $x,
            "(a0)\n",
            "mul a7, a6, a2\n",
            "add ",
            $a,
            ", ",
            $a,
            ", a7\n",
            "mul a7, a6, a3\n",
            "add ",
            $b,
            ", ",
            $b,
            ", a7\n",
            "mul a7, a6, a4\n",
            "add ",
            $c,
            ", ",
            $c,
            ", a7\n",
            "mul a6, a6, a5\n",
            "add ",
            $d,
            ", ",
            $d,
            ", a6\n",
        )
    };
}

/// Four rows at `$x0..$x3` by the four weights.
macro_rules! rows {
    ($x0:literal, $x1:literal, $x2:literal, $x3:literal) => {
        concat!(
            multiply!($x0, "s0", "s4", "s8", "t3"),
            multiply!($x1, "s1", "s5", "s9", "t4"),
            multiply!($x2, "s2", "s6", "s10", "t5"),
            multiply!($x3, "s3", "s7", "s11", "t6"),
        )
    };
}

/// The weights of a K step of a panel.
macro_rules! panel {
    ($w0:literal, $w1:literal, $w2:literal, $w3:literal) => {
        concat!("lb a2, ", $w0, "(a1)\n", "lb a3, ", $w1, "(a1)\n", "lb a4, ", $w2, "(a1)\n", "lb a5, ", $w3, "(a1)\n",)
    };
}

/// The weights of a K step of plain rows.
macro_rules! plain {
    ($w:literal) => {
        concat!("lb a2, ", $w, "(a1)\n", "lb a3, ", $w, "(t0)\n", "lb a4, ", $w, "(t1)\n", "lb a5, ", $w, "(t2)\n",)
    };
}

/// Saves what is the caller's and loads the accumulators; the address of the sums is in `a2`.
macro_rules! enter {
    () => {
        "addi sp, sp, -64
         sw a0, 0(sp)
         sw ra, 4(sp)
         sw s0, 8(sp)
         sw s1, 12(sp)
         sw s2, 16(sp)
         sw s3, 20(sp)
         sw s4, 24(sp)
         sw s5, 28(sp)
         sw s6, 32(sp)
         sw s7, 36(sp)
         sw s8, 40(sp)
         sw s9, 44(sp)
         sw s10, 48(sp)
         sw s11, 52(sp)
         lw a2, 0(a0)
         lw s0, 0(a2)
         lw s1, 16(a2)
         lw s2, 32(a2)
         lw s3, 48(a2)
         lw s4, 4(a2)
         lw s5, 20(a2)
         lw s6, 36(a2)
         lw s7, 52(a2)
         lw s8, 8(a2)
         lw s9, 24(a2)
         lw s10, 40(a2)
         lw s11, 56(a2)
         lw t3, 12(a2)
         lw t4, 28(a2)
         lw t5, 44(a2)
         lw t6, 60(a2)
        "
    };
}

/// Stores the accumulators, restores what is the caller's, returns.
macro_rules! leave {
    () => {
        "lw a0, 0(sp)
         lw a2, 0(a0)
         sw s0, 0(a2)
         sw s1, 16(a2)
         sw s2, 32(a2)
         sw s3, 48(a2)
         sw s4, 4(a2)
         sw s5, 20(a2)
         sw s6, 36(a2)
         sw s7, 52(a2)
         sw s8, 8(a2)
         sw s9, 24(a2)
         sw s10, 40(a2)
         sw s11, 56(a2)
         sw t3, 12(a2)
         sw t4, 28(a2)
         sw t5, 44(a2)
         sw t6, 60(a2)
         lw ra, 4(sp)
         lw s0, 8(sp)
         lw s1, 12(sp)
         lw s2, 16(sp)
         lw s3, 20(sp)
         lw s4, 24(sp)
         lw s5, 28(sp)
         lw s6, 32(sp)
         lw s7, 36(sp)
         lw s8, 40(sp)
         lw s9, 44(sp)
         lw s10, 48(sp)
         lw s11, 52(sp)
         addi sp, sp, 64
         ret
        "
    };
}

/// [`Block::dense`].
#[unsafe(naked)]
unsafe extern "C" fn dense(frame: *const Frame) {
    naked_asm!(
        core!(),
        enter!(),
        "lw a1, 12(a0)",
        "lw ra, 8(a0)",
        "lw a0, 4(a0)",
        "2:",
        "addi t0, a1, 16",
        "3:",
        panel!("0", "16", "32", "48"),
        rows!("0", "2", "4", "6"),
        panel!("1", "17", "33", "49"),
        rows!("8", "10", "12", "14"),
        panel!("2", "18", "34", "50"),
        rows!("16", "18", "20", "22"),
        panel!("3", "19", "35", "51"),
        rows!("24", "26", "28", "30"),
        "addi a1, a1, 4",
        "addi a0, a0, 32",
        "bne a1, t0, 3b",
        "addi a1, a1, 48",
        "bne a0, ra, 2b",
        leave!(),
        ".option pop",
    )
}

/// [`Block::rows`].
#[unsafe(naked)]
unsafe extern "C" fn rows(frame: *const Frame) {
    naked_asm!(
        core!(),
        enter!(),
        "lw a1, 12(a0)",
        "lw t0, 16(a0)",
        "lw t1, 20(a0)",
        "lw t2, 24(a0)",
        "lw ra, 8(a0)",
        "lw a0, 4(a0)",
        "2:",
        plain!("0"),
        rows!("0", "2", "4", "6"),
        plain!("1"),
        rows!("8", "10", "12", "14"),
        plain!("2"),
        rows!("16", "18", "20", "22"),
        plain!("3"),
        rows!("24", "26", "28", "30"),
        "addi a1, a1, 4",
        "addi t0, t0, 4",
        "addi t1, t1, 4",
        "addi t2, t2, 4",
        "addi a0, a0, 32",
        "bne a0, ra, 2b",
        leave!(),
        ".option pop",
    )
}

/// [`Block::row`].
#[unsafe(naked)]
unsafe extern "C" fn row(frame: *const Frame) {
    /// The activation at `$x` by the weights of the four channels at `$w0..$w3`.
    macro_rules! step {
        ($x:literal, $w0:literal, $w1:literal, $w2:literal, $w3:literal) => {
            concat!(
                "lh a6, ",
                $x,
                "(a0)\n",
                panel!($w0, $w1, $w2, $w3),
                "mul a2, a2, a6\n",
                "mul a3, a3, a6\n",
                "mul a4, a4, a6\n",
                "mul a5, a5, a6\n",
                "add t3, t3, a2\n",
                "add t4, t4, a3\n",
                "add t5, t5, a4\n",
                "add t6, t6, a5\n",
            )
        };
    }
    naked_asm!(
        core!(),
        "lw t1, 0(a0)",
        "lw a1, 12(a0)",
        "lw t2, 8(a0)",
        "lw a0, 4(a0)",
        "lw t3, 0(t1)",
        "lw t4, 4(t1)",
        "lw t5, 8(t1)",
        "lw t6, 12(t1)",
        "2:",
        "addi t0, a1, 16",
        "3:",
        step!("0", "0", "16", "32", "48"),
        step!("2", "1", "17", "33", "49"),
        step!("4", "2", "18", "34", "50"),
        step!("6", "3", "19", "35", "51"),
        "addi a1, a1, 4",
        "addi a0, a0, 8",
        "bne a1, t0, 3b",
        "addi a1, a1, 48",
        "bne a0, t2, 2b",
        "sw t3, 0(t1)",
        "sw t4, 4(t1)",
        "sw t5, 8(t1)",
        "sw t6, 12(t1)",
        "ret",
        ".option pop",
    )
}
