//! Which operators of a model with state make their output row after row, so that a run of fewer rows needs fewer pieces.

use super::Program;
use shiftformer::ops::{Dims, Extent, Op};

/// [`OpRecord::by_rows`](shiftformer::format::OpRecord::by_rows) of every operator: its pieces, where they write the output
/// from the first row to the last and what a piece reads is written by the pieces of the same rows, kept in the state, or
/// constant; otherwise 0.
pub fn by_rows(program: &Program) -> Vec<u16> {
    let rows = program.state.map_or(0, |state| state.rows);
    if rows < 2 {
        return vec![0; program.ops.len()];
    }
    // Tensors whose rows lie one behind the other, each made of rows of the same number.
    let mut ready: Vec<bool> = program.tensors.iter().map(|tensor| !tensor.in_arena()).collect();
    for input in &program.inputs {
        ready[input.tensor] = program.tensors[input.tensor].len() == rows;
    }
    let mut all = Vec::with_capacity(program.ops.len());
    for op in &program.ops {
        let out = &program.tensors[op.output];
        let own = op.inputs.iter().flatten().all(|&input| ready[input]);
        let even = out.len().is_multiple_of(rows);
        let varies = |index: usize| {
            op.inputs.get(index).copied().flatten().is_some_and(|input| program.tensors[input].in_arena())
        };
        let access = op.op.row_access().filter(|_| op.op.pieces() as usize == rows);
        let by_rows = match access {
            Some(_) => true,
            None => own && even && in_order(&op.op, rows, varies),
        };
        let laid = access.is_none_or(|access| access.out_first == 0 && access.out_row as usize * rows == out.len());
        if out.in_arena() {
            ready[op.output] = by_rows && own && even && laid && op.op.completes_output();
        }
        // More pieces than can be written down: all of them then.
        all.push(if by_rows { u16::try_from(op.op.pieces()).unwrap_or(0) } else { 0 });
    }
    all
}

/// Whether the pieces of an operator make the elements of its output in order, each of elements in the same place of those
/// inputs that vary.
fn in_order(op: &Op, rows: usize, varies: impl Fn(usize) -> bool) -> bool {
    let whole_rows = |pieces: u32| (pieces as usize).is_multiple_of(rows);
    let same_place = |dims: &Dims, views: [&Extent; 2]| {
        views.iter().enumerate().all(|(index, view)| !varies(index) || **view == Extent::contiguous(*dims))
    };
    match op {
        Op::Lut(_) | Op::LutI16(_) | Op::Requant(_) => true,
        Op::Add(add) => same_place(&add.dims, [&add.a, &add.b]),
        Op::Mul(mul) => same_place(&mul.dims, [&mul.a, &mul.b]),
        Op::Gather(gather) => !varies(0) && whole_rows(gather.n),
        Op::Embedding(embedding) => whole_rows(embedding.n),
        Op::LayerNorm(norm) => whole_rows(norm.rows),
        // Most of them are by rows where they have a row for each piece; none of the others is in a decoder.
        Op::Linear(_)
        | Op::Conv2d(_)
        | Op::DepthwiseConv2d(_)
        | Op::MatMul(_)
        | Op::Attention(_)
        | Op::AttentionScores(_)
        | Op::AttentionExp(_)
        | Op::AttentionValues(_)
        | Op::Softmax(_)
        | Op::Copy(_)
        | Op::ReduceMean(_)
        | Op::Pool2d(_)
        | Op::DyadicRequant(_)
        | Op::Shiftmax(_)
        | Op::ShiftGelu(_)
        | Op::ILayerNorm(_)
        | Op::KvAppend(_)
        | Op::CausalAttention(_)
        | Op::WindowedAttention(_)
        | Op::Rope(_)
        | Op::LinearI16(_)
        | Op::Conv2dI16(_)
        | Op::DepthwiseConv2dI16(_)
        | Op::MatMulI16(_)
        | Op::MaxPoolI16(_)
        | Op::Positions(_)
        | Op::LmulLinear(_)
        | Op::LookupLinear(_) => false,
    }
}
