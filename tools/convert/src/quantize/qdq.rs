//! Models that come quantized: QuantizeLinear/DequantizeLinear pairs keep their scales.

use crate::graph::exec::{ExecError, eval_node};
use crate::graph::{DataType, FakeQuant, Graph, Op, TensorId};
use std::collections::HashMap;

/// What the pairs of a model fix.
#[derive(Clone, Debug, Default)]
pub struct Fixed {
    /// Scale and zero point, as an `i8`, of activations.
    pub activations: HashMap<TensorId, (f64, f64)>,
    /// Scale and zero point, as an `i16`, of tensors quantized to 16 bits.
    pub wide: HashMap<TensorId, (f64, f64)>,
    /// Scale per output channel of weights.
    pub weights: HashMap<TensorId, Vec<f64>>,
}

impl Fixed {
    /// Whether weights or activations come in steps, which other scales would leave.
    pub fn has_scales(&self) -> bool {
        !self.activations.is_empty() || !self.weights.is_empty()
    }
}

/// Takes the pairs over constants out of `graph` (the constants become their rounded values) and collects the scales.
///
/// Activations quantized to 8 or 16 bits keep their pair in the graph; pairs per channel over activations are dropped, but
/// for outputs, which keep their names.
///
/// # Errors
/// [`ExecError`] when a pair does not fit its constant.
pub fn absorb(graph: &mut Graph) -> Result<Fixed, ExecError> {
    let mut fixed = Fixed::default();
    let mut replaced: HashMap<TensorId, TensorId> = HashMap::new();
    let mut uses: HashMap<TensorId, usize> = HashMap::new();
    for &id in graph.nodes.iter().flat_map(|node| &node.inputs).chain(&graph.outputs) {
        *uses.entry(id).or_default() += 1;
    }
    let nodes = std::mem::take(&mut graph.nodes);
    for mut node in nodes {
        for input in &mut node.inputs {
            *input = replaced.get(input).copied().unwrap_or(*input);
        }
        let Op::FakeQuant(quant) = &node.op else {
            graph.nodes.push(node);
            continue;
        };
        let source = node.inputs[0];
        if let Some(value) = graph.tensors[source].value.clone() {
            let shape = graph.shape(source).to_vec();
            let rounded = eval_node(&node.op, &[(&shape, &value)], &shape, DataType::Float)?;
            let id = graph.add_constant(format!("{}/rounded", node.name), shape, rounded);
            if let Some(scales) = weight_scales(quant, graph.shape(id)) {
                fixed.weights.insert(id, scales);
            }
            replaced.insert(node.output, id);
        } else if let Some(units) = activation_units(quant) {
            fixed.activations.insert(node.output, units);
            graph.nodes.push(node);
        } else if let Some(units) = wide_units(quant) {
            fixed.wide.insert(node.output, units);
            if uses.get(&source) == Some(&1) {
                fixed.wide.insert(source, units);
            }
            graph.nodes.push(node);
        } else if graph.outputs.contains(&node.output) {
            graph.nodes.push(node);
        } else {
            replaced.insert(node.output, source);
        }
    }
    for output in &mut graph.outputs {
        *output = replaced.get(output).copied().unwrap_or(*output);
    }
    spread(graph, &fixed.wide, &mut fixed.activations);
    Ok(fixed)
}

/// Scale per output channel of symmetric 8-bit weights whose first dimension is the channel.
fn weight_scales(quant: &FakeQuant, shape: &[usize]) -> Option<Vec<f64>> {
    let symmetric = quant.zero_point.iter().all(|&z| z == 0) && quant.range.0 >= -128 && quant.range.1 <= 127;
    let channels = *shape.first()?;
    let scales: Vec<f64> = match quant.scale[..] {
        [one] => vec![f64::from(one); channels],
        _ if quant.axis == 0 && quant.scale.len() == channels => quant.scale.iter().map(|&s| f64::from(s)).collect(),
        _ => return None,
    };
    (symmetric && shape.len() >= 2).then_some(scales)
}

/// Scale and zero point on the `i8` axis of a per-tensor 8-bit pair.
fn activation_units(quant: &FakeQuant) -> Option<(f64, f64)> {
    let ([scale], [zero]) = (&quant.scale[..], &quant.zero_point[..]) else { return None };
    let offset = match quant.range {
        (low, high) if low >= -128 && high <= 127 => 0,
        (low, high) if low >= 0 && high <= 255 => 128,
        _ => return None,
    };
    Some((f64::from(*scale), f64::from(zero - offset)))
}

/// Scale and zero point on the `i16` axis of a per-tensor 16-bit pair.
fn wide_units(quant: &FakeQuant) -> Option<(f64, f64)> {
    let ([scale], [zero]) = (&quant.scale[..], &quant.zero_point[..]) else { return None };
    match quant.range {
        (-32768, 32767) => Some((f64::from(*scale), f64::from(*zero))),
        (0, 65535) => Some((f64::from(*scale), f64::from(zero - 32768))),
        _ => None,
    }
}

/// A tensor that is only moved on its way to a pair takes the units of the pair at once, but for one that has 16 bits of its own.
fn spread(graph: &Graph, wide: &HashMap<TensorId, (f64, f64)>, units: &mut HashMap<TensorId, (f64, f64)>) {
    for node in graph.nodes.iter().rev() {
        let moves = matches!(
            node.op,
            Op::FakeQuant(_) | Op::Transpose { .. } | Op::Reshape | Op::Slice { .. } | Op::Expand | Op::Concat { .. }
        );
        let Some(&own) = units.get(&node.output).filter(|_| moves) else { continue };
        for &input in node.inputs.iter().filter(|input| !wide.contains_key(input)) {
            units.entry(input).or_insert(own);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::Data;

    fn pair(scale: f32, zero: i32, range: (i32, i32)) -> Op {
        Op::FakeQuant(FakeQuant { scale: vec![scale], zero_point: vec![zero], axis: 0, range })
    }

    #[test]
    fn unsigned_pairs_move_to_the_signed_axis() {
        let mut graph = Graph::default();
        let x = graph.add_tensor("x", vec![4], DataType::Float);
        graph.inputs.push(x);
        let t = graph.add_node("move", Op::Reshape, vec![x], vec![2, 2], DataType::Float);
        let y = graph.add_node("q", pair(0.5, 3, (0, 255)), vec![t], vec![2, 2], DataType::Float);
        graph.outputs.push(y);
        let fixed = absorb(&mut graph).unwrap();
        assert_eq!(fixed.activations[&y], (0.5, -125.0));
        assert_eq!(fixed.activations[&x], (0.5, -125.0));
    }

    #[test]
    fn pairs_of_16_bits_keep_name_and_scale() {
        for (zero, range, expected) in
            [(0, (-32768, 32767), 0.0), (32768, (0, 65535), 0.0), (100, (0, 65535), -32668.0)]
        {
            let mut graph = Graph::default();
            let x = graph.add_tensor("x", vec![4], DataType::Float);
            graph.inputs.push(x);
            let y = graph.add_node("y", pair(0.01, zero, range), vec![x], vec![4], DataType::Float);
            graph.outputs.push(y);
            let fixed = absorb(&mut graph).unwrap();
            assert_eq!((graph.outputs[0], fixed.wide[&y]), (y, (f64::from(0.01f32), expected)));
        }
    }

    #[test]
    fn a_pair_of_8_bits_leaves_the_16_bits_before_it_alone() {
        let mut graph = Graph::default();
        let x = graph.add_tensor("x", vec![4], DataType::Float);
        graph.inputs.push(x);
        let wide = graph.add_node("wide", pair(0.001, 0, (-32768, 32767)), vec![x], vec![4], DataType::Float);
        let moved = graph.add_node("move", Op::Reshape, vec![wide], vec![2, 2], DataType::Float);
        let narrow = graph.add_node("narrow", pair(0.5, 3, (-128, 127)), vec![moved], vec![2, 2], DataType::Float);
        graph.outputs.push(narrow);
        let fixed = absorb(&mut graph).unwrap();
        assert_eq!(fixed.wide[&wide], (f64::from(0.001f32), 0.0));
        assert_eq!((fixed.activations[&narrow], fixed.activations[&moved]), ((0.5, 3.0), (0.5, 3.0)));
        assert!(!fixed.activations.contains_key(&wide) && !fixed.activations.contains_key(&x));
    }

    #[test]
    fn constants_are_rounded_once_and_keep_their_scales() {
        let mut graph = Graph::default();
        let x = graph.add_tensor("x", vec![1, 2], DataType::Float);
        graph.inputs.push(x);
        let w = graph.add_constant("w", vec![2, 2], Data::Float(vec![0.26, -0.9, 0.0, 0.5]));
        let q = graph.add_node("q", pair(0.25, 0, (-128, 127)), vec![w], vec![2, 2], DataType::Float);
        let y = graph.add_node("y", Op::Linear, vec![x, q], vec![1, 2], DataType::Float);
        graph.outputs.push(y);
        let fixed = absorb(&mut graph).unwrap();
        assert_eq!(graph.nodes.len(), 1);
        let id = graph.nodes[0].inputs[1];
        assert_eq!(graph.floats(id).unwrap(), [0.25, -1.0, 0.0, 0.5]);
        assert_eq!(fixed.weights[&id], [0.25, 0.25]);
    }
}
