//! Normalizations recognised by their values, in whatever arrangement of means, squares and roots they are written.
//!
//! The nodes between a tensor and another one of the same shape, with a reduction and a root among them, are computed on
//! random rows and compared with LayerNorm and RMSNorm over the axes of the reduction: their factor and offset per
//! element follow from the values, the epsilon from rows next to 0.

use super::axes::over_axes;
use super::rewriter::{NodeId, Rewriter};
use crate::graph::exec::eval_node;
use crate::graph::{Binary, Data, DataType, Node, Op, Reduce, TensorId, Unary};
use std::collections::HashMap;

/// Most nodes of one normalization.
const MAX_NODES: usize = 32;
/// Most elements of one: they are computed several times.
const MAX_LEN: usize = 1 << 20;
/// Largest difference, relative to the largest value of an evaluation. Forms with E[x^2] - E[x]^2 cancel in `f32`, and an
/// epsilon added to the deviation instead of the variance makes 1e-5.
const TOLERANCE: f64 = 1e-3;
/// Size of the rows that show the epsilon.
const SMALL: f64 = 1e-3;
/// Epsilons beyond are no guards against division by zero.
const MAX_EPS: f64 = 0.1;

/// A normalization of `x`.
struct Found {
    x: TensorId,
    axes: Vec<usize>,
    rms: bool,
    eps: f64,
    gamma: Vec<f64>,
    beta: Vec<f64>,
}

/// Nodes that normalize one tensor become a LayerNorm or an RMSNorm.
pub(super) fn normalization(r: &mut Rewriter, id: NodeId) -> bool {
    let Some(found) = r.node(id).filter(|node| is_end(r, node)).and_then(|_| search(r, id)) else { return false };
    let name = r.node(id).map(|node| node.name.clone()).unwrap_or_default();
    let eps = found.eps as f32;
    let op = if found.rms { Op::RmsNorm { eps } } else { Op::LayerNorm { eps } };
    let narrow = |values: &[f64]| values.iter().map(|&v| v as f32).collect::<Vec<f32>>();
    let width = found.gamma.len();
    let shifted = found.beta.iter().any(|&b| b != 0.0);
    let mut affine = Vec::new();
    if shifted || found.gamma.iter().any(|&g| g != 1.0) {
        affine.push(r.add_constant(&format!("{name}/gamma"), vec![width], narrow(&found.gamma)));
    }
    if shifted {
        affine.push(r.add_constant(&format!("{name}/beta"), vec![width], narrow(&found.beta)));
    }
    let (op, inputs) = over_axes(r, id, found.x, &found.axes, op, affine);
    r.replace(id, op, inputs);
    true
}

/// Whether a normalization can end in `node`: the product with one over a root, or what is added behind it.
fn is_end(r: &Rewriter, node: &Node) -> bool {
    let arithmetic = matches!(node.op, Op::Binary(Binary::Add | Binary::Sub | Binary::Mul | Binary::Div));
    let shape = r.shape(node.output);
    arithmetic
        && r.dtype(node.output) == DataType::Float
        && !shape.is_empty()
        && shape.iter().product::<usize>() <= MAX_LEN
}

/// Whether a node can be inside.
fn is_inner(node: &Node) -> bool {
    match &node.op {
        Op::Unary(_) | Op::Binary(_) | Op::Reshape | Op::Expand | Op::FakeQuant(_) => true,
        Op::Reduce { kind, .. } => matches!(kind, Reduce::Mean | Reduce::Sum),
        Op::Linear
        | Op::MatMul { .. }
        | Op::Conv2d(_)
        | Op::MaxPool(_)
        | Op::AveragePool { .. }
        | Op::Softmax
        | Op::LayerNorm { .. }
        | Op::RmsNorm { .. }
        | Op::Where
        | Op::Transpose { .. }
        | Op::Slice { .. }
        | Op::Concat { .. }
        | Op::Gather { .. }
        | Op::Pad { .. }
        | Op::Attention(_)
        | Op::Rope(_)
        | Op::Lookup(_)
        | Op::Positions => false,
    }
}

/// The largest normalization that ends in `id`.
fn search(r: &Rewriter, id: NodeId) -> Option<Found> {
    let shape = r.shape(r.node(id)?.output).to_vec();
    let mut inside = vec![id];
    let mut frontier = Vec::new();
    add_operands(r, id, &mut frontier);
    let mut best = None;
    loop {
        if let [x] = frontier[..]
            && r.shape(x) == shape
            && r.dtype(x) == DataType::Float
            && let Some(axes) = reduced_axes(r, &inside, x)
        {
            best = recognise(r, &inside, x, axes).or(best);
        }
        // The tensor computed last cannot be an operand of another one that is still to come.
        let next = frontier
            .iter()
            .filter_map(|&tensor| Some((r.producer_id(tensor)?, tensor)))
            .filter(|&(producer, tensor)| r.node(producer).is_some_and(is_inner) && is_private(r, tensor, &inside))
            .max_by_key(|&(producer, _)| depth(r, producer, MAX_NODES));
        match next {
            Some((producer, tensor)) if inside.len() < MAX_NODES => {
                frontier.retain(|&t| t != tensor);
                inside.push(producer);
                add_operands(r, producer, &mut frontier);
            }
            _ => return best,
        }
    }
}

/// A bound on the number of nodes before `id`, up to `limit`.
fn depth(r: &Rewriter, id: NodeId, limit: usize) -> usize {
    let Some(limit) = limit.checked_sub(1) else { return 0 };
    let node = r.node(id).filter(|node| is_inner(node));
    let before = |node: &Node| {
        node.inputs.iter().filter_map(|&x| r.producer_id(x)).map(|p| depth(r, p, limit.min(6))).max().unwrap_or(0)
    };
    1 + node.map_or(0, before)
}

/// Whether only nodes inside read the tensor.
fn is_private(r: &Rewriter, tensor: TensorId, inside: &[NodeId]) -> bool {
    !r.is_output(tensor) && r.uses(tensor).iter().all(|user| inside.contains(user))
}

/// Adds the computed operands of a node.
fn add_operands(r: &Rewriter, id: NodeId, frontier: &mut Vec<TensorId>) {
    let Some(node) = r.node(id) else { return };
    for &input in &node.inputs {
        if r.constant(input).is_none() && !frontier.contains(&input) {
            frontier.push(input);
        }
    }
}

/// The axes over which the nodes inside reduce tensors of the shape of `x`, where there are a root and one set of axes.
fn reduced_axes(r: &Rewriter, inside: &[NodeId], x: TensorId) -> Option<Vec<usize>> {
    let mut found: Option<Vec<usize>> = None;
    let mut root = false;
    for node in inside.iter().filter_map(|&id| r.node(id)) {
        match &node.op {
            Op::Reduce { axes, .. } => {
                let same = found.as_ref().is_none_or(|found| found == axes);
                if !same || r.shape(node.inputs[0]) != r.shape(x) {
                    return None;
                }
                found = Some(axes.clone());
            }
            Op::Unary(Unary::Sqrt) => root = true,
            Op::Binary(Binary::Pow) => {
                root |= r.scalar(node.inputs[1]).is_some_and(|exponent| exponent.abs() == 0.5);
            }
            _ => {}
        }
    }
    found.filter(|_| root)
}

/// A generator of numbers between -1 and 1, the same ones every time.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as f64 / (1u64 << 30) as f64 - 1.0
    }
}

/// The normalization that the nodes inside, the first one last, compute from `x`.
fn recognise(r: &Rewriter, inside: &[NodeId], x: TensorId, axes: Vec<usize>) -> Option<Found> {
    let shape = r.shape(x).to_vec();
    let rows = Rows::of(&shape, &axes)?;
    let len: usize = shape.iter().product();
    let mut numbers = Numbers(1);
    let mut random =
        |size: f64, centre: f64| -> Vec<f32> { (0..len).map(|_| (centre + size * numbers.next()) as f32).collect() };
    let (first, second, other) = (random(1.0, 0.2), random(2.0, -0.3), random(3.0, 2.0));
    let scaled = |values: &[f32], factor: f64| values.iter().map(|&v| (f64::from(v) * factor) as f32).collect();
    let compute = |values: Vec<f32>| value(r, inside, x, values);
    let (plus, minus) = (compute(first.clone())?, compute(scaled(&first, -1.0))?);
    // Normalizations are odd but for the offset.
    let odd: Vec<f64> = plus.iter().zip(&minus).map(|(&a, &b)| (f64::from(a) - f64::from(b)) / 2.0).collect();
    let even: Vec<f64> = plus.iter().zip(&minus).map(|(&a, &b)| (f64::from(a) + f64::from(b)) / 2.0).collect();
    let beta = rows.constant(&even, odd.iter().fold(0.0, |m, v| v.abs().max(m)) * TOLERANCE)?;
    let (small_plus, small_minus) = (compute(scaled(&first, SMALL))?, compute(scaled(&first, -SMALL))?);
    let small: Vec<f64> =
        small_plus.iter().zip(&small_minus).map(|(&a, &b)| (f64::from(a) - f64::from(b)) / 2.0).collect();
    let second_value = compute(second.clone())?;
    let other_value = compute(other.clone())?;
    for rms in [false, true] {
        let Some(eps) = rows.epsilon(&first, &odd, &small, rms) else { continue };
        let normal = |values: &[f32]| rows.normalized(values, eps, rms);
        let Some(gamma) = rows.factors(&normal(&first), &odd) else { continue };
        let fits = [(&first, &plus), (&second, &second_value), (&other, &other_value)].into_iter().all(|(x, y)| {
            let expected = rows.applied(&normal(x), &gamma, &beta);
            close(&expected, y)
        });
        let small_fits = close(&rows.applied(&normal(&scaled(&first, SMALL)), &gamma, &beta), &small_plus);
        if fits && small_fits {
            return Some(Found { x, axes, rms, eps, gamma: tidy(gamma, 1.0), beta: tidy(beta, 0.0) });
        }
    }
    None
}

/// Values that are all `neutral` but for rounding, exactly so.
fn tidy(values: Vec<f64>, neutral: f64) -> Vec<f64> {
    let same = values.iter().all(|v| (v - neutral).abs() < 1e-5);
    if same { vec![neutral; values.len()] } else { values }
}

fn close(expected: &[f64], y: &[f32]) -> bool {
    let size = expected.iter().fold(0.0f64, |m, v| m.max(v.abs()));
    size > 0.0 && expected.iter().zip(y).all(|(e, &y)| (e - f64::from(y)).abs() <= TOLERANCE * size)
}

/// Where the rows of a normalization lie in a tensor.
struct Rows {
    /// Per row the places of its elements.
    places: Vec<Vec<usize>>,
}

impl Rows {
    fn of(shape: &[usize], axes: &[usize]) -> Option<Self> {
        let width: usize = axes.iter().map(|&axis| shape[axis]).product();
        let len: usize = shape.iter().product();
        if width < 2 || len == 0 {
            return None;
        }
        let strides = crate::graph::contiguous_strides(shape);
        let mut places = vec![Vec::with_capacity(width); len / width];
        for place in 0..len {
            let row = (0..shape.len())
                .filter(|d| !axes.contains(d))
                .fold(0, |row, d| row * shape[d] + place / strides[d] % shape[d]);
            places[row].push(place);
        }
        Some(Self { places })
    }

    fn width(&self) -> usize {
        self.places[0].len()
    }

    /// One value for each place in a row, where they agree in all rows.
    fn constant(&self, values: &[f64], tolerance: f64) -> Option<Vec<f64>> {
        let first: Vec<f64> = self.places[0].iter().map(|&place| values[place]).collect();
        let same = |row: &Vec<usize>| row.iter().zip(&first).all(|(&place, v)| (values[place] - v).abs() <= tolerance);
        self.places.iter().all(same).then_some(first)
    }

    /// Mean and variance of a row; the mean of squares where `rms`.
    fn moments(row: &[usize], values: &[f32], rms: bool) -> (f64, f64) {
        let n = row.len() as f64;
        let mean = if rms { 0.0 } else { row.iter().map(|&i| f64::from(values[i])).sum::<f64>() / n };
        (mean, row.iter().map(|&i| (f64::from(values[i]) - mean).powi(2)).sum::<f64>() / n)
    }

    fn normalized(&self, values: &[f32], eps: f64, rms: bool) -> Vec<f64> {
        let mut out = vec![0.0; values.len()];
        for row in &self.places {
            let (mean, variance) = Self::moments(row, values, rms);
            let factor = 1.0 / (variance + eps).sqrt();
            row.iter().for_each(|&i| out[i] = (f64::from(values[i]) - mean) * factor);
        }
        out
    }

    /// The epsilon, from how rows [`SMALL`] times the size shrink.
    fn epsilon(&self, values: &[f32], whole: &[f64], small: &[f64], rms: bool) -> Option<f64> {
        let row = &self.places[0];
        let (_, variance) = Self::moments(row, values, rms);
        let power = |y: &[f64]| row.iter().map(|&i| y[i] * y[i]).sum::<f64>();
        let ratio = power(small) / power(whole);
        let square = SMALL * SMALL;
        // ratio = SMALL^2 (variance + eps) / (SMALL^2 variance + eps)
        let eps = square * variance * (1.0 - ratio) / (ratio - square);
        (ratio.is_finite() && ratio > square && eps < MAX_EPS).then(|| eps.max(0.0))
    }

    /// The factor of each place in a row, by least squares over all rows.
    fn factors(&self, normal: &[f64], y: &[f64]) -> Option<Vec<f64>> {
        let mut sums = vec![(0.0, 0.0); self.width()];
        for row in &self.places {
            for (sum, &place) in sums.iter_mut().zip(row) {
                sum.0 += normal[place] * y[place];
                sum.1 += normal[place] * normal[place];
            }
        }
        sums.iter().map(|&(product, square)| (square > 1e-12).then(|| product / square)).collect()
    }

    fn applied(&self, normal: &[f64], gamma: &[f64], beta: &[f64]) -> Vec<f64> {
        let mut out = vec![0.0; normal.len()];
        for row in &self.places {
            for (i, &place) in row.iter().enumerate() {
                out[place] = normal[place] * gamma[i] + beta[i];
            }
        }
        out
    }
}

/// The value of the nodes inside, the first one last, where `x` has the values `at`.
fn value(r: &Rewriter, inside: &[NodeId], x: TensorId, at: Vec<f32>) -> Option<Vec<f32>> {
    let mut known: HashMap<TensorId, Data> = HashMap::from([(x, Data::Float(at))]);
    let last = r.node(*inside.first()?)?.output;
    let mut pending = inside.to_vec();
    while !pending.is_empty() {
        let before = pending.len();
        pending.retain(|&id| {
            let Some(node) = r.node(id) else { return true };
            let operand = |&input: &TensorId| Some((r.shape(input), r.constant(input).or_else(|| known.get(&input))?));
            let Some(operands) = node.inputs.iter().map(operand).collect::<Option<Vec<_>>>() else { return true };
            let value = match node.op {
                Op::FakeQuant(_) => Ok(operands[0].1.clone()),
                _ => eval_node(&node.op, &operands, r.shape(node.output), r.dtype(node.output)),
            };
            let Ok(value) = value else { return true };
            known.insert(node.output, value);
            false
        });
        if pending.len() == before {
            return None;
        }
    }
    known.remove(&last)?.floats().map(<[f32]>::to_vec)
}
