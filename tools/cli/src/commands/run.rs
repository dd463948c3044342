//! `shiftformer run`.

use super::failure::{Failure, Verdict};
use super::inspect::read_model;
use super::threads::Threads;
use super::{data, output};
use serde::Serialize;
use shiftformer_convert::model_file::ModelFile;
use shiftformer_lab::backend::Sample;
use shiftformer_lab::eval::{logit_rows, logits_output};
use shiftformer_lab::media::image::Normalization;
use shiftformer_lab::media::{Converted, image, sound};
use shiftformer_lab::{backend, eval};
use std::path::PathBuf;

/// Where a model runs when nothing else is said.
const DEFAULT_BACKEND: &str = "portable";

#[derive(clap::Args)]
pub struct Args {
    /// The model.
    file: PathBuf,
    #[command(flatten)]
    input: InputArgs,
    /// Which sample of --data.
    #[arg(long, default_value_t = 0, conflicts_with_all = ["image", "audio"])]
    index: usize,
    /// Mean of the channels of --image, of x / 255, where the file has none; one value or one per channel.
    #[arg(long, requires_all = ["std", "image"], value_delimiter = ',', value_name = "MEAN", allow_negative_numbers = true)]
    mean: Vec<f64>,
    /// Standard deviation of the channels, as --mean.
    #[arg(long, requires_all = ["mean", "image"], value_delimiter = ',', value_name = "STD")]
    std: Vec<f64>,
    /// Classes to show.
    #[arg(long, default_value_t = 5)]
    top: usize,
    /// Where to run.
    #[arg(long, default_value = DEFAULT_BACKEND)]
    backend: String,
    #[command(flatten)]
    threads: Threads,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Where the sample comes from.
#[derive(clap::Args)]
#[group(required = true, multiple = false)]
struct InputArgs {
    /// Samples, as npz.
    #[arg(long, value_name = "DATA.npz")]
    data: Option<PathBuf>,
    /// A PNG or JPEG image: scaled until it covers the model's input, cropped at its middle.
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
    /// A WAV file, for models of 40 MFCC or 80 mel bands of 16 kHz sound: the first seconds, as many as the model takes.
    #[arg(long, value_name = "FILE.wav")]
    audio: Option<PathBuf>,
}

#[derive(Serialize)]
struct RunOutput {
    /// Number of the sample, or name of the file.
    sample: String,
    index: usize,
    backend: String,
    label: Option<i64>,
    /// The largest entries of the (first row of the) logits, best first.
    top: Vec<Entry>,
    outputs: Vec<Output>,
}

#[derive(Serialize)]
struct Entry {
    class: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    value: f32,
}

#[derive(Serialize)]
struct Output {
    name: String,
    shape: Vec<usize>,
    values: Vec<f32>,
}

/// Runs on the backend `name`, which the arguments leave open.
#[cfg(feature = "serial")]
pub fn on(mut args: Args, name: &str) -> Result<Verdict, Failure> {
    if args.backend != DEFAULT_BACKEND {
        return Err(Failure::Usage("the device runs the model: leave --backend out".to_owned()));
    }
    args.backend = name.to_owned();
    run(&args)
}

pub fn run(args: &Args) -> Result<Verdict, Failure> {
    args.threads.start()?;
    let model = read_model(&args.file)?;
    let Input { name, sample, label } = input(args, &model)?;
    let trace = backend::open(&args.backend, &model)?.run(&[sample])?.remove(0);
    let decode = |(index, bytes): (usize, &Vec<u8>)| Output {
        name: model.outputs().get(index).map_or_else(String::new, |o| o.name.clone()),
        shape: model.outputs().get(index).map_or_else(Vec::new, |o| o.shape.clone()),
        values: model.decode(index, bytes),
    };
    let outputs: Vec<Output> = trace.outputs.iter().enumerate().map(decode).collect();
    let logits = logits_output(&model);
    let values = outputs.get(logits).map_or(&[][..], |o| &o.values);
    let width = values.len() / logit_rows(&model, logits).max(1);
    let result = RunOutput {
        sample: name,
        index: args.index,
        backend: args.backend.clone(),
        label,
        top: top(&values[..width], args.top, |class| model.label(logits, class)),
        outputs,
    };
    if args.json {
        output::json(&result)?
    } else {
        print(&result)
    }
    Ok(Verdict::Passed)
}

/// A sample, what it is called, and its label where it has one.
struct Input {
    name: String,
    sample: Sample,
    label: Option<i64>,
}

fn input(args: &Args, model: &ModelFile) -> Result<Input, Failure> {
    let of_file = |path: &PathBuf, converted: Converted| {
        converted.notes.iter().for_each(|note| output::status(&format!("note: {note}")));
        Input { name: path.display().to_string(), sample: vec![converted.bytes], label: None }
    };
    if let Some(path) = &args.input.image {
        let normalization = normalization(args)?;
        return Ok(of_file(path, image::sample(model, path, normalization.as_ref())?));
    }
    if let Some(path) = &args.input.audio {
        return Ok(of_file(path, sound::sample(model, path)?));
    }
    let Some(path) = &args.input.data else {
        return Err(Failure::Usage("pass --data, --image or --audio".to_owned()));
    };
    let data = data::open(path)?;
    if args.index >= data.samples() {
        let (index, last) = (args.index, data.samples() - 1);
        return Err(Failure::Usage(format!("--index {index} is beyond the data; the last sample is {last}")));
    }
    let sample = data::samples(model, &data, &[args.index])?.remove(0);
    Ok(Input { name: args.index.to_string(), sample, label: eval::label(&data, args.index) })
}

/// What --mean and --std say.
fn normalization(args: &Args) -> Result<Option<Normalization>, Failure> {
    let (mean, std) = (args.mean.clone(), args.std.clone());
    if mean.is_empty() && std.is_empty() {
        return Ok(None);
    }
    if !mean.iter().all(|x| x.is_finite()) || !std.iter().all(|&x| x.is_finite() && x > 0.0) {
        return Err(Failure::Usage("--mean and --std must be finite, --std above 0".to_owned()));
    }
    Ok(Some(Normalization { mean, std }))
}

fn top(values: &[f32], count: usize, name: impl Fn(usize) -> Option<String>) -> Vec<Entry> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[b].total_cmp(&values[a]));
    order.into_iter().take(count).map(|class| Entry { class, name: name(class), value: values[class] }).collect()
}

fn print(result: &RunOutput) {
    let label = result.label.map_or_else(String::new, |l| format!(", label {l}"));
    output::print(&format!("sample {} on {}{label}\n", result.sample, result.backend));
    let names = result.top.iter().filter_map(|entry| entry.name.as_ref()).map(|name| name.chars().count());
    let width = names.max().unwrap_or(0);
    for (place, entry) in result.top.iter().enumerate() {
        let name = entry.name.as_ref().map_or_else(String::new, |name| format!("{name:<width$} "));
        output::print(&format!("{:>3}. class {:<6} {name}{:>10.4}\n", place + 1, entry.class, entry.value));
    }
}
