//! Histograms of activations and weights with the ranges that were chosen for them.

use shiftformer::tensor::Dtype;
use shiftformer_convert::convert::Converted;
use shiftformer_convert::graph::Op;

/// Bars of a histogram in the report.
const BARS: usize = 64;

/// A distribution and what of it the integers can hold.
pub(super) struct Histogram {
    /// Name of the tensor or layer.
    pub name: String,
    /// Element type and extent, or bits and channels.
    pub caption: String,
    /// Minimum and maximum value.
    pub extent: (f64, f64),
    /// Values the integers reach.
    pub range: (f64, f64),
    /// Counts over equal parts of the extent.
    pub counts: Vec<f64>,
}

impl Histogram {
    /// The range as fractions of the extent.
    pub fn kept(&self) -> (f64, f64) {
        let (low, high) = self.extent;
        let width = (high - low).max(f64::MIN_POSITIVE);
        ((self.range.0 - low) / width, (self.range.1 - low) / width)
    }
}

/// The activations of the program that are float tensors of the source model.
pub(super) fn activations(converted: &Converted) -> Vec<Histogram> {
    let of = |tensor: &shiftformer_convert::program::QTensor| {
        let stats = converted.calibration.stats(tensor.source?);
        if tensor.constant.is_some() || stats.count == 0 || stats.histogram.is_empty() || tensor.dtype == Dtype::I32 {
            return None;
        }
        let (low, high) = tensor.dtype.range();
        let real = |q: i32| (f64::from(q) - tensor.zero) * tensor.scale;
        let extent = (f64::from(stats.min), f64::from(stats.max));
        let range = (real(low), real(high));
        let per_bar = stats.histogram.len().div_ceil(BARS).max(1);
        let counts = stats.histogram.chunks(per_bar).map(|c| c.iter().map(|&n| f64::from(n)).sum()).collect();
        // A bin is known by its centre, and half a step beyond the range still rounds into it.
        let slack = (extent.1 - extent.0) / (2 * stats.histogram.len()) as f64 + tensor.scale / 2.0;
        let beyond = |x: f64| x < range.0 - slack || x > range.1 + slack;
        let out = stats.bins().filter(|(x, _)| beyond(*x)).map(|(_, n)| n).sum::<f64>();
        let outside = out / (stats.count as f64).max(1.0);
        let clipped = if outside > 0.0 { format!(", {:.3} % outside", outside * 100.0) } else { String::new() };
        let caption = format!("{}, {:.3} to {:.3}{clipped}", tensor.dtype.name(), extent.0, extent.1);
        Some(Histogram { name: tensor.name.clone(), caption, extent, range, counts })
    };
    converted.program.tensors.iter().filter_map(of).collect()
}

/// The weights of all dense layers, each channel divided by the largest magnitude it has: how well the integers of a
/// channel are used.
pub(super) fn weights(converted: &Converted) -> Vec<Histogram> {
    let graph = &converted.graph;
    let of = |node: &shiftformer_convert::graph::Node| {
        if !matches!(node.op, Op::Linear | Op::Conv2d(_)) {
            return None;
        }
        let id = *node.inputs.get(1)?;
        let (values, channels) = (graph.floats(id)?, *graph.shape(id).first()?);
        let format = converted.options.layer_formats.get(&node.name).copied().unwrap_or(converted.options.weights);
        let mut counts = vec![0.0; BARS];
        for channel in values.chunks((values.len() / channels.max(1)).max(1)) {
            let top = channel.iter().fold(0.0f32, |m, v| m.max(v.abs()));
            for value in channel.iter().filter(|_| top > 0.0) {
                let place = (f64::from(value / top) + 1.0) / 2.0 * BARS as f64;
                counts[(place as usize).min(BARS - 1)] += 1.0;
            }
        }
        let top = values.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        let caption = format!("{} bit, {channels} channels, up to {top:.3}", format.bits());
        Some(Histogram { name: node.name.clone(), caption, extent: (-1.0, 1.0), range: (-1.0, 1.0), counts })
    };
    graph.nodes.iter().filter_map(of).collect()
}
