//! Scale migration: a column that is large in the activations becomes smaller there and larger in the weights.
//!
//! Where the output of a normalization is read by linear layers only, `gamma_j` and `beta_j` are divided by `s_j` and
//! column `j` of every reader is multiplied by it: the same function, with activations that fill their 256 steps more
//! evenly. `s_j = max|x_j|^alpha / max|w_j|^(1 - alpha)`, scaled to a geometric mean of 1.
//!
//! # Reference
//! Xiao et al., "SmoothQuant", ICML 2023, eq. (4); Nagel et al., "Data-Free Quantization Through Weight Equalization and
//! Bias Correction", ICCV 2019, section 4.1.

use crate::graph::exec::{self, ExecError};
use crate::graph::{Data, Graph, Op, TensorId};
use std::collections::HashMap;

/// Maximum factor of one column, and its inverse the smallest.
const MAX_FACTOR: f64 = 16.0;

/// Migrates scales in place; returns the factor of every column of every changed tensor: original = new * factor.
///
/// # Errors
/// [`ExecError`] when a sample cannot be run.
pub fn equalize(
    graph: &mut Graph,
    samples: &[Vec<Data>],
    alpha: f64,
) -> Result<HashMap<TensorId, Vec<f64>>, ExecError> {
    let sites = sites(graph);
    let extents = column_extents(graph, &sites, samples)?;
    let mut changed = HashMap::new();
    for site in &sites {
        let Some(extent) = extents.get(&site.output) else { continue };
        let factors = factors(graph, site, extent, alpha);
        apply(graph, site, &factors);
        changed.insert(site.output, factors);
    }
    Ok(changed)
}

/// A normalization whose readers are all linear.
struct Site {
    norm: usize,
    output: TensorId,
    readers: Vec<usize>,
}

fn sites(graph: &Graph) -> Vec<Site> {
    let consumers = graph.consumers();
    let affine = |op: &Op| matches!(op, Op::LayerNorm { .. } | Op::RmsNorm { .. });
    graph
        .nodes
        .iter()
        .enumerate()
        .filter(|(_, node)| affine(&node.op))
        .filter_map(|(norm, node)| {
            let readers = consumers[node.output].clone();
            let linear = |&r: &usize| {
                let reader = graph.nodes.get(r)?;
                let constant = graph.floats(*reader.inputs.get(1)?).is_some();
                (reader.op == Op::Linear && reader.inputs[0] == node.output && constant).then_some(())
            };
            let all = !readers.is_empty() && readers.iter().all(|r| linear(r).is_some());
            all.then_some(Site { norm, output: node.output, readers })
        })
        .collect()
}

fn column_extents(
    graph: &Graph,
    sites: &[Site],
    samples: &[Vec<Data>],
) -> Result<HashMap<TensorId, Vec<f64>>, ExecError> {
    let mut extents: HashMap<TensorId, Vec<f64>> = HashMap::new();
    for sample in samples {
        exec::run(graph, sample, &mut |id, data| {
            if !sites.iter().any(|site| site.output == id) {
                return;
            }
            let k = graph.shape(id).last().copied().unwrap_or(1).max(1);
            let extent = extents.entry(id).or_insert_with(|| vec![0.0; k]);
            for row in data.floats().unwrap_or(&[]).chunks_exact(k) {
                extent.iter_mut().zip(row).for_each(|(e, &v)| *e = e.max(f64::from(v.abs())));
            }
        })?;
    }
    Ok(extents)
}

fn factors(graph: &Graph, site: &Site, extent: &[f64], alpha: f64) -> Vec<f64> {
    let k = extent.len();
    let mut weights = vec![0.0f64; k];
    for &reader in &site.readers {
        let values = graph.floats(graph.nodes[reader].inputs[1]).unwrap_or(&[]);
        for row in values.chunks_exact(k.max(1)) {
            weights.iter_mut().zip(row).for_each(|(m, &w)| *m = m.max(f64::from(w.abs())));
        }
    }
    let raw: Vec<f64> = extent
        .iter()
        .zip(&weights)
        .map(|(&x, &w)| if x > 0.0 && w > 0.0 { x.powf(alpha) / w.powf(1.0 - alpha) } else { 1.0 })
        .collect();
    let mean = (raw.iter().map(|s| s.ln()).sum::<f64>() / k.max(1) as f64).exp();
    // f32 so that the stored factor is exactly the one that was applied.
    raw.iter().map(|s| f64::from((s / mean).clamp(1.0 / MAX_FACTOR, MAX_FACTOR) as f32)).collect()
}

fn apply(graph: &mut Graph, site: &Site, factors: &[f64]) {
    let k = factors.len();
    let default = graph.nodes[site.norm].op.clone();
    for (slot, missing) in [(1, 1.0f32), (2, 0.0)] {
        if slot == 2 && matches!(default, Op::RmsNorm { .. }) {
            continue;
        }
        let id = graph.nodes[site.norm].inputs.get(slot).copied();
        let old = id.and_then(|id| graph.floats(id)).map(<[f32]>::to_vec).unwrap_or_else(|| vec![missing; k]);
        let scaled = (0..k).map(|j| (f64::from(old[if old.len() == 1 { 0 } else { j }]) / factors[j]) as f32).collect();
        let name = format!("{}/equalized{slot}", graph.nodes[site.norm].name);
        let new = graph.add_constant(name, vec![k], Data::Float(scaled));
        let inputs = &mut graph.nodes[site.norm].inputs;
        if inputs.len() > slot { inputs[slot] = new } else { inputs.push(new) }
    }
    for &reader in &site.readers {
        let id = graph.nodes[reader].inputs[1];
        let shape = graph.shape(id).to_vec();
        let old = graph.floats(id).map(<[f32]>::to_vec).unwrap_or_default();
        let scaled = old.iter().enumerate().map(|(i, &w)| (f64::from(w) * factors[i % k]) as f32).collect();
        let name = format!("{}/equalized", graph.tensors[id].name);
        let new = graph.add_constant(name, shape, Data::Float(scaled));
        graph.nodes[reader].inputs[1] = new;
    }
}
