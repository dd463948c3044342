//! What the samples say about a graph: extents and histograms of every tensor, moments of the inputs of dense layers.

use crate::graph::exec::{self, ExecError, dense_rows};
use crate::graph::{Data, DataType, Graph, Op, TensorId};
use crate::parallel;
use crate::quantize::range::{BINS, TensorStats};
use crate::quantize::sequential::Rounded;
use std::collections::HashMap;

/// Statistics of a fused graph over the calibration samples, and the quantization it came with.
#[derive(Clone, Debug, Default)]
pub struct Calibration {
    /// Per tensor; empty statistics where nothing was seen.
    stats: Vec<TensorStats>,
    /// What tensors without samples look like.
    unseen: TensorStats,
    /// Scale and zero point (of `i8`) of tensors that came quantized.
    pub fixed: HashMap<TensorId, (f64, f64)>,
    /// Scale and zero point (of `i16`) of tensors that came quantized to 16 bits.
    pub fixed_wide: HashMap<TensorId, (f64, f64)>,
    /// Scale per output channel of weights that came quantized.
    pub fixed_weights: HashMap<TensorId, Vec<f64>>,
    /// Mean of every input column of a dense layer, by node name.
    means: HashMap<String, Vec<f64>>,
    /// Layers rounded to fewer than 8 bits, by node name.
    pub rounded: HashMap<String, Rounded>,
}

/// Why calibration failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CalibrateError {
    /// A node cannot be evaluated.
    #[error("the calibration run failed: {0}")]
    Exec(#[from] ExecError),
    /// A tensor took a value that is not a number.
    #[error("`{tensor}` becomes {value} on calibration sample {sample}; check the data and the model")]
    NotFinite {
        /// Name of the tensor.
        tensor: String,
        /// The value.
        value: f32,
        /// Index of the sample.
        sample: usize,
    },
}

impl Calibration {
    /// Statistics of a tensor.
    pub fn stats(&self, id: TensorId) -> &TensorStats {
        self.stats.get(id).unwrap_or(&self.unseen)
    }

    /// Mean of the input columns of the dense node `name`.
    pub fn input_means(&self, name: &str) -> Option<&[f64]> {
        self.means.get(name).map(Vec::as_slice)
    }

    /// Runs `samples` through `graph`.
    ///
    /// # Errors
    /// [`CalibrateError`] when a node cannot be evaluated or a tensor is not finite.
    pub fn run(graph: &Graph, samples: &[Vec<Data>]) -> Result<Self, CalibrateError> {
        let (readers, arguments) = (dense_readers(graph), softmax_arguments(graph));
        let empty = || First {
            stats: vec![TensorStats::default(); graph.tensors.len()],
            sums: HashMap::new(),
            rows: HashMap::new(),
        };
        let numbered: Vec<(usize, &Vec<Data>)> = samples.iter().enumerate().collect();
        let pass = |first, &(index, sample): &(usize, &Vec<Data>)| {
            first_pass(graph, &readers, &arguments, first, index, sample)
        };
        let first = parallel::try_fold(&numbered, empty, pass, First::merge)?;
        let mut stats = first.stats;
        let pass = |part, sample: &Vec<Data>| second_pass(graph, &stats, part, sample);
        let histograms = parallel::try_fold(samples, HashMap::new, pass, merge_histograms)?;
        for (id, histogram) in histograms {
            stats[id].histogram = histogram;
        }
        let names = |node: usize| graph.nodes[node].name.clone();
        let means = first
            .sums
            .into_iter()
            .map(|(node, sums)| {
                let rows = first.rows.get(&node).copied().unwrap_or(1).max(1) as f64;
                (names(node), sums.iter().map(|s| s / rows).collect())
            })
            .collect();
        Ok(Self { stats, means, ..Self::default() })
    }
}

/// For every tensor the linear and ungrouped convolution nodes that read it as their activations.
fn dense_readers(graph: &Graph) -> HashMap<TensorId, Vec<usize>> {
    let mut readers: HashMap<TensorId, Vec<usize>> = HashMap::new();
    for (index, node) in graph.nodes.iter().enumerate() {
        let dense = match &node.op {
            Op::Linear => true,
            Op::Conv2d(window) => window.groups == 1,
            _ => false,
        };
        if dense {
            readers.entry(node.inputs[0]).or_default().push(index);
        }
    }
    readers
}

struct First {
    stats: Vec<TensorStats>,
    sums: HashMap<usize, Vec<f64>>,
    rows: HashMap<usize, u64>,
}

impl First {
    fn merge(mut self, other: Self) -> Self {
        for (a, b) in self.stats.iter_mut().zip(&other.stats) {
            a.merge(b);
        }
        for (node, sums) in other.sums {
            match self.sums.get_mut(&node) {
                Some(own) => own.iter_mut().zip(sums).for_each(|(a, b)| *a += b),
                None => {
                    self.sums.insert(node, sums);
                }
            }
        }
        for (node, rows) in other.rows {
            *self.rows.entry(node).or_default() += rows;
        }
        self
    }
}

/// A row of softmax arguments whose maximum is no more than this has all its keys masked: masks are -1e4 or less.
const FULLY_MASKED: f32 = -2000.0;

/// Whether a softmax reads the tensor.
fn softmax_arguments(graph: &Graph) -> Vec<bool> {
    let mut arguments = vec![false; graph.tensors.len()];
    for node in graph.nodes.iter().filter(|node| node.op == Op::Softmax) {
        arguments[node.inputs[0]] = true;
    }
    arguments
}

fn first_pass(
    graph: &Graph,
    readers: &HashMap<TensorId, Vec<usize>>,
    softmax_arguments: &[bool],
    mut first: First,
    index: usize,
    sample: &[Data],
) -> Result<First, CalibrateError> {
    let mut bad = None;
    exec::run(graph, sample, &mut |id, data| {
        let values = data.to_f32();
        if graph.tensors[id].dtype != DataType::Float {
            first.stats[id].extend(&values);
            return;
        }
        // Minus infinity is how masks say "not this one".
        let broken = |v: &&f32| v.is_nan() || **v == f32::INFINITY;
        if let Some(&value) = values.iter().find(broken) {
            bad.get_or_insert((id, value));
            return;
        }
        let finite: Vec<f32> = values.iter().copied().filter(|v| v.is_finite()).collect();
        first.stats[id].extend(&finite);
        first.stats[id].hides |= finite.len() < values.len();
        if softmax_arguments[id] {
            let width = graph.shape(id).last().copied().unwrap_or(1);
            first.stats[id].extend_peaks(&values, width, FULLY_MASKED);
        }
        for &node in readers.get(&id).into_iter().flatten() {
            let (rows, k) = dense_rows(graph, node, &values);
            let sums = first.sums.entry(node).or_insert_with(|| vec![0.0; k]);
            for row in rows.chunks_exact(k) {
                sums.iter_mut().zip(row).for_each(|(s, &v)| *s += f64::from(v));
            }
            *first.rows.entry(node).or_default() += (rows.len() / k) as u64;
        }
    })?;
    match bad {
        Some((id, value)) => {
            let tensor = graph.tensors[id].name.clone();
            Err(CalibrateError::NotFinite { tensor, value, sample: index })
        }
        None => Ok(first),
    }
}

type Histograms = HashMap<TensorId, Vec<u32>>;

fn merge_histograms(mut a: Histograms, b: Histograms) -> Histograms {
    for (id, counts) in b {
        match a.get_mut(&id) {
            Some(own) => own.iter_mut().zip(counts).for_each(|(a, b)| *a = a.saturating_add(b)),
            None => {
                a.insert(id, counts);
            }
        }
    }
    a
}

fn second_pass(
    graph: &Graph,
    stats: &[TensorStats],
    mut part: Histograms,
    sample: &[Data],
) -> Result<Histograms, CalibrateError> {
    exec::run(graph, sample, &mut |id, data| {
        let Some(values) = data.floats() else { return };
        stats[id].fill(values, part.entry(id).or_insert_with(|| vec![0; BINS]));
    })?;
    Ok(part)
}
