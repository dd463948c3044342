//! Depthwise convolutions and maxima over windows.
//!
//! # Register plan
//! Depthwise: `q0-q3` sums of sixteen channels, `q4 q5` image and weights, `r0 r1` their addresses (widening loads want low
//! registers), `r2` output, `lr` loop counter.
//!
//! # Instructions
//! A tap of sixteen channels: 19 (`LDRD` of offset and weights, `ADD`, 8 `VLDRB`, 4 `VMUL`, 4 `VADD`, `LE`) for 16 MACs: no
//! instruction adds products of two vectors by lanes. A maximum of
//! sixteen channels: 7 for a tap.

use crate::kernels::{DepthwiseJob, DepthwiseOut, PoolJob, portable};
use core::arch::asm;

/// Channels at a time.
const CHANNELS: usize = 16;
/// Maximum number of taps: windows of 7 x 7.
const MAX_TAPS: usize = 49;

/// Bytes from the start of the window, and the first weight.
type Tap = (usize, *const i8);

/// [`crate::kernels::Kernels::depthwise`]. The last sixteen channels overlap those before; fewer are portable.
pub fn depthwise(job: &DepthwiseJob<'_>, x: &[i8], out: DepthwiseOut<'_>) {
    let windows = &job.windows;
    let [rows, columns] = windows.inside;
    let count = rows.saturating_mul(columns);
    if windows.channel_stride != 1 || windows.channels < CHANNELS || count == 0 || count > MAX_TAPS {
        return portable::depthwise(job, x, out);
    }
    let (len, out, narrow) = match out {
        DepthwiseOut::I8(out) => (out.len(), out.as_mut_ptr().expose_provenance(), true),
        DepthwiseOut::I16(out) => (out.len(), out.as_mut_ptr().expose_provenance(), false),
    };
    let pixels = job.fit(x.len(), len);
    let mut taps: [Tap; MAX_TAPS] = [(0, job.weights.as_ptr()); MAX_TAPS];
    let mut next = 0;
    while next < windows.channels && pixels > 0 {
        let channel = next.min(windows.channels - CHANNELS);
        next += CHANNELS;
        for (tap, (number, offset)) in taps.iter_mut().zip(windows.taps_inside()) {
            *tap = (offset, job.weights.as_ptr().wrapping_add(number * windows.channels + channel));
        }
        let mut start = [0; CHANNELS];
        start.iter_mut().zip(job.bias.get(channel..).unwrap_or(&[])).for_each(|(start, &bias)| *start = bias);
        for number in windows.taps_outside() {
            let weights = job.weights.get(number * windows.channels + channel..).unwrap_or(&[]);
            start.iter_mut().zip(weights).for_each(|(s, &w)| *s = s.wrapping_add(job.pad_value * i32::from(w)));
        }
        for pixel in 0..pixels {
            let at = pixel * windows.channels + channel;
            // SAFETY: `fit` says that the slices hold sixteen channels of every tap, of this pixel of the image and of the
            // output.
            unsafe {
                let frame = Frame {
                    taps: taps.as_ptr(),
                    count,
                    x: x.as_ptr().add(pixel * windows.pixel_stride + channel),
                    start: start.as_ptr(),
                    multipliers: job.multipliers.as_ptr().add(channel),
                    acc_shift: job.acc_shift,
                };
                if narrow {
                    frame.to_i8(out + at, job.zero_point)
                } else {
                    frame.to_i16(out + at * size_of::<i16>(), 0)
                }
            }
        }
    }
}

/// Sixteen channels of a pixel.
struct Frame {
    taps: *const Tap,
    /// Taps, at least one.
    count: usize,
    x: *const i8,
    /// Sums before the first tap.
    start: *const i32,
    multipliers: *const i32,
    acc_shift: u32,
}

/// The products of four channels of a tap, added to a register of sums.
macro_rules! products {
    ($at:literal, $sum:literal) => {
        concat!(
            "vldrb.s32 q4, [r0, #",
            $at,
            "]\nvldrb.s32 q5, [r1, #",
            $at,
            "]\nvmul.i32 q4, q4, q5\nvadd.i32 ",
            $sum,
            ", ",
            $sum,
            ", q4"
        )
    };
}

/// Requantizes and stores a register of sums.
macro_rules! outputs {
    ($sum:literal, $narrow:literal, $store:literal, $step:literal) => {
        concat!(
            "vshl.s32 ",
            $sum,
            ", {shift}\nvldrw.32 q4, [{multipliers}], #16\nvrmulh.s32 q4, ",
            $sum,
            ", q4\nvadd.i32 q4, q4, q5\nvqmovnb.s32 q4, q4\n",
            $narrow,
            $store,
            " q4, [r2], #",
            $step
        )
    };
}

macro_rules! pixel {
    ($(#[$meta:meta])* $name:ident, $narrow:literal, $store:literal, $step:literal) => {
        $(#[$meta])*
        ///
        /// # Safety
        /// The addresses hold sixteen channels, those of the taps every tap.
        unsafe fn $name(&self, out: usize, zero_point: i32) {
            // SAFETY: the caller's contract.
            unsafe {
                asm!(
                    "vldrw.32 q0, [{start}]",
                    "vldrw.32 q1, [{start}, #16]",
                    "vldrw.32 q2, [{start}, #32]",
                    "vldrw.32 q3, [{start}, #48]",
                    "dls lr, {count}",
                    "2:",
                    "ldrd r0, r1, [{tap}], #8",
                    "add r0, r0, {x}",
                    products!("0", "q0"),
                    products!("4", "q1"),
                    products!("8", "q2"),
                    products!("12", "q3"),
                    "le lr, 2b",
                    "vdup.32 q5, {zero}",
                    outputs!("q0", $narrow, $store, $step),
                    outputs!("q1", $narrow, $store, $step),
                    outputs!("q2", $narrow, $store, $step),
                    outputs!("q3", $narrow, $store, $step),
                    start = in(reg) self.start, count = in(reg) self.count, tap = inout(reg) self.taps => _,
                    x = in(reg) self.x, shift = in(reg) self.acc_shift, zero = in(reg) zero_point,
                    multipliers = inout(reg) self.multipliers => _, inout("r2") out => _,
                    out("r0") _, out("r1") _, out("lr") _,
                    out("d0") _, out("d1") _, out("d2") _, out("d3") _, out("d4") _, out("d5") _, out("d6") _,
                    out("d7") _, out("d8") _, out("d9") _, out("d10") _, out("d11") _, options(nostack)
                );
            }
        }
    };
}

impl Frame {
    pixel! {
        /// Outputs of 8 bits.
        to_i8, "vqmovnb.s16 q4, q4\n", "vstrb.32", "4"
    }
    pixel! {
        /// Outputs of 16 bits.
        to_i16, "", "vstrh.32", "8"
    }
}

/// [`crate::kernels::Kernels::pool`]: maxima of sixteen channels at a time; means are portable.
pub fn pool(job: &PoolJob, x: &[i8], out: &mut [i8]) {
    let windows = &job.windows;
    if job.mean.is_some() || windows.channel_stride != 1 {
        return portable::pool(job, x, out);
    }
    let pixels = windows.fit(x.len(), out.len());
    for pixel in 0..pixels {
        let mut channel = 0;
        while channel < windows.channels {
            // SAFETY: `fit` says that the image has this pixel and its taps, and the output its channels; lanes beyond the
            // last channel are switched off.
            unsafe {
                let x = x.as_ptr().wrapping_add(pixel * windows.pixel_stride + channel);
                let out = out.as_mut_ptr().add(pixel * windows.channels + channel);
                maxima(windows.taps_inside().map(|(_, at)| x.wrapping_add(at)), windows.channels - channel, out);
            }
            channel += CHANNELS;
        }
    }
}

/// The maxima of up to sixteen channels.
///
/// # Safety
/// `count` bytes, or sixteen where there are more, can be read at every tap and written at `out`.
#[inline(always)]
unsafe fn maxima(taps: impl Iterator<Item = *const i8>, count: usize, out: *mut i8) {
    let mut all = [i8::MIN; CHANNELS];
    for tap in taps {
        // SAFETY: the caller's contract.
        unsafe {
            asm!(
                "vctp.8 {count}",
                "vldrb.8 q0, [{all}]",
                "vpst",
                "vldrbt.u8 q1, [{tap}]",
                "vpst",
                "vmaxt.s8 q0, q0, q1",
                "vstrb.8 q0, [{all}]",
                count = in(reg) count, all = in(reg) all.as_mut_ptr(), tap = in(reg) tap,
                out("d0") _, out("d1") _, out("d2") _, out("d3") _, options(nostack)
            );
        }
    }
    // SAFETY: the caller's contract.
    unsafe { core::ptr::copy_nonoverlapping(all.as_ptr(), out, count.min(CHANNELS)) };
}
