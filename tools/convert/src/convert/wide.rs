//! Which activations get 16 bits, and what they cost.

use super::search::Search;
use super::trials::{CalibratedGraph, Fold};
use super::{ActivationBits, ConvertError, ConvertOptions, Switch, WeightBits};
use crate::graph::{DataType, Graph, TensorId};
use crate::lower::facts::{Counted, facts};
use crate::lower::{LowerOptions, Lowered, lower, wide::candidates};
use crate::program::{Program, chain, plan::Plan, plan::plan};
use serde::Serialize;
use shiftformer::format::Profile;
use shiftformer::ops::OpKind;
use std::collections::BTreeSet;
use std::fmt;

/// From this SQNR of the outputs on, in dB, 8 bits are left as they are.
pub(super) const ENOUGH_DB: f64 = 32.0;
/// The search for tensors ends here, in dB.
const AIM_DB: f64 = 36.0;
/// Both where an output holds whole numbers, which are right or wrong: one value in a thousand differs.
const WHOLE_DB: f64 = 60.0;
/// Both where an output is a score that an application compares with a threshold: it has few large values, and an error of one
/// of them counts, not the mean.
const SCORE_DB: f64 = 44.0;
/// What 16 bits have to gain altogether, in dB.
const WORTH_DB: f64 = 1.0;
/// The smallest set of tensors within this of the best one is taken, in dB.
const NEAR_DB: f64 = 0.5;
/// Multiplications that the sensitivity of single tensors may be measured with.
const SENSITIVITY_MACS: u64 = 8_000_000_000;
/// Samples that tell one tensor from another.
const FEWEST: u64 = 2;

/// Where 16-bit activations are used, beside the same model with 8 bits.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct WideReport {
    /// Tensors that are read in 16 bits.
    pub tensors: Vec<String>,
    /// Operators that read them.
    pub operators: Vec<String>,
    /// Bytes of the arena.
    pub arena_bytes: usize,
    /// Bytes of the arena with 8 bits.
    pub narrow_arena_bytes: usize,
    /// Estimated instructions of a run on a Cortex-M4.
    pub instructions: u64,
    /// Estimated instructions with 8 bits.
    pub narrow_instructions: u64,
}

impl fmt::Display for WideReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 6;
        let names: Vec<String> = self.tensors.iter().take(SHOWN).map(|name| format!("`{name}`")).collect();
        let more = self.tensors.len().saturating_sub(SHOWN);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let percent = |new: f64, old: f64| (new / old.max(1.0) - 1.0) * 100.0;
        write!(
            f,
            "16-bit activations for {} operator(s), by the tensors they read: {}{more}; beside 8 bits {:+} bytes of RAM \
             ({:+.1} %), {:+.1} % instructions on a Cortex-M4 (estimated)",
            self.operators.len(),
            names.join(", "),
            self.arena_bytes as i64 - self.narrow_arena_bytes as i64,
            percent(self.arena_bytes as f64, self.narrow_arena_bytes as f64),
            percent(self.instructions as f64, self.narrow_instructions as f64),
        )
    }
}

/// The report on the 16-bit activations of a lowered model.
///
/// # Errors
/// [`ConvertError::Lower`].
pub(super) fn report(
    site: &CalibratedGraph,
    chosen: &LowerOptions,
    options: &ConvertOptions,
    lowered: &Lowered,
    arena: &Plan,
) -> Result<Option<WideReport>, ConvertError> {
    let operators: Vec<String> =
        lowered.program.ops.iter().filter(|op| reads_16_bits(op.op.kind())).map(|op| op.name.clone()).collect();
    if operators.is_empty() {
        return Ok(None);
    }
    let narrow_options = LowerOptions { wide: BTreeSet::new(), ..chosen.clone() };
    let mut narrow = lower(&site.graph, &site.calibration, &narrow_options)?.program;
    if options.row_blocks != Switch::Off {
        narrow = chain::in_blocks(&narrow, options.row_blocks == Switch::On);
    }
    let tensors = chosen.wide.iter().map(|&id| site.graph.tensors[id].name.clone()).collect();
    Ok(Some(WideReport {
        tensors,
        operators,
        arena_bytes: arena.arena_bytes,
        narrow_arena_bytes: plan(&narrow).arena_bytes,
        instructions: instructions(&lowered.program),
        narrow_instructions: instructions(&narrow),
    }))
}

/// Whether operators of this kind exist for 16-bit activations alone.
fn reads_16_bits(kind: OpKind) -> bool {
    matches!(
        kind,
        OpKind::LinearI16
            | OpKind::Conv2dI16
            | OpKind::DepthwiseConv2dI16
            | OpKind::MatMulI16
            | OpKind::LutI16
            | OpKind::MaxPoolI16
    )
}

/// Instructions of a run on a Cortex-M4, as [`facts`] estimates them.
fn instructions(program: &Program) -> u64 {
    let of = |op: &crate::program::QOp| {
        let facts = facts(op.op.kind());
        let tensor = match facts.counted {
            Counted::Read => op.inputs.first().copied().flatten().unwrap_or(op.output),
            Counted::Written => op.output,
        };
        let elements = program.tensors[tensor].len() as f64;
        facts.costs.dsp.per_mac * op.op.macs() as f64 + facts.costs.dsp.per_element * elements
    };
    program.ops.iter().map(of).sum::<f64>() as u64
}

/// From which SQNR of the outputs of `graph` on 8 bits are left as they are, and where the search ends, in dB.
pub(super) fn aims(graph: &Graph) -> (f64, f64) {
    let producers = graph.producers();
    let aim = |&id: &TensorId| {
        if graph.tensors[id].dtype != DataType::Float {
            (WHOLE_DB, WHOLE_DB)
        } else if graph.is_score(&producers, id) {
            (SCORE_DB, SCORE_DB)
        } else {
            (ENOUGH_DB, AIM_DB)
        }
    };
    graph.outputs.iter().map(aim).fold((ENOUGH_DB, AIM_DB), |a, b| (a.0.max(b.0), a.1.max(b.1)))
}

/// Noise over signal.
fn noise(sqnr_db: f64) -> f64 {
    10f64.powf(-sqnr_db / 10.0)
}

/// How many tensors, those of the largest losses, need 16 bits for `goal` dB where all of them give `all`: noises add up.
fn predicted(losses: &[f64], all: f64, goal: f64) -> usize {
    let mut left = noise(goal) - noise(all);
    let spared = losses.iter().rev().take_while(|&&loss| {
        left -= loss;
        left >= 0.0
    });
    losses.len() - spared.count()
}

impl Search<'_> {
    /// Chooses the tensors that are read in 16 bits: ordered by how much their 8 bits cost, the fewest that reach the aim, or
    /// the best choice of 16-bit tensors.
    pub(super) fn activations(
        &mut self,
        site: &CalibratedGraph,
        folds: &[Fold],
        chosen: &mut LowerOptions,
    ) -> Result<(), ConvertError> {
        if self.options.activations == ActivationBits::Eight || self.options.profile == Profile::Ivit {
            return Ok(());
        }
        let found = candidates(&site.graph, &site.calibration);
        let mut order: Vec<usize> = found.iter().map(|candidate| candidate.tensor).collect();
        if self.options.activations == ActivationBits::Sixteen {
            chosen.wide = order.into_iter().collect();
            return Ok(());
        }
        let with = |wide: &[usize], chosen: &LowerOptions| LowerOptions {
            wide: wide.iter().copied().collect(),
            ..chosen.clone()
        };
        // What fewer bits of the weights lose is more than what activations could gain.
        if self.options.weights != WeightBits::Eight {
            return Ok(());
        }
        let narrow = self.worst_of(site, folds, chosen)?;
        let (enough, aim) = aims(&site.graph);
        if narrow >= enough || order.is_empty() {
            return Ok(());
        }
        (self.progress)("trying 16-bit activations");
        let all = match self.worst_of(site, folds, &with(&order, chosen)) {
            Ok(sqnr) => sqnr,
            Err(why @ (ConvertError::Lower(_) | ConvertError::Pack(_))) => {
                self.notes.push(format!("activations stay at 8 bits, with 16 everywhere: {why}"));
                return Ok(());
            }
            Err(fault) => return Err(fault),
        };
        let narrow_result = ("8 bit".to_owned(), narrow);
        if all < narrow + WORTH_DB {
            self.record("activations", &[narrow_result, (format!("16 bit: all {}", order.len()), all)], 0);
            return Ok(());
        }
        let losses = self.sort_by_sensitivity(folds, chosen, &mut order)?;
        let goal = aim.min(all - NEAR_DB);
        // So many tensors are too few, and so many enough; the sets that were measured.
        let (mut below, mut reached) = (0, order.len());
        let mut measured = std::collections::BTreeMap::from([(order.len(), all)]);
        let mut next = match &losses {
            Some(losses) => predicted(losses, all, goal),
            None => order.len() / 2,
        };
        let mut step = (order.len() / 16).max(1);
        while reached - below > 1 && reached - below > reached / 8 {
            let count = next.clamp(below + 1, reached - 1);
            (self.progress)(&format!("trying 16-bit activations for {count} of {} tensors", order.len()));
            let sqnr = self.worst_if_possible(site, folds, &with(&order[..count], chosen))?;
            let sqnr = sqnr.unwrap_or(f64::NEG_INFINITY);
            measured.insert(count, sqnr);
            if sqnr >= goal {
                reached = count
            } else {
                below = count
            }
            // Around what was predicted first, then in the middle.
            let bracketed = below > 0 && reached < order.len() || losses.is_none();
            next = match bracketed {
                true => (below + reached) / 2,
                false if below == 0 => reached.saturating_sub(step),
                false => below + step,
            };
            step *= 2;
        }
        let mut results = vec![narrow_result];
        results.extend(measured.iter().map(|(&count, &sqnr)| match count == order.len() {
            true => (format!("16 bit: all {count}"), sqnr),
            false => (format!("16 bit: {count} of {}", order.len()), sqnr),
        }));
        let kept = 1 + measured.keys().position(|&count| count == reached).unwrap_or(0);
        self.record("activations", &results, kept);
        *chosen = with(&order[..reached], chosen);
        Ok(())
    }

    /// [`worst_of`](Self::worst_of); `None` where the model cannot be lowered or proven so.
    pub(super) fn worst_if_possible(
        &self,
        site: &CalibratedGraph,
        folds: &[Fold],
        options: &LowerOptions,
    ) -> Result<Option<f64>, ConvertError> {
        match self.worst_of(site, folds, options) {
            Ok(sqnr) => Ok(Some(sqnr)),
            Err(ConvertError::Lower(_) | ConvertError::Pack(_)) => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    /// The worst SQNR of the model on all samples and of every fold on the samples it has not seen. A mean can hide a
    /// saturated output, which all settings but the unlucky ones meet exactly.
    pub(super) fn worst_of(
        &self,
        site: &CalibratedGraph,
        folds: &[Fold],
        options: &LowerOptions,
    ) -> Result<f64, ConvertError> {
        let mut worst = if folds.len() > 1 { self.measure(site, options)? } else { f64::INFINITY };
        for fold in folds {
            worst = worst.min(self.trial.sqnr(&fold.site, options, fold.half)?);
        }
        Ok(worst)
    }

    /// Orders tensors by what the outputs lose where one of them alone is read in 8 bits, the largest loss first, and returns
    /// these losses: noise over signal. Tensors stay in their order where that takes too long to measure.
    fn sort_by_sensitivity(
        &mut self,
        folds: &[Fold],
        chosen: &LowerOptions,
        order: &mut Vec<usize>,
    ) -> Result<Option<Vec<f64>>, ConvertError> {
        let Some(fold) = folds.first() else { return Ok(None) };
        let macs: u64 =
            lower(&fold.site.graph, &fold.site.calibration, chosen)?.program.ops.iter().map(|op| op.op.macs()).sum();
        let affordable = SENSITIVITY_MACS / (macs * order.len() as u64).max(1);
        if affordable < FEWEST {
            return Ok(None);
        }
        (self.progress)(&format!("measuring the sensitivity of {} tensors", order.len()));
        let few = self.trial.spread(usize::try_from(affordable).unwrap_or(usize::MAX));
        let measure = |options: &LowerOptions| few.sqnr(&fold.site, options, None);
        let wide: BTreeSet<usize> = order.iter().copied().collect();
        let all = measure(&LowerOptions { wide: wide.clone(), ..chosen.clone() })?;
        let mut losses = Vec::new();
        for &tensor in order.iter() {
            let mut wide = wide.clone();
            wide.remove(&tensor);
            let sqnr = measure(&LowerOptions { wide, ..chosen.clone() });
            losses.push((sqnr.map_or(f64::INFINITY, |sqnr| noise(sqnr) - noise(all)), tensor));
        }
        losses.sort_by(|a, b| b.0.total_cmp(&a.0));
        *order = losses.iter().map(|&(_, tensor)| tensor).collect();
        Ok(Some(losses.into_iter().map(|(loss, _)| loss.max(0.0)).collect()))
    }
}
