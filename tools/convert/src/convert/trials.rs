//! The samples that choices are measured on, and the measurement.

use super::{ConvertError, quality, quality::OutputQuality, runnable::Runnable};
use crate::calibrate::{Calibration, Sweep};
use crate::graph::{Data, Graph, Node, Op, TensorId};
use crate::lower::{LowerOptions, lower};
use crate::model_file::Values;
use crate::program::plan::plan_quickly;
use crate::quantize::weights::Prepared;
use crate::quantize::{qdq, sequential};
use shiftformer::weights::WeightFormat;
use std::collections::HashMap;
use std::sync::Arc;

/// Samples used for a trial at most, spread over those given.
const TRIAL_SAMPLES: usize = 256;
/// Multiplications of a trial: fewer samples of large models, but not below [`FEW_SAMPLES`].
const TRIAL_MACS: u64 = 8_000_000_000;
/// Samples where a rough idea is enough: extents of columns, sensitivity of layers.
pub(super) const FEW_SAMPLES: usize = 16;
/// From so many samples on, choices are measured on samples that did not make the statistics.
const LEAST_TO_SPLIT: usize = 32;
/// Below this the largest error of a score is measured too, in dB.
const LOW_SCORES_DB: f64 = 30.0;

/// A graph with its statistics.
#[derive(Clone, Default)]
pub(super) struct CalibratedGraph {
    pub(super) graph: Graph,
    pub(super) calibration: Calibration,
    /// Column factors of tensors whose scale was migrated: original = value * factor; empty where they are not columns.
    pub(super) factors: HashMap<TensorId, Vec<f64>>,
}

/// What statistics are made of.
pub(super) struct Source<'a> {
    pub(super) data: &'a [Vec<Data>],
    pub(super) fixed: &'a qdq::Fixed,
    /// What weights are rounded to everywhere.
    pub(super) weights: WeightFormat,
}

/// The samples that choices are measured on.
pub(super) struct Picks {
    /// Indices of the samples, `stride` apart.
    pub(super) samples: Vec<usize>,
    pub(super) stride: usize,
    /// How many samples there are.
    pub(super) of: usize,
}

/// Statistics of one half of the picks, to be measured on the other; of all samples where there are too few.
pub(super) struct Fold {
    pub(super) site: CalibratedGraph,
    pub(super) half: Option<usize>,
}

/// What running a graph on the samples says.
pub(super) struct Calibrated {
    /// Over all samples, where it was asked for or came along.
    pub(super) site: Option<CalibratedGraph>,
    pub(super) folds: Vec<Fold>,
    /// Float outputs by sample.
    pub(super) outputs: HashMap<usize, Vec<Data>>,
}

/// The samples of the picks with what the float graph makes of them.
pub(super) struct Trials<'a> {
    pub(super) samples: &'a [Vec<Values>],
    pub(super) picks: Picks,
    /// Float outputs of the picks.
    pub(super) reference: Vec<Vec<Data>>,
}

/// `count` of `items`, evenly spread.
pub(super) fn spread<T>(items: &[T], count: usize) -> impl Iterator<Item = &T> {
    items.iter().step_by(items.len().div_ceil(count.max(1)).max(1))
}

impl Picks {
    pub(super) fn of(graph: &Graph, of: usize) -> Self {
        let count = TRIAL_SAMPLES.min((TRIAL_MACS / multiplications(graph).max(1)) as usize).max(FEW_SAMPLES);
        let stride = of.div_ceil(count).max(1);
        Self { samples: (0..of).step_by(stride).collect(), stride, of }
    }

    /// Which half a pick belongs to: they alternate.
    pub(super) fn half_of(&self, pick: usize) -> usize {
        pick / self.stride % 2
    }

    /// The halves that choices are measured on, each with statistics of the other. Rounding to few bits takes long: one
    /// half is enough there.
    pub(super) fn halves(&self, few: bool) -> std::ops::Range<usize> {
        match self.samples.len() {
            0..LEAST_TO_SPLIT => 0..0,
            _ if few => 0..1,
            _ => 0..2,
        }
    }

    /// Runs `graph` on the samples once: statistics to choose by, and those of all samples where they are `wanted` or cost
    /// nothing more.
    pub(super) fn calibrate(
        &self,
        graph: Graph,
        factors: HashMap<TensorId, Vec<f64>>,
        source: &Source<'_>,
        prepared: &Prepared,
        wanted: bool,
    ) -> Result<Calibrated, ConvertError> {
        let halves = self.halves(source.weights != WeightFormat::I8);
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
            if source.weights != WeightFormat::I8 {
                let data: Vec<Vec<Data>> = set.iter().map(|&sample| source.data[sample].clone()).collect();
                calibration.rounded = sequential::round(&graph, &data, &source.fixed.weights, &|_| source.weights)?;
            }
            sites.push(CalibratedGraph { graph: graph.clone(), calibration, factors: factors.clone() });
        }
        let site = if whole { sites.pop() } else { None };
        let folds = match &site {
            Some(site) if halves.is_empty() => vec![Fold { site: site.clone(), half: None }],
            _ => sites.into_iter().zip(halves).map(|(site, half)| Fold { site, half: Some(half) }).collect(),
        };
        Ok(Calibrated { site, folds, outputs })
    }
}

impl<'a> Trials<'a> {
    /// At most `count` of these samples.
    pub(super) fn spread(&self, count: usize) -> Self {
        let Picks { samples, stride, of } = &self.picks;
        let pairs: Vec<(usize, Vec<Data>)> = samples.iter().copied().zip(self.reference.iter().cloned()).collect();
        let (samples, reference) = spread(&pairs, count).cloned().unzip();
        Self { samples: self.samples, picks: Picks { samples, stride: *stride, of: *of }, reference }
    }

    /// The samples.
    pub(super) fn samples(&self) -> impl Iterator<Item = &'a Vec<Values>> {
        self.picks.samples.iter().map(|&pick| &self.samples[pick])
    }

    /// SQNR of a lowering over the samples, or one half of them.
    pub(super) fn sqnr(
        &self,
        site: &CalibratedGraph,
        options: &LowerOptions,
        half: Option<usize>,
    ) -> Result<f64, ConvertError> {
        let lowered = lower(&site.graph, &site.calibration, options)?;
        let runnable = Runnable::new(&lowered.program, &plan_quickly(&lowered.program))?;
        Ok(quality::joint_sqnr(&self.ratios(&runnable, half)?))
    }

    /// The largest errors of scores whose SQNR is low.
    pub(super) fn errors_of_scores(
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
    pub(super) fn ratios(
        &self,
        runnable: &Runnable<'_>,
        half: Option<usize>,
    ) -> Result<Vec<Option<f64>>, ConvertError> {
        let belongs = |pick: usize| half.is_none_or(|half| self.picks.half_of(pick) == half);
        let picks = || self.picks.samples.iter().zip(&self.reference).filter(|(pick, _)| belongs(**pick));
        let samples: Vec<&Vec<Values>> = picks().map(|(&pick, _)| &self.samples[pick]).collect();
        let runs = runnable.outputs(&samples)?;
        let outputs = self.reference.first().map_or(0, Vec::len);
        Ok(quality::noise_ratios(outputs, &runs, picks().map(|(_, outputs)| outputs)))
    }

    /// [`ratios`](Self::ratios) of a fold on the samples that it has not seen.
    pub(super) fn fold_ratios(&self, fold: &Fold, options: &LowerOptions) -> Result<Vec<Option<f64>>, ConvertError> {
        let lowered = lower(&fold.site.graph, &fold.site.calibration, options)?;
        self.ratios(&Runnable::new(&lowered.program, &plan_quickly(&lowered.program))?, fold.half)
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
            | Op::Lookup(_)
            | Op::Positions
            | Op::FakeQuant(_) => 0,
        }
    };
    graph.nodes.iter().map(of).fold(0, u64::saturating_add)
}
