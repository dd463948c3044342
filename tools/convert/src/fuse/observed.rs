//! Rewrites that need to know what the samples show of the inputs: their sizes, the largest positions, hidden rows.

use super::rewriter::{NodeId, Rewriter};
use crate::graph::exec::{self, eval_node};
use crate::graph::{Attention, Binary, Data, DataType, Graph, HeadView, Node, Op, Reduce, TensorId, Unary};
use std::collections::HashMap;

/// Rewrites `graph` by what `data`, the values of the inputs in every sample, shows. `images`: whether inputs of three and
/// more dimensions are pixels with a normalization of their own.
pub fn observe(graph: Graph, data: &[Vec<Data>], images: bool) -> Graph {
    if data.is_empty() {
        return graph;
    }
    let hidden = hidden_rows(&graph, data);
    let mut raw_inputs = graph.raw_inputs.clone();
    let (inputs, outputs) = (graph.inputs.clone(), graph.outputs.clone());
    let mut r = Rewriter::new(graph);
    for id in 0..r.end() {
        let _ = positions(&mut r, id, &inputs, data);
        if let Some(&Some(how)) = hidden.get(id) {
            visible_rows(&mut r, id, how);
        }
    }
    for (place, &input) in inputs.iter().enumerate() {
        let values: Option<Vec<&[f32]>> = data.iter().map(|sample| sample.get(place)?.floats()).collect();
        let Some(values) = values.filter(|_| !outputs.contains(&input)) else { continue };
        // A mask of infinities has no size.
        if values.iter().any(|sample| sample.iter().any(|v| !v.is_finite())) {
            continue;
        }
        if images && r.shape(input).len() >= 3 {
            continue;
        }
        if let Some(scale) = normalization(&mut r, input, &values).or_else(|| unlike_columns(&mut r, input, &values)) {
            raw_inputs.insert(input, scale);
        }
    }
    Graph { raw_inputs, ..r.finish() }
}

/// Rows of a table of positions at most.
const MOST_POSITIONS: usize = 1 << 14;
/// Values of such a table at most.
const MOST_ENTRIES: usize = 1 << 20;
/// Nodes between a position and its angles at most.
const MOST_NODES: usize = 32;

/// A sine or cosine of angles that follow from whole positions becomes a table with a row for every position: angles of
/// some thousand radians have no exact form in 16 bits.
///
/// The table reaches to the next power of two above the largest position of the samples; positions beyond it are refused
/// when the model runs.
fn positions(r: &mut Rewriter, id: NodeId, inputs: &[TensorId], data: &[Vec<Data>]) -> Option<()> {
    let Node { op: Op::Unary(Unary::Sin | Unary::Cos), output, name, .. } = r.node(id)? else { return None };
    let (output, name) = (*output, name.clone());
    let (source, nodes) = angles(r, id)?;
    let place = inputs.iter().position(|&input| input == source)?;
    let seen = data.iter().filter_map(|sample| sample.get(place)?.ints());
    let (mut least, mut most) = (i64::MAX, 0);
    seen.flatten().for_each(|&p| (least, most) = (least.min(p), most.max(p)));
    let rows = usize::try_from(most).ok()?.checked_add(1)?.next_power_of_two();
    let (count, shape) = (r.shape(source).iter().product::<usize>(), r.shape(output).to_vec());
    let len: usize = shape.iter().product();
    let width = (count > 0 && len.is_multiple_of(count)).then(|| len / count)?;
    if least < 0 || rows > MOST_POSITIONS || rows * width > MOST_ENTRIES {
        return None;
    }
    let value = |positions: Vec<i64>| evaluate(r, &nodes, source, output, positions);
    let (inner, table) = table(&value, count, width, rows, &shape)?;
    let outer = width / inner;
    let table = r.add_constant(&format!("{name}/table"), vec![rows, width], table);
    let flat = r.add_typed(id, &name, Op::Reshape, vec![source], (vec![count], DataType::Int));
    let looked = r.add(id, &name, Op::Gather { axis: 0 }, vec![table, flat], vec![count, width]);
    let apart = r.add(id, &name, Op::Reshape, vec![looked], vec![count, outer, inner]);
    let turned = r.add(id, &name, Op::Transpose { perm: vec![1, 0, 2] }, vec![apart], vec![outer, count, inner]);
    r.replace(id, Op::Reshape, vec![turned]);
    Some(())
}

/// The integer input that the angle of `id` is computed from, element by element or in products with constants, and the
/// nodes in between in order.
fn angles(r: &Rewriter, id: NodeId) -> Option<(TensorId, Vec<NodeId>)> {
    let (mut nodes, mut source, mut pending) = (vec![id], None, vec![id]);
    while let Some(next) = pending.pop() {
        for &operand in &r.node(next)?.inputs {
            if r.constant(operand).is_some() {
                continue;
            }
            let Some(producer) = r.producer_id(operand) else {
                if r.dtype(operand) != DataType::Int || source.is_some_and(|source| source != operand) {
                    return None;
                }
                source = Some(operand);
                continue;
            };
            let exact = match &r.node(producer)?.op {
                Op::Unary(kind) => matches!(kind, Unary::Cast | Unary::Neg),
                Op::Binary(kind) => matches!(kind, Binary::Add | Binary::Sub | Binary::Mul | Binary::Div),
                Op::MatMul { .. } | Op::Linear | Op::Reshape | Op::Transpose { .. } | Op::Expand => true,
                Op::Concat { .. } | Op::Slice { .. } => true,
                _ => false,
            };
            if !exact || nodes.len() >= MOST_NODES {
                return None;
            }
            if !nodes.contains(&producer) {
                nodes.push(producer);
                pending.push(producer);
            }
        }
    }
    Some((source?, nodes))
}

/// The value of `output`, which `nodes` compute from the integers `source`.
fn evaluate(
    r: &Rewriter,
    nodes: &[NodeId],
    source: TensorId,
    output: TensorId,
    positions: Vec<i64>,
) -> Option<Vec<f32>> {
    let mut known: HashMap<TensorId, Data> = HashMap::from([(source, Data::Int(positions))]);
    let mut waiting = nodes.to_vec();
    while !waiting.is_empty() {
        let before = waiting.len();
        let mut later = Vec::new();
        for id in waiting {
            let node = r.node(id)?;
            let operand = |&input: &TensorId| Some((r.shape(input), r.constant(input).or_else(|| known.get(&input))?));
            let Some(operands) = node.inputs.iter().map(operand).collect::<Option<Vec<_>>>() else {
                later.push(id);
                continue;
            };
            let value = eval_node(&node.op, &operands, r.shape(node.output), r.dtype(node.output)).ok()?;
            known.insert(node.output, value);
        }
        if later.len() == before {
            return None;
        }
        waiting = later;
    }
    known.get(&output)?.floats().map(<[f32]>::to_vec)
}

/// The table of a function of `count` positions that gives `[outer, count, inner]` values, each of one position alone: the
/// inner width and `[rows, outer * inner]` values.
fn table(
    value: &dyn Fn(Vec<i64>) -> Option<Vec<f32>>,
    count: usize,
    width: usize,
    rows: usize,
    shape: &[usize],
) -> Option<(usize, Vec<f32>)> {
    let mut table = vec![0.0f32; rows * width];
    let mut inner = 1;
    let mut inners: Vec<usize> = vec![1];
    for &d in shape.iter().rev() {
        inner *= d;
        inners.push(inner);
    }
    inners.retain(|&inner| width.is_multiple_of(inner));
    inners.dedup();
    // From two values of every position one sees which elements are theirs.
    let mix = |seed: usize| (0..count).map(|n| ((n * 31 + seed * 17 + n * n * 7) % rows) as i64).collect::<Vec<i64>>();
    inners.into_iter().rev().find_map(|inner| {
        let outer = width / inner;
        let place = |n: usize, a: usize, b: usize| (a * count + n) * inner + b;
        let each = |f: &mut dyn FnMut(usize, usize, usize)| {
            for n in 0..count {
                (0..outer).for_each(|a| (0..inner).for_each(|b| f(n, a, b)));
            }
        };
        for first in (0..rows).step_by(count) {
            let values = value((first..first + count).map(|v| v.min(rows - 1) as i64).collect())?;
            each(&mut |n, a, b| {
                if let Some(entry) = table.get_mut((first + n) * width + a * inner + b) {
                    *entry = values[place(n, a, b)];
                }
            });
        }
        let agrees = (1..6).all(|seed| {
            let positions = mix(seed);
            let Some(values) = value(positions.clone()) else { return false };
            let mut same = true;
            each(&mut |n, a, b| {
                let entry = table[positions[n] as usize * width + a * inner + b];
                same &= (entry - values[place(n, a, b)]).abs() <= 1e-5;
            });
            same
        });
        agrees.then(|| (inner, table.clone()))
    })
}

/// Below this a mask hides whatever the score is: `f32` keeps nothing of it in the sum.
const ABSORBS: f32 = -1e6;
/// A hidden key behind [`Unary::Clip`], and what tells it from a bias.
const CLIPPED: (f32, f32) = (-80.0, -60.0);

/// How the keys of a row are hidden.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hiding {
    /// By finite numbers: the row is the mean of all values.
    Finite,
    /// By minus infinity: the row is 0.
    Infinite,
}

/// By node: whether an attention has rows in the samples whose keys are all hidden.
fn hidden_rows(graph: &Graph, data: &[Vec<Data>]) -> Vec<Option<Hiding>> {
    let mut hidden = vec![None; graph.nodes.len()];
    let attentions: Vec<(usize, &Node)> =
        graph.nodes.iter().enumerate().filter(|(_, node)| matches!(node.op, Op::Attention(_))).collect();
    let mut biased: Vec<TensorId> = attentions.iter().filter_map(|(_, node)| node.inputs.get(3).copied()).collect();
    biased.retain(|&bias| graph.constant(bias).is_none());
    biased.sort_unstable();
    biased.dedup();
    if biased.is_empty() {
        return hidden;
    }
    // Of the model only what makes the masks is run.
    let (mut needed, mut nodes) = (biased.clone(), Vec::new());
    for node in graph.nodes.iter().rev() {
        if needed.contains(&node.output) {
            needed.extend(&node.inputs);
            nodes.push(node.clone());
        }
    }
    nodes.reverse();
    let masks = Graph { nodes, outputs: biased.clone(), ..graph.clone() };
    for sample in data {
        // What cannot be evaluated is said by the calibration.
        let Ok(values) = exec::run(&masks, sample, &mut |_, _| ()) else { return hidden };
        for (&id, value) in biased.iter().zip(&values) {
            let Some(values) = value.floats() else { continue };
            let width = graph.shape(id).last().copied().unwrap_or(1).max(1);
            let mut rows = values.chunks_exact(width).filter(|row| row.iter().all(|&v| v <= ABSORBS));
            let Some(row) = rows.next() else { continue };
            let how = if row.iter().all(|&v| v == f32::NEG_INFINITY) { Hiding::Infinite } else { Hiding::Finite };
            for &(index, _) in attentions.iter().filter(|(_, node)| node.inputs.get(3) == Some(&id)) {
                hidden[index] = Some(how);
            }
        }
    }
    hidden
}

/// Whether the heads of `view` lie side by side in rows of `row` elements, else one behind the other; `None` where they do
/// neither.
fn in_rows(view: HeadView, [n, row, width]: [usize; 3]) -> Option<bool> {
    match (view.offset, view.row, view.head) {
        (0, r, h) if r == row && h == width => Some(true),
        (0, r, h) if r == width && h == n * width => Some(false),
        _ => None,
    }
}

/// Rows of queries whose keys are all hidden: by finite numbers, their queries become 0, so that all keys weigh the same; by
/// minus infinity, the result becomes 0.
fn visible_rows(r: &mut Rewriter, id: NodeId, how: Hiding) {
    let Some(Node { op: Op::Attention(attention), inputs, name, output }) = r.node(id) else { return };
    let (attention, inputs, name, output) = (attention.clone(), inputs.clone(), name.clone(), *output);
    let Attention { batch, heads, n_q, n_k, head_dim, v_dim, q, out, .. } = attention;
    let (target, view, width) = match how {
        Hiding::Finite => (inputs[0], q, head_dim),
        Hiding::Infinite => (output, out, v_dim),
    };
    let Some(rows) = in_rows(view, [n_q, heads * width, width]) else { return };
    let whole = r.shape(target).iter().product::<usize>() == batch * n_q * heads * width;
    let bias = inputs[3];
    let rank = r.shape(bias).len();
    let mut grid = vec![1; 4usize.saturating_sub(rank)];
    grid.extend(r.shape(bias));
    let [own_batch, own_heads, own_rows, keys] = grid[..] else { return };
    if !whole || keys != n_k || inputs.len() > 4 {
        return;
    }
    let shape = r.shape(bias).to_vec();
    let clip = Op::Unary(Unary::Clip { low: CLIPPED.0, high: 0.0 });
    let near = r.add(id, &name, clip, vec![bias], shape.clone());
    let mut most = shape;
    most[rank - 1] = 1;
    let over_keys = Op::Reduce { kind: Reduce::Max, axes: vec![rank - 1], keep: true };
    let best = r.add(id, &name, over_keys, vec![near], most.clone());
    let limit = r.add_constant(&name, Vec::new(), vec![CLIPPED.1]);
    let seen = r.add_typed(id, &name, Op::Binary(Binary::Greater), vec![best, limit], (most.clone(), DataType::Bool));
    let factor = r.add(id, &name, Op::Unary(Unary::Cast), vec![seen], most);
    let flags = r.add(id, &name, Op::Reshape, vec![factor], vec![own_batch, own_heads, own_rows, 1]);
    let (flags, grid) = if rows {
        let turned = vec![own_batch, own_rows, own_heads, 1];
        let flags = r.add(id, &name, Op::Transpose { perm: vec![0, 2, 1, 3] }, vec![flags], turned);
        (flags, vec![batch, n_q, heads, width])
    } else {
        (flags, vec![batch, heads, n_q, width])
    };
    let shape = r.shape(target).to_vec();
    match how {
        Hiding::Finite => {
            let apart = r.add(id, &name, Op::Reshape, vec![target], grid.clone());
            let zeroed = r.add(id, &name, Op::Binary(Binary::Mul), vec![apart, flags], grid);
            let query = r.add(id, &name, Op::Reshape, vec![zeroed], shape);
            r.replace(id, Op::Attention(attention), [vec![query], inputs[1..].to_vec()].concat());
        }
        Hiding::Infinite => {
            let read = [&inputs[..3], &[near]].concat();
            let y = r.add(id, &name, Op::Attention(attention), read, shape);
            let apart = r.add(id, &name, Op::Reshape, vec![y], grid.clone());
            let zeroed = r.add(id, &name, Op::Binary(Binary::Mul), vec![apart, flags], grid);
            r.replace(id, Op::Reshape, vec![zeroed]);
        }
    }
}

/// Noise over signal beyond which an input in 8 bits loses too much: 30 dB.
const LOSSY: f64 = 1e-3;
/// The same for the columns of a dense layer: 20 dB. Features whose columns differ less stay in 8 bits.
const LOSSY_COLUMNS: f64 = 1e-2;
/// Steps of a 32-bit input in the standard deviation of its finest channel.
const STEPS_OF_DEVIATION: f64 = 4096.0;
/// Steps of a 32-bit input at most.
const MOST_STEPS: f64 = 1e9;

/// Step of an 8-bit tensor with these values.
fn narrow_step(values: &[&[f32]]) -> f64 {
    let extent = values
        .iter()
        .flat_map(|sample| sample.iter())
        .fold((0.0f32, 0.0f32), |(low, high), &v| (low.min(v), high.max(v)));
    f64::from(extent.1 - extent.0) / 255.0
}

/// The scale of a 32-bit input whose finest channel deviates by `deviation`.
fn raw_scale(values: &[&[f32]], deviation: f64) -> f64 {
    let most = values.iter().flat_map(|sample| sample.iter()).fold(0.0f32, |m, v| m.max(v.abs()));
    (deviation / STEPS_OF_DEVIATION).max(f64::from(most) / MOST_STEPS)
}

/// Follows an input through movement that only one node reads; returns the tensor and, for each of its elements, that of
/// the input.
fn behind_movement(r: &Rewriter, mut x: TensorId) -> Option<(TensorId, Vec<usize>)> {
    let count: usize = r.shape(x).iter().product();
    let mut places = Data::Int((0..count as i64).collect());
    while let Some(user) = r.only_user(x) {
        let node = r.node(user)?;
        if !matches!(node.op, Op::Reshape | Op::Transpose { .. }) {
            break;
        }
        places = eval_node(&node.op, &[(r.shape(x), &places)], r.shape(node.output), DataType::Int).ok()?;
        x = node.output;
    }
    Some((x, places.ints()?.iter().map(|&place| place as usize).collect()))
}

/// Factors and offsets of the elements of `x` become constants as short as they can be: along one dimension or whole.
fn along_one(shape: &[usize], values: &[f64]) -> (Vec<usize>, Vec<f32>) {
    let strides = crate::graph::contiguous_strides(shape);
    let short = (0..shape.len())
        .find(|&d| values.iter().enumerate().all(|(i, v)| *v == values[i / strides[d] % shape[d] * strides[d]]));
    match short {
        Some(d) => {
            let own = (0..shape.len()).map(|i| if i == d { shape[d] } else { 1 }).collect();
            (own, (0..shape[d]).map(|c| values[c * strides[d]] as f32).collect())
        }
        None => (shape.to_vec(), values.iter().map(|&v| v as f32).collect()),
    }
}

/// A normalization at the entry of the model, where 8 bits for the raw values would lose it: `x * factor + offset` of an
/// input in 32 bits. Returns the scale of the input.
fn normalization(r: &mut Rewriter, input: TensorId, samples: &[&[f32]]) -> Option<f64> {
    let (x, places) = behind_movement(r, input)?;
    let shape = r.shape(x).to_vec();
    let (mut factor, mut offset) = (vec![1.0f64; places.len()], vec![0.0f64; places.len()]);
    let (mut last, mut t) = (None, x);
    while let Some(user) = r.only_user(t) {
        let Node { op: Op::Binary(kind), inputs, output, .. } = r.node(user)? else { break };
        let (other, swapped) = if inputs[0] == t { (inputs[1], false) } else { (inputs[0], true) };
        let Some(constant) = r.constant(other).filter(|_| r.shape(*output) == shape && other != t) else { break };
        let wide = eval_node(&Op::Expand, &[(r.shape(other), constant)], &shape, DataType::Float).ok()?;
        let constant: Vec<f64> = wide.floats()?.iter().map(|&v| f64::from(v)).collect();
        for ((f, o), c) in factor.iter_mut().zip(&mut offset).zip(constant) {
            (*f, *o) = match (kind, swapped) {
                (Binary::Mul, _) => (*f * c, *o * c),
                (Binary::Div, false) => (*f / c, *o / c),
                (Binary::Add, _) => (*f, *o + c),
                (Binary::Sub, false) => (*f, *o - c),
                (Binary::Sub, true) => (-*f, c - *o),
                _ => return None,
            };
        }
        (last, t) = (Some(user), *output);
    }
    let last = last?;
    if factor.iter().any(|f| *f == 0.0 || !f.is_finite())
        || offset.iter().all(|&o| o == 0.0) && factor.windows(2).all(|pair| pair[0] == pair[1])
    {
        return None;
    }
    let step = narrow_step(samples);
    let (mut noise, mut signal) = (0.0, 0.0);
    for sample in samples {
        for (i, &place) in places.iter().enumerate() {
            noise += (step * factor[i]).powi(2) / 12.0;
            signal += (f64::from(sample[place]) * factor[i] + offset[i]).powi(2);
        }
    }
    if noise <= LOSSY * signal {
        return None;
    }
    let finest = factor.iter().fold(f64::INFINITY, |m, f| m.min(1.0 / f.abs()));
    let name = r.node(last)?.name.clone();
    enter(r, last, &name, x, (&factor, &offset));
    Some(raw_scale(samples, finest))
}

/// Makes node `at` the sum of `x * factor` and `offset`.
fn enter(r: &mut Rewriter, at: NodeId, name: &str, x: TensorId, (factor, offset): (&[f64], &[f64])) {
    let shape = r.shape(x).to_vec();
    let (own, values) = along_one(&shape, factor);
    let factor = r.add_constant(&format!("{name}/factor"), own, values);
    let scaled = r.add(at, &format!("{name}/scaled"), Op::Binary(Binary::Mul), vec![x, factor], shape.clone());
    let (own, values) = along_one(&shape, offset);
    let offset = r.add_constant(&format!("{name}/offset"), own, values);
    r.replace(at, Op::Binary(Binary::Add), vec![scaled, offset]);
}

/// Columns of a linear layer at the entry that are unlike in size: each enters by its own mean and deviation, which the
/// weights take back. Returns the scale of the input.
fn unlike_columns(r: &mut Rewriter, input: TensorId, samples: &[&[f32]]) -> Option<f64> {
    let (x, places) = behind_movement(r, input)?;
    let shape = r.shape(x).to_vec();
    let k = *shape.last().filter(|&&k| k > 0)?;
    let readers = r.uses(x).to_vec();
    let layer = |&id: &NodeId| {
        let node = r.node(id).filter(|node| node.op == Op::Linear && node.inputs[0] == x)?;
        let weights = r.constant(node.inputs[1])?.floats()?;
        (!r.is_output(x)).then(|| (id, weights.to_vec()))
    };
    let layers: Vec<(NodeId, Vec<f32>)> = readers.iter().map(layer).collect::<Option<_>>()?;
    let (mut sum, mut squares) = (vec![0.0f64; k], vec![0.0f64; k]);
    for sample in samples {
        for (i, &place) in places.iter().enumerate() {
            sum[i % k] += f64::from(sample[place]);
        }
    }
    let count = (samples.len() * places.len() / k) as f64;
    let mean: Vec<f64> = sum.iter().map(|s| s / count).collect();
    for sample in samples {
        for (i, &place) in places.iter().enumerate() {
            squares[i % k] += (f64::from(sample[place]) - mean[i % k]).powi(2);
        }
    }
    let step = narrow_step(samples);
    let deviation: Vec<f64> = squares.iter().map(|s| (s / count).sqrt()).collect();
    let weight = |c: usize| -> f64 {
        layers.iter().flat_map(|(_, w)| w.iter().skip(c).step_by(k)).map(|&w| f64::from(w).powi(2)).sum()
    };
    let power: Vec<f64> = (0..k).map(weight).collect();
    let noise: f64 = power.iter().map(|w| w * step * step / 12.0).sum();
    let signal: f64 = power.iter().zip(&deviation).map(|(w, d)| w * d * d).sum();
    if signal <= 0.0 || noise <= LOSSY_COLUMNS * signal {
        return None;
    }
    // A column that never changes keeps its size.
    let still = |c: usize| if mean[c] != 0.0 { mean[c].abs() } else { 1.0 };
    let deviation: Vec<f64> = (0..k).map(|c| if deviation[c] > 0.0 { deviation[c] } else { still(c) }).collect();
    let finest = deviation.iter().copied().fold(f64::INFINITY, f64::min);
    let first = layers.first()?.0;
    let name = format!("{}/entry", r.node(first)?.name);
    let factor: Vec<f64> = (0..places.len()).map(|i| 1.0 / deviation[i % k]).collect();
    let offset: Vec<f64> = (0..places.len()).map(|i| -mean[i % k] / deviation[i % k]).collect();
    let entered = r.add(first, &name, Op::Reshape, vec![x], shape);
    let at = r.producer_id(entered)?;
    enter(r, at, &name, x, (&factor, &offset));
    for (id, mut weights) in layers {
        let Node { inputs, name, .. } = r.node(id)?.clone();
        let bias = inputs.get(2).and_then(|&bias| r.constant(bias)?.floats()).map(<[f32]>::to_vec);
        let n = weights.len() / k;
        let mut shifted: Vec<f32> = bias.unwrap_or_else(|| vec![0.0; n]);
        for (row, b) in weights.chunks_exact_mut(k).zip(&mut shifted) {
            let moved: f64 = row.iter().zip(&mean).map(|(&w, m)| f64::from(w) * m).sum();
            *b = (f64::from(*b) + moved) as f32;
            row.iter_mut().zip(&deviation).for_each(|(w, d)| *w = (f64::from(*w) * d) as f32);
        }
        let weights = r.add_constant(&format!("{name}/weight"), vec![n, k], weights);
        let bias = r.add_constant(&format!("{name}/bias"), vec![n], shifted);
        r.replace(id, Op::Linear, vec![entered, weights, bias]);
    }
    Some(raw_scale(samples, finest))
}
