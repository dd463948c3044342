//! Rows of scores, exponentials and weighted values.
//!
//! # Register plan
//! Exponentials: score and value, shift, pointers to scores, output and table, maximum, sum, counter. Maximum: four
//! scores, pointer, maximum, counter.
//!
//! # Instructions per element
//! Exponential: 3.75 for the maximum (a quarter of `LDM`, counter and branch, `CMP`, `IT`, `MOV`), 11 for the value (load,
//! `QSUB`, `USAT`, `UXTB`, `LDRH` of the table, `LSRS`, `ADC`, store, sum, counter, branch). Weighted values: load, `SMMUL`, `ASRS`, `ADC`, `SSAT`, store.

use super::ins;
use crate::arith::exp::{self, EXP2_FRACTION, RowScale};
use crate::kernels::{ExpRow, ScoreScale};
use core::arch::asm;

/// [`crate::kernels::Kernels::scale_scores`].
pub fn scale_scores(scores: &mut [i32], scale: ScoreScale) {
    for s in scores {
        *s = ins::smmulr(*s << scale.acc_shift, scale.multiplier);
    }
}

/// From the 16-bit exponential to the 8-bit one, added to the distance in its units: the shift that rounds.
const U8_STEP: i32 = 7 << 8;

/// Maximum score.
fn maximum(scores: &[i32]) -> i32 {
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

/// [`crate::kernels::Kernels::exp_row`].
#[inline(never)]
pub fn exp_row(scores: &[i32], out: ExpRow<'_>) -> u32 {
    let max = maximum(scores);
    match out {
        // The bound shifted by 7 octaves must fit.
        ExpRow::U8(out) if max <= i32::MAX - U8_STEP => exp_u8(scores, max + U8_STEP, out),
        ExpRow::U8(out) => scores.iter().zip(out).fold(0, |sum, (&s, e)| {
            *e = exp::exp_u8(max.wrapping_sub(s) as u32);
            sum + u32::from(*e)
        }),
        ExpRow::U16(out) => exp_u16(scores, max, out),
    }
}

/// [`crate::kernels::Kernels::scale_row`].
pub fn scale_row(acc: &[i32], scale: RowScale, zero_point: i32, out: &mut [i8]) {
    for (&acc, out) in acc.iter().zip(out) {
        let high = ins::smmul(acc, scale.multiplier);
        *out = ins::ssat8(ins::asr_round_add(high, scale.shift, zero_point)) as i8;
    }
}
