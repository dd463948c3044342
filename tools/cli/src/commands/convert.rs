//! `shiftformer convert`.

use super::failure::{Failure, Verdict};
use super::output::OutputFile;
use super::steps::Steps;
use super::{data, output, source};
use clap::ValueEnum;
use serde::Serialize;
use shiftformer::arith::lmul::FloatFormat;
use shiftformer::format::Profile;
use shiftformer::text::Tokenizer;
use shiftformer_convert::convert::quality::OutputQuality;
#[cfg(feature = "tract")]
use shiftformer_convert::convert::real_inputs;
use shiftformer_convert::convert::wide::WideReport;
use shiftformer_convert::convert::{
    ActivationBits, BitsPoint, ConvertOptions, Converted, DecoderRows, Switch, Trial, WeightBits, convert,
};
use shiftformer_convert::data::Dataset;
use shiftformer_convert::decoder::resized;
use shiftformer_convert::fuse::fuse;
use shiftformer_convert::graph::{Graph, Op};
use shiftformer_convert::import::decoder::{MIN_POSITIONS, has_cache};
use shiftformer_convert::lower::lmul::Lmul;
use shiftformer_convert::model_file::labels;
use shiftformer_convert::model_file::parts::ModelParts;
use shiftformer_convert::model_file::{ModelFile, Values};
use shiftformer_convert::quantize::range::RangeMethod;
use shiftformer_convert::quantize::tables::Embeddings;
use shiftformer_convert::sequences::Sequences;
use shiftformer_convert::tokenizer;
#[cfg(feature = "tract")]
use shiftformer_lab::cross_check;
use shiftformer_lab::cross_check::Comparison;
use shiftformer_lab::eval::{EvalError, logits_output};
use shiftformer_lab::quality::{REFUSED_BELOW_DB, judge};
use shiftformer_lab::report;
use shiftformer_lab::summary::{Summary, summarize};
use shiftformer_lab::text;
use std::path::{Path, PathBuf};

// A comment for rustdoc would become the description of the command.
#[expect(missing_docs)]
#[derive(clap::Args)]
pub struct Args {
    /// The ONNX model.
    model: PathBuf,
    /// The .sfm file to write.
    #[arg(short, long)]
    output: PathBuf,
    /// Calibration samples, as npz with arrays `in_<input name>`.
    #[arg(long, value_name = "DATA.npz")]
    calib: Option<PathBuf>,
    /// Use at most the first N samples.
    #[arg(long, value_name = "N", default_value_t = 256)]
    calib_samples: usize,
    /// The device takes raw u8 pixels x; the model wants (x / 255 - MEAN) / STD.
    #[arg(long, requires = "std", value_name = "MEAN", allow_negative_numbers = true)]
    mean: Option<f64>,
    /// Standard deviation that goes with --mean.
    #[arg(long, requires = "mean", value_name = "STD")]
    std: Option<f64>,
    /// Names of the classes, one per line, as many as an output has: `run` and `listen` print them, a device may.
    #[arg(long, value_name = "LABELS.txt")]
    labels: Option<PathBuf>,
    /// Definition of the nonlinearities.
    #[arg(long, value_enum, default_value_t = ProfileArg::Shift)]
    profile: ProfileArg,
    /// Format of activations and weights of --profile lmul.
    #[arg(long, value_enum, default_value_t = LmulArg::E4m3)]
    lmul_format: LmulArg,
    /// Only these dense layers multiply by addition under --profile lmul, by their names in the ONNX model; by default all.
    #[arg(long, value_name = "NAME,..", value_delimiter = ',')]
    lmul_layers: Vec<String>,
    /// How the ranges of activations are chosen.
    #[arg(long, value_enum, default_value_t = RangeArg::Auto)]
    range: RangeArg,
    /// Bits of the weights. Below 4 the outputs of most models need training for it; weights that come quantized to as few
    /// keep their values and scales.
    #[arg(long, value_enum, default_value_t = WeightsArg::Eight)]
    weights: WeightsArg,
    /// Maximum file size for --weights mixed, in bytes (suffixes k and m: 1024 and 1024^2).
    #[arg(long, value_name = "BYTES", value_parser = parse_size, required_if_eq("weights", "mixed"))]
    flash_budget: Option<usize>,
    /// Move scale from normalized activations into the weights that follow.
    #[arg(long, value_enum, default_value_t = SwitchArg::Auto)]
    equalize: SwitchArg,
    /// Do not correct biases for the mean error of the rounded weights.
    #[arg(long)]
    no_bias_correction: bool,
    /// 16-bit exponentials in attention.
    #[arg(long, value_enum, default_value_t = SwitchArg::Auto)]
    wide_exp: SwitchArg,
    /// Bits of the activations that layers, products and functions read: 16 where 8 cost too much, by measured sensitivity,
    /// or everywhere. The notes say where and what it costs.
    #[arg(long, value_enum, default_value_t = ActivationsArg::Auto)]
    activations: ActivationsArg,
    /// How tables that ids are looked up in are stored: int8 or int4 (a scale per row), pq:M (product quantization: M bytes a
    /// row, made from the table and weighted by the ids of --calib), or qr (a model that was trained with tables of quotients
    /// and remainders of ids). Without it: 8 bits, one scale a table.
    #[arg(long, value_name = "int8|int4|pq:M|qr")]
    embeddings: Option<Embeddings>,
    /// Compute attention as three operators, with the score matrix in memory.
    #[arg(long)]
    unfused_attention: bool,
    /// Run operators together in blocks of rows (tokens): less RAM, up to a fifth more instructions. By itself where it
    /// saves a fifth of the arena and 16 KiB.
    #[arg(long, value_enum, default_value_t = SwitchArg::Auto)]
    row_blocks: SwitchArg,
    /// Size of a symbolic dimension.
    #[arg(long, value_name = "NAME=VALUE")]
    dim: Vec<String>,
    /// The model is a decoder: keep keys and values of N positions from one run to the next. --calib then holds sequences:
    /// `ids` [sequences, length], perhaps with `logits` [sequences, length, vocabulary]; or, with --tokenizer, it is a text.
    #[arg(long, value_name = "N", conflicts_with_all = ["dim", "mean", "std", "unfused_attention"])]
    context: Option<usize>,
    /// A token of a decoder sees the last N positions only: keys and values are kept for so many, in a ring, while a text may
    /// have as many as --context. Models with a window of their own have one without this.
    #[arg(long, value_name = "N", requires = "context", conflicts_with = "prefill")]
    window: Option<usize>,
    /// Tokens of a run of a decoder at most: more make prompts faster and the arena larger. By default as many, up to 16,
    /// as leave the arena at an eighth of the state.
    #[arg(long, value_name = "ROWS", requires = "context")]
    prefill: Option<usize>,
    /// Reference runs stored in the file for self-tests of a device.
    #[arg(long, value_name = "N", default_value_t = 2)]
    receipts: usize,
    /// Leave out names and scales: a smaller file whose outputs can no longer be turned into real units.
    #[arg(long)]
    strip: bool,
    /// Accept outputs down to this SQNR, measured on the calibration samples; below it there is no file and exit code 1.
    #[arg(long, value_name = "DB", default_value_t = REFUSED_BELOW_DB, allow_negative_numbers = true)]
    accept_sqnr: f64,
    /// Store a tokenizer with a language model: a Hugging Face tokenizer.json, `bytes`, or `characters:ABC` (one id each, in
    /// this order).
    #[arg(long, value_name = "TOKENIZER")]
    tokenizer: Option<String>,
    /// Write a report.
    #[arg(long, value_name = "OUT.html")]
    report: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum ProfileArg {
    /// Shifts and adds with the constants of this project.
    Shift,
    /// The published I-ViT operators.
    Ivit,
    /// Tables of the correctly rounded functions.
    Lut,
    /// As shift, and products of dense layers are additions of floating-point patterns (L-Mul).
    Lmul,
}

#[derive(Clone, Copy, ValueEnum)]
enum LmulArg {
    /// 8 bits, 3 of mantissa.
    E4m3,
    /// 8 bits, 2 of mantissa.
    E5m2,
    /// 16 bits, 7 of mantissa.
    Bf16,
}

#[derive(Clone, Copy, ValueEnum)]
enum RangeArg {
    /// The full range seen.
    Minmax,
    /// All but 0.01 % of the values.
    Percentile,
    /// Minimum mean square error (rounding and clipping together).
    Mse,
    /// Minimum Kullback-Leibler divergence of the quantized distribution.
    Entropy,
    /// The method with the best measured SQNR of the whole model.
    Auto,
}

impl From<RangeArg> for RangeMethod {
    fn from(range: RangeArg) -> Self {
        match range {
            RangeArg::Minmax => RangeMethod::Minmax,
            RangeArg::Percentile => RangeMethod::Percentile,
            RangeArg::Mse => RangeMethod::Mse,
            RangeArg::Entropy => RangeMethod::Entropy,
            RangeArg::Auto => RangeMethod::Auto,
        }
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum SwitchArg {
    /// Choose by measured SQNR.
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

#[derive(Clone, Copy, ValueEnum)]
enum WeightsArg {
    #[value(name = "8")]
    Eight,
    #[value(name = "4")]
    Four,
    #[value(name = "3")]
    Three,
    #[value(name = "2")]
    Two,
    /// 8 or 4 per layer, by measured sensitivity, to fit --flash-budget; 4 or 3, or 3 or 2, where the larger are too large.
    Mixed,
}

#[derive(Clone, Copy, ValueEnum)]
enum ActivationsArg {
    /// 8 bits everywhere.
    #[value(name = "8")]
    Eight,
    /// 16 bits wherever an operator takes them.
    #[value(name = "16")]
    Sixteen,
    /// 16 bits for the tensors whose 8 bits cost most, where the outputs gain by them; not with 4-bit weights.
    Auto,
}

/// The result of a conversion.
#[derive(Serialize)]
pub struct ConvertOutput<'a> {
    file: String,
    calibration_samples: usize,
    /// SQNR of the outputs on calibration samples.
    sqnr_db: Option<f64>,
    /// Every output by itself, the worst of what was measured.
    outputs: &'a [OutputQuality],
    warnings: &'a [String],
    trials: &'a [Trial],
    bits_curve: &'a [BitsPoint],
    /// Where 16-bit activations are used and what they cost.
    wide_activations: Option<&'a WideReport>,
    /// The float model beside tract's reading of it; not without the feature `tract`.
    #[serde(skip_serializing_if = "Option::is_none")]
    tract: Option<&'a Comparison>,
    #[serde(flatten)]
    summary: &'a Summary,
}

/// A number of bytes, with an optional suffix.
fn parse_size(text: &str) -> Result<usize, String> {
    let lower = text.to_lowercase();
    let (digits, unit) =
        match lower.strip_suffix('k').map(|d| (d, 1024)).or(lower.strip_suffix('m').map(|d| (d, 1024 * 1024))) {
            Some((digits, unit)) => (digits, unit),
            None => (lower.as_str(), 1),
        };
    let value = digits.parse::<usize>().ok().and_then(|n| n.checked_mul(unit)).filter(|&n| n > 0);
    value.ok_or_else(|| format!("`{text}` is not a size; write e.g. 65536 or 64k"))
}

impl Args {
    fn options(&self) -> ConvertOptions {
        let switch = |arg| match arg {
            SwitchArg::Auto => Switch::Auto,
            SwitchArg::On => Switch::On,
            SwitchArg::Off => Switch::Off,
        };
        ConvertOptions {
            profile: match self.profile {
                ProfileArg::Shift => Profile::Shift,
                ProfileArg::Ivit => Profile::Ivit,
                ProfileArg::Lut => Profile::Lut,
                ProfileArg::Lmul => Profile::Lmul,
            },
            range: self.range.into(),
            weights: match (self.weights, self.flash_budget) {
                (WeightsArg::Eight, _) | (WeightsArg::Mixed, None) => WeightBits::Eight,
                (WeightsArg::Four, _) => WeightBits::Four,
                (WeightsArg::Three, _) => WeightBits::Three,
                (WeightsArg::Two, _) => WeightBits::Two,
                (WeightsArg::Mixed, Some(flash_budget)) => WeightBits::Mixed { flash_budget },
            },
            equalize: switch(self.equalize),
            bias_correction: !self.no_bias_correction,
            wide_exp: switch(self.wide_exp),
            unfused_attention: self.unfused_attention,
            row_blocks: switch(self.row_blocks),
            activations: match self.activations {
                ActivationsArg::Eight => ActivationBits::Eight,
                ActivationsArg::Sixteen => ActivationBits::Sixteen,
                ActivationsArg::Auto => ActivationBits::Auto,
            },
            embeddings: self.embeddings.unwrap_or_default(),
            lmul: Lmul {
                format: match self.lmul_format {
                    LmulArg::E4m3 => FloatFormat::E4m3,
                    LmulArg::E5m2 => FloatFormat::E5m2,
                    LmulArg::Bf16 => FloatFormat::Bf16,
                },
                layers: self.lmul_layers.iter().cloned().collect(),
            },
            normalization: self.mean.zip(self.std),
            receipts: self.receipts,
            decoder: self.context.map(|_| self.prefill.map_or(DecoderRows::Auto, DecoderRows::Fixed)),
            source: self.model.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned()),
        }
    }

    fn check(&self) -> Result<(), Failure> {
        if self.std.is_some_and(|std| !(std.is_finite() && std > 0.0))
            || self.mean.is_some_and(|mean| !mean.is_finite())
        {
            return Err(Failure::Usage("--mean and --std must be finite, --std above 0".to_owned()));
        }
        if self.context == Some(1) {
            return Err(Failure::Usage("--context 1 leaves no room for a second token; give at least 2".to_owned()));
        }
        if self.window.is_some_and(|window| window == 0 || self.context.is_some_and(|context| window >= context)) {
            return Err(Failure::Usage(
                "--window must be at least 1 and below --context: without it a token sees the whole context".to_owned(),
            ));
        }
        if self.context.is_some() && matches!(self.profile, ProfileArg::Ivit) {
            return Err(Failure::Usage("the profile ivit has no decoders; use --profile shift or lut".to_owned()));
        }
        if self.prefill.is_some_and(|rows| rows == 0 || self.context.is_some_and(|context| rows > context)) {
            return Err(Failure::Usage("--prefill must be at least 1 and at most --context".to_owned()));
        }
        if self.calib_samples == 0 {
            return Err(Failure::Usage("--calib-samples 0 leaves nothing to calibrate on; give at least 1".to_owned()));
        }
        Ok(())
    }
}

/// The float model that is to be converted.
pub struct Loaded {
    /// As it was imported; not of a decoder.
    imported: Option<Graph>,
    /// Fused. A decoder's has all positions of its context.
    graph: Graph,
}

impl Loaded {
    /// The fused graph.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }
}

/// What a model is calibrated on.
pub enum Calibration {
    /// Values of its inputs.
    Samples(Dataset),
    /// Tokens, of a decoder.
    Sequences {
        /// The tokens.
        sequences: Sequences,
        /// Where they are from, for messages.
        origin: String,
    },
}

/// A model beside the samples that it takes.
pub struct Prepared {
    imported: Option<Graph>,
    graph: Graph,
    samples: Vec<Vec<Values>>,
    notes: Vec<String>,
}

impl Prepared {
    /// What was left out of the samples, in words.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }
}

/// A finished conversion.
pub struct Conversion {
    /// The `.sfm` file.
    pub bytes: Vec<u8>,
    /// What led to it.
    pub converted: Converted,
    /// What the file holds.
    pub summary: Summary,
    /// The fused float model.
    pub graph: Graph,
    /// The values of every input for each sample.
    pub samples: Vec<Vec<Values>>,
    /// The file with the names and scales that `--strip` leaves out.
    named: ModelFile,
    comparison: Option<Comparison>,
}

impl Conversion {
    /// The report.
    ///
    /// # Errors
    /// [`Failure::Eval`] when a sample cannot be run.
    pub fn report(&self) -> Result<String, Failure> {
        let content = report::Content::of(&self.named, &self.graph, &self.converted, &self.samples)?;
        Ok(report::html(&content))
    }

    /// What the command prints of it.
    pub fn text(&self, args: &Args) -> String {
        describe(args, &self.converted, &self.summary, self.bytes.len(), self.samples.len())
    }

    /// What the command prints with `--json`.
    pub fn output(&self, args: &Args) -> ConvertOutput<'_> {
        ConvertOutput {
            file: args.output.display().to_string(),
            calibration_samples: self.samples.len(),
            sqnr_db: self.converted.sqnr_db,
            outputs: &self.converted.outputs,
            warnings: &self.converted.warnings,
            trials: &self.converted.trials,
            bits_curve: &self.converted.curve,
            wide_activations: self.converted.wide.as_ref(),
            tract: self.comparison.as_ref(),
            summary: &self.summary,
        }
    }
}

pub fn run(args: &Args) -> Result<Verdict, Failure> {
    args.check()?;
    let target = OutputFile::create(&args.output)?;
    let report_target = args.report.as_deref().map(OutputFile::create).transpose()?;
    let steps = Steps::start("reading the model");
    let loaded = load(args)?;
    steps.say("reading the samples");
    let calibration = args.calib.as_deref().map(|path| calibration(args, &loaded, path)).transpose()?;
    let prepared = prepare(args, loaded, calibration)?;
    prepared.notes.iter().for_each(|note| output::status(&format!("note: {note}")));
    let conversion = convert_prepared(args, prepared, &mut |what| steps.say(what));
    drop(steps);
    let conversion = match conversion {
        Err(Failure::Refused(why)) => {
            output::status(&format!("error: {why}"));
            return Ok(Verdict::Failed);
        }
        conversion => conversion?,
    };
    let report_text = report_target.as_ref().map(|_| conversion.report()).transpose()?;
    target.finish(&conversion.bytes)?;
    if let (Some(target), Some(text)) = (report_target, report_text) {
        target.finish(text.as_bytes())?;
    }
    if args.json {
        output::json(&conversion.output(args))?;
    } else {
        output::print(&conversion.text(args));
    }
    Ok(Verdict::Passed)
}

/// Reads the model.
///
/// # Errors
/// [`Failure`]; each says what to change.
pub fn load(args: &Args) -> Result<Loaded, Failure> {
    args.check()?;
    let imported = match args.context {
        Some(context) => {
            return Ok(Loaded { imported: None, graph: source::decoder_graph(&args.model, context, args.window)? });
        }
        None => source::imported(&args.model, &args.dim).map_err(|error| with_cache_hint(args, error))?,
    };
    let graph = fuse(imported.clone());
    Ok(Loaded { imported: Some(imported), graph })
}

/// Reads what the model is calibrated on.
///
/// # Errors
/// [`Failure`]; each says what to change.
pub fn calibration(args: &Args, loaded: &Loaded, path: &Path) -> Result<Calibration, Failure> {
    let Some(context) = args.context else { return Ok(Calibration::Samples(data::open(path)?)) };
    // Its unit of the logits is for sampling alone.
    let size = vocabulary(&loaded.graph).and_then(|size| u32::try_from(size).ok());
    let source = args.tokenizer.as_deref().map(tokenizer::Source::parse).zip(size);
    let section = source.map(|(source, size)| source.section(size, 1.0)).transpose();
    let section = section.map_err(|error| Failure::Usage(error.to_string()))?;
    let tokenizer = section.as_deref().and_then(Tokenizer::read);
    let sequences = Sequences::open_with(path, tokenizer.as_ref(), context)?;
    Ok(Calibration::Sequences { sequences, origin: path.display().to_string() })
}

/// The samples of `calibration` for the model.
///
/// # Errors
/// [`Failure`]; each says what to change.
pub fn prepare(args: &Args, loaded: Loaded, calibration: Option<Calibration>) -> Result<Prepared, Failure> {
    let Loaded { imported, graph } = loaded;
    if let Some(context) = args.context {
        return decoder(args, context, &graph, calibration);
    }
    let samples = match calibration {
        Some(Calibration::Samples(data)) => calibration_samples(&graph, &data, args.calib_samples)?,
        Some(Calibration::Sequences { origin, .. }) => {
            return Err(Failure::Usage(format!("{origin}: sequences of tokens are for decoders; pass --context too")));
        }
        None => without_samples(&graph)?,
    };
    Ok(Prepared { imported, graph, samples, notes: Vec::new() })
}

/// Converts; `say` is told what happens.
///
/// # Errors
/// [`Failure`]; [`Failure::Refused`] where the outputs keep less than `--accept-sqnr`.
pub fn convert_prepared(args: &Args, prepared: Prepared, say: &mut dyn FnMut(&str)) -> Result<Conversion, Failure> {
    let Prepared { imported, graph, samples, .. } = prepared;
    let labels = args.labels.as_deref().map(|path| read_labels(path, &graph)).transpose()?;
    let mut converted = convert(&graph, &samples, &args.options(), say)?;
    if let Some(refusal) = judge(&graph, &samples, &args.options(), &mut converted, args.accept_sqnr, say)? {
        return Err(Failure::Refused(refusal));
    }
    // tract reads one run of fixed shapes; a decoder's graph stands for runs over a cache.
    let comparison = match &imported {
        Some(imported) => cross_check(args, imported, &graph, &samples, &mut converted, say)?,
        None => None,
    };
    if let Some(tokenizer) = &args.tokenizer {
        let model = ModelFile::from_bytes(&converted.file).map_err(shiftformer_convert::convert::ConvertError::from)?;
        converted.file = tokenizer::attach(&model, &tokenizer::Source::parse(tokenizer))?;
    }
    let file = ModelFile::from_bytes(&converted.file).map_err(shiftformer_convert::convert::ConvertError::from)?;
    let model = file.open::<shiftformer::kernels::Portable>().map_err(|e| Failure::Backend(e.into()))?;
    let summary = summarize(&model, file.annotations());
    let mut bytes = if args.strip { strip(&file)? } else { converted.file.clone() };
    if let (Some(labels), Some(path)) = (&labels, &args.labels) {
        let file = ModelFile::from_bytes(&bytes).map_err(shiftformer_convert::convert::ConvertError::from)?;
        bytes = labels::with_labels(&file, logits_output(&file), labels)
            .map_err(|source| Failure::Labels { path: path.clone(), source })?;
    }
    Ok(Conversion { bytes, converted, summary, graph, samples, named: file, comparison })
}

/// The graph of a decoder over as many tokens as the calibration sequences show of its context, and these sequences.
fn decoder(args: &Args, context: usize, whole: &Graph, calibration: Option<Calibration>) -> Result<Prepared, Failure> {
    let Some(Calibration::Sequences { sequences, origin }) = calibration else {
        return Err(Failure::Usage(
            "a decoder is calibrated on sequences; pass --calib DATA.npz with the array ids [sequences, length]"
                .to_owned(),
        ));
    };
    if sequences.length() < MIN_POSITIONS {
        return Err(Failure::Usage(format!("{origin}: sequences of one token show no attention; give longer ones")));
    }
    if let Some(vocabulary) = vocabulary(whole) {
        sequences.check(vocabulary)?;
    }
    let length = sequences.length().min(context);
    let mut notes = Vec::new();
    if length < sequences.length() {
        notes.push(format!(
            "{origin}: {} of {} positions are beyond --context {context} and left out",
            sequences.length() - length,
            sequences.length()
        ));
    }
    let fail = |source| Failure::Decoder { path: args.model.clone(), source };
    let graph = resized(whole, length).map_err(fail)?;
    Ok(Prepared { imported: None, graph, samples: sequences.samples(length, args.calib_samples), notes })
}

/// Rows of the table that the ids are looked up in.
fn vocabulary(graph: &Graph) -> Option<usize> {
    let ids = *graph.inputs.first()?;
    graph.nodes.iter().find_map(|node| match node.op {
        Op::Gather { axis: 0 } if node.inputs[1] == ids => graph.shape(node.inputs[0]).first().copied(),
        _ => None,
    })
}

/// An import that failed on a model with a cache says how such models are converted.
fn with_cache_hint(args: &Args, error: Failure) -> Failure {
    if matches!(error, Failure::Import { .. }) && args.dim.is_empty() && has_cache(&args.model).unwrap_or(false) {
        return Failure::Usage(format!(
            "{}: the model keeps keys and values from one run to the next; give the number of positions: --context 128",
            args.model.display()
        ));
    }
    error
}

/// Compares the float model with tract on one sample; what differs becomes a warning.
#[cfg(feature = "tract")]
fn cross_check(
    args: &Args,
    imported: &Graph,
    fused: &Graph,
    samples: &[Vec<Values>],
    converted: &mut Converted,
    progress: &mut dyn FnMut(&str),
) -> Result<Option<Comparison>, Failure> {
    progress("comparing the float model with tract");
    let normalization = args.options().normalization;
    let sample = real_inputs(imported, &samples[..samples.len().min(1)], normalization)?.pop();
    let comparison = cross_check::with_tract(&args.model, imported, fused, sample);
    converted.warnings.extend(comparison.warnings());
    Ok(Some(comparison))
}

#[cfg(not(feature = "tract"))]
fn cross_check(
    _: &Args,
    _: &Graph,
    _: &Graph,
    _: &[Vec<Values>],
    _: &mut Converted,
    _: &mut dyn FnMut(&str),
) -> Result<Option<Comparison>, Failure> {
    Ok(None)
}

/// The names of the classes, as many as an output of the model has.
fn read_labels(path: &Path, graph: &Graph) -> Result<Vec<String>, Failure> {
    let bytes = std::fs::read(path).map_err(|source| Failure::Read { path: path.to_owned(), source })?;
    let outputs = graph.outputs.iter().map(|&id| (graph.tensors[id].name.as_str(), &graph.tensors[id].shape[..]));
    let checked = labels::parse(&bytes).and_then(|labels| labels::output(labels.len(), 0, outputs).map(|_| labels));
    checked.map_err(|source| Failure::Labels { path: path.to_owned(), source })
}

/// The values of every input for the first `limit` samples.
pub fn calibration_samples(graph: &Graph, data: &Dataset, limit: usize) -> Result<Vec<Vec<Values>>, Failure> {
    let found = || data.names().collect::<Vec<_>>().join(", ");
    let value = |id: usize, sample: usize| {
        let name = &graph.tensors[id].name;
        let array = data.input(name).ok_or_else(|| EvalError::MissingInput { name: name.clone(), found: found() })?;
        let expected = &graph.tensors[id].shape;
        if array.sample_len() == graph.tensors[id].len() && !array.fits(expected) {
            let (name, expected, given) = (name.clone(), expected.clone(), array.shape[1..].to_vec());
            return Err(EvalError::Shape { name, expected, given });
        }
        Ok(array.sample(sample))
    };
    let sample = |s: usize| graph.inputs.iter().map(|&id| value(id, s)).collect::<Result<Vec<_>, EvalError>>();
    Ok((0..data.samples().min(limit)).map(sample).collect::<Result<_, _>>()?)
}

/// No samples: only a model that brings its own scales can do without.
fn without_samples(graph: &Graph) -> Result<Vec<Vec<Values>>, Failure> {
    if graph.nodes.iter().any(|node| matches!(node.op, Op::FakeQuant(_))) {
        return Ok(Vec::new());
    }
    let names: Vec<String> = graph.inputs.iter().map(|&id| format!("in_{}", graph.tensors[id].name)).collect();
    let names = names.join(", ");
    Err(Failure::Usage(format!("the model has no scales of its own; pass --calib DATA.npz with the arrays {names}")))
}

fn strip(file: &ModelFile) -> Result<Vec<u8>, Failure> {
    let model = file.open::<shiftformer::kernels::Portable>().map_err(|e| Failure::Backend(e.into()))?;
    let parts = ModelParts { annotations: None, ..ModelParts::of(&model, file.annotations()) };
    Ok(parts.write().map_err(shiftformer_convert::convert::ConvertError::from)?)
}

fn describe(args: &Args, converted: &Converted, summary: &Summary, file_bytes: usize, samples: usize) -> String {
    let size = |n: usize| text::bytes(n as f64);
    let state = summary.state.as_ref().map_or_else(String::new, |state| {
        format!("state {} ({} positions), runs of up to {} tokens, ", size(state.bytes), state.positions, state.rows)
    });
    let mut out = format!(
        "{}: {}, {state}arena {} (lower bound {}), {} operators, {} MACs\n",
        args.output.display(),
        size(file_bytes),
        size(summary.arena_bytes),
        size(summary.arena_lower_bound_bytes),
        summary.ops.len(),
        text::count(summary.macs as f64),
    );
    let measured = converted.measured;
    out += &format!("SQNR on {measured} of {samples} calibration samples: {}\n", text::decibels(converted.sqnr_db));
    if converted.outputs.len() > 1 || converted.held_out {
        let how = if converted.held_out { "worst of the file and of halves held out" } else { "by itself" };
        for output in &converted.outputs {
            out += &format!("  output `{}`: {} ({how})\n", output.name, text::decibels(output.sqnr_db));
        }
    }
    for trial in &converted.trials {
        let mark = if trial.kept { "*" } else { " " };
        out += &format!("  {mark} {:<16} {:<12} {:>6.2} dB\n", trial.what, trial.choice, trial.sqnr_db);
    }
    for point in &converted.curve {
        let mark = if point.kept { "*" } else { " " };
        let (layers, bits) = (point.fewer_bit_layers.len(), point.fewer_bits);
        out += &format!(
            "  {mark} {layers:>3} layers at {bits} bits {:>10}  {:>6.2} dB\n",
            size(point.file_bytes),
            point.sqnr_db
        );
    }
    converted.warnings.iter().for_each(|warning| out += &format!("warning: {warning}\n"));
    summary.notes.iter().for_each(|note| out += &format!("note: {note}\n"));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_take_suffixes() {
        assert_eq!((parse_size("64k"), parse_size("2M"), parse_size("100")), (Ok(65536), Ok(2 << 20), Ok(100)));
        for wrong in ["", "k", "-1", "1.5k", "0", "99999999999999999999"] {
            assert!(parse_size(wrong).is_err(), "{wrong}");
        }
    }
}
