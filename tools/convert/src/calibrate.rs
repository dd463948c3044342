//! What the samples say about a graph: extents and histograms of every tensor, moments of the inputs of dense layers.

use crate::graph::exec::{self, ExecError, dense_rows};
use crate::graph::{Data, DataType, Graph, Op, TensorId};
use crate::parallel;
use crate::quantize::range::{BINS, TensorStats};
use crate::quantize::sequential::Rounded;
use crate::quantize::weights::Prepared;
use std::collections::HashMap;
use std::sync::Arc;

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
    /// Constants quantized in earlier lowerings.
    pub prepared: Arc<Prepared>,
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
        let all = (0..samples.len()).collect();
        Ok(Sweep::over(graph, samples, &[all])?.calibrations.pop().unwrap_or_default())
    }
}

/// What running every sample once says.
#[derive(Debug)]
pub struct Sweep {
    /// The statistics over every set.
    pub calibrations: Vec<Calibration>,
    /// Outputs of every sample that is in a set, by its index.
    pub outputs: HashMap<usize, Vec<Data>>,
}

/// Bytes of values that are in memory at a time. With more, the samples run twice, in groups: once for the extents, once
/// for the histograms.
const HELD_BYTES: usize = 1 << 30;

impl Sweep {
    /// Statistics of `graph` over sets of the samples, given by their indices in ascending order.
    ///
    /// # Errors
    /// [`CalibrateError`] when a node cannot be evaluated or a tensor is not finite.
    pub fn over(graph: &Graph, samples: &[Vec<Data>], sets: &[Vec<usize>]) -> Result<Self, CalibrateError> {
        Self::in_groups(graph, samples, sets, HELD_BYTES / exec::held_bytes(graph).max(1))
    }

    fn in_groups(
        graph: &Graph,
        samples: &[Vec<Data>],
        sets: &[Vec<usize>],
        group: usize,
    ) -> Result<Self, CalibrateError> {
        let (readers, arguments) = (dense_readers(graph), softmax_arguments(graph));
        let mut used: Vec<usize> = sets.iter().flatten().copied().collect();
        used.sort_unstable();
        used.dedup();
        let groups: Vec<&[usize]> = used.chunks(group.max(1)).collect();
        let part = |(set, samples)| Part { set, samples, first: First::of(graph) };
        let in_parts = |(set, samples)| parallel::parts(samples).map(move |part| (set, part));
        let mut parts: Vec<Part<'_>> =
            sets.iter().map(Vec::as_slice).enumerate().flat_map(in_parts).map(part).collect();
        let mut stats = vec![vec![TensorStats::default(); graph.tensors.len()]; sets.len()];
        let once = groups.len() <= 1;
        let mut outputs = HashMap::new();
        for &group in &groups {
            let values: Vec<&Vec<Data>> = group.iter().map(|&sample| &samples[sample]).collect();
            let results = exec::run_all(graph, &values, &mut |id, values| {
                let seen = Seen { group, values };
                let extend = |part: &mut Part<'_>| part.extend(graph, &readers, &arguments, id, &seen);
                parallel::try_map(parts.iter_mut().collect(), extend)?;
                if once {
                    join_extents(&parts, &mut stats, id);
                    fill_histograms(graph, sets, &mut stats, id, &seen);
                }
                Ok::<_, CalibrateError>(())
            })?;
            outputs.extend(group.iter().copied().zip(results));
        }
        if !once {
            (0..graph.tensors.len()).for_each(|id| join_extents(&parts, &mut stats, id));
            for &group in &groups {
                let values: Vec<&Vec<Data>> = group.iter().map(|&sample| &samples[sample]).collect();
                exec::run_all(graph, &values, &mut |id, values| {
                    fill_histograms(graph, sets, &mut stats, id, &Seen { group, values });
                    Ok::<_, CalibrateError>(())
                })?;
            }
        }
        let means = |set: usize| {
            let firsts = parts.iter().filter(|part| part.set == set).map(|part| &part.first);
            input_means(graph, firsts)
        };
        let calibrations = stats.into_iter().enumerate();
        let calibrations =
            calibrations.map(|(set, stats)| Calibration { stats, means: means(set), ..Calibration::default() });
        Ok(Self { calibrations: calibrations.collect(), outputs })
    }
}

/// The values of a tensor for a group of samples.
struct Seen<'a> {
    /// Indices of the samples, ascending.
    group: &'a [usize],
    values: &'a [Data],
}

impl<'a> Seen<'a> {
    fn of(&self, sample: usize) -> Option<&'a Data> {
        self.values.get(self.group.binary_search(&sample).ok()?)
    }
}

/// Neighbouring samples of a set, and what was seen of them.
struct Part<'a> {
    set: usize,
    samples: &'a [usize],
    first: First,
}

/// The extents of tensor `id` over every set, from those of its parts in order.
fn join_extents(parts: &[Part<'_>], stats: &mut [Vec<TensorStats>], id: TensorId) {
    parts.iter().for_each(|part| stats[part.set][id].merge(&part.first.stats[id]));
}

/// Counts the values of tensor `id` in the bins of every set.
fn fill_histograms(graph: &Graph, sets: &[Vec<usize>], stats: &mut [Vec<TensorStats>], id: TensorId, seen: &Seen<'_>) {
    if graph.tensors[id].dtype != DataType::Float {
        return;
    }
    for (set, stats) in sets.iter().zip(stats) {
        let stats = &mut stats[id];
        let values: Vec<&[f32]> = set.iter().filter_map(|&sample| seen.of(sample)?.floats()).collect();
        let count = |part: &[&[f32]]| {
            let mut counts = vec![0; BINS];
            part.iter().for_each(|values| stats.fill(values, &mut counts));
            counts
        };
        let counts = parallel::map(parallel::parts(&values).collect(), count);
        let mut all = std::mem::take(&mut stats.histogram);
        all.resize(if values.is_empty() { all.len() } else { BINS }, 0);
        for counts in counts {
            all.iter_mut().zip(counts).for_each(|(all, count)| *all = all.saturating_add(count));
        }
        stats.histogram = all;
    }
}

/// Mean of every input column of the dense nodes, by node name.
fn input_means<'a>(graph: &Graph, parts: impl Iterator<Item = &'a First>) -> HashMap<String, Vec<f64>> {
    let mut all: HashMap<usize, (Vec<f64>, u64)> = HashMap::new();
    for part in parts {
        for (&node, own) in &part.sums {
            let rows = part.rows.get(&node).copied().unwrap_or(0);
            match all.get_mut(&node) {
                Some((sums, count)) => {
                    sums.iter_mut().zip(own).for_each(|(a, b)| *a += b);
                    *count += rows;
                }
                None => {
                    all.insert(node, (own.clone(), rows));
                }
            }
        }
    }
    let mean = |(node, (sums, rows)): (usize, (Vec<f64>, u64))| {
        (graph.nodes[node].name.clone(), sums.iter().map(|sum| sum / rows.max(1) as f64).collect())
    };
    all.into_iter().map(mean).collect()
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

/// The first look at the values of some samples.
struct First {
    stats: Vec<TensorStats>,
    /// Sums of the input columns of dense nodes.
    sums: HashMap<usize, Vec<f64>>,
    /// Rows that were summed.
    rows: HashMap<usize, u64>,
}

impl First {
    fn of(graph: &Graph) -> Self {
        Self { stats: vec![TensorStats::default(); graph.tensors.len()], sums: HashMap::new(), rows: HashMap::new() }
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

impl Part<'_> {
    /// Takes in the values of tensor `id`.
    fn extend(
        &mut self,
        graph: &Graph,
        readers: &HashMap<TensorId, Vec<usize>>,
        softmax_arguments: &[bool],
        id: TensorId,
        seen: &Seen<'_>,
    ) -> Result<(), CalibrateError> {
        for &sample in self.samples {
            let Some(data) = seen.of(sample) else { continue };
            let stats = &mut self.first.stats[id];
            let (Data::Float(values), DataType::Float) = (data, graph.tensors[id].dtype) else {
                stats.extend(&data.to_f32());
                continue;
            };
            // Minus infinity is how masks say "not this one".
            if let Some(&value) = values.iter().find(|v| v.is_nan() || **v == f32::INFINITY) {
                let tensor = graph.tensors[id].name.clone();
                return Err(CalibrateError::NotFinite { tensor, value, sample });
            }
            if values.iter().all(|v| v.is_finite()) {
                stats.extend(values);
            } else {
                stats.extend(&values.iter().copied().filter(|v| v.is_finite()).collect::<Vec<f32>>());
                stats.hides = true;
            }
            if softmax_arguments[id] {
                let width = graph.shape(id).last().copied().unwrap_or(1);
                stats.extend_peaks(values, width, FULLY_MASKED);
            }
            for &node in readers.get(&id).into_iter().flatten() {
                let (rows, k) = dense_rows(graph, node, values);
                let sums = self.first.sums.entry(node).or_insert_with(|| vec![0.0; k]);
                for row in rows.chunks_exact(k) {
                    sums.iter_mut().zip(row).for_each(|(s, &v)| *s += f64::from(v));
                }
                *self.first.rows.entry(node).or_default() += (rows.len() / k) as u64;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_and_sets_do_not_change_the_statistics() {
        let mut graph = Graph::default();
        let x = graph.add_tensor("x", vec![3, 8], DataType::Float);
        graph.inputs.push(x);
        let w = graph.add_constant("w", vec![5, 8], Data::Float((0..40).map(|i| (i % 7) as f32 - 3.0).collect()));
        let y = graph.add_node("layer", Op::Linear, vec![x, w], vec![3, 5], DataType::Float);
        let z = graph.add_node("scores", Op::Softmax, vec![y], vec![3, 5], DataType::Float);
        graph.outputs.push(z);
        let value = |s: usize, i: usize| ((s * 31 + i * 17) % 101) as f32 / 25.0 - 2.0;
        let samples: Vec<Vec<Data>> =
            (0..41).map(|s| vec![Data::Float((0..24).map(|i| value(s, i)).collect())]).collect();
        let sets = [(0..41).collect(), (0..41).step_by(2).collect::<Vec<usize>>()];
        let whole = Sweep::in_groups(&graph, &samples, &sets, 1000).unwrap();
        let groups = Sweep::in_groups(&graph, &samples, &sets, 7).unwrap();
        let odd: Vec<Vec<Data>> = samples.iter().step_by(2).cloned().collect();
        let alone = Calibration::run(&graph, &odd).unwrap();
        assert_eq!(whole.outputs[&5], exec::run(&graph, &samples[5], &mut |_, _| {}).unwrap());
        for id in [x, y, z] {
            let seen = |c: &Calibration| (c.stats(id).min, c.stats(id).max, c.stats(id).histogram.clone());
            assert_eq!(seen(&whole.calibrations[0]), seen(&groups.calibrations[0]));
            assert_eq!(seen(&whole.calibrations[1]), seen(&alone));
            assert_eq!(
                whole.calibrations[0].stats(id).histogram.iter().sum::<u32>() as usize,
                41 * graph.tensors[id].len()
            );
        }
        assert_eq!(whole.calibrations[1].input_means("layer"), alone.input_means("layer"));
        assert_eq!(groups.calibrations[1].input_means("layer"), alone.input_means("layer"));
    }
}
