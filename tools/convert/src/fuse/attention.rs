//! Attention: products of queries and keys, softmax, product with values, and all the movement around them.

use super::axes::{inverse, orders};
use super::layout::{self, Factor, Layout};
use super::rewriter::{NodeId, Rewriter};
use crate::graph::{Attention, Binary, Data, DataType, FakeQuant, Node, Op, TensorId, Unary};

/// Movements followed from an operand to where it comes from, and from the result to where it goes.
const MAX_MOVES: usize = 24;
/// Operations between product and softmax.
const MAX_SCORE_OPS: usize = 8;
/// A constant at or below this in place of a score masks it out.
const MASKED: f32 = -100.0;

/// Attention in separate nodes becomes one, seen from its product of probabilities and values.
pub(super) fn attention(r: &mut Rewriter, id: NodeId) -> bool {
    let Some(parts) = Parts::of(r, id) else { return false };
    // Views that reach as far as they can first; an operand or result at a time is left where it is.
    let ends = [parts.q.len(), parts.k.len(), parts.v.len(), parts.out.len()];
    let mut choices: Vec<[usize; 4]> =
        (0..16).map(|bits: usize| [0, 1, 2, 3].map(|i| if bits >> i & 1 == 0 { ends[i] - 1 } else { 0 })).collect();
    choices.sort_by_key(|choice| choice.iter().filter(|&&index| index == 0).count());
    choices.dedup();
    let found = choices.iter().find_map(|&[q, k, v, out]| {
        let (q, k, v, out) = (&parts.q[q], &parts.k[k], &parts.v[v], &parts.out[out]);
        let grid = Grid::of(&[&q.layout, &k.layout, &v.layout, &out.layout], parts.lead.last().copied().unwrap_or(1))?;
        let attention = grid.attention(&parts, [q, k, v], &out.layout)?;
        Some((attention, [q.clone(), k.clone(), v.clone()], out.clone()))
    });
    match found {
        Some((attention, operands, out)) => rewrite(r, id, &parts, attention, &operands, &out),
        None => false,
    }
}

/// A factor per head behind a product of queries and keys is applied to the queries: fewer numbers, and the product can
/// be part of an attention, which has one factor.
pub(super) fn scale_queries(r: &mut Rewriter, id: NodeId) -> bool {
    let Some(node) = r.node(id).filter(|node| node.op == Op::Binary(Binary::Mul)) else { return false };
    let found = orders(&node.inputs).find_map(|(scores, factor)| {
        let id = scaled_product(r, scores)?;
        let product = r.node(id)?;
        let q = product.inputs[0];
        let per_head = matches!(r.shape(factor), [.., 1, 1]) && r.constant(factor).is_some();
        let fits = super::axes::broadcast(r.shape(q), r.shape(factor)).as_deref() == Some(r.shape(q));
        let matches = per_head && fits && r.shape(scores) == r.shape(node.output);
        matches.then(|| (scores, id, product.op.clone(), q, product.inputs[1], factor))
    });
    let Some((scores, product, op, q, k, factor)) = found else { return false };
    let (name, shape) = (r.name(q).to_owned(), r.shape(q).to_vec());
    let scaled = r.add(product, &name, Op::Binary(Binary::Mul), vec![q, factor], shape);
    r.replace(product, op, vec![scaled, k]);
    r.bypass(id, scores)
}

/// The product of two computed tensors that makes `tensor`, perhaps times a constant.
fn scaled_product(r: &Rewriter, mut tensor: TensorId) -> Option<NodeId> {
    loop {
        let node = r.producer(tensor).filter(|_| r.used_once(tensor))?;
        match node.op {
            Op::Binary(kind @ (Binary::Mul | Binary::Div)) => {
                tensor = constant_factor(r, kind, &node.inputs, r.shape(tensor))?.0;
            }
            Op::MatMul { .. } => {
                let computed = node.inputs.iter().all(|&operand| r.weights(operand).is_none());
                return r.producer_id(tensor).filter(|_| computed);
            }
            _ => return None,
        }
    }
}

/// Drops reshapes before and behind an attention, whose views count elements and know no dimensions.
pub(super) fn absorb_reshape(r: &mut Rewriter, id: NodeId) -> bool {
    let Some(node) = r.node(id) else { return false };
    match &node.op {
        Op::Reshape => {
            let x = node.inputs[0];
            let Some(before) = r.producer(x).filter(|_| r.used_once(x)) else { return false };
            let Op::Attention(attention) = &before.op else { return false };
            let (op, inputs, name) = (Op::Attention(attention.clone()), before.inputs.clone(), before.name.clone());
            r.replace(id, op, inputs);
            r.rename(id, name);
            true
        }
        Op::Attention(_) => {
            let mut inputs = node.inputs.clone();
            for input in inputs.iter_mut().take(3) {
                if let Some(Node { op: Op::Reshape, inputs, .. }) = r.producer(*input) {
                    *input = inputs[0];
                }
            }
            let changed = inputs != node.inputs;
            if changed {
                let op = node.op.clone();
                r.replace(id, op, inputs);
            }
            changed
        }
        _ => false,
    }
}

/// An operand: the tensor that holds its rows, and where.
#[derive(Clone)]
struct Operand {
    tensor: TensorId,
    /// `[.., rows, columns]`.
    layout: Layout,
    /// Constant factor left out on the way.
    factor: f32,
    /// The tensor has its last two dimensions exchanged and must be transposed first.
    turned: bool,
}

/// A place for the result: the tensor that all readers take, and where the rows lie in it.
#[derive(Clone)]
struct Place {
    tensor: TensorId,
    layout: Layout,
    /// A fake quantization on the way.
    quant: Option<FakeQuant>,
}

/// A summand of the scores.
#[derive(Clone, Debug)]
struct Bias {
    source: BiasSource,
    /// Shape of the scores where it is added.
    full: Vec<usize>,
    /// Applied after it was added.
    factor: f32,
}

#[derive(Clone, Debug)]
enum BiasSource {
    /// A tensor.
    Sum(TensorId),
    /// `where(condition, a, b)`, one of which is 0 and one very small.
    Mask { condition: TensorId, values: [f32; 2] },
}

/// Scores: a product, scaled, with biases.
struct Scores {
    product: NodeId,
    factor: f32,
    biases: Vec<Bias>,
}

/// What a product with a softmax consists of. Candidates for operands and result are in order of distance.
struct Parts {
    q: Vec<Operand>,
    k: Vec<Operand>,
    v: Vec<Operand>,
    out: Vec<Place>,
    biases: Vec<Bias>,
    factor: f32,
    /// Leading dimensions of the scores.
    lead: Vec<usize>,
    n_q: usize,
    n_k: usize,
    head_dim: usize,
    v_dim: usize,
}

impl Parts {
    fn of(r: &Rewriter, id: NodeId) -> Option<Self> {
        let node = r.node(id)?;
        let Op::MatMul { transpose_b: v_turned } = node.op else { return None };
        let scores = scores(r, softmax_operand(r, node.inputs[0])?, MAX_SCORE_OPS)?;
        let product = r.node(scores.product)?;
        let Op::MatMul { transpose_b: k_rows } = product.op else { return None };
        let (lead, [n_q, n_k]) = split_shape(r.shape(product.output))?;
        let (value_lead, [rows, v_dim]) = split_shape(r.shape(node.output))?;
        let head_dim = *r.shape(product.inputs[0]).last()?;
        if rows != n_q || value_lead.iter().product::<usize>() != lead.iter().product::<usize>() {
            return None;
        }
        let parts = Self {
            q: operands(r, product.inputs[0], &lead, false),
            k: operands(r, product.inputs[1], &lead, !k_rows),
            v: operands(r, node.inputs[1], &value_lead, v_turned).into_iter().filter(|v| v.factor == 1.0).collect(),
            out: places(r, node.output),
            biases: scores.biases,
            factor: scores.factor,
            lead,
            n_q,
            n_k,
            head_dim,
            v_dim,
        };
        let complete = ![parts.q.len(), parts.k.len(), parts.v.len(), parts.out.len()].contains(&0);
        let floats = [&parts.q, &parts.k, &parts.v].iter().all(|o| r.dtype(o[0].tensor) == DataType::Float);
        (complete && floats).then_some(parts)
    }
}

/// Leading dimensions and the last two.
fn split_shape(shape: &[usize]) -> Option<(Vec<usize>, [usize; 2])> {
    let (lead, last) = shape.split_last_chunk::<2>()?;
    Some((lead.to_vec(), *last))
}

/// What goes into the softmax that makes `tensor`, perhaps with its leading dimensions regrouped behind it.
fn softmax_operand(r: &Rewriter, mut tensor: TensorId) -> Option<TensorId> {
    loop {
        let node = r.inner(tensor)?;
        match node.op {
            Op::Softmax => return Some(node.inputs[0]),
            Op::Reshape if same_rows(r, node.inputs[0], tensor) => tensor = node.inputs[0],
            _ => return None,
        }
    }
}

fn same_rows(r: &Rewriter, a: TensorId, b: TensorId) -> bool {
    let last = |tensor| split_shape(r.shape(tensor)).map(|(_, last)| last);
    last(a).is_some() && last(a) == last(b)
}

/// `tensor` as scores.
fn scores(r: &Rewriter, tensor: TensorId, depth: usize) -> Option<Scores> {
    let id = r.inner_id(tensor)?;
    let node = r.node(id)?;
    let depth = depth.checked_sub(1)?;
    let shape = r.shape(node.output);
    let whole = |part: TensorId| if r.shape(part) == shape { scores(r, part, depth) } else { None };
    let biased = |mut scores: Scores, source: BiasSource| {
        let source = match source {
            BiasSource::Sum(tensor) => BiasSource::Sum(without_floor(r, tensor)),
            mask => mask,
        };
        scores.biases.push(Bias { source, full: shape.to_vec(), factor: 1.0 });
        scores
    };
    match node.op {
        Op::MatMul { .. } => Some(Scores { product: id, factor: 1.0, biases: Vec::new() }),
        Op::Reshape if same_rows(r, node.inputs[0], node.output) => scores(r, node.inputs[0], depth),
        Op::Binary(Binary::Mul) => orders(&node.inputs)
            .find_map(|(part, factor)| r.scalar(factor).and_then(|by| Some(scaled(whole(part)?, by)))),
        Op::Binary(Binary::Div) => Some(scaled(whole(node.inputs[0])?, 1.0 / r.scalar(node.inputs[1])?)),
        Op::Binary(Binary::Add) => {
            orders(&node.inputs).find_map(|(part, bias)| Some(biased(whole(part)?, BiasSource::Sum(bias))))
        }
        Op::Binary(Binary::Sub) => {
            let mut scores = biased(whole(node.inputs[0])?, BiasSource::Sum(node.inputs[1]));
            scores.biases.last_mut()?.factor = -1.0;
            Some(scores)
        }
        Op::Where => {
            let &[condition, a, b] = node.inputs.as_slice() else { return None };
            let small = |tensor| r.scalar(tensor).filter(|&v| v <= MASKED);
            let (part, values) = match (small(a), small(b)) {
                (Some(v), None) => (b, [v, 0.0]),
                (None, Some(v)) => (a, [0.0, v]),
                _ => return None,
            };
            Some(biased(whole(part)?, BiasSource::Mask { condition, values }))
        }
        _ => None,
    }
}

/// The operand of a lower bound that hides, which keeps sums of masks finite: below it nothing is more hidden.
fn without_floor(r: &Rewriter, tensor: TensorId) -> TensorId {
    let Some(node) = r.producer(tensor) else { return tensor };
    match node.op {
        Op::Binary(Binary::Max) => {
            let floor = |&(_, floor): &(TensorId, TensorId)| r.scalar(floor).is_some_and(|v| v <= MASKED);
            let bounded = orders(&node.inputs).find(floor).map(|(x, _)| x);
            bounded.filter(|&x| r.shape(x) == r.shape(tensor)).unwrap_or(tensor)
        }
        Op::Unary(Unary::Clip { low, high }) if low <= MASKED && high >= f32::MAX => node.inputs[0],
        _ => tensor,
    }
}

fn scaled(mut scores: Scores, factor: f32) -> Scores {
    scores.factor *= factor;
    scores.biases.iter_mut().for_each(|bias| bias.factor *= factor);
    scores
}

/// Tensors that hold the rows of `tensor`, itself first, then what it was moved from. `turned` says that columns are
/// rows. `lead` are the leading dimensions after broadcasting.
fn operands(r: &Rewriter, tensor: TensorId, lead: &[usize], turned: bool) -> Vec<Operand> {
    let rank = r.shape(tensor).len();
    if rank < 2 {
        return Vec::new();
    }
    let mut exchange: Vec<usize> = (0..rank).collect();
    if turned {
        exchange.swap(rank - 1, rank - 2);
    }
    let mut full = lead.to_vec();
    full.extend(super::axes::permuted(r.shape(tensor), &exchange)[rank - 2..].iter());
    let own = super::axes::permuted(r.shape(tensor), &exchange);
    let mut found = vec![Operand { tensor, layout: Layout::whole(&own).expand(&full), factor: 1.0, turned }];
    let (mut at, mut factor, mut moves) = (tensor, 1.0, Vec::new());
    // An operand keeps the last fake quantization on its way: its scale.
    let mut quantized = None;
    for _ in 0..MAX_MOVES {
        let Some(node) = r.producer(at) else { break };
        match &node.op {
            Op::Reshape | Op::Transpose { .. } | Op::Slice { .. } | Op::Expand => {
                moves.push(node);
                at = node.inputs[0];
            }
            Op::FakeQuant(quant) if quant.scale.len() == 1 => {
                quantized = Some(found.len());
                at = node.inputs[0];
            }
            Op::Binary(kind @ (Binary::Mul | Binary::Div)) => {
                let Some((x, by)) = constant_factor(r, *kind, &node.inputs, r.shape(at)) else { break };
                factor *= by;
                at = x;
            }
            _ => break,
        }
        let start = Layout::whole(r.shape(at));
        let moved = moves.iter().rev().try_fold(start, |layout, node| follow(&layout, &node.op, r.shape(node.output)));
        let layout = moved.map(|layout| layout.transpose(&exchange).expand(&full)).filter(Layout::has_rows);
        found.extend(layout.map(|layout| Operand { tensor: at, layout, factor, turned: false }));
    }
    found.truncate(quantized.unwrap_or(found.len()).max(1));
    found
}

/// `inputs` as a tensor of `shape` times a constant.
fn constant_factor(r: &Rewriter, kind: Binary, inputs: &[TensorId], shape: &[usize]) -> Option<(TensorId, f32)> {
    let (x, by) = match kind {
        Binary::Div => (inputs[0], 1.0 / r.scalar(inputs[1])?),
        _ => orders(inputs).find_map(|(x, by)| Some((x, r.scalar(by)?)))?,
    };
    (r.shape(x) == shape).then_some((x, by))
}

/// The layout behind a movement to `shape`.
fn follow(layout: &Layout, op: &Op, shape: &[usize]) -> Option<Layout> {
    match op {
        Op::Transpose { perm } => Some(layout.transpose(perm)),
        Op::Slice { starts, steps } => layout.slice(starts, steps, shape),
        Op::Expand => Some(layout.expand(shape)),
        _ => layout.reshape(shape),
    }
}

/// Tensors that can take the rows of `tensor`: itself, then what it is moved to while nobody else reads it.
fn places(r: &Rewriter, tensor: TensorId) -> Vec<Place> {
    let mut found = vec![Place { tensor, layout: Layout::whole(r.shape(tensor)), quant: None }];
    let (mut at, mut quant, mut moves) = (tensor, None, Vec::new());
    for _ in 0..MAX_MOVES {
        let Some(node) = Some(at).filter(|&at| r.used_once(at)).and_then(|at| r.node(r.uses(at)[0])) else { break };
        match &node.op {
            Op::Reshape | Op::Transpose { .. } => moves.push(node),
            Op::FakeQuant(q) if q.scale.len() == 1 => quant = Some(q.clone()),
            _ => break,
        }
        at = node.output;
        // From the indices of the place back to those of the rows.
        let back = moves.iter().rev().try_fold(Layout::whole(r.shape(at)), |layout, node| match &node.op {
            Op::Transpose { perm } => Some(layout.transpose(&inverse(perm))),
            _ => layout.reshape(r.shape(node.inputs[0])),
        });
        let layout = back.filter(Layout::has_rows);
        found.extend(layout.map(|layout| Place { tensor: at, layout, quant: quant.clone() }));
    }
    found
}

/// The leading dimensions of several layouts, cut at the same places.
struct Grid {
    sizes: Vec<usize>,
    /// Per layout, one per size.
    strides: Vec<Vec<isize>>,
    /// Heads as the scores have them.
    heads: usize,
}

impl Grid {
    fn of(layouts: &[&Layout; 4], heads: usize) -> Option<Self> {
        let factors = layouts.map(Layout::leading);
        let sizes = common_sizes(&factors)?;
        let mut strides = Vec::new();
        for factors in &factors {
            let dims = layout::split(factors, &sizes)?;
            strides.push(dims.iter().map(|dim| layout::stride(dim)).collect::<Option<Vec<isize>>>()?);
        }
        Some(Self { sizes, strides, heads })
    }

    /// The stride of one walk over the sizes in `range`; 0 for none.
    fn walk(&self, operand: usize, range: std::ops::Range<usize>) -> Option<isize> {
        let (sizes, strides) = (&self.sizes[range.clone()], &self.strides[operand][range]);
        let even = (1..sizes.len()).all(|i| strides[i - 1] == strides[i] * sizes[i] as isize);
        even.then(|| strides.last().copied().unwrap_or(0))
    }

    /// The operator, with the leading dimensions divided into batches and heads so that every operand has one stride for
    /// each.
    fn attention(&self, parts: &Parts, operands: [&Operand; 3], out: &Layout) -> Option<Attention> {
        let heads_from = |cut: usize| self.sizes[cut..].iter().product::<usize>();
        let mut cuts: Vec<usize> = (0..=self.sizes.len()).collect();
        cuts.sort_by_key(|&cut| heads_from(cut) != self.heads);
        let scale = parts.factor * operands[0].factor * operands[1].factor;
        if !(scale > 0.0 && scale.is_finite()) {
            return None;
        }
        cuts.into_iter().find_map(|cut| {
            let end = self.sizes.len();
            // Trailing dimensions along which keys and values stand still: query heads that share them.
            let shared = (cut..end).rev().take_while(|&d| self.strides[1][d] == 0 && self.strides[2][d] == 0).count();
            let kv_end = end - shared;
            let view = |operand: usize, layout: &Layout, to: usize| {
                layout.head_view(self.walk(operand, 0..cut)?, self.walk(operand, cut..to)?)
            };
            let [q, k, v] = operands.map(|o| &o.layout);
            Some(Attention {
                batch: self.sizes[..cut].iter().product(),
                heads: heads_from(cut),
                kv_heads: self.sizes[cut..kv_end].iter().product(),
                n_q: parts.n_q,
                n_k: parts.n_k,
                head_dim: parts.head_dim,
                v_dim: parts.v_dim,
                scale,
                causal: None,
                q: view(0, q, end)?,
                k: view(1, k, kv_end)?,
                v: view(2, v, kv_end)?,
                out: view(3, out, end)?,
            })
        })
    }
}

/// The coarsest sizes into which all lists of factors can be cut.
fn common_sizes(lists: &[Vec<Factor>]) -> Option<Vec<usize>> {
    // Products of the factors behind each cut.
    let mut cuts = vec![1];
    for list in lists {
        let mut product = 1;
        for factor in list.iter().rev() {
            product *= factor.size;
            cuts.push(product);
        }
    }
    cuts.sort_unstable();
    cuts.dedup();
    let sizes: Option<Vec<usize>> =
        cuts.windows(2).map(|pair| pair[1].is_multiple_of(pair[0]).then(|| pair[1] / pair[0])).collect();
    sizes.map(|mut sizes| {
        sizes.reverse();
        sizes
    })
}

/// Puts the operator in the place of the product with the values `id` and of what moved its result.
fn rewrite(
    r: &mut Rewriter,
    id: NodeId,
    parts: &Parts,
    attention: Attention,
    operands: &[Operand; 3],
    out: &Place,
) -> bool {
    let Some(name) = r.node(id).map(|node| node.name.clone()) else { return false };
    let Some(end) = r.producer_id(out.tensor) else { return false };
    let grid = [attention.batch, attention.heads, attention.n_q, attention.n_k];
    let Some(biases) = biases(r, end, &name, &parts.biases, grid) else { return false };
    let mut inputs: Vec<TensorId> = operands.iter().map(|operand| operand_tensor(r, end, &name, operand)).collect();
    inputs.extend(biases);
    let op = Op::Attention(attention);
    match &out.quant {
        Some(quant) => {
            let shape = r.shape(out.tensor).to_vec();
            let y = r.add(end, &name, op, inputs, shape);
            r.replace(end, Op::FakeQuant(quant.clone()), vec![y]);
        }
        None => {
            r.replace(end, op, inputs);
            r.rename(end, name);
        }
    }
    true
}

/// The tensor of an operand, transposed where it has to be.
fn operand_tensor(r: &mut Rewriter, at: NodeId, name: &str, operand: &Operand) -> TensorId {
    if !operand.turned {
        return operand.tensor;
    }
    let shape = r.shape(operand.tensor);
    let mut perm: Vec<usize> = (0..shape.len()).collect();
    perm.swap(shape.len() - 1, shape.len() - 2);
    let shape = super::axes::permuted(shape, &perm);
    r.add(at, name, Op::Transpose { perm }, vec![operand.tensor], shape)
}

/// The summands of the scores as at most two tensors that broadcast to `grid`: batch, heads, query rows, keys.
fn biases(r: &mut Rewriter, at: NodeId, name: &str, biases: &[Bias], grid: [usize; 4]) -> Option<Vec<TensorId>> {
    // Nothing is added to the graph before it is clear that all can be expressed.
    for bias in biases {
        regroup(r, bias, grid)?;
    }
    let mut tensors = Vec::new();
    for bias in biases {
        // What is added to every score of a row alike has no effect.
        if let BiasSource::Sum(tensor) = bias.source
            && r.scalar(tensor).is_some_and(f32::is_finite)
        {
            continue;
        }
        let (expanded, shape) = regroup(r, bias, grid)?;
        let tensor = bias_tensor(r, at, name, bias);
        let tensor = moved(r, at, name, Op::Expand, tensor, expanded);
        tensors.push(moved(r, at, name, Op::Reshape, tensor, shape));
    }
    while let Some((a, b, shape)) = next_sum(r, &tensors) {
        let sum = r.add(at, &format!("{name}/bias"), Op::Binary(Binary::Add), vec![a, b], shape);
        tensors.retain(|&tensor| tensor != a && tensor != b);
        tensors.push(sum);
    }
    Some(tensors)
}

fn moved(r: &mut Rewriter, at: NodeId, name: &str, op: Op, tensor: TensorId, shape: Vec<usize>) -> TensorId {
    if r.shape(tensor) == shape { tensor } else { r.add(at, &format!("{name}/bias"), op, vec![tensor], shape) }
}

/// The value of a bias, in its own shape.
fn bias_tensor(r: &mut Rewriter, at: NodeId, name: &str, bias: &Bias) -> TensorId {
    let name = format!("{name}/bias");
    match bias.source {
        BiasSource::Sum(tensor) if bias.factor == 1.0 => tensor,
        BiasSource::Sum(tensor) => {
            let factor = r.add_constant(&name, Vec::new(), vec![bias.factor]);
            let shape = r.shape(tensor).to_vec();
            r.add(at, &name, Op::Binary(Binary::Mul), vec![tensor, factor], shape)
        }
        BiasSource::Mask { condition, values } => {
            let [a, b] = values.map(|value| r.add_constant(&name, Vec::new(), vec![value]));
            let shape = r.shape(condition).to_vec();
            r.add(at, &name, Op::Where, vec![condition, a, b], shape)
        }
    }
}

/// Two biases to be added to each other: constants where the sum is no larger than they are, and any two where there are
/// more than two, those with the smallest sum first.
fn next_sum(r: &Rewriter, tensors: &[TensorId]) -> Option<(TensorId, TensorId, Vec<usize>)> {
    let len = |shape: &[usize]| shape.iter().product::<usize>();
    let constant = |tensor| matches!(r.constant(tensor), Some(Data::Float(_)));
    let mut best: Option<(TensorId, TensorId, Vec<usize>)> = None;
    for (i, &a) in tensors.iter().enumerate() {
        for &b in &tensors[..i] {
            let Some(shape) = super::axes::broadcast(r.shape(a), r.shape(b)) else { continue };
            let free = constant(a) && constant(b) && len(&shape) <= len(r.shape(a)).max(len(r.shape(b)));
            let smaller = best.as_ref().is_none_or(|(_, _, other)| len(&shape) < len(other));
            if (free || tensors.len() > 2) && smaller {
                best = Some((a, b, shape));
            }
        }
    }
    best
}

/// The shapes through which a bias gets from the dimensions of the scores it was added to, to `grid`: broadcast to the
/// first one, reshape to the second one.
fn regroup(r: &Rewriter, bias: &Bias, grid: [usize; 4]) -> Option<(Vec<usize>, Vec<usize>)> {
    let (BiasSource::Sum(tensor) | BiasSource::Mask { condition: tensor, .. }) = bias.source;
    let own = r.shape(tensor);
    let rank = bias.full.len();
    let dim = |d: usize| (d + own.len()).checked_sub(rank).map_or(1, |i| own[i]);
    let (mut expanded, mut grouped) = (Vec::new(), Vec::new());
    let (lead, target) = (&bias.full[..rank - 2], &grid[..2]);
    let (mut i, mut j) = (0, 0);
    while i < lead.len() || j < target.len() {
        let (from, to) = (i, j);
        let (mut left, mut right) = (1, 1);
        while left != right || (left == 1 && (i < lead.len() || j < target.len())) {
            if left <= right && i < lead.len() {
                left *= lead[i];
                i += 1;
            } else {
                right *= *target.get(j)?;
                j += 1;
            }
        }
        let alike = (from..i).all(|d| dim(d) == 1);
        expanded.extend((from..i).map(|d| if alike { 1 } else { lead[d] }));
        grouped.extend((to..j).map(|d| if alike { 1 } else { target[d] }));
    }
    let last = [dim(rank - 2), dim(rank - 1)];
    expanded.extend(last);
    grouped.extend(last);
    Some((expanded, grouped))
}
