//! Products and sums with constants of one value per channel, which disappear in weights.

use super::rewriter::{NodeId, Rewriter};
use crate::graph::{Binary, Node, Op, TensorId};

/// `y = factor * x + offset`, one of each per channel.
pub(super) struct Affine {
    /// The tensor that is scaled and shifted; of the same shape as the result.
    pub x: TensorId,
    /// One per channel.
    pub factor: Vec<f32>,
    /// One per channel.
    pub offset: Vec<f32>,
}

impl Affine {
    /// `node` as a function of `channels` values along the dimension `from_end` (0 is the last one).
    pub(super) fn of(r: &Rewriter, node: &Node, channels: usize, from_end: usize) -> Option<Self> {
        let Op::Binary(kind) = node.op else { return None };
        let &[a, b] = node.inputs.as_slice() else { return None };
        let (x, c, swapped) = match (is_constant(r, a), is_constant(r, b)) {
            (false, true) => (a, b, false),
            (true, false) => (b, a, true),
            _ => return None,
        };
        let values = channel_values(r, c, channels, from_end)?;
        let (zero, one) = (vec![0.0; channels], vec![1.0; channels]);
        let map = |f: fn(f32) -> f32| values.iter().map(|&v| f(v)).collect::<Vec<f32>>();
        let (factor, offset) = match (kind, swapped) {
            (Binary::Mul, _) => (values, zero),
            (Binary::Div, false) => (map(|v| 1.0 / v), zero),
            (Binary::Add, _) => (one, values),
            (Binary::Sub, false) => (one, map(|v| -v)),
            (Binary::Sub, true) => (vec![-1.0; channels], values),
            _ => return None,
        };
        let finite = factor.iter().chain(&offset).all(|v| v.is_finite());
        (finite && r.shape(x) == r.shape(node.output)).then_some(Self { x, factor, offset })
    }

    pub(super) fn scales(&self) -> bool {
        self.factor.iter().any(|&f| f != 1.0)
    }

    pub(super) fn shifts(&self) -> bool {
        self.offset.iter().any(|&o| o != 0.0)
    }
}

fn is_constant(r: &Rewriter, tensor: TensorId) -> bool {
    r.weights(tensor).is_some()
}

/// The values of a constant that differ along one dimension at most: `from_end` counted from the last.
pub(super) fn channel_values(r: &Rewriter, tensor: TensorId, channels: usize, from_end: usize) -> Option<Vec<f32>> {
    if let Some(value) = r.scalar(tensor) {
        return Some(vec![value; channels]);
    }
    let tensor = r.behind_fake_quant(tensor);
    let shape = r.shape(tensor);
    let along = shape.len().checked_sub(from_end + 1)?;
    let single = shape.iter().enumerate().all(|(d, &size)| size == if d == along { channels } else { 1 });
    let values = r.constant(tensor)?.floats()?;
    single.then(|| values.to_vec())
}

/// Moves a channelwise product or sum behind a movement before it, where the channels are the last dimension of a linear
/// layer or a normalization that can take it in.
pub(super) fn sink(r: &mut Rewriter, id: NodeId) -> bool {
    let Some((kind, swapped, moved, constant)) = channelwise(r, id) else { return false };
    let Some(movement) = r.inner_id(moved) else { return false };
    let Some((op, x)) = r.node(movement).and_then(|node| Some((node.op.clone(), *node.inputs.first()?))) else {
        return false;
    };
    let (Some(&channels), rank) = (r.shape(x).last(), r.shape(moved).len()) else { return false };
    let from_end = match &op {
        Op::Reshape if r.shape(moved).last() == Some(&channels) => 0,
        Op::Transpose { perm } => match perm.iter().position(|&p| p + 1 == rank) {
            Some(at) => rank - 1 - at,
            None => return false,
        },
        _ => return false,
    };
    let Some(values) = channel_values(r, constant, channels, from_end).filter(|_| leads_to_layer(r, x)) else {
        return false;
    };
    let Some(name) = r.node(id).map(|node| node.name.clone()) else { return false };
    let constant = r.add_constant(&name, vec![channels], values);
    let inputs = if swapped { vec![constant, x] } else { vec![x, constant] };
    let shape = r.shape(x).to_vec();
    let value = r.add(id, &name, Op::Binary(kind), inputs, shape);
    r.replace(id, op, vec![value]);
    true
}

/// Whether the last dimension of `x` is that of a linear layer or a normalization, perhaps reshaped.
fn leads_to_layer(r: &Rewriter, mut x: TensorId) -> bool {
    while let Some(node) = r.inner(x) {
        match node.op {
            Op::Linear | Op::LayerNorm { .. } | Op::RmsNorm { .. } => return true,
            Op::Reshape if r.shape(node.inputs[0]).last() == r.shape(x).last() => x = node.inputs[0],
            _ => return false,
        }
    }
    false
}

/// Node `id` as a binary operation of a tensor of the result's shape and a constant: kind, whether the constant comes
/// first, tensor, constant.
fn channelwise(r: &Rewriter, id: NodeId) -> Option<(Binary, bool, TensorId, TensorId)> {
    let node = r.node(id)?;
    let Op::Binary(kind @ (Binary::Add | Binary::Sub | Binary::Mul | Binary::Div)) = node.op else { return None };
    let &[a, b] = node.inputs.as_slice() else { return None };
    let swapped = is_constant(r, a);
    let (x, constant) = if swapped { (b, a) } else { (a, b) };
    let fits = is_constant(r, constant) && !is_constant(r, x) && r.shape(x) == r.shape(node.output);
    (fits && !(swapped && kind == Binary::Div)).then_some((kind, swapped, x, constant))
}
