//! Batch normalization and biases around convolutions.

use super::affine::Affine;
use super::linear::{bias_values, free_weights};
use super::rewriter::{NodeId, Rewriter};
use crate::graph::{Node, Op, TensorId, Window};

/// Channels are the third dimension from the end.
const CHANNEL: usize = 2;

/// A convolution: name, geometry, operands.
type Convolution = (String, Window, Vec<TensorId>);

fn convolution(node: &Node) -> Option<Convolution> {
    match &node.op {
        Op::Conv2d(window) => Some((node.name.clone(), window.clone(), node.inputs.clone())),
        _ => None,
    }
}

/// A product or sum with one value per channel behind a convolution goes into its weights and bias.
pub(super) fn fold_output(r: &mut Rewriter, id: NodeId) -> bool {
    let Some(Node { op: Op::Binary(_), inputs, .. }) = r.node(id) else { return false };
    let found = inputs.iter().find_map(|&x| r.inner(x).and_then(convolution));
    let Some((name, window, mut operands)) = found else { return false };
    let shape = r.shape(operands[1]).to_vec();
    let n = shape[0];
    let affine = r.node(id).and_then(|node| Affine::of(r, node, n, CHANNEL));
    let (Some(affine), Some(bias)) = (affine, bias_values(r, &operands, n)) else { return false };
    if affine.scales() {
        let Some(mut weights) = free_weights(r, operands[1]) else { return false };
        let taps = weights.len() / n.max(1);
        for (filter, factor) in weights.chunks_exact_mut(taps.max(1)).zip(&affine.factor) {
            filter.iter_mut().for_each(|w| *w *= factor);
        }
        operands[1] = r.add_constant(&format!("{name}/weight"), shape, weights);
    }
    let bias: Vec<f32> =
        bias.iter().zip(affine.factor.iter().zip(&affine.offset)).map(|(b, (f, o))| b * f + o).collect();
    operands.truncate(2);
    operands.push(r.add_constant(&format!("{name}/bias"), vec![n], bias));
    r.replace(id, Op::Conv2d(window), operands);
    r.rename(id, name);
    true
}

/// The same before a convolution that is the only reader; a sum only without padding, whose zeros it would shift.
pub(super) fn fold_input(r: &mut Rewriter, id: NodeId) -> bool {
    let Some((name, window, inputs)) = r.node(id).and_then(convolution) else { return false };
    let &[n, group_c, kh, kw] = r.shape(inputs[1]) else { return false };
    let before = r.producer(inputs[0]).filter(|_| r.used_once(inputs[0]));
    let affine = before.and_then(|node| Affine::of(r, node, group_c * window.groups, CHANNEL));
    let affine = affine.filter(|a| !a.shifts() || window.pads == [0; 4]);
    let (Some(affine), Some(mut bias), Some(mut weights)) =
        (affine, bias_values(r, &inputs, n), free_weights(r, inputs[1]))
    else {
        return false;
    };
    let (taps, group_n) = (kh * kw, n / window.groups.max(1));
    for (filter, kernel) in weights.chunks_exact_mut(taps.max(1)).enumerate() {
        let (channel, part) = (filter / group_c, filter % group_c);
        let source = channel / group_n.max(1) * group_c + part;
        bias[channel] += kernel.iter().sum::<f32>() * affine.offset[source];
        kernel.iter_mut().for_each(|w| *w *= affine.factor[source]);
    }
    let weights = r.add_constant(&format!("{name}/weight"), vec![n, group_c, kh, kw], weights);
    let mut operands = vec![affine.x, weights];
    if inputs.len() > 2 || affine.shifts() {
        operands.push(r.add_constant(&format!("{name}/bias"), vec![n], bias));
    }
    r.replace(id, Op::Conv2d(window), operands);
    true
}
