//! Decoders: the function of a whole sequence becomes one of single rows over a cache.
//!
//! All operations of a decoder but attention work on every token by itself. So the graph of a sequence is at the same
//! time the graph of a step, once three things are known: which dimension counts the tokens ([`rows`]), that attention
//! looks back only and reads what a cache can hold, and what depends on the position ([`rotary`], and tables of rows).
//! [`derive`] finds them and gives a graph that [`resized`] cuts to any number of rows: the calibration runs whole
//! sequences through it, the lowering takes as many rows as a run has on the device.

mod rotary;
mod rows;

use crate::graph::{Attention, Causal, Data, DataType, Graph, HeadView, Node, Op, TensorId};
pub use rows::resized;

/// A score at or below this is hidden.
const HIDDEN: f32 = -80.0;
/// A score of a key that is seen is moved by no more than this.
const SEEN: f32 = 1e-3;

/// Why a model is no decoder that can keep keys and values.
#[derive(Debug, thiserror::Error)]
pub enum DecoderError {
    /// There is no attention.
    #[error(
        "no causal attention is found; convert the model without --context. Scores that are capped before the softmax have \
         no form over a cache: export without attn_logit_softcapping"
    )]
    NoAttention,
    /// The masks of an attention are not those of a decoder.
    #[error("`{name}`: {why}")]
    Mask {
        /// Name of the attention.
        name: String,
        /// What is wrong.
        why: String,
    },
    /// An operation that mixes tokens.
    #[error("`{name}` ({op}) mixes tokens: {why}; only attention may")]
    Mixes {
        /// Name of the node.
        name: String,
        /// Its operation.
        op: String,
        /// How it does.
        why: &'static str,
    },
    /// An output without a row per token.
    #[error("the output `{0}` has no row per token; export the logits of all positions")]
    Output(String),
}

/// The decoder in `graph`, the fused graph of a whole sequence whose input are ids `[.., positions]`, for sessions of
/// `capacity` positions, of which a token sees at most the last `window`.
///
/// # Errors
/// [`DecoderError`], naming the node that stands against it.
pub fn derive(graph: &Graph, capacity: usize, window: Option<usize>) -> Result<Graph, DecoderError> {
    let mut graph = graph.clone();
    let attentions = |graph: &Graph| -> Vec<usize> {
        (0..graph.nodes.len()).filter(|&index| matches!(graph.nodes[index].op, Op::Attention(_))).collect()
    };
    if attentions(&graph).is_empty() {
        return Err(DecoderError::NoAttention);
    }
    for index in attentions(&graph) {
        make_causal(&mut graph, index, Causal { positions: capacity, window: window.unwrap_or(capacity) })?;
    }
    let axes = rows::axes(&graph)?;
    // From the last to the first: nodes that are inserted move those behind them only.
    for index in attentions(&graph).into_iter().rev() {
        let mut builder = Inserter { graph: &mut graph, at: index };
        for operand in 0..3 {
            builder.operand_to_rows(operand, &axes, capacity);
        }
        builder.result_to_rows(&axes);
    }
    rows::tables_by_position(&mut graph, capacity)?;
    remove_dead(&mut graph);
    let axes = rows::axes(&graph)?;
    match graph.outputs.iter().find(|&&id| axes[id].is_none()) {
        Some(&id) => Err(DecoderError::Output(graph.tensors[id].name.clone())),
        None => Ok(graph),
    }
}

/// Checks that the biases of an attention hide what comes later, or lies before a window, and nothing else, and drops them.
fn make_causal(graph: &mut Graph, index: usize, causal: Causal) -> Result<(), DecoderError> {
    let node = &graph.nodes[index];
    let fail = |why: String| Err(DecoderError::Mask { name: node.name.clone(), why });
    let Op::Attention(a) = &node.op else { return Ok(()) };
    if a.batch != 1 || a.n_q != a.n_k {
        return fail(format!(
            "{} x {} queries for {} keys; a decoder attends from every token to all before it",
            a.batch, a.n_q, a.n_k
        ));
    }
    let (n, heads) = (a.n_q, a.heads);
    let mut biases = Vec::new();
    for &id in &node.inputs[3..] {
        let shape = graph.shape(id);
        let Some(values) = graph.floats(id) else {
            return fail(
                "its mask is computed from an input; export the model without a mask input of its own".to_owned(),
            );
        };
        let lead = shape.len().saturating_sub(4);
        if shape[..lead].iter().any(|&d| d != 1) {
            return fail(format!("a mask of shape {shape:?}"));
        }
        let mut dims = vec![1; 4 - shape.len().min(4)];
        dims.extend_from_slice(&shape[lead..]);
        biases.push((dims, values));
    }
    let bias = |head: usize, row: usize, key: usize| -> f32 {
        let of = |(dims, values): &(Vec<usize>, &[f32])| {
            let index =
                [0, head, row, key].iter().zip(dims).fold(0, |at, (&i, &d)| at * d + if d == 1 { 0 } else { i });
            values[index]
        };
        biases.iter().map(of).sum()
    };
    let is_hidden = |value: f32| value.is_nan() || value <= HIDDEN;
    let of_last = |key: usize| bias(0, n - 1, key) - bias(0, n - 1, n - 1);
    // What the last token sees is what every token sees: checked below.
    let window = (0..n).rev().position(|key| is_hidden(of_last(key))).unwrap_or(n);
    for head in 0..heads {
        for row in 0..n {
            // What is added to all scores of a row alike has no effect.
            let own = bias(head, row, row);
            for key in 0..n {
                let value = bias(head, row, key) - own;
                let hidden = is_hidden(value);
                if key > row && !hidden {
                    return fail(format!(
                        "token {row} sees token {key}, which comes later; this is no causal decoder: convert it without --context"
                    ));
                }
                if key <= row && hidden != (row - key >= window) {
                    return fail(format!(
                        "token {row} {} token {key}, and the last token has a window of {window}: a decoder has one window for all",
                        if hidden { "does not see" } else { "sees" },
                    ));
                }
                if key <= row && !hidden && value.abs() > SEEN {
                    return fail("scores depend on the distance of tokens (ALiBi, relative positions), which has no form over a cache".to_owned());
                }
            }
        }
    }
    let node = &mut graph.nodes[index];
    node.inputs.truncate(3);
    if let Op::Attention(a) = &mut node.op {
        a.causal = Some(Causal { window: causal.window.min(if window < n { window } else { usize::MAX }), ..causal });
    }
    Ok(())
}

/// Nodes that no output needs, and the values of constants that nobody reads.
fn remove_dead(graph: &mut Graph) {
    let mut needed = vec![false; graph.tensors.len()];
    graph.outputs.iter().for_each(|&id| needed[id] = true);
    let mut keep = vec![false; graph.nodes.len()];
    for (node, keep) in graph.nodes.iter().zip(&mut keep).rev() {
        *keep = needed[node.output];
        if *keep {
            node.inputs.iter().for_each(|&id| needed[id] = true);
        }
    }
    let mut keep = keep.into_iter();
    graph.nodes.retain(|_| keep.next().unwrap_or(false));
    for (tensor, _) in graph.tensors.iter_mut().zip(&needed).filter(|(_, needed)| !**needed) {
        tensor.value = None;
    }
}

/// Columns of a tensor of rows: element `c` of head `h` is column `first + h * stride + c`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Columns {
    first: usize,
    heads: usize,
    stride: usize,
    width: usize,
}

impl Columns {
    fn list(self) -> impl Iterator<Item = usize> {
        (0..self.heads).flat_map(move |head| (0..self.width).map(move |c| self.first + head * self.stride + c))
    }

    fn count(self) -> usize {
        self.heads * self.width
    }
}

/// Puts nodes before node `at`.
struct Inserter<'g> {
    graph: &'g mut Graph,
    at: usize,
}

impl Inserter<'_> {
    fn insert(&mut self, name: &str, op: Op, inputs: Vec<TensorId>, shape: Vec<usize>) -> TensorId {
        let output = self.graph.add_tensor(name, shape, DataType::Float);
        self.graph.nodes.insert(self.at, Node { name: name.to_owned(), op, inputs, output });
        self.at += 1;
        output
    }

    fn attention(&self) -> Option<&Attention> {
        match &self.graph.nodes[self.at].op {
            Op::Attention(attention) => Some(attention),
            _ => None,
        }
    }

    /// Makes operand `operand` of the attention a tensor `[1, rows, heads * width]`, rotated by a node of its own.
    fn operand_to_rows(&mut self, operand: usize, axes: &[Option<usize>], capacity: usize) {
        let Some(a) = self.attention().cloned() else { return };
        let (view, heads, width) = match operand {
            0 => (a.q, a.heads, a.head_dim),
            1 => (a.k, a.kv_heads, a.head_dim),
            _ => (a.v, a.kv_heads, a.v_dim),
        };
        let id = self.graph.nodes[self.at].inputs[operand];
        let name = format!("{}/{}", self.graph.nodes[self.at].name, ["q", "k", "v"][operand]);
        let grid = rotary::Grid { view, heads, rows: a.n_q, width };
        let (rows, factor) = match rotary::find(self.graph, id, grid, axes) {
            Some(found) => {
                let source = self.rows_of(&name, found.source, found.columns, a.n_q);
                let Some(source) = source else { return };
                let keep = capacity.min(a.n_q) * found.rope.rotary / 2;
                let shape = vec![capacity.min(a.n_q), found.rope.rotary / 2];
                let mut table = |part: &str, values: &[f32]| {
                    let values = Data::Float(values[..keep].to_vec());
                    self.graph.add_constant(format!("{name}/{part}"), shape.clone(), values)
                };
                let (cosines, sines) = (table("cos", &found.cosines), table("sin", &found.sines));
                let shape = self.graph.shape(source).to_vec();
                let inputs = vec![source, cosines, sines];
                (self.insert(&format!("{name}/rope"), Op::Rope(found.rope), inputs, shape), found.factor)
            }
            None => {
                let Some(columns) = plain_columns(self.graph, id, grid, axes) else {
                    let moved = self.moved_to_rows(&name, id, grid, axes);
                    let Some(moved) = moved else { return };
                    self.set_operand(operand, moved, 1.0);
                    return;
                };
                let Some(rows) = self.rows_of(&name, id, columns, a.n_q) else { return };
                (rows, 1.0)
            }
        };
        self.set_operand(operand, rows, factor);
    }

    fn set_operand(&mut self, operand: usize, rows: TensorId, factor: f32) {
        let node = &mut self.graph.nodes[self.at];
        node.inputs[operand] = rows;
        let Op::Attention(a) = &mut node.op else { return };
        let n = a.n_q;
        let view = |heads: usize, width: usize| HeadView {
            offset: 0,
            batch: n * heads * width,
            head: width,
            row: heads * width,
        };
        match operand {
            0 => a.q = view(a.heads, a.head_dim),
            1 => a.k = view(a.kv_heads, a.head_dim),
            _ => a.v = view(a.kv_heads, a.v_dim),
        }
        a.scale *= factor;
    }

    /// `columns` of the rows of `source` as a tensor `[1, rows, count]`: the layer itself where it is all of one, a
    /// layer with these rows of its weights where it is a part.
    fn rows_of(&mut self, name: &str, source: TensorId, columns: Columns, n: usize) -> Option<TensorId> {
        let total = self.graph.tensors[source].len() / n;
        let shape = vec![1, n, columns.count()];
        if columns.list().eq(0..total) {
            return Some(source);
        }
        let producer = self.graph.producers()[source].map(|index| self.graph.nodes[index].clone());
        if let Some(node) = producer.filter(|node| node.op == Op::Linear) {
            let mut inputs = vec![node.inputs[0]];
            for (index, &id) in node.inputs.iter().enumerate().skip(1) {
                let values = self.graph.floats(id)?;
                let width = if index == 1 { *self.graph.shape(id).last()? } else { 1 };
                let part = columns
                    .list()
                    .map(|c| values.get(c * width..(c + 1) * width))
                    .collect::<Option<Vec<_>>>()?
                    .concat();
                let shape = if index == 1 { vec![columns.count(), width] } else { vec![columns.count()] };
                inputs.push(self.graph.add_constant(
                    format!("{name}/{}", self.graph.tensors[id].name),
                    shape,
                    Data::Float(part),
                ));
            }
            // Rows of the input as they are, in the rank of the input.
            let mut shape = self.graph.shape(inputs[0]).to_vec();
            *shape.last_mut()? = columns.count();
            return Some(self.insert(&format!("{name}/linear"), Op::Linear, inputs, shape));
        }
        let Columns { first, heads, stride, width } = columns;
        if heads > 1 && stride != width && (total != heads * stride || first + width > stride) {
            return None;
        }
        let flat = if heads == 1 || stride == width { vec![1, n, total] } else { vec![1, n, heads, stride] };
        let apart = self.insert(&format!("{name}/rows"), Op::Reshape, vec![source], flat.clone());
        let mut starts = vec![0; flat.len()];
        starts[flat.len() - 1] = first;
        let mut taken = flat.clone();
        taken[flat.len() - 1] = if flat.len() == 3 { heads * width } else { width };
        let steps = vec![1; flat.len()];
        let part = self.insert(&format!("{name}/columns"), Op::Slice { starts, steps }, vec![apart], taken);
        Some(self.insert(&format!("{name}/flat"), Op::Reshape, vec![part], shape))
    }

    /// The operand of shape `[.., heads, rows, width]` as `[1, rows, heads * width]`.
    fn moved_to_rows(
        &mut self,
        name: &str,
        id: TensorId,
        grid: rotary::Grid,
        axes: &[Option<usize>],
    ) -> Option<TensorId> {
        let shape = self.graph.shape(id).to_vec();
        let axis = axes[id]?;
        let contiguous = grid.view.offset == 0 && shape[axis + 1..].iter().product::<usize>() == grid.view.row;
        let all = shape.iter().product::<usize>() == grid.heads * grid.rows * grid.width;
        let heads_first = grid.view.row == grid.width && grid.view.head == grid.rows * grid.width;
        if !(contiguous && all && heads_first) {
            return None;
        }
        let (heads, n, width) = (grid.heads, grid.rows, grid.width);
        let apart = self.insert(&format!("{name}/heads"), Op::Reshape, vec![id], vec![1, heads, n, width]);
        let op = Op::Transpose { perm: vec![0, 2, 1, 3] };
        let turned = self.insert(&format!("{name}/turned"), op, vec![apart], vec![1, n, heads, width]);
        Some(self.insert(&format!("{name}/rows"), Op::Reshape, vec![turned], vec![1, n, heads * width]))
    }

    /// Makes the attention write rows, which are moved to where its result is read from.
    fn result_to_rows(&mut self, axes: &[Option<usize>]) {
        let Some(a) = self.attention().cloned() else { return };
        let (n, heads, width) = (a.n_q, a.heads, a.v_dim);
        let rows = HeadView { offset: 0, batch: n * heads * width, head: width, row: heads * width };
        let same = a.out.offset == 0 && a.out.row == rows.row && (heads == 1 || a.out.head == width);
        let heads_first = a.out.offset == 0 && a.out.row == width && a.out.head == n * width;
        let output = self.graph.nodes[self.at].output;
        let all = self.graph.tensors[output].len() == heads * n * width && axes[output].is_some();
        if same || !heads_first || !all {
            return;
        }
        let name = self.graph.nodes[self.at].name.clone();
        let flat = self.graph.add_tensor(format!("{name}/rows"), vec![1, n, heads * width], DataType::Float);
        let node = &mut self.graph.nodes[self.at];
        node.output = flat;
        if let Op::Attention(a) = &mut node.op {
            a.out = rows;
        }
        self.at += 1;
        let apart = self.insert(&format!("{name}/apart"), Op::Reshape, vec![flat], vec![1, n, heads, width]);
        let op = Op::Transpose { perm: vec![0, 2, 1, 3] };
        let turned = self.insert(&format!("{name}/turned"), op, vec![apart], vec![1, heads, n, width]);
        let node = Node { name: format!("{name}/result"), op: Op::Reshape, inputs: vec![turned], output };
        self.graph.nodes.insert(self.at, node);
    }
}

/// The columns that a view of rows takes; `None` where the tokens are not the rows of the tensor.
fn plain_columns(graph: &Graph, id: TensorId, grid: rotary::Grid, axes: &[Option<usize>]) -> Option<Columns> {
    let shape = graph.shape(id);
    let axis = axes[id]?;
    let total: usize = shape[axis + 1..].iter().product();
    let before: usize = shape[..axis].iter().product();
    let rows = before == 1 && grid.view.row == total && grid.view.offset < total;
    let end = grid.view.offset + (grid.heads - 1) * grid.view.head + grid.width;
    (rows && end <= total).then_some(Columns {
        first: grid.view.offset,
        heads: grid.heads,
        stride: if grid.heads == 1 { grid.width } else { grid.view.head },
        width: grid.width,
    })
}
