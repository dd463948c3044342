//! LayerNorm and RMSNorm of one row.
//!
//! # Register plan
//! `r0` row, `r1` output, `r2` gamma, `r3` beta, `r4` elements left, `r5-r8` the row as a straight line, `r9` value,
//! `r10 r11` gamma and beta of the element.
//!
//! # Instructions per element
//! Statistics of 16-bit rows: 2.5 (load, `SMLALD`, `SMLAD`, counter, branch for two). Values: 11 (three loads, `MLA`, shift,
//! `SMMULR`, `SMMLAR`, `SSAT`, store, counter, branch).

use crate::arith::norm::{Affine, FRACTION_I8, FRACTION_I16, RowNorm};
use crate::kernels::{NormJob, NormOut, NormRow};
use core::arch::{asm, naked_asm};

const ONES: u32 = 0x0001_0001;

fn sums_i8(x: &[i8]) -> (i32, u64) {
    x.iter().fold((0i32, 0u64), |(sum, squares), &x| {
        let x = i32::from(x);
        (sum + x, squares + (x * x) as u64)
    })
}

/// `sum(x)` modulo 2^32, and `sum(x^2)`.
fn sums_i16(x: &[i16]) -> (i32, u64) {
    let (pairs, tail) = x.as_chunks::<2>();
    let (mut sum, mut low, mut high) = (0i32, 0u32, 0u32);
    if !pairs.is_empty() {
        // SAFETY: the loop reads the pairs.
        unsafe {
            asm!(
                core!(),
                "2:",
                "ldr {pair}, [{x}], #4",
                "smlald {low}, {high}, {pair}, {pair}",
                "smlad {sum}, {pair}, {ones}, {sum}",
                "subs {count}, #1",
                "bne 2b",
                x = inout(reg) pairs.as_ptr() => _, count = inout(reg) pairs.len() => _, pair = out(reg) _,
                ones = in(reg) ONES, sum = inout(reg) sum, low = inout(reg) low, high = inout(reg) high,
                options(nostack, readonly)
            );
        }
    }
    let mut squares = u64::from(low) | u64::from(high) << 32;
    for &x in tail {
        sum = sum.wrapping_add(i32::from(x));
        squares += u64::from(x.unsigned_abs()) * u64::from(x.unsigned_abs());
    }
    (sum, squares)
}

/// What a routine works on.
#[repr(C)]
struct Frame {
    /// First element.
    x: usize,
    /// First output.
    out: usize,
    /// First gamma.
    gamma: usize,
    /// First beta.
    beta: usize,
    /// Elements, at least one.
    len: usize,
    /// The row, as a straight line before the root.
    affine: Affine,
}

macro_rules! values {
    ($(#[$meta:meta])* $name:ident, $load:literal, $saturate:literal, $store:literal) => {
        $(#[$meta])*
        ///
        /// # Safety
        /// All addresses of the frame are valid for `len` elements.
        #[unsafe(naked)]
        unsafe extern "C" fn $name(frame: *const Frame) {
            naked_asm!(
                core!(),
                "push {{r4-r11, lr}}",
                "ldmia r0, {{r0-r8}}",
                "2:",
                $load,
                "mla r9, r9, r5, r6",
                "asr r9, r9, r8",
                "smmulr r9, r9, r7",
                "ldr r10, [r2], #4",
                "ldr r11, [r3], #4",
                "smmlar r9, r9, r10, r11",
                $saturate,
                $store,
                "subs r4, #1",
                "bne 2b",
                "pop {{r4-r11, pc}}",
            )
        }
    };
}

values! {
    /// 8 bits to 8 bits.
    i8_to_i8, "ldrsb r9, [r0], #1", "ssat r9, #8, r9, asr #8", "strb r9, [r1], #1"
}
values! {
    /// 8 bits to 16 bits.
    i8_to_i16, "ldrsb r9, [r0], #1", "ssat r9, #16, r9, asr #4", "strh r9, [r1], #2"
}
values! {
    /// 16 bits to 8 bits.
    i16_to_i8, "ldrsh r9, [r0], #2", "ssat r9, #8, r9, asr #8", "strb r9, [r1], #1"
}
values! {
    /// 16 bits to 16 bits.
    i16_to_i16, "ldrsh r9, [r0], #2", "ssat r9, #16, r9, asr #4", "strh r9, [r1], #2"
}
const _: () = assert!(FRACTION_I8 == 8 && FRACTION_I16 == 4);

/// [`crate::kernels::Kernels::norm_row`].
#[inline(never)]
pub fn norm_row(job: &NormJob<'_>, x: NormRow<'_>, out: NormOut<'_>) {
    let (address, width, (sum, squares)) = match x {
        NormRow::I8(x) => (x.as_ptr().expose_provenance(), x.len(), sums_i8(x)),
        NormRow::I16(x) => (x.as_ptr().expose_provenance(), x.len(), sums_i16(x)),
    };
    let narrow_input = matches!(x, NormRow::I8(_));
    let (out, out_len, narrow) = match out {
        NormOut::I8(out) => (out.as_mut_ptr().expose_provenance(), out.len(), true),
        NormOut::I16(out) => (out.as_mut_ptr().expose_provenance(), out.len(), false),
    };
    let len = width.min(out_len).min(job.gamma.len()).min(job.beta.len());
    if len == 0 {
        return;
    }
    let frame = Frame {
        x: address,
        out,
        gamma: job.gamma.as_ptr().expose_provenance(),
        beta: job.beta.as_ptr().expose_provenance(),
        len,
        affine: RowNorm::from_sums(sum, squares, width as u32, job.rms, job.eps).affine(),
    };
    let routine = match (narrow_input, narrow) {
        (true, true) => i8_to_i8,
        (true, false) => i8_to_i16,
        (false, true) => i16_to_i8,
        (false, false) => i16_to_i16,
    };
    // SAFETY: all four slices have `len` elements.
    unsafe { routine(&frame) };
}
