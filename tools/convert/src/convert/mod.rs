//! From a float graph to a `.sfm` file: calibrate, choose, quantize, plan, prove, pack.
//!
//! Where a choice is left to the converter (range method, scale migration, width of the exponentials, bits per layer)
//! it lowers the model with each, runs the integer program and keeps what has the best SQNR of the outputs against the
//! float graph: calibrated on one half of the samples, measured on the other. Every trial is reported.

pub mod ivit;
mod judged;
pub mod quality;
mod refine;
pub mod runnable;
pub mod wide;

use crate::backend::BackendError;
use crate::calibrate::{CalibrateError, Calibration, Sweep};
use crate::decoder;
use crate::fuse::observe;
use crate::graph::exec::ExecError;
use crate::graph::{Data, DataType, Graph, Node, Op, TensorId};
use crate::lower::{LowerError, LowerOptions, Lowered, lower};
use crate::model_file::{ModelFileError, Values};
use crate::pack::{self, AnnotatedTensor, Annotations, PackError, ReceiptData, pack};
use crate::parallel;
use crate::program::chain;
use crate::program::plan::{Plan, plan, plan_quickly};
use crate::program::{Program, State};
use crate::quantize::balance::balance;
use crate::quantize::equalize::{Extents, equalize};
use crate::quantize::qdq;
use crate::quantize::range::{BINS, RangeMethod};
use crate::quantize::sequential;
use crate::quantize::weights::Prepared;
use judged::Judges;
use quality::OutputQuality;
use runnable::{RunError, Runnable};
use shiftformer::arith::exp::sum_error;
use shiftformer::format::Profile;
use shiftformer::ops;
use shiftformer::weights::WeightFormat;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// Bits of the weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightBits {
    /// 8 bits everywhere.
    Eight,
    /// 4 bits everywhere, rounded with error compensation.
    Four,
    /// 8 or 4 bits per layer, so that the file has at most this many bytes.
    Mixed {
        /// Maximum size of the file.
        flash_budget: usize,
    },
}

/// A choice that can be left to the converter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Switch {
    /// By measured SQNR.
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

/// Bits of activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActivationBits {
    /// 8 bits wherever there is an operator for them.
    Eight,
    /// 16 bits wherever there is one.
    Sixteen,
    /// 8 bits; 16 for the tensors whose 8 bits cost most, where the outputs gain by them.
    Auto,
}

/// How to convert.
#[derive(Clone, Debug)]
pub struct ConvertOptions {
    /// Numeric profile.
    pub profile: Profile,
    /// Range of 8-bit activations.
    pub range: RangeMethod,
    /// Bits of the weights.
    pub weights: WeightBits,
    /// Scale migration from normalized activations into weights.
    pub equalize: Switch,
    /// Correct biases for the mean error of the rounded weights.
    pub bias_correction: bool,
    /// 16-bit exponentials in attention; under the I-ViT profile 16-bit probabilities.
    pub wide_exp: Switch,
    /// Attention with the score matrix, in three operators.
    pub unfused_attention: bool,
    /// Operators in chains of row blocks where that makes the arena smaller, see [`chain`].
    pub row_blocks: Switch,
    /// Bits of the activations that dense layers, products and functions read.
    pub activations: ActivationBits,
    /// Raw pixels become `(x / 255 - mean) / std`.
    pub normalization: Option<(f64, f64)>,
    /// Reference runs stored in the file, from the first samples.
    pub receipts: usize,
    /// The graph is a decoder, see [`derive`](crate::decoder::derive): rows of a run of the finished model.
    pub decoder: Option<DecoderRows>,
    /// File name of the source model, for people.
    pub source: String,
}

/// How many tokens one run of a decoder takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecoderRows {
    /// As many, up to 16, as leave the arena small beside the state.
    Auto,
    /// At most so many.
    Fixed(usize),
}

impl Default for ConvertOptions {
    fn default() -> Self {
        Self {
            profile: Profile::Shift,
            range: RangeMethod::Auto,
            weights: WeightBits::Eight,
            equalize: Switch::Auto,
            bias_correction: true,
            wide_exp: Switch::Auto,
            unfused_attention: false,
            row_blocks: Switch::Auto,
            activations: ActivationBits::Auto,
            normalization: None,
            receipts: 2,
            decoder: None,
            source: String::new(),
        }
    }
}

/// Why a conversion failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConvertError {
    /// A calibration run failed.
    #[error("{0}")]
    Calibrate(#[from] CalibrateError),
    /// The float graph cannot be run.
    #[error("the float model cannot be run: {0}")]
    Exec(#[from] ExecError),
    /// An operator has no integer form.
    #[error("{0}")]
    Lower(#[from] LowerError),
    /// An operator cannot be proven safe, or the model is too large.
    #[error("{0}")]
    Pack(#[from] PackError),
    /// The packed model does not open.
    #[error("the packed model does not open: {0}")]
    Model(#[from] ModelFileError),
    /// The packed model does not run.
    #[error("the packed model does not run: {0}")]
    Backend(#[from] BackendError),
    /// A sample does not fit the model.
    #[error("calibration sample {sample}: input `{name}` needs {expected} values, {given} given; check the npz")]
    Sample {
        /// Index of the sample.
        sample: usize,
        /// Name of the input.
        name: String,
        /// Elements of the input.
        expected: usize,
        /// Elements given.
        given: usize,
    },
    /// An id outside the table it is looked up in.
    #[error(
        "calibration sample {sample}: input `{name}` holds {value}; the table `{table}` has {rows} rows; check the tokenizer"
    )]
    Id {
        /// Index of the sample.
        sample: usize,
        /// Name of the input.
        name: String,
        /// The id.
        value: i64,
        /// Name of the table.
        table: String,
        /// Its rows.
        rows: usize,
    },
    /// Calibration data is not finite.
    #[error("calibration sample {sample}: input `{name}` holds {value}; clean the data")]
    NotFinite {
        /// Index of the sample.
        sample: usize,
        /// Name of the input.
        name: String,
        /// The value.
        value: f32,
    },
    /// A weight is not finite.
    #[error("weight `{0}` holds NaN or infinity; export the model again")]
    Weight(String),
    /// Even 4 bits everywhere are too large.
    #[error("the model needs at least {min} bytes of flash with 4-bit weights, the budget is {budget}")]
    Budget {
        /// Size with 4 bits everywhere.
        min: usize,
        /// The budget.
        budget: usize,
    },
    /// The graph cannot be cut to rows.
    #[error("{0}")]
    Decoder(#[from] decoder::DecoderError),
    /// The option needs samples.
    #[error("{0} needs calibration data: pass --calib DATA.npz")]
    NeedsSamples(&'static str),
}

impl From<RunError> for ConvertError {
    fn from(error: RunError) -> Self {
        match error {
            RunError::Pack(error) => Self::Pack(error),
            RunError::Model(error) => Self::Model(error),
            RunError::Backend(error) => Self::Backend(error),
        }
    }
}

/// One choice that was tried.
#[derive(Clone, Debug, serde::Serialize)]
#[non_exhaustive]
pub struct Trial {
    /// What was varied.
    pub what: String,
    /// The value tried.
    pub choice: String,
    /// SQNR of the outputs on calibration samples.
    pub sqnr_db: f64,
    /// Whether it was kept.
    pub kept: bool,
}

/// One point of the trade-off between size and accuracy.
#[derive(Clone, Debug, serde::Serialize)]
#[non_exhaustive]
pub struct BitsPoint {
    /// Layers at 4 bits.
    pub four_bit_layers: Vec<String>,
    /// Bytes of the file.
    pub file_bytes: usize,
    /// SQNR of the outputs on calibration samples.
    pub sqnr_db: f64,
    /// Whether it was kept.
    pub kept: bool,
}

/// A finished conversion, with everything a report can show.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Converted {
    /// Bytes of the `.sfm` file.
    pub file: Vec<u8>,
    /// The float graph that was lowered, scale migration applied.
    pub graph: Graph,
    /// What the samples said of it.
    pub calibration: Calibration,
    /// The integer program.
    pub program: Program,
    /// Its memory.
    pub plan: Plan,
    /// Options the program was lowered with, choices made.
    pub options: LowerOptions,
    /// SQNR of the outputs on calibration samples; `None` without samples.
    pub sqnr_db: Option<f64>,
    /// Every output by itself, where there are samples: in the file as it is, and calibrated on one half of the samples and
    /// measured on the other; the worst of these.
    pub outputs: Vec<OutputQuality>,
    /// How many samples those were.
    pub measured: usize,
    /// Whether samples were held out.
    pub held_out: bool,
    /// What may be wrong with the model or the samples.
    pub warnings: Vec<String>,
    /// Where 16-bit activations are used and what they cost; `None` where they are not.
    pub wide: Option<wide::WideReport>,
    /// All choices tried.
    pub trials: Vec<Trial>,
    /// Trade-off between size and accuracy (mixed bits only).
    pub curve: Vec<BitsPoint>,
    /// Remarks for people.
    pub notes: Vec<String>,
}

/// Samples used for a trial at most, spread over those given.
const TRIAL_SAMPLES: usize = 256;
/// Multiplications of a trial: fewer samples of large models, but not below [`FEW_SAMPLES`].
const TRIAL_MACS: u64 = 8_000_000_000;
/// Samples where a rough idea is enough: extents of columns, sensitivity of layers.
const FEW_SAMPLES: usize = 16;
/// From so many samples on, choices are measured on samples that did not make the statistics.
const LEAST_TO_SPLIT: usize = 32;
/// Points measured on the curve of mixed bits.
const CURVE_POINTS: usize = 10;
/// A choice must win by this much over the simpler one, in dB.
const MARGIN_DB: f64 = 0.15;
/// Another range must win by this much over the minimum and maximum value seen, in dB: about what some hundred samples tell.
const RANGE_MARGIN_DB: f64 = 0.3;
/// Half of the range of values, as [`sum_error`] counts.
const HALF_RANGE: u32 = 32768;
/// Exponents of scale migration across products that are tried.
const BALANCE_ALPHAS: [f64; 2] = [0.5, 0.8];
/// Rows of a run of a decoder that are tried beyond one.
const MORE_ROWS: [usize; 4] = [2, 4, 8, 16];
/// More rows are taken while the arena has at most this part of the bytes of the state.
const ARENA_SHARE: usize = 8;
/// Exponents of scale migration that are tried.
const ALPHAS: [f64; 3] = [0.35, 0.5, 0.65];
/// Magnitudes this many times the median of those that are not 0 are reported as outliers.
const OUTLIER: f64 = 1000.0;
/// Outliers are reported where an output keeps less than this, in dB.
const OUTLIERS_MATTER_DB: f64 = 30.0;

/// Below this the largest error of a score is measured too, in dB.
const LOW_SCORES_DB: f64 = 30.0;

/// Converts a fused float graph. `samples` hold the values of every input; `progress` is told what happens.
///
/// # Errors
/// [`ConvertError`]; each names what to change.
pub fn convert(
    graph: &Graph,
    samples: &[Vec<Values>],
    options: &ConvertOptions,
    progress: &mut dyn FnMut(&str),
) -> Result<Converted, ConvertError> {
    let original = graph;
    let mut graph = graph.clone();
    check_weights(&graph)?;
    let ivit = options.profile == Profile::Ivit;
    // First of all, so that whoever has the fused graph can number its tensors alike.
    let mut notes = if ivit { ivit::take_attention_apart(&mut graph) } else { Vec::new() };
    let fixed = qdq::absorb(&mut graph)?;
    let data = real_inputs(&graph, samples, options.normalization)?;
    check_ids(&graph, &data)?;
    if !ivit {
        graph = observe(graph, &data, options.normalization.is_some());
    }
    progress("calibrating");
    if options.weights != WeightBits::Eight && samples.is_empty() {
        return Err(ConvertError::NeedsSamples("fewer than 8 bits per weight"));
    }
    let four = options.weights == WeightBits::Four;
    let source = Source { data: &data, fixed: &fixed, four };
    let picks = Picks::of(&graph, data.len());
    let shown = graph.outputs.clone();
    let judges = Judges::of(&graph, ivit);
    graph.outputs.extend(judges.arguments());
    let base = picks.calibrate(graph, HashMap::new(), &source, &Prepared::default(), true)?;
    let mut chosen = LowerOptions {
        profile: options.profile,
        range: if options.range == RangeMethod::Auto { RangeMethod::Mse } else { options.range },
        weights: if four { WeightFormat::I4 } else { WeightFormat::I8 },
        layer_formats: HashMap::new(),
        // The other choices drown in the noise of published 8-bit probabilities: they are made with 16 bits.
        wide_exp: options.wide_exp == Switch::On || ivit && options.wide_exp == Switch::Auto,
        unfused_attention: options.unfused_attention,
        normalization: options.normalization,
        bias_correction: options.bias_correction,
        wide: BTreeSet::new(),
    };
    let Calibrated { site, mut folds, mut outputs } = base;
    let mut site = site.unwrap_or_default();
    let values: Vec<Vec<Data>> = picks.samples.iter().map(|pick| outputs.remove(pick).unwrap_or_default()).collect();
    let graphs = folds.iter_mut().map(|fold| &mut fold.site.graph).chain([&mut site.graph]);
    let judges = judges.among(&site.calibration);
    graphs.for_each(|graph| graph.outputs = judges.outputs());
    let trial = Trials { samples, picks, reference: judges.values(&values) };
    let mut search = Search { trial, options, trials: Vec::new(), progress };
    if !data.is_empty() {
        if options.decoder.is_some() {
            search.balance(&mut site, &mut folds, &chosen, &source, &BALANCE_ALPHAS)?;
        }
        search.range(&folds, &mut chosen)?;
        let migrated = search.migration(&mut site, &mut folds, &chosen, &source)?;
        // Ranges that cut off what scale migration has made even cut too much.
        if migrated && chosen.range != RangeMethod::Minmax {
            search.range(&folds, &mut chosen)?;
        }
        search.refine(&mut site, &mut folds, &chosen, &source)?;
        // The rows of a decoder are lowered for 8 bits.
        if options.decoder.is_none() {
            search.activations(&site, &folds, &mut chosen)?;
        }
        search.exponentials(&folds, &mut chosen)?;
    }
    let curve = match options.weights {
        WeightBits::Mixed { flash_budget } => search.mixed(&mut site, &mut chosen, &data, flash_budget)?,
        _ => Vec::new(),
    };
    let graphs = folds.iter_mut().map(|fold| &mut fold.site.graph).chain([&mut site.graph]);
    graphs.for_each(|graph| graph.outputs.clone_from(&shown));
    search.trial.reference =
        values.into_iter().map(|outputs| outputs.into_iter().take(shown.len()).collect()).collect();
    (search.progress)("planning and packing");
    let mut lowered = match options.decoder {
        Some(rows) => lower_rows(&site, &chosen, rows)?,
        None => lower(&site.graph, &site.calibration, &chosen)?,
    };
    if options.row_blocks != Switch::Off && options.decoder.is_none() {
        lowered.program = chain::in_blocks(&lowered.program, options.row_blocks == Switch::On);
    }
    let arena = plan(&lowered.program);
    let wide = wide::report(&site, &chosen, options, &lowered, &arena)?;
    notes.extend(wide.as_ref().map(ToString::to_string));
    notes.extend(lowered.notes.iter().cloned());
    notes.extend(raw_bytes_note(&site.graph, samples.first(), options.normalization));
    notes.extend(exponentials_note(&lowered.program));
    let runnable = Runnable::new(&lowered.program, &arena)?;
    let held_out = options.weights == WeightBits::Eight && folds.len() > 1;
    let (mut sqnr_db, mut outputs) = (None, Vec::new());
    if !data.is_empty() {
        // A decoder is measured over whole sequences; its bytes do not depend on the rows of a run.
        let sequences = options.decoder.map(|_| lower(&site.graph, &site.calibration, &chosen)).transpose()?;
        let sequences =
            sequences.as_ref().map(|lowered| Runnable::new(&lowered.program, &plan_quickly(&lowered.program)));
        let sequences = sequences.transpose()?;
        let measurable = sequences.as_ref().unwrap_or(&runnable);
        let mut measured = vec![search.trial.ratios(measurable, None)?];
        sqnr_db = Some(quality::joint_sqnr(&measured[0]));
        if held_out {
            let trial = &search.trial;
            measured.extend(parallel::try_map(folds.iter().collect(), |fold| trial.fold_ratios(fold, &chosen))?);
        }
        outputs = quality::qualities(&lowered.program.outputs, &site.graph, &measured);
        search.trial.errors_of_scores(measurable, &site.graph, &mut outputs)?;
    }
    if let [a, b] = &folds[..] {
        notes.extend(quality::edge_notes(&site.graph, [&a.site.calibration, &b.site.calibration]));
    }
    let warnings = quality::sample_warnings(original, samples, options.normalization);
    if quality::worst_output(&outputs).is_some_and(|(_, db)| db < OUTLIERS_MATTER_DB) {
        notes.extend(outliers(&site, &lowered.program));
    }
    if ivit && !data.is_empty() {
        notes.extend(ivit::limits(&runnable, &lowered.program, &search.trial.samples().collect::<Vec<_>>())?);
    }
    let annotations = annotations(&site, &lowered, &arena, options, &notes);
    let stored = stored_samples(&samples[..options.receipts.min(samples.len())], lowered.program.state);
    let receipts = runnable.traces(&stored)?.into_iter();
    let receipts: Vec<ReceiptData> =
        receipts.map(|(inputs, trace)| ReceiptData { inputs, digests: trace.digests }).collect();
    let Runnable { records, .. } = runnable;
    let file = pack::write(&lowered.program, &arena, records, &annotations, &receipts)?;
    let (trials, measured) = (search.trials, search.trial.picks.samples.len());
    let Site { graph, calibration, .. } = site;
    Ok(Converted {
        file,
        graph,
        calibration,
        program: lowered.program,
        plan: arena,
        options: chosen,
        sqnr_db,
        outputs,
        measured,
        held_out,
        warnings,
        wide,
        trials,
        curve,
        notes,
    })
}

/// The runs of a decoder of some rows, of which the samples show whole sequences.
fn lower_rows(site: &Site, chosen: &LowerOptions, rows: DecoderRows) -> Result<Lowered, ConvertError> {
    let lowered = |rows: usize| -> Result<Lowered, ConvertError> {
        Ok(lower(&decoder::resized(&site.graph, rows)?, &site.calibration, chosen)?)
    };
    let capacity = site.graph.nodes.iter().find_map(|node| match &node.op {
        Op::Attention(attention) => attention.causal,
        _ => None,
    });
    let capacity = capacity.unwrap_or(1);
    match rows {
        DecoderRows::Fixed(rows) => lowered(rows.clamp(1, capacity)),
        DecoderRows::Auto => {
            let mut best = lowered(1)?;
            let state: usize = best.program.tensors.iter().filter(|t| t.in_state).map(|t| t.bytes()).sum();
            for rows in MORE_ROWS.into_iter().filter(|&rows| rows <= capacity) {
                let more = lowered(rows)?;
                if plan_quickly(&more.program).arena_bytes > state / ARENA_SHARE {
                    break;
                }
                best = more;
            }
            Ok(best)
        }
    }
}

/// Samples as a run of the finished model takes them: the first tokens of sequences.
fn stored_samples(samples: &[Vec<Values>], state: Option<State>) -> Vec<Vec<Values>> {
    let Some(State { rows, .. }) = state else { return samples.to_vec() };
    let first = |values: &Values| match values {
        Values::Int(ids) => Values::Int(ids.iter().copied().take(rows).collect()),
        Values::U8(_) | Values::Float(_) => values.clone(),
    };
    samples.iter().map(|sample| sample.iter().map(first).collect()).collect()
}

/// A graph with its statistics.
#[derive(Clone, Default)]
struct Site {
    graph: Graph,
    calibration: Calibration,
    /// Column factors of tensors whose scale was migrated: original = value * factor; empty where they are not columns.
    factors: HashMap<TensorId, Vec<f64>>,
}

/// What statistics are made of.
struct Source<'a> {
    data: &'a [Vec<Data>],
    fixed: &'a qdq::Fixed,
    /// Whether weights are rounded to 4 bits.
    four: bool,
}

/// `count` of `items`, evenly spread.
fn spread<T>(items: &[T], count: usize) -> impl Iterator<Item = &T> {
    items.iter().step_by(items.len().div_ceil(count.max(1)).max(1))
}

/// The samples that choices are measured on.
struct Picks {
    /// Indices of the samples, `stride` apart.
    samples: Vec<usize>,
    stride: usize,
    /// How many samples there are.
    of: usize,
}

/// Statistics of one half of the picks, to be measured on the other; of all samples where there are too few.
struct Fold {
    site: Site,
    half: Option<usize>,
}

/// What running a graph on the samples says.
struct Calibrated {
    /// Over all samples, where it was asked for or came along.
    site: Option<Site>,
    folds: Vec<Fold>,
    /// Float outputs by sample.
    outputs: HashMap<usize, Vec<Data>>,
}

impl Picks {
    fn of(graph: &Graph, of: usize) -> Self {
        let count = TRIAL_SAMPLES.min((TRIAL_MACS / multiplications(graph).max(1)) as usize).max(FEW_SAMPLES);
        let stride = of.div_ceil(count).max(1);
        Self { samples: (0..of).step_by(stride).collect(), stride, of }
    }

    /// Which half a pick belongs to: they alternate.
    fn half_of(&self, pick: usize) -> usize {
        pick / self.stride % 2
    }

    /// The halves that choices are measured on, each with statistics of the other. Rounding to 4 bits takes long: one half
    /// is enough there.
    fn halves(&self, four: bool) -> std::ops::Range<usize> {
        match self.samples.len() {
            0..LEAST_TO_SPLIT => 0..0,
            _ if four => 0..1,
            _ => 0..2,
        }
    }

    /// Runs `graph` on the samples once: statistics to choose by, and those of all samples where they are `wanted` or cost
    /// nothing more.
    fn calibrate(
        &self,
        graph: Graph,
        factors: HashMap<TensorId, Vec<f64>>,
        source: &Source<'_>,
        prepared: &Prepared,
        wanted: bool,
    ) -> Result<Calibrated, ConvertError> {
        let halves = self.halves(source.four);
        let seen = |half: usize| self.samples.iter().copied().filter(move |&pick| self.half_of(pick) != half);
        let mut sets: Vec<Vec<usize>> = halves.clone().map(|half| seen(half).collect()).collect();
        let whole = wanted || halves.is_empty() || self.samples.len() == self.of;
        if whole {
            sets.push((0..self.of).collect());
        }
        let Sweep { calibrations, outputs } = Sweep::over(&graph, source.data, &sets)?;
        let prepared = Arc::new(prepared.fork());
        let mut sites = Vec::new();
        for (mut calibration, set) in calibrations.into_iter().zip(&sets) {
            calibration.prepared = Arc::clone(&prepared);
            calibration.fixed = source.fixed.activations.clone();
            calibration.fixed_weights = source.fixed.weights.clone();
            calibration.fixed_wide = source.fixed.wide.clone();
            if source.four {
                let data: Vec<Vec<Data>> = set.iter().map(|&sample| source.data[sample].clone()).collect();
                calibration.rounded = sequential::round(&graph, &data, &|_| WeightFormat::I4)?;
            }
            sites.push(Site { graph: graph.clone(), calibration, factors: factors.clone() });
        }
        let site = if whole { sites.pop() } else { None };
        let folds = match &site {
            Some(site) if halves.is_empty() => vec![Fold { site: site.clone(), half: None }],
            _ => sites.into_iter().zip(halves).map(|(site, half)| Fold { site, half: Some(half) }).collect(),
        };
        Ok(Calibrated { site, folds, outputs })
    }
}

/// Multiplications of one inference.
fn multiplications(graph: &Graph) -> u64 {
    let of = |node: &Node| {
        let outputs = graph.tensors[node.output].len() as u64;
        let last = |id: TensorId| graph.shape(id).last().copied().unwrap_or(1) as u64;
        match &node.op {
            Op::Linear | Op::MatMul { .. } => outputs.saturating_mul(last(node.inputs[0])),
            Op::Conv2d(_) => {
                let weights = graph.shape(node.inputs[1]);
                outputs.saturating_mul(weights.iter().skip(1).product::<usize>() as u64)
            }
            Op::Attention(a) => {
                let scores = [a.batch, a.heads, a.n_q, a.n_k].iter().map(|&d| d as u64).product::<u64>();
                scores.saturating_mul((a.head_dim + a.v_dim) as u64)
            }
            Op::MaxPool(_)
            | Op::AveragePool { .. }
            | Op::Softmax
            | Op::LayerNorm { .. }
            | Op::RmsNorm { .. }
            | Op::Unary(_)
            | Op::Binary(_)
            | Op::Where
            | Op::Transpose { .. }
            | Op::Reshape
            | Op::Slice { .. }
            | Op::Concat { .. }
            | Op::Expand
            | Op::Gather { .. }
            | Op::Pad { .. }
            | Op::Reduce { .. }
            | Op::Rope(_)
            | Op::Positions
            | Op::FakeQuant(_) => 0,
        }
    };
    graph.nodes.iter().map(of).fold(0, u64::saturating_add)
}

/// The samples of the picks with what the float graph makes of them.
struct Trials<'a> {
    samples: &'a [Vec<Values>],
    picks: Picks,
    /// Float outputs of the picks.
    reference: Vec<Vec<Data>>,
}

impl<'a> Trials<'a> {
    /// At most `count` of these samples.
    fn spread(&self, count: usize) -> Self {
        let Picks { samples, stride, of } = &self.picks;
        let pairs: Vec<(usize, Vec<Data>)> = samples.iter().copied().zip(self.reference.iter().cloned()).collect();
        let (samples, reference) = spread(&pairs, count).cloned().unzip();
        Self { samples: self.samples, picks: Picks { samples, stride: *stride, of: *of }, reference }
    }

    /// The samples.
    fn samples(&self) -> impl Iterator<Item = &'a Vec<Values>> {
        self.picks.samples.iter().map(|&pick| &self.samples[pick])
    }

    /// SQNR of a lowering over the samples, or one half of them.
    fn sqnr(&self, site: &Site, options: &LowerOptions, half: Option<usize>) -> Result<f64, ConvertError> {
        let lowered = lower(&site.graph, &site.calibration, options)?;
        let runnable = Runnable::new(&lowered.program, &plan_quickly(&lowered.program))?;
        Ok(quality::joint_sqnr(&self.ratios(&runnable, half)?))
    }

    /// The largest errors of scores whose SQNR is low.
    fn errors_of_scores(
        &self,
        runnable: &Runnable<'_>,
        graph: &Graph,
        outputs: &mut [OutputQuality],
    ) -> Result<(), ConvertError> {
        let producers = graph.producers();
        let is_score = |index: usize| graph.outputs.get(index).is_some_and(|&id| graph.is_score(&producers, id));
        let low = |output: &OutputQuality| output.sqnr_db.is_some_and(|db| db < LOW_SCORES_DB);
        let scores: Vec<usize> = (0..outputs.len()).filter(|&index| low(&outputs[index]) && is_score(index)).collect();
        if scores.is_empty() {
            return Ok(());
        }
        let runs = runnable.outputs(&self.samples().collect::<Vec<_>>())?;
        for index in scores {
            outputs[index].largest_error = Some(quality::largest_error(&runs, self.reference.iter(), index));
        }
        Ok(())
    }

    /// Noise over signal of every output over the samples, or one half of them.
    fn ratios(&self, runnable: &Runnable<'_>, half: Option<usize>) -> Result<Vec<Option<f64>>, ConvertError> {
        let belongs = |pick: usize| half.is_none_or(|half| self.picks.half_of(pick) == half);
        let picks = || self.picks.samples.iter().zip(&self.reference).filter(|(pick, _)| belongs(**pick));
        let samples: Vec<&Vec<Values>> = picks().map(|(&pick, _)| &self.samples[pick]).collect();
        let runs = runnable.outputs(&samples)?;
        let outputs = self.reference.first().map_or(0, Vec::len);
        Ok(quality::noise_ratios(outputs, &runs, picks().map(|(_, outputs)| outputs)))
    }

    /// [`ratios`](Self::ratios) of a fold on the samples that it has not seen.
    fn fold_ratios(&self, fold: &Fold, options: &LowerOptions) -> Result<Vec<Option<f64>>, ConvertError> {
        let lowered = lower(&fold.site.graph, &fold.site.calibration, options)?;
        self.ratios(&Runnable::new(&lowered.program, &plan_quickly(&lowered.program))?, fold.half)
    }
}

/// The measured search over the choices.
struct Search<'a> {
    trial: Trials<'a>,
    options: &'a ConvertOptions,
    trials: Vec<Trial>,
    progress: &'a mut dyn FnMut(&str),
}

impl Search<'_> {
    /// Lowers, packs and measures.
    fn measure(&self, site: &Site, options: &LowerOptions) -> Result<f64, ConvertError> {
        self.trial.sqnr(site, options, None)
    }

    /// [`measure`](Self::measure) of each fold on the samples it has not seen: the mean, in dB.
    fn measure_folds(&self, folds: &[Fold], options: &LowerOptions) -> Result<f64, ConvertError> {
        let trial = &self.trial;
        let measure = |fold: &Fold| trial.sqnr(&fold.site, options, fold.half);
        let sqnrs = parallel::try_map(folds.iter().collect(), measure)?;
        Ok(sqnrs.iter().sum::<f64>() / folds.len().max(1) as f64)
    }

    fn record(&mut self, what: &str, results: &[(String, f64)], kept: usize) {
        for (index, (choice, sqnr_db)) in results.iter().enumerate() {
            self.trials.push(Trial {
                what: what.to_owned(),
                choice: choice.clone(),
                sqnr_db: *sqnr_db,
                kept: index == kept,
            });
        }
    }

    fn range(&mut self, folds: &[Fold], chosen: &mut LowerOptions) -> Result<(), ConvertError> {
        if self.options.range != RangeMethod::Auto {
            return Ok(());
        }
        let methods = [RangeMethod::Minmax, RangeMethod::Percentile, RangeMethod::Mse, RangeMethod::Entropy];
        let mut results = Vec::new();
        for range in methods {
            (self.progress)(&format!("trying range {range:?}").to_lowercase());
            let sqnr = self.measure_folds(folds, &LowerOptions { range, ..chosen.clone() })?;
            results.push((format!("{range:?}").to_lowercase(), sqnr));
        }
        let best = best_of(&results);
        let best = if results[best].1 > results[0].1 + RANGE_MARGIN_DB { best } else { 0 };
        chosen.range = methods[best];
        self.record("range", &results, best);
        Ok(())
    }

    /// Scale migration across gates and attention, see [`balance`].
    fn balance(
        &mut self,
        site: &mut Site,
        folds: &mut Vec<Fold>,
        chosen: &LowerOptions,
        source: &Source<'_>,
        alphas: &[f64],
    ) -> Result<(), ConvertError> {
        if self.options.equalize == Switch::Off || !source.fixed.activations.is_empty() {
            return Ok(());
        }
        (self.progress)("trying scale migration across products");
        let few: Vec<Vec<Data>> = spread(source.data, FEW_SAMPLES).cloned().collect();
        let mut results = vec![("off".to_owned(), self.measure_folds(folds, chosen)?)];
        let (mut kept, mut bar, mut best) = (0, results[0].1 + MARGIN_DB, None);
        for &alpha in alphas {
            let mut graph = site.graph.clone();
            let mut factors = balance(&mut graph, &few, alpha)?;
            if factors.is_empty() {
                return Ok(());
            }
            factors.extend(site.factors.clone());
            let prepared = &site.calibration.prepared;
            let candidate = self.trial.picks.calibrate(graph, factors, source, prepared, false)?;
            let sqnr = self.measure_folds(&candidate.folds, chosen)?;
            results.push((format!("alpha {alpha}"), sqnr));
            if sqnr > bar {
                (kept, bar, best) = (results.len() - 1, sqnr, Some(candidate));
            }
        }
        self.record("product scales", &results, kept);
        match best {
            Some(candidate) => self.adopt(candidate, site, folds, source),
            None => Ok(()),
        }
    }

    /// Whether scales were migrated.
    fn migration(
        &mut self,
        site: &mut Site,
        folds: &mut Vec<Fold>,
        chosen: &LowerOptions,
        source: &Source<'_>,
    ) -> Result<bool, ConvertError> {
        // A quantized model keeps its scales.
        if self.options.equalize == Switch::Off || !source.fixed.activations.is_empty() {
            return Ok(false);
        }
        let mut results = Vec::new();
        if self.options.equalize == Switch::Auto {
            results.push(("off".to_owned(), self.measure_folds(folds, chosen)? + MARGIN_DB));
        }
        let few: Vec<&Vec<Data>> = spread(source.data, FEW_SAMPLES).collect();
        let extents = Extents::of(&site.graph, &few)?;
        let mut best: Option<(f64, Calibrated)> = None;
        let bar = results.first().map_or(f64::NEG_INFINITY, |r| r.1);
        for alpha in ALPHAS {
            (self.progress)(&format!("trying scale migration {alpha}"));
            let mut graph = site.graph.clone();
            let mut factors = equalize(&mut graph, &extents, alpha);
            if factors.is_empty() {
                return Ok(false);
            }
            factors.extend(site.factors.clone());
            let prepared = &site.calibration.prepared;
            let candidate = self.trial.picks.calibrate(graph, factors, source, prepared, false)?;
            let sqnr = self.measure_folds(&candidate.folds, chosen)?;
            results.push((format!("alpha {alpha}"), sqnr));
            if sqnr > bar && best.as_ref().is_none_or(|(b, _)| sqnr > *b) {
                best = Some((sqnr, candidate));
            }
        }
        let kept = best_of(&results);
        if let Some(first) = results.first_mut().filter(|r| r.0 == "off") {
            first.1 -= MARGIN_DB;
        }
        self.record("scale migration", &results, kept);
        let moved = best.is_some();
        if let Some((_, candidate)) = best {
            self.adopt(candidate, site, folds, source)?;
        }
        Ok(moved)
    }

    /// Takes the graph of `candidate`, with statistics over all samples.
    fn adopt(
        &self,
        mut candidate: Calibrated,
        site: &mut Site,
        folds: &mut Vec<Fold>,
        source: &Source<'_>,
    ) -> Result<(), ConvertError> {
        if candidate.site.is_none()
            && let Some(Fold { site: moved, .. }) = candidate.folds.first()
        {
            let (graph, factors) = (moved.graph.clone(), moved.factors.clone());
            let prepared = &moved.calibration.prepared;
            candidate.site = self.trial.picks.calibrate(graph, factors, source, prepared, true)?.site;
        }
        if let Some(moved) = candidate.site {
            (*site, *folds) = (moved, candidate.folds);
        }
        Ok(())
    }

    fn exponentials(&mut self, folds: &[Fold], chosen: &mut LowerOptions) -> Result<(), ConvertError> {
        let Some(Fold { site, .. }) = folds.first() else { return Ok(()) };
        let ivit = self.options.profile == Profile::Ivit;
        let attends = |op: &Op| matches!(op, Op::Attention(_)) || ivit && *op == Op::Softmax;
        if self.options.wide_exp != Switch::Auto || !site.graph.nodes.iter().any(|n| attends(&n.op)) {
            return Ok(());
        }
        (self.progress)("trying 16-bit exponentials");
        let narrow = self.measure_folds(folds, &LowerOptions { wide_exp: false, ..chosen.clone() })?;
        let widened = self.measure_folds(folds, &LowerOptions { wide_exp: true, ..chosen.clone() })?;
        // Twice the scratch and slower products: they must be worth half a decibel, unless the outputs keep little, or rows
        // are so long that the worst case of 8 bits is half of the values' range.
        let long = |op: &Op| matches!(op, Op::Attention(a) if sum_error(a.n_k as u32, false) > HALF_RANGE);
        let worth = match site.graph.nodes.iter().any(|n| long(&n.op)) {
            true => 0.0,
            false if narrow < wide::ENOUGH_DB && self.options.decoder.is_none() => MARGIN_DB,
            false => 0.5,
        };
        chosen.wide_exp = widened > narrow + worth;
        let results = [("8 bit".to_owned(), narrow), ("16 bit".to_owned(), widened)];
        self.record("exponentials", &results, usize::from(chosen.wide_exp));
        Ok(())
    }

    /// Chooses bits per layer from the measured damage of each layer at 4 bits.
    fn mixed(
        &mut self,
        site: &mut Site,
        chosen: &mut LowerOptions,
        data: &[Vec<Data>],
        budget: usize,
    ) -> Result<Vec<BitsPoint>, ConvertError> {
        let layers: Vec<(String, usize)> = site
            .graph
            .nodes
            .iter()
            .filter(|n| matches!(n.op, Op::Linear | Op::Conv2d(_)))
            .map(|n| (n.name.clone(), site.graph.tensors[n.inputs[1]].len()))
            .collect();
        let noise = |sqnr: f64| 10f64.powf(-sqnr / 10.0);
        let base = noise(self.measure(site, chosen)?);
        let mut damage = Vec::new();
        // Layers apart: rounded against the inputs of the float model.
        let few: Vec<Vec<Data>> = spread(data, FEW_SAMPLES).cloned().collect();
        site.calibration.rounded = sequential::round(&site.graph, &few, &|_| WeightFormat::I4)?;
        for (index, (name, weights)) in layers.iter().enumerate() {
            (self.progress)(&format!("sensitivity of layer {} of {}", index + 1, layers.len()));
            let layer_formats = HashMap::from([(name.clone(), WeightFormat::I4)]);
            let lost = noise(self.measure(site, &LowerOptions { layer_formats, ..chosen.clone() })?) - base;
            damage.push((lost.max(0.0) / *weights as f64, name.clone()));
        }
        damage.sort_by(|a, b| a.0.total_cmp(&b.0));
        let order: Vec<String> = damage.into_iter().map(|(_, name)| name).collect();
        let with = |count: usize, chosen: &LowerOptions| LowerOptions {
            layer_formats: order[..count].iter().map(|name| (name.clone(), WeightFormat::I4)).collect(),
            ..chosen.clone()
        };
        // File size falls with every layer: the fewest that fit are found by bisection.
        let bytes = |count: usize, chosen: &LowerOptions, this: &Self| -> Result<usize, ConvertError> {
            Ok(assemble(site, &with(count, chosen), this.options)?.len())
        };
        let min = bytes(order.len(), chosen, self)?;
        if min > budget {
            return Err(ConvertError::Budget { min, budget });
        }
        let (mut low, mut high) = (0, order.len());
        while low < high {
            let middle = (low + high) / 2;
            if bytes(middle, chosen, self)? <= budget { high = middle } else { low = middle + 1 }
        }
        let mut counts: Vec<usize> = (0..=CURVE_POINTS).map(|i| i * order.len() / CURVE_POINTS).chain([low]).collect();
        counts.sort_unstable();
        counts.dedup();
        let rounded = |site: &Site, count: usize| {
            sequential::round(&site.graph, data, &|name| {
                if order[..count].iter().any(|n| n == name) { WeightFormat::I4 } else { WeightFormat::I8 }
            })
        };
        let mut curve = Vec::new();
        for count in counts {
            (self.progress)(&format!("measuring {count} layers at 4 bits"));
            site.calibration.rounded = rounded(site, count)?;
            let options = with(count, chosen);
            let file = assemble(site, &options, self.options)?;
            let sqnr_db = self.trial.sqnr(site, &options, None)?;
            let four_bit_layers = order[..count].to_vec();
            curve.push(BitsPoint { four_bit_layers, file_bytes: file.len(), sqnr_db, kept: false });
        }
        // The noises of layers partly cancel: fewer 8-bit layers can measure better, and are smaller.
        let fits = curve.iter_mut().filter(|point| point.file_bytes <= budget);
        if let Some(best) = fits.max_by(|a, b| a.sqnr_db.total_cmp(&b.sqnr_db)) {
            best.kept = true;
            let count = best.four_bit_layers.len();
            site.calibration.rounded = rounded(site, count)?;
            *chosen = with(count, chosen);
        }
        Ok(curve)
    }
}

fn best_of(results: &[(String, f64)]) -> usize {
    let mut best = 0;
    for (index, (_, sqnr)) in results.iter().enumerate() {
        if *sqnr > results[best].1 {
            best = index;
        }
    }
    best
}

/// Lowers and packs without reference runs.
fn assemble(site: &Site, lower_options: &LowerOptions, options: &ConvertOptions) -> Result<Vec<u8>, ConvertError> {
    let lowered = lower(&site.graph, &site.calibration, lower_options)?;
    let arena = plan_quickly(&lowered.program);
    let annotations = annotations(site, &lowered, &arena, options, &[]);
    Ok(pack(&lowered.program, &arena, &annotations, &[])?)
}

fn annotations(site: &Site, lowered: &Lowered, plan: &Plan, options: &ConvertOptions, notes: &[String]) -> Annotations {
    let program = &lowered.program;
    // Where other axes than the columns have factors, the tensor is none of the source graph any more.
    let source = |source: Option<TensorId>| source.filter(|id| site.factors.get(id).is_none_or(|f| !f.is_empty()));
    let factors = |source: Option<TensorId>| {
        let factors = source.and_then(|id| site.factors.get(&id));
        factors.map(|f| f.iter().map(|&v| v as f32).collect()).unwrap_or_default()
    };
    Annotations {
        producer: concat!("shiftformer ", env!("CARGO_PKG_VERSION")).to_owned(),
        source: options.source.clone(),
        inputs: program.inputs.clone(),
        outputs: program.outputs.clone(),
        tensors: program
            .tensors
            .iter()
            .map(|t| AnnotatedTensor {
                name: t.name.clone(),
                scale: t.scale,
                zero: t.zero,
                source: source(t.source),
                column_factors: factors(t.source),
            })
            .collect(),
        ops: program.ops.iter().map(|op| op.name.clone()).collect(),
        params: site
            .graph
            .nodes
            .iter()
            .flat_map(|n| &n.inputs)
            .collect::<std::collections::HashSet<_>>()
            .into_iter()
            .filter(|&&id| site.graph.floats(id).is_some())
            .map(|&id| site.graph.tensors[id].len() as u64)
            .sum(),
        arena_lower_bound_bytes: plan.lower_bound,
        notes: notes.to_vec(),
    }
}

/// Ids that come from an input as they are lie within the tables they are looked up in.
fn check_ids(graph: &Graph, data: &[Vec<Data>]) -> Result<(), ConvertError> {
    let producers = graph.producers();
    let source = |mut id: TensorId| {
        while let Some(node) = producers[id].map(|index| &graph.nodes[index]) {
            match node.op {
                Op::Reshape | Op::Transpose { .. } | Op::Expand => id = node.inputs[0],
                _ => return None,
            }
        }
        graph.inputs.iter().position(|&input| input == id)
    };
    for node in &graph.nodes {
        let Op::Gather { axis } = node.op else { continue };
        let Some(input) = source(node.inputs[1]) else { continue };
        let rows = graph.shape(node.inputs[0])[axis];
        for (sample, values) in data.iter().enumerate() {
            let ids = values.get(input).and_then(Data::ints).unwrap_or(&[]);
            let limit = i64::try_from(rows).unwrap_or(i64::MAX);
            if let Some(&value) = ids.iter().find(|&&id| !(-limit..limit).contains(&id)) {
                let name = graph.tensors[graph.inputs[input]].name.clone();
                let table = graph.tensors[node.inputs[0]].name.clone();
                return Err(ConvertError::Id { sample, name, value, table, rows });
            }
        }
    }
    Ok(())
}

fn check_weights(graph: &Graph) -> Result<(), ConvertError> {
    for node in &graph.nodes {
        let dense = matches!(node.op, Op::Linear | Op::Conv2d(_) | Op::LayerNorm { .. } | Op::RmsNorm { .. });
        for &id in node.inputs.iter().filter(|_| dense) {
            if graph.floats(id).is_some_and(|v| v.iter().any(|x| !x.is_finite())) {
                return Err(ConvertError::Weight(graph.tensors[id].name.clone()));
            }
        }
    }
    Ok(())
}

/// The samples in the units of the float graph.
///
/// # Errors
/// [`ConvertError`] when a count differs or a value is not finite.
pub fn real_inputs(
    graph: &Graph,
    samples: &[Vec<Values>],
    normalization: Option<(f64, f64)>,
) -> Result<Vec<Vec<Data>>, ConvertError> {
    let convert = |(sample, values): (usize, &Vec<Values>)| -> Result<Vec<Data>, ConvertError> {
        graph
            .inputs
            .iter()
            .enumerate()
            .map(|(index, &id)| {
                let tensor = &graph.tensors[id];
                let given = values.get(index).map_or(0, Values::len);
                let value = values.get(index).filter(|v| v.len() == tensor.len());
                let (name, expected) = (tensor.name.clone(), tensor.len());
                let value = value.ok_or(ConvertError::Sample { sample, name: name.clone(), expected, given })?;
                let image = tensor.dtype == DataType::Float && tensor.shape.len() >= 3;
                let real = value.to_real(normalization.filter(|_| image));
                // Whether minus infinity is a mask here is for the lowering to see.
                if let Some(&value) = real.iter().find(|v| !v.is_finite() && **v != f32::NEG_INFINITY) {
                    return Err(ConvertError::NotFinite { sample, name, value });
                }
                Ok(match tensor.dtype {
                    DataType::Float => Data::Float(real),
                    DataType::Int => Data::Int(match value {
                        Values::Int(v) => v.clone(),
                        _ => real.iter().map(|&v| v as i64).collect(),
                    }),
                    DataType::Bool => Data::Bool(real.iter().map(|&v| v != 0.0).collect()),
                })
            })
            .collect()
    };
    samples.iter().enumerate().map(convert).collect()
}

/// Reminds of `--mean` and `--std` where raw bytes are the values of a real input as they are.
fn raw_bytes_note(graph: &Graph, sample: Option<&Vec<Values>>, normalization: Option<(f64, f64)>) -> Option<String> {
    let inputs = graph.inputs.iter().map(|&id| &graph.tensors[id]).zip(sample?);
    let raw = inputs.filter(|(tensor, values)| tensor.dtype == DataType::Float && matches!(values, Values::U8(_)));
    let (tensor, _) = raw.take(1).find(|_| normalization.is_none())?;
    Some(format!(
        "`{}`: the data are bytes and enter as 0 to 255; if the model wants normalized pixels, give `--mean` and `--std`",
        tensor.name
    ))
}

/// Which exponentials the longest attention uses, and what they cost at worst.
fn exponentials_note(program: &Program) -> Option<String> {
    let rows = program.ops.iter().filter_map(|op| match op.op {
        ops::Op::Attention(ops::attention::Attention { attention }) => Some(attention),
        ops::Op::AttentionScores(ops::attention::AttentionScores { attention }) => Some(attention),
        _ => None,
    });
    let longest = rows.max_by_key(|attention| attention.n_k)?;
    let n = longest.n_k;
    let percent = |wide| f64::from(sum_error(n, wide)) / 655.36;
    let (bits, other) = if longest.wide_exp { (16, 8) } else { (8, 16) };
    let (own, others) = (percent(longest.wide_exp), percent(!longest.wide_exp));
    Some(format!(
        "attention over {n} keys uses {bits}-bit exponentials: a weighted sum is off by at most {own:.1} % of the range of its \
         values in the worst case ({others:.1} % with {other} bits)"
    ))
}

/// Notes on 8-bit tensors whose extremes lie far beyond what is usual in them.
fn outliers(site: &Site, program: &Program) -> Vec<String> {
    let narrow = program.tensors.iter().filter(|t| t.dtype.bytes() == 1 && t.constant.is_none());
    narrow
        .filter_map(|tensor| {
            let stats = site.calibration.stats(tensor.source?);
            // What a ReLU, a softmax or a one-hot vector leaves at 0 says nothing about the rest.
            let bin = f64::from(stats.max - stats.min) / BINS as f64;
            let mut magnitudes: Vec<(f64, f64)> =
                stats.bins().map(|(x, n)| (x.abs(), n)).filter(|m| m.0 > bin).collect();
            magnitudes.sort_by(|a, b| a.0.total_cmp(&b.0));
            let half = magnitudes.iter().map(|m| m.1).sum::<f64>() / 2.0;
            let mut seen = 0.0;
            let median = magnitudes
                .iter()
                .find(|m| {
                    seen += m.1;
                    seen >= half
                })?
                .0;
            (stats.abs_max() / median.max(f64::MIN_POSITIVE) > OUTLIER).then(|| {
                format!(
                    "`{}` has outliers more than {OUTLIER} times its median; scale migration or a clipped range helps",
                    tensor.name
                )
            })
        })
        .collect()
}
