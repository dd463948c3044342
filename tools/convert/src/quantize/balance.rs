//! Scale migration across products: where a column of a product is large, its linear factor gets smaller and the readers
//! of the product get larger.
//!
//! A gate times a linear layer, and attention over linear values, are linear in that layer: its row `r` is divided by `f_r`
//! and the columns that the readers take from it are multiplied by `f_r`. The same function, with 8-bit steps that belong
//! to every column, and values whose heads have scales of their own. The factors are those of
//! [`equalize`](super::equalize): `f = max|x|^alpha / max|w|^(1 - alpha)`, scaled to a geometric mean of 1.

use crate::graph::exec::{self, ExecError};
use crate::graph::{Binary, Data, Graph, Op, TensorId};
use std::collections::HashMap;

/// Maximum factor of one column, and its inverse the smallest.
const MAX_FACTOR: f64 = 16.0;

/// A product with a linear factor, all of whose readers are linear.
struct Site {
    /// The linear layer that is a factor.
    layer: usize,
    output: TensorId,
    readers: Vec<usize>,
    /// The row of the layer that every column of the output belongs to.
    rows: Vec<usize>,
}

/// Migrates scales in place; returns the factor of every column of every changed tensor: original = new * factor.
///
/// # Errors
/// [`ExecError`] when a sample cannot be run.
pub fn balance(graph: &mut Graph, samples: &[Vec<Data>], alpha: f64) -> Result<HashMap<TensorId, Vec<f64>>, ExecError> {
    let sites = sites(graph);
    let mut extents: HashMap<TensorId, Vec<f64>> = HashMap::new();
    for sample in samples {
        exec::run(graph, sample, &mut |id, data| {
            let Some(site) = sites.iter().find(|site| site.output == id) else { return };
            let k = site.rows.len();
            let extent = extents.entry(id).or_insert_with(|| vec![0.0; k]);
            for row in data.floats().unwrap_or(&[]).chunks_exact(k.max(1)) {
                extent.iter_mut().zip(row).for_each(|(e, &v)| *e = e.max(f64::from(v.abs())));
            }
        })?;
    }
    let mut changed = HashMap::new();
    for site in &sites {
        let Some(extent) = extents.get(&site.output) else { continue };
        let factors = factors(graph, site, extent, alpha);
        apply(graph, site, &factors);
        changed.insert(site.output, site.rows.iter().map(|&row| factors[row]).collect());
        changed.insert(graph.nodes[site.layer].output, factors);
    }
    Ok(changed)
}

fn sites(graph: &Graph) -> Vec<Site> {
    let (consumers, producers) = (graph.consumers(), graph.producers());
    let is_layer = |index: usize| {
        let node = &graph.nodes[index];
        node.op == Op::Linear && node.inputs[1..].iter().all(|&id| graph.floats(id).is_some())
    };
    let mut sites: Vec<Site> = Vec::new();
    for (index, node) in graph.nodes.iter().enumerate() {
        let (operands, rows): (&[TensorId], Vec<usize>) = match &node.op {
            Op::Binary(Binary::Mul) => {
                (&node.inputs, (0..graph.shape(node.output).last().copied().unwrap_or(0)).collect())
            }
            Op::Attention(a) if a.v.row == a.kv_heads * a.v_dim && a.out.row == a.heads * a.v_dim => {
                let group = (a.heads / a.kv_heads.max(1)).max(1);
                let row = |column: usize| column / a.v_dim / group * a.v_dim + column % a.v_dim;
                (&node.inputs[2..3], (0..a.heads * a.v_dim).map(row).collect())
            }
            _ => continue,
        };
        let last = |id: TensorId| graph.shape(id).last().copied();
        let product = matches!(node.op, Op::Binary(_));
        let fits = |id: TensorId| {
            let width = if product { last(node.output) } else { rows.iter().max().map(|row| row + 1) };
            last(id) == width && (!product || graph.shape(id) == graph.shape(node.output))
        };
        let layer = operands.iter().rev().find_map(|&id| {
            let layer = producers[id].filter(|&layer| is_layer(layer))?;
            (consumers[id] == [index] && fits(id)).then_some(layer)
        });
        let readers = consumers[node.output].clone();
        let reads = |&reader: &usize| {
            reader < graph.nodes.len() && is_layer(reader) && graph.nodes[reader].inputs[0] == node.output
        };
        let whole = last(node.output) == Some(rows.len()) && !readers.is_empty() && readers.iter().all(reads);
        let Some(layer) = layer.filter(|_| whole) else { continue };
        let reused = sites.iter().any(|site| site.layer == layer || site.readers.contains(&layer));
        if !reused {
            sites.push(Site { layer, output: node.output, readers, rows });
        }
    }
    sites
}

fn factors(graph: &Graph, site: &Site, extent: &[f64], alpha: f64) -> Vec<f64> {
    let count = site.rows.iter().max().map_or(0, |row| row + 1);
    let (mut values, mut weights) = (vec![0.0f64; count], vec![0.0f64; count]);
    for (&row, &extent) in site.rows.iter().zip(extent) {
        values[row] = values[row].max(extent);
    }
    for &reader in &site.readers {
        let matrix = graph.floats(graph.nodes[reader].inputs[1]).unwrap_or(&[]);
        for line in matrix.chunks_exact(site.rows.len().max(1)) {
            for (&row, &w) in site.rows.iter().zip(line) {
                weights[row] = weights[row].max(f64::from(w.abs()));
            }
        }
    }
    let raw: Vec<f64> = values
        .iter()
        .zip(&weights)
        .map(|(&x, &w)| if x > 0.0 && w > 0.0 { x.powf(alpha) / w.powf(1.0 - alpha) } else { 1.0 })
        .collect();
    let mean = (raw.iter().map(|s| s.ln()).sum::<f64>() / count.max(1) as f64).exp();
    // f32 so that the stored factor is exactly the one that was applied.
    raw.iter().map(|s| f64::from((s / mean).clamp(1.0 / MAX_FACTOR, MAX_FACTOR) as f32)).collect()
}

fn apply(graph: &mut Graph, site: &Site, factors: &[f64]) {
    for slot in 1..graph.nodes[site.layer].inputs.len() {
        let id = graph.nodes[site.layer].inputs[slot];
        let width = if slot == 1 { graph.shape(id).last().copied().unwrap_or(1).max(1) } else { 1 };
        let by_row = |index: usize, value: f64| value / factors.get(index / width).copied().unwrap_or(1.0);
        replace(graph, site.layer, slot, by_row);
    }
    let k = site.rows.len().max(1);
    for &reader in &site.readers {
        replace(graph, reader, 1, |index, value| value * factors[site.rows[index % k]]);
    }
}

/// Gives a node a constant of its own with other values.
fn replace(graph: &mut Graph, node: usize, slot: usize, change: impl Fn(usize, f64) -> f64) {
    let id = graph.nodes[node].inputs[slot];
    let (name, shape) = (format!("{}/balanced", graph.tensors[id].name), graph.shape(id).to_vec());
    let old = graph.floats(id).unwrap_or(&[]);
    let new = old.iter().enumerate().map(|(index, &value)| change(index, f64::from(value)) as f32).collect();
    graph.nodes[node].inputs[slot] = graph.add_constant(name, shape, Data::Float(new));
}
