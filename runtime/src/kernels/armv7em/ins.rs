//! Single instructions of the DSP extension.

use core::arch::asm;

macro_rules! instruction {
    ($(#[$meta:meta])* $name:ident($($arg:ident: $ty:ty),*) -> $ret:ty = $text:literal) => {
        $(#[$meta])*
        #[inline(always)]
        pub fn $name($($arg: $ty),*) -> $ret {
            let result: $ret;
            // SAFETY: one arithmetic instruction on registers; it may set the Q flag, which nothing reads.
            unsafe { asm!(core!(), $text, out = lateout(reg) result, $($arg = in(reg) $arg),*, options(pure, nomem, nostack)) };
            result
        }
    };
}

instruction! {
    /// `round_half_up(x * y / 2^32)`.
    smmulr(x: i32, y: i32) -> i32 = "smmulr {out}, {x}, {y}"
}
instruction! {
    /// `floor(x * y / 2^32)`.
    smmul(x: i32, y: i32) -> i32 = "smmul {out}, {x}, {y}"
}
instruction! {
    /// `x` limited to 8 bits.
    ssat8(x: i32) -> i32 = "ssat {out}, #8, {x}"
}
instruction! {
    /// `x` limited to 16 bits.
    ssat16(x: i32) -> i32 = "ssat {out}, #16, {x}"
}

/// `round_half_up(x / 2^shift) + addend`, `shift` in `1..=31`: the last bit shifted out is the carry.
#[inline(always)]
pub fn asr_round_add(x: i32, shift: u32, addend: i32) -> i32 {
    let result: i32;
    // SAFETY: arithmetic on registers.
    unsafe {
        asm!("asrs {out}, {x}, {shift}", "adc {out}, {out}, {addend}", out = out(reg) result, x = in(reg) x,
            shift = in(reg) shift, addend = in(reg) addend, options(pure, nomem, nostack));
    }
    result
}
