//! Activation functions written in parts, recognised by their values.
//!
//! Exporters write GELU, SiLU and their kin in many arrangements. Whatever the arrangement, the nodes between one tensor
//! and another one compute a function of one number, which is compared with the known ones at sample points.

use super::rewriter::{NodeId, Rewriter};
use crate::graph::exec::eval_scalar;
use crate::graph::{Data, DataType, Node, Op, TensorId, Unary};
use std::collections::HashMap;

/// Most nodes of one function.
const MAX_NODES: usize = 24;
/// Sample points lie in `-RANGE ..= RANGE`.
const RANGE: f64 = 10.0;
const SAMPLES: usize = 81;
/// Largest difference at any sample point, for values up to 1. The two GELUs differ by 4.7e-4; constants rounded to
/// half precision make 3e-5.
const TOLERANCE: f64 = 1e-4;

/// The functions, more special ones first where two are equal on a part of the range.
const KNOWN: [Unary; 8] = [
    Unary::Gelu { tanh: false },
    Unary::Gelu { tanh: true },
    Unary::QuickGelu,
    Unary::Silu,
    Unary::HardSwish,
    Unary::HardSigmoid { alpha: 1.0 / 6.0, beta: 0.5 },
    Unary::Mish,
    Unary::Softplus,
];

/// Nodes that compute one function of one tensor become that function, where it has a name.
pub(super) fn activation(r: &mut Rewriter, id: NodeId) -> bool {
    let Some(node) = r.node(id).filter(|node| is_elementwise(r, node) && r.dtype(node.output) == DataType::Float)
    else {
        return false;
    };
    // A fake quantization behind the function stays: it holds the scale of the result.
    let last = !matches!(node.op, Op::FakeQuant(_)) && !matches!(node.op, Op::Unary(kind) if KNOWN.contains(&kind));
    if !last {
        return false;
    }
    let shape = r.shape(node.output).to_vec();
    let mut inside = vec![id];
    while let Some(frontier) = frontier(r, &inside) {
        if let [x] = frontier[..]
            && inside.len() > 1
            && r.shape(x) == shape
            && let Some(kind) = recognise(r, &inside, x)
        {
            r.replace(id, Op::Unary(kind), vec![x]);
            return true;
        }
        // A tensor that only the nodes inside read can be taken inside.
        let next = frontier.iter().find_map(|&tensor| {
            let private = !r.is_output(tensor) && r.uses(tensor).iter().all(|user| inside.contains(user));
            r.producer_id(tensor).filter(|&p| private && r.node(p).is_some_and(|n| is_elementwise(r, n)))
        });
        match next {
            Some(next) if inside.len() < MAX_NODES => inside.push(next),
            _ => return false,
        }
    }
    false
}

/// Whether a node computes each element from one element of each operand.
fn is_elementwise(r: &Rewriter, node: &Node) -> bool {
    match node.op {
        Op::Unary(_) | Op::Binary(_) | Op::Where => true,
        Op::FakeQuant(_) => r.constant(node.inputs[0]).is_none(),
        _ => false,
    }
}

/// The operands of the nodes inside that come from outside and are no scalar constants, each once; `None` when a
/// constant is no scalar.
fn frontier(r: &Rewriter, inside: &[NodeId]) -> Option<Vec<TensorId>> {
    let mut frontier = Vec::new();
    for &id in inside {
        for &input in &r.node(id)?.inputs {
            if uniform(r, input).is_some() || frontier.contains(&input) {
                continue;
            }
            if r.weights(input).is_some() {
                return None;
            }
            let internal = r.producer_id(input).is_some_and(|producer| inside.contains(&producer));
            if !internal {
                frontier.push(input);
            }
        }
    }
    Some(frontier)
}

/// The one value of a constant of any type.
fn uniform(r: &Rewriter, tensor: TensorId) -> Option<f64> {
    match r.constant(r.behind_fake_quant(tensor))? {
        Data::Float(_) => r.scalar(tensor).map(f64::from),
        Data::Int(values) => values.first().filter(|&first| values.iter().all(|v| v == first)).map(|&v| v as f64),
        Data::Bool(values) => {
            values.first().filter(|&first| values.iter().all(|v| v == first)).map(|&v| f64::from(u8::from(v)))
        }
    }
}

/// The known function that the nodes inside, the first one last, compute from `x`.
fn recognise(r: &Rewriter, inside: &[NodeId], x: TensorId) -> Option<Unary> {
    let at = |i: usize| (i as f64 / (SAMPLES - 1) as f64 * 2.0 - 1.0) * RANGE;
    let values: Option<Vec<f64>> = (0..SAMPLES).map(|i| value(r, inside[0], x, at(i), &mut HashMap::new())).collect();
    let values = values?;
    let error = |kind: Unary| {
        let errors = values.iter().enumerate().map(|(i, y)| {
            let expected = eval_scalar(&Op::Unary(kind), &[at(i)]);
            (y - expected).abs() / expected.abs().max(1.0)
        });
        // `max` would lose a NaN.
        errors.fold(0.0, |worst: f64, e| if e <= worst { worst } else { e })
    };
    let best = KNOWN.into_iter().map(|kind| (kind, error(kind))).min_by(|a, b| a.1.total_cmp(&b.1))?;
    (best.1 <= TOLERANCE).then_some(best.0)
}

/// The value of node `id` where `x` has the value `at`.
fn value(r: &Rewriter, id: NodeId, x: TensorId, at: f64, known: &mut HashMap<NodeId, f64>) -> Option<f64> {
    if let Some(&value) = known.get(&id) {
        return Some(value);
    }
    let node = r.node(id)?;
    let mut operands = [0.0; 3];
    for (operand, &input) in operands.iter_mut().zip(&node.inputs) {
        *operand = match uniform(r, input) {
            _ if input == x => at,
            Some(value) => value,
            None => value(r, r.producer_id(input)?, x, at, known)?,
        };
    }
    let result = match node.op {
        Op::FakeQuant(_) => operands[0],
        _ => eval_scalar(&node.op, &operands),
    };
    known.insert(id, result);
    Some(result)
}
