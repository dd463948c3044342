//! Depthwise convolutions, four channels at a time.
//!
//! # Register plan
//! `r0` the offset of a tap, then its channels 1 and 3, `r1 r2` weights of channels 0 and 2, and 1 and 3; channels 0 and 2,
//! four sums, the window, the next tap, the last one.
//!
//! # Instructions
//! A tap of four channels: 10 (`LDM` of the offset and the widened weights, `LDR`, two `SXTB16`, two `SMLABB`, two `SMLATT`,
//! comparison, branch) for 4 MACs. Weights are widened once for all pixels of a run.

use super::ins;
use crate::kernels::{DepthwiseJob, DepthwiseOut, portable};
use core::arch::asm;

/// Channels at a time.
const QUAD: usize = 4;
/// Maximum number of taps: windows of 7 x 7.
const MAX_TAPS: usize = 49;

/// A tap of four channels.
#[repr(C)]
#[derive(Clone, Copy)]
struct Tap {
    /// Bytes from the start of the window.
    offset: usize,
    /// Weights of channels 0 and 2, in halves of a word.
    even: u32,
    /// Weights of channels 1 and 3.
    odd: u32,
}

/// [`crate::kernels::Kernels::depthwise`]. The last four channels overlap those before; fewer are portable.
#[inline(never)]
pub fn depthwise(job: &DepthwiseJob<'_>, x: &[i8], mut out: DepthwiseOut<'_>) {
    let windows = &job.windows;
    let [rows, columns] = windows.inside;
    let count = rows.saturating_mul(columns);
    if windows.channel_stride != 1 || windows.channels < QUAD || count == 0 || count > MAX_TAPS {
        return portable::depthwise(job, x, out);
    }
    let len = match &out {
        DepthwiseOut::I8(out) => out.len(),
        DepthwiseOut::I16(out) => out.len(),
    };
    let pixels = job.fit(x.len(), len);
    let mut taps = [Tap { offset: 0, even: 0, odd: 0 }; MAX_TAPS];
    let mut next = 0;
    while next < windows.channels && pixels > 0 {
        let channel = next.min(windows.channels - QUAD);
        next += QUAD;
        let word = |number: usize| {
            let at = number * windows.channels + channel;
            job.weights.get(at..).and_then(|w| w.first_chunk::<QUAD>()).copied().unwrap_or_default()
        };
        for (tap, (number, offset)) in taps.iter_mut().zip(windows.taps_inside()) {
            let [a, b, c, d] = word(number).map(|w| u32::from(i16::from(w) as u16));
            *tap = Tap { offset, even: a | c << 16, odd: b | d << 16 };
        }
        let quad =
            |values: &[i32]| values.get(channel..).and_then(|v| v.first_chunk::<QUAD>()).copied().unwrap_or_default();
        let (mut start, multipliers) = (quad(job.bias), quad(job.multipliers));
        for number in windows.taps_outside() {
            for (start, w) in start.iter_mut().zip(word(number)) {
                *start = start.wrapping_add(job.pad_value * i32::from(w));
            }
        }
        for pixel in 0..pixels {
            // SAFETY: `fit` says that the image has four channels of every tap of this pixel; there are `count` taps.
            let acc = unsafe {
                let x = x.as_ptr().add(pixel * windows.pixel_stride + channel);
                sums(taps.as_ptr(), count, x, start)
            };
            let at = pixel * windows.channels + channel;
            let scaled = acc.iter().zip(multipliers).map(|(&acc, m)| ins::smmulr(acc << job.acc_shift, m));
            match &mut out {
                DepthwiseOut::I8(out) => {
                    for (out, y) in out.get_mut(at..).unwrap_or(&mut []).iter_mut().zip(scaled) {
                        *out = ins::ssat8(y.wrapping_add(job.zero_point)) as i8;
                    }
                }
                DepthwiseOut::I16(out) => {
                    for (out, y) in out.get_mut(at..).unwrap_or(&mut []).iter_mut().zip(scaled) {
                        *out = ins::ssat16(y) as i16;
                    }
                }
            }
        }
    }
}

/// Sums of four channels over `count` taps, from `start`.
///
/// # Safety
/// `taps` points to `count` taps, at least one; four bytes of `x` can be read at the offset of each.
#[inline(always)]
unsafe fn sums(taps: *const Tap, count: usize, x: *const i8, start: [i32; QUAD]) -> [i32; QUAD] {
    let [mut a, mut b, mut c, mut d] = start;
    // SAFETY: the caller's contract.
    unsafe {
        asm!(
            core!(),
            "2:",
            "ldmia {tap}!, {{r0, r1, r2}}",
            "ldr r0, [{x}, r0]",
            "sxtb16 {even}, r0",
            "sxtb16 r0, r0, ror #8",
            "smlabb {a}, {even}, r1, {a}",
            "smlatt {c}, {even}, r1, {c}",
            "smlabb {b}, r0, r2, {b}",
            "smlatt {d}, r0, r2, {d}",
            "cmp {tap}, {end}",
            "bne 2b",
            tap = inout(reg) taps => _, end = in(reg) taps.add(count), x = in(reg) x, even = out(reg) _,
            a = inout(reg) a, b = inout(reg) b, c = inout(reg) c, d = inout(reg) d,
            out("r0") _, out("r1") _, out("r2") _, options(nostack, readonly)
        );
    }
    [a, b, c, d]
}
