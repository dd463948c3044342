//! Rows of scores, exponentials and weighted values.
//!
//! # Register plan
//! Exponentials: score and value, shift, pointers to scores, output and table, maximum, sum, counter. In turns of four: `r0-r3`
//! scores and values, `r4` scores, `r5` output, `r6` end of the scores, `r7` what distances are below, `r8` table, `r9` sum, `r10`
//! shift, `r11` what sums are made with. Maximum: four scores, pointer, maximum, counter.
//!
//! # Instructions per element
//! Exponential: 3.75 for the maximum (a quarter of `LDM`, counter and branch, `CMP`, `IT`, `MOV`), 11 for the value (load,
//! `QSUB`, `USAT`, `UXTB`, `LDRH` of the table, `LSRS`, `ADC`, store, sum, counter, branch); 8 in turns of four (an `LDM`, three
//! `ORR`, a store, the sum by `USADA8` and two for the branch serve four). Weighted values: load, `SMMUL`, `ASRS`, `ADC`, `SSAT`,
//! store.

use super::ins;
use crate::arith::exp::{self, EXP2_FRACTION, RowScale};
use crate::kernels::{ExpRow, ScoreScale};
use core::arch::{asm, naked_asm};

/// [`crate::kernels::Kernels::scale_scores`].
pub fn scale_scores(scores: &mut [i32], scale: ScoreScale) {
    for s in scores {
        *s = ins::smmulr(*s << scale.acc_shift, scale.multiplier);
    }
}

/// From the 16-bit exponential to the 8-bit one, added to the distance in its units: the shift that rounds.
const U8_STEP: i32 = 7 << 8;

/// Maximum score.
pub fn maximum(scores: &[i32]) -> i32 {
    let (fours, tail) = scores.as_chunks::<4>();
    let mut max = tail.iter().copied().fold(i32::MIN, i32::max);
    if !fours.is_empty() {
        // SAFETY: the loop reads the chunks.
        unsafe {
            asm!(
                "2:",
                "ldmia {s}!, {{r0-r3}}",
                "cmp r0, {max}",
                "it gt",
                "movgt {max}, r0",
                "cmp r1, {max}",
                "it gt",
                "movgt {max}, r1",
                "cmp r2, {max}",
                "it gt",
                "movgt {max}, r2",
                "cmp r3, {max}",
                "it gt",
                "movgt {max}, r3",
                "subs {count}, #1",
                "bne 2b",
                s = inout(reg) fours.as_ptr() => _, count = inout(reg) fours.len() => _, max = inout(reg) max,
                out("r0") _, out("r1") _, out("r2") _, out("r3") _, options(nostack, readonly)
            );
        }
    }
    max
}

macro_rules! exponentials {
    ($(#[$meta:meta])* $name:ident, $out:ty, $($store:literal),+) => {
        $(#[$meta])*
        fn $name(scores: &[i32], top: i32, out: &mut [$out]) -> u32 {
            let len = scores.len().min(out.len());
            let mut sum = 0;
            if len > 0 {
                // SAFETY: the loop reads `len` scores and writes `len` exponentials; a byte cannot leave 256 entries of
                // the table. A distance beyond i32 saturates: with 31 octaves either way the value is 0.
                unsafe {
                    asm!(
                        core!(),
                        "2:",
                        "ldr {e}, [{s}], #4",
                        "qsub {e}, {top}, {e}",
                        "usat {whole}, #5, {e}, asr #8",
                        "uxtb {e}, {e}",
                        "ldrh {e}, [{table}, {e}, lsl #1]",
                        "lsrs {e}, {e}, {whole}",
                        $($store,)+
                        "add {sum}, {sum}, {e}",
                        "subs {len}, #1",
                        "bne 2b",
                        s = inout(reg) scores.as_ptr() => _, out = inout(reg) out.as_mut_ptr() => _,
                        len = inout(reg) len => _, top = in(reg) top, table = in(reg) EXP2_FRACTION.as_ptr(),
                        e = out(reg) _, whole = out(reg) _, sum = inout(reg) sum, options(nostack)
                    );
                }
            }
            sum
        }
    };
}

exponentials! {
    /// 8-bit exponentials: the last bit shifted out rounds.
    exp_u8, u8, "adc {e}, {e}, #0", "strb {e}, [{out}], #1"
}
exponentials! {
    /// 16-bit exponentials.
    exp_u16, u16, "strh {e}, [{out}], #2"
}

/// Of maxima that the bound shifted by 7 octaves fits.
const NEAR: i32 = i32::MAX - U8_STEP;

/// 8-bit exponentials beyond [`NEAR`].
fn exp_far(scores: &[i32], max: i32, out: &mut [u8]) -> u32 {
    scores.iter().zip(out).fold(0, |sum, (&s, e)| {
        *e = exp::exp_u8(max.wrapping_sub(s) as u32);
        sum + u32::from(*e)
    })
}

/// [`crate::kernels::Kernels::exp_row`].
#[inline(never)]
pub fn exp_row(scores: &[i32], out: ExpRow<'_>) -> u32 {
    let max = maximum(scores);
    match out {
        ExpRow::U8(out) if max <= NEAR => exp_u8(scores, max + U8_STEP, out),
        ExpRow::U8(out) => exp_far(scores, max, out),
        ExpRow::U16(out) => exp_u16(scores, max, out),
    }
}

/// Scores that a turn of the loop takes.
const TURN: usize = 4;

/// What a routine for exponentials works on.
#[repr(C)]
struct Frame {
    /// First score.
    scores: usize,
    /// First exponential.
    out: usize,
    /// End of the scores, whole turns and at least one.
    end: usize,
    /// What distances are below.
    top: i32,
    /// [`EXP2_FRACTION`].
    table: usize,
}

/// One exponential, `$round` being what follows the shift.
macro_rules! exponential {
    ($e:literal, $round:expr) => {
        concat!(
            "qsub ",
            $e,
            ", r7, ",
            $e,
            "\n",
            "usat r10, #5, ",
            $e,
            ", asr #8\n",
            "uxtb ",
            $e,
            ", ",
            $e,
            "\n",
            "ldrh ",
            $e,
            ", [r8, ",
            $e,
            ", lsl #1]\n",
            "lsrs ",
            $e,
            ", ",
            $e,
            ", r10\n",
            $round
        )
    };
}

/// The exponentials of whole turns; their sum. A distance beyond i32 saturates: with 31 octaves either way the value is 0.
macro_rules! turns {
    ($name:ident, $constant:literal, [$r0:literal, $r1:literal, $r2:literal, $r3:literal], $($store:literal),+) => {
        /// # Safety
        /// The addresses of the frame are valid for whole turns, at least one.
        #[unsafe(naked)]
        unsafe extern "C" fn $name(frame: *const Frame) -> u32 {
            naked_asm!(
                core!(),
                "push {{r4-r11, lr}}",
                "ldmia r0, {{r4-r8}}",
                "movs r9, #0",
                concat!("mov r11, #", $constant),
                "2:",
                "ldmia r4!, {{r0-r3}}",
                exponential!("r0", $r0),
                exponential!("r1", $r1),
                exponential!("r2", $r2),
                exponential!("r3", $r3),
                $($store,)+
                "cmp r4, r6",
                "bne 2b",
                "mov r0, r9",
                "pop {{r4-r11, pc}}",
            )
        }
    };
}

turns! {
    turns_u8, "0",
    ["adc r0, r0, #0\n", "adc r1, r1, #0\n", "adc r2, r2, #0\n", "adc r3, r3, #0\n"],
    "orr r0, r0, r1, lsl #8", "orr r0, r0, r2, lsl #16", "orr r0, r0, r3, lsl #24", "str r0, [r5], #4",
    "usada8 r9, r0, r11, r9"
}
turns! {
    turns_u16, "0x00010001",
    ["", "", "", ""],
    "orr r0, r0, r1, lsl #16", "orr r2, r2, r3, lsl #16", "str r0, [r5], #4", "str r2, [r5], #4",
    "smlad r9, r0, r11, r9", "smlad r9, r2, r11, r9"
}

/// Whole turns by the one routine, what is left by the other.
fn in_turns<T>(
    (scores, top, out): (&[i32], i32, &mut [T]),
    turns: unsafe extern "C" fn(*const Frame) -> u32,
    rest: fn(&[i32], i32, &mut [T]) -> u32,
) -> u32 {
    let ((from, tail), (to, out_tail)) = (scores.as_chunks::<TURN>(), out.as_chunks_mut::<TURN>());
    if from.is_empty() || from.len() != to.len() {
        return rest(scores, top, out);
    }
    let ends = from.as_ptr_range();
    let frame = Frame {
        scores: ends.start.expose_provenance(),
        out: to.as_mut_ptr().expose_provenance(),
        end: ends.end.expose_provenance(),
        top,
        table: EXP2_FRACTION.as_ptr().expose_provenance(),
    };
    // SAFETY: there are as many chunks of scores as of exponentials; a byte cannot leave 256 entries of the table.
    unsafe { turns(&frame) }.wrapping_add(rest(tail, top, out_tail))
}

/// [`exp_row`] of scores whose maximum is `max`, in turns: for rows that are long, as those of a cache.
pub fn exp_below(scores: &[i32], max: i32, out: ExpRow<'_>) -> u32 {
    match out {
        ExpRow::U8(out) if max <= NEAR => in_turns((scores, max + U8_STEP, out), turns_u8, exp_u8),
        ExpRow::U8(out) => exp_far(scores, max, out),
        ExpRow::U16(out) => in_turns((scores, max, out), turns_u16, exp_u16),
    }
}

/// [`crate::kernels::Kernels::scale_row`].
pub fn scale_row(acc: &[i32], scale: RowScale, zero_point: i32, out: &mut [i8]) {
    for (&acc, out) in acc.iter().zip(out) {
        let high = ins::smmul(acc, scale.multiplier);
        *out = ins::ssat8(ins::asr_round_add(high, scale.shift, zero_point)) as i8;
    }
}
