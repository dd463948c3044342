//! Identities, duplicates and constants: what an exporter leaves behind.

use super::axes::{broadcast, orders, swapped};
use super::rewriter::{NodeId, Rewriter};
use crate::graph::exec::eval_node;
use crate::graph::{Binary, Data, Node, Op, TensorId, Unary};

/// Constants are not blown up beyond this many elements by a fold.
const MAX_EXPANDED: usize = 1 << 16;
/// Constants are not folded into ones of more elements than this.
const MAX_FOLDED: usize = 1 << 26;
/// A duplicate is looked for among this many readers of an operand.
const MAX_READERS: usize = 64;

/// A node whose operands are constants is one. A fake quantization stays: its scales are wanted.
pub(super) fn fold_constant(r: &mut Rewriter, id: NodeId) -> bool {
    let Some(node) = r.node(id) else { return false };
    let operands: Option<Vec<(&[usize], &Data)>> =
        node.inputs.iter().map(|&input| Some((r.shape(input), r.constant(input)?))).collect();
    let Some(operands) = operands.filter(|_| !matches!(node.op, Op::FakeQuant(_)) && !r.is_output(node.output)) else {
        return false;
    };
    let len: usize = r.shape(node.output).iter().product();
    let blown_up = node.op == Op::Expand && len > MAX_EXPANDED && operands.iter().all(|(_, data)| data.len() < len);
    if blown_up || len > MAX_FOLDED {
        return false;
    }
    let Ok(value) = eval_node(&node.op, &operands, r.shape(node.output), r.dtype(node.output)) else { return false };
    r.replace_by_constant(id, value);
    true
}

/// Removes a node that returns an operand as it is.
pub(super) fn drop_identity(r: &mut Rewriter, id: NodeId) -> bool {
    let Some(node) = r.node(id) else { return false };
    let Some(same) = identity_of(r, node).filter(|&same| r.dtype(same) == r.dtype(node.output)) else { return false };
    if r.shape(same) == r.shape(node.output) {
        return r.bypass(id, same);
    }
    // The other operands only broadcast it.
    let elementwise = matches!(node.op, Op::Binary(_) | Op::Where);
    if elementwise {
        r.replace(id, Op::Expand, vec![same]);
    }
    elementwise
}

/// The operand that `node` returns, if shapes are equal.
fn identity_of(r: &Rewriter, node: &Node) -> Option<TensorId> {
    let first = *node.inputs.first()?;
    let is = |tensor: TensorId, value: f32| r.constant(tensor).and(r.scalar(tensor)) == Some(value);
    let all = |tensor: TensorId, value: bool| match r.constant(tensor) {
        Some(Data::Bool(values)) => values.iter().all(|&v| v == value),
        _ => false,
    };
    let second = node.inputs.get(1).copied().unwrap_or(first);
    let neutral = |test: &dyn Fn(TensorId) -> bool| match (test(first), test(second)) {
        (_, true) => Some(first),
        (true, _) => Some(second),
        _ => None,
    };
    match &node.op {
        Op::Reshape | Op::Expand | Op::Unary(Unary::Cast) => Some(first),
        Op::Transpose { perm } => perm.iter().enumerate().all(|(i, &p)| i == p).then_some(first),
        Op::Slice { steps, .. } => steps.iter().all(|&s| s == 1).then_some(first),
        Op::Pad { before, after, .. } => before.iter().chain(after).all(|&n| n == 0).then_some(first),
        Op::Concat { .. } => (node.inputs.len() == 1).then_some(first),
        Op::Binary(Binary::Add) => neutral(&|t| is(t, 0.0)),
        Op::Binary(Binary::Mul) => neutral(&|t| is(t, 1.0)),
        Op::Binary(Binary::Sub) => is(second, 0.0).then_some(first),
        Op::Binary(Binary::Div | Binary::Pow) => is(second, 1.0).then_some(first),
        // No number lies beyond, and a mask that is -infinity hides as much.
        Op::Binary(Binary::Max) => neutral(&|t| r.scalar(t).is_some_and(|v| v <= f32::MIN)),
        Op::Binary(Binary::Min) => neutral(&|t| r.scalar(t).is_some_and(|v| v >= f32::MAX)),
        Op::Unary(Unary::Clip { low, high }) => (*low <= f32::MIN && *high >= f32::MAX).then_some(first),
        Op::Binary(Binary::And) => neutral(&|t| all(t, true)),
        Op::Binary(Binary::Or) => neutral(&|t| all(t, false)),
        Op::Where if all(first, true) => Some(second),
        Op::Where if all(first, false) => node.inputs.get(2).copied(),
        Op::FakeQuant(quant) => match r.producer(first) {
            Some(Node { op: Op::FakeQuant(before), .. }) if before == quant => Some(first),
            _ => None,
        },
        _ => None,
    }
}

/// Writes a movement in its simplest form: a transpose of dimensions of size 1 and a reduction over them are reshapes,
/// a gather of regular constant indices is a slice.
pub(super) fn simplify_movement(r: &mut Rewriter, id: NodeId) -> bool {
    let Some(node) = r.node(id) else { return false };
    let Some(&x) = node.inputs.first() else { return false };
    match &node.op {
        Op::Transpose { perm } => {
            let shape = r.shape(x);
            let kept: Vec<usize> = perm.iter().copied().filter(|&p| shape[p] != 1).collect();
            if !kept.is_sorted() {
                return false;
            }
            r.replace(id, Op::Reshape, vec![x]);
            true
        }
        Op::Reduce { axes, .. } if axes.iter().all(|&axis| r.shape(x)[axis] == 1) => {
            r.replace(id, Op::Reshape, vec![x]);
            true
        }
        Op::Gather { axis } => {
            let axis = *axis;
            gather_to_slice(r, id, axis)
        }
        _ => false,
    }
}

fn gather_to_slice(r: &mut Rewriter, id: NodeId, axis: usize) -> bool {
    let Some(node) = r.node(id) else { return false };
    let (x, name) = (node.inputs[0], node.name.clone());
    let Some(indices) = r.constant(node.inputs[1]).and_then(Data::ints) else { return false };
    let mut shape = r.shape(x).to_vec();
    let size = shape[axis] as i64;
    let at = |i: i64| if i < 0 { i + size } else { i };
    let Some(&first) = indices.first() else { return false };
    let step = indices.get(1).map_or(1, |&second| at(second) - at(first));
    let regular = indices.windows(2).all(|pair| at(pair[1]) - at(pair[0]) == step);
    let inside = indices.iter().all(|&i| (0..size).contains(&at(i)));
    if !regular || !inside || step == 0 {
        return false;
    }
    let mut starts = vec![0; shape.len()];
    let mut steps = vec![1; shape.len()];
    (starts[axis], steps[axis]) = (at(first) as usize, step as isize);
    shape[axis] = indices.len();
    let slice = r.add_like(id, &name, Op::Slice { starts, steps }, vec![x], shape);
    r.replace(id, Op::Reshape, vec![slice]);
    true
}

/// Joins a movement with the one before it.
pub(super) fn merge_movement(r: &mut Rewriter, id: NodeId) -> bool {
    let Some(node) = r.node(id) else { return false };
    let Some(before) = node.inputs.first().and_then(|&x| r.producer(x)) else { return false };
    let source = before.inputs.first().copied();
    let joint = match (&before.op, &node.op) {
        (Op::Reshape, Op::Reshape) => Op::Reshape,
        (Op::Expand, Op::Expand) => Op::Expand,
        (Op::Transpose { perm: first }, Op::Transpose { perm: second }) => {
            Op::Transpose { perm: second.iter().map(|&p| first[p]).collect() }
        }
        (Op::Slice { starts: s1, steps: t1 }, Op::Slice { starts: s2, steps: t2 }) => {
            let start = |d: usize| s1[d] as isize + s2[d] as isize * t1[d];
            Op::Slice {
                starts: (0..s1.len()).map(|d| start(d) as usize).collect(),
                steps: t1.iter().zip(t2).map(|(a, b)| a * b).collect(),
            }
        }
        _ => return false,
    };
    let Some(source) = source else { return false };
    r.replace(id, joint, vec![source]);
    true
}

/// Joins two constants that are added to a tensor, or multiply it, one after the other.
pub(super) fn merge_constants(r: &mut Rewriter, id: NodeId) -> bool {
    let Some(node) = r.node(id) else { return false };
    let op = node.op.clone();
    let Op::Binary(kind @ (Binary::Add | Binary::Mul)) = op else { return false };
    let is_constant = |tensor: TensorId| r.constant(tensor).is_some_and(|data| data.floats().is_some());
    let parts = |node: &Node| orders(&node.inputs).find(|&(x, c)| is_constant(c) && !is_constant(x));
    let Some((y, second)) = parts(node) else { return false };
    let before = r.producer(y).filter(|before| before.op == op && r.used_once(y));
    let Some((x, first)) = before.and_then(parts) else { return false };
    let len = |tensor: TensorId| r.shape(tensor).iter().product::<usize>();
    let Some(shape) = broadcast(r.shape(first), r.shape(second)) else { return false };
    // A joint constant must not be larger than both.
    if shape.iter().product::<usize>() > len(first).max(len(second)) {
        return false;
    }
    let name = node.name.clone();
    let joint = r.add(id, &name, Op::Binary(kind), vec![first, second], shape);
    r.replace(id, op, vec![x, joint]);
    true
}

/// Moves a fake quantization of a moved tensor before the movement, towards the operation whose result it rounds.
pub(super) fn raise_fake_quant(r: &mut Rewriter, id: NodeId) -> bool {
    let Some(Node { op: Op::FakeQuant(quant), inputs, name, .. }) = r.node(id) else { return false };
    let (quant, moved, name) = (quant.clone(), inputs[0], name.clone());
    let Some(movement) = r.producer(moved) else { return false };
    let moves = matches!(movement.op, Op::Reshape | Op::Transpose { .. } | Op::Slice { .. });
    if !moves || quant.scale.len() != 1 || !r.used_once(moved) {
        return false;
    }
    let (op, x) = (movement.op.clone(), movement.inputs[0]);
    let shape = r.shape(x).to_vec();
    let rounded = r.add(id, &name, Op::FakeQuant(quant), vec![x], shape);
    r.replace(id, op, vec![rounded]);
    true
}

/// Computes elementwise functions before their operands are broadcast.
pub(super) fn lower_expand(r: &mut Rewriter, id: NodeId) -> bool {
    let Some(node) = r.node(id) else { return false };
    if !matches!(node.op, Op::Unary(_) | Op::Binary(_) | Op::Where) {
        return false;
    }
    let small: Vec<TensorId> = node
        .inputs
        .iter()
        .map(|&input| match r.producer(input) {
            Some(Node { op: Op::Expand, inputs, .. }) => inputs[0],
            _ => input,
        })
        .collect();
    if small == node.inputs {
        return false;
    }
    let shape = small.iter().try_fold(Vec::new(), |shape, &input| broadcast(&shape, r.shape(input)));
    let Some(shape) = shape else { return false };
    let op = node.op.clone();
    if shape == r.shape(node.output) {
        r.replace(id, op, small);
    } else {
        let name = node.name.clone();
        let value = r.add_like(id, &name, op, small, shape);
        r.replace(id, Op::Expand, vec![value]);
    }
    true
}

/// Lets the readers of a node that repeats another one read that one.
pub(super) fn merge_duplicate(r: &mut Rewriter, id: NodeId) -> bool {
    let Some(node) = r.node(id) else { return false };
    let computed = node.inputs.iter().filter(|&&input| r.constant(input).is_none());
    let Some(&shared) = computed.min_by_key(|&&input| r.uses(input).len()) else { return false };
    if r.uses(shared).len() > MAX_READERS {
        return false;
    }
    let twin = r.uses(shared).iter().copied().filter(|&other| other < id).find(|&other| {
        r.node(other).is_some_and(|twin| twin.op == node.op && same_operands(r, node, twin) && same_type(r, node, twin))
    });
    match twin.and_then(|twin| r.node(twin)) {
        Some(twin) => {
            let output = twin.output;
            r.bypass(id, output)
        }
        None => false,
    }
}

fn same_type(r: &Rewriter, a: &Node, b: &Node) -> bool {
    r.shape(a.output) == r.shape(b.output) && r.dtype(a.output) == r.dtype(b.output)
}

/// Whether two nodes of the same operation read equal operands.
fn same_operands(r: &Rewriter, a: &Node, b: &Node) -> bool {
    let equal = |&(&x, &y): &(&TensorId, &TensorId)| {
        let both_scalar =
            || r.shape(x) == r.shape(y) && r.constant(x).is_some_and(|v| v.len() == 1 && r.constant(y) == Some(v));
        x == y || both_scalar()
    };
    let in_order = a.inputs.len() == b.inputs.len() && a.inputs.iter().zip(&b.inputs).all(|pair| equal(&pair));
    let commutes = matches!(a.op, Op::Binary(Binary::Add | Binary::Mul));
    in_order
        || commutes
            && swapped(&a.inputs)
                .zip(swapped(&b.inputs))
                .is_some_and(|((x, y), (u, v))| equal(&(&x, &v)) && equal(&(&y, &u)))
}
