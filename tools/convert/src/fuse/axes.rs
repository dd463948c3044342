//! Operands in either order, shapes and permutations: what the rewrites share.

use super::rewriter::{NodeId, Rewriter};
use crate::graph::{Op, TensorId};

/// The two operands of a binary operation, the other way round.
pub(super) fn swapped(inputs: &[TensorId]) -> Option<(TensorId, TensorId)> {
    match inputs {
        &[a, b] => Some((b, a)),
        _ => None,
    }
}

/// Both orders of the operands of a commutative operation.
pub(super) fn orders(inputs: &[TensorId]) -> impl Iterator<Item = (TensorId, TensorId)> {
    let pair = swapped(inputs);
    pair.into_iter().flat_map(|(b, a)| [(a, b), (b, a)])
}

/// The shape to which two shapes broadcast.
pub(super) fn broadcast(a: &[usize], b: &[usize]) -> Option<Vec<usize>> {
    let rank = a.len().max(b.len());
    let dim = |shape: &[usize], d: usize| (d + shape.len()).checked_sub(rank).map_or(1, |i| shape[i]);
    (0..rank)
        .map(|d| match (dim(a, d), dim(b, d)) {
            (x, y) if x == y || y == 1 => Some(x),
            (1, y) => Some(y),
            _ => None,
        })
        .collect()
}

/// The permutation that moves the dimensions `last` behind all others.
pub(super) fn permutation_to_end(rank: usize, last: &[usize]) -> Vec<usize> {
    (0..rank).filter(|d| !last.contains(d)).chain(last.iter().copied()).collect()
}

/// The permutation that undoes `perm`.
pub(super) fn inverse(perm: &[usize]) -> Vec<usize> {
    let mut inverse = vec![0; perm.len()];
    for (i, &p) in perm.iter().enumerate() {
        inverse[p] = i;
    }
    inverse
}

/// `shape` with its dimensions in the order of `perm`.
pub(super) fn permuted(shape: &[usize], perm: &[usize]) -> Vec<usize> {
    perm.iter().map(|&p| shape[p]).collect()
}

/// A normalization of the last dimension applied over `axes` of `x`: the last node of it, after adding beside `at` the
/// movement it needs where they are elsewhere. `affine` are its gamma and beta.
pub(super) fn over_axes(
    r: &mut Rewriter,
    at: NodeId,
    x: TensorId,
    axes: &[usize],
    op: Op,
    affine: Vec<TensorId>,
) -> (Op, Vec<TensorId>) {
    let name = r.node(at).map(|node| node.name.clone()).unwrap_or_default();
    let shape = r.shape(x).to_vec();
    let width: usize = axes.iter().map(|&axis| shape[axis]).product();
    if axes == [shape.len() - 1] {
        return (op, std::iter::once(x).chain(affine).collect());
    }
    let perm = permutation_to_end(shape.len(), axes);
    let moved = permuted(&shape, &perm);
    let mut rows = moved[..shape.len() - axes.len()].to_vec();
    rows.push(width);
    let turned = r.add(at, &name, Op::Transpose { perm: perm.clone() }, vec![x], moved.clone());
    let turned = r.add(at, &name, Op::Reshape, vec![turned], rows.clone());
    let y = r.add(at, &name, op, std::iter::once(turned).chain(affine).collect(), rows);
    let y = r.add(at, &name, Op::Reshape, vec![y], moved);
    (Op::Transpose { perm: inverse(&perm) }, vec![y])
}
