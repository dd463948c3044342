//! WAV files and streams of samples, by the integer front end of the runtime.

use super::{Converted, MediaError, read, takes};
use hound::{SampleFormat, WavReader};
use shiftformer::audio::{COEFFICIENTS, FRACTION_BITS, FeatureScale, FrontEnd, HOP, MELS, SAMPLE_RATE, WINDOW, mfcc};
use shiftformer::tensor::Dtype;
use shiftformer_convert::model_file::ModelFile;
use std::f64::consts::{LOG2_E, PI};
use std::io::Cursor;
use std::ops::RangeInclusive;
use std::path::Path;

/// Rates that are converted to [`SAMPLE_RATE`].
pub const RATES: RangeInclusive<u32> = 4_000..=384_000;

/// What a model is fed with: frames of features, the oldest first.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Listener {
    /// Frames of an input.
    pub frames: usize,
    width: usize,
    /// Whether the input has 16 bits.
    wide: bool,
    scale: f64,
    zero: f64,
}

impl Listener {
    /// For a model with one input of frames of 40 coefficients or 80 mel bands.
    ///
    /// # Errors
    /// [`MediaError::Kind`] when the model takes something else.
    pub fn of(model: &ModelFile) -> Result<Self, MediaError> {
        let fail = || MediaError::Kind { takes: takes(model), kind: "sound (frames of 40 MFCC or 80 mel bands)" };
        let ([input], Some(dtype)) = (model.inputs(), model.input_dtype(0)) else { return Err(fail()) };
        let (scale, zero) = model.units(input.tensor);
        let sizes: Vec<usize> = input.shape.iter().copied().filter(|&size| size != 1).collect();
        match (sizes.as_slice(), dtype) {
            (&[frames, width @ (COEFFICIENTS | MELS)], Dtype::I8 | Dtype::I16) => {
                Ok(Self { frames, width, wide: dtype == Dtype::I16, scale, zero })
            }
            _ => Err(fail()),
        }
    }

    /// Samples that the frames cover.
    pub fn samples(&self) -> usize {
        self.frames.saturating_sub(1) * HOP + WINDOW
    }

    /// Values of the frame that the front end has, in the units of the runtime's features.
    pub fn frame(&self, front_end: &mut FrontEnd) -> Vec<i32> {
        let bands = front_end.log_mel();
        if self.width == MELS { bands.to_vec() } else { mfcc(&bands).to_vec() }
    }

    /// Bytes of the input for its frames.
    pub fn encode(&self, frames: impl Iterator<Item = i32>) -> Vec<u8> {
        let scale = feature_scale(self.scale, self.zero);
        if self.wide {
            frames.flat_map(|feature| scale.quantize_i16(feature).to_le_bytes()).collect()
        } else {
            frames.map(|feature| scale.quantize(feature) as u8).collect()
        }
    }
}

/// From features to an input of this scale and zero: the multiplier has 31 bits.
pub fn feature_scale(scale: f64, zero: f64) -> FeatureScale {
    let ratio = 1.0 / (scale * f64::from(1u32 << FRACTION_BITS));
    let shift = (30 - ratio.log2().floor() as i64).clamp(0, 62) as u32;
    let multiplier = (ratio * 2f64.powi(shift as i32)).round().min(f64::from(i32::MAX)) as i32;
    FeatureScale { multiplier, shift, zero_point: zero.round() as i32 }
}

/// Whether an input of this shape takes frames of features: 40 coefficients or 80 mel bands.
pub fn takes_frames(shape: &[usize]) -> bool {
    matches!(shape.iter().copied().filter(|&size| size != 1).collect::<Vec<_>>()[..], [_, COEFFICIENTS | MELS])
}

/// One step of logits of this scale, as [`Heard::of`](shiftformer::audio::Heard::of) takes it.
pub fn logit_units(scale: f64) -> u32 {
    // Beyond a step of 256 octaves all but the largest have no share.
    (scale * LOG2_E * f64::from(1u32 << 24)).round() as u32
}

/// The first seconds of a WAV file as bytes of the model's only input.
///
/// # Errors
/// [`MediaError`].
pub fn sample(model: &ModelFile, path: &Path) -> Result<Converted, MediaError> {
    let listener = Listener::of(model)?;
    let (mut samples, mut notes) = wav(path)?;
    let (given, taken) = (samples.len(), listener.samples());
    let seconds = |n: usize| n as f64 / f64::from(SAMPLE_RATE);
    if given < taken {
        notes.push(format!("{:.2} s of sound; silence follows up to {:.2} s", seconds(given), seconds(taken)));
        samples.resize(taken, 0);
    } else if given >= taken + HOP {
        let what = "`shiftformer listen` takes all of a stream";
        notes.push(format!("the first {:.2} of {:.2} s; {what}", seconds(taken), seconds(given)));
    }
    let (mut front_end, mut rest, mut frames) = (FrontEnd::new(), &samples[..taken], Vec::new());
    while front_end.fill(&mut rest) {
        frames.extend(listener.frame(&mut front_end));
    }
    Ok(Converted { bytes: listener.encode(frames.into_iter()), notes })
}

/// The samples of a file at [`SAMPLE_RATE`], one channel.
fn wav(path: &Path) -> Result<(Vec<i16>, Vec<String>), MediaError> {
    let damaged = |error: hound::Error| MediaError::Damaged {
        path: path.to_owned(),
        why: error.to_string().trim_end_matches('.').to_owned(),
        expected: "WAV",
    };
    let mut reader = WavReader::new(Cursor::new(read(path)?)).map_err(damaged)?;
    let spec = reader.spec();
    let values: Result<Vec<f64>, hound::Error> = match spec.sample_format {
        SampleFormat::Float => reader.samples::<f32>().map(|x| x.map(f64::from)).collect(),
        SampleFormat::Int => {
            let one = f64::from(1u32 << (spec.bits_per_sample.clamp(1, 32) - 1));
            reader.samples::<i32>().map(|x| x.map(|x| f64::from(x) / one)).collect()
        }
    };
    let mut notes = Vec::new();
    let channels = usize::from(spec.channels.max(1));
    let mut values: Vec<f64> = values
        .map_err(damaged)?
        .chunks(channels)
        .map(|frame| frame.iter().sum::<f64>() / channels as f64)
        .map(|x| if x.is_finite() { x } else { 0.0 })
        .collect();
    if values.is_empty() {
        return Err(MediaError::Empty(path.to_owned()));
    }
    if channels > 1 {
        notes.push(format!("the mean of {channels} channels"));
    }
    if spec.sample_rate != SAMPLE_RATE {
        if !RATES.contains(&spec.sample_rate) {
            return Err(MediaError::Rate { path: path.to_owned(), rate: spec.sample_rate });
        }
        values = resample(&values, spec.sample_rate);
        notes.push(format!("from {} to {SAMPLE_RATE} samples per second", spec.sample_rate));
    }
    let limit = |x: f64| (x * 32768.0).round().clamp(-32768.0, 32767.0) as i16;
    Ok((values.into_iter().map(limit).collect(), notes))
}

/// Zero crossings of the interpolating sine on each side.
const CROSSINGS: f64 = 16.0;

/// `values` at [`SAMPLE_RATE`]: a windowed sinc, its pass band that of the lower of both rates.
fn resample(values: &[f64], rate: u32) -> Vec<f64> {
    let ratio = f64::from(rate) / f64::from(SAMPLE_RATE);
    // In samples of the source: wider where the target is the slower one.
    let stretch = ratio.max(1.0);
    let reach = CROSSINGS * stretch;
    let count = (values.len() as u64 * u64::from(SAMPLE_RATE)).div_ceil(u64::from(rate));
    (0..count)
        .map(|at| {
            let place = at as f64 * ratio;
            let first = (place - reach).ceil().max(0.0) as usize;
            let last = ((place + reach).floor() as usize).min(values.len() - 1);
            let (mut sum, mut weights) = (0.0, 0.0);
            for (index, value) in values.iter().enumerate().take(last + 1).skip(first) {
                let x = (index as f64 - place) / stretch;
                let sinc = if x == 0.0 { 1.0 } else { (PI * x).sin() / (PI * x) };
                let weight = sinc * (0.5 + 0.5 * (PI * x / CROSSINGS).cos());
                (sum, weights) = (sum + weight * value, weights + weight);
            }
            if weights == 0.0 { 0.0 } else { sum / weights }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_rates_sound_the_same() {
        let tone = |rate: u32, n: usize| -> Vec<f64> {
            (0..n).map(|at| (2.0 * PI * 1000.0 * at as f64 / f64::from(rate)).sin()).collect()
        };
        for rate in [8_000, 22_050, 44_100, 48_000] {
            let seconds = rate as usize / 4;
            let resampled = resample(&tone(rate, seconds), rate);
            let expected = tone(SAMPLE_RATE, resampled.len());
            assert_eq!(resampled.len(), 4000);
            // Beyond the ends there is nothing to interpolate.
            for (at, (x, y)) in resampled.iter().zip(&expected).enumerate().skip(100).take(3800) {
                assert!((x - y).abs() < 0.01, "{rate}, sample {at}: {x}, {y}");
            }
        }
    }

    #[test]
    fn the_integer_scale_is_the_real_one() {
        for (scale, zero) in [(0.3, 12.0), (1e-4, -128.0), (0.0078125, 0.0), (50.0, 3.0)] {
            let of = feature_scale(scale, zero);
            for real in [-41.3, -1.0, -0.004, 0.0, 0.5, 3.25, 14.8] {
                let feature = (real * 65536.0) as i32;
                let exact = (f64::from(feature) / 65536.0 / scale + zero + 0.5).floor().clamp(-128.0, 127.0);
                assert_eq!(f64::from(of.quantize(feature)), exact, "{real} in steps of {scale}");
            }
        }
    }
}
