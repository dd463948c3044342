//! Softmax from exponentials and sums.

use super::axes::{inverse, orders, permutation_to_end, permuted};
use super::rewriter::{NodeId, Rewriter};
use crate::graph::{Binary, Node, Op, Reduce, TensorId, Unary};

/// `exp(z) / sum(exp(z))` becomes a softmax, without the subtraction of a row's maximum that does not change it.
pub(super) fn softmax(r: &mut Rewriter, id: NodeId) -> bool {
    let Some((z, axis)) = r.node(id).and_then(|node| quotient(r, node)) else { return false };
    let x = before_shift(r, z, axis);
    let Some(name) = r.node(id).map(|node| node.name.clone()) else { return false };
    let shape = r.shape(x).to_vec();
    if axis + 1 == shape.len() {
        r.replace(id, Op::Softmax, vec![x]);
        return true;
    }
    let perm = permutation_to_end(shape.len(), &[axis]);
    let moved = permuted(&shape, &perm);
    let turned = r.add(id, &name, Op::Transpose { perm: perm.clone() }, vec![x], moved.clone());
    let y = r.add(id, &name, Op::Softmax, vec![turned], moved);
    r.replace(id, Op::Transpose { perm: inverse(&perm) }, vec![y]);
    true
}

/// The logarithm of a softmax is `z - log(sum(exp(z)))` with `z` less the maximum of its row: probabilities that round to 0
/// have no logarithm.
pub(super) fn logarithm(r: &mut Rewriter, id: NodeId) -> bool {
    let Some(Node { op: Op::Unary(Unary::Log), inputs, name, .. }) = r.node(id) else { return false };
    let (probabilities, name) = (inputs[0], name.clone());
    let found = r.inner(probabilities).filter(|node| node.op == Op::Softmax).map(|node| node.inputs[0]);
    let Some(x) = found else { return false };
    let shape = r.shape(x).to_vec();
    let Some(axis) = shape.len().checked_sub(1) else { return false };
    let mut row = shape.clone();
    row[axis] = 1;
    let over_row = |kind| Op::Reduce { kind, axes: vec![axis], keep: true };
    let maximum = r.add(id, &name, over_row(Reduce::Max), vec![x], row.clone());
    let z = r.add(id, &name, Op::Binary(Binary::Sub), vec![x, maximum], shape.clone());
    let exponentials = r.add(id, &name, Op::Unary(Unary::Exp), vec![z], shape);
    let sum = r.add(id, &name, over_row(Reduce::Sum), vec![exponentials], row.clone());
    let log = r.add(id, &name, Op::Unary(Unary::Log), vec![sum], row);
    r.replace(id, Op::Binary(Binary::Sub), vec![z, log]);
    true
}

/// `node` as exponentials divided by their sum along one axis: the exponent and the axis.
fn quotient(r: &Rewriter, node: &Node) -> Option<(TensorId, usize)> {
    let (exps, sum) = match node.op {
        Op::Binary(Binary::Div) => (node.inputs[0], node.inputs[1]),
        Op::Binary(Binary::Mul) => orders(&node.inputs).find_map(|(exps, factor)| {
            let node = r.inner(factor)?;
            match node.op {
                Op::Unary(Unary::Reciprocal) => Some((exps, node.inputs[0])),
                Op::Binary(Binary::Div) if r.scalar(node.inputs[0])? == 1.0 => Some((exps, node.inputs[1])),
                _ => None,
            }
        })?,
        _ => return None,
    };
    let (source, axis) = row_statistic(r, sum, Reduce::Sum)?;
    let exponential = r.producer(r.behind_fake_quant(exps))?;
    let same = r.behind_fake_quant(source) == exponential.output;
    // Read by the sum and by the division, and by nobody else.
    let private = r.uses(exponential.output).len() <= 2 && !r.is_output(exponential.output);
    (exponential.op == Op::Unary(Unary::Exp) && same && private).then(|| (exponential.inputs[0], axis))
}

/// `x` where `z` is `x` minus its maximum along `axis`, else `z`.
fn before_shift(r: &Rewriter, z: TensorId, axis: usize) -> TensorId {
    let shifted = || {
        let node = r.producer(r.behind_fake_quant(z)).filter(|node| node.op == Op::Binary(Binary::Sub))?;
        let (source, along) = row_statistic(r, node.inputs[1], Reduce::Max)?;
        let same = r.behind_fake_quant(source) == r.behind_fake_quant(node.inputs[0]);
        (same && along == axis).then_some(node.inputs[0])
    };
    shifted().unwrap_or(z)
}

/// `tensor` as a reduction along one axis: operand and axis.
fn row_statistic(r: &Rewriter, mut tensor: TensorId, wanted: Reduce) -> Option<(TensorId, usize)> {
    loop {
        let node = r.inner(tensor)?;
        match &node.op {
            Op::Expand | Op::Reshape => tensor = node.inputs[0],
            Op::Reduce { kind, axes, .. } if *kind == wanted => match axes[..] {
                [axis] => return Some((node.inputs[0], axis)),
                _ => return None,
            },
            _ => return None,
        }
    }
}
