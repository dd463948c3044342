//! One row of activations: the loops for a single token, in dense layers and over its cache.
//!
//! # Register plan
//! Dense: `r0-r3` activations in 32 bits, `r4` word of weights, `r5` one weight, `r6` weight pointer, `r7` activation pointer;
//! `r8-r11` accumulators of the four channels of a panel, `r12` end of the activations, `lr` their start; at `sp` output,
//! biases and panels left. Scores: `r8` sum, `r9` end of the scores, `r10` end of the query, `r11` its start, `r12` from the end
//! of a key to the next, `lr` scores. Values: `r0` exponential, `r4 r5` values, `r6` value pointer, `r7` exponentials, `r8-r11`
//! sums of four columns, `r12` bytes between positions, `lr` end of the exponentials.
//!
//! # Instructions
//! Four K steps of four channels: 1 `LDM`, 4 `LDR`, 24 to extract the weights, 16 `MULS`, 16 `ADD` = 61 for 16 MACs (3.8), against
//! 6.8 where [`super::pair`] computes the row twice. A score of an eight-wide head 42, a position of four columns of values 20.

use core::arch::naked_asm;

/// What [`dense`] works on.
#[repr(C)]
pub struct Dense {
    /// First sum; eight bytes between sums.
    pub out: usize,
    /// Biases of the first panel.
    pub bias: usize,
    /// Panels, at least one.
    pub panels: usize,
    /// First weights, aligned to 4.
    pub weights: usize,
    /// Start of the widened activations.
    pub x: usize,
    /// End of the widened activations, whole groups.
    pub x_end: usize,
}

/// Four weights in `r4` by `r0-r3` into an accumulator.
macro_rules! word {
    ($acc:literal) => {
        concat!(
            "sxtb r5, r4\nmuls r5, r0, r5\nadd ",
            $acc,
            ", r5\nlsls r5, r4, #16\nasrs r5, r5, #24\nmuls r5, r1, r5\nadd ",
            $acc,
            ", r5\nlsls r5, r4, #8\nasrs r5, r5, #24\nmuls r5, r2, r5\nadd ",
            $acc,
            ", r5\nasrs r4, r4, #24\nmuls r4, r3, r4\nadd ",
            $acc,
            ", r4\n"
        )
    };
}

/// Four K steps of a panel, `$a` to `$d` bytes into a group.
macro_rules! step {
    ($a:literal, $b:literal, $c:literal, $d:literal) => {
        concat!(
            "ldmia r7!, {{r0-r3}}\nldr r4, [r6, #",
            $a,
            "]\n",
            word!("r8"),
            "ldr r4, [r6, #",
            $b,
            "]\n",
            word!("r9"),
            "ldr r4, [r6, #",
            $c,
            "]\n",
            word!("r10"),
            "ldr r4, [r6, #",
            $d,
            "]\n",
            word!("r11"),
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
        "
    };
}

macro_rules! leave {
    () => {
        "pop {{r1-r4}}
         mov r8, r1
         mov r9, r2
         mov r10, r3
         mov r11, r4
         pop {{r4-r7, pc}}
        "
    };
}

/// Sums of a row of a dense layer with whole panels, bias included.
///
/// # Safety
/// All addresses of the frame are valid for `panels` panels of sums, biases and weights, and for the activations.
#[unsafe(naked)]
pub unsafe extern "C" fn dense(frame: *const Dense) {
    naked_asm!(
        enter!(),
        "sub sp, #12",
        "ldmia r0!, {{r1-r3, r6}}",
        "str r1, [sp]",
        "str r2, [sp, #4]",
        "str r3, [sp, #8]",
        "ldmia r0!, {{r1, r2}}",
        "mov lr, r1",
        "mov r12, r2",
        "2:",
        "ldr r4, [sp, #4]",
        "ldmia r4!, {{r0-r3}}",
        "str r4, [sp, #4]",
        "mov r8, r0",
        "mov r9, r1",
        "mov r10, r2",
        "mov r11, r3",
        "mov r7, lr",
        "3:",
        step!("0", "16", "32", "48"),
        step!("4", "20", "36", "52"),
        step!("8", "24", "40", "56"),
        step!("12", "28", "44", "60"),
        "adds r6, #64",
        "cmp r7, r12",
        "beq 4f",
        "b 3b",
        "4:",
        "ldr r4, [sp]",
        "mov r0, r8",
        "str r0, [r4]",
        "mov r0, r9",
        "str r0, [r4, #8]",
        "mov r0, r10",
        "str r0, [r4, #16]",
        "mov r0, r11",
        "str r0, [r4, #24]",
        "adds r4, #32",
        "str r4, [sp]",
        "ldr r0, [sp, #8]",
        "subs r0, #1",
        "str r0, [sp, #8]",
        "beq 5f",
        "b 2b",
        "5:",
        "add sp, #12",
        leave!(),
    )
}

/// What [`scores`] works on.
#[repr(C)]
pub struct Scores {
    /// First key, aligned to 4.
    pub keys: usize,
    /// Start of the widened query.
    pub query: usize,
    /// End of the scores.
    pub end: usize,
    /// End of the widened query, whole words of keys.
    pub query_end: usize,
    /// From the end of a key to the next, a multiple of 4.
    pub next: isize,
    /// First score.
    pub out: usize,
}

/// Products of a query with all keys.
///
/// # Safety
/// All addresses of the frame are valid for at least one key and as many scores.
#[unsafe(naked)]
pub unsafe extern "C" fn scores(frame: *const Scores) {
    naked_asm!(
        enter!(),
        "ldmia r0!, {{r1-r5}}",
        "ldr r0, [r0]",
        "mov r6, r1",
        "mov r11, r2",
        "mov r9, r3",
        "mov r10, r4",
        "mov r12, r5",
        "mov lr, r0",
        "2:",
        "movs r0, #0",
        "mov r8, r0",
        "mov r7, r11",
        "3:",
        "ldmia r7!, {{r0-r3}}",
        "ldmia r6!, {{r4}}",
        word!("r8"),
        "cmp r7, r10",
        "bne 3b",
        "mov r0, r8",
        "mov r1, lr",
        "stmia r1!, {{r0}}",
        "mov lr, r1",
        "add r6, r12",
        "cmp r1, r9",
        "bne 2b",
        leave!(),
    )
}

/// What [`values`] works on.
#[repr(C)]
pub struct Values {
    /// First value of four columns, aligned to 4.
    pub values: usize,
    /// First exponential, a byte.
    pub exps: usize,
    /// End of the exponentials.
    pub end: usize,
    /// Bytes between positions, a multiple of 4.
    pub stride: usize,
    /// First of four sums.
    pub out: usize,
}

/// Sums of four columns, weighted by bytes.
///
/// # Safety
/// All addresses of the frame are valid for at least one exponential, as many positions, and four sums.
#[unsafe(naked)]
pub unsafe extern "C" fn values(frame: *const Values) {
    naked_asm!(
        enter!(),
        "ldmia r0!, {{r1-r5}}",
        "push {{r5}}",
        "mov r6, r1",
        "mov r7, r2",
        "mov lr, r3",
        "mov r12, r4",
        "movs r0, #0",
        "mov r8, r0",
        "mov r9, r0",
        "mov r10, r0",
        "mov r11, r0",
        "2:",
        "ldrb r0, [r7]",
        "adds r7, #1",
        "ldr r4, [r6]",
        "add r6, r12",
        "sxtb r5, r4",
        "muls r5, r0, r5",
        "add r8, r5",
        "lsls r5, r4, #16",
        "asrs r5, r5, #24",
        "muls r5, r0, r5",
        "add r9, r5",
        "lsls r5, r4, #8",
        "asrs r5, r5, #24",
        "muls r5, r0, r5",
        "add r10, r5",
        "asrs r4, r4, #24",
        "muls r4, r0, r4",
        "add r11, r4",
        "cmp r7, lr",
        "bne 2b",
        "pop {{r4}}",
        "mov r0, r8",
        "mov r1, r9",
        "mov r2, r10",
        "mov r3, r11",
        "stmia r4!, {{r0-r3}}",
        leave!(),
    )
}
