//! Embeddings written as products of one-hot rows with a table.

use super::axes::orders;
use super::rewriter::{NodeId, Rewriter};
use crate::graph::{Binary, Data, DataType, Node, Op, TensorId, Unary};

/// A linear layer of one-hot rows becomes a gather from its weights.
pub(super) fn lookup(r: &mut Rewriter, id: NodeId) -> bool {
    let Some(Node { op: Op::Linear, inputs, name, output }) = r.node(id) else { return false };
    let (x, w, bias, name, output) = (inputs[0], inputs[1], inputs.get(2).copied(), name.clone(), *output);
    let &[n, k] = r.shape(w) else { return false };
    let Some(ids) = hot_places(r, x, k) else { return false };
    let (Some(weights), true) = (r.constant(w).and_then(Data::floats), r.weights(w).is_some()) else { return false };
    let bias = match bias.map(|bias| r.constant(bias).and_then(Data::floats)) {
        Some(None) => return false,
        Some(Some(bias)) => bias.to_vec(),
        None => vec![0.0; n],
    };
    let rows = (0..k * n).map(|i| weights[i % n * k + i / n] + bias[i % n]).collect();
    let shape = r.shape(output).to_vec();
    let table = r.add_constant(&format!("{name}/table"), vec![k, n], rows);
    let lead = shape[..shape.len() - 1].to_vec();
    let ids = match r.shape(ids) == lead {
        true => ids,
        false => r.add_typed(id, &name, Op::Reshape, vec![ids], (lead, DataType::Int)),
    };
    r.replace(id, Op::Gather { axis: 0 }, vec![table, ids]);
    true
}

/// The ids, one for each row, of which `x [.., k]` is the one-hot form.
fn hot_places(r: &Rewriter, x: TensorId, k: usize) -> Option<TensorId> {
    let node = r.producer(x)?;
    let rows = r.shape(x).iter().product::<usize>() / k.max(1);
    match &node.op {
        Op::Unary(Unary::Cast) => {
            let equal = r.producer(node.inputs[0]).filter(|node| node.op == Op::Binary(Binary::Equal))?;
            let counts = |places: TensorId| match r.constant(places) {
                Some(Data::Int(values)) => {
                    values.len() == k && r.shape(places).last() == Some(&k) && values.iter().copied().eq(0..k as i64)
                }
                _ => false,
            };
            let (ids, _) = orders(&equal.inputs).find(|&(_, places)| counts(places))?;
            let single = r.shape(ids).last() == Some(&1) && r.shape(ids).iter().product::<usize>() == rows;
            (single && r.dtype(ids) == DataType::Int && r.constant(ids).is_none()).then_some(ids)
        }
        Op::Gather { axis: 0 } => {
            let table = r.constant(node.inputs[0])?.floats()?;
            let square = r.shape(node.inputs[0]) == [k, k];
            let identity = || table.iter().enumerate().all(|(i, &v)| v == f32::from(u8::from(i / k == i % k)));
            (square && identity()).then_some(node.inputs[1])
        }
        _ => None,
    }
}
