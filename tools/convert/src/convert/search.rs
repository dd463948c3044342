//! The measured search over the choices: ranges, scale migration, exponentials, bits per layer.

use super::trials::{Calibrated, CalibratedGraph, FEW_SAMPLES, Fold, Source, Trials, spread};
use super::{BitsPoint, ConvertError, ConvertOptions, Switch, Trial, assemble, wide};
use crate::graph::{Data, Op};
use crate::lower::LowerOptions;
use crate::parallel;
use crate::quantize::balance::balance;
use crate::quantize::equalize::{Extents, equalize};
use crate::quantize::range::RangeMethod;
use crate::quantize::sequential;
use shiftformer::arith::exp::sum_error;
use shiftformer::format::Profile;
use shiftformer::weights::WeightFormat;
use std::collections::HashMap;

/// Points measured on the curve of mixed bits.
const CURVE_POINTS: usize = 10;
/// A choice must win by this much over the simpler one, in dB.
const MARGIN_DB: f64 = 0.15;
/// Another range must win by this much over the minimum and maximum value seen, in dB: about what some hundred samples tell.
const RANGE_MARGIN_DB: f64 = 0.3;
/// Half of the range of values, as [`sum_error`] counts.
const HALF_RANGE: u32 = 32768;
/// Exponents of scale migration that are tried.
const ALPHAS: [f64; 3] = [0.35, 0.5, 0.65];

/// The measured search over the choices.
pub(super) struct Search<'a> {
    pub(super) trial: Trials<'a>,
    pub(super) options: &'a ConvertOptions,
    pub(super) trials: Vec<Trial>,
    pub(super) notes: Vec<String>,
    pub(super) progress: &'a mut dyn FnMut(&str),
}

impl Search<'_> {
    /// Lowers, packs and measures.
    pub(super) fn measure(&self, site: &CalibratedGraph, options: &LowerOptions) -> Result<f64, ConvertError> {
        self.trial.sqnr(site, options, None)
    }

    /// [`measure`](Self::measure) of each fold on the samples it has not seen: the mean, in dB.
    pub(super) fn measure_folds(&self, folds: &[Fold], options: &LowerOptions) -> Result<f64, ConvertError> {
        let trial = &self.trial;
        let measure = |fold: &Fold| trial.sqnr(&fold.site, options, fold.half);
        let sqnrs = parallel::try_map(folds.iter().collect(), measure)?;
        Ok(sqnrs.iter().sum::<f64>() / folds.len().max(1) as f64)
    }

    pub(super) fn record(&mut self, what: &str, results: &[(String, f64)], kept: usize) {
        for (index, (choice, sqnr_db)) in results.iter().enumerate() {
            self.trials.push(Trial {
                what: what.to_owned(),
                choice: choice.clone(),
                sqnr_db: *sqnr_db,
                kept: index == kept,
            });
        }
    }

    pub(super) fn range(&mut self, folds: &[Fold], chosen: &mut LowerOptions) -> Result<(), ConvertError> {
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
    pub(super) fn balance(
        &mut self,
        site: &mut CalibratedGraph,
        folds: &mut Vec<Fold>,
        chosen: &LowerOptions,
        source: &Source<'_>,
        alphas: &[f64],
    ) -> Result<(), ConvertError> {
        if self.options.equalize == Switch::Off || source.fixed.has_scales() {
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
    pub(super) fn migration(
        &mut self,
        site: &mut CalibratedGraph,
        folds: &mut Vec<Fold>,
        chosen: &LowerOptions,
        source: &Source<'_>,
    ) -> Result<bool, ConvertError> {
        // A quantized model keeps its scales.
        if self.options.equalize == Switch::Off || source.fixed.has_scales() {
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
    pub(super) fn adopt(
        &self,
        mut candidate: Calibrated,
        site: &mut CalibratedGraph,
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

    pub(super) fn exponentials(&mut self, folds: &[Fold], chosen: &mut LowerOptions) -> Result<(), ConvertError> {
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

    /// Chooses bits per layer from the measured damage of each layer with the fewer ones. The formats are the first of 8 and
    /// 4, 4 and 3, 3 and 2 bits whose fewer bits everywhere fit the budget.
    pub(super) fn mixed(
        &mut self,
        site: &mut CalibratedGraph,
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
        let [more, fewer] = self.formats(site, chosen, budget)?;
        let fixed = site.calibration.fixed_weights.clone();
        let noise = |sqnr: f64| 10f64.powf(-sqnr / 10.0);
        let base = noise(self.measure(site, chosen)?);
        let mut damage = Vec::new();
        // Layers apart: rounded against the inputs of the float model, while the others have 8 bits.
        let few: Vec<Vec<Data>> = spread(data, FEW_SAMPLES).cloned().collect();
        site.calibration.rounded = sequential::round(&site.graph, &few, &fixed, &|_| fewer)?;
        for (index, (name, weights)) in layers.iter().enumerate() {
            (self.progress)(&format!("sensitivity of layer {} of {}", index + 1, layers.len()));
            let layer_formats = HashMap::from([(name.clone(), fewer)]);
            let lost = noise(self.measure(site, &LowerOptions { layer_formats, ..chosen.clone() })?) - base;
            damage.push((lost.max(0.0) / *weights as f64, name.clone()));
        }
        damage.sort_by(|a, b| a.0.total_cmp(&b.0));
        let order: Vec<String> = damage.into_iter().map(|(_, name)| name).collect();
        let with = |count: usize, chosen: &LowerOptions| LowerOptions {
            weights: more,
            layer_formats: order[..count].iter().map(|name| (name.clone(), fewer)).collect(),
            ..chosen.clone()
        };
        // File size falls with every layer: the fewest that fit are found by bisection.
        let bytes = |count: usize, chosen: &LowerOptions, this: &Self| -> Result<usize, ConvertError> {
            Ok(assemble(site, &with(count, chosen), this.options)?.len())
        };
        let (mut low, mut high) = (0, order.len());
        while low < high {
            let middle = (low + high) / 2;
            if bytes(middle, chosen, self)? <= budget { high = middle } else { low = middle + 1 }
        }
        let mut counts: Vec<usize> = (0..=CURVE_POINTS).map(|i| i * order.len() / CURVE_POINTS).chain([low]).collect();
        counts.sort_unstable();
        counts.dedup();
        let rounded = |site: &CalibratedGraph, count: usize| {
            sequential::round(&site.graph, data, &fixed, &|name| {
                if order[..count].iter().any(|n| n == name) { fewer } else { more }
            })
        };
        let mut curve = Vec::new();
        for count in counts {
            (self.progress)(&format!("measuring {count} layers at {} bits", fewer.bits()));
            site.calibration.rounded = rounded(site, count)?;
            let options = with(count, chosen);
            let file = assemble(site, &options, self.options)?;
            let sqnr_db = self.trial.sqnr(site, &options, None)?;
            let (bits, fewer_bits) = (more.bits(), fewer.bits());
            let fewer_bit_layers = order[..count].to_vec();
            curve.push(BitsPoint { fewer_bits, fewer_bit_layers, bits, file_bytes: file.len(), sqnr_db, kept: false });
        }
        // The noises of layers partly cancel: fewer layers of many bits can measure better, and are smaller.
        let fits = curve.iter_mut().filter(|point| point.file_bytes <= budget);
        if let Some(best) = fits.max_by(|a, b| a.sqnr_db.total_cmp(&b.sqnr_db)) {
            best.kept = true;
            let count = best.fewer_bit_layers.len();
            site.calibration.rounded = rounded(site, count)?;
            *chosen = with(count, chosen);
        }
        Ok(curve)
    }

    /// The formats that layers are divided among: the first two neighbours of which the smaller one everywhere fits `budget`.
    fn formats(
        &self,
        site: &CalibratedGraph,
        chosen: &LowerOptions,
        budget: usize,
    ) -> Result<[WeightFormat; 2], ConvertError> {
        let mut min = usize::MAX;
        for pair in [WeightFormat::I8, WeightFormat::I4, WeightFormat::I3, WeightFormat::I2].windows(2) {
            let &[more, fewer] = pair else { continue };
            min = assemble(site, &LowerOptions { weights: fewer, ..chosen.clone() }, self.options)?.len();
            if min <= budget {
                return Ok([more, fewer]);
            }
        }
        Err(ConvertError::Budget { min, budget })
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
