//! Less memory by blocks of rows: which operators run together in chains, and how many rows at a time.
//!
//! A transformer layer becomes three chains: normalization with the dense layer of keys and values; normalization again
//! with the dense layer of queries, attention and the projection; normalization with both layers of the MLP. Whole in
//! memory are then the residual stream, keys and values. See [`shiftformer::Chain`] for how they run.

use crate::program::plan::memory_bound;
use crate::program::{Program, QOp, TensorIndex};
use shiftformer::MAX_CHAIN;
use shiftformer::format::Blob;
use shiftformer::kernels::PANEL;
use shiftformer::ops::attention::Attention;
use shiftformer::ops::{Op, RowRead};
use std::ops::Range;

/// Rows in a block, the fastest first; multiples of the rows that kernels take at once.
const BLOCKS: [u8; 12] = [250, 200, 150, 100, 80, 60, 50, 40, 30, 20, 10, 5];
/// Fewest rows in a block of attention: keys and values are prepared again for every block, which with so many rows adds
/// about a seventh to it.
const ATTENTION_ROWS: u8 = 50;
/// The same where memory is wanted at the cost of time.
const ATTENTION_ROWS_WANTED: u8 = 10;
/// Unless asked for, chains must shrink the arena to this part, and by this many bytes, to be worth their time.
const WORTH: (f64, usize) = (0.8, 16 * 1024);
/// A second normalization per layer, for queries of their own, must shrink it further to this part.
const WORTH_DIVIDED: f64 = 0.95;

/// `program` with the chains that make its arena smaller; as it is where they do not, or where they gain less than a
/// fifth or 16 KiB and are not `wanted` all the same.
pub fn in_blocks(program: &Program, wanted: bool) -> Program {
    let whole = memory_bound(program);
    let mut sunk = program.clone();
    sink_convolutions(&mut sunk);
    copies_by_rows(&mut sunk);
    let attention_rows = if wanted { ATTENTION_ROWS_WANTED } else { ATTENTION_ROWS };
    let divided = Chained::of(divide_attention(&sunk), attention_rows).relaxed();
    let plain = Chained::of(sunk, attention_rows).relaxed();
    let best = if divided.bound as f64 <= plain.bound as f64 * WORTH_DIVIDED { divided } else { plain };
    let worth = best.bound as f64 <= whole as f64 * WORTH.0 && best.bound + WORTH.1 <= whole;
    if worth || wanted && best.bound < whole { best.program } else { program.clone() }
}

/// A program with every chain there is, in blocks as small as can be.
struct Chained {
    program: Program,
    chains: Vec<Range<usize>>,
    bound: usize,
}

impl Chained {
    fn of(program: Program, attention_rows: u8) -> Self {
        let uses = Uses::of(&program);
        let (mut chained, mut chains, mut op) = (program.clone(), Vec::new(), 0);
        while op < program.ops.len() {
            let growing = Growing { program: &program, uses: &uses, start: op, windows: Vec::new() };
            let Some(windows) = growing.start() else {
                op += 1;
                continue;
            };
            let end = 1 + windows.iter().map(|&t| uses.last(t)).max().unwrap_or(op);
            let attention = program.ops[op..end].iter().any(|op| matches!(op.op, Op::Attention(_)));
            let min = if attention { attention_rows } else { 0 };
            let admitted = |&b: &u8| b >= min && windows.iter().all(|&t| whole_words(&program, t, b));
            let smallest = BLOCKS.into_iter().rev().find(admitted);
            if let Some(block) = smallest.filter(|&block| u32::from(block) < program.ops[op].op.pieces()) {
                windows.iter().for_each(|&t| chained.tensors[t].window = block);
                chained.ops[op + 1..end].iter_mut().for_each(|op| op.chained = true);
                chains.push(op..end);
            }
            op = end;
        }
        let bound = memory_bound(&chained);
        Self { program: chained, chains, bound }
    }

    /// Every chain with the largest blocks that do not make the arena larger; taken apart where all rows do not.
    fn relaxed(mut self) -> Self {
        for chain in self.chains.clone() {
            let windows: Vec<TensorIndex> = self.program.ops[chain.clone()].iter().map(|op| op.output).collect();
            let windows: Vec<TensorIndex> =
                windows.into_iter().filter(|&t| self.program.tensors[t].window > 0).collect();
            let rows = self.program.ops[chain.start].op.pieces();
            let now = windows.first().map_or(0, |&t| self.program.tensors[t].window);
            let larger = BLOCKS.into_iter().filter(|&b| b > now && u32::from(b) < rows);
            for block in std::iter::once(0).chain(larger) {
                if windows.iter().any(|&t| !whole_words(&self.program, t, block)) {
                    continue;
                }
                self.set(&chain, &windows, block);
                let bound = memory_bound(&self.program);
                if bound <= self.bound {
                    self.bound = bound;
                    break;
                }
                self.set(&chain, &windows, now);
            }
        }
        self
    }

    fn set(&mut self, chain: &Range<usize>, windows: &[TensorIndex], block: u8) {
        windows.iter().for_each(|&t| self.program.tensors[t].window = block);
        self.program.ops[chain.start + 1..chain.end].iter_mut().for_each(|op| op.chained = block > 0);
    }
}

/// Whether blocks of `block` rows of `tensor` begin at whole words, as parts of a digest must.
fn whole_words(program: &Program, tensor: TensorIndex, block: u8) -> bool {
    let tensor = &program.tensors[tensor];
    let row = tensor.shape.last().copied().unwrap_or(1) * tensor.dtype.bytes();
    (usize::from(block) * row).is_multiple_of(4)
}

/// Who reads what.
struct Uses {
    /// Per tensor: operators that read it.
    readers: Vec<Vec<usize>>,
    /// Per tensor: operators that write it.
    writers: Vec<Vec<usize>>,
    /// Tensors of model inputs and outputs.
    ends: Vec<TensorIndex>,
}

impl Uses {
    fn of(program: &Program) -> Self {
        let mut readers = vec![Vec::new(); program.tensors.len()];
        let mut writers = readers.clone();
        for (index, op) in program.ops.iter().enumerate() {
            op.inputs.iter().flatten().for_each(|&t| readers[t].push(index));
            writers[op.output].push(index);
        }
        let ends = program.inputs.iter().chain(&program.outputs).map(|end| end.tensor).collect();
        Self { readers, writers, ends }
    }

    fn last(&self, tensor: TensorIndex) -> usize {
        self.readers[tensor].last().copied().unwrap_or(0)
    }
}

/// A chain under construction: the tensors that have a window so far.
#[derive(Clone)]
struct Growing<'p> {
    program: &'p Program,
    uses: &'p Uses,
    start: usize,
    windows: Vec<TensorIndex>,
}

impl Growing<'_> {
    /// The windows of the chain from `start` on, if there is one.
    fn start(mut self) -> Option<Vec<TensorIndex>> {
        let output = self.program.ops[self.start].output;
        self.can_hold(self.start, output).then_some(())?;
        self.windows.push(output);
        let next = self.start + 1;
        self.grow(next)
    }

    /// Goes on with operator `op`, until every window is read.
    fn grow(self, op: usize) -> Option<Vec<TensorIndex>> {
        if self.windows.iter().all(|&t| self.uses.last(t) < op) {
            return Some(self.windows);
        }
        let fits = op < self.program.ops.len() && op - self.start < MAX_CHAIN && self.admits(op);
        fits.then_some(())?;
        let output = self.program.ops[op].output;
        if self.can_hold(op, output) && !self.replaces_an_input(op) {
            let mut with = self.clone();
            with.windows.push(output);
            if let Some(windows) = with.grow(op + 1) {
                return Some(windows);
            }
        }
        self.grow(op + 1)
    }

    fn rows(&self) -> u32 {
        self.program.ops[self.start].op.pieces()
    }

    /// Whether `op` can run in blocks and reads what the chain writes row by row.
    fn admits(&self, op: usize) -> bool {
        let QOp { op: params, inputs, .. } = &self.program.ops[op];
        let Some(access) = params.row_access().filter(|_| params.pieces() == self.rows()) else { return false };
        inputs.iter().zip(access.inputs).filter_map(|(&t, read)| Some((t?, read))).all(|(tensor, read)| {
            let inside = self.uses.writers[tensor].iter().any(|w| (self.start..op).contains(w));
            !inside || matches!(read, RowRead::Row(width) if self.is_rows(tensor, width))
        })
    }

    fn is_rows(&self, tensor: TensorIndex, width: u32) -> bool {
        let tensor = &self.program.tensors[tensor];
        tensor.shape.last() == Some(&(width as usize)) && tensor.len() == self.rows() as usize * width as usize
    }

    /// Whether the output of `op` can be held a block at a time.
    fn can_hold(&self, op: usize, output: TensorIndex) -> bool {
        let params = &self.program.ops[op].op;
        let Some(access) = params.row_access() else { return false };
        params.completes_output()
            && access.out_first == 0
            && self.is_rows(output, access.out_row)
            && self.uses.writers[output].len() == 1
            && !self.uses.readers[output].is_empty()
            && !self.uses.ends.contains(&output)
    }

    /// Whether the output of `op` takes the memory of an input that is whole and needed no more.
    fn replaces_an_input(&self, op: usize) -> bool {
        let QOp { op: params, inputs, .. } = &self.program.ops[op];
        let input = params.in_place().and_then(|index| inputs.get(index).copied().flatten());
        input.is_some_and(|t| self.uses.last(t) == op && !self.windows.contains(&t))
    }
}

/// Moves every convolution whose output one operator reads right before that one.
fn sink_convolutions(program: &mut Program) {
    for op in (0..program.ops.len()).rev() {
        let QOp { op: Op::Conv2d(_), output, .. } = program.ops[op] else { continue };
        let uses = Uses::of(program);
        let &[reader] = &uses.readers[output][..] else { continue };
        if uses.writers[output].len() == 1 && !uses.ends.contains(&output) {
            program.ops[op..reader].rotate_left(1);
        }
    }
}

/// Gives copies of whole tensors the rows of what they copy.
fn copies_by_rows(program: &mut Program) {
    for op in &mut program.ops {
        let (Op::Copy(copy), Some(input)) = (&mut op.op, op.inputs[0]) else { continue };
        let row = program.tensors[input].shape.last().map_or(1, |&d| d as u32);
        let [1, 1, 1, 1, 1, len] = copy.dims else { continue };
        let one_run = copy.from.strides[5] == 1 && copy.to.strides[5] == 1;
        if one_run && len as usize == program.tensors[input].len() && row > 0 {
            copy.dims = [1, 1, 1, 1, len / row, row];
            copy.from.strides[4] = row as i32;
            copy.to.strides[4] = row as i32;
        }
    }
}

/// Queries in a dense layer of their own, right before their attention, behind a normalization of their own.
fn divide_attention(program: &Program) -> Program {
    let mut divided = program.clone();
    let mut op = 0;
    while op < divided.ops.len() {
        if let Op::Attention(attention) = divided.ops[op].op {
            divide_queries(&mut divided, op, attention);
            sink_queries(&mut divided, op);
            op = divided.ops.iter().skip(op).position(|o| matches!(o.op, Op::Attention(_))).map_or(op, |n| op + n);
        }
        op += 1;
    }
    divided.remove_dead();
    divided
}

/// Makes two dense layers of one whose output attention `op` reads as queries, keys and values.
fn divide_queries(program: &mut Program, op: usize, attention: Attention) -> Option<()> {
    let p = attention.attention;
    let [Some(q), Some(k), Some(v)] = program.ops[op].inputs[..3] else { return None };
    let uses = Uses::of(program);
    let sole = q == k
        && q == v
        && uses.readers[q].iter().all(|&reader| reader == op)
        && uses.writers[q].len() == 1
        && !uses.ends.contains(&q);
    let producer = *uses.writers[q].first().filter(|_| sole)?;
    let Op::Linear(linear) = program.ops[producer].op else { return None };
    let columns = |view: shiftformer::ops::attention::HeadView, heads: u32, width: u32| {
        view.offset..view.offset + view.head * heads.saturating_sub(1) + width
    };
    let queries = columns(p.q, p.heads, p.head_dim);
    let kv_heads = p.heads.checked_div(p.kv_group)?;
    let rest = [columns(p.k, kv_heads, p.head_dim), columns(p.v, kv_heads, p.v_dim)];
    let after = rest.iter().all(|c| c.start >= queries.end);
    let panels = queries.end.is_multiple_of(PANEL as u32) && queries.start == 0;
    let same_rows = [p.q.row, p.k.row, p.v.row].iter().all(|&row| row == linear.n);
    let by_rows = linear.rows == p.batch * p.n_q && p.n_q == p.n_k && queries.end < linear.n;
    // A residual or a table over all columns stays with the layer as it is.
    let plain = program.ops[producer].inputs.get(1).copied().flatten().is_none();
    (after && panels && same_rows && by_rows && plain).then_some(())?;

    let cut = queries.end;
    let name = program.ops[producer].name.clone();
    let part = |program: &mut Program, columns: Range<u32>, suffix: &str| {
        let mut tensor = program.tensors[q].clone();
        tensor.name = format!("{}/{suffix}", tensor.name);
        *tensor.shape.last_mut()? = columns.len();
        tensor.source = None;
        let tensor = program.add_tensor(tensor);
        let op = Op::Linear(dense_part(linear, columns));
        Some((tensor, QOp { name: format!("{name}/{suffix}"), op, ..program.ops[producer].clone() }))
    };
    let (q_tensor, q_op) = part(program, 0..cut, "queries")?;
    let (kv_tensor, kv_op) = part(program, cut..linear.n, "keys_values")?;
    let mut p = p;
    let width = linear.n - cut;
    (p.q.row, p.k.row, p.v.row) = (cut, width, width);
    (p.q.batch, p.k.batch, p.v.batch) = (cut * p.n_q, width * p.n_k, width * p.n_k);
    (p.k.offset, p.v.offset) = (p.k.offset - cut, p.v.offset - cut);
    program.ops[op].op = Op::Attention(Attention { attention: p });
    program.ops[op].inputs[..3].copy_from_slice(&[Some(q_tensor), Some(kv_tensor), Some(kv_tensor)]);
    program.ops[producer] = QOp { output: kv_tensor, ..kv_op };
    program.ops.insert(producer + 1, QOp { output: q_tensor, ..q_op });
    Some(())
}

/// Output columns `columns` (whole panels) of a dense layer.
fn dense_part(linear: shiftformer::ops::linear::Linear, columns: Range<u32>) -> shiftformer::ops::linear::Linear {
    let panels = |n: u32| n.div_ceil(PANEL as u32);
    let all = panels(linear.n).max(1);
    let (first, count) = (columns.start / PANEL as u32, panels(columns.end) - columns.start / PANEL as u32);
    let part = |blob: Blob| {
        let bytes = blob.bytes / all;
        if blob.is_some() { Blob { offset: blob.offset + first * bytes, bytes: count * bytes } } else { blob }
    };
    let mut dense = linear.dense;
    (dense.weights, dense.bias, dense.multipliers) = (part(dense.weights), part(dense.bias), part(dense.multipliers));
    shiftformer::ops::linear::Linear { n: columns.len() as u32, dense, ..linear }
}

/// Moves the dense layer of the queries of the first attention at or behind `op` right before it, behind a copy of the
/// normalization that feeds it where others read that too.
fn sink_queries(program: &mut Program, op: usize) -> Option<()> {
    let op = op + program.ops[op..].iter().position(|o| matches!(o.op, Op::Attention(_)))?;
    let q = program.ops[op].inputs[0]?;
    let uses = Uses::of(program);
    let producer = *uses.writers[q].first().filter(|_| uses.readers[q] == [op])?;
    let Op::Linear(_) = program.ops[producer].op else { return None };
    let x = program.ops[producer].inputs[0]?;
    let norm = *uses.writers[x].first().filter(|_| uses.writers[x].len() == 1)?;
    let Op::LayerNorm(_) = program.ops[norm].op else { return None };
    // What the normalization reads must still be there.
    let source = program.ops[norm].inputs[0]?;
    uses.writers[source].iter().all(|&w| w < norm).then_some(())?;
    let mut layer = program.ops[producer].clone();
    let mut copy = program.ops[norm].clone();
    if uses.readers[x].len() > 1 {
        let mut tensor = program.tensors[x].clone();
        tensor.name.push_str("/again");
        copy.name.push_str("/again");
        copy.output = program.add_tensor(tensor);
        layer.inputs[0] = Some(copy.output);
        program.ops.insert(op, layer);
        program.ops.insert(op, copy);
    } else {
        program.ops.insert(op, layer);
        program.ops.insert(op, copy);
        program.ops.remove(norm.max(producer));
        program.ops.remove(norm.min(producer));
        return Some(());
    }
    program.ops.remove(producer);
    Some(())
}
