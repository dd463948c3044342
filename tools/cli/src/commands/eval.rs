//! `shiftformer eval`.

use super::failure::{Failure, Verdict};
use super::inspect::read_model;
use super::threads::Threads;
use super::{data, output, source};
use serde::{Deserialize, Serialize};
use shiftformer::format::CRC;
use shiftformer::kernels::Portable;
use shiftformer::text::Tokenizer;
use shiftformer_convert::model_file::{ModelFile, Values};
use shiftformer_convert::sequences::Sequences;
use shiftformer_lab::eval::metrics::{Figures, Score};
use shiftformer_lab::eval::per_op::{OpError, per_op, worst};
use shiftformer_lab::eval::{Reference, edges, evaluate, sample_values, unused};
use shiftformer_lab::sequence::{self, SequenceScore};
use shiftformer_lab::{backend, text};
use std::path::PathBuf;

#[derive(clap::Args)]
pub struct Args {
    /// The model.
    file: PathBuf,
    /// Samples, as npz: `in_<input>`, optionally `label` and `out_<output>`; for a decoder sequences: `ids`, optionally
    /// `logits`, or a text file.
    #[arg(long)]
    data: PathBuf,
    /// The ONNX model to compare with, instead of `out_*` in the npz.
    #[arg(long, value_name = "MODEL.onnx")]
    float: Option<PathBuf>,
    /// Size of a symbolic dimension of the float model.
    #[arg(long, value_name = "NAME=VALUE")]
    dim: Vec<String>,
    /// Use only the first N samples.
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Evaluate part I of N; `merge` joins the parts.
    #[arg(long, value_name = "I/N")]
    shard: Option<String>,
    /// Where to run: portable, native, gpu, qemu:BOARD.
    #[arg(long, default_value = "native")]
    backend: String,
    /// Compare every operator with the float model (needs --float) on the first samples, 32 unless --limit says else.
    #[arg(long, requires = "float")]
    per_op: bool,
    #[command(flatten)]
    threads: Threads,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// The result of an evaluation, as `merge` reads it back.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EvalOutput {
    /// File name of the model.
    pub file: String,
    /// Its checksum, so that only shards of one model are merged.
    pub model_crc: u32,
    /// Where it ran.
    pub backend: String,
    /// Samples that all shards have together.
    pub data_samples: usize,
    /// Which part this is.
    pub shard: Option<String>,
    /// Samples of this part.
    pub samples: u64,
    /// See [`Figures`].
    pub accuracy: Option<f64>,
    /// See [`Figures`].
    pub float_accuracy: Option<f64>,
    /// See [`Figures`].
    pub agreement: Option<f64>,
    /// See [`Figures`].
    pub sqnr_db: Option<f64>,
    /// See [`Figures`].
    pub cosine: Option<f64>,
    /// The sums behind the figures.
    pub sums: Score,
}

#[derive(Serialize)]
struct WithOps<'a> {
    #[serde(flatten)]
    whole: &'a EvalOutput,
    per_op_samples: usize,
    per_op: &'a [OpError],
    worst: Vec<Worst<'a>>,
}

#[derive(Serialize)]
struct Worst<'a> {
    op: usize,
    name: &'a str,
    sqnr_db: f64,
    cause: &'static str,
    remedy: &'static str,
}

impl EvalOutput {
    fn of(args: &Args, model: &ModelFile, data_samples: usize, shard: Option<(usize, usize)>, sums: Score) -> Self {
        let Figures { samples, accuracy, float_accuracy, agreement, sqnr_db, cosine } = sums.figures();
        Self {
            file: args.file.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned()),
            model_crc: CRC.checksum(model.bytes()),
            backend: args.backend.clone(),
            data_samples,
            shard: shard.map(|(part, of)| format!("{part}/{of}")),
            samples,
            accuracy,
            float_accuracy,
            agreement,
            sqnr_db,
            cosine,
            sums,
        }
    }

    /// The same with other sums.
    pub fn with_score(self, sums: Score) -> Self {
        let Figures { samples, accuracy, float_accuracy, agreement, sqnr_db, cosine } = sums.figures();
        Self { samples, accuracy, float_accuracy, agreement, sqnr_db, cosine, sums, ..self }
    }

    /// For people.
    pub fn text(&self) -> String {
        format!(
            "{} on {}: {} samples\naccuracy {}   float {}   agreement {}\nSQNR {}   cosine {}\n",
            self.file,
            self.backend,
            self.samples,
            text::percent(self.accuracy),
            text::percent(self.float_accuracy),
            text::percent(self.agreement),
            text::decibels(self.sqnr_db),
            self.cosine.map_or_else(|| "-".to_owned(), |c| format!("{c:.6}")),
        )
    }
}

/// What is to be said where an input clips raw pixels: the figures are then those of another function.
pub fn clipped_bytes(model: &ModelFile, sample: &[Values]) -> Vec<String> {
    let clips = |(index, values): &(usize, &Values)| model.clips_raw_bytes(*index, values);
    let clipping = sample.iter().take(model.inputs().len()).enumerate().filter(clips);
    clipping
        .map(|(index, _)| {
            format!(
                "`{}`: the data are bytes, and those above the range of the input are clipped; if the model wants \
                 normalized pixels, convert it with `--mean` and `--std`",
                model.inputs()[index].name
            )
        })
        .collect()
}

/// Samples compared operator by operator unless told otherwise.
const PER_OP_SAMPLES: usize = 32;

pub fn run(args: &Args) -> Result<Verdict, Failure> {
    args.threads.start()?;
    let model = read_model(&args.file)?;
    if sequence::shape(&model).is_ok() {
        return on_sequences(args, &model);
    }
    let data = data::open(&args.data)?;
    let all = data::first(&data, args.limit)?;
    let shard = args.shard.as_deref().map(parse_shard).transpose()?;
    let selection: Vec<usize> = all.iter().copied().filter(|s| shard.is_none_or(|(part, of)| s % of == part)).collect();
    let graph = args.float.as_deref().map(|path| source::float_graph(path, &args.dim)).transpose()?;
    let reference = graph.as_ref().map_or(Reference::Stored, Reference::Graph);
    let mut backend = backend::open(&args.backend, &model)?;
    let bar = data::progress(selection.len(), "evaluating");
    let sums = evaluate(&model, &data, &reference, &selection, backend.as_mut(), |done| bar.inc(done as u64))?;
    bar.finish_and_clear();
    if let Some(&first) = selection.first() {
        for note in clipped_bytes(&model, &sample_values(&model, &data, first)?) {
            output::status(&format!("note: {note}"));
        }
    }
    for warning in unused(&model, &data, &reference).into_iter().chain(edges(&model, &sums)) {
        output::status(&format!("warning: {warning}"));
    }
    let whole = EvalOutput::of(args, &model, all.len(), shard, sums);
    let Some(graph) = graph.as_ref().filter(|_| args.per_op) else {
        if args.json {
            output::json(&whole)?
        } else {
            output::print(&whole.text())
        }
        return Ok(Verdict::Passed);
    };
    let few = &selection[..selection.len().min(args.limit.unwrap_or(PER_OP_SAMPLES))];
    let values = few.iter().map(|&s| sample_values(&model, &data, s)).collect::<Result<Vec<_>, _>>()?;
    let errors = per_op(&model, graph, &values)?;
    let worst: Vec<Worst<'_>> = worst(&errors, 5).into_iter().map(Worst::of).collect();
    if args.json {
        output::json(&WithOps { whole: &whole, per_op_samples: few.len(), per_op: &errors, worst })?;
    } else {
        output::print(&whole.text());
        output::print(&per_op_text(&errors, &worst));
    }
    Ok(Verdict::Passed)
}

#[derive(Serialize)]
struct SequenceOutput<'a> {
    file: String,
    backend: &'a str,
    context: usize,
    #[serde(flatten)]
    score: SequenceScore,
}

/// A decoder on sequences of tokens.
fn on_sequences(args: &Args, model: &ModelFile) -> Result<Verdict, Failure> {
    if args.float.is_some() || args.shard.is_some() {
        return Err(Failure::Usage(
            "a decoder is compared with the array logits of the sequences; --float and --shard are for other models"
                .to_owned(),
        ));
    }
    if args.limit == Some(0) {
        return Err(Failure::Usage("--limit 0 leaves no sequences; give at least 1".to_owned()));
    }
    let context = sequence::shape(model)?.context;
    let opened = model.open::<Portable>().map_err(|e| Failure::Backend(e.into()))?;
    let tokenizer = Tokenizer::open(opened.sections()).map_err(|error| Failure::Usage(error.to_string()))?;
    let sequences = Sequences::open_with(&args.data, tokenizer.as_ref(), context)?;
    let bar = data::progress(sequences.ids.len().min(args.limit.unwrap_or(usize::MAX)), "evaluating");
    let score = sequence::evaluate(model, &args.backend, &sequences, args.limit, || bar.inc(1))?;
    bar.finish_and_clear();
    if score.left_out > 0 {
        let all = score.tokens + score.left_out;
        output::status(&format!(
            "note: {} of {all} tokens are beyond the context of {context} and left out",
            score.left_out
        ));
    }
    let file = args.file.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
    let result = SequenceOutput { file, backend: &args.backend, context, score };
    if args.json {
        output::json(&result)?;
        return Ok(Verdict::Passed);
    }
    let SequenceOutput { file, backend, score, .. } = result;
    let bits = |bits: Option<f64>| bits.map_or_else(|| "-".to_owned(), |bits| format!("{bits:.4}"));
    output::print(&format!(
        "{file} on {backend}: {} tokens of {} sequences\nbits per token {}   float {}\nbits per byte {}   float {}\nagreement {}   SQNR {}\n",
        score.tokens,
        score.sequences,
        bits(score.bits_per_token),
        bits(score.float_bits_per_token),
        bits(score.bits_per_byte),
        bits(score.float_bits_per_byte),
        text::percent(score.agreement),
        text::decibels(score.sqnr_db),
    ));
    Ok(Verdict::Passed)
}

impl<'a> Worst<'a> {
    fn of(error: &'a OpError) -> Self {
        let OpError { op, name, sqnr_db, cause, remedy, .. } = error;
        Self { op: *op, name, sqnr_db: *sqnr_db, cause: cause.name(), remedy }
    }
}

fn per_op_text(errors: &[OpError], worst: &[Worst<'_>]) -> String {
    let mut table =
        text::table(&["op>", "kind", "name", "out", "SQNR dB>", "operands>", "clipped>", "rounding>", "cause"]);
    for e in errors {
        table.add_row([
            e.op.to_string(),
            e.kind.to_owned(),
            text::tail(&e.name, 44),
            e.dtype.to_owned(),
            format!("{:.1}", e.sqnr_db),
            e.input_sqnr_db.map_or_else(|| "-".to_owned(), |db| format!("{db:.1}")),
            format!("{:.3} %", e.clipped * 100.0),
            format!("{:.0} %", e.rounding_share * 100.0),
            e.cause.name().to_owned(),
        ]);
    }
    let line = |w: &Worst<'_>| format!("- op {} {} ({:.1} dB): {}; {}\n", w.op, w.name, w.sqnr_db, w.cause, w.remedy);
    format!("\n{table}\n\nThe worst\n{}", worst.iter().map(line).collect::<String>())
}

/// `I/N` as the part `I mod N` of `N`, so that counting from 0 and from 1 both cover all samples.
fn parse_shard(text: &str) -> Result<(usize, usize), Failure> {
    let parsed = text.split_once('/').and_then(|(i, n)| Some((i.parse::<usize>().ok()?, n.parse::<usize>().ok()?)));
    match parsed {
        Some((part, of)) if of > 0 && part <= of => Ok((part % of, of)),
        _ => Err(Failure::Usage(format!("--shard {text} is not I/N with I up to N; write e.g. --shard 1/4"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_may_be_counted_from_zero_or_one() {
        assert_eq!(parse_shard("4/4").unwrap(), parse_shard("0/4").unwrap());
        for wrong in ["", "1", "5/4", "a/b", "0/0", "-1/2"] {
            assert!(parse_shard(wrong).is_err(), "{wrong}");
        }
    }
}
