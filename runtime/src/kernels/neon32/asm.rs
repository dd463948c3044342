//! Functions in assembly: stable Rust has no NEON intrinsics for 32-bit Arm, and the target has NEON switched off, so that no
//! operand may be in its registers. Every function takes pointers and numbers in R0 to R3.

/// Lines of assembly as one string for `global_asm!`.
macro_rules! lines {
    ($($line:expr),* $(,)?) => {
        concat!($($line, "\n"),*)
    };
}

/// The function `$name`. By the procedure call standard R0 to R3, R12, D0 to D7 and D16 to D31 are its own.
macro_rules! function {
    ($name:literal, $($line:expr),* $(,)?) => {
        core::arch::global_asm!(concat!(
            ".pushsection .text.", $name, ", \"ax\", %progbits\n",
            ".syntax unified\n.arch armv7-a\n.fpu neon\n.arm\n.p2align 4\n",
            ".global ", $name, "\n.hidden ", $name, "\n.type ", $name, ", %function\n",
            $name, ":\n",
            $($line, "\n",)*
            ".size ", $name, ", . - ", $name, "\n",
            ".popsection\n",
        ));
    };
}

pub(super) use {function, lines};
