//! What the profile of the published I-ViT operators needs around the lowering: attention in its parts, and a count of the
//! published form's limits on the user's data.

use super::runnable::{RunError, Runnable};
use crate::graph::{Attention, Binary, Data, DataType, Graph, HeadView, Node, Op, TensorId};
use crate::model_file::{Values, integers};
use crate::program::Program;
use shiftformer::arith::ivit::{SIGMOID_BITS, ShiftExp, ShiftGeluRow, ShiftmaxRow};
use shiftformer::ops;
use std::collections::HashMap;

/// Replaces attention by products, scaling and softmax. Returns remarks on those that stay whole because the published
/// form has no counterpart: with a mask, with shared key heads, or with heads that are not regular slices.
///
/// Tensors keep their ids; new ones come behind them.
pub fn take_attention_apart(graph: &mut Graph) -> Vec<String> {
    let mut notes = Vec::new();
    for node in std::mem::take(&mut graph.nodes) {
        let Op::Attention(attention) = &node.op else {
            graph.nodes.push(node);
            continue;
        };
        if let Err(why) = replace(graph, &node, attention) {
            notes.push(format!(
                "`{}`: {why}; the published form has no counterpart, the default one is used",
                node.name
            ));
            graph.nodes.push(node);
        }
    }
    notes
}

/// Strides of `[batch, heads, rows, width]`.
fn strides(view: HeadView) -> [usize; 4] {
    [view.batch, view.head, view.row, 1]
}

fn replace(graph: &mut Graph, node: &Node, a: &Attention) -> Result<(), &'static str> {
    if node.inputs.len() > 3 {
        return Err("attention with a mask or bias");
    }
    if a.heads != a.kv_heads {
        return Err("query heads share key heads");
    }
    let sizes = [(a.q, a.n_q, a.head_dim), (a.k, a.n_k, a.head_dim), (a.v, a.n_k, a.v_dim)];
    let plans: Vec<HeadSlices> = sizes
        .iter()
        .zip(&node.inputs)
        .map(|(&(view, rows, width), &id)| {
            HeadSlices::new(view, [a.batch, a.heads, rows, width], graph.tensors[id].len())
                .ok_or("heads are not regular slices")
        })
        .collect::<Result<_, _>>()?;
    let order = dense_order(a.out, [a.batch, a.heads, a.n_q, a.v_dim]).ok_or("the output is not dense")?;
    let name = &node.name;
    let operands: Vec<TensorId> = plans
        .iter()
        .zip(&node.inputs)
        .zip(["q", "k", "v"])
        .map(|((plan, &id), part)| plan.emit(graph, &format!("{name}/{part}"), id))
        .collect();
    let scores = vec![a.batch, a.heads, a.n_q, a.n_k];
    let product = Op::MatMul { transpose_b: true };
    let products = graph.add_node(
        &format!("{name}/scores"),
        product,
        vec![operands[0], operands[1]],
        scores.clone(),
        DataType::Float,
    );
    let factor = graph.add_constant(format!("{name}/scale"), Vec::new(), Data::Float(vec![a.scale]));
    let scaled = graph.add_node(
        &format!("{name}/scaled"),
        Op::Binary(Binary::Mul),
        vec![products, factor],
        scores.clone(),
        DataType::Float,
    );
    let softmax = graph.add_node(&format!("{name}/softmax"), Op::Softmax, vec![scaled], scores, DataType::Float);
    let values = vec![a.batch, a.heads, a.n_q, a.v_dim];
    let product = Op::MatMul { transpose_b: false };
    let heads =
        graph.add_node(&format!("{name}/values"), product, vec![softmax, operands[2]], values.clone(), DataType::Float);
    let shape = order.iter().map(|&axis| values[axis]).collect();
    let turned =
        graph.add_node(&format!("{name}/heads"), Op::Transpose { perm: order }, vec![heads], shape, DataType::Float);
    graph.nodes.push(Node { name: name.clone(), op: Op::Reshape, inputs: vec![turned], output: node.output });
    Ok(())
}

/// Axes in memory order, where the view covers a whole tensor.
fn dense_order(view: HeadView, sizes: [usize; 4]) -> Option<Vec<usize>> {
    let strides = strides(view);
    let mut order: Vec<usize> = (0..4).collect();
    // Axes of one element may have any stride: they go first.
    order.sort_by_key(|&axis| std::cmp::Reverse(if sizes[axis] == 1 { usize::MAX } else { strides[axis] }));
    let mut expected = 1;
    for &axis in order.iter().rev().filter(|&&axis| sizes[axis] > 1) {
        if strides[axis] != expected {
            return None;
        }
        expected *= sizes[axis];
    }
    (view.offset == 0).then_some(order)
}

/// A head view as a reshape, a slice, a transposition and a reshape.
struct HeadSlices {
    /// The tensor as nested dimensions.
    dims: Vec<usize>,
    /// First index in each.
    starts: Vec<usize>,
    /// Indices taken of each.
    sizes: Vec<usize>,
    /// Which axis of `[batch, heads, rows, width]` each is.
    axes: Vec<usize>,
    shape: [usize; 4],
}

impl HeadSlices {
    fn new(view: HeadView, shape: [usize; 4], len: usize) -> Option<Self> {
        let strides = strides(view);
        let mut axes: Vec<usize> = (0..4).filter(|&axis| shape[axis] > 1 || axis == 3).collect();
        axes.sort_by_key(|&axis| std::cmp::Reverse(strides[axis]));
        let (mut outer, mut rest) = (len, view.offset);
        let (mut dims, mut starts) = (Vec::new(), Vec::new());
        for &axis in &axes {
            let stride = strides[axis];
            if stride == 0 || outer % stride != 0 {
                return None;
            }
            let (dim, start) = (outer / stride, rest / stride);
            if start + shape[axis] > dim {
                return None;
            }
            dims.push(dim);
            starts.push(start);
            (outer, rest) = (stride, rest % stride);
        }
        let sizes = axes.iter().map(|&axis| shape[axis]).collect();
        (outer == 1).then_some(Self { dims, starts, sizes, axes, shape })
    }

    fn emit(&self, graph: &mut Graph, name: &str, id: TensorId) -> TensorId {
        let mut id =
            graph.add_node(&format!("{name}/split"), Op::Reshape, vec![id], self.dims.clone(), DataType::Float);
        if self.dims != self.sizes {
            let op = Op::Slice { starts: self.starts.clone(), steps: vec![1; self.dims.len()] };
            id = graph.add_node(&format!("{name}/slice"), op, vec![id], self.sizes.clone(), DataType::Float);
        }
        let mut perm: Vec<usize> = (0..self.axes.len()).collect();
        perm.sort_by_key(|&d| self.axes[d]);
        let shape = perm.iter().map(|&d| self.sizes[d]).collect();
        id = graph.add_node(&format!("{name}/turn"), Op::Transpose { perm }, vec![id], shape, DataType::Float);
        graph.add_node(name, Op::Reshape, vec![id], self.shape.to_vec(), DataType::Float)
    }
}

/// Counts of one operator.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    /// Rows seen (Shiftmax), or positive inputs seen (ShiftGELU).
    seen: u64,
    /// Those beyond a limit.
    beyond: u64,
}

/// The operator whose input a run is looking at.
enum Watched {
    Shiftmax(ops::shiftmax::Shiftmax, u32),
    ShiftGelu(ops::shiftgelu::ShiftGelu),
}

impl Watched {
    /// Looks at the rows of an input.
    fn count(&self, values: &[i32]) -> Count {
        let mut count = Count::default();
        match self {
            Watched::Shiftmax(op, bits) => {
                let Some(exp) = ShiftExp::new(op.period, op.halvings) else { return count };
                for row in values.chunks_exact(op.n.max(1) as usize) {
                    count.seen += 1;
                    count.beyond += u64::from(ShiftmaxRow::new(exp, *bits, row.iter().copied()).sum_saturates());
                }
            }
            Watched::ShiftGelu(op) => {
                let Some(exp) = ShiftExp::new(op.period, op.halvings) else { return count };
                for row in values.chunks_exact(op.n.max(1) as usize) {
                    let statistics = ShiftGeluRow::new(exp, SIGMOID_BITS, row.iter().copied());
                    for &x in row.iter().filter(|&&x| x > 0) {
                        count.seen += 1;
                        count.beyond += u64::from(statistics.is_out_of_reach(x));
                    }
                }
            }
        }
        count
    }
}

/// Counts while a model runs.
struct Watch<'a> {
    program: &'a Program,
    /// Watched operators by the operator that makes their input.
    by_producer: &'a HashMap<usize, Vec<(usize, Watched)>>,
    counts: HashMap<usize, Count>,
}

impl Watch<'_> {
    fn output(&mut self, op: usize, output: &[u8]) {
        for (watched, how) in self.by_producer.get(&op).into_iter().flatten() {
            let dtype = self.program.tensors[self.program.ops[op].output].dtype;
            let found = how.count(&integers(output, dtype));
            let count = self.counts.entry(*watched).or_default();
            count.seen += found.seen;
            count.beyond += found.beyond;
        }
    }
}

/// Runs `samples` and states, with counts, where the published form leaves its range.
///
/// # Errors
/// As [`Runnable::watch`].
pub fn limits(runnable: &Runnable<'_>, program: &Program, samples: &[&Vec<Values>]) -> Result<Vec<String>, RunError> {
    let mut by_producer: HashMap<usize, Vec<(usize, Watched)>> = HashMap::new();
    for (index, op) in program.ops.iter().enumerate() {
        let watched = match op.op {
            ops::Op::Shiftmax(params) => Watched::Shiftmax(params, program.tensors[op.output].dtype.bytes() as u32 * 8),
            ops::Op::ShiftGelu(params) => Watched::ShiftGelu(params),
            _ => continue,
        };
        let input = op.inputs.first().copied().flatten();
        let producer = program.ops[..index].iter().rposition(|p| Some(p.output) == input);
        if let Some(producer) = producer {
            by_producer.entry(producer).or_default().push((index, watched));
        }
    }
    let mut watch = Watch { program, by_producer: &by_producer, counts: HashMap::new() };
    runnable.watch(samples, |op, output| watch.output(op, output))?;
    let mut counts: Vec<(usize, Count)> = watch.counts.into_iter().filter(|(_, count)| count.beyond > 0).collect();
    counts.sort_by_key(|&(index, _)| index);
    let describe = |(index, Count { seen, beyond }): (usize, Count)| {
        let op = &program.ops[index];
        match op.op {
            ops::Op::Shiftmax(_) => format!(
                "`{}`: the sum of exponentials saturates in {beyond} of {seen} rows of the calibration data; their probabilities do not sum to one (limit of the published Shiftmax)",
                op.name
            ),
            _ => format!(
                "`{}`: {beyond} of {seen} positive inputs of the calibration data lie too far below their row's maximum; their sigmoid is that of 0 or less (limit of the published ShiftGELU)",
                op.name
            ),
        }
    };
    Ok(counts.into_iter().map(describe).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::exec;

    /// Attention over one `[n, 3, heads, d]` projection, as ViT exports have it, and over separate `[heads, n, d]` tensors.
    fn graph(fused_projection: bool) -> Graph {
        let (n, heads, d) = (5, 2, 3);
        let mut graph = Graph::default();
        let (inputs, views) = if fused_projection {
            let x = graph.add_tensor("qkv", vec![1, n, 3 * heads * d], DataType::Float);
            let view = |part: usize| HeadView { offset: part * heads * d, batch: 0, head: d, row: 3 * heads * d };
            (vec![x, x, x], [view(0), view(1), view(2)])
        } else {
            let ids = ["q", "k", "v"].map(|name| graph.add_tensor(name, vec![1, heads, n, d], DataType::Float));
            (ids.to_vec(), [HeadView { offset: 0, batch: heads * n * d, head: n * d, row: d }; 3])
        };
        graph.inputs = inputs.clone();
        graph.inputs.dedup();
        let [q, k, v] = views;
        let out = HeadView { offset: 0, batch: n * heads * d, head: d, row: heads * d };
        let attention = Attention {
            batch: 1,
            heads,
            kv_heads: heads,
            n_q: n,
            n_k: n,
            head_dim: d,
            v_dim: d,
            scale: 0.6,
            causal: None,
            q,
            k,
            v,
            out,
        };
        let output =
            graph.add_node("attention", Op::Attention(attention), inputs, vec![1, n, heads * d], DataType::Float);
        graph.outputs = vec![output];
        graph
    }

    #[test]
    fn attention_in_parts_is_the_same_function() {
        for fused_projection in [false, true] {
            let whole = graph(fused_projection);
            let mut parts = whole.clone();
            assert!(take_attention_apart(&mut parts).is_empty());
            assert!(parts.nodes.iter().all(|node| !matches!(node.op, Op::Attention(_))));
            let sample: Vec<Data> = whole
                .inputs
                .iter()
                .map(|&id| {
                    Data::Float(
                        (0..whole.tensors[id].len()).map(|i| ((i * 37 + id * 11) % 17) as f32 / 5.0 - 1.5).collect(),
                    )
                })
                .collect();
            let run = |graph: &Graph| exec::run(graph, &sample, &mut |_, _| {}).unwrap()[0].to_f32();
            for (a, b) in run(&whole).iter().zip(run(&parts)) {
                assert!((a - b).abs() < 1e-5, "{a} {b}");
            }
        }
    }

    #[test]
    fn rows_beyond_the_limits_are_counted() {
        // 2^15 * 1270 for each of 60 equal scores is beyond 2^31; one high score among them is not.
        let shiftmax = ops::shiftmax::Shiftmax { rows: 2, n: 60, period: 1270, halvings: 15 };
        let mut scores = vec![0; 120];
        scores[60] = 127 * 200;
        let count = Watched::Shiftmax(shiftmax, 8).count(&scores);
        assert_eq!((count.seen, count.beyond), (2, 1));
        // Period 10: 23 halvings are 230 scaled, 160 unscaled steps.
        let shiftgelu = ops::shiftgelu::ShiftGelu { rows: 1, n: 5, period: 10, halvings: 23 };
        let count = Watched::ShiftGelu(shiftgelu).count(&[200, 100, 30, -5, 0]);
        assert_eq!((count.seen, count.beyond), (3, 1));
    }

    #[test]
    fn masked_attention_stays_whole_with_a_remark() {
        let mut graph = graph(false);
        let mask = graph.add_constant("mask", vec![5, 5], Data::Float(vec![0.0; 25]));
        graph.nodes[0].inputs.push(mask);
        let notes = take_attention_apart(&mut graph);
        assert!(notes[0].contains("mask") && matches!(graph.nodes[0].op, Op::Attention(_)), "{notes:?}");
    }
}
