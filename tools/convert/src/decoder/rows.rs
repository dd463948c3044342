//! Which dimension of every tensor counts the tokens, and graphs with another number of them.

use super::DecoderError;
use crate::graph::{Data, DataType, Graph, HeadView, Node, Op, TensorId};

/// The dimension of every tensor that counts the tokens; `None` for constants and what is computed from none.
///
/// # Errors
/// [`DecoderError::Mixes`] where an operation other than attention does not treat every token by itself.
pub(super) fn axes(graph: &Graph) -> Result<Vec<Option<usize>>, DecoderError> {
    let mut axes = vec![None; graph.tensors.len()];
    for &id in &graph.inputs {
        axes[id] = graph.shape(id).len().checked_sub(1);
    }
    for node in &graph.nodes {
        let fail = |why| DecoderError::Mixes { name: node.name.clone(), op: node.op.to_string(), why };
        axes[node.output] = axis_of(graph, &axes, node).map_err(fail)?;
    }
    Ok(axes)
}

/// The token dimension of the output of `node`.
fn axis_of(graph: &Graph, axes: &[Option<usize>], node: &Node) -> Result<Option<usize>, &'static str> {
    let out = graph.shape(node.output);
    let first = node.inputs.first().copied();
    let of_first = first.and_then(|id| axes[id]);
    let own = |axis: usize| first.map_or(0, |id| graph.shape(id)[axis]);
    let rank = first.map_or(0, |id| graph.shape(id).len());
    match &node.op {
        Op::Linear | Op::Lookup(_) | Op::LayerNorm { .. } | Op::RmsNorm { .. } | Op::Softmax => match of_first {
            Some(axis) if axis + 1 == rank => Err("the tokens are its columns"),
            axis => Ok(axis),
        },
        Op::Unary(_) | Op::FakeQuant(_) | Op::Rope(_) => Ok(of_first),
        Op::Binary(_) | Op::Where | Op::Expand => {
            let mut found = None;
            for &id in &node.inputs {
                let Some(axis) = axes[id] else { continue };
                let axis = axis + out.len() - graph.shape(id).len();
                if found.is_some_and(|other| other != axis) {
                    return Err("its operands have their tokens in different dimensions");
                }
                found = Some(axis);
            }
            Ok(found)
        }
        Op::Transpose { perm } => Ok(of_first.and_then(|axis| perm.iter().position(|&p| p == axis))),
        Op::Reshape => {
            let Some(axis) = of_first else { return Ok(None) };
            let before: usize = graph.shape(node.inputs[0])[..axis].iter().product();
            let mut product = 1;
            for (at, &size) in out.iter().enumerate() {
                if product == before && size == own(axis) {
                    return Ok(Some(at));
                }
                product *= size;
            }
            Err("it joins the dimension of the tokens with another")
        }
        Op::Slice { starts, steps } => match of_first {
            Some(axis) if starts[axis] != 0 || steps[axis] != 1 || out[axis] != own(axis) => {
                Err("it takes some of the tokens")
            }
            axis => Ok(axis),
        },
        Op::Concat { axis: along } => {
            let mut found = None;
            for &id in &node.inputs {
                match (axes[id], found) {
                    (Some(axis), Some(other)) if axis != other => {
                        return Err("its operands have their tokens in different dimensions");
                    }
                    (Some(axis), _) => found = Some(axis),
                    (None, _) => {}
                }
            }
            if found == Some(*along) { Err("it joins tokens") } else { Ok(found) }
        }
        Op::Gather { axis } => match (of_first, axes[node.inputs[1]]) {
            (None, None) => Ok(None),
            (None, Some(of_ids)) => Ok(Some(axis + of_ids)),
            (Some(own), None) if own != *axis => {
                let added = graph.shape(node.inputs[1]).len();
                Ok(Some(if own < *axis { own } else { own + added - 1 }))
            }
            _ => Err("it picks tokens"),
        },
        Op::Pad { before, after, .. } => match of_first {
            Some(axis) if before[axis] + after[axis] > 0 => Err("it adds tokens"),
            axis => Ok(axis),
        },
        Op::Reduce { axes: over, keep, .. } => match of_first {
            Some(axis) if over.contains(&axis) => Err("it reduces over the tokens"),
            Some(axis) if !keep => Ok(Some(axis - over.iter().filter(|&&d| d < axis).count())),
            axis => Ok(axis),
        },
        Op::Attention(a) => match a.causal {
            Some(_) => Ok(token_axis(out, a.out.row, a.n_q)),
            None => Err("it is not causal"),
        },
        Op::Positions => Ok(leading_axis(out)),
        Op::MatMul { .. } | Op::Conv2d(_) | Op::MaxPool(_) | Op::AveragePool { .. } => {
            match node.inputs.iter().any(|&id| axes[id].is_some()) {
                true => Err("it is a product or a window over computed values"),
                false => Ok(None),
            }
        }
    }
}

/// The dimension of `rows` elements that are `row` elements apart.
fn token_axis(shape: &[usize], row: usize, rows: usize) -> Option<usize> {
    let behind = |axis: usize| shape[axis + 1..].iter().product::<usize>();
    (0..shape.len()).find(|&axis| shape[axis] == rows && behind(axis) == row)
}

/// The first dimension that is not 1, or the last but one.
fn leading_axis(shape: &[usize]) -> Option<usize> {
    shape.iter().position(|&d| d != 1).or(shape.len().checked_sub(2))
}

/// Constants that differ from token to token become rows of a table by position.
pub(super) fn tables_by_position(graph: &mut Graph, capacity: usize) -> Result<(), DecoderError> {
    let axes = axes(graph)?;
    let mut index = 0;
    while index < graph.nodes.len() {
        let node = graph.nodes[index].clone();
        let elementwise = matches!(node.op, Op::Binary(_) | Op::Where);
        let joined = matches!(node.op, Op::Concat { .. });
        for (operand, &id) in node.inputs.iter().enumerate() {
            let (Some(out_axis), true) = (axes.get(node.output).copied().flatten(), elementwise || joined) else {
                continue;
            };
            if graph.tensors[id].value.is_none() {
                continue;
            }
            let shape = graph.shape(id).to_vec();
            let rank = graph.shape(node.output).len();
            let Some(axis) = (out_axis + shape.len()).checked_sub(rank).filter(|&axis| shape[axis] > 1) else {
                continue;
            };
            let Some(value) = graph.tensors[id].value.clone() else { continue };
            let rows = shape[axis];
            let (before, behind) =
                (shape[..axis].iter().product::<usize>(), shape[axis + 1..].iter().product::<usize>());
            let one: Vec<usize> = shape.iter().enumerate().map(|(d, &s)| if d == axis { 1 } else { s }).collect();
            if let Some(same) = uniform(&value, before, rows, behind) {
                if joined {
                    // A constant part of every row.
                    let part = graph.add_constant(format!("{}/row", graph.tensors[id].name), one.clone(), same);
                    let wide = graph.add_tensor(format!("{}/rows", node.name), shape, graph.tensors[id].dtype);
                    graph.nodes.insert(
                        index,
                        Node { name: format!("{}/rows", node.name), op: Op::Expand, inputs: vec![part], output: wide },
                    );
                    index += 1;
                    graph.nodes[index].inputs[operand] = wide;
                    continue;
                }
                let part = graph.add_constant(graph.tensors[id].name.clone(), one, same);
                graph.nodes[index].inputs[operand] = part;
                continue;
            }
            if before != 1 || graph.tensors[id].dtype != DataType::Float {
                return Err(DecoderError::Mixes {
                    name: node.name.clone(),
                    op: node.op.to_string(),
                    why: "a constant differs from token to token and is no table of positions",
                });
            }
            let kept = capacity.min(rows);
            let Some(values) = value.floats() else { continue };
            let name = format!("{}/positions", node.name);
            let table = Data::Float(values[..kept * behind].to_vec());
            let table = graph.add_constant(format!("{name}/table"), vec![kept, behind], table);
            let output = graph.add_tensor(name.clone(), shape, DataType::Float);
            graph.nodes.insert(index, Node { name, op: Op::Positions, inputs: vec![table], output });
            index += 1;
            graph.nodes[index].inputs[operand] = output;
        }
        index += 1;
    }
    Ok(())
}

/// The values of one row, where all rows of `[before, rows, behind]` are the same.
fn uniform(value: &Data, before: usize, rows: usize, behind: usize) -> Option<Data> {
    fn part<T: Copy + PartialEq>(v: &[T], before: usize, rows: usize, behind: usize) -> Option<Vec<T>> {
        let mut out = Vec::with_capacity(before * behind);
        for outer in v.chunks(rows * behind) {
            let first = &outer[..behind];
            if outer.chunks(behind).any(|row| row != first) {
                return None;
            }
            out.extend_from_slice(first);
        }
        Some(out)
    }
    if behind == 0 {
        return None;
    }
    Some(match value {
        Data::Float(v) => Data::Float(part(v, before, rows, behind)?),
        Data::Int(v) => Data::Int(part(v, before, rows, behind)?),
        Data::Bool(v) => Data::Bool(part(v, before, rows, behind)?),
    })
}

/// The decoder `graph` for `rows` tokens instead of those it has.
///
/// # Errors
/// [`DecoderError`] when `graph` is none that [`super::derive`] gave.
pub fn resized(graph: &Graph, rows: usize) -> Result<Graph, DecoderError> {
    let axes = axes(graph)?;
    let mut graph = graph.clone();
    let old: Vec<Vec<usize>> = graph.tensors.iter().map(|tensor| tensor.shape.clone()).collect();
    for (tensor, axis) in graph.tensors.iter_mut().zip(&axes) {
        if let Some(axis) = *axis {
            tensor.shape[axis] = rows;
        }
    }
    let shapes: Vec<Vec<usize>> = graph.tensors.iter().map(|tensor| tensor.shape.clone()).collect();
    for node in &mut graph.nodes {
        let (inputs, output) = (node.inputs.clone(), node.output);
        let Op::Attention(a) = &mut node.op else { continue };
        let moved = |view: HeadView, id: TensorId| {
            let place = |at: usize| replaced(at, &old[id], &shapes[id]);
            HeadView {
                offset: place(view.offset),
                batch: shapes[id].iter().product(),
                head: place(view.head),
                row: view.row,
            }
        };
        (a.q, a.k, a.v, a.out) =
            (moved(a.q, inputs[0]), moved(a.k, inputs[1]), moved(a.v, inputs[2]), moved(a.out, output));
        (a.n_q, a.n_k) = (rows, rows);
    }
    Ok(graph)
}

/// The element of a tensor of shape `to` with the indices of element `at` of one of shape `from`.
fn replaced(at: usize, from: &[usize], to: &[usize]) -> usize {
    let strides = |shape: &[usize]| crate::graph::contiguous_strides(shape);
    let (own, new) = (strides(from), strides(to));
    let mut rest = at;
    let mut place = 0;
    for (stride, new) in own.iter().zip(new) {
        place += rest / stride.max(&1) * new;
        rest %= (*stride).max(1);
    }
    place
}
