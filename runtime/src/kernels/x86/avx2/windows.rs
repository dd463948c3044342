//! Depthwise convolutions of 8 and of 16 bits, sixteen channels at a time: the `i16` of two taps side by side, `vpmaddwd` and an addition.
//!
//! Of 16 registers two hold the sums, one the first tap, two the pairs; weights are read from a buffer. Per two taps of
//! sixteen channels: 2 widening loads, 2 interleavings, 2 `vpmaddwd` and 2 additions for 32 MACs. Interleaving works within
//! halves of a register: the sums are of channels 0-3 and 8-11, and of 4-7 and 12-15, until the last tap.

use super::{Multiplier, narrow};
use crate::kernels::{DepthwiseJob, DepthwiseOut, Windows, portable};
use core::arch::x86_64::*;

/// Channels at a time.
const CHANNELS: usize = 16;
/// Maximum number of pairs of taps: windows of 8 x 8.
const MAX_PAIRS: usize = 32;

#[derive(Clone, Copy)]
enum Sink {
    I8(*mut i8),
    I16(*mut i16),
}

/// [`crate::kernels::Kernels::depthwise`]. The last sixteen channels overlap those before; fewer are portable.
#[target_feature(enable = "avx2")]
pub fn depthwise(job: &DepthwiseJob<'_>, x: &[i8], out: DepthwiseOut<'_>) {
    if is_taken(&job.windows) { sixteens(job, x, out) } else { portable::depthwise(job, x, out) }
}

/// [`crate::kernels::Kernels::depthwise_wide`]: the values as they are in place of widened ones.
#[target_feature(enable = "avx2")]
pub fn depthwise_wide(job: &DepthwiseJob<'_>, x: &[i16], out: DepthwiseOut<'_>) {
    if is_taken(&job.windows) { sixteens(job, x, out) } else { portable::depthwise_wide(job, x, out) }
}

fn is_taken(windows: &Windows) -> bool {
    let count = windows.inside[0].saturating_mul(windows.inside[1]);
    windows.channel_stride == 1 && windows.channels >= CHANNELS && count > 0 && count <= 2 * MAX_PAIRS
}

/// Values of an image.
trait Value: Copy {
    /// Whether they are bytes, to be widened; else they are `i16`.
    const ARE_BYTES: bool;
}

impl Value for i8 {
    const ARE_BYTES: bool = true;
}

impl Value for i16 {
    const ARE_BYTES: bool = false;
}

#[inline]
#[target_feature(enable = "avx2")]
fn sixteens<X: Value>(job: &DepthwiseJob<'_>, x: &[X], out: DepthwiseOut<'_>) {
    let windows = &job.windows;
    let count = windows.inside[0] * windows.inside[1];
    let (len, sink) = match out {
        DepthwiseOut::I8(out) => (out.len(), Sink::I8(out.as_mut_ptr())),
        DepthwiseOut::I16(out) => (out.len(), Sink::I16(out.as_mut_ptr())),
    };
    let pixels = job.fit(x.len(), len);
    if pixels == 0 {
        return;
    }
    let (mut offsets, mut numbers) = ([0; 2 * MAX_PAIRS], [0; 2 * MAX_PAIRS]);
    for (at, (number, offset)) in (0..count).zip(windows.taps_inside()) {
        (numbers[at], offsets[at]) = (number, offset);
    }
    let pairs = count.div_ceil(2);
    let mut weights = [[_mm256_setzero_si256(); 2]; MAX_PAIRS];
    for channel in (0..windows.channels).step_by(CHANNELS) {
        let channel = channel.min(windows.channels - CHANNELS);
        // SAFETY: `fit` says that the slices hold all taps, channels and pixels of the job; sixteen channels are there.
        unsafe {
            let row = |tap: usize| job.weights.as_ptr().add(tap * windows.channels + channel);
            for (pair, weights) in weights.iter_mut().take(pairs).enumerate() {
                let second =
                    if 2 * pair + 1 < count { widen(row(numbers[2 * pair + 1])) } else { _mm256_setzero_si256() };
                *weights = interleave(widen(row(numbers[2 * pair])), second);
            }
            let mut bias = [load(job.bias.as_ptr().add(channel)), load(job.bias.as_ptr().add(channel + 8))];
            for tap in windows.taps_outside() {
                let pad = _mm256_set1_epi32(job.pad_value);
                for (half, bias) in bias.iter_mut().enumerate() {
                    let w = _mm256_cvtepi8_epi32(_mm_loadu_si64(row(tap).add(8 * half).cast()));
                    *bias = _mm256_add_epi32(*bias, _mm256_mullo_epi32(w, pad));
                }
            }
            let factors = job.multipliers.as_ptr().add(channel);
            let multipliers = [Multiplier::new(load(factors)), Multiplier::new(load(factors.add(8)))];
            let shift = _mm_cvtsi32_si128(job.acc_shift as i32);
            let [low, high] = [
                _mm256_permute2x128_si256::<0x20>(bias[0], bias[1]),
                _mm256_permute2x128_si256::<0x31>(bias[0], bias[1]),
            ];
            for pixel in 0..pixels {
                let x = x.as_ptr().add(pixel * windows.pixel_stride + channel);
                let mut acc = [low, high];
                for (offsets, w) in offsets.as_chunks::<2>().0.iter().zip(&weights).take(pairs) {
                    let [first, second] = offsets.map(|at| widen(x.add(at)));
                    for ((acc, x), &w) in acc.iter_mut().zip(interleave(first, second)).zip(w) {
                        *acc = _mm256_add_epi32(*acc, _mm256_madd_epi16(x, w));
                    }
                }
                let acc = [
                    _mm256_permute2x128_si256::<0x20>(acc[0], acc[1]),
                    _mm256_permute2x128_si256::<0x31>(acc[0], acc[1]),
                ];
                let y = |half: usize| multipliers[half].mulhi_round(_mm256_sll_epi32(acc[half], shift));
                let at = pixel * windows.channels + channel;
                match sink {
                    Sink::I8(out) => {
                        let zero = _mm256_set1_epi32(job.zero_point);
                        let halves = [0, 1].map(|half| narrow(_mm256_add_epi32(y(half), zero)));
                        _mm_storeu_si128(out.add(at).cast(), _mm_packs_epi16(halves[0], halves[1]));
                    }
                    Sink::I16(out) => {
                        _mm_storeu_si128(out.add(at).cast(), narrow(y(0)));
                        _mm_storeu_si128(out.add(at + 8).cast(), narrow(y(1)));
                    }
                }
            }
        }
    }
}

/// Sixteen values as `i16`.
///
/// # Safety
/// There are sixteen.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn widen<X: Value>(x: *const X) -> __m256i {
    // SAFETY: the caller's contract.
    unsafe { if X::ARE_BYTES { _mm256_cvtepi8_epi16(_mm_loadu_si128(x.cast())) } else { _mm256_loadu_si256(x.cast()) } }
}

/// # Safety
/// There are eight values.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn load(values: *const i32) -> __m256i {
    // SAFETY: the caller's contract.
    unsafe { _mm256_loadu_si256(values.cast()) }
}

/// Pairs of channels 0-3 and 8-11, and of 4-7 and 12-15.
#[inline]
#[target_feature(enable = "avx2")]
fn interleave(first: __m256i, second: __m256i) -> [__m256i; 2] {
    [_mm256_unpacklo_epi16(first, second), _mm256_unpackhi_epi16(first, second)]
}
