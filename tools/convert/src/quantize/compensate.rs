//! Rounding of 8-bit weights that makes up in some weights for what it loses in others.
//!
//! A weight that is off by half a step matters where the inputs it meets are large and alike: a filter of differences over
//! an even background loses more than it keeps. The rows `X` that a layer sees in the samples tell; the weights are
//! rounded by [`super::gptq`] under their second moments around the mean, and the mean goes into the bias. Unlike
//! [`super::sequential`] each layer sees the inputs of the float model: at 8 bits they hardly differ.
//!
//! # Reference
//! As [`super::gptq`].

use super::gptq::{self, Hessian};
use super::sequential::{Rounded, channels_last, graph_bias};
use super::weights::QWeights;
use crate::graph::exec::{self, ExecError, taps};
use crate::graph::{Data, DataType, Graph, Op, TensorId, Window};
use crate::parallel;
use shiftformer::weights::WeightFormat;
use std::borrow::Cow;
use std::collections::HashMap;

/// Rows that a layer is judged by, for each of its columns.
const ROWS_PER_COLUMN: usize = 4;
/// Rows of narrow layers.
const MIN_ROWS: usize = 512;
/// Multiplications for the layers of a model; the cheapest layers come first.
const BUDGET: u64 = 40_000_000_000;

/// A layer to be rounded.
struct Layer {
    node: usize,
    /// Columns of a row of one group.
    k: usize,
    groups: usize,
    /// Rows wanted of all samples together.
    rows: usize,
}

impl Layer {
    fn of(graph: &Graph, node: usize) -> Option<Self> {
        let groups = match &graph.nodes[node].op {
            Op::Linear => 1,
            Op::Conv2d(window) => window.groups,
            _ => return None,
        };
        let inputs = &graph.nodes[node].inputs;
        graph.floats(inputs[1])?;
        let k = graph.shape(inputs[1]).iter().skip(1).product::<usize>();
        let float = graph.tensors[inputs[0]].dtype == DataType::Float;
        (float && k > 0).then(|| Self { node, k, groups, rows: MIN_ROWS.max(ROWS_PER_COLUMN * k) })
    }

    /// Multiplications: the second moments, three factorizations, two passes over the weights.
    fn cost(&self, graph: &Graph) -> u64 {
        let n = graph.shape(graph.nodes[self.node].inputs[1])[0];
        let square = (self.k * self.k) as u64;
        square * (self.groups * (self.rows + self.k) + 2 * n) as u64
    }

    /// `count` rows of all groups, `[count, groups, k]`, evenly spread over the values of its input.
    fn rows(&self, graph: &Graph, values: &[f32], count: usize) -> Vec<f32> {
        let node = &graph.nodes[self.node];
        let width = self.groups * self.k;
        let Op::Conv2d(window) = &node.op else {
            let all = values.len() / width;
            let spread = picks(all, count).map(|row| &values[row * width..(row + 1) * width]);
            return spread.flatten().copied().collect();
        };
        let (x, out) = (graph.shape(node.inputs[0]), graph.shape(node.output));
        let ([_, channels, h, w], [batch, _, out_h, out_w]) = (x, out) else { return Vec::new() };
        let patches = picks(batch * out_h * out_w, count).flat_map(|at| {
            let (image, y, x) = (at / (out_h * out_w), at / out_w % out_h, at % out_w);
            let image = &values[image * channels * h * w..][..channels * h * w];
            patch(window, image, [*channels, *h, *w], [y, x])
        });
        patches.collect()
    }

    fn round(&self, graph: &Graph, rows: &[f32]) -> Option<(String, Rounded)> {
        let node = &graph.nodes[self.node];
        let (k, width) = (self.k, self.groups * self.k);
        let shape = graph.shape(node.inputs[1]);
        let n = shape[0];
        let weights = graph.floats(node.inputs[1])?;
        let weights = match shape {
            [_, channels, kh, kw] => Cow::Owned(channels_last(weights, *channels, kh * kw)),
            _ => Cow::Borrowed(weights),
        };
        let (group_n, count) = (n / self.groups, (rows.len() / width).max(1) as f64);
        let mut q = QWeights { values: Vec::new(), scales: Vec::new(), n, k, format: WeightFormat::I8 };
        let mut bias = graph_bias(graph, node, n);
        for group in 0..self.groups {
            let own: Vec<f32> =
                rows.chunks_exact(width).flat_map(|row| &row[group * k..(group + 1) * k]).copied().collect();
            let mut moments = Hessian::new(k);
            moments.add(&own);
            let mut sums = vec![0.0; k];
            for row in own.chunks_exact(k) {
                sums.iter_mut().zip(row).for_each(|(s, &v)| *s += f64::from(v));
            }
            moments.centre(&sums, count);
            let exact = &weights[group * group_n * k..(group + 1) * group_n * k];
            let part = gptq::quantize(exact, group_n, k, WeightFormat::I8, &[], &moments);
            for c in 0..group_n {
                let pairs = exact[c * k..(c + 1) * k].iter().zip(&part.values[c * k..(c + 1) * k]);
                let lost = pairs.map(|(&w, &r)| f64::from(w) - f64::from(r) * part.scales[c]);
                bias[group * group_n + c] += lost.zip(&sums).map(|(lost, sum)| lost * sum / count).sum::<f64>();
            }
            q.values.extend(part.values);
            q.scales.extend(part.scales);
        }
        Some((node.name.clone(), Rounded { weights: q, bias }))
    }
}

/// `count` of `all` places, evenly spread.
fn picks(all: usize, count: usize) -> impl Iterator<Item = usize> {
    let count = count.min(all);
    (0..count).map(move |i| (2 * i + 1) * all / (2 * count))
}

/// What the window at `[y, x]` of the output sees of an image, `[groups, kh, kw, channels of a group]`.
fn patch(window: &Window, image: &[f32], [channels, h, w]: [usize; 3], [y, x]: [usize; 2]) -> Vec<f32> {
    let own = channels / window.groups;
    let mut values = Vec::with_capacity(channels * window.kernel[0] * window.kernel[1]);
    for group in 0..window.groups {
        for at in taps(window, y, x, h, w) {
            let value = |c: usize| at.map_or(0.0, |(row, column)| image[(c * h + row) * w + column]);
            values.extend((group * own..(group + 1) * own).map(value));
        }
    }
    values
}

/// Rounds the dense layers and convolutions of a model to 8 bits, by node name, the cheapest first, as far as a fixed budget of
/// multiplications goes.
///
/// # Errors
/// [`ExecError`] when a sample cannot be run.
pub fn round(graph: &Graph, samples: &[Vec<Data>]) -> Result<HashMap<String, Rounded>, ExecError> {
    let mut layers: Vec<Layer> = (0..graph.nodes.len()).filter_map(|node| Layer::of(graph, node)).collect();
    layers.sort_by_key(|layer| layer.cost(graph));
    let mut left = BUDGET;
    layers.retain(|layer| match left.checked_sub(layer.cost(graph)) {
        Some(rest) => {
            left = rest;
            true
        }
        None => false,
    });
    let mut readers: HashMap<TensorId, Vec<usize>> = HashMap::new();
    for (index, layer) in layers.iter().enumerate() {
        readers.entry(graph.nodes[layer.node].inputs[0]).or_default().push(index);
    }
    let gather = |sample: &Vec<Data>| -> Result<Vec<Vec<f32>>, ExecError> {
        let mut found = vec![Vec::new(); layers.len()];
        exec::run(graph, sample, &mut |id, data| {
            for &reader in readers.get(&id).into_iter().flatten() {
                let layer = &layers[reader];
                let count = layer.rows.div_ceil(samples.len().max(1));
                found[reader] = layer.rows(graph, data.floats().unwrap_or(&[]), count);
            }
        })?;
        Ok(found)
    };
    let gathered = parallel::try_map(samples.iter().collect(), gather)?;
    let rounded = |(index, layer): (usize, &Layer)| {
        let rows: Vec<f32> = gathered.iter().flat_map(|sample| &sample[index]).copied().collect();
        layer.round(graph, &rows)
    };
    Ok(parallel::map(layers.iter().enumerate().collect(), rounded).into_iter().flatten().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantize::weights;

    fn noise(seed: usize) -> f32 {
        ((seed.wrapping_mul(2_654_435_761) >> 7) % 2001) as f32 / 1000.0 - 1.0
    }

    /// Differences of neighbours over backgrounds of any brightness: what the weights lose must cancel.
    #[test]
    fn filters_of_differences_keep_even_backgrounds_even() {
        for groups in [1, 2] {
            let (channels, n, side) = (2, 4, 8);
            let mut graph = Graph::default();
            let x = graph.add_tensor("x", vec![1, channels, side, side], DataType::Float);
            graph.inputs.push(x);
            let own = channels / groups;
            let edge = |i: usize| {
                if i % 9 == 3 {
                    4.1
                } else if i % 9 == 4 {
                    -4.1
                } else {
                    0.1 * noise(i)
                }
            };
            let values: Vec<f32> = (0..n * own * 9).map(edge).collect();
            let w = graph.add_constant("w", vec![n, own, 3, 3], Data::Float(values));
            let window = Window { kernel: [3, 3], strides: [1, 1], pads: [0; 4], dilations: [1, 1], groups };
            let y = graph.add_node("conv", Op::Conv2d(window), vec![x, w], vec![1, n, 6, 6], DataType::Float);
            graph.outputs.push(y);
            let image =
                |s: usize| (0..channels * side * side).map(move |i| 20.0 * noise(s * 131 + 5) + noise(s * 977 + i));
            let samples: Vec<Vec<Data>> = (0..24).map(|s| vec![Data::Float(image(s).collect())]).collect();
            let rounded = &round(&graph, &samples).unwrap()["conv"];
            let k = own * 9;
            let exact = channels_last(graph.floats(w).unwrap(), own, 9);
            let plain = weights::quantize(&exact, n, k, WeightFormat::I8, &[]);
            // Energy of what is lost around its mean.
            let layer = Layer::of(&graph, 0).unwrap();
            let rows: Vec<f32> = samples.iter().flat_map(|s| layer.rows(&graph, s[0].floats().unwrap(), 36)).collect();
            let lost = |q: &QWeights| -> f64 {
                let of = |c: usize| -> f64 {
                    let part = c / (n / groups) * k;
                    let errors: Vec<f64> = rows
                        .chunks_exact(groups * k)
                        .map(|row| {
                            (0..k)
                                .map(|i| {
                                    (f64::from(exact[c * k + i]) - f64::from(q.values[c * k + i]) * q.scales[c])
                                        * f64::from(row[part + i])
                                })
                                .sum()
                        })
                        .collect();
                    let mean = errors.iter().sum::<f64>() / errors.len() as f64;
                    errors.iter().map(|e| (e - mean).powi(2)).sum()
                };
                (0..n).map(of).sum()
            };
            assert!(lost(&rounded.weights) < 0.5 * lost(&plain), "{} {}", lost(&rounded.weights), lost(&plain));
        }
    }
}
