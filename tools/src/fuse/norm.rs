//! LayerNorm, RMSNorm and L2 normalization from means, squares and roots.

use super::affine::Affine;
use super::rewriter::{NodeId, Rewriter};
use super::{inverse, orders, permutation_to_end, permuted};
use crate::graph::{Binary, Node, Op, Reduce, TensorId, Unary};

/// Lower bounds of a norm up to this are taken for what they are meant as: no division by zero.
const MAX_NORM_FLOOR: f32 = 1e-3;

/// `d / sqrt(factor * mean(d^2) + eps)` over `axes`.
struct Normalized {
    d: TensorId,
    axes: Vec<usize>,
    factor: f32,
    eps: f32,
}

/// A division by the root of a mean of squares becomes a normalization: LayerNorm where the mean was subtracted
/// before, else RMSNorm.
pub(super) fn normalization(r: &mut Rewriter, id: NodeId) -> bool {
    let Some(found) = r.node(id).and_then(|node| normalized(r, node)) else { return false };
    let centred = centred(r, id, &found);
    let (x, eps) = (centred.unwrap_or(found.d), found.eps / found.factor);
    let op = if centred.is_some() { Op::LayerNorm { eps } } else { Op::RmsNorm { eps } };
    let gamma = 1.0 / found.factor.sqrt();
    replace_over_axes(r, id, x, &found.axes, op, (gamma != 1.0).then_some(gamma));
    true
}

/// Emits a normalization of the last dimension over `axes` of `x`, with movement around it where they are elsewhere.
fn replace_over_axes(r: &mut Rewriter, id: NodeId, x: TensorId, axes: &[usize], op: Op, gamma: Option<f32>) {
    let Some(name) = r.node(id).map(|node| node.name.clone()) else { return };
    let shape = r.shape(x).to_vec();
    let width: usize = axes.iter().map(|&axis| shape[axis]).product();
    let mut operands = Vec::new();
    if let Some(gamma) = gamma {
        operands.push(r.add_constant(&format!("{name}/gamma"), vec![width], vec![gamma; width]));
    }
    if axes == [shape.len() - 1] {
        operands.insert(0, x);
        r.replace(id, op, operands);
        return;
    }
    let perm = permutation_to_end(shape.len(), axes);
    let moved = permuted(&shape, &perm);
    let mut rows = moved[..shape.len() - axes.len()].to_vec();
    rows.push(width);
    let turned = r.add(id, &name, Op::Transpose { perm: perm.clone() }, vec![x], moved.clone());
    operands.insert(0, r.add(id, &name, Op::Reshape, vec![turned], rows.clone()));
    let y = r.add(id, &name, op, operands, rows);
    let y = r.add(id, &name, Op::Reshape, vec![y], moved);
    r.replace(id, Op::Transpose { perm: inverse(&perm) }, vec![y]);
}

/// `node` as a division of a tensor by the root of the mean of its squares.
fn normalized(r: &Rewriter, node: &Node) -> Option<Normalized> {
    let (d, root) = match node.op {
        Op::Binary(Binary::Div) => (node.inputs[0], root(r, node.inputs[1])?),
        Op::Binary(Binary::Mul) => orders(&node.inputs).find_map(|(d, q)| Some((d, inverse_root(r, q)?)))?,
        _ => return None,
    };
    let (squares, axes, factor) = mean(r, root.of)?;
    let squared = squared(r, squares)?;
    let same = r.behind_fake_quant(squared) == r.behind_fake_quant(d);
    (same && root.eps >= 0.0 && factor > 0.0).then_some(Normalized { d, axes, factor, eps: root.eps })
}

/// `sqrt(of + eps)`.
struct Root {
    of: TensorId,
    eps: f32,
}

/// `tensor` as a square root, perhaps with a floor.
fn root(r: &Rewriter, tensor: TensorId) -> Option<Root> {
    let node = inner_statistic(r, tensor)?;
    match node.op {
        Op::Unary(Unary::Sqrt) => Some(radicand(r, node.inputs[0])),
        Op::Binary(Binary::Pow) if r.scalar(node.inputs[1])? == 0.5 => Some(radicand(r, node.inputs[0])),
        Op::Unary(Unary::Clip { low, high }) if high == f32::INFINITY || high == f32::MAX => floored(r, node.inputs[0], low),
        Op::Binary(Binary::Max) => orders(&node.inputs).find_map(|(norm, floor)| floored(r, norm, r.scalar(floor)?)),
        _ => None,
    }
}

/// `max(norm, floor)` is nearly `sqrt(norm^2 + floor^2)`, and exact where it matters.
fn floored(r: &Rewriter, norm: TensorId, floor: f32) -> Option<Root> {
    let root = root(r, norm)?;
    (0.0..=MAX_NORM_FLOOR).contains(&floor).then(|| Root { eps: root.eps.max(floor * floor), ..root })
}

/// `tensor` as one over a square root.
fn inverse_root(r: &Rewriter, tensor: TensorId) -> Option<Root> {
    let node = inner_statistic(r, tensor)?;
    match node.op {
        Op::Unary(Unary::Reciprocal) => root(r, node.inputs[0]),
        Op::Binary(Binary::Div) if r.scalar(node.inputs[0])? == 1.0 => root(r, node.inputs[1]),
        Op::Binary(Binary::Pow) if r.scalar(node.inputs[1])? == -0.5 => Some(radicand(r, node.inputs[0])),
        Op::Unary(Unary::Sqrt) => {
            let inner = inner_statistic(r, node.inputs[0])?;
            let of = match inner.op {
                Op::Unary(Unary::Reciprocal) => inner.inputs[0],
                Op::Binary(Binary::Div) if r.scalar(inner.inputs[0])? == 1.0 => inner.inputs[1],
                _ => return None,
            };
            Some(radicand(r, of))
        }
        _ => None,
    }
}

/// What is under the root: a mean plus a constant, or a mean alone.
fn radicand(r: &Rewriter, tensor: TensorId) -> Root {
    let sum = r.inner(tensor).filter(|node| node.op == Op::Binary(Binary::Add));
    let parts = sum.and_then(|node| orders(&node.inputs).find_map(|(of, eps)| Some((of, r.scalar(eps)?))));
    parts.map_or(Root { of: tensor, eps: 0.0 }, |(of, eps)| Root { of, eps })
}

/// `tensor` as `factor * mean(x)` over axes: `(x, axes, factor)`.
fn mean(r: &Rewriter, tensor: TensorId) -> Option<(TensorId, Vec<usize>, f32)> {
    let node = inner_statistic(r, tensor)?;
    match &node.op {
        Op::Reduce { kind: Reduce::Mean, axes, .. } => Some((node.inputs[0], axes.clone(), 1.0)),
        Op::Reduce { kind: Reduce::Sum, axes, .. } => {
            let count: usize = axes.iter().map(|&axis| r.shape(node.inputs[0])[axis]).product();
            Some((node.inputs[0], axes.clone(), count as f32))
        }
        Op::Binary(Binary::Mul) => orders(&node.inputs).find_map(|(a, b)| scaled(mean(r, a)?, r.scalar(b)?)),
        Op::Binary(Binary::Div) => scaled(mean(r, node.inputs[0])?, 1.0 / r.scalar(node.inputs[1])?),
        _ => None,
    }
}

fn scaled((x, axes, factor): (TensorId, Vec<usize>, f32), by: f32) -> Option<(TensorId, Vec<usize>, f32)> {
    let product = factor * by;
    // A sum divided by the count is a mean, whatever rounding says.
    let product = if (product - 1.0).abs() < 1e-5 { 1.0 } else { product };
    product.is_finite().then_some((x, axes, product))
}

/// `tensor` as the square of another.
fn squared(r: &Rewriter, tensor: TensorId) -> Option<TensorId> {
    let tensor = r.behind_fake_quant(tensor);
    let node = r.producer(tensor).filter(|_| r.only_user(tensor).is_some())?;
    match node.op {
        Op::Binary(Binary::Pow) if r.scalar(node.inputs[1])? == 2.0 => Some(node.inputs[0]),
        Op::Binary(Binary::Mul) if node.inputs[0] == node.inputs[1] => Some(node.inputs[0]),
        _ => None,
    }
}

/// The `x` of `d = x - mean(x)`, where `d` serves the normalization `id` alone.
fn centred(r: &Rewriter, id: NodeId, found: &Normalized) -> Option<TensorId> {
    let difference = r.behind_fake_quant(found.d);
    let node = r.producer(difference).filter(|node| node.op == Op::Binary(Binary::Sub))?;
    let (mean_of, axes, factor) = mean(r, node.inputs[1])?;
    let same = r.behind_fake_quant(mean_of) == r.behind_fake_quant(node.inputs[0]);
    // One use leads to the squares, the other one is the division itself.
    let private = !r.is_output(found.d) && r.uses(found.d).iter().any(|&user| user == id);
    (same && axes == found.axes && factor == 1.0 && private).then_some(node.inputs[0])
}

/// The producer of a statistic, one per row: read once, seen through movement that only adds or broadcasts dimensions.
fn inner_statistic(r: &Rewriter, mut tensor: TensorId) -> Option<&Node> {
    loop {
        let node = r.inner(tensor)?;
        match node.op {
            Op::Expand | Op::Reshape | Op::Unary(Unary::Cast) => tensor = node.inputs[0],
            _ => return Some(node),
        }
    }
}

/// A constant factor or summand behind a normalization goes into its gamma and beta.
pub(super) fn affine(r: &mut Rewriter, id: NodeId) -> bool {
    let Some(Node { op: Op::Binary(_), inputs, .. }) = r.node(id) else { return false };
    let norm = |&x: &TensorId| {
        let node = r.inner(x).filter(|node| matches!(node.op, Op::LayerNorm { .. } | Op::RmsNorm { .. }))?;
        Some((node.name.clone(), node.op.clone(), node.inputs.clone()))
    };
    let Some((name, op, operands)) = inputs.iter().find_map(norm) else { return false };
    let Some(&n) = r.shape(operands[0]).last() else { return false };
    let affine = r.node(id).and_then(|node| Affine::of(r, node, n, 0));
    let affine = affine.filter(|a| !(a.shifts() && matches!(op, Op::RmsNorm { .. })));
    let values = |index: usize, default: f32| match operands.get(index) {
        Some(&tensor) => super::affine::channel_values(r, tensor, n, 0),
        None => Some(vec![default; n]),
    };
    let (Some(affine), Some(gamma), Some(beta)) = (affine, values(1, 1.0), values(2, 0.0)) else { return false };
    let gamma: Vec<f32> = gamma.iter().zip(&affine.factor).map(|(g, f)| g * f).collect();
    let shift = affine.factor.iter().zip(&affine.offset);
    let beta: Vec<f32> = beta.iter().zip(shift).map(|(b, (f, o))| b * f + o).collect();
    let mut inputs = vec![operands[0], r.add_constant(&format!("{name}/gamma"), vec![n], gamma)];
    if beta.iter().any(|&b| b != 0.0) {
        inputs.push(r.add_constant(&format!("{name}/beta"), vec![n], beta));
    }
    r.replace(id, op, inputs);
    r.rename(id, name);
    true
}
