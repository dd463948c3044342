//! Windows of an image, sixteen channels at a time: depthwise convolutions and pools.
//!
//! A depthwise convolution brings the sixteen channels of four taps, a quarter of a vector each, into the order of
//! `vpdpbusd`: the four taps of a channel in one lane. One permutation of lanes and one of bytes do that. The image is the
//! unsigned factor, its sign bit flipped; the sums start from the bias less 128 times the sum of the weights.
//!
//! Of 32 registers two hold the permutations, one the sign bits, four the requantization, one the sums, one the image; the
//! weights of all taps are read from a buffer. Per four taps of sixteen channels: a load, 3 insertions, 3 for order and
//! sign, 1 `vpdpbusd` for 64 MACs. A mean is the same with weights of one; a maximum is one `vpmaxsb` for 64 channels.

use super::{LANES, Multiplier, lanes, sign_bits};
use crate::kernels::{DepthwiseJob, DepthwiseOut, PoolJob, PoolMean, Windows, portable};
use core::arch::x86_64::*;

/// Taps of a group.
const GROUP: usize = 4;
/// Maximum number of groups: windows of 8 x 8.
const MAX_GROUPS: usize = 16;

/// Taps inside the image, in groups of four; the last group is filled up.
struct Taps {
    /// Offsets in the image.
    offsets: [usize; GROUP * MAX_GROUPS],
    /// Numbers of the taps in the window.
    numbers: [usize; GROUP * MAX_GROUPS],
    count: usize,
}

impl Taps {
    /// `None` where there is no tap, or where there are too many, or channels that are not neighbours.
    fn new(windows: &Windows) -> Option<Self> {
        let [rows, columns] = windows.inside;
        let count = rows.checked_mul(columns).filter(|&count| count > 0 && count <= GROUP * MAX_GROUPS)?;
        let mut taps = Self { offsets: [0; GROUP * MAX_GROUPS], numbers: [0; GROUP * MAX_GROUPS], count };
        for ((number, offset), at) in windows.taps_inside().zip(0..count) {
            taps.numbers[at] = number;
            taps.offsets[at] = offset;
        }
        (windows.channel_stride == 1).then_some(taps)
    }

    fn groups(&self) -> usize {
        self.count.div_ceil(GROUP)
    }
}

/// Where the outputs of a run go.
#[derive(Clone, Copy)]
enum Sink {
    I8(*mut i8),
    I16(*mut i16),
}

/// What turns the sums of sixteen channels into outputs.
struct Scale {
    multipliers: Multiplier,
    acc_shift: __m128i,
    zero_point: __m512i,
}

impl Scale {
    #[inline]
    #[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
    fn apply(&self, acc: __m512i) -> __m512i {
        _mm512_add_epi32(self.multipliers.mulhi_round(_mm512_sll_epi32(acc, self.acc_shift)), self.zero_point)
    }
}

/// Sixteen channels of a run of pixels.
struct Block<'a> {
    windows: &'a Windows,
    /// Pixels that may be touched.
    pixels: usize,
    taps: &'a Taps,
    /// A vector for each group of taps.
    weights: &'a [__m512i],
    /// Sums before the first product.
    start: __m512i,
    /// The first channel of the first window.
    x: *const i8,
    /// Channels there are.
    mask: __mmask16,
}

/// [`crate::kernels::Kernels::depthwise`].
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
pub fn depthwise(job: &DepthwiseJob<'_>, x: &[i8], out: DepthwiseOut<'_>) {
    let Some(taps) = Taps::new(&job.windows) else { return portable::depthwise(job, x, out) };
    let (len, sink) = match out {
        DepthwiseOut::I8(out) => (out.len(), Sink::I8(out.as_mut_ptr())),
        DepthwiseOut::I16(out) => (out.len(), Sink::I16(out.as_mut_ptr())),
    };
    let pixels = job.fit(x.len(), len);
    if pixels == 0 {
        return;
    }
    let channels = job.windows.channels;
    let mut weights = [_mm512_setzero_si512(); MAX_GROUPS];
    let weights = &mut weights[..taps.groups()];
    for channel in (0..channels).step_by(LANES) {
        let mask = lanes(channels - channel);
        // SAFETY: `fit` says that the slices hold all taps, channels and pixels of the job; masks leave out channels beyond
        // the last.
        unsafe {
            let w = job.weights.as_ptr().add(channel);
            for (group, weights) in weights.iter_mut().enumerate() {
                *weights = interleave([0, 1, 2, 3].map(|tap| {
                    let tap = group * GROUP + tap;
                    let mask = if tap < taps.count { mask } else { 0 };
                    _mm_maskz_loadu_epi8(mask, w.wrapping_add(taps.numbers[tap] * channels))
                }));
            }
            let mut start = less_128_weights(_mm512_maskz_loadu_epi32(mask, job.bias.as_ptr().add(channel)), weights);
            for tap in job.windows.taps_outside() {
                let w = _mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(mask, w.add(tap * channels)));
                start = _mm512_add_epi32(start, _mm512_mullo_epi32(w, _mm512_set1_epi32(job.pad_value)));
            }
            let multipliers = Multiplier::new(_mm512_maskz_loadu_epi32(mask, job.multipliers.as_ptr().add(channel)));
            let acc_shift = _mm_cvtsi32_si128(job.acc_shift as i32);
            let x = x.as_ptr().add(channel);
            let block = Block { windows: &job.windows, pixels, taps: &taps, weights, start, x, mask };
            match sink {
                Sink::I8(out) => {
                    let zero_point = _mm512_set1_epi32(job.zero_point);
                    block.bytes(out.add(channel), &Scale { multipliers, acc_shift, zero_point });
                }
                Sink::I16(out) => {
                    let scale = Scale { multipliers, acc_shift, zero_point: _mm512_setzero_si512() };
                    let out = out.add(channel);
                    block.each_pixel(|pixel, acc| {
                        let y = _mm512_cvtsepi32_epi16(scale.apply(acc));
                        _mm256_mask_storeu_epi16(out.add(pixel * channels), mask, y);
                    });
                }
            }
        }
    }
}

/// [`crate::kernels::Kernels::pool`].
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
pub fn pool(job: &PoolJob, x: &[i8], out: &mut [i8]) {
    let windows = &job.windows;
    let pixels = windows.fit(x.len(), out.len());
    match (job.mean, Taps::new(windows)) {
        (None, _) if windows.channel_stride == 1 => {
            // SAFETY: `fit` says that the slices hold that many pixels.
            unsafe { maxima(windows, pixels, x.as_ptr(), out.as_mut_ptr()) };
        }
        (Some(mean), Some(taps)) if pixels > 0 => {
            // SAFETY: as above.
            unsafe { means(&mean, windows, pixels, &taps, x.as_ptr(), out.as_mut_ptr()) };
        }
        _ => portable::pool(job, x, out),
    }
}

/// Maxima of `pixels` pixels, 64 channels at a time.
///
/// # Safety
/// The image has the windows of so many pixels, the output has their channels.
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
unsafe fn maxima(windows: &Windows, pixels: usize, x: *const i8, out: *mut i8) {
    for pixel in 0..pixels {
        for channel in (0..windows.channels).step_by(4 * LANES) {
            let left = windows.channels - channel;
            let mask = if left >= 4 * LANES { u64::MAX } else { (1 << left) - 1 };
            let mut max = _mm512_set1_epi8(i8::MIN);
            // SAFETY: the caller's contract; masks leave out channels beyond the last.
            unsafe {
                for (_, at) in windows.taps_inside() {
                    let x = x.add(pixel * windows.pixel_stride + at + channel);
                    max = _mm512_max_epi8(max, _mm512_maskz_loadu_epi8(mask, x));
                }
                _mm512_mask_storeu_epi8(out.add(pixel * windows.channels + channel), mask, max);
            }
        }
    }
}

/// Means of `pixels` pixels.
///
/// # Safety
/// As for [`maxima`]; `taps` are those of the windows.
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
unsafe fn means(mean: &PoolMean, windows: &Windows, pixels: usize, taps: &Taps, x: *const i8, out: *mut i8) {
    let scale = Scale {
        multipliers: Multiplier::new(_mm512_set1_epi32(mean.multiplier)),
        acc_shift: _mm_cvtsi32_si128(mean.acc_shift as i32),
        zero_point: _mm512_set1_epi32(mean.zero_point),
    };
    let mut weights = [_mm512_set1_epi8(1); MAX_GROUPS];
    let weights = &mut weights[..taps.groups()];
    if let (Some(last), rest @ 1..) = (weights.last_mut(), taps.count % GROUP) {
        *last = _mm512_set1_epi32(((1i32 << (8 * rest)) - 1) & 0x0101_0101);
    }
    let zeros = (taps.count as i32).wrapping_mul(mean.zero_in);
    let start = less_128_weights(_mm512_set1_epi32(zeros.wrapping_neg()), weights);
    for channel in (0..windows.channels).step_by(LANES) {
        let mask = lanes(windows.channels - channel);
        // SAFETY: the caller's contract.
        unsafe {
            let block = Block { windows, pixels, taps, weights, start, x: x.add(channel), mask };
            block.bytes(out.add(channel), &scale);
        }
    }
}

/// `start` less 128 times the sum of the weights: for an image whose sign bits are flipped.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
fn less_128_weights(start: __m512i, weights: &[__m512i]) -> __m512i {
    let zero = _mm512_setzero_si512();
    let sum = weights.iter().fold(zero, |sum, &w| _mm512_dpbusd_epi32(sum, _mm512_set1_epi8(1), w));
    _mm512_sub_epi32(start, _mm512_slli_epi32::<7>(sum))
}

impl Block<'_> {
    /// Stores sixteen outputs of 8 bits for every pixel at `out`.
    ///
    /// # Safety
    /// As for [`each_pixel`](Self::each_pixel), and the output has the channels of the mask of every pixel.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
    unsafe fn bytes(&self, out: *mut i8, scale: &Scale) {
        let store = |pixel: usize, acc| {
            let y = _mm512_cvtsepi32_epi8(scale.apply(acc));
            // SAFETY: the caller's contract.
            unsafe { _mm_mask_storeu_epi8(out.add(pixel * self.windows.channels), self.mask, y) };
        };
        // SAFETY: the caller's contract.
        unsafe { self.each_pixel(store) };
    }

    /// Calls `store` with the sums of every pixel.
    ///
    /// # Safety
    /// The image has the taps and the channels of the mask of all pixels; there are weights for all groups of taps.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
    unsafe fn each_pixel(&self, store: impl FnMut(usize, __m512i)) {
        // SAFETY: the caller's contract.
        unsafe {
            if self.mask == __mmask16::MAX {
                self.pixels_of::<true>(store);
            } else {
                self.pixels_of::<false>(store);
            }
        }
    }

    /// [`each_pixel`](Self::each_pixel), `WHOLE` where there are sixteen channels.
    ///
    /// # Safety
    /// As there.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
    unsafe fn pixels_of<const WHOLE: bool>(&self, mut store: impl FnMut(usize, __m512i)) {
        for pixel in 0..self.pixels {
            let x = self.x.wrapping_add(pixel * self.windows.pixel_stride);
            let mut acc = self.start;
            for (offsets, &w) in self.taps.offsets.as_chunks::<GROUP>().0.iter().zip(self.weights) {
                let rows = offsets.map(|at| {
                    let x = x.wrapping_add(at);
                    // SAFETY: the caller's contract: whole rows, or those under the mask. Taps that fill up the last group
                    // have offset 0.
                    unsafe { if WHOLE { _mm_loadu_si128(x.cast()) } else { _mm_maskz_loadu_epi8(self.mask, x) } }
                });
                acc = _mm512_dpbusd_epi32(acc, _mm512_xor_si512(interleave(rows), sign_bits()), w);
            }
            store(pixel, acc);
        }
    }
}

/// The four bytes of every channel in one lane.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
fn interleave([a, b, c, d]: [__m128i; GROUP]) -> __m512i {
    let low = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(a), b);
    let high = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(c), d);
    let all = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high);
    // Quarter `q` takes four channels of every tap.
    let quarters = _mm512_set_epi32(15, 11, 7, 3, 14, 10, 6, 2, 13, 9, 5, 1, 12, 8, 4, 0);
    let bytes = _mm512_set4_epi32(0x0f0b_0703, 0x0e0a_0602, 0x0d09_0501, 0x0c08_0400);
    _mm512_shuffle_epi8(_mm512_permutexvar_epi32(quarters, all), bytes)
}
