//! Which activations get 16 bits, and what they cost.

use super::search::Search;
use super::trials::{Fold, Site};
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
    site: &Site,
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

impl Search<'_> {
    /// Chooses the tensors that are read in 16 bits: ordered by how much their 8 bits cost, the fewest that reach the aim, or
    /// what can be had.
    pub(super) fn activations(
        &mut self,
        site: &Site,
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
        let mut results = vec![("8 bit".to_owned(), narrow)];
        let mut sets: Vec<usize> = vec![0];
        // A set that cannot be lowered or proven is no choice.
        (self.progress)("trying 16-bit activations");
        let Ok(all) = self.worst_of(site, folds, &with(&order, chosen)) else { return Ok(()) };
        if all < narrow + WORTH_DB {
            results.push((format!("16 bit: all {}", order.len()), all));
            self.record("activations", &results, 0);
            return Ok(());
        }
        self.sort_by_sensitivity(folds, chosen, &mut order)?;
        let goal = aim.min(all - NEAR_DB);
        let mut count = 1;
        let mut reached = order.len();
        // The sizes between which the goal is met, then the smallest one there.
        let mut below = 0;
        while count < order.len() {
            (self.progress)(&format!("trying 16-bit activations for {count} of {} tensors", order.len()));
            let sqnr = self.worst_of(site, folds, &with(&order[..count], chosen)).unwrap_or(f64::NEG_INFINITY);
            results.push((format!("16 bit: {count} of {}", order.len()), sqnr));
            sets.push(count);
            if sqnr >= goal {
                reached = count;
                break;
            }
            below = count;
            count *= 2;
        }
        while reached - below > 1 && reached - below > reached / 8 {
            let middle = (below + reached) / 2;
            (self.progress)(&format!("trying 16-bit activations for {middle} of {} tensors", order.len()));
            let sqnr = self.worst_of(site, folds, &with(&order[..middle], chosen)).unwrap_or(f64::NEG_INFINITY);
            results.push((format!("16 bit: {middle} of {}", order.len()), sqnr));
            sets.push(middle);
            if sqnr >= goal { reached = middle } else { below = middle }
        }
        if reached == order.len() {
            results.push((format!("16 bit: all {reached}"), all));
            sets.push(reached);
        }
        let kept = sets.iter().position(|&count| count == reached).unwrap_or(0);
        self.record("activations", &results, kept);
        *chosen = with(&order[..reached], chosen);
        Ok(())
    }

    /// The worst SQNR of the model on all samples and of every fold on the samples it has not seen. A mean can hide a
    /// saturated output, which all settings but the unlucky ones meet exactly.
    pub(super) fn worst_of(&self, site: &Site, folds: &[Fold], options: &LowerOptions) -> Result<f64, ConvertError> {
        let mut worst = if folds.len() > 1 { self.measure(site, options)? } else { f64::INFINITY };
        for fold in folds {
            worst = worst.min(self.trial.sqnr(&fold.site, options, fold.half)?);
        }
        Ok(worst)
    }

    /// Orders tensors by what the outputs lose where one of them alone is read in 8 bits, the largest loss first; left in
    /// their order where that takes too long to measure.
    fn sort_by_sensitivity(
        &mut self,
        folds: &[Fold],
        chosen: &LowerOptions,
        order: &mut Vec<usize>,
    ) -> Result<(), ConvertError> {
        let Some(fold) = folds.first() else { return Ok(()) };
        let macs: u64 =
            lower(&fold.site.graph, &fold.site.calibration, chosen)?.program.ops.iter().map(|op| op.op.macs()).sum();
        let affordable = SENSITIVITY_MACS / (macs * order.len() as u64).max(1);
        if affordable < FEWEST {
            return Ok(());
        }
        (self.progress)(&format!("measuring the sensitivity of {} tensors", order.len()));
        let few = self.trial.spread(usize::try_from(affordable).unwrap_or(usize::MAX));
        let measure = |options: &LowerOptions| few.sqnr(&fold.site, options, None);
        let wide: BTreeSet<usize> = order.iter().copied().collect();
        let all = measure(&LowerOptions { wide: wide.clone(), ..chosen.clone() })?;
        let noise = |sqnr: f64| 10f64.powf(-sqnr / 10.0);
        let mut losses = Vec::new();
        for &tensor in order.iter() {
            let mut wide = wide.clone();
            wide.remove(&tensor);
            let sqnr = measure(&LowerOptions { wide, ..chosen.clone() });
            losses.push((sqnr.map_or(f64::INFINITY, |sqnr| noise(sqnr) - noise(all)), tensor));
        }
        losses.sort_by(|a, b| b.0.total_cmp(&a.0));
        *order = losses.into_iter().map(|(_, tensor)| tensor).collect();
        Ok(())
    }
}
