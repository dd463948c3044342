//! The float graph, executed: constant folding, calibration, and the reference every accuracy is measured against.
//!
//! Floats are `f32` with `f64` where a sum decides the result (normalization, softmax, reductions); products go through
//! a blocked matrix multiplication. Integers and booleans are exact.

mod attention;
mod decoder;
mod elementwise;
mod lookup;
mod movement;
mod operand;
mod products;
mod rows;
mod windows;

use crate::graph::{Data, DataType, Graph, Op, TensorId, contiguous_strides};
use crate::parallel;
use attention::attend;
use decoder::{first_values, rotate};
pub use elementwise::eval_scalar;
use elementwise::{binary, fake_quant, select, unary};
use lookup::look_up;
use movement::{broadcast_strides, concat, gather, gather_strided, pad};
use operand::Operand;
use products::{linear, linear_batch, matmul};
use rows::{norm_row, reduce, rows, softmax_row};
use std::collections::HashMap;
use windows::{conv2d, pool};
pub use windows::{dense_rows, patches, taps};

/// Samples whose nodes one thread evaluates together.
const BATCH: usize = 8;

/// Why a node cannot be evaluated.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExecError {
    /// The operands do not fit the operation.
    #[error("{op}: {why}")]
    Operands {
        /// Name of the operation.
        op: String,
        /// What is wrong.
        why: &'static str,
    },
    /// An input of the graph has the wrong number of values.
    #[error("input `{name}` needs {expected} values, {given} given")]
    Input {
        /// Name of the input.
        name: String,
        /// Elements of its shape.
        expected: usize,
        /// Elements given.
        given: usize,
    },
}

/// Evaluates one node on whole tensors; `shape` and `dtype` are those of the result.
///
/// # Errors
/// [`ExecError`] when operands are missing, mistyped or of the wrong size.
pub fn eval_node(op: &Op, inputs: &[Operand<'_>], shape: &[usize], dtype: DataType) -> Result<Data, ExecError> {
    let fail = |why| ExecError::Operands { op: op.to_string(), why };
    if inputs.iter().any(|(shape, data)| shape.iter().product::<usize>() != data.len()) {
        return Err(fail("operand length does not match its shape"));
    }
    let at = |index: usize| inputs.get(index).copied().ok_or_else(|| fail("an operand is missing"));
    let floats =
        |index: usize| at(index).and_then(|(_, data)| data.floats().ok_or_else(|| fail("an operand is not float")));
    let optional = |index: usize| inputs.get(index).and_then(|(_, data)| data.floats());
    let result = match op {
        Op::Linear => linear(floats(0)?, floats(1)?, optional(2), at(1)?.0),
        Op::MatMul { transpose_b } => matmul(at(0)?, at(1)?, *transpose_b, shape),
        Op::Conv2d(window) => conv2d((at(0)?.0, floats(0)?), (at(1)?.0, floats(1)?), optional(2), window, shape),
        Op::MaxPool(window) => {
            pool((at(0)?.0, floats(0)?), window, shape, |values, _| values.fold(f32::NEG_INFINITY, f32::max))
        }
        Op::AveragePool { window, count_include_pad } => pool((at(0)?.0, floats(0)?), window, shape, |values, taps| {
            let (sum, count) = values.fold((0.0f64, 0usize), |(sum, n), v| (sum + f64::from(v), n + 1));
            (sum / if *count_include_pad { taps } else { count.max(1) } as f64) as f32
        }),
        Op::Softmax => rows(floats(0)?, shape, softmax_row),
        Op::LayerNorm { eps } => {
            let (gamma, beta) = (optional(1), optional(2));
            rows(floats(0)?, shape, |x, y| norm_row(x, y, gamma, beta, f64::from(*eps), true))
        }
        Op::RmsNorm { eps } => {
            let gamma = optional(1);
            rows(floats(0)?, shape, |x, y| norm_row(x, y, gamma, None, f64::from(*eps), false))
        }
        Op::Unary(kind) => Some(unary(*kind, at(0)?.1, dtype)),
        Op::Binary(kind) => binary(*kind, at(0)?, at(1)?, shape),
        Op::Where => select(at(0)?, at(1)?, at(2)?, shape),
        Op::Transpose { perm } => {
            let (from, data) = at(0)?;
            let strides = contiguous_strides(from);
            let valid = perm.len() == from.len() && perm.iter().all(|&p| p < from.len());
            valid
                .then(|| gather_strided(data, 0, shape, &perm.iter().map(|&p| strides[p] as isize).collect::<Vec<_>>()))
                .flatten()
        }
        Op::Reshape => Some(at(0)?.1.clone()),
        Op::Slice { starts, steps } => {
            let (from, data) = at(0)?;
            let strides = contiguous_strides(from);
            let valid = starts.len() == from.len() && steps.len() == from.len();
            valid
                .then(|| {
                    let offset = starts.iter().zip(&strides).map(|(&s, &stride)| s * stride).sum();
                    let strides: Vec<isize> = strides.iter().zip(steps).map(|(&s, &step)| s as isize * step).collect();
                    gather_strided(data, offset, shape, &strides)
                })
                .flatten()
        }
        Op::Concat { axis } => concat(inputs, *axis, shape),
        Op::Expand => {
            let (from, data) = at(0)?;
            broadcast_strides(from, shape).and_then(|strides| gather_strided(data, 0, shape, &strides))
        }
        Op::Gather { axis } => gather(at(0)?, at(1)?, *axis),
        Op::Pad { before, value, .. } => pad(at(0)?, before, *value, shape),
        Op::Reduce { kind, axes, .. } => reduce(at(0)?, *kind, axes),
        Op::FakeQuant(quant) => fake_quant((at(0)?.0, floats(0)?), quant),
        Op::Attention(attention) => attend(attention, inputs, shape),
        Op::Rope(rope) => rotate(rope, floats(0)?, [floats(1)?, floats(2)?]),
        Op::Lookup(lookup) => look_up(lookup, floats(0)?, floats(1)?, floats(2)?),
        Op::Positions => first_values(at(0)?.1, shape.iter().product()),
    };
    let result = result.ok_or_else(|| fail("the operands do not fit together"))?;
    if result.len() != shape.iter().product::<usize>() {
        return Err(fail("the result has not the declared shape"));
    }
    Ok(result)
}

/// Evaluates one node for several samples, as [`eval_node`] does for each; dense layers multiply the rows of all of them at
/// once, so that their weights are prepared once.
///
/// # Errors
/// As [`eval_node`].
pub fn eval_batch(
    op: &Op,
    samples: &[Vec<Operand<'_>>],
    shape: &[usize],
    dtype: DataType,
) -> Result<Vec<Data>, ExecError> {
    if *op == Op::Linear
        && let Some(outputs) = linear_batch(samples, shape)
    {
        return Ok(outputs);
    }
    samples.iter().map(|inputs| eval_node(op, inputs, shape, dtype)).collect()
}

/// What sees the values of a tensor for all samples.
pub type Watch<'a, E> = dyn FnMut(TensorId, &[Data]) -> Result<(), E> + 'a;

/// Runs the graph on several samples, node by node; returns the outputs of each.
///
/// `watch` sees every computed tensor of all samples, in order; its errors end the run. Values are dropped as soon as
/// nobody reads them any more: [`held_bytes`] is what a sample takes at most.
///
/// # Errors
/// As [`run`], and those of `watch`.
pub fn run_all<E: From<ExecError>>(
    graph: &Graph,
    samples: &[&Vec<Data>],
    watch: &mut Watch<'_, E>,
) -> Result<Vec<Vec<Data>>, E> {
    let mut values: HashMap<TensorId, Vec<Data>> = HashMap::new();
    for (index, &id) in graph.inputs.iter().enumerate() {
        let tensor = &graph.tensors[id];
        let given: Vec<Data> = samples.iter().filter_map(|sample| sample.get(index).cloned()).collect();
        if let Some(data) = given.iter().find(|data| data.len() != tensor.len()) {
            let (name, expected, given) = (tensor.name.clone(), tensor.len(), data.len());
            return Err(ExecError::Input { name, expected, given }.into());
        }
        watch(id, &given)?;
        values.insert(id, given);
    }
    let consumers = graph.consumers();
    let batches: Vec<Vec<usize>> =
        (0..samples.len()).collect::<Vec<_>>().chunks(BATCH).map(<[usize]>::to_vec).collect();
    for (index, node) in graph.nodes.iter().enumerate() {
        let operand = |id: TensorId, sample: usize| {
            let data = graph.constant(id).or_else(|| values.get(&id)?.get(sample));
            let why = "an operand has no value";
            let data = data.ok_or_else(|| ExecError::Operands { op: node.name.clone(), why })?;
            Ok((graph.shape(id), data))
        };
        let evaluate = |batch: &Vec<usize>| -> Result<Vec<Data>, ExecError> {
            let operands: Vec<Vec<Operand<'_>>> = batch
                .iter()
                .map(|&sample| node.inputs.iter().map(|&id| operand(id, sample)).collect::<Result<_, ExecError>>())
                .collect::<Result<_, _>>()?;
            eval_batch(&node.op, &operands, graph.shape(node.output), graph.tensors[node.output].dtype)
        };
        let output: Vec<Data> = parallel::try_map(batches.iter().collect(), evaluate)?.into_iter().flatten().collect();
        watch(node.output, &output)?;
        values.insert(node.output, output);
        for id in &node.inputs {
            if consumers[*id].iter().all(|&c| c <= index) {
                values.remove(id);
            }
        }
    }
    let missing =
        |id: TensorId| ExecError::Operands { op: graph.tensors[id].name.clone(), why: "an output is not computed" };
    let outputs = |sample: usize| -> Result<Vec<Data>, ExecError> {
        let value = |id: TensorId| graph.constant(id).or_else(|| values.get(&id)?.get(sample)).cloned();
        graph.outputs.iter().map(|&id| value(id).ok_or_else(|| missing(id))).collect()
    };
    Ok((0..samples.len()).map(outputs).collect::<Result<_, _>>()?)
}

/// Bytes of the values of one sample that [`run_all`] holds at most at a time.
pub fn held_bytes(graph: &Graph) -> usize {
    let consumers = graph.consumers();
    let bytes = |id: TensorId| {
        let tensor = &graph.tensors[id];
        let size = match tensor.dtype {
            DataType::Float => 4,
            DataType::Int => 8,
            DataType::Bool => 1,
        };
        if tensor.value.is_some() { 0 } else { tensor.len().saturating_mul(size) }
    };
    let mut held: usize = graph.inputs.iter().map(|&id| bytes(id)).sum();
    let mut most = held;
    for (index, node) in graph.nodes.iter().enumerate() {
        held = held.saturating_add(bytes(node.output));
        most = most.max(held);
        let mut inputs = node.inputs.clone();
        inputs.sort_unstable();
        inputs.dedup();
        for id in inputs {
            if consumers[id].iter().max() == Some(&index) {
                held = held.saturating_sub(bytes(id));
            }
        }
    }
    most
}

/// Runs the graph on `inputs` (in the order of [`Graph::inputs`]) and returns its outputs.
///
/// `watch` sees every computed tensor, in order. Values are dropped as soon as nobody reads them any more.
///
/// # Errors
/// [`ExecError`] when an input has the wrong size or a node cannot be evaluated.
pub fn run(graph: &Graph, inputs: &[Data], watch: &mut dyn FnMut(TensorId, &Data)) -> Result<Vec<Data>, ExecError> {
    let mut values: HashMap<TensorId, Data> = HashMap::new();
    for (&id, data) in graph.inputs.iter().zip(inputs) {
        let tensor = &graph.tensors[id];
        if tensor.len() != data.len() {
            return Err(ExecError::Input { name: tensor.name.clone(), expected: tensor.len(), given: data.len() });
        }
        watch(id, data);
        values.insert(id, data.clone());
    }
    let consumers = graph.consumers();
    for (index, node) in graph.nodes.iter().enumerate() {
        let output = {
            let operands: Result<Vec<Operand<'_>>, ExecError> = node
                .inputs
                .iter()
                .map(|&id| {
                    let data = graph.constant(id).or_else(|| values.get(&id));
                    let why = "an operand has no value";
                    let data = data.ok_or_else(|| ExecError::Operands { op: node.name.clone(), why })?;
                    Ok((graph.shape(id), data))
                })
                .collect();
            eval_node(&node.op, &operands?, graph.shape(node.output), graph.tensors[node.output].dtype)?
        };
        watch(node.output, &output);
        values.insert(node.output, output);
        for id in &node.inputs {
            if consumers[*id].iter().all(|&c| c <= index) {
                values.remove(id);
            }
        }
    }
    let missing =
        |id: TensorId| ExecError::Operands { op: graph.tensors[id].name.clone(), why: "an output is not computed" };
    graph
        .outputs
        .iter()
        .map(|&id| graph.constant(id).or_else(|| values.get(&id)).cloned().ok_or_else(|| missing(id)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::elementwise::binary_i64;
    use super::*;
    use crate::graph::{Attention, Binary, HeadView, Window};

    fn float(op: &Op, inputs: &[(&[usize], Vec<f32>)], shape: &[usize]) -> Vec<f32> {
        let data: Vec<(&[usize], Data)> = inputs.iter().map(|(s, v)| (*s, Data::Float(v.clone()))).collect();
        let operands: Vec<Operand<'_>> = data.iter().map(|(s, d)| (*s, d)).collect();
        eval_node(op, &operands, shape, DataType::Float).unwrap().floats().unwrap().to_vec()
    }

    #[test]
    fn products_broadcast_their_batches() {
        let a = (0..8).map(|v| v as f32).collect();
        let b = vec![1.0, 0.0, 0.0, 2.0];
        let y = float(&Op::MatMul { transpose_b: false }, &[(&[2, 2, 2], a), (&[2, 2], b)], &[2, 2, 2]);
        assert_eq!(y, [0.0, 2.0, 2.0, 6.0, 4.0, 10.0, 6.0, 14.0]);
    }

    #[test]
    fn binary_broadcasts_both_sides() {
        let y = float(&Op::Binary(Binary::Sub), &[(&[2, 1], vec![10.0, 20.0]), (&[3], vec![1.0, 2.0, 3.0])], &[2, 3]);
        assert_eq!(y, [9.0, 8.0, 7.0, 19.0, 18.0, 17.0]);
    }

    #[test]
    fn convolution_matches_a_hand_computed_window() {
        let window = Window { kernel: [2, 2], strides: [1, 1], pads: [0, 0, 1, 1], dilations: [1, 1], groups: 1 };
        let x = (1..=4).map(|v| v as f32).collect();
        let y = float(&Op::Conv2d(window), &[(&[1, 1, 2, 2], x), (&[1, 1, 2, 2], vec![1.0; 4])], &[1, 1, 2, 2]);
        assert_eq!(y, [10.0, 6.0, 7.0, 4.0]);
    }

    #[test]
    fn slices_run_backwards() {
        let op = Op::Slice { starts: vec![2], steps: vec![-1] };
        assert_eq!(float(&op, &[(&[3], vec![1.0, 2.0, 3.0])], &[3]), [3.0, 2.0, 1.0]);
    }

    #[test]
    fn integer_division_truncates_and_modulo_floors() {
        assert_eq!(binary_i64(Binary::Div, -7, 2), -3);
        assert_eq!(binary_i64(Binary::Mod, -7, 3), 2);
        assert_eq!(binary_i64(Binary::Mod, 7, -3), -2);
        assert_eq!(binary_i64(Binary::Div, 1, 0), 0);
    }

    #[test]
    fn operands_that_do_not_fit_are_an_error() {
        let x = Data::Float(vec![1.0; 6]);
        let w = Data::Float(vec![1.0; 4]);
        assert!(eval_node(&Op::Linear, &[(&[2, 3], &x), (&[2, 2], &w)], &[2, 2], DataType::Float).is_err());
        assert!(eval_node(&Op::Binary(Binary::Add), &[(&[2, 3], &x), (&[4], &w)], &[2, 3], DataType::Float).is_err());
        assert!(eval_node(&Op::Softmax, &[], &[1], DataType::Float).is_err());
    }

    #[test]
    fn attention_is_the_softmax_of_the_products() {
        let view = HeadView { offset: 0, batch: 4, head: 0, row: 2 };
        let a = Attention {
            batch: 1,
            heads: 1,
            kv_heads: 1,
            n_q: 2,
            n_k: 2,
            head_dim: 2,
            v_dim: 2,
            scale: 0.0,
            causal: None,
            q: view,
            k: view,
            v: view,
            out: view,
        };
        let x = || vec![1.0, 2.0, 3.0, 4.0];
        let y = float(&Op::Attention(a), &[(&[1, 2, 2], x()), (&[1, 2, 2], x()), (&[1, 2, 2], x())], &[1, 2, 2]);
        assert_eq!(y, [2.0, 3.0, 2.0, 3.0]);
    }
}
