//! Scale migration: a column that is large in the activations becomes smaller there and larger in the weights.
//!
//! Where the output of a normalization is read by linear layers only, `gamma_j` and `beta_j` are divided by `s_j` and
//! column `j` of every reader is multiplied by it: the same function, with activations that fill their 256 steps more
//! evenly. So are the channels of a linear layer or a convolution that others of its kind read, directly or through functions
//! with `f(s x) = s f(x)` for positive `s`: ReLU, LeakyReLU, the absolute value, pooling. `s_j = max|x_j|^alpha / max|w_j|^(1 - alpha)`, scaled to a geometric mean of 1.
//!
//! # Reference
//! Xiao et al., "SmoothQuant", ICML 2023, eq. (4); Nagel et al., "Data-Free Quantization Through Weight Equalization and
//! Bias Correction", ICCV 2019, section 4.1.

use crate::graph::exec::{self, ExecError};
use crate::graph::{Binary, Data, Graph, Node, Op, TensorId, Unary};
use crate::parallel;
use std::collections::HashMap;

/// Maximum factor of a column behind a normalization, and its inverse the minimum.
const MAX_NORM_FACTOR: f64 = 16.0;
/// Maximum factor of a channel between two layers: the first one has a scale for every channel, whatever the factors are.
const MAX_DENSE_FACTOR: f64 = 4096.0;

/// The largest magnitude of every channel of the tensors whose scales can be migrated.
pub struct Extents {
    sites: Vec<Site>,
    channels: HashMap<TensorId, Vec<f64>>,
}

impl Extents {
    /// Over `samples`.
    ///
    /// # Errors
    /// [`ExecError`] when a sample cannot be run.
    pub fn of(graph: &Graph, samples: &[&Vec<Data>]) -> Result<Self, ExecError> {
        let sites = sites(graph);
        if sites.is_empty() {
            return Ok(Self { sites, channels: HashMap::new() });
        }
        let see = |channels, sample: &&Vec<Data>| channel_extents(graph, &sites, channels, sample);
        let channels = parallel::try_fold(samples, HashMap::new, see, larger)?;
        Ok(Self { sites, channels })
    }
}

/// Migrates scales in place; returns the factor of every column of every changed tensor: original = new * factor. It is empty
/// for tensors whose channels are not their columns.
pub fn equalize(graph: &mut Graph, extents: &Extents, alpha: f64) -> HashMap<TensorId, Vec<f64>> {
    let mut changed = HashMap::new();
    for site in &extents.sites {
        let Some(extent) = extents.channels.get(&site.output()) else { continue };
        let factors = factors(graph, site, extent, alpha);
        apply(graph, site, &factors);
        for &id in &site.tensors {
            let columns = site.axis(graph, id) + 1 == graph.shape(id).len();
            changed.insert(id, if columns { factors.clone() } else { Vec::new() });
        }
    }
    changed
}

/// A producer whose channels can be scaled, and the layers that take the factors back.
struct Site {
    /// A normalization, a linear layer or a convolution.
    producer: usize,
    /// The tensors between: the producer's output and those of functions that scale with their argument.
    tensors: Vec<TensorId>,
    readers: Vec<usize>,
}

impl Site {
    /// What the readers read.
    fn output(&self) -> TensorId {
        self.tensors.last().copied().unwrap_or_default()
    }

    /// The axis of the channels.
    fn axis(&self, graph: &Graph, id: TensorId) -> usize {
        match graph.nodes[self.producer].op {
            Op::Conv2d(_) => 1,
            _ => graph.shape(id).len().saturating_sub(1),
        }
    }
}

/// The channels of the input that the weights of a layer belong to, in their order: `[n, k]`, or `[n, c, kh, kw]` with
/// groups.
fn input_channels<'g>(graph: &'g Graph, reader: usize) -> impl Iterator<Item = usize> + use<'g> {
    let node = &graph.nodes[reader];
    let shape = graph.shape(node.inputs[1]);
    let (n, c) = (shape[0], shape[1]);
    let (taps, groups) = match &node.op {
        Op::Conv2d(window) => (shape[2..].iter().product::<usize>(), window.groups),
        _ => (1, 1),
    };
    let group_n = (n / groups.max(1)).max(1);
    (0..n * c * taps).map(move |i| (i / (c * taps)) / group_n * c + i / taps % c)
}

fn sites(graph: &Graph) -> Vec<Site> {
    let consumers = graph.consumers();
    let constant = |node: usize| {
        let weights = graph.nodes[node].inputs.get(1);
        weights.is_some_and(|&id| graph.floats(id).is_some())
    };
    let site = |producer: usize| {
        let node = &graph.nodes[producer];
        let mut tensors = vec![node.output];
        let convolution = matches!(node.op, Op::Conv2d(_));
        let layer = match node.op {
            Op::LayerNorm { .. } | Op::RmsNorm { .. } => false,
            Op::Linear | Op::Conv2d(_) if constant(producer) => true,
            _ => return None,
        };
        // A positive factor goes through these.
        let mut output = node.output;
        while let Some(more) = layer.then(|| scaled_with(graph, &consumers, output, convolution)).flatten() {
            tensors.extend(more);
            output = tensors[tensors.len() - 1];
        }
        let readers = consumers[output].clone();
        let takes = |&reader: &usize| {
            let Some(node) = graph.nodes.get(reader) else { return false };
            let same_kind = match node.op {
                Op::Linear => !convolution,
                Op::Conv2d(_) => convolution,
                _ => false,
            };
            same_kind && node.inputs[0] == output && constant(reader)
        };
        let all = !readers.is_empty() && readers.iter().all(takes);
        all.then_some(Site { producer, tensors, readers })
    };
    (0..graph.nodes.len()).filter_map(site).collect()
}

/// The tensors of a function through which a positive factor of a channel of `id` goes, its value last.
fn scaled_with(graph: &Graph, consumers: &[Vec<usize>], id: TensorId, images: bool) -> Option<Vec<TensorId>> {
    let node = |index: usize| graph.nodes.get(index);
    let only = |id: TensorId| match consumers[id][..] {
        [one] => node(one),
        _ => None,
    };
    let reads = |node: &Node, id: TensorId| node.inputs.contains(&id);
    if let [one] = consumers[id][..] {
        let node = node(one)?;
        return match node.op {
            Op::Unary(Unary::Relu | Unary::LeakyRelu { .. } | Unary::Abs) => Some(vec![node.output]),
            Op::MaxPool(_) | Op::AveragePool { .. } if images => Some(vec![node.output]),
            _ => None,
        };
    }
    // PReLU: max(x, 0) + slope * min(x, 0).
    let [a, b] = consumers[id][..] else { return None };
    let (a, b) = (node(a)?, node(b)?);
    let (relu, min) = if a.op == Op::Unary(Unary::Relu) { (a, b) } else { (b, a) };
    let zero = |id: &TensorId| graph.floats(*id).is_some_and(|v| v.iter().all(|&x| x == 0.0));
    let is_min = min.op == Op::Binary(Binary::Min) && min.inputs.iter().any(zero);
    let (product, sum) = (only(min.output)?, only(relu.output)?);
    let scales = product.op == Op::Binary(Binary::Mul) && product.inputs.iter().any(|&id| graph.floats(id).is_some());
    let adds = sum.op == Op::Binary(Binary::Add) && reads(sum, product.output) && only(product.output).is_some();
    let found = relu.op == Op::Unary(Unary::Relu) && is_min && scales && adds;
    found.then(|| vec![relu.output, min.output, product.output, sum.output])
}

type Channels = HashMap<TensorId, Vec<f64>>;

fn larger(mut a: Channels, b: Channels) -> Channels {
    for (id, channels) in b {
        let own = a.entry(id).or_insert_with(|| vec![0.0; channels.len()]);
        own.iter_mut().zip(channels).for_each(|(a, b)| *a = a.max(b));
    }
    a
}

fn channel_extents(
    graph: &Graph,
    sites: &[Site],
    mut extents: Channels,
    sample: &[Data],
) -> Result<Channels, ExecError> {
    exec::run(graph, sample, &mut |id, data| {
        let Some(site) = sites.iter().find(|site| site.output() == id) else { return };
        let (shape, axis) = (graph.shape(id), site.axis(graph, id));
        let channels = shape.get(axis).copied().unwrap_or(1).max(1);
        let inner = shape.get(axis + 1..).map_or(1, |s| s.iter().product::<usize>()).max(1);
        let extent = extents.entry(id).or_insert_with(|| vec![0.0; channels]);
        for (index, row) in data.floats().unwrap_or(&[]).chunks_exact(inner).enumerate() {
            let most = row.iter().fold(0.0f32, |m, v| m.max(v.abs()));
            let extent = &mut extent[index % channels];
            *extent = extent.max(f64::from(most));
        }
    })?;
    Ok(extents)
}

fn factors(graph: &Graph, site: &Site, extent: &[f64], alpha: f64) -> Vec<f64> {
    let k = extent.len();
    let mut weights = vec![0.0f64; k];
    for &reader in &site.readers {
        let values = graph.floats(graph.nodes[reader].inputs[1]).unwrap_or(&[]);
        for (&w, channel) in values.iter().zip(input_channels(graph, reader)) {
            weights[channel] = weights[channel].max(f64::from(w.abs()));
        }
    }
    let raw: Vec<f64> = extent
        .iter()
        .zip(&weights)
        .map(|(&x, &w)| if x > 0.0 && w > 0.0 { x.powf(alpha) / w.powf(1.0 - alpha) } else { 1.0 })
        .collect();
    let most = match graph.nodes[site.producer].op {
        Op::LayerNorm { .. } | Op::RmsNorm { .. } => MAX_NORM_FACTOR,
        _ => MAX_DENSE_FACTOR,
    };
    let mean = (raw.iter().map(|s| s.ln()).sum::<f64>() / k.max(1) as f64).exp();
    // f32 so that the stored factor is exactly the one that was applied.
    raw.iter().map(|s| f64::from((s / mean).clamp(1.0 / most, most) as f32)).collect()
}

fn apply(graph: &mut Graph, site: &Site, factors: &[f64]) {
    match graph.nodes[site.producer].op {
        Op::LayerNorm { .. } | Op::RmsNorm { .. } => divide_norm(graph, site.producer, factors),
        _ => divide_layer(graph, site.producer, factors),
    }
    for &reader in &site.readers {
        let channels: Vec<usize> = input_channels(graph, reader).collect();
        scale_constant(graph, reader, 1, |i| factors[channels[i]]);
    }
}

/// Multiplies element `i` of the constant input `slot` of a node by `factor(i)`, in a copy.
fn scale_constant(graph: &mut Graph, node: usize, slot: usize, factor: impl Fn(usize) -> f64) {
    let Some(&id) = graph.nodes[node].inputs.get(slot) else { return };
    let Some(old) = graph.floats(id).map(<[f32]>::to_vec) else { return };
    let scaled = old.iter().enumerate().map(|(i, &w)| (f64::from(w) * factor(i)) as f32).collect();
    let (name, shape) = (format!("{}/equalized", graph.tensors[id].name), graph.shape(id).to_vec());
    let new = graph.add_constant(name, shape, Data::Float(scaled));
    graph.nodes[node].inputs[slot] = new;
}

/// Divides the output channels of a linear layer or a convolution.
fn divide_layer(graph: &mut Graph, layer: usize, factors: &[f64]) {
    let len = graph.tensors[graph.nodes[layer].inputs[1]].len();
    let of_channel = len / factors.len().max(1);
    scale_constant(graph, layer, 1, |i| 1.0 / factors[i / of_channel.max(1)]);
    scale_constant(graph, layer, 2, |i| 1.0 / factors[i]);
}

/// Divides gamma and beta.
fn divide_norm(graph: &mut Graph, norm: usize, factors: &[f64]) {
    let k = factors.len();
    let rms = matches!(graph.nodes[norm].op, Op::RmsNorm { .. });
    for (slot, missing) in [(1, 1.0f32), (2, 0.0)] {
        if slot == 2 && rms {
            continue;
        }
        let id = graph.nodes[norm].inputs.get(slot).copied();
        let old = id.and_then(|id| graph.floats(id)).map(<[f32]>::to_vec).unwrap_or_else(|| vec![missing; k]);
        let scaled = (0..k).map(|j| (f64::from(old[if old.len() == 1 { 0 } else { j }]) / factors[j]) as f32).collect();
        let name = format!("{}/equalized{slot}", graph.nodes[norm].name);
        let new = graph.add_constant(name, vec![k], Data::Float(scaled));
        let inputs = &mut graph.nodes[norm].inputs;
        if inputs.len() > slot { inputs[slot] = new } else { inputs.push(new) }
    }
}
