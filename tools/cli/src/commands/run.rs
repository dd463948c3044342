//! `shiftformer run`.

use super::failure::{Failure, Verdict};
use super::inspect::read_model;
use super::threads::Threads;
use super::{data, output};
use serde::Serialize;
use shiftformer_lab::eval::{logit_rows, logits_output};
use shiftformer_lab::{backend, eval};
use std::path::PathBuf;

#[derive(clap::Args)]
pub struct Args {
    /// The model.
    file: PathBuf,
    /// Samples, as npz.
    #[arg(long)]
    data: PathBuf,
    /// Which sample.
    #[arg(long, default_value_t = 0)]
    index: usize,
    /// Classes to show.
    #[arg(long, default_value_t = 5)]
    top: usize,
    /// Where to run.
    #[arg(long, default_value = "portable")]
    backend: String,
    #[command(flatten)]
    threads: Threads,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct RunOutput {
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
    value: f32,
}

#[derive(Serialize)]
struct Output {
    name: String,
    shape: Vec<usize>,
    values: Vec<f32>,
}

pub fn run(args: &Args) -> Result<Verdict, Failure> {
    args.threads.start()?;
    let model = read_model(&args.file)?;
    let data = data::open(&args.data)?;
    if args.index >= data.samples() {
        let (index, last) = (args.index, data.samples() - 1);
        return Err(Failure::Usage(format!("--index {index} is beyond the data; the last sample is {last}")));
    }
    let sample = data::samples(&model, &data, &[args.index])?;
    let trace = backend::open(&args.backend, &model)?.run(&sample)?.remove(0);
    let decode = |(index, bytes): (usize, &Vec<u8>)| Output {
        name: model.outputs().get(index).map_or_else(String::new, |o| o.name.clone()),
        shape: model.outputs().get(index).map_or_else(Vec::new, |o| o.shape.clone()),
        values: model.decode(index, bytes),
    };
    let outputs: Vec<Output> = trace.outputs.iter().enumerate().map(decode).collect();
    let logits = logits_output(&model);
    let values = outputs.get(logits).map_or(&[][..], |o| &o.values);
    let width = values.len() / logit_rows(&model, logits).max(1);
    let label = eval::label(&data, args.index);
    let result = RunOutput {
        index: args.index,
        backend: args.backend.clone(),
        label,
        top: top(&values[..width], args.top),
        outputs,
    };
    if args.json {
        output::json(&result)?
    } else {
        print(&result)
    }
    Ok(Verdict::Passed)
}

fn top(values: &[f32], count: usize) -> Vec<Entry> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[b].total_cmp(&values[a]));
    order.into_iter().take(count).map(|class| Entry { class, value: values[class] }).collect()
}

fn print(result: &RunOutput) {
    let label = result.label.map_or_else(String::new, |l| format!(", label {l}"));
    output::print(&format!("sample {} on {}{label}\n", result.index, result.backend));
    for (place, entry) in result.top.iter().enumerate() {
        output::print(&format!("{:>3}. class {:<6} {:>10.4}\n", place + 1, entry.class, entry.value));
    }
}
