//! `shiftformer parity`.

use super::failure::{Failure, Verdict};
use super::inspect::read_model;
use super::output::OutputFile;
use super::threads::Threads;
use super::{data, output};
use serde::Serialize;
use shiftformer::kernels::Portable;
use shiftformer::text::Tokenizer;
use shiftformer_convert::model_file::ModelFile;
use shiftformer_convert::sequences::Sequences;
use shiftformer_lab::backend::Sample;
use shiftformer_lab::parity::{BackendRun, Comparison, Difference, Reproducer, compare, compare_repeated};
use shiftformer_lab::sequence::{self, SequenceComparison, SequenceDifference, Way};
use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::PathBuf;

#[derive(clap::Args)]
pub struct Args {
    /// The model.
    file: PathBuf,
    /// Samples, as npz; for a decoder sequences, or a text file. Its logits are compared over prompts and over single steps.
    #[arg(long)]
    data: PathBuf,
    /// Backends to compare, the first is the reference: portable, native, gpu, qemu:BOARD. `NAME@corrupt-weight:OFFSET`
    /// runs NAME on a copy of the model with one bit of one weight flipped, to see that the difference is found.
    #[arg(long, value_delimiter = ',', required = true)]
    backends: Vec<String>,
    /// Use only the first N samples.
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Compare N samples: those of the data again and again, a part of them held at a time. The report says how fast each
    /// backend was
    #[arg(long, value_name = "N", conflicts_with = "digests")]
    repeat: Option<NonZeroUsize>,
    /// Where to save a minimal reproducer of the first difference: STEM.sfm and STEM.npz.
    #[arg(long, value_name = "STEM", default_value = "parity-difference")]
    save: PathBuf,
    /// With --json, print the digest of every operator's output too, by backend and sample.
    #[arg(long, requires = "json")]
    digests: bool,
    #[command(flatten)]
    threads: Threads,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct ParityOutput<'a> {
    #[serde(flatten)]
    comparison: &'a Comparison,
    reproducer: Option<Saved>,
    #[serde(skip_serializing_if = "Option::is_none")]
    digests: Option<BTreeMap<&'a str, Vec<Vec<String>>>>,
}

#[derive(Serialize)]
struct Saved {
    model: PathBuf,
    data: PathBuf,
    /// What shows the difference again.
    command: String,
}

pub fn run(args: &Args) -> Result<Verdict, Failure> {
    if args.backends.len() < 2 {
        return Err(Failure::Usage("--backends needs at least two names, e.g. --backends portable,native".to_owned()));
    }
    args.threads.start()?;
    let model = read_model(&args.file)?;
    if sequence::shape(&model).is_ok() {
        return on_sequences(args, &model);
    }
    let data = data::open(&args.data)?;
    let samples = data::samples(&model, &data, &data::first(&data, args.limit)?)?;
    let parse = |name: &String| BackendRun::parse(name, &model);
    let contestants: Vec<BackendRun> = args.backends.iter().map(parse).collect::<Result<_, _>>()?;
    let spinner = data::spinner();
    let comparison = match args.repeat {
        Some(total) => compare_repeated(&model, &contestants, &samples, total.get(), |name, done| {
            spinner.set_message(format!("{done} of {total} samples compared, {name} at work"));
        }),
        None => compare(&model, &contestants, &samples, |name| {
            spinner.set_message(format!("{} samples on {name}", samples.len()));
        }),
    }?;
    spinner.finish_and_clear();
    let reproducer = match comparison.differences.first() {
        Some(difference) => save(args, &model, &contestants[0], difference, &samples[difference.sample])?,
        None => None,
    };
    let equal = comparison.equal;
    if args.json {
        let digests = args.digests.then(|| digests(&comparison));
        output::json(&ParityOutput { comparison: &comparison, reproducer, digests })?;
    } else {
        output::print(&report(&comparison, reproducer.as_ref()));
        if args.repeat.is_some() {
            output::print(&speeds(&comparison));
        }
    }
    Ok(if equal { Verdict::Passed } else { Verdict::Failed })
}

/// A decoder over sequences: prompts and single steps.
fn on_sequences(args: &Args, model: &ModelFile) -> Result<Verdict, Failure> {
    if args.repeat.is_some() {
        return Err(Failure::Usage(
            "a decoder is compared over its sequences once; --repeat is for other models".to_owned(),
        ));
    }
    if args.digests {
        return Err(Failure::Usage("a decoder is compared by its logits; --digests is for other models".to_owned()));
    }
    let opened = model.open::<Portable>().map_err(|e| Failure::Backend(e.into()))?;
    let tokenizer = Tokenizer::open(opened.sections()).map_err(|error| Failure::Usage(error.to_string()))?;
    let context = sequence::shape(model)?.context;
    let sequences = Sequences::open_with(&args.data, tokenizer.as_ref(), context)?;
    let comparison = sequence::compare(model, &args.backends, &sequences, args.limit)?;
    if args.json {
        output::json(&comparison)?;
    } else if comparison.equal {
        let SequenceComparison { sequences, tokens, backends, .. } = &comparison;
        output::print(&format!(
            "equal: logits of {tokens} tokens of {sequences} sequences, as prompts and token by token, on {}\n",
            backends.join(", ")
        ));
    } else {
        for SequenceDifference { backend, way, sequence, token, logit } in &comparison.differences {
            let way = match way {
                Way::Prefill => "as prompts",
                Way::Steps => "token by token",
            };
            output::print(&format!(
                "{backend}, {way}, differs from {}: first at sequence {sequence}, token {token}, logit {logit}\n",
                args.backends[0]
            ));
        }
    }
    Ok(if comparison.equal { Verdict::Passed } else { Verdict::Failed })
}

/// The digests in hexadecimal, as JSON numbers have only 53 bits.
fn digests(comparison: &Comparison) -> BTreeMap<&str, Vec<Vec<String>>> {
    let hex = |ops: &Vec<u64>| ops.iter().map(|digest| format!("{digest:016x}")).collect();
    let of = |samples: &Vec<Vec<u64>>| samples.iter().map(hex).collect();
    comparison.backends.iter().map(String::as_str).zip(comparison.digests.iter().map(of)).collect()
}

fn save(
    args: &Args,
    model: &ModelFile,
    reference: &BackendRun,
    difference: &Difference,
    sample: &Sample,
) -> Result<Option<Saved>, Failure> {
    let Some(reproducer) = Reproducer::of(model, reference, difference, sample)? else { return Ok(None) };
    let (model, data) = (args.save.with_extension("sfm"), args.save.with_extension("npz"));
    let backends = format!("{},{}", args.backends[0], difference.backend);
    let command = format!("shiftformer parity {} --data {} --backends {backends}", model.display(), data.display());
    let saved = Saved { model, data, command };
    OutputFile::create(&saved.model)?.finish(&reproducer.model)?;
    OutputFile::create(&saved.data)?.finish(&reproducer.data)?;
    Ok(Some(saved))
}

fn report(comparison: &Comparison, saved: Option<&Saved>) -> String {
    let Comparison { samples, ops, backends, .. } = comparison;
    if comparison.equal {
        return format!("equal: {ops} operators x {samples} samples on {}\n", backends.join(", "));
    }
    let mut text: String = comparison.differences.iter().map(|d| difference_text(d, &backends[0])).collect();
    if let Some(saved) = saved {
        text += &format!("reproduce with\n  {}\n", saved.command);
    }
    text
}

/// How fast each backend was, and which of them the others waited for.
fn speeds(comparison: &Comparison) -> String {
    let sides = || comparison.backends.iter().zip(&comparison.seconds);
    let line = |(name, seconds): (&String, &f64)| {
        format!("{name}: {seconds:.2} s, {:.0} samples/s\n", comparison.samples as f64 / seconds.max(f64::MIN_POSITIVE))
    };
    let slowest = sides().max_by(|a, b| a.1.total_cmp(b.1)).map(|(name, _)| name.as_str());
    let lines: String = sides().map(line).collect();
    lines + &slowest.map_or_else(String::new, |name| format!("{name} bounds the comparison\n"))
}

fn difference_text(d: &Difference, reference: &str) -> String {
    let mut text = format!(
        "{} differs from {reference} on {} samples\n  first at operator {} `{}` ({}), sample {}",
        d.backend, d.samples_that_differ, d.op, d.name, d.kind, d.sample
    );
    match (d.element, d.reference_value, d.value) {
        (Some(element), Some(ours), Some(theirs)) => {
            text += &format!(
                "\n  element {element} {:?}: {ours} on {reference}, {theirs} on {}; {} elements differ",
                d.index, d.backend, d.elements_that_differ
            );
        }
        _ => text += "\n  the operator alone gives equal bytes: the difference does not repeat",
    }
    match (d.accumulator_is, d.reference_accumulator, d.accumulator) {
        (Some(what), Some(a), Some(b)) if a == b => {
            text += &format!("\n  before requantization ({what}): {a} on both, so what follows differs")
        }
        (Some(what), Some(a), Some(b)) => {
            text += &format!("\n  before requantization ({what}): {a} on {reference}, {b} on {}", d.backend)
        }
        _ => {}
    }
    text + "\n"
}
