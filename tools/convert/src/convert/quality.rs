//! How far the outputs of a conversion are from the float graph, and what is wrong with its samples.

use crate::calibrate::Calibration;
use crate::graph::{Data, DataType, Graph, Op, TensorId, Unary};
use crate::model_file::Values;
use crate::program::Endpoint;
use serde::Serialize;

/// What stands for "no difference at all", in decibels.
const SQNR_CAP_DB: f64 = 300.0;

/// How close one output is to the float graph.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct OutputQuality {
    /// Name of the output.
    pub name: String,
    /// `10 log10(signal / noise)`; `None` where the float output is zero in all samples. Of whole numbers and flags, which are
    /// right or wrong, the better of this and `-20 log10` of the share of the values that differ.
    pub sqnr_db: Option<f64>,
    /// Whether the output holds whole numbers or flags.
    pub whole: bool,
    /// The largest error of a score between 0 and 1 whose SQNR is low. Where the samples show no event all scores are small,
    /// and the noise beside them says nothing of how far a score is off.
    pub largest_error: Option<f64>,
}

impl OutputQuality {
    /// Of an output of real values that are not scores.
    pub fn new(name: impl Into<String>, sqnr_db: Option<f64>) -> Self {
        Self { name: name.into(), sqnr_db, whole: false, largest_error: None }
    }
}

/// Noise over signal of each of `outputs` outputs; `None` where there is no signal. `runs` are the real outputs of every
/// sample.
pub fn noise_ratios<'a>(
    outputs: usize,
    runs: &[Vec<Vec<f32>>],
    reference: impl Iterator<Item = &'a Vec<Data>> + Clone,
) -> Vec<Option<f64>> {
    let ratio = |output: usize| {
        let (mut signal, mut noise) = (0.0f64, 0.0f64);
        let (mut values, mut different) = (0u64, 0u64);
        for (run, exact) in runs.iter().zip(reference.clone()) {
            let (Some(decoded), Some(exact)) = (run.get(output), exact.get(output)) else { continue };
            let whole = !matches!(exact, Data::Float(_));
            for (got, want) in decoded.iter().zip(exact.to_f32()) {
                values += u64::from(whole);
                different += u64::from(whole && got.round() != want);
                signal += f64::from(want).powi(2);
                noise += (f64::from(*got) - f64::from(want)).powi(2);
            }
        }
        let by_share = if values > 0 { (different as f64 / values as f64).powi(2) } else { f64::INFINITY };
        (signal > 0.0).then(|| (noise / signal).min(by_share).max(1e-30 / signal))
    };
    (0..outputs).map(ratio).collect()
}

/// `10 log10(signal / noise)`, the ratio averaged over the outputs so that none drowns in another.
pub fn joint_sqnr(ratios: &[Option<f64>]) -> f64 {
    let known: Vec<f64> = ratios.iter().flatten().copied().collect();
    if known.is_empty() {
        return SQNR_CAP_DB;
    }
    -10.0 * (known.iter().sum::<f64>() / known.len() as f64).log10()
}

/// The qualities of `outputs`, those of `graph`; each the worst of the measurements.
pub fn qualities(outputs: &[Endpoint], graph: &Graph, measurements: &[Vec<Option<f64>>]) -> Vec<OutputQuality> {
    let quality = |(index, output): (usize, &Endpoint)| {
        let ratios = measurements.iter().filter_map(|m| m.get(index).copied().flatten());
        let whole = graph.outputs.get(index).is_some_and(|&id| graph.tensors[id].dtype != DataType::Float);
        let sqnr_db = ratios.reduce(f64::max).map(|ratio| -10.0 * ratio.log10());
        OutputQuality { name: output.name.clone(), sqnr_db, whole, largest_error: None }
    };
    outputs.iter().enumerate().map(quality).collect()
}

/// The largest error of output `output`; `runs` are the real outputs of every sample.
pub fn largest_error<'a>(runs: &[Vec<Vec<f32>>], reference: impl Iterator<Item = &'a Vec<Data>>, output: usize) -> f64 {
    let mut largest = 0.0f64;
    for (run, exact) in runs.iter().zip(reference) {
        let (Some(values), Some(exact)) = (run.get(output), exact.get(output)) else { continue };
        let errors = values.iter().zip(exact.to_f32()).map(|(got, want)| f64::from((got - want).abs()));
        largest = errors.fold(largest, f64::max);
    }
    largest
}

/// The output that keeps least, and what it keeps: of scores the better of SQNR and `-20 log10` of the largest error.
pub fn worst_output(outputs: &[OutputQuality]) -> Option<(&OutputQuality, f64)> {
    let keeps = |output: &OutputQuality| {
        let db = output.sqnr_db?;
        Some(output.largest_error.map_or(db, |error| db.max(-20.0 * error.max(1e-15).log10())))
    };
    let known = outputs.iter().filter_map(|output| Some((output, keeps(output)?)));
    known.min_by(|a, b| a.1.total_cmp(&b.1))
}

impl OutputQuality {
    /// What is lost, in words.
    pub fn loss(&self) -> String {
        let (name, db) = (&self.name, self.sqnr_db.unwrap_or(SQNR_CAP_DB));
        if self.whole {
            let percent = 100.0 * 10f64.powf(-db / 20.0);
            return format!("`{name}` differs from the float model in {percent:.0} % of its values or more");
        }
        format!("`{name}` keeps only {db:.1} dB of the float model's output")
    }
}

/// An output of one half of the samples that is so many times larger than of the other comes near the end of its range,
/// which leaves room for half as much again.
const NEAR_THE_EDGE: f64 = 1.3;

/// Outputs whose range the samples do not settle: one half of them, `halves[0]`, shows much larger values than the other.
pub fn edge_notes(graph: &Graph, halves: [&Calibration; 2]) -> Vec<String> {
    let producers = graph.producers();
    let bounded = |id: TensorId| {
        let op = producers[id].map(|index| &graph.nodes[index].op);
        let score = |kind: &Unary| matches!(kind, Unary::Sigmoid | Unary::Tanh | Unary::HardSigmoid { .. });
        op.is_some_and(|op| match op {
            Op::Softmax | Op::FakeQuant(_) => true,
            Op::Unary(kind) => score(kind),
            _ => false,
        })
    };
    let note = |&id: &TensorId| {
        let [a, b] = halves.map(|half| half.stats(id).abs_max());
        let (most, least) = (a.max(b), a.min(b));
        let float = graph.tensors[id].dtype == DataType::Float && graph.tensors[id].value.is_none();
        (float && !bounded(id) && most > NEAR_THE_EDGE * least).then(|| {
            format!(
                "`{}` is near the edge of what was seen: half of the calibration samples reach {most:.4}, the others only \
                 {least:.4}; values much larger than these are cut off, more samples would show how far it goes",
                graph.tensors[id].name
            )
        })
    };
    graph.outputs.iter().filter_map(note).collect()
}

/// What is wrong with the samples, if anything.
pub fn sample_warnings(graph: &Graph, samples: &[Vec<Values>], normalization: Option<(f64, f64)>) -> Vec<String> {
    let mut warnings = Vec::new();
    match samples {
        [] => return warnings,
        [_] => warnings.push(
            "there is only one calibration sample: the ranges are those of this one, and values beyond them are cut off; \
             give a hundred that show what the device will see"
                .to_owned(),
        ),
        [first, rest @ ..] => {
            for (index, &id) in graph.inputs.iter().enumerate() {
                let tensor = &graph.tensors[id];
                let same = |sample: &Vec<Values>| sample.get(index) == first.get(index);
                if tensor.dtype == DataType::Float && rest.iter().all(same) {
                    warnings.push(format!(
                        "`{}` is the same in all calibration samples: other values than these will be cut off",
                        tensor.name
                    ));
                }
            }
        }
    }
    if let Some((mean, std)) = normalization {
        if !(0.0..=1.0).contains(&mean) || std > 1.0 {
            warnings.push(format!(
                "--mean {mean} and --std {std} make values from {:.4} to {:.4} of the pixels 0 to 255: they are applied to \
                 x / 255; for statistics in 0 to 255 divide both by 255",
                -mean / std,
                (1.0 - mean) / std
            ));
        }
        let floats = |(index, &id): (usize, &usize)| {
            let tensor = &graph.tensors[id];
            let image = tensor.dtype == DataType::Float && tensor.shape.len() >= 3;
            let raw = samples.iter().all(|s| matches!(s.get(index), Some(Values::U8(_))));
            (image && !raw).then(|| tensor.name.clone())
        };
        if let Some(name) = graph.inputs.iter().enumerate().find_map(floats) {
            warnings.push(format!(
                "`{name}`: --mean and --std are for u8 pixels, but the calibration samples are no bytes; they are taken as \
                 normalized already"
            ));
        }
    }
    warnings
}
