//! Features of sound for keyword spotting, from 16-bit samples by integers alone: log-mel bands and MFCC.
//!
//! The parameters are those of the Keyword Transformer on Speech Commands (Berg, O'Connor and Cruz, Interspeech 2021): 16 kHz,
//! windows of 30 ms every 10 ms, periodic Hann, magnitudes of a 512-point FFT, 80 mel bands (HTK) from 20 to 7600 Hz, the
//! natural logarithm of at least 1e-12 (full scale is 1), DCT-II with the factor `1 / sqrt(2 * 80)`, 40 coefficients.
//!
//! ```
//! use shiftformer::audio::{COEFFICIENTS, FrontEnd, mfcc};
//!
//! /// The coefficients of every frame of `samples`, with 16 fractional bits.
//! fn features(samples: &[i16]) -> Vec<[i32; COEFFICIENTS]> {
//!     let (mut front_end, mut rest, mut frames) = (FrontEnd::new(), samples, Vec::new());
//!     while front_end.fill(&mut rest) {
//!         frames.push(mfcc(&front_end.log_mel()));
//!     }
//!     frames
//! }
//! assert_eq!(features(&[0; 16_000]).len(), 98);
//! ```
//!
//! # Error
//!
//! Beside the same features in `f64`, over vowels, a chirp, noise of two loudnesses, clipped sound and silence: at most 0.021,
//! root of the mean square 0.0017, of values between -350 and 33. What the error is made of: samples are scaled so that the
//! loudest of a window takes 22 bits, magnitudes have 15 significant bits, logarithms are interpolated between 64 places
//! (5e-5). It is largest for a clean chirp, where most bands are 90 dB below the loudest one of their window.
//!
//! # Memory and time
//!
//! A [`FrontEnd`] is about 3 KB; the stack holds some hundred bytes more than the bands. A frame is an FFT of 256 complex
//! points, 243 integer square roots, 80 logarithms and 3,200 products.

mod fft;
mod spot;
mod tables;

use crate::arith::requant::{sat_i8, sat_i16};
pub use spot::{Heard, News};
use tables::{DCT, HANN, LOG2, PLACES};

/// Samples per second.
pub const SAMPLE_RATE: u32 = 16_000;
/// Samples of a frame: 30 ms.
pub const WINDOW: usize = 480;
/// Samples from one frame to the next: 10 ms.
pub const HOP: usize = 160;
/// Mel bands.
pub const MELS: usize = 80;
/// Coefficients of the cosine transform.
pub const COEFFICIENTS: usize = 40;
/// Fractional bits of features: `real = value / 2^16`.
pub const FRACTION_BITS: u32 = 16;

/// Bits of the loudest sample of a window before the transform: a sum of 480 such fits `i32`.
const SAMPLE_BITS: u32 = 22;
/// Fractional bits of magnitudes.
const MAGNITUDE_FRACTION: u32 = 8;
/// Fractional bits of the mel weights.
const WEIGHT_FRACTION: u32 = 16;
/// Fractional bits of a sample times the window, which has 24: fewer would be heard between the harmonics of clean sound.
const PRODUCT_FRACTION: i32 = 15 + 24;
/// `ln 2`, with 31 fractional bits.
const LN_2: i64 = 1_488_522_236;
/// `ln 1e-12`, with [`FRACTION_BITS`].
const SILENCE: i32 = -1_810_827;

/// Samples of the last window, and memory for their transform.
#[derive(Clone, Debug)]
pub struct FrontEnd {
    /// The oldest sample first.
    samples: [i16; WINDOW],
    held: usize,
    spectrum: fft::Points,
}

impl Default for FrontEnd {
    fn default() -> Self {
        Self::new()
    }
}

impl FrontEnd {
    /// Before the first sample.
    pub const fn new() -> Self {
        Self { samples: [0; WINDOW], held: 0, spectrum: [[0; 2]; fft::POINTS] }
    }

    /// Takes samples from the front of `rest` until the next window is complete: `true` then, `false` when there are too
    /// few, which are kept. The first window takes [`WINDOW`] samples, each further one [`HOP`].
    pub fn fill(&mut self, rest: &mut &[i16]) -> bool {
        if self.held == WINDOW {
            self.samples.copy_within(HOP.., 0);
            self.held = WINDOW - HOP;
        }
        let room = self.samples.get_mut(self.held..).unwrap_or(&mut []);
        let count = room.len().min(rest.len());
        let (taken, left) = rest.split_at_checked(count).unwrap_or((&[], &[]));
        room.iter_mut().zip(taken).for_each(|(to, &sample)| *to = sample);
        *rest = left;
        self.held += count;
        self.held == WINDOW
    }

    /// Logarithms of the mel bands of the window, with [`FRACTION_BITS`]. Samples that are missing count as 0.
    pub fn log_mel(&mut self) -> [i32; MELS] {
        let Some(scale) = self.window() else { return [SILENCE; MELS] };
        fft::transform(&mut self.spectrum);
        let mut bands = [0u64; MELS];
        for (bin, &place) in (1..).zip(&PLACES) {
            let magnitude = magnitude(fft::real_bin(&self.spectrum, bin));
            let (edge, beyond) = ((place >> WEIGHT_FRACTION) as usize, place & ((1 << WEIGHT_FRACTION) - 1));
            // A band rises from its edge to the next one, and falls to the one behind.
            if let Some(band) = bands.get_mut(edge) {
                *band += magnitude * u64::from(beyond);
            }
            if let Some(band) = edge.checked_sub(1).and_then(|band| bands.get_mut(band)) {
                *band += magnitude * u64::from((1 << WEIGHT_FRACTION) - beyond);
            }
        }
        let fraction = PRODUCT_FRACTION + scale + (MAGNITUDE_FRACTION + WEIGHT_FRACTION) as i32;
        bands.map(|band| logarithm(band, fraction))
    }

    /// Windowed samples as complex points, the even ones real; the power of two they were multiplied by. `None`: all are 0.
    fn window(&mut self) -> Option<i32> {
        let held = self.held;
        let product = |at: usize| {
            let sample = if at < held { self.samples.get(at).copied().unwrap_or(0) } else { 0 };
            i64::from(sample) * i64::from(HANN.get(at.min(WINDOW - at)).copied().unwrap_or(0))
        };
        let loudest = (0..WINDOW).map(|at| product(at).unsigned_abs()).max().unwrap_or(0);
        let scale = loudest.leading_zeros() as i32 - (u64::BITS - SAMPLE_BITS) as i32;
        let scaled = |at: usize| match (at < WINDOW, scale >= 0) {
            (false, _) => 0,
            (true, true) => (product(at) << scale) as i32,
            (true, false) => ((product(at) + (1 << (-scale - 1))) >> -scale) as i32,
        };
        self.spectrum = core::array::from_fn(|point| [scaled(2 * point), scaled(2 * point + 1)]);
        (loudest > 0).then_some(scale)
    }
}

/// `sqrt(re^2 + im^2)` with [`MAGNITUDE_FRACTION`], 15 significant bits or more.
fn magnitude([re, im]: [i32; 2]) -> u64 {
    const BITS: u32 = 15;
    let largest = re.unsigned_abs() | im.unsigned_abs();
    let excess = (u32::BITS - BITS) as i32 - largest.leading_zeros() as i32;
    let reduced = |x: i32| if excess > 0 { x >> excess } else { x << -excess };
    let [re, im] = [re, im].map(|x| reduced(x).unsigned_abs());
    let root = u64::from((re * re + im * im).isqrt());
    let shift = MAGNITUDE_FRACTION as i32 + excess;
    if shift >= 0 { root << shift } else { root >> -shift }
}

/// `ln(value / 2^fraction)`, of at least 1e-12, with [`FRACTION_BITS`].
fn logarithm(value: u64, fraction: i32) -> i32 {
    const STEPS_LOG2: u32 = 6;
    const TABLE_FRACTION: u32 = 24;
    if value == 0 {
        return SILENCE;
    }
    let zeros = value.leading_zeros();
    // The leading one is left out; the bits behind it choose the step, those behind them the place in it.
    let mantissa = ((value << zeros) >> 31) as u32;
    let step = (mantissa >> (32 - STEPS_LOG2)) as usize;
    let beyond = u64::from(mantissa << STEPS_LOG2);
    let [low, high] = [step, step + 1].map(|at| u64::from(LOG2.get(at).copied().unwrap_or(0)));
    let part = low + (((high - low) * beyond) >> 32);
    let octaves = i64::from(63 - zeros as i32 - fraction);
    let log2 = (octaves << TABLE_FRACTION) + part as i64;
    let ln = (log2 * LN_2) >> 31;
    let half = 1 << (TABLE_FRACTION - FRACTION_BITS - 1);
    (((ln + half) >> (TABLE_FRACTION - FRACTION_BITS)) as i32).max(SILENCE)
}

/// Mel-frequency cepstral coefficients of log-mel bands: `sum_j band_j cos(pi k (2j + 1) / 160) * 2 / sqrt(160)`.
pub fn mfcc(bands: &[i32; MELS]) -> [i32; COEFFICIENTS] {
    const DCT_FRACTION: u32 = 17;
    core::array::from_fn(|k| {
        let (mut at, mut sum) = (k, 1i64 << (DCT_FRACTION - 1));
        for &band in bands {
            sum += i64::from(band) * i64::from(DCT.get(at).copied().unwrap_or(0));
            at = (at + 2 * k) % DCT.len();
        }
        (sum >> DCT_FRACTION) as i32
    })
}

/// From features to the 8- or 16-bit input of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FeatureScale {
    /// Features to steps of the input: `2^-16 / scale * 2^shift`, rounded.
    pub multiplier: i32,
    /// At most 62.
    pub shift: u32,
    /// The input's zero point.
    pub zero_point: i32,
}

impl FeatureScale {
    /// `sat8(zero_point + round_half_up(feature * multiplier / 2^shift))`.
    pub fn quantize(self, feature: i32) -> i8 {
        sat_i8(self.steps(feature))
    }

    /// `sat16(zero_point + round_half_up(feature * multiplier / 2^shift))`.
    pub fn quantize_i16(self, feature: i32) -> i16 {
        sat_i16(self.steps(feature))
    }

    fn steps(self, feature: i32) -> i32 {
        let shift = self.shift.min(62);
        let half = if shift == 0 { 0 } else { 1i64 << (shift - 1) };
        let steps = (i64::from(feature) * i64::from(self.multiplier) + half) >> shift;
        // Beyond any zero point.
        let limit = 1 << 30;
        (steps.clamp(-limit, limit) as i32).saturating_add(self.zero_point)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    /// Sounds of all kinds and their features in `f64`: `scripts/audio_front_end.py`.
    const SAMPLES: &[u8] = include_bytes!("test_samples.bin");
    const FEATURES: &[u8] = include_bytes!("test_mfcc.bin");

    fn samples() -> Vec<i16> {
        SAMPLES.as_chunks::<2>().0.iter().map(|&bytes| i16::from_le_bytes(bytes)).collect()
    }

    fn features(mut rest: &[i16]) -> Vec<[i32; COEFFICIENTS]> {
        let (mut front_end, mut frames) = (FrontEnd::new(), Vec::new());
        while front_end.fill(&mut rest) {
            frames.push(mfcc(&front_end.log_mel()));
        }
        frames
    }

    #[test]
    fn features_are_those_of_floats() {
        let frames = features(&samples());
        let expected: Vec<f32> = FEATURES.as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
        assert_eq!(frames.len() * COEFFICIENTS, expected.len());
        let (mut largest, mut squares) = (0f64, 0f64);
        for (at, (&value, &expected)) in frames.as_flattened().iter().zip(&expected).enumerate() {
            let error = f64::from(value) / 65536.0 - f64::from(expected);
            assert!(error.abs() < 0.025, "frame {}, coefficient {}: {error}", at / COEFFICIENTS, at % COEFFICIENTS);
            largest = largest.max(error.abs());
            squares += error * error;
        }
        let rms = (squares / expected.len() as f64).sqrt();
        std::println!("largest error {largest}, rms {rms}");
        assert!(rms < 0.002, "root of the mean square {rms}");
    }

    #[test]
    fn frames_do_not_depend_on_how_samples_arrive() {
        let samples = samples();
        let whole = features(&samples);
        for size in [1, 7, 159, 160, 161, 479, 4096] {
            let (mut front_end, mut frames) = (FrontEnd::new(), Vec::new());
            for mut chunk in samples.chunks(size) {
                while front_end.fill(&mut chunk) {
                    frames.push(mfcc(&front_end.log_mel()));
                }
                assert!(chunk.is_empty());
            }
            assert!(frames == whole, "chunks of {size}");
        }
    }

    #[test]
    fn the_loudest_sounds_do_not_overflow() {
        for period in [1, 2, 3, 4, 5, 16, 480, 1000] {
            let samples: Vec<i16> = (0..960).map(|n| if n / period % 2 == 0 { i16::MIN } else { i16::MAX }).collect();
            // In the development profile arithmetic is checked.
            assert_eq!(features(&samples).len(), 4, "{period}");
        }
    }

    #[test]
    fn silence_is_the_least_logarithm() {
        let mut front_end = FrontEnd::new();
        assert!(front_end.fill(&mut &[0; WINDOW][..]));
        assert_eq!(front_end.log_mel(), [SILENCE; MELS]);
        // No sample at all is silence too.
        assert_eq!(FrontEnd::new().log_mel(), [SILENCE; MELS]);
    }

    #[test]
    fn logarithms_are_those_of_floats() {
        for value in (0..64).flat_map(|bit| [1u64 << bit, (1u64 << bit) | ((1u64 << bit) / 3), u64::MAX >> bit]) {
            for fraction in [0, 20, 60] {
                let exact = (value as f64 / 2f64.powi(fraction)).ln().max(1e-12f64.ln());
                let error = f64::from(logarithm(value, fraction)) / 65536.0 - exact;
                assert!(error.abs() < 6e-5, "{value} / 2^{fraction}: {error}");
            }
        }
    }

    #[test]
    fn features_are_scaled_with_one_rounding_and_saturate() {
        // Half a step of the input per unit.
        let scale = FeatureScale { multiplier: 1 << 14, shift: 31, zero_point: 3 };
        let unit = 1 << FRACTION_BITS;
        assert_eq!([0, unit, 2 * unit, -unit, -3 * unit].map(|x| scale.quantize(x)), [3, 4, 4, 3, 2]);
        assert_eq!([i32::MAX, i32::MIN].map(|x| scale.quantize(x)), [127, -128]);
        let largest = FeatureScale { multiplier: i32::MAX, shift: 0, zero_point: i32::MAX };
        assert_eq!([i32::MAX, i32::MIN].map(|x| largest.quantize(x)), [127, 127]);
    }
}
