//! Functions of one tensor, and the segments of their arguments.

use crate::graph::TensorId;

/// Steps of a segment.
pub(super) const STEPS: f64 = 255.0;

/// Elementwise nodes that together are one function of one tensor.
#[derive(Clone, Debug)]
pub(super) struct Chain {
    /// The argument.
    pub base: TensorId,
    /// Nodes in order.
    pub nodes: Vec<usize>,
    /// The value.
    pub output: TensorId,
}

/// The values that the 256 steps of segment `index` stand for.
pub(super) fn segment_steps(borders: &[f64], index: usize) -> impl Iterator<Item = f64> + use<> {
    let (low, high) = (borders[index], borders[index + 1]);
    (0..256).map(move |q| low + (high - low) * f64::from(q) / STEPS)
}
