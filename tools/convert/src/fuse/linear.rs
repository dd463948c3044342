//! Products with constant matrices, and what goes into their weights.

use super::affine::{Affine, channel_values};
use super::rewriter::{NodeId, Rewriter};
use crate::graph::{Binary, FakeQuant, Node, Op, TensorId};

/// A product with a constant matrix on either side becomes a linear layer.
pub(super) fn matmul_to_linear(r: &mut Rewriter, id: NodeId) -> bool {
    let Some(Node { op: Op::MatMul { transpose_b }, inputs, .. }) = r.node(id) else { return false };
    let (transpose_b, a, b) = (*transpose_b, inputs[0], inputs[1]);
    match (r.weights(a).is_some(), r.weights(b).is_some()) {
        (false, true) => constant_right(r, id, a, b, transpose_b),
        (true, false) => constant_left(r, id, a, b, transpose_b),
        _ => false,
    }
}

/// `x w`, or `x w^T` when transposed.
fn constant_right(r: &mut Rewriter, id: NodeId, x: TensorId, w: TensorId, transposed: bool) -> bool {
    let Some(weights) = linear_weights(r, id, w, transposed) else { return false };
    let Some(node) = r.node(id) else { return false };
    let (output, name) = (node.output, node.name.clone());
    let mut shape = r.shape(x).to_vec();
    let Some(last) = shape.last_mut() else { return false };
    *last = r.shape(weights)[0];
    if shape == r.shape(output) {
        r.replace(id, Op::Linear, vec![x, weights]);
    } else {
        let y = r.add(id, &name, Op::Linear, vec![x, weights], shape);
        r.replace(id, Op::Reshape, vec![y]);
    }
    true
}

/// `w x = (x^T w^T)^T`.
fn constant_left(r: &mut Rewriter, id: NodeId, w: TensorId, x: TensorId, transposed: bool) -> bool {
    let rank = r.shape(x).len();
    if rank < 2 {
        return false;
    }
    let Some(weights) = linear_weights(r, id, w, true) else { return false };
    let Some(node) = r.node(id) else { return false };
    let (output, name) = (node.output, node.name.clone());
    let mut perm: Vec<usize> = (0..rank).collect();
    perm.swap(rank - 1, rank - 2);
    let mut rows = super::axes::permuted(r.shape(x), &perm);
    let mut expected = rows.clone();
    if transposed {
        (rows, expected) = (r.shape(x).to_vec(), r.shape(x).to_vec());
    }
    expected[rank - 1] = r.shape(weights)[0];
    if super::axes::permuted(&expected, &perm) != r.shape(output) {
        return false;
    }
    let x = if transposed { x } else { r.add(id, &name, Op::Transpose { perm: perm.clone() }, vec![x], rows) };
    let y = r.add(id, &name, Op::Linear, vec![x, weights], expected);
    r.replace(id, Op::Transpose { perm }, vec![y]);
    true
}

/// The constant matrix `w` as weights `[n, k]`; `w` is `[k, n]`, or `[n, k]` when transposed, behind dimensions of 1.
fn linear_weights(r: &mut Rewriter, id: NodeId, w: TensorId, transposed: bool) -> Option<TensorId> {
    let (source, quant) = r.weights(w)?;
    let shape = r.shape(source).to_vec();
    let lead = shape.len().checked_sub(2)?;
    if shape[..lead].iter().any(|&d| d != 1) {
        return None;
    }
    let (rows, columns) = (shape[lead], shape[lead + 1]);
    let quant = match quant {
        Some(quant) if quant.scale.len() == 1 => Some(quant.clone()),
        Some(quant) => {
            let axis = quant.axis.checked_sub(lead)?;
            Some(FakeQuant { axis: if transposed { axis } else { 1 - axis.min(1) }, ..quant.clone() })
        }
        None => None,
    };
    if transposed && lead == 0 {
        return Some(w);
    }
    let values = r.constant(source)?.floats()?;
    let (values, shape) = if transposed {
        (values.to_vec(), vec![rows, columns])
    } else {
        let transposed = (0..columns).flat_map(|c| (0..rows).map(move |row| row * columns + c));
        (transposed.map(|i| values[i]).collect(), vec![columns, rows])
    };
    let name = r.name(source).to_owned();
    let weights = r.add_constant(&name, shape.clone(), values);
    Some(match quant {
        Some(quant) => r.add(id, &name, Op::FakeQuant(quant), vec![weights], shape),
        None => weights,
    })
}

/// Moves a reshape that keeps the channels before the linear layer whose result it takes: where it meets the one that
/// exporters put there to have two dimensions, or stands between the layer and an elementwise operation.
pub(super) fn raise_reshape(r: &mut Rewriter, id: NodeId) -> bool {
    let Some(Node { op: Op::Reshape, inputs, output, .. }) = r.node(id) else { return false };
    let (y, output) = (inputs[0], *output);
    let Some(layer) = r.producer(y).filter(|node| node.op == Op::Linear && r.used_once(y)) else { return false };
    let (mut operands, name, mut shape) = (layer.inputs.clone(), layer.name.clone(), r.shape(output).to_vec());
    let meets = r.producer(operands[0]).is_some_and(|node| node.op == Op::Reshape);
    let separates = r
        .uses(output)
        .iter()
        .filter_map(|&user| r.node(user))
        .any(|user| matches!(user.op, Op::Binary(_) | Op::Unary(_)));
    let (Some(last), Some(&k)) = (shape.last_mut(), r.shape(operands[0]).last()) else { return false };
    if Some(&*last) != r.shape(y).last() || !(meets || separates) {
        return false;
    }
    *last = k;
    operands[0] = r.add(id, &name, Op::Reshape, vec![operands[0]], shape);
    r.replace(id, Op::Linear, operands);
    r.rename(id, name);
    true
}

/// A linear layer as the rewrites below need it.
pub(super) struct Layer {
    /// Name of its node.
    pub name: String,
    /// Input, weights, bias.
    pub inputs: Vec<TensorId>,
    /// Output channels.
    pub channels: usize,
}

impl Layer {
    /// The linear layer that only `node` reads, through `x`.
    fn before(r: &Rewriter, x: TensorId) -> Option<Self> {
        let node = r.inner(x).filter(|node| node.op == Op::Linear)?;
        Some(Self { name: node.name.clone(), inputs: node.inputs.clone(), channels: r.shape(node.inputs[1])[0] })
    }

    /// Its bias, zeros where it has none.
    fn bias(&self, r: &Rewriter) -> Option<Vec<f32>> {
        bias_values(r, &self.inputs, self.channels)
    }
}

/// The bias among the operands of a layer, zeros where it has none; `None` where it is no constant.
pub(super) fn bias_values(r: &Rewriter, inputs: &[TensorId], channels: usize) -> Option<Vec<f32>> {
    match inputs.get(2) {
        Some(&bias) => channel_values(r, bias, channels, 0),
        None => Some(vec![0.0; channels]),
    }
}

/// Whether weights may be changed: they carry no quantization of their own.
pub(super) fn free_weights(r: &Rewriter, weights: TensorId) -> Option<Vec<f32>> {
    r.constant(weights)?.floats().map(<[f32]>::to_vec)
}

/// A constant added behind a linear layer goes into its bias.
pub(super) fn fold_bias(r: &mut Rewriter, id: NodeId) -> bool {
    let Some(Node { op: Op::Binary(Binary::Add | Binary::Sub), inputs, .. }) = r.node(id) else { return false };
    let found = inputs.iter().find_map(|&x| Layer::before(r, x));
    let Some(layer) = found else { return false };
    let affine = r.node(id).and_then(|node| Affine::of(r, node, layer.channels, 0)).filter(|a| !a.scales());
    let (Some(affine), Some(bias)) = (affine, layer.bias(r)) else { return false };
    let bias = bias.iter().zip(&affine.offset).map(|(b, o)| b + o).collect();
    let bias = r.add_constant(&format!("{}/bias", layer.name), vec![layer.channels], bias);
    r.replace(id, Op::Linear, vec![layer.inputs[0], layer.inputs[1], bias]);
    r.rename(id, layer.name);
    true
}

/// A constant added behind the sum of a linear layer and a residual goes into the layer's bias, as onnxruntime writes it
/// in `SkipLayerNormalization`.
pub(super) fn fold_bias_of_sum(r: &mut Rewriter, id: NodeId) -> bool {
    let Some(node) = r.node(id).filter(|node| node.op == Op::Binary(Binary::Add)) else { return false };
    let Some(&n) = r.shape(node.output).last() else { return false };
    let Some(affine) = Affine::of(r, node, n, 0) else { return false };
    let Some(sum) = r.inner(affine.x).filter(|sum| sum.op == Op::Binary(Binary::Add)) else { return false };
    let shape = r.shape(sum.output);
    let found = super::axes::orders(&sum.inputs).find_map(|(y, residual)| {
        let computed = r.weights(residual).is_none() && r.shape(y) == shape;
        Some((y, residual, Layer::before(r, y).filter(|_| computed)?))
    });
    let Some((y, residual, layer)) = found else { return false };
    let constant = r.add_constant(&format!("{}/bias", layer.name), vec![n], affine.offset);
    let shape = r.shape(y).to_vec();
    let biased = r.add(id, &layer.name, Op::Binary(Binary::Add), vec![y, constant], shape);
    r.replace(id, Op::Binary(Binary::Add), vec![biased, residual]);
    true
}

/// A factor behind a linear layer goes into its weights.
pub(super) fn fold_scale(r: &mut Rewriter, id: NodeId) -> bool {
    let Some(Node { op: Op::Binary(_), inputs, .. }) = r.node(id) else { return false };
    let found = inputs.iter().find_map(|&x| Layer::before(r, x));
    let Some(layer) = found else { return false };
    let affine = r.node(id).and_then(|node| Affine::of(r, node, layer.channels, 0)).filter(Affine::scales);
    let weights = free_weights(r, layer.inputs[1]);
    let (Some(affine), Some(bias), Some(mut weights)) = (affine, layer.bias(r), weights) else { return false };
    let k = weights.len() / layer.channels.max(1);
    for (row, factor) in weights.chunks_exact_mut(k.max(1)).zip(&affine.factor) {
        row.iter_mut().for_each(|w| *w *= factor);
    }
    let bias: Vec<f32> =
        bias.iter().zip(affine.factor.iter().zip(&affine.offset)).map(|(b, (f, o))| b * f + o).collect();
    let weights = r.add_constant(&format!("{}/weight", layer.name), vec![layer.channels, k], weights);
    let mut operands = vec![layer.inputs[0], weights];
    if bias.iter().any(|&b| b != 0.0) {
        operands.push(r.add_constant(&format!("{}/bias", layer.name), vec![layer.channels], bias));
    }
    r.replace(id, Op::Linear, operands);
    r.rename(id, layer.name);
    true
}

/// A factor or constant before a linear layer, which is its only reader, goes into weights and bias.
pub(super) fn fold_input(r: &mut Rewriter, id: NodeId) -> bool {
    let Some(Node { op: Op::Linear, inputs, name, .. }) = r.node(id) else { return false };
    let (inputs, name) = (inputs.clone(), name.clone());
    let &[n, k] = r.shape(inputs[1]) else { return false };
    let before = r.producer(inputs[0]).filter(|_| r.used_once(inputs[0]));
    let affine = before.and_then(|node| Affine::of(r, node, k, 0));
    let (Some(affine), Some(bias), Some(mut weights)) =
        (affine, bias_values(r, &inputs, n), free_weights(r, inputs[1]))
    else {
        return false;
    };
    let mut shifted = Vec::with_capacity(n);
    for (row, b) in weights.chunks_exact_mut(k.max(1)).zip(bias) {
        let offset: f64 = row.iter().zip(&affine.offset).map(|(&w, &o)| f64::from(w) * f64::from(o)).sum();
        shifted.push((f64::from(b) + offset) as f32);
        row.iter_mut().zip(&affine.factor).for_each(|(w, f)| *w *= f);
    }
    let weights = r.add_constant(&format!("{name}/weight"), vec![n, k], weights);
    let mut operands = vec![affine.x, weights];
    if inputs.len() > 2 || affine.shifts() {
        operands.push(r.add_constant(&format!("{name}/bias"), vec![n], shifted));
    }
    r.replace(id, Op::Linear, operands);
    true
}
