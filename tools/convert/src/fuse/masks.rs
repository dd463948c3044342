//! Rows in which all keys are hidden, and the guards that exporters write for them.
//!
//! Scores of hidden keys are -infinity. A row of nothing else has no softmax: in floats it is NaN, which exporters
//! replace by 0; integers have neither. What a tensor hides is therefore read from the graph, and the guards become
//! conditions on it.

use super::axes::orders;
use super::rewriter::{NodeId, Rewriter};
use crate::graph::{Binary, Data, DataType, Node, Op, Reduce, TensorId, Unary};

/// Nodes followed from scores to their masks.
const MAX_DEPTH: usize = 32;

/// Where a tensor is above -infinity.
#[derive(Clone, Debug)]
enum Seen {
    /// Everywhere.
    All,
    /// Where a constant says so.
    Constant(TensorId),
    /// Where a condition has this value.
    Where(TensorId, bool),
    /// Where both are.
    Both(Box<Seen>, Box<Seen>),
    /// Moved from one shape to another.
    Moved(Box<(Seen, Op, [Vec<usize>; 2])>),
    /// Where anything along the axes of a reduction is, counted from the end.
    Any(Box<Seen>, Vec<usize>),
}

/// Where `tensor` is above -infinity; `None` where that depends on the values of an input.
fn seen(r: &Rewriter, tensor: TensorId, depth: usize) -> Option<Seen> {
    let depth = depth.checked_sub(1)?;
    if let Some(data) = r.constant(tensor) {
        let hides = data.floats().is_some_and(|values| values.contains(&f32::NEG_INFINITY));
        return Some(if hides { Seen::Constant(tensor) } else { Seen::All });
    }
    let Some(node) = r.producer(tensor) else { return (r.dtype(tensor) != DataType::Float).then_some(Seen::All) };
    let shape = r.shape(tensor).to_vec();
    let both = |a: Seen, b: Seen| match (a, b) {
        (Seen::All, other) | (other, Seen::All) => other,
        (a, b) => Seen::Both(Box::new(a), Box::new(b)),
    };
    let of = |index: usize| seen(r, node.inputs[index], depth);
    // Beside a mask that the graph shows, an input is no mask.
    let beside_mask =
        |index: usize| of(index).or_else(|| r.producer(node.inputs[index]).is_none().then_some(Seen::All));
    Some(match &node.op {
        Op::Where => {
            let hidden = |id: TensorId| r.scalar(id) == Some(f32::NEG_INFINITY);
            match (hidden(node.inputs[1]), hidden(node.inputs[2])) {
                (false, true) => both(Seen::Where(node.inputs[0], true), beside_mask(1)?),
                (true, false) => both(Seen::Where(node.inputs[0], false), beside_mask(2)?),
                _ => match (of(1)?, of(2)?) {
                    (Seen::All, Seen::All) => Seen::All,
                    _ => return None,
                },
            }
        }
        Op::Binary(Binary::Add) => match (of(0), of(1)) {
            (Some(a), Some(b)) => both(a, b),
            (Some(Seen::All), None) | (None, Some(Seen::All)) | (None, None) => return None,
            (Some(mask), None) => both(mask, beside_mask(1)?),
            (None, Some(mask)) => both(beside_mask(0)?, mask),
        },
        Op::Binary(Binary::Sub) => of(0)?,
        Op::Binary(Binary::Mul) => {
            match orders(&node.inputs).find(|&(_, factor)| r.scalar(factor).is_some_and(|f| f > 0.0)) {
                Some((x, _)) => seen(r, x, depth)?,
                None => Seen::All,
            }
        }
        Op::Binary(Binary::Div) if r.scalar(node.inputs[1]).is_some_and(|f| f > 0.0) => of(0)?,
        Op::Binary(Binary::Max) => match (of(0)?, of(1)?) {
            (Seen::All, _) | (_, Seen::All) => Seen::All,
            _ => return None,
        },
        // The logarithm of a mask.
        Op::Unary(Unary::Log) => match r.producer(node.inputs[0]) {
            Some(Node { op: Op::Unary(Unary::Cast), inputs, .. }) if r.dtype(inputs[0]) == DataType::Bool => {
                Seen::Where(inputs[0], true)
            }
            _ => Seen::All,
        },
        Op::Unary(Unary::Cast) | Op::FakeQuant(_) => of(0)?,
        Op::Reshape | Op::Transpose { .. } | Op::Expand | Op::Slice { .. } => match of(0)? {
            Seen::All => Seen::All,
            inner => Seen::Moved(Box::new((inner, node.op.clone(), [r.shape(node.inputs[0]).to_vec(), shape]))),
        },
        Op::Reduce { kind: Reduce::Max, axes, keep: true } => match of(0)? {
            Seen::All => Seen::All,
            inner => {
                let rank = r.shape(node.inputs[0]).len();
                Seen::Any(Box::new(inner), axes.iter().map(|axis| rank - axis).collect())
            }
        },
        Op::Reduce { kind: Reduce::Max, .. } => match of(0)? {
            Seen::All => Seen::All,
            _ => return None,
        },
        Op::Concat { .. } => {
            let parts: Option<Vec<Seen>> = node.inputs.iter().map(|&x| seen(r, x, depth)).collect();
            if parts?.iter().all(|part| matches!(part, Seen::All)) { Seen::All } else { return None }
        }
        Op::Pad { value, .. } if *value > f32::NEG_INFINITY => of(0)?,
        Op::Pad { .. } => return None,
        Op::Linear
        | Op::MatMul { .. }
        | Op::Conv2d(_)
        | Op::MaxPool(_)
        | Op::AveragePool { .. }
        | Op::Softmax
        | Op::LayerNorm { .. }
        | Op::RmsNorm { .. }
        | Op::Unary(_)
        | Op::Binary(_)
        | Op::Gather { .. }
        | Op::Reduce { .. }
        | Op::Attention(_)
        | Op::Rope(_)
        | Op::Lookup(_)
        | Op::Positions => Seen::All,
    })
}

/// `seen` as a boolean tensor beside `at`; `None` for [`Seen::All`].
fn build(r: &mut Rewriter, at: NodeId, name: &str, seen: &Seen) -> Option<TensorId> {
    let boolean = |shape: &[usize]| (shape.to_vec(), DataType::Bool);
    Some(match seen {
        Seen::All => return None,
        Seen::Constant(id) => {
            let values = r.constant(*id)?.to_f32().iter().map(|&v| v > f32::NEG_INFINITY).collect();
            let shape = r.shape(*id).to_vec();
            r.add_data(name, shape, Data::Bool(values))
        }
        Seen::Where(condition, true) => *condition,
        Seen::Where(condition, false) => {
            let shape = r.shape(*condition).to_vec();
            r.add_typed(at, name, Op::Unary(Unary::Not), vec![*condition], boolean(&shape))
        }
        Seen::Both(a, b) => {
            let (a, b) = (build(r, at, name, a)?, build(r, at, name, b)?);
            let shape = super::axes::broadcast(r.shape(a), r.shape(b))?;
            r.add_typed(at, name, Op::Binary(Binary::And), vec![a, b], boolean(&shape))
        }
        Seen::Moved(moved) => {
            let (inner, op, [full, shape]) = &**moved;
            let inner = build(r, at, name, inner)?;
            // A mask may be a broadcast part of what was moved.
            let inner = if r.shape(inner) == full {
                inner
            } else {
                r.add_typed(at, name, Op::Expand, vec![inner], boolean(full))
            };
            r.add_typed(at, name, op.clone(), vec![inner], boolean(shape))
        }
        Seen::Any(inner, axes) => {
            let inner = build(r, at, name, inner)?;
            any(r, at, name, inner, axes)?
        }
    })
}

/// Whether anything along axes of the boolean `x`, counted from the end, is true; the axes stay as 1.
fn any(r: &mut Rewriter, at: NodeId, name: &str, x: TensorId, axes: &[usize]) -> Option<TensorId> {
    let shape = r.shape(x).to_vec();
    // Dimensions that the mask does not have are broadcast.
    let axes: Vec<usize> = axes.iter().filter_map(|&axis| shape.len().checked_sub(axis)).collect();
    if axes.is_empty() {
        return Some(x);
    }
    let reduced: Vec<usize> =
        shape.iter().enumerate().map(|(d, &size)| if axes.contains(&d) { 1 } else { size }).collect();
    let number = r.add_typed(at, name, Op::Unary(Unary::Cast), vec![x], (shape, DataType::Int));
    let op = Op::Reduce { kind: Reduce::Max, axes, keep: true };
    let most = r.add_typed(at, name, op, vec![number], (reduced.clone(), DataType::Int));
    Some(r.add_typed(at, name, Op::Unary(Unary::Cast), vec![most], (reduced, DataType::Bool)))
}

/// `where(isnan(p), v, p)` behind a softmax: the rows of nothing but hidden keys.
pub(super) fn nan_guard(r: &mut Rewriter, id: NodeId) -> bool {
    let Some(Node { op: Op::Where, inputs, name, .. }) = r.node(id) else { return false };
    let (&[condition, a, b], name) = (inputs.as_slice(), name.clone()) else { return false };
    let Some(test) = r.producer(condition) else { return false };
    let (tested, guarded, other) = match test.op {
        Op::Unary(Unary::IsNaN) => (test.inputs[0], b, a),
        Op::Unary(Unary::Not) => match r.producer(test.inputs[0]) {
            Some(Node { op: Op::Unary(Unary::IsNaN), inputs, .. }) => (inputs[0], a, b),
            _ => return false,
        },
        _ => return false,
    };
    let softmax = r.producer(r.behind_fake_quant(guarded)).filter(|node| node.op == Op::Softmax);
    let Some(scores) = softmax.map(|node| node.inputs[0]) else { return false };
    let same = r.behind_fake_quant(tested) == r.behind_fake_quant(guarded);
    if !same || r.scalar(other).is_none() {
        return false;
    }
    let rows = match seen(r, scores, MAX_DEPTH) {
        None | Some(Seen::All) => None,
        Some(seen) => build(r, id, &name, &seen).and_then(|visible| any(r, id, &name, visible, &[1])),
    };
    match rows {
        Some(rows) => {
            r.replace(id, Op::Where, vec![rows, guarded, other]);
            true
        }
        None => r.bypass(id, guarded),
    }
}

/// `x == -inf` says where `x` is hidden.
pub(super) fn hidden(r: &mut Rewriter, id: NodeId) -> bool {
    let Some(node) = r.node(id).filter(|node| node.op == Op::Binary(Binary::Equal)) else { return false };
    let (name, shape) = (node.name.clone(), r.shape(node.output).to_vec());
    let Some((x, limit)) = orders(&node.inputs).find(|&(_, limit)| r.scalar(limit).is_some_and(f32::is_infinite))
    else {
        return false;
    };
    let x = match (r.scalar(limit), r.producer(x)) {
        (Some(f32::NEG_INFINITY), _) => x,
        (_, Some(Node { op: Op::Unary(Unary::Abs), inputs, .. })) => inputs[0],
        _ => return false,
    };
    let Some(found) = seen(r, x, MAX_DEPTH) else { return false };
    let Some(visible) = build(r, id, &name, &found) else {
        let count = shape.iter().product();
        if r.is_output(r.node(id).map_or(x, |node| node.output)) || r.producer(x).is_none() {
            return false;
        }
        r.replace_by_constant(id, Data::Bool(vec![false; count]));
        return true;
    };
    if r.shape(visible) == shape {
        r.replace(id, Op::Unary(Unary::Not), vec![visible]);
    } else {
        let own = r.shape(visible).to_vec();
        let not = r.add_typed(id, &name, Op::Unary(Unary::Not), vec![visible], (own, DataType::Bool));
        r.replace(id, Op::Expand, vec![not]);
    }
    true
}

/// A choice between a tensor and 0 is a product with the condition.
pub(super) fn choice_of_zero(r: &mut Rewriter, id: NodeId) -> bool {
    let Some(Node { op: Op::Where, inputs, name, output }) = r.node(id) else { return false };
    let (&[condition, a, b], name) = (inputs.as_slice(), name.clone()) else { return false };
    if r.dtype(*output) != DataType::Float {
        return false;
    }
    let shape = r.shape(*output).to_vec();
    let zero = |id: TensorId| r.scalar(id) == Some(0.0);
    let (x, wanted) = match (zero(a), zero(b)) {
        (true, false) => (b, false),
        (false, true) => (a, true),
        _ => return false,
    };
    // 0 times -infinity is no number, and constants fold.
    let finite = r.constant(x).is_none() && matches!(seen(r, x, MAX_DEPTH), Some(Seen::All));
    if !finite || r.shape(x) != shape || depends_on(r, condition, x) {
        return false;
    }
    let own = r.shape(condition).to_vec();
    let condition = if wanted {
        condition
    } else {
        r.add_typed(id, &name, Op::Unary(Unary::Not), vec![condition], (own.clone(), DataType::Bool))
    };
    let factor = r.add_typed(id, &name, Op::Unary(Unary::Cast), vec![condition], (own, DataType::Float));
    r.replace(id, Op::Binary(Binary::Mul), vec![x, factor]);
    true
}

/// Whether a condition is computed from `x`, element by element: such a choice is a function of one tensor.
fn depends_on(r: &Rewriter, condition: TensorId, x: TensorId) -> bool {
    let mut pending = vec![condition];
    for _ in 0..MAX_DEPTH {
        let Some(tensor) = pending.pop() else { return false };
        if tensor == x {
            return true;
        }
        if let Some(node) = r.producer(tensor).filter(|n| matches!(n.op, Op::Unary(_) | Op::Binary(_) | Op::Where)) {
            pending.extend(&node.inputs);
        }
    }
    false
}

/// A factor per row of the probabilities is applied behind their product with the values.
pub(super) fn factor_behind_product(r: &mut Rewriter, id: NodeId) -> bool {
    let Some(Node { op: Op::MatMul { transpose_b }, inputs, name, output }) = r.node(id) else { return false };
    let (transpose_b, weights, values, name, output) = (*transpose_b, inputs[0], inputs[1], name.clone(), *output);
    let Some(product) = r.inner(weights).filter(|node| node.op == Op::Binary(Binary::Mul)) else { return false };
    let found = orders(&product.inputs).find(|&(p, factor)| {
        let per_row = r.shape(factor).last().is_none_or(|&d| d == 1) && r.shape(p) == r.shape(weights);
        let softmax = r.producer(r.behind_fake_quant(p)).is_some_and(|node| node.op == Op::Softmax);
        per_row && softmax
    });
    let Some((p, factor)) = found else { return false };
    let shape = r.shape(output).to_vec();
    if super::axes::broadcast(&shape, r.shape(factor)).as_ref() != Some(&shape) {
        return false;
    }
    let y = r.add(id, &name, Op::MatMul { transpose_b }, vec![p, values], shape);
    r.replace(id, Op::Binary(Binary::Mul), vec![y, factor]);
    true
}
