//! Depthwise convolutions and pooling, sixteen channels at a time, eight where there are fewer.
//!
//! Register plan: 4 sums of four channels, 2 taps, 2 rows of weights, 2 vectors of products. Per two taps of sixteen
//! channels: 4 loads, 2 SMULL, 2 SMLAL, 4 SADDW for 32 MACs; where a weight may be -128 two products do not fit 16 bits, and
//! every tap takes 2 loads, 2 SMULL and 4 SADDW. A maximum takes a load and SMAX per tap, a mean a load and 2 SADDW.

use crate::kernels::{DepthwiseJob, DepthwiseOut, PoolJob, PoolMean, Windows, portable};
use core::arch::aarch64::*;

/// Channels of a wide step, and of a narrow one.
const WIDE: usize = 16;
const NARROW: usize = 8;
/// Taps whose 8-bit values a 16-bit sum can hold.
const TAPS_IN_16_BITS: usize = 256;

/// Sums of sixteen channels; of eight, the first two vectors.
type Sums = [int32x4_t; 4];

#[derive(Clone, Copy)]
enum Sink {
    I8(*mut i8),
    I16(*mut i16),
}

impl Sink {
    /// The sink of `out`, and the pixels that `fit` says of its length.
    fn of(out: DepthwiseOut<'_>, fit: impl Fn(usize) -> usize) -> (usize, Self) {
        match out {
            DepthwiseOut::I8(out) => (fit(out.len()), Self::I8(out.as_mut_ptr())),
            DepthwiseOut::I16(out) => (fit(out.len()), Self::I16(out.as_mut_ptr())),
        }
    }
}

/// Whether the channels lie side by side and fill a step.
fn takes(windows: &Windows) -> bool {
    windows.channel_stride == 1 && windows.channels >= NARROW
}

/// First channel and width of every step; the last one overlaps the one before.
fn steps(channels: usize) -> impl Iterator<Item = (usize, usize)> {
    let width = if channels >= WIDE { WIDE } else { NARROW };
    (0..channels).step_by(width).map(move |channel| (channel.min(channels - width), width))
}

/// [`crate::kernels::Kernels::depthwise`]. Fewer than eight channels, and channels apart, are portable.
pub fn depthwise(job: &DepthwiseJob<'_>, x: &[i8], out: DepthwiseOut<'_>) {
    let windows = &job.windows;
    if !takes(windows) {
        return portable::depthwise(job, x, out);
    }
    let (pixels, sink) = Sink::of(out, |len| job.fit(x.len(), len));
    if pixels == 0 {
        return;
    }
    let exact = job.weights.contains(&i8::MIN);
    for (channel, width) in steps(windows.channels) {
        let channels = Channels { job, channel };
        // SAFETY: `fit` says that the slices hold all taps, channels and pixels of the job; `width` channels are there.
        unsafe {
            match (width == WIDE, exact) {
                (true, false) => channels.run::<WIDE, false>(pixels, x, sink),
                (true, true) => channels.run::<WIDE, true>(pixels, x, sink),
                (false, false) => channels.run::<NARROW, false>(pixels, x, sink),
                (false, true) => channels.run::<NARROW, true>(pixels, x, sink),
            }
        }
    }
}

/// [`crate::kernels::Kernels::depthwise_wide`]: eight channels at a time, a widened row of weights and 2 SMLAL per tap. Fewer
/// channels, and channels apart, are portable.
pub fn depthwise_wide(job: &DepthwiseJob<'_>, x: &[i16], out: DepthwiseOut<'_>) {
    let windows = &job.windows;
    if !takes(windows) {
        return portable::depthwise_wide(job, x, out);
    }
    let (pixels, sink) = Sink::of(out, |len| job.fit(x.len(), len));
    if pixels == 0 {
        return;
    }
    for channel in (0..windows.channels).step_by(NARROW).map(|channel| channel.min(windows.channels - NARROW)) {
        // SAFETY: `fit` says that the slices hold all taps, channels and pixels of the job; eight channels are there.
        unsafe { Channels { job, channel }.run_wide(pixels, x, sink) };
    }
}

/// Some channels of a depthwise convolution.
struct Channels<'a> {
    job: &'a DepthwiseJob<'a>,
    channel: usize,
}

impl Channels<'_> {
    /// `N` channels of the first `pixels` pixels.
    ///
    /// # Safety
    /// `x`, weights, bias, multipliers and `sink` hold them.
    unsafe fn run<const N: usize, const EXACT: bool>(&self, pixels: usize, x: &[i8], sink: Sink) {
        let Self { job, channel } = *self;
        let windows = &job.windows;
        let [rows, columns] = windows.inside;
        let [down, right] = windows.strides;
        // SAFETY: the caller's contract.
        unsafe {
            let weights = job.weights.as_ptr().add(channel);
            let bias = self.bias::<N>();
            let requantize = self.requantize::<N>();
            let first = weights.add((windows.first[0] * windows.kernel[1] + windows.first[1]) * windows.channels);
            for pixel in 0..pixels {
                let x = x.as_ptr().add(pixel * windows.pixel_stride + channel);
                let mut sums = bias;
                for row in 0..rows {
                    let mut x = x.wrapping_add(row * down);
                    let mut w = first.wrapping_add(row * windows.kernel[1] * windows.channels);
                    let mut left = columns;
                    while !EXACT && left >= 2 {
                        let taps = [(load::<N>(x), load::<N>(w)), {
                            (load::<N>(x.wrapping_add(right)), load::<N>(w.add(windows.channels)))
                        }];
                        add_pair::<N>(&mut sums, taps);
                        (x, w) = (x.wrapping_add(2 * right), w.wrapping_add(2 * windows.channels));
                        left -= 2;
                    }
                    while left > 0 {
                        add_tap::<N>(&mut sums, load::<N>(x), load::<N>(w));
                        (x, w) = (x.wrapping_add(right), w.wrapping_add(windows.channels));
                        left -= 1;
                    }
                }
                requantize.write::<N>(sums, sink, pixel * windows.channels + channel);
            }
        }
    }

    /// Eight channels of the first `pixels` pixels.
    ///
    /// # Safety
    /// As [`run`](Self::run).
    unsafe fn run_wide(&self, pixels: usize, x: &[i16], sink: Sink) {
        let Self { job, channel } = *self;
        let windows = &job.windows;
        // SAFETY: the caller's contract.
        unsafe {
            let weights = job.weights.as_ptr().add(channel);
            let bias = self.bias::<NARROW>();
            let requantize = self.requantize::<NARROW>();
            for pixel in 0..pixels {
                let x = x.as_ptr().add(pixel * windows.pixel_stride + channel);
                let mut sums = bias;
                for (tap, at) in windows.taps_inside() {
                    let w = vmovl_s8(vld1_s8(weights.add(tap * windows.channels)));
                    let x = vld1q_s16(x.add(at));
                    sums[0] = vmlal_s16(sums[0], vget_low_s16(x), vget_low_s16(w));
                    sums[1] = vmlal_high_s16(sums[1], x, w);
                }
                requantize.write::<NARROW>(sums, sink, pixel * windows.channels + channel);
            }
        }
    }

    /// The bias with the products of the taps outside the image.
    ///
    /// # Safety
    /// Weights and bias have `N` channels.
    #[inline(always)]
    unsafe fn bias<const N: usize>(&self) -> Sums {
        let Self { job, channel } = *self;
        // SAFETY: the caller's contract.
        unsafe {
            let mut bias = sums_at::<N>(job.bias.as_ptr().add(channel));
            for tap in job.windows.taps_outside() {
                let w = load::<N>(job.weights.as_ptr().add(tap * job.windows.channels + channel));
                let pad = vdupq_n_s32(job.pad_value);
                let w = [vmovl_s8(vget_low_s8(w)), vmovl_high_s8(w)];
                for (bias, w) in bias.iter_mut().zip(w.map(widened).as_flattened()).take(N / 4) {
                    *bias = vmlaq_s32(*bias, *w, pad);
                }
            }
            bias
        }
    }

    /// # Safety
    /// There are multipliers of `N` channels.
    #[inline(always)]
    unsafe fn requantize<const N: usize>(&self) -> Requantize {
        let Self { job, channel } = *self;
        // SAFETY: the caller's contract.
        unsafe {
            Requantize {
                multipliers: sums_at::<N>(job.multipliers.as_ptr().add(channel)),
                acc_shift: vdupq_n_s32(job.acc_shift as i32),
                zero_point: vdupq_n_s32(job.zero_point),
            }
        }
    }
}

/// Multipliers, shift and zero point of some channels.
struct Requantize {
    multipliers: Sums,
    acc_shift: int32x4_t,
    zero_point: int32x4_t,
}

impl Requantize {
    /// `mulhi_round(acc << acc_shift, multiplier)`: half of the doubled product's high half, rounded.
    #[inline(always)]
    fn scaled<const N: usize>(&self, mut sums: Sums) -> Sums {
        for (sum, &multiplier) in sums.iter_mut().zip(&self.multipliers).take(N / 4) {
            // SAFETY: NEON is in every AArch64.
            *sum = unsafe { vrshrq_n_s32::<1>(vqdmulhq_s32(vshlq_s32(*sum, self.acc_shift), multiplier)) };
        }
        sums
    }

    /// Writes the outputs of `N` channels at element `at`.
    ///
    /// # Safety
    /// The sink has room for them.
    #[inline(always)]
    unsafe fn write<const N: usize>(&self, sums: Sums, sink: Sink, at: usize) {
        // SAFETY: the caller's contract.
        unsafe {
            match sink {
                Sink::I8(out) => store::<N>(self.to_i8::<N>(sums), out.add(at)),
                Sink::I16(out) => {
                    let [a, b, c, d] = self.scaled::<N>(sums);
                    vst1q_s16(out.add(at), vqmovn_high_s32(vqmovn_s32(a), b));
                    if N == WIDE {
                        vst1q_s16(out.add(at + 8), vqmovn_high_s32(vqmovn_s32(c), d));
                    }
                }
            }
        }
    }

    /// `sat8(zero_point + scaled)`.
    #[inline(always)]
    fn to_i8<const N: usize>(&self, sums: Sums) -> int8x16_t {
        // SAFETY: NEON is in every AArch64.
        unsafe {
            let [a, b, c, d] = self.scaled::<N>(sums).map(|y| vaddq_s32(y, self.zero_point));
            let low = vqmovn_s16(vqmovn_high_s32(vqmovn_s32(a), b));
            if N == WIDE { vqmovn_high_s16(low, vqmovn_high_s32(vqmovn_s32(c), d)) } else { vcombine_s8(low, low) }
        }
    }
}

/// [`crate::kernels::Kernels::pool`]. Fewer than eight channels, and channels apart, are portable.
pub fn pool(job: &PoolJob, x: &[i8], out: &mut [i8]) {
    let windows = &job.windows;
    let pixels = windows.fit(x.len(), out.len());
    if !takes(windows) {
        return portable::pool(job, x, out);
    }
    for (channel, width) in steps(windows.channels) {
        for pixel in 0..pixels {
            // Wrapping: without a tap inside nothing is read.
            let x = x.as_ptr().wrapping_add(pixel.wrapping_mul(windows.pixel_stride).wrapping_add(channel));
            let to = out.as_mut_ptr().wrapping_add(pixel * windows.channels + channel);
            // SAFETY: `fit` says that the slices hold all taps, channels and pixels; `width` channels are there.
            unsafe {
                match (job.mean, width == WIDE) {
                    (None, true) => store::<WIDE>(maximum::<WIDE>(windows, x), to),
                    (None, false) => store::<NARROW>(maximum::<NARROW>(windows, x), to),
                    (Some(mean), true) => store::<WIDE>(average::<WIDE>(windows, mean, x), to),
                    (Some(mean), false) => store::<NARROW>(average::<NARROW>(windows, mean, x), to),
                }
            }
        }
    }
}

/// # Safety
/// The taps inside have `N` channels from `x` on.
#[inline(always)]
unsafe fn maximum<const N: usize>(windows: &Windows, x: *const i8) -> int8x16_t {
    let ([rows, columns], [down, right]) = (windows.inside, windows.strides);
    // SAFETY: the caller's contract.
    unsafe {
        let mut maximum = vdupq_n_s8(i8::MIN);
        for row in 0..rows {
            let x = x.wrapping_add(row.wrapping_mul(down));
            for column in 0..columns {
                maximum = vmaxq_s8(maximum, load::<N>(x.wrapping_add(column.wrapping_mul(right))));
            }
        }
        maximum
    }
}

/// # Safety
/// As [`maximum`].
#[inline(always)]
unsafe fn average<const N: usize>(windows: &Windows, mean: PoolMean, x: *const i8) -> int8x16_t {
    let ([rows, columns], [down, right]) = (windows.inside, windows.strides);
    let zeros = (windows.inside.iter().product::<usize>() as i32).wrapping_mul(mean.zero_in);
    // SAFETY: the caller's contract.
    unsafe {
        let mut sums = [vdupq_n_s32(zeros.wrapping_neg()); 4];
        for row in 0..rows {
            let mut x = x.wrapping_add(row.wrapping_mul(down));
            for first in (0..columns).step_by(TAPS_IN_16_BITS) {
                let mut narrow = [vdupq_n_s16(0); 2];
                for _ in first..columns.min(first + TAPS_IN_16_BITS) {
                    let tap = load::<N>(x);
                    narrow[0] = vaddw_s8(narrow[0], vget_low_s8(tap));
                    if N == WIDE {
                        narrow[1] = vaddw_high_s8(narrow[1], tap);
                    }
                    x = x.wrapping_add(right);
                }
                add_products::<N>(&mut sums, narrow);
            }
        }
        let requantize = Requantize {
            multipliers: [vdupq_n_s32(mean.multiplier); 4],
            acc_shift: vdupq_n_s32(mean.acc_shift as i32),
            zero_point: vdupq_n_s32(mean.zero_point),
        };
        requantize.to_i8::<N>(sums)
    }
}

/// `N` bytes; of eight, the lower half twice.
///
/// # Safety
/// There are `N`.
#[inline(always)]
unsafe fn load<const N: usize>(x: *const i8) -> int8x16_t {
    // SAFETY: the caller's contract.
    unsafe {
        if N == WIDE {
            vld1q_s8(x)
        } else {
            let half = vld1_s8(x);
            vcombine_s8(half, half)
        }
    }
}

/// # Safety
/// `to` has room for `N`.
#[inline(always)]
unsafe fn store<const N: usize>(y: int8x16_t, to: *mut i8) {
    // SAFETY: the caller's contract.
    unsafe { if N == WIDE { vst1q_s8(to, y) } else { vst1_s8(to, vget_low_s8(y)) } }
}

/// `N` values of 32 bits.
///
/// # Safety
/// There are `N`.
#[inline(always)]
unsafe fn sums_at<const N: usize>(values: *const i32) -> Sums {
    // SAFETY: the caller's contract.
    unsafe { [0, 4, 8, 12].map(|at| vld1q_s32(values.add(if at < N { at } else { 0 }))) }
}

#[inline(always)]
fn widened(x: int16x8_t) -> [int32x4_t; 2] {
    // SAFETY: NEON is in every AArch64.
    unsafe { [vmovl_s16(vget_low_s16(x)), vmovl_high_s16(x)] }
}

/// Adds the products of a tap.
#[inline(always)]
fn add_tap<const N: usize>(sums: &mut Sums, x: int8x16_t, w: int8x16_t) {
    // SAFETY: NEON is in every AArch64.
    let products = unsafe { [vmull_s8(vget_low_s8(x), vget_low_s8(w)), vmull_high_s8(x, w)] };
    add_products::<N>(sums, products);
}

/// Adds the products of two taps whose weights are not -128: at most `2 * 128 * 127`.
#[inline(always)]
fn add_pair<const N: usize>(sums: &mut Sums, [(x, w), (y, v)]: [(int8x16_t, int8x16_t); 2]) {
    // SAFETY: NEON is in every AArch64.
    let products = unsafe {
        let low = vmlal_s8(vmull_s8(vget_low_s8(x), vget_low_s8(w)), vget_low_s8(y), vget_low_s8(v));
        [low, vmlal_high_s8(vmull_high_s8(x, w), y, v)]
    };
    add_products::<N>(sums, products);
}

#[inline(always)]
fn add_products<const N: usize>(sums: &mut Sums, [low, high]: [int16x8_t; 2]) {
    let [a, b, c, d] = sums;
    // SAFETY: NEON is in every AArch64.
    unsafe {
        *a = vaddw_s16(*a, vget_low_s16(low));
        *b = vaddw_high_s16(*b, low);
        if N == WIDE {
            *c = vaddw_s16(*c, vget_low_s16(high));
            *d = vaddw_high_s16(*d, high);
        }
    }
}
