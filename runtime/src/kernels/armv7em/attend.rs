//! Attention of one token over its cache: scores of eight-wide heads, values four columns at a time.
//!
//! Keys and values are bytes as they were appended, a row for every position. A query of eight values stays in registers;
//! values of two positions are paired (`PKHBT`, `PKHTB`) so that one `SMLAD` weights both.
//!
//! # Register plan
//! Scores: `r0-r3` query, `r4` key pointer, `r5` key stride, `r6` scores, `r7` their end, `r8` multiplier, `r9` maximum,
//! `r10 r11` key, `r12` widened key, `lr` sum. Values: `r0-r3` sums, `r4` four exponentials, `r5` two of them, `r6-r8` values,
//! `r9` value pointer, `r10 r11` one and three value strides, `r12` exponentials, `lr` end of their fours (pairs with 16 bits).
//!
//! # Instructions
//! A score 16 (`LDRD`, `ADD`, four `SXTB16`, four products, `SMMULR`, `STR`, three for the maximum, half of `CMP` and `BNE`).
//! Four positions of four columns 31: an `LDR` and two `UXTB16` for the exponentials, four `LDR`, four to pair, eight
//! `SXTB16`, eight `SMLAD`, four for pointers and the branch; 15.5 for a position of an eight-wide head.

use super::softmax::{self, scale_row};
use super::{Armv7em, dot};
use crate::arith::exp::RowScale;
use crate::kernels::{AttentionJob, DotJob, ExpRow, portable};
use core::arch::naked_asm;

/// Values of a query that stays in registers.
const NARROW: usize = 8;
/// Columns that are summed at a time.
const COLUMNS: usize = 4;

/// What [`scores`] works on.
#[repr(C)]
struct Scores {
    /// The query, shifted left as sums are to be, in the order of `SXTB16`: values 0 and 2, 1 and 3, 4 and 6, 5 and 7.
    query: [u32; NARROW / 2],
    /// First key.
    keys: usize,
    /// Bytes between keys.
    stride: usize,
    /// First score.
    out: usize,
    /// End of the scores.
    end: usize,
    /// Of the sums.
    multiplier: i32,
}

macro_rules! score {
    () => {
        "ldrd r10, r11, [r4]
         add r4, r5
         sxtb16 r12, r10
         smuad lr, r0, r12
         sxtb16 r10, r10, ror #8
         smlad lr, r1, r10, lr
         sxtb16 r12, r11
         smlad lr, r2, r12, lr
         sxtb16 r11, r11, ror #8
         smlad lr, r3, r11, lr
         smmulr lr, lr, r8
         str lr, [r6], #4
         cmp lr, r9
         it gt
         movgt r9, lr
        "
    };
}

/// Scaled scores of all keys; their maximum.
///
/// # Safety
/// The addresses of the frame are aligned to 4 and valid for at least one key and as many scores.
#[unsafe(naked)]
unsafe extern "C" fn scores(frame: *const Scores) -> i32 {
    naked_asm!(
        core!(),
        "push {{r4-r11, lr}}",
        "ldmia r0, {{r0-r8}}",
        "mov r9, #0x80000000",
        "sub r12, r7, r6",
        "tst r12, #4",
        "bne 3f",
        "2:",
        score!(),
        "3:",
        score!(),
        "cmp r6, r7",
        "bne 2b",
        "mov r0, r9",
        "pop {{r4-r11, pc}}",
    )
}

/// What [`values_u8`] and [`values_u16`] work on.
#[repr(C)]
struct Values {
    /// First value of the first four columns.
    values: usize,
    /// Bytes between positions.
    stride: usize,
    /// Three times that.
    stride3: usize,
    /// First exponential.
    exps: usize,
    /// End of the exponentials that are taken four at a time (two with 16 bits).
    whole: usize,
    /// First sum.
    out: usize,
    /// Positions left behind those.
    rest: usize,
    /// Groups of four columns, at least one.
    groups: usize,
}

/// Two positions, `$b` behind the value pointer each other, with the pair of exponentials in `r5`.
macro_rules! pair {
    ($b:literal) => {
        concat!(
            "ldr r6, [r9]\nldr r7, [r9, ",
            $b,
            "]\n",
            "pkhbt r8, r6, r7, lsl #16
             pkhtb r7, r7, r6, asr #16
             sxtb16 r6, r8
             smlad r0, r6, r5, r0
             sxtb16 r8, r8, ror #8
             smlad r1, r8, r5, r1
             sxtb16 r6, r7
             smlad r2, r6, r5, r2
             sxtb16 r7, r7, ror #8
             smlad r3, r7, r5, r3
            "
        )
    };
}

macro_rules! values {
    ($(#[$meta:meta])* $name:ident, $turn:expr, $load:literal) => {
        $(#[$meta])*
        ///
        /// # Safety
        /// The addresses of the frame are valid for all exponentials, as many positions of all columns, and the sums.
        #[unsafe(naked)]
        unsafe extern "C" fn $name(frame: *const Values) {
            naked_asm!(
                core!(),
                "push {{r4-r11, lr}}",
                "sub sp, #16",
                "ldmia r0!, {{r9, r10, r11, r12, lr}}",
                "ldmia r0, {{r4-r6}}",
                // The sums' pointer, the values', positions behind the whole ones, groups of columns.
                "stm sp, {{r4, r9}}",
                "strd r5, r6, [sp, #8]",
                "str r12, [sp, #-4]!",
                "2:",
                "movs r0, #0",
                "movs r1, #0",
                "movs r2, #0",
                "movs r3, #0",
                "cmp r12, lr",
                "beq 4f",
                "3:",
                $turn,
                "cmp r12, lr",
                "bne 3b",
                "4:",
                "ldr r4, [sp, #12]",
                "cbz r4, 6f",
                "5:",
                $load,
                "ldr r6, [r9]",
                "add r9, r10",
                "sxtb16 r7, r6",
                "sxtb16 r6, r6, ror #8",
                "smlabb r0, r7, r5, r0",
                "smlabb r1, r6, r5, r1",
                "smlatb r2, r7, r5, r2",
                "smlatb r3, r6, r5, r3",
                "subs r4, #1",
                "bne 5b",
                "6:",
                "ldr r12, [sp]",
                "ldrd r4, r9, [sp, #4]",
                "stmia r4!, {{r0-r3}}",
                "add r9, #4",
                "strd r4, r9, [sp, #4]",
                "ldr r5, [sp, #16]",
                "subs r5, #1",
                "str r5, [sp, #16]",
                "bne 2b",
                "add sp, #20",
                "pop {{r4-r11, pc}}",
            )
        }
    };
}

values! {
    /// Values weighted by bytes.
    values_u8,
    concat!(
        "ldr r4, [r12], #4\nuxtb16 r5, r4\n",
        pair!("r10, lsl #1"),
        "uxtb16 r5, r4, ror #8\nadd r9, r10\n",
        pair!("r10, lsl #1"),
        "add r9, r11\n"
    ),
    "ldrb r5, [r12], #1"
}
values! {
    /// Values weighted by 16 bits, at most 2^15 - 1.
    values_u16,
    concat!("ldr r5, [r12], #4\n", pair!("r10"), "add r9, r9, r10, lsl #1\n"),
    "ldrh r5, [r12], #2"
}

/// [`crate::kernels::Kernels::attend`].
pub fn attend(job: &AttentionJob<'_>, out: &mut [i8], scratch: &mut [u8]) {
    if rows(job, out, scratch).is_none() {
        portable::attend::<Armv7em>(job, out, scratch);
    }
}

/// `None`, with nothing that counts written, where the slices do not fit the job or values are not whole words.
#[inline(never)]
fn rows(job: &AttentionJob<'_>, out: &mut [i8], scratch: &mut [u8]) -> Option<()> {
    let (scores, exps, sums) = portable::attend_areas(job, scratch)?;
    if !job.fits(out.len()) || job.n_k == 0 || job.v_dim == 0 || !job.v_dim.is_multiple_of(COLUMNS) {
        return None;
    }
    for row in 0..job.rows {
        let q = job.q.get(row * job.q_stride..)?;
        let max = row_scores(job, q, scores, sums);
        let acc = bytemuck::try_cast_slice_mut(sums).ok()?.get_mut(..job.v_dim)?;
        let sum = if job.wide_exp {
            let exps = bytemuck::try_cast_slice_mut(exps).ok()?.get_mut(..job.n_k)?;
            let sum = softmax::exp_below(scores, max, ExpRow::U16(&mut *exps));
            weigh(job, exps.as_ptr().expose_provenance(), [2, 2], values_u16, acc);
            sum
        } else {
            let exps = exps.get_mut(..job.n_k)?;
            let sum = softmax::exp_below(scores, max, ExpRow::U8(&mut *exps));
            weigh(job, exps.as_ptr().expose_provenance(), [1, 4], values_u8, acc);
            sum
        };
        let out = out.get_mut(row * job.out_stride..)?.get_mut(..job.v_dim)?;
        scale_row(acc, RowScale::new(sum, job.ratio_m, job.ratio_shift), job.zero_point, out);
    }
    Some(())
}

/// The scores of the query at the start of `q`; their maximum.
fn row_scores(job: &AttentionJob<'_>, q: &[i8], out: &mut [i32], scratch: &mut [u8]) -> i32 {
    let aligned = job.k.as_ptr().addr().is_multiple_of(4) && job.k_stride.is_multiple_of(4);
    let narrow = job.head_dim == NARROW && aligned && job.scale.acc_shift <= 8;
    let Some(q) = q.first_chunk::<NARROW>().filter(|_| narrow) else {
        let (n_k, k) = (job.n_k, job.head_dim);
        let dots = DotJob { rows: 1, cols: n_k, k, x_stride: k, y_stride: job.k_stride, out_stride: n_k };
        dot::scores(&dots, job.scale, q, job.k, out, scratch);
        return softmax::maximum(out);
    };
    // Eight bits shifted by eight at most: sums are those shifted, products fit.
    let [a, b, c, d, e, f, g, h] = q.map(|q| (i32::from(q) << job.scale.acc_shift) as u32);
    let pair = |low: u32, high: u32| low & 0xffff | high << 16;
    let end = out.as_mut_ptr_range().end.expose_provenance();
    let frame = Scores {
        query: [pair(a, c), pair(b, d), pair(e, g), pair(f, h)],
        keys: job.k.as_ptr().expose_provenance(),
        stride: job.k_stride,
        out: out.as_mut_ptr().expose_provenance(),
        end,
        multiplier: job.scale.multiplier,
    };
    // SAFETY: `rows` compared keys and scores with the job, which has at least one key; words are aligned as checked above.
    unsafe { scores(&frame) }
}

/// Sums of all columns, weighted by exponentials of `size` bytes, of which the routine takes `turn` at a time.
fn weigh(
    job: &AttentionJob<'_>,
    exps: usize,
    [size, turn]: [usize; 2],
    routine: unsafe extern "C" fn(*const Values),
    acc: &mut [i32],
) {
    let rest = job.n_k % turn;
    let frame = Values {
        values: job.v.as_ptr().expose_provenance(),
        stride: job.v_stride,
        stride3: 3 * job.v_stride,
        exps,
        whole: exps + (job.n_k - rest) * size,
        out: acc.as_mut_ptr().expose_provenance(),
        rest,
        groups: acc.len() / COLUMNS,
    };
    // SAFETY: `rows` compared values and exponentials with the job; `acc` has a sum for every column, whole groups.
    unsafe { routine(&frame) };
}
