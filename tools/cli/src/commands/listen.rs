//! `shiftformer listen`.

use super::inspect::read_model;
use super::{Failure, Verdict, output};
use serde::Serialize;
use shiftformer::audio::{FrontEnd, HOP, Heard, News, SAMPLE_RATE, WINDOW};
use shiftformer::kernels::Native;
use shiftformer::text::Logits;
use shiftformer::{AlignedBytes, Session};
use shiftformer_lab::backend::BackendError;
use shiftformer_lab::eval::logits_output;
use shiftformer_lab::media::sound::{Listener, logit_units};
use std::collections::VecDeque;
use std::io::{ErrorKind, Read};
use std::path::PathBuf;

/// Bytes that are read at a time: a tenth of a second.
const CHUNK_BYTES: usize = SAMPLE_RATE as usize / 10 * size_of::<i16>();
/// How a WAV file begins.
const RIFF: &[u8] = b"RIFF";
/// A probability of 1.
const ONE: f32 = 65536.0;
/// Frames in a second.
const FRAMES_PER_S: f64 = SAMPLE_RATE as f64 / HOP as f64;

#[derive(clap::Args)]
#[command(
    after_help = "Samples are signed 16-bit, little-endian, one channel, without a header:\n  arecord -q -t raw -f S16_LE -r 16000 -c 1 | shiftformer listen kws.sfm"
)]
pub struct Args {
    /// The model: frames of 40 MFCC or 80 mel bands.
    file: PathBuf,
    /// Seconds from one answer to the next.
    #[arg(long, value_name = "S", default_value_t = 0.25)]
    every: f64,
    /// Print a class from this probability on.
    #[arg(long, value_name = "P", default_value_t = 0.6)]
    threshold: f32,
    /// Print every answer, whatever its probability and also where the class stays the same.
    #[arg(long)]
    all: bool,
    /// Print one JSON object per line.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Answer {
    /// End of the sound that was judged, in seconds from the start of the stream.
    seconds: f64,
    class: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    probability: f32,
}

pub fn run(args: &Args) -> Result<Verdict, Failure> {
    let stride = (args.every * FRAMES_PER_S).round();
    if !(1.0..=f64::from(u16::MAX)).contains(&stride) {
        return Err(Failure::Usage("--every must be at least 0.01 seconds and at most 655".to_owned()));
    }
    if !(0.0..=1.0).contains(&args.threshold) {
        return Err(Failure::Usage("--threshold is a probability, 0 to 1".to_owned()));
    }
    let file = read_model(&args.file)?;
    let listener = Listener::of(&file)?;
    let model = file.open::<Native>().map_err(|error| Failure::Backend(error.into()))?;
    let mut arena = AlignedBytes::zeroed(model.arena_bytes());
    let fault = |why: String| Failure::Backend(BackendError::Run { backend: "native".to_owned(), why });
    let mut session = Session::new(&model, &mut arena).map_err(|error| fault(error.to_string()))?;
    let logits = logits_output(&file);
    let (mut front_end, mut stream) = (FrontEnd::new(), Stream::new());
    let units = file.outputs().get(logits).map_or(0, |output| logit_units(file.units(output.tensor).0));
    let mut news = News::new((args.threshold * ONE).ceil() as u32);
    let (mut frames, mut heard) = (VecDeque::new(), 0u64);
    while let Some(samples) = stream.read()? {
        let mut rest = &samples[..];
        while front_end.fill(&mut rest) {
            if frames.len() == listener.frames {
                frames.pop_front();
            }
            frames.push_back(listener.frame(&mut front_end));
            heard += 1;
            let beyond = heard.checked_sub(listener.frames as u64);
            if !beyond.is_some_and(|beyond| beyond.is_multiple_of(stride as u64)) {
                continue;
            }
            let bytes = listener.encode(frames.iter().flatten().copied());
            let input = session.input_mut(0).filter(|input| input.len() == bytes.len());
            input.ok_or_else(|| fault("the input has another size".to_owned()))?.copy_from_slice(&bytes);
            session.run().map_err(|error| fault(error.to_string()))?;
            let bytes = session.output(logits).unwrap_or(&[]);
            let row = model.output(logits).and_then(|tensor| Logits::row(&tensor, bytes, 0));
            let integers = row.and_then(|row| Heard::of(row, units));
            let Some(answer) = best(&file.decode(logits, bytes), integers) else { continue };
            // Both sides keep count: what is new does not depend on what is printed.
            let new = news.is_new(answer);
            if args.all || new {
                print(args, heard, answer, file.label(logits, answer.class as usize))?;
            }
        }
    }
    let needed = listener.samples();
    if stream.samples < needed as u64 {
        let seconds = |n: f64| n / f64::from(SAMPLE_RATE);
        let (given, needed) = (seconds(stream.samples as f64), seconds(needed as f64));
        return Err(Failure::Usage(format!(
            "the stream ended after {given:.2} s; the model needs {needed:.2} s of 16-bit samples at {SAMPLE_RATE} Hz"
        )));
    }
    if stream.half.is_some() {
        output::status("note: the stream ended in the middle of a sample, which is left out");
    }
    Ok(Verdict::Passed)
}

/// Samples of standard input.
struct Stream {
    /// The first byte of a sample whose second one has not arrived.
    half: Option<u8>,
    samples: u64,
}

impl Stream {
    fn new() -> Self {
        Self { half: None, samples: 0 }
    }

    /// The next samples; `None` at the end.
    fn read(&mut self) -> Result<Option<Vec<i16>>, Failure> {
        let mut bytes = vec![0; CHUNK_BYTES];
        let count = loop {
            match std::io::stdin().read(&mut bytes) {
                Ok(count) => break count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(source) => return Err(Failure::Read { path: PathBuf::from("standard input"), source }),
            }
        };
        if count == 0 {
            return Ok(None);
        }
        bytes.truncate(count);
        if self.samples == 0 && self.half.is_none() && bytes.starts_with(RIFF) {
            return Err(Failure::Usage(
                "standard input is a WAV file; use `shiftformer run --audio`, or record with `arecord -t raw`"
                    .to_owned(),
            ));
        }
        let all: Vec<u8> = self.half.take().into_iter().chain(bytes).collect();
        let (pairs, half) = all.as_chunks::<2>();
        self.half = half.first().copied();
        self.samples += pairs.len() as u64;
        Ok(Some(pairs.iter().map(|&pair| i16::from_le_bytes(pair)).collect()))
    }
}

/// The most likely class: values that are probabilities as they are, others as logits, by `integers` where the output is of
/// 8 or 16 bits. A single value is the probability of class 0.
fn best(values: &[f32], integers: Option<Heard>) -> Option<Heard> {
    let (class, &top) = values.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1))?;
    let of = |probability: f32| Heard { class: class as u32, probability: (probability * ONE).round() as u32 };
    let sum: f32 = values.iter().sum();
    let probabilities =
        values.iter().all(|x| (-0.01..=1.01).contains(x)) && (values.len() == 1 || (sum - 1.0).abs() < 0.05);
    if probabilities {
        return Some(of(top.clamp(0.0, 1.0)));
    }
    if values.len() == 1 {
        return Some(of(1.0 / (1.0 + (-top).exp())));
    }
    integers.or_else(|| Some(of(1.0 / values.iter().map(|x| (x - top).exp()).sum::<f32>())))
}

/// `frames`: how many there have been.
fn print(args: &Args, frames: u64, heard: Heard, name: Option<String>) -> Result<(), Failure> {
    let seconds = (frames - 1) as f64 / FRAMES_PER_S + WINDOW as f64 / f64::from(SAMPLE_RATE);
    let (class, probability) = (heard.class as usize, heard.probability as f32 / ONE);
    if args.json {
        let answer = Answer { seconds, class, name, probability };
        output::print(&(serde_json::to_string(&answer)? + "\n"));
        return Ok(());
    }
    let name = name.unwrap_or_else(|| format!("class {class}"));
    let percent = heard.percent();
    output::print(&format!("{seconds:>9.2} s  {name:<16} {}.{:02}\n", percent / 100, percent % 100));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logits_and_probabilities_have_the_same_best_class() {
        let heard = best(&[1.0, 3.0, 1.0], None).unwrap();
        assert_eq!(heard.class, 1);
        assert!((heard.probability as f32 / ONE - 1.0 / (1.0 + 2.0 * (-2f32).exp())).abs() < 2e-5);
        assert_eq!(best(&[0.1, 0.2, 0.7], None), Some(Heard { class: 2, probability: 45_875 }));
        assert_eq!(best(&[0.25], None), Some(Heard { class: 0, probability: 1 << 14 }));
        assert_eq!(best(&[], None), None);
        let integers = Heard { class: 1, probability: 50_000 };
        assert_eq!(best(&[1.0, 3.0, 1.0], Some(integers)), Some(integers));
    }
}
