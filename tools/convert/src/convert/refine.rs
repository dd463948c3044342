//! What is tried where the outputs keep too little: scale migration across attention, and weights that are rounded against
//! each other.

use super::search::Search;
use super::trials::{CalibratedGraph, FEW_SAMPLES, Fold, Source, spread};
use super::wide::aims;
use super::{ActivationBits, ConvertError, WeightBits};
use crate::graph::Data;
use crate::lower::{LowerOptions, wide::candidates};
use crate::quantize::compensate;
use shiftformer::format::Profile;
use std::collections::HashMap;

/// What compensation has to gain, in dB.
const WORTH_DB: f64 = 0.5;
/// The exponent of scale migration across attention.
const ALPHAS: [f64; 1] = [0.5];

impl Search<'_> {
    /// Tries both on a model whose outputs keep less than is enough, see [`aims`].
    pub(super) fn refine(
        &mut self,
        site: &mut CalibratedGraph,
        folds: &mut Vec<Fold>,
        chosen: &LowerOptions,
        source: &Source<'_>,
    ) -> Result<(), ConvertError> {
        let plain = self.options.weights == WeightBits::Eight && self.options.profile != Profile::Ivit;
        let plain = plain && self.options.decoder.is_none() && source.fixed.activations.is_empty();
        if !plain || self.worst_of(site, folds, chosen)? >= aims(&site.graph).0 {
            return Ok(());
        }
        // Beside the noise of 8-bit activations the others may not show.
        let mut judged = chosen.clone();
        if self.options.activations != ActivationBits::Eight {
            let wide = candidates(&site.graph, &site.calibration).into_iter().map(|candidate| candidate.tensor);
            judged.wide = wide.collect();
            if self.worst_if_possible(site, folds, &judged)?.is_none() {
                judged.wide.clear();
            }
        }
        self.balance(site, folds, &judged, source, &ALPHAS)?;
        self.rounding(site, folds, &judged, source)
    }

    /// Rounds weights against each other, see [`compensate`], where the outputs gain by it.
    fn rounding(
        &mut self,
        site: &mut CalibratedGraph,
        folds: &mut [Fold],
        judged: &LowerOptions,
        source: &Source<'_>,
    ) -> Result<(), ConvertError> {
        (self.progress)("trying compensated rounding of the weights");
        let nearest = self.worst_of(site, folds, judged)?;
        let few: Vec<Vec<Data>> = spread(source.data, 2 * FEW_SAMPLES).cloned().collect();
        let rounded = compensate::round(&site.graph, &few)?;
        let put = |site: &mut CalibratedGraph, folds: &mut [Fold], rounded: &HashMap<_, _>| {
            let sites = folds.iter_mut().map(|fold| &mut fold.site).chain([site]);
            sites.for_each(|site| site.calibration.rounded = rounded.clone());
        };
        put(site, folds, &rounded);
        let compensated = self.worst_of(site, folds, judged)?;
        let better = compensated > nearest + WORTH_DB;
        if !better {
            put(site, folds, &HashMap::new());
        }
        let results = [("nearest".to_owned(), nearest), ("compensated".to_owned(), compensated)];
        self.record("weight rounding", &results, usize::from(better));
        Ok(())
    }
}
