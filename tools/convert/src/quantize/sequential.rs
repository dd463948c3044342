//! Rounding of weights layer after layer, each seeing what the layers before it have already lost.
//!
//! Two copies of the model run side by side over the samples: the float one with inputs `X` of a layer, and the one whose
//! earlier layers are rounded, with inputs `Y`. The rounded weights `Q` minimise `|X W' - Y Q'|^2` around the means; what
//! is left of the means goes into the bias. The minimum without rounding is `W + W (X - Y)'Y (Y'Y)^-1`, and it is rounded
//! by [`super::gptq`] under `Y'Y`. Both copies run once, whatever the number of layers.
//!
//! # Reference
//! GPTQ as in [`super::gptq`]; Li et al., "GPTAQ: Efficient Finetuning-Free Quantization for Asymmetric Calibration",
//! 2025, for the term with `X - Y`; Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias
//! Correction", ICCV 2019, section 4.2, for the bias.

use super::gptq::{self, Hessian};
use super::weights::{QWeights, on_grid};
use crate::graph::exec::{ExecError, dense_rows, eval_node};
use crate::graph::{Data, DataType, Graph, Node, Op, TensorId};
use crate::parallel;
use shiftformer::weights::WeightFormat;
use std::borrow::Cow;
use std::collections::HashMap;

/// Widest layer that is rounded so: its moments are squares of this size, and their factors take its cube in time.
pub const MAX_WIDTH: usize = 4096;

/// A rounded layer.
#[derive(Clone, Debug)]
pub struct Rounded {
    /// `[n, k]`, `k` in the order of the packed layout (a convolution's channels fastest).
    pub weights: QWeights,
    /// `[n]`, corrected.
    pub bias: Vec<f64>,
}

/// The values of one sample that later nodes still read.
type Live = HashMap<TensorId, Data>;

/// Rounds every dense layer of up to [`MAX_WIDTH`] columns for which `format` has fewer than 8 bits, by node name. `fixed`
/// has the scales of weights that come quantized: those on the grid of the format lose nothing and are left alone.
///
/// # Errors
/// [`ExecError`] when a sample cannot be run.
pub fn round(
    graph: &Graph,
    samples: &[Vec<Data>],
    fixed: &HashMap<TensorId, Vec<f64>>,
    format: &dyn Fn(&str) -> WeightFormat,
) -> Result<HashMap<String, Rounded>, ExecError> {
    let start = |sample: &Vec<Data>| -> Live { graph.inputs.iter().copied().zip(sample.iter().cloned()).collect() };
    let mut exact: Vec<Live> = samples.iter().map(start).collect();
    let mut lossy = exact.clone();
    let consumers = graph.consumers();
    let mut rounded = HashMap::new();
    for (index, node) in graph.nodes.iter().enumerate() {
        let format = format(&node.name);
        let layer = match is_on_grid(graph, node, fixed, format) {
            true => None,
            false => round_layer(graph, index, &exact, &lossy, format)?,
        };
        let replaced = layer.as_ref().map(|layer| Replaced::new(graph, node, layer));
        let step = |live: &mut Live, replaced: Option<&Replaced>| -> Result<(), ExecError> {
            let output = eval(graph, node, live, replaced)?;
            live.insert(node.output, output);
            for id in &node.inputs {
                if consumers[*id].iter().all(|&c| c <= index) {
                    live.remove(id);
                }
            }
            Ok(())
        };
        parallel::try_map(exact.iter_mut().collect(), |live| step(live, None))?;
        parallel::try_map(lossy.iter_mut().collect(), |live| step(live, replaced.as_ref()))?;
        if let Some(layer) = layer {
            rounded.insert(node.name.clone(), layer);
        }
    }
    Ok(rounded)
}

/// Whether nothing is left to round to `format`: it has 8 bits, or all dense layers come on its grid.
pub fn comes_rounded(graph: &Graph, fixed: &HashMap<TensorId, Vec<f64>>, format: WeightFormat) -> bool {
    let mut dense = graph.nodes.iter().filter(|node| matches!(node.op, Op::Linear | Op::Conv2d(_)));
    format == WeightFormat::I8 || dense.all(|node| is_on_grid(graph, node, fixed, format))
}

/// Whether the weights of a layer come in whole steps that `format` holds.
fn is_on_grid(graph: &Graph, node: &Node, fixed: &HashMap<TensorId, Vec<f64>>, format: WeightFormat) -> bool {
    let weights = node.inputs.get(1).and_then(|id| Some((graph.floats(*id)?, fixed.get(id)?)));
    weights.is_some_and(|(weights, scales)| on_grid(weights, scales, format).is_some())
}

/// The float values of a rounded layer, in the shapes of the graph.
struct Replaced {
    weights: Data,
    bias: Data,
    n: usize,
}

impl Replaced {
    fn new(graph: &Graph, node: &Node, layer: &Rounded) -> Self {
        let q = &layer.weights;
        let real = |c: usize, i: usize| (f64::from(q.values[c * q.k + i]) * q.scales[c]) as f32;
        let shape = graph.shape(node.inputs[1]);
        let weights = match shape {
            // The packed order has the channels fastest, the graph the taps.
            [n, channels, kh, kw] => {
                let taps = kh * kw;
                (0..n * q.k).map(|at| real(at / q.k, (at % q.k % taps) * channels + at % q.k / taps)).collect()
            }
            _ => (0..q.n * q.k).map(|at| real(at / q.k, at % q.k)).collect(),
        };
        Self {
            weights: Data::Float(weights),
            bias: Data::Float(layer.bias.iter().map(|&b| b as f32).collect()),
            n: q.n,
        }
    }
}

fn eval(graph: &Graph, node: &Node, live: &Live, replaced: Option<&Replaced>) -> Result<Data, ExecError> {
    let missing = || ExecError::Operands { op: node.name.clone(), why: "an operand has no value" };
    let mut operands: Vec<(&[usize], &Data)> = Vec::new();
    for &id in &node.inputs {
        let data = graph.constant(id).or_else(|| live.get(&id)).ok_or_else(missing)?;
        operands.push((graph.shape(id), data));
    }
    let bias_shape;
    if let Some(replaced) = replaced {
        operands.truncate(2);
        operands[1].1 = &replaced.weights;
        bias_shape = [replaced.n];
        operands.push((&bias_shape, &replaced.bias));
    }
    eval_node(&node.op, &operands, graph.shape(node.output), graph.tensors[node.output].dtype)
}

/// Sums over the rows of both copies.
struct Moments {
    /// `sum y`, `sum (x - y)`.
    sums: [Vec<f64>; 2],
    /// `sum y y'`.
    lossy: Hessian,
    /// `sum (x - y) y'`, row major.
    drift: Vec<f64>,
    rows: f64,
}

impl Moments {
    fn new(k: usize) -> Self {
        Self { sums: [vec![0.0; k], vec![0.0; k]], lossy: Hessian::new(k), drift: vec![0.0; k * k], rows: 0.0 }
    }

    fn add(mut self, exact: &[f32], lossy: &[f32], k: usize) -> Self {
        self.lossy.add(lossy);
        for (x, y) in exact.chunks_exact(k).zip(lossy.chunks_exact(k)) {
            self.rows += 1.0;
            for i in 0..k {
                let difference = f64::from(x[i]) - f64::from(y[i]);
                self.sums[0][i] += f64::from(y[i]);
                self.sums[1][i] += difference;
                if difference != 0.0 {
                    let row = &mut self.drift[i * k..(i + 1) * k];
                    row.iter_mut().zip(y).for_each(|(d, &y)| *d += difference * f64::from(y));
                }
            }
        }
        self
    }

    fn merge(mut self, other: Self) -> Self {
        self.lossy.merge(&other.lossy);
        self.rows += other.rows;
        self.sums.iter_mut().flatten().zip(other.sums.iter().flatten()).for_each(|(a, b)| *a += b);
        self.drift.iter_mut().zip(&other.drift).for_each(|(a, b)| *a += b);
        self
    }

    /// Takes the means out of the second moments.
    fn centre(&mut self) {
        let k = self.sums[0].len();
        let rows = self.rows.max(1.0);
        self.lossy.centre(&self.sums[0], rows);
        for i in 0..k {
            for j in 0..k {
                self.drift[i * k + j] -= self.sums[1][i] * self.sums[0][j] / rows;
            }
        }
    }
}

fn round_layer(
    graph: &Graph,
    index: usize,
    exact: &[Live],
    lossy: &[Live],
    format: WeightFormat,
) -> Result<Option<Rounded>, ExecError> {
    let node = &graph.nodes[index];
    let dense = match &node.op {
        Op::Linear => true,
        Op::Conv2d(window) => window.groups == 1,
        _ => false,
    };
    if !dense || format.bits() >= 8 || graph.tensors[node.inputs[0]].dtype != DataType::Float {
        return Ok(None);
    }
    let Some(weights) = graph.floats(node.inputs[1]) else { return Ok(None) };
    let shape = graph.shape(node.inputs[1]);
    let (n, k) = (shape[0], shape[1..].iter().product::<usize>().max(1));
    if k > MAX_WIDTH {
        return Ok(None);
    }
    let weights = match shape {
        [_, channels, kh, kw] => Cow::Owned(channels_last(weights, *channels, kh * kw)),
        _ => Cow::Borrowed(weights),
    };
    let add = |moments: Moments, &(exact, lossy): &(&Live, &Live)| {
        let values = |live: &Live| live.get(&node.inputs[0]).map(Data::to_f32).unwrap_or_default();
        let (exact, lossy) = (values(exact), values(lossy));
        let (exact, lossy) = (dense_rows(graph, index, &exact).0, dense_rows(graph, index, &lossy).0);
        Ok::<_, ExecError>(moments.add(&exact, &lossy, k))
    };
    let pairs: Vec<(&Live, &Live)> = exact.iter().zip(lossy).collect();
    let mut moments = parallel::try_fold(&pairs, || Moments::new(k), add, Moments::merge)?;
    moments.centre();
    let target = drifted(&weights, n, k, &moments);
    let q = gptq::quantize(&target, n, k, format, &vec![0.0; n], &moments.lossy);
    let bias = graph_bias(graph, node, n);
    let bias = (0..n).map(|c| bias[c] + mean_error(&weights[c * k..(c + 1) * k], &q, c, &moments)).collect();
    Ok(Some(Rounded { weights: q, bias }))
}

/// `(n, c, taps)` to `(n, taps, c)`.
pub(super) fn channels_last(weights: &[f32], channels: usize, taps: usize) -> Vec<f32> {
    let filters = weights.chunks_exact((channels * taps).max(1));
    filters.flat_map(|f| (0..taps * channels).map(move |i| f[(i % channels) * taps + i / channels])).collect()
}

pub(super) fn graph_bias(graph: &Graph, node: &Node, n: usize) -> Vec<f64> {
    let bias = node.inputs.get(2).and_then(|&id| graph.floats(id));
    bias.map_or_else(|| vec![0.0; n], |b| b.iter().map(|&v| f64::from(v)).collect())
}

/// Mean of `w x - q y`.
fn mean_error(row: &[f32], q: &QWeights, channel: usize, moments: &Moments) -> f64 {
    let rounded = &q.values[channel * q.k..(channel + 1) * q.k];
    let [lossy, drift] = &moments.sums;
    let sum: f64 = row
        .iter()
        .zip(rounded)
        .zip(lossy.iter().zip(drift))
        .map(|((&w, &r), (y, d))| f64::from(w) * (y + d) - f64::from(r) * q.scales[channel] * y)
        .sum();
    sum / moments.rows.max(1.0)
}

/// `w + w D H^-1` for every row: the weights that would undo the drift of the inputs, were they not rounded.
fn drifted(weights: &[f32], n: usize, k: usize, moments: &Moments) -> Vec<f32> {
    if moments.drift.iter().all(|&d| d == 0.0) {
        return weights.to_vec();
    }
    let Some(solver) = moments.lossy.solver() else { return weights.to_vec() };
    let row = |c: usize| {
        let w = &weights[c * k..(c + 1) * k];
        let right: Vec<f64> =
            (0..k).map(|j| (0..k).map(|i| f64::from(w[i]) * moments.drift[i * k + j]).sum()).collect();
        let change = solver.solve(&right);
        w.iter().zip(change).map(|(&w, d)| (f64::from(w) + d) as f32).collect::<Vec<f32>>()
    };
    parallel::map((0..n).collect(), row).concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(seed: usize) -> f32 {
        ((seed.wrapping_mul(2_654_435_761) >> 7) % 2001) as f32 / 1000.0 - 1.0
    }

    /// Two linear layers, 4 bits each: the second makes up for part of what the first has lost.
    #[test]
    fn the_second_layer_compensates_for_the_first() {
        let (k, hidden, n) = (16, 24, 8);
        let mut graph = Graph::default();
        let x = graph.add_tensor("x", vec![8, k], DataType::Float);
        graph.inputs.push(x);
        let w1 = graph.add_constant("w1", vec![hidden, k], Data::Float((0..hidden * k).map(noise).collect()));
        let w2 =
            graph.add_constant("w2", vec![n, hidden], Data::Float((0..n * hidden).map(|i| noise(i + 999)).collect()));
        let h = graph.add_node("l1", Op::Linear, vec![x, w1], vec![8, hidden], DataType::Float);
        let y = graph.add_node("l2", Op::Linear, vec![h, w2], vec![8, n], DataType::Float);
        graph.outputs.push(y);
        let samples: Vec<Vec<Data>> = (0..16)
            .map(|s| vec![Data::Float((0..8 * k).map(|i| noise(s * 7919 + i) + noise(s * 31 + i / k)).collect())])
            .collect();
        let error = |rounded: &HashMap<String, Rounded>| -> f64 {
            let mut sum = 0.0;
            for sample in &samples {
                let mut exact: Live = [(x, sample[0].clone())].into();
                let mut lossy = exact.clone();
                for node in &graph.nodes {
                    let replaced = rounded.get(&node.name).map(|layer| Replaced::new(&graph, node, layer));
                    let (a, b) = (
                        eval(&graph, node, &exact, None).unwrap(),
                        eval(&graph, node, &lossy, replaced.as_ref()).unwrap(),
                    );
                    exact.insert(node.output, a);
                    lossy.insert(node.output, b);
                }
                let (a, b) = (exact[&y].to_f32(), lossy[&y].to_f32());
                sum += a.iter().zip(&b).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
            }
            sum
        };
        let sequential = round(&graph, &samples, &HashMap::new(), &|_| WeightFormat::I4).unwrap();
        let none = HashMap::new();
        let mut apart =
            round(&graph, &samples, &none, &|name| if name == "l1" { WeightFormat::I4 } else { WeightFormat::I8 })
                .unwrap();
        apart.extend(
            round(&graph, &samples, &none, &|name| if name == "l2" { WeightFormat::I4 } else { WeightFormat::I8 })
                .unwrap(),
        );
        assert_eq!((sequential.len(), apart.len()), (2, 2));
        assert!(error(&sequential) < 0.9 * error(&apart), "{} {}", error(&sequential), error(&apart));
    }
}
