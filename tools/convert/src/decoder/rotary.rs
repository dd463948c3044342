//! Rotary position embeddings, whatever they are written as.
//!
//! What lies between a layer and the operand of an attention is linear: movement, products with constants, sums. Such a
//! region is not matched node by node but asked: its answers to a few inputs tell which columns it reads, which pairs it
//! rotates and by which angles, and its answer to random values must be that of the rotation found. So split halves,
//! neighbours, partial rotations, fused tables and whatever exporters write next are one case.

use super::Columns;
use crate::graph::exec::eval_node;
use crate::graph::{Binary, Data, DataType, Graph, HeadView, Op, Rope, TensorId, Unary};
use std::collections::HashMap;

/// Nodes of a region at most.
const MAX_NODES: usize = 64;
/// Largest difference between the region and the rotation, for values up to 1.
const SAME: f32 = 2e-4;
/// How far a cosine may lie beyond 1 by rounding.
const ROUNDING: f32 = 1e-4;

/// The operand of an attention: `rows` rows of `heads` heads of `width` elements.
#[derive(Clone, Copy, Debug)]
pub(super) struct Grid {
    pub view: HeadView,
    pub heads: usize,
    pub rows: usize,
    pub width: usize,
}

impl Grid {
    fn at(&self, head: usize, row: usize, c: usize) -> usize {
        self.view.offset + head * self.view.head + row * self.view.row + c
    }
}

/// A rotation of columns of a tensor of rows.
#[derive(Debug)]
pub(super) struct Found {
    pub source: TensorId,
    pub columns: Columns,
    pub rope: Rope,
    /// `[rows, rotary / 2]`.
    pub cosines: Vec<f32>,
    /// `[rows, rotary / 2]`.
    pub sines: Vec<f32>,
    /// Of the result.
    pub factor: f32,
}

/// The rotation that makes `operand`, where there is one.
pub(super) fn find(graph: &Graph, operand: TensorId, grid: Grid, axes: &[Option<usize>]) -> Option<Found> {
    let producers = graph.producers();
    let mut region: Vec<usize> = Vec::new();
    let mut open = vec![operand];
    while region.len() < MAX_NODES {
        let last = open.iter().filter_map(|&id| producers[id]).max()?;
        let node = &graph.nodes[last];
        if !is_linear(graph, last) {
            return None;
        }
        open.retain(|&id| id != node.output);
        for &id in node.inputs.iter().filter(|&&id| graph.tensors[id].value.is_none()) {
            if !open.contains(&id) {
                open.push(id);
            }
        }
        region.push(last);
        let products = region.iter().any(|&index| matches!(graph.nodes[index].op, Op::Binary(Binary::Mul)));
        if let ([source], true) = (&open[..], products) {
            let probe = Probe { graph, region: &region, operand, source: *source, grid };
            if let Some(found) = probe.rotation(axes) {
                return Some(found);
            }
        }
    }
    None
}

/// Whether a node is linear in its computed operands.
fn is_linear(graph: &Graph, index: usize) -> bool {
    let node = &graph.nodes[index];
    let computed = node.inputs.iter().filter(|&&id| graph.tensors[id].value.is_none()).count();
    match &node.op {
        Op::Reshape | Op::Transpose { .. } | Op::Slice { .. } | Op::Expand | Op::Unary(Unary::Neg) => true,
        Op::Concat { .. } | Op::Binary(Binary::Add | Binary::Sub) => computed == node.inputs.len(),
        Op::Binary(Binary::Mul) => computed == 1,
        Op::Binary(Binary::Div) => computed == 1 && graph.tensors[node.inputs[1]].value.is_some(),
        _ => false,
    }
}

/// A linear region between `source` and `operand`.
struct Probe<'g> {
    graph: &'g Graph,
    /// Nodes from the last to the first.
    region: &'g [usize],
    operand: TensorId,
    source: TensorId,
    grid: Grid,
}

impl Probe<'_> {
    /// The operand where the source has these values.
    fn answer(&self, values: Vec<f32>) -> Option<Vec<f32>> {
        let mut known: HashMap<TensorId, Data> = HashMap::from([(self.source, Data::Float(values))]);
        let mut order = self.region.to_vec();
        order.sort_unstable();
        for index in order {
            let node = &self.graph.nodes[index];
            let operands: Option<Vec<(&[usize], &Data)>> = node
                .inputs
                .iter()
                .map(|id| Some((self.graph.shape(*id), self.graph.constant(*id).or_else(|| known.get(id))?)))
                .collect();
            let value = eval_node(&node.op, &operands?, self.graph.shape(node.output), DataType::Float).ok()?;
            known.insert(node.output, value);
        }
        Some(known.get(&self.operand)?.floats()?.to_vec())
    }

    fn rotation(&self, axes: &[Option<usize>]) -> Option<Found> {
        let shape = self.graph.shape(self.source);
        let axis = axes[self.source]?;
        let (before, total) = (shape[..axis].iter().product::<usize>(), shape[axis + 1..].iter().product::<usize>());
        if before != 1 || shape[axis] != self.grid.rows {
            return None;
        }
        let (columns, factor) = self.columns(total)?;
        let width = self.grid.width;
        // The whole head first: what is not rotated has angles of 0 there.
        let moving = self.moving(total, columns)?;
        let candidates = [width, moving.next_multiple_of(2)];
        candidates.into_iter().filter(|&rotary| rotary > 0 && rotary <= width && rotary.is_multiple_of(2)).find_map(
            |rotary| {
                [false, true].into_iter().find_map(|interleaved| {
                    let rope = Rope { heads: self.grid.heads, head_dim: width, rotary, interleaved };
                    let (cosines, sines) = self.angles(total, columns, rope, factor)?;
                    let found = Found { source: self.source, columns, rope, cosines, sines, factor };
                    self.agrees(total, &found).then_some(found)
                })
            },
        )
    }

    /// Which columns the first row reads, and the factor it takes them with: there is no rotation at position 0.
    fn columns(&self, total: usize) -> Option<(Columns, f32)> {
        let rows = self.grid.rows;
        let ones = self.answer(vec![1.0; rows * total])?;
        let numbered = self.answer((0..rows * total).map(|i| (i % total + 1) as f32).collect())?;
        let factor = *ones.get(self.grid.at(0, 0, 0))?;
        if !(factor.is_finite() && factor > 0.0) {
            return None;
        }
        let column = |head: usize, c: usize| -> Option<usize> {
            let at = self.grid.at(head, 0, c);
            let same = (ones.get(at)? / factor - 1.0).abs() < SAME;
            let number = numbered.get(at)? / factor;
            let whole = (number - number.round()).abs() < 0.1 && number > 0.5;
            (same && whole).then(|| number.round() as usize - 1)
        };
        let first = column(0, 0)?;
        let stride = if self.grid.heads > 1 { column(1, 0)?.checked_sub(first)? } else { self.grid.width };
        let columns = Columns { first, heads: self.grid.heads, stride, width: self.grid.width };
        let expected = columns.list();
        let found = (0..self.grid.heads).flat_map(|head| (0..self.grid.width).map(move |c| (head, c)));
        found.zip(expected).all(|((head, c), want)| column(head, c) == Some(want)).then_some((columns, factor))
    }

    /// Elements of a head up to the last that depends on the position.
    fn moving(&self, total: usize, columns: Columns) -> Option<usize> {
        let ones = self.answer(vec![1.0; self.grid.rows * total])?;
        let value = |row: usize, c: usize| ones.get(self.grid.at(0, row, c)).copied();
        let moves = |c: usize| (1..self.grid.rows).any(|row| value(row, c) != value(0, c));
        Some((0..columns.width).rev().find(|&c| moves(c)).map_or(0, |c| c + 1))
    }

    /// Cosines and sines: the answer where the first element of every pair is 1.
    fn angles(&self, total: usize, columns: Columns, rope: Rope, factor: f32) -> Option<(Vec<f32>, Vec<f32>)> {
        let rows = self.grid.rows;
        let mut values = vec![0.0; rows * total];
        for row in values.chunks_mut(total) {
            for pair in 0..rope.rotary / 2 {
                *row.get_mut(columns.first + rope.pair(pair)[0])? = 1.0;
            }
        }
        let answer = self.answer(values)?;
        let (mut cosines, mut sines) = (Vec::new(), Vec::new());
        for row in 0..rows {
            for pair in 0..rope.rotary / 2 {
                let [a, b] = rope.pair(pair).map(|c| answer.get(self.grid.at(0, row, c)).map(|v| v / factor));
                let (cos, sin) = (a?, b?);
                if cos.abs() > 1.0 + ROUNDING || sin.abs() > 1.0 + ROUNDING {
                    return None;
                }
                cosines.push(cos.clamp(-1.0, 1.0));
                sines.push(sin.clamp(-1.0, 1.0));
            }
        }
        Some((cosines, sines))
    }

    /// Whether region and rotation give the same for random values.
    fn agrees(&self, total: usize, found: &Found) -> bool {
        let mut random = 0x2545_f491_4f6c_dd1du64;
        let mut next = || {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            (random >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        };
        let values: Vec<f32> = (0..self.grid.rows * total).map(|_| next()).collect();
        let Some(answer) = self.answer(values.clone()) else { return false };
        let rope = found.rope;
        let same = |row: usize, head: usize, c: usize, want: f32| {
            let got = answer.get(self.grid.at(head, row, c)).map(|v| v / found.factor);
            got.is_some_and(|got| (got - want).abs() < SAME)
        };
        (0..self.grid.rows).all(|row| {
            (0..rope.heads).all(|head| {
                let x = |c: usize| values[row * total + found.columns.first + head * found.columns.stride + c];
                let pairs = (0..rope.rotary / 2).all(|pair| {
                    let [a, b] = rope.pair(pair);
                    let at = row * rope.rotary / 2 + pair;
                    let (cos, sin) = (found.cosines[at], found.sines[at]);
                    same(row, head, a, x(a) * cos - x(b) * sin) && same(row, head, b, x(b) * cos + x(a) * sin)
                });
                pairs && (rope.rotary..rope.head_dim).all(|c| same(row, head, c, x(c)))
            })
        })
    }
}
