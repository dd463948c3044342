//! LayerNorm, RMSNorm and L2 normalization from means, squares and roots.

use super::affine::Affine;
use super::axes::{broadcast, orders, over_axes};
use super::rewriter::{NodeId, Rewriter};
use super::values;
use crate::graph::{Binary, Node, Op, Reduce, TensorId, Unary};

/// Lower bounds of a norm up to this are taken for what they are meant as: no division by zero.
const MAX_NORM_FLOOR: f32 = 1e-3;

/// `d / sqrt(factor * mean(d^2) + eps)` over `axes`.
struct Normalized {
    d: TensorId,
    /// The `x` of a variance that was computed as `mean(x^2) - mean(x)^2`.
    whole: Option<TensorId>,
    axes: Vec<usize>,
    factor: f32,
    eps: f32,
}

/// A division by the root of a mean of squares becomes a normalization: LayerNorm where the mean was subtracted
/// before, else RMSNorm.
pub(super) fn normalization(r: &mut Rewriter, id: NodeId) -> bool {
    let Some(found) = r.node(id).and_then(|node| normalized(r, node)) else { return false };
    let centred = centred(r, id, &found);
    let (x, op) = match (centred, found.whole) {
        (Some(x), None) => (x, Op::LayerNorm { eps: found.eps / found.factor }),
        (Some(x), Some(whole)) if r.behind_fake_quant(whole) == r.behind_fake_quant(x) => {
            (x, Op::LayerNorm { eps: found.eps / found.factor })
        }
        (None, None) => (found.d, Op::RmsNorm { eps: found.eps / found.factor }),
        _ => return false,
    };
    // What is subtracted may be a mean in other words.
    let difference = r.producer(r.behind_fake_quant(found.d)).is_some_and(|node| node.op == Op::Binary(Binary::Sub));
    if matches!(op, Op::RmsNorm { .. }) && difference && values::normalization(r, id) {
        return true;
    }
    let gamma = 1.0 / found.factor.sqrt();
    let affine = if gamma == 1.0 {
        Vec::new()
    } else {
        let width = found.axes.iter().map(|&axis| r.shape(x)[axis]).product();
        let name = r.node(id).map(|node| format!("{}/gamma", node.name)).unwrap_or_default();
        vec![r.add_constant(&name, vec![width], vec![gamma; width])]
    };
    let (op, inputs) = over_axes(r, id, x, &found.axes, op, affine);
    r.replace(id, op, inputs);
    true
}

/// `d * (q * gamma)` with `q` one over a root becomes `(d * q) * gamma`.
pub(super) fn multiply_first(r: &mut Rewriter, id: NodeId) -> bool {
    let Some(node) = r.node(id).filter(|node| node.op == Op::Binary(Binary::Mul)) else { return false };
    let found = orders(&node.inputs).find_map(|(d, factor)| {
        let product = r.inner(factor).filter(|node| node.op == Op::Binary(Binary::Mul))?;
        let (q, gamma) = orders(&product.inputs).find(|&(_, gamma)| r.weights(gamma).is_some())?;
        let broadcasts = broadcast(r.shape(d), r.shape(q)).as_deref() == Some(r.shape(d));
        (broadcasts && inverse_root(r, q).is_some()).then_some((d, q, gamma))
    });
    let Some((d, q, gamma)) = found else { return false };
    let (name, shape) = (r.name(q).to_owned(), r.shape(d).to_vec());
    let normalized = r.add(id, &name, Op::Binary(Binary::Mul), vec![d, q], shape);
    r.replace(id, Op::Binary(Binary::Mul), vec![normalized, gamma]);
    true
}

/// `x * f + (beta - mean(x) * f)` with `f = gamma / sqrt(variance + eps)`, as TensorFlow writes it, becomes a LayerNorm.
pub(super) fn batch_form(r: &mut Rewriter, id: NodeId) -> bool {
    let Some((x, beta, f)) = r.node(id).and_then(|node| shifted_product(r, node)) else { return false };
    // The factor is read by the two products alone.
    let uses = r.uses(f).len();
    let Some(factor) = r.producer(f).filter(|_| uses == 2 && !r.is_output(f)) else { return false };
    let (q, gamma) = match factor.op {
        Op::Binary(Binary::Mul) => match orders(&factor.inputs).find(|&(_, gamma)| r.weights(gamma).is_some()) {
            Some((q, gamma)) => (q, Some(gamma)),
            None => return false,
        },
        _ => (f, None),
    };
    let root = match gamma {
        Some(_) => inverse_root(r, q),
        None => inverse_root_of(r, factor),
    };
    let Some((squares, axes, 1.0)) = root.as_ref().and_then(|root| mean(r, root.of)) else { return false };
    let Some(eps) = root.map(|root| root.eps) else { return false };
    let Some(d) = squared(r, squares).map(|d| r.behind_fake_quant(d)) else { return false };
    let difference = r.producer(d).filter(|node| node.op == Op::Binary(Binary::Sub));
    let about = difference.and_then(|node| Some((node.inputs[0], shared_mean(r, node.inputs[1])?)));
    let same = about.is_some_and(|(from, (of, over))| from == x && of == x && over == axes);
    let Some(name) = r.node(id).map(|node| node.name.clone()).filter(|_| same) else { return false };
    // The affine nodes behind it find their way into the normalization.
    let shape = r.shape(x).to_vec();
    let (op, inputs) = over_axes(r, id, x, &axes, Op::LayerNorm { eps }, Vec::new());
    let normalized = r.add(id, &name, op, inputs, shape.clone());
    let scaled = match gamma {
        Some(gamma) => r.add(id, &name, Op::Binary(Binary::Mul), vec![normalized, gamma], shape),
        None => normalized,
    };
    r.replace(id, Op::Binary(Binary::Add), vec![scaled, beta]);
    true
}

/// `node` as `x * f + (beta - mean(x) * f)`: `x`, `beta`, `f`.
fn shifted_product(r: &Rewriter, node: &Node) -> Option<(TensorId, TensorId, TensorId)> {
    let is = |node: &&Node, kind| node.op == Op::Binary(kind);
    let sum = Some(node).filter(|node| is(node, Binary::Add))?;
    orders(&sum.inputs).find_map(|(product, shift)| {
        let shift = r.inner(shift).filter(|node| is(node, Binary::Sub))?;
        let beta = r.weights(shift.inputs[0]).map(|_| shift.inputs[0])?;
        let moved = r.inner(shift.inputs[1]).filter(|node| is(node, Binary::Mul))?;
        let product = r.inner(product).filter(|node| is(node, Binary::Mul))?;
        orders(&moved.inputs).find_map(|(centre, f)| {
            let x = orders(&product.inputs).find(|&(_, other)| other == f)?.0;
            (shared_mean(r, centre)?.0 == x).then_some((x, beta, f))
        })
    })
}

/// `tensor` as a mean that others may read too: operand and axes.
fn shared_mean(r: &Rewriter, tensor: TensorId) -> Option<(TensorId, Vec<usize>)> {
    match r.producer(r.behind_fake_quant(tensor))? {
        Node { op: Op::Reduce { kind: Reduce::Mean, axes, .. }, inputs, .. } => Some((inputs[0], axes.clone())),
        _ => None,
    }
}

/// `node` as a division of a tensor by the root of the mean of its squares.
fn normalized(r: &Rewriter, node: &Node) -> Option<Normalized> {
    let (d, root) = match node.op {
        Op::Binary(Binary::Div) => (node.inputs[0], root(r, node.inputs[1])?),
        Op::Binary(Binary::Mul) => orders(&node.inputs).find_map(|(d, q)| Some((d, inverse_root(r, q)?)))?,
        _ => return None,
    };
    if root.eps < 0.0 {
        return None;
    }
    if let Some((x, axes)) = fast_variance(r, root.of) {
        return Some(Normalized { d, whole: Some(x), axes, factor: 1.0, eps: root.eps });
    }
    let (squares, axes, factor) = mean(r, root.of)?;
    let squared = squared(r, squares)?;
    let same = r.behind_fake_quant(squared) == r.behind_fake_quant(d);
    (same && factor > 0.0).then_some(Normalized { d, whole: None, axes, factor, eps: root.eps })
}

/// `tensor` as `mean(x^2) - mean(x)^2`, perhaps kept from becoming negative: `x` and the axes.
fn fast_variance(r: &Rewriter, tensor: TensorId) -> Option<(TensorId, Vec<usize>)> {
    let mut node = inner_statistic(r, tensor)?;
    let kept = match node.op {
        Op::Unary(Unary::Relu | Unary::Clip { low: 0.0, .. }) => Some(node.inputs[0]),
        Op::Binary(Binary::Max) => orders(&node.inputs).find(|&(_, zero)| r.scalar(zero) == Some(0.0)).map(|(x, _)| x),
        _ => None,
    };
    if let Some(kept) = kept {
        node = inner_statistic(r, kept)?;
    }
    if node.op != Op::Binary(Binary::Sub) {
        return None;
    }
    let (squares, axes, factor) = mean(r, node.inputs[0])?;
    let (x, centre) = (squared(r, squares)?, squared(r, node.inputs[1])?);
    let (of, over) = shared_mean(r, centre)?;
    let same = r.behind_fake_quant(of) == r.behind_fake_quant(x) && over == axes && factor == 1.0;
    same.then_some((x, axes))
}

/// `sqrt(of + eps)`.
struct Root {
    of: TensorId,
    eps: f32,
}

/// `tensor` as a square root, perhaps with a floor: `max(root, floor)` is nearly `sqrt(root^2 + floor^2)`, and exact
/// where it matters.
fn root(r: &Rewriter, tensor: TensorId) -> Option<Root> {
    let node = inner_statistic(r, tensor)?;
    let (norm, floor) = match node.op {
        Op::Unary(Unary::Clip { low, high }) if high == f32::INFINITY || high == f32::MAX => (node.inputs[0], low),
        Op::Binary(Binary::Max) => orders(&node.inputs).find_map(|(norm, floor)| Some((norm, r.scalar(floor)?)))?,
        _ => return plain_root(r, node),
    };
    let root = plain_root(r, inner_statistic(r, norm)?)?;
    (0.0..=MAX_NORM_FLOOR).contains(&floor).then(|| Root { eps: root.eps.max(floor * floor), ..root })
}

/// `node` as a square root.
fn plain_root(r: &Rewriter, node: &Node) -> Option<Root> {
    match node.op {
        Op::Unary(Unary::Sqrt) => Some(radicand(r, node.inputs[0])),
        Op::Binary(Binary::Pow) if r.scalar(node.inputs[1])? == 0.5 => Some(radicand(r, node.inputs[0])),
        _ => None,
    }
}

/// `tensor` as one over a square root.
fn inverse_root(r: &Rewriter, tensor: TensorId) -> Option<Root> {
    inverse_root_of(r, inner_statistic(r, tensor)?)
}

/// `node` as one over a square root.
fn inverse_root_of(r: &Rewriter, node: &Node) -> Option<Root> {
    match node.op {
        Op::Binary(Binary::Pow) if r.scalar(node.inputs[1])? == -0.5 => Some(radicand(r, node.inputs[0])),
        Op::Unary(Unary::Sqrt) => Some(radicand(r, inverted(r, inner_statistic(r, node.inputs[0])?)?)),
        _ => root(r, inverted(r, node)?),
    }
}

/// The operand of one over it.
fn inverted(r: &Rewriter, node: &Node) -> Option<TensorId> {
    match node.op {
        Op::Unary(Unary::Reciprocal) => Some(node.inputs[0]),
        Op::Binary(Binary::Div) if r.scalar(node.inputs[0])? == 1.0 => Some(node.inputs[1]),
        Op::Binary(Binary::Pow) if r.scalar(node.inputs[1])? == -1.0 => Some(node.inputs[0]),
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
    match node.op {
        Op::Binary(Binary::Mul) => orders(&node.inputs).find_map(|(sum, by)| {
            let by = r.scalar(by)?;
            scaled(reduced(r, inner_statistic(r, sum)?)?, by)
        }),
        Op::Binary(Binary::Div) => {
            let by = 1.0 / r.scalar(node.inputs[1])?;
            scaled(reduced(r, inner_statistic(r, node.inputs[0])?)?, by)
        }
        _ => reduced(r, node),
    }
}

/// `node` as a mean or a sum, which is the count times the mean.
fn reduced(r: &Rewriter, node: &Node) -> Option<(TensorId, Vec<usize>, f32)> {
    let Op::Reduce { kind, axes, .. } = &node.op else { return None };
    let x = node.inputs[0];
    match kind {
        Reduce::Mean => Some((x, axes.clone(), 1.0)),
        Reduce::Sum => Some((x, axes.clone(), axes.iter().map(|&axis| r.shape(x)[axis]).product::<usize>() as f32)),
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

/// The `x` of `d = x - mean(x)`, where `d` serves the normalization `id`.
fn centred(r: &Rewriter, id: NodeId, found: &Normalized) -> Option<TensorId> {
    let difference = r.behind_fake_quant(found.d);
    let node = r.producer(difference).filter(|node| node.op == Op::Binary(Binary::Sub))?;
    let (mean_of, axes, factor) = mean_of_difference(r, node.inputs[1])?;
    let same = r.behind_fake_quant(mean_of) == r.behind_fake_quant(node.inputs[0]);
    let private = !r.is_output(found.d) && r.uses(found.d).contains(&id);
    (same && axes == found.axes && factor == 1.0 && private).then_some(node.inputs[0])
}

/// A mean that is subtracted; a fast variance reads it too.
fn mean_of_difference(r: &Rewriter, tensor: TensorId) -> Option<(TensorId, Vec<usize>, f32)> {
    mean(r, tensor).or_else(|| shared_mean(r, tensor).map(|(x, axes)| (x, axes, 1.0)))
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
