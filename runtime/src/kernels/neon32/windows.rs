//! Depthwise convolutions and pooling, eight channels at a time.
//!
//! Per tap of eight channels: 2 VLD1, VMULL, 2 VADDW, of 16 bits 2 VLD1, VMOVL, 2 VMLAL; of a maximum VLD1 and VMAX, of a mean VLD1, VMOVL and 2 VADDW.

use super::asm::{function, lines};
use crate::kernels::{DepthwiseJob, DepthwiseOut, PoolJob, PoolMean, Windows, portable};

/// Channels of a step.
const LANES: usize = 8;

/// The taps of a window inside the image, at least one: the assembly knows this layout.
#[repr(C)]
#[derive(Clone, Copy)]
struct Taps {
    x: *const u8,
    /// Bytes to the next tap of a row, and from the start of a row to the next.
    strides: [usize; 2],
    /// Rows and columns.
    inside: [usize; 2],
    out: *mut u8,
}

/// Eight channels of a depthwise convolution: the assembly knows this layout.
#[repr(C)]
struct DepthwiseInputs {
    taps: Taps,
    w: *const i8,
    /// As those of the taps.
    w_strides: [usize; 2],
    bias: *const [i32; LANES],
    multipliers: *const i32,
    shift: u32,
    zero_point: i32,
}

/// Eight channels of a mean: the assembly knows this layout.
#[repr(C)]
struct MeanInputs {
    taps: Taps,
    /// What the sums start from.
    start: i32,
    multiplier: i32,
    shift: u32,
    zero_point: i32,
}

unsafe extern "C" {
    /// To 8 bits.
    fn shiftformer_neon32_depthwise_i8(inputs: *const DepthwiseInputs);
    /// To 16 bits.
    fn shiftformer_neon32_depthwise_i16(inputs: *const DepthwiseInputs);
    /// Of 16 bits to 8 bits.
    fn shiftformer_neon32_depthwise_wide_i8(inputs: *const DepthwiseInputs);
    /// Of 16 bits to 16 bits.
    fn shiftformer_neon32_depthwise_wide_i16(inputs: *const DepthwiseInputs);
    /// The maximum of the taps.
    fn shiftformer_neon32_maximum(taps: *const Taps);
    /// The mean of the taps.
    fn shiftformer_neon32_mean(inputs: *const MeanInputs);
}

/// Sums in Q8 and Q9, shift in Q10, multipliers in Q12 and Q13: the products' high halves.
macro_rules! scaled {
    () => {
        lines!(
            "vshl.s32 q8, q8, q10",
            "vshl.s32 q9, q9, q10",
            "vqdmulh.s32 q8, q8, q12",
            "vqdmulh.s32 q9, q9, q13",
            "vrshr.s32 q8, q8, #1",
            "vrshr.s32 q9, q9, #1",
        )
    };
}

/// Scaled sums with the zero point in Q11 as bytes in D0.
macro_rules! bytes {
    () => {
        lines!(
            "vadd.i32 q8, q8, q11",
            "vadd.i32 q9, q9, q11",
            "vqmovn.s32 d0, q8",
            "vqmovn.s32 d1, q9",
            "vqmovn.s16 d0, q0",
        )
    };
}

/// `$tap` adds the products of the values at R0, R2 bytes before the next ones, and the weights at R10.
macro_rules! depthwise {
    ($name:literal, $tap:expr, $store:expr) => {
        function!(
            $name,
            "push {{r4-r11, lr}}",
            "add r12, r0, #44",
            "vld1.32 {{d20[], d21[]}}, [r12]!",
            "vld1.32 {{d22[], d23[]}}, [r12]",
            // x, its strides, rows and columns, output; weights, their strides, bias, multipliers.
            "ldm r0, {{r1-r11}}",
            "vld1.32 {{d16-d19}}, [r10]",
            "vld1.32 {{d24-d27}}, [r11]",
            "1:",
            "mov r0, r1",
            "mov r10, r7",
            "mov r12, r5",
            "2:",
            $tap,
            "subs r12, r12, #1",
            "bne 2b",
            "add r1, r1, r3",
            "add r7, r7, r9",
            "subs r4, r4, #1",
            "bne 1b",
            scaled!(),
            $store,
            "pop {{r4-r11, pc}}",
        );
    };
}

macro_rules! byte_tap {
    () => {
        lines!(
            "vld1.8 {{d0}}, [r0], r2",
            "vld1.8 {{d1}}, [r10], r8",
            "vmull.s8 q1, d0, d1",
            "vaddw.s16 q8, q8, d2",
            "vaddw.s16 q9, q9, d3",
        )
    };
}

macro_rules! wide_tap {
    () => {
        lines!(
            "vld1.16 {{d0, d1}}, [r0], r2",
            "vld1.8 {{d2}}, [r10], r8",
            "vmovl.s8 q1, d2",
            "vmlal.s16 q8, d0, d2",
            "vmlal.s16 q9, d1, d3",
        )
    };
}

macro_rules! store_i8 {
    () => {
        concat!(bytes!(), "vst1.8 {{d0}}, [r6]\n")
    };
}

macro_rules! store_i16 {
    () => {
        lines!("vqmovn.s32 d0, q8", "vqmovn.s32 d1, q9", "vst1.16 {{d0, d1}}, [r6]")
    };
}

depthwise!("shiftformer_neon32_depthwise_i8", byte_tap!(), store_i8!());
depthwise!("shiftformer_neon32_depthwise_i16", byte_tap!(), store_i16!());
depthwise!("shiftformer_neon32_depthwise_wide_i8", wide_tap!(), store_i8!());
depthwise!("shiftformer_neon32_depthwise_wide_i16", wide_tap!(), store_i16!());

/// Walks over the taps that R0 describes with `$each` for the eight bytes in D2; then `$end`, the output in R6.
macro_rules! pool {
    ($name:literal, $start:expr, $each:expr, $end:expr) => {
        function!(
            $name,
            "push {{r4-r6, lr}}",
            $start,
            "ldm r0, {{r1-r6}}",
            "1:",
            "mov r0, r1",
            "mov r12, r5",
            "2:",
            "vld1.8 {{d2}}, [r0], r2",
            $each,
            "subs r12, r12, #1",
            "bne 2b",
            "add r1, r1, r3",
            "subs r4, r4, #1",
            "bne 1b",
            $end,
            "pop {{r4-r6, pc}}",
        );
    };
}

pool!("shiftformer_neon32_maximum", "vmov.i8 d0, #0x80", "vmax.s8 d0, d0, d2", "vst1.8 {{d0}}, [r6]");
pool!(
    "shiftformer_neon32_mean",
    lines!(
        "add r12, r0, #24",
        "vld1.32 {{d16[], d17[]}}, [r12]!",
        "vmov q9, q8",
        "vld1.32 {{d24[], d25[]}}, [r12]!",
        "vmov q13, q12",
        "vld1.32 {{d20[], d21[]}}, [r12]!",
        "vld1.32 {{d22[], d23[]}}, [r12]",
    ),
    lines!("vmovl.s8 q1, d2", "vaddw.s16 q8, q8, d2", "vaddw.s16 q9, q9, d3"),
    concat!(scaled!(), bytes!(), "vst1.8 {{d0}}, [r6]\n")
);

/// Whether the channels lie side by side and fill a step, and there is something inside.
fn takes(windows: &Windows) -> bool {
    windows.channel_stride == 1 && windows.channels >= LANES && windows.inside.iter().all(|&n| n > 0)
}

/// First channel of every step; the last one overlaps the one before.
fn steps(channels: usize) -> impl Iterator<Item = usize> {
    (0..channels).step_by(LANES).map(move |channel| channel.min(channels - LANES))
}

/// The taps of pixel `pixel` from channel `channel` on, with elements of `size` bytes in `out`.
fn taps<X>(windows: &Windows, [pixel, channel]: [usize; 2], x: *const X, out: *mut u8, size: usize) -> Taps {
    let [down, right] = windows.strides.map(|stride| stride.wrapping_mul(size_of::<X>()));
    Taps {
        x: x.wrapping_add(pixel * windows.pixel_stride + channel).cast(),
        strides: [right, down],
        inside: windows.inside,
        out: out.wrapping_add((pixel * windows.channels + channel) * size),
    }
}

/// [`crate::kernels::Kernels::depthwise`]. Fewer than eight channels, and channels apart, are portable.
///
/// # Safety
/// The processor has NEON.
pub unsafe fn depthwise(job: &DepthwiseJob<'_>, x: &[i8], out: DepthwiseOut<'_>) {
    if !takes(&job.windows) {
        return portable::depthwise(job, x, out);
    }
    // SAFETY: the caller's contract; the functions are for bytes.
    unsafe { eights(job, x, out, [shiftformer_neon32_depthwise_i8, shiftformer_neon32_depthwise_i16]) }
}

/// [`crate::kernels::Kernels::depthwise_wide`]. Fewer than eight channels, and channels apart, are portable.
///
/// # Safety
/// The processor has NEON.
pub unsafe fn depthwise_wide(job: &DepthwiseJob<'_>, x: &[i16], out: DepthwiseOut<'_>) {
    if !takes(&job.windows) {
        return portable::depthwise_wide(job, x, out);
    }
    // SAFETY: the caller's contract; the functions are for 16 bits.
    unsafe { eights(job, x, out, [shiftformer_neon32_depthwise_wide_i8, shiftformer_neon32_depthwise_wide_i16]) }
}

/// Eight channels of one pixel.
type Eight = unsafe extern "C" fn(*const DepthwiseInputs);

/// All channels of all pixels by the functions for outputs of 8 and of 16 bits.
///
/// # Safety
/// The processor has NEON, and the functions read values of the size of `X`.
unsafe fn eights<X>(job: &DepthwiseJob<'_>, x: &[X], out: DepthwiseOut<'_>, [to_i8, to_i16]: [Eight; 2]) {
    let windows = &job.windows;
    let (len, out, size) = match out {
        DepthwiseOut::I8(out) => (out.len(), out.as_mut_ptr().cast(), size_of::<i8>()),
        DepthwiseOut::I16(out) => (out.len(), out.as_mut_ptr().cast(), size_of::<i16>()),
    };
    let pixels = job.fit(x.len(), len);
    if pixels == 0 {
        return;
    }
    let [first_row, first_column] = windows.first;
    let weights = |tap: usize, channel: usize| job.weights.get(tap * windows.channels + channel..).unwrap_or(&[]);
    for channel in steps(windows.channels) {
        let mut bias = [0; LANES];
        bias.iter_mut().zip(job.bias.iter().skip(channel)).for_each(|(to, &from)| *to = from);
        for tap in windows.taps_outside() {
            let products = weights(tap, channel).iter().map(|&w| job.pad_value * i32::from(w));
            bias.iter_mut().zip(products).for_each(|(bias, product)| *bias = bias.wrapping_add(product));
        }
        for pixel in 0..pixels {
            let inputs = DepthwiseInputs {
                taps: taps(windows, [pixel, channel], x.as_ptr(), out, size),
                w: weights(first_row * windows.kernel[1] + first_column, channel).as_ptr(),
                w_strides: [windows.channels, windows.kernel[1] * windows.channels],
                bias: &bias,
                multipliers: job.multipliers.as_ptr().wrapping_add(channel),
                shift: job.acc_shift,
                zero_point: job.zero_point,
            };
            // SAFETY: the caller's contract; `fit` says that the slices hold all taps, channels and pixels of the job.
            unsafe { if size == size_of::<i8>() { to_i8(&inputs) } else { to_i16(&inputs) } }
        }
    }
}

/// [`crate::kernels::Kernels::pool`]. Fewer than eight channels, and channels apart, are portable.
///
/// # Safety
/// The processor has NEON.
pub unsafe fn pool(job: &PoolJob, x: &[i8], out: &mut [i8]) {
    let windows = &job.windows;
    if !takes(windows) {
        return portable::pool(job, x, out);
    }
    let pixels = windows.fit(x.len(), out.len());
    let zeros = windows.inside.iter().product::<usize>() as i32;
    for channel in steps(windows.channels) {
        for pixel in 0..pixels {
            let taps = taps(windows, [pixel, channel], x.as_ptr(), out.as_mut_ptr().cast(), size_of::<i8>());
            // SAFETY: the caller's contract; `fit` says that the slices hold all taps, channels and pixels.
            unsafe {
                match job.mean {
                    None => shiftformer_neon32_maximum(&taps),
                    Some(PoolMean { zero_in, acc_shift, multiplier, zero_point }) => {
                        let start = zeros.wrapping_mul(zero_in).wrapping_neg();
                        shiftformer_neon32_mean(&MeanInputs { taps, start, multiplier, shift: acc_shift, zero_point });
                    }
                }
            }
        }
    }
}
