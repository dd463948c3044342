//! `shiftformer listen`.

use super::inspect::read_model;
use super::{Failure, Verdict, output};
use serde::Serialize;
use shiftformer::audio::{FrontEnd, HOP, SAMPLE_RATE};
use shiftformer::kernels::Native;
use shiftformer::{AlignedBytes, Session};
use shiftformer_lab::backend::BackendError;
use shiftformer_lab::eval::logits_output;
use shiftformer_lab::media::sound::Listener;
use std::collections::VecDeque;
use std::io::{ErrorKind, Read};
use std::path::PathBuf;

/// Bytes that are read at a time: a tenth of a second.
const CHUNK_BYTES: usize = SAMPLE_RATE as usize / 10 * size_of::<i16>();
/// How a WAV file begins.
const RIFF: &[u8] = b"RIFF";
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
struct Heard {
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
    let (mut frames, mut heard, mut last) = (VecDeque::new(), 0u64, None);
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
            let values = file.decode(logits, session.output(logits).unwrap_or(&[]));
            let Some((class, probability)) = best(&values) else { continue };
            let news = probability >= args.threshold && last != Some(class);
            if args.all || news {
                let end =
                    (heard - 1) as f64 / FRAMES_PER_S + shiftformer::audio::WINDOW as f64 / f64::from(SAMPLE_RATE);
                print(args, &Heard { seconds: end, class, name: file.label(logits, class), probability })?;
            }
            last = (probability >= args.threshold).then_some(class);
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

/// The most likely class and its probability: values that are probabilities as they are, others as logits. A single value
/// is the probability of class 0.
fn best(values: &[f32]) -> Option<(usize, f32)> {
    let (class, &top) = values.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1))?;
    let sum: f32 = values.iter().sum();
    let probabilities =
        values.iter().all(|x| (-0.01..=1.01).contains(x)) && (values.len() == 1 || (sum - 1.0).abs() < 0.05);
    if probabilities {
        return Some((class, top.clamp(0.0, 1.0)));
    }
    if values.len() == 1 {
        return Some((class, 1.0 / (1.0 + (-top).exp())));
    }
    Some((class, 1.0 / values.iter().map(|x| (x - top).exp()).sum::<f32>()))
}

fn print(args: &Args, heard: &Heard) -> Result<(), Failure> {
    if args.json {
        output::print(&(serde_json::to_string(heard)? + "\n"));
        return Ok(());
    }
    let name = heard.name.clone().unwrap_or_else(|| format!("class {}", heard.class));
    output::print(&format!("{:>9.2} s  {name:<16} {:.2}\n", heard.seconds, heard.probability));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logits_and_probabilities_have_the_same_best_class() {
        let (class, probability) = best(&[1.0, 3.0, 1.0]).unwrap();
        assert_eq!(class, 1);
        assert!((probability - 1.0 / (1.0 + 2.0 * (-2f32).exp())).abs() < 1e-6);
        assert_eq!(best(&[0.1, 0.2, 0.7]), Some((2, 0.7)));
        assert_eq!(best(&[0.25]), Some((0, 0.25)));
        assert_eq!(best(&[]), None);
    }
}
