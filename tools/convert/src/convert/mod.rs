//! From a float graph to a `.sfm` file: calibrate, choose, quantize, plan, prove, pack.
//!
//! Where a choice is left to the converter (range method, scale migration, width of the exponentials, bits per layer)
//! it lowers the model with each, runs the integer program and keeps what has the best SQNR of the outputs against the
//! float graph: calibrated on one half of the samples, measured on the other. Every trial is reported.

mod error;
mod inputs;
pub mod ivit;
mod judged;
mod notes;
mod options;
pub mod quality;
mod refine;
pub mod runnable;
mod search;
mod trials;
pub mod wide;

pub use error::ConvertError;
pub use inputs::real_inputs;
pub use options::{ActivationBits, ConvertOptions, DecoderRows, Switch, WeightBits};

use crate::calibrate::Calibration;
use crate::decoder;
use crate::fuse::observe;
use crate::graph::{Data, Graph, Op, TensorId};
use crate::lower::{LowerOptions, Lowered, lower};
use crate::model_file::Values;
use crate::pack::{self, AnnotatedTensor, Annotations, ReceiptData, pack};
use crate::parallel;
use crate::program::chain;
use crate::program::plan::{Plan, plan, plan_quickly};
use crate::program::{Program, State};
use crate::quantize::qdq;
use crate::quantize::range::RangeMethod;
use crate::quantize::sequential;
use crate::quantize::weights::Prepared;
use inputs::{check_ids, check_weights, id_counts};
use judged::Judges;
use notes::{exponentials_note, outliers, raw_bytes_note};
use quality::OutputQuality;
use runnable::Runnable;
use search::Search;
use shiftformer::format::Profile;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use trials::{Calibrated, CalibratedGraph, Picks, Source, Trials};

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
    /// Bits of the layers that have fewer.
    pub fewer_bits: u32,
    /// Those layers.
    pub fewer_bit_layers: Vec<String>,
    /// Bits of the others.
    pub bits: u32,
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

/// Exponents of scale migration across products that are tried.
const BALANCE_ALPHAS: [f64; 2] = [0.5, 0.8];
/// Rows of a run of a decoder that are tried beyond one.
const MORE_ROWS: [usize; 4] = [2, 4, 8, 16];
/// More rows are taken while the arena has at most this part of the bytes of the state.
const ARENA_SHARE: usize = 8;
/// Outliers are reported where an output keeps less than this, in dB.
const OUTLIERS_MATTER_DB: f64 = 30.0;

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
    let mixed = matches!(options.weights, WeightBits::Mixed { .. });
    let comes_rounded = !mixed && sequential::comes_rounded(&graph, &fixed.weights, options.weights.format());
    if samples.is_empty() && !comes_rounded {
        return Err(ConvertError::NeedsSamples("fewer than 8 bits per weight"));
    }
    let source = Source { data: &data, fixed: &fixed, weights: options.weights.format() };
    let picks = Picks::of(&graph, data.len());
    let shown = graph.outputs.clone();
    let judges = Judges::of(&graph, ivit);
    graph.outputs.extend(judges.arguments());
    let counts = id_counts(&graph, &data);
    let base = picks.calibrate(graph, HashMap::new(), &source, &Prepared::default(), true)?;
    let mut chosen = LowerOptions {
        profile: options.profile,
        range: if options.range == RangeMethod::Auto { RangeMethod::Mse } else { options.range },
        weights: source.weights,
        layer_formats: HashMap::new(),
        // The other choices drown in the noise of published 8-bit probabilities: they are made with 16 bits.
        wide_exp: options.wide_exp == Switch::On || ivit && options.wide_exp == Switch::Auto,
        unfused_attention: options.unfused_attention,
        normalization: options.normalization,
        bias_correction: options.bias_correction,
        wide: BTreeSet::new(),
        embeddings: options.embeddings,
        lmul: options.lmul.clone(),
        id_counts: Arc::new(counts),
    };
    let Calibrated { site, mut folds, mut outputs } = base;
    let mut site = site.unwrap_or_default();
    let values: Vec<Vec<Data>> = picks.samples.iter().map(|pick| outputs.remove(pick).unwrap_or_default()).collect();
    let graphs = folds.iter_mut().map(|fold| &mut fold.site.graph).chain([&mut site.graph]);
    let judges = judges.among(&site.calibration);
    graphs.for_each(|graph| graph.outputs = judges.outputs());
    let trial = Trials { samples, picks, reference: judges.values(&values) };
    let mut search = Search { trial, options, trials: Vec::new(), notes: Vec::new(), progress };
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
    notes.append(&mut search.notes);
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
    let CalibratedGraph { graph, calibration, .. } = site;
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
fn lower_rows(site: &CalibratedGraph, chosen: &LowerOptions, rows: DecoderRows) -> Result<Lowered, ConvertError> {
    let lowered = |rows: usize| -> Result<Lowered, ConvertError> {
        Ok(lower(&decoder::resized(&site.graph, rows)?, &site.calibration, chosen)?)
    };
    let causal = site.graph.nodes.iter().filter_map(|node| match &node.op {
        Op::Attention(attention) => attention.causal,
        _ => None,
    });
    let (positions, windows) = causal.fold((1, false), |(positions, windows), causal| {
        (positions.max(causal.positions), windows || causal.window < causal.positions)
    });
    match rows {
        DecoderRows::Fixed(rows) => lowered(rows.clamp(1, positions)),
        // A ring takes single rows: with more of them in a run, the state has all positions.
        DecoderRows::Auto if windows => lowered(1),
        DecoderRows::Auto => {
            let mut best = lowered(1)?;
            let state: usize = best.program.tensors.iter().filter(|t| t.in_state).map(|t| t.bytes()).sum();
            for rows in MORE_ROWS.into_iter().filter(|&rows| rows <= positions) {
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

/// Lowers and packs without reference runs.
fn assemble(
    site: &CalibratedGraph,
    lower_options: &LowerOptions,
    options: &ConvertOptions,
) -> Result<Vec<u8>, ConvertError> {
    let lowered = lower(&site.graph, &site.calibration, lower_options)?;
    let arena = plan_quickly(&lowered.program);
    let annotations = annotations(site, &lowered, &arena, options, &[]);
    Ok(pack(&lowered.program, &arena, &annotations, &[])?)
}

fn annotations(
    site: &CalibratedGraph,
    lowered: &Lowered,
    plan: &Plan,
    options: &ConvertOptions,
    notes: &[String],
) -> Annotations {
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
