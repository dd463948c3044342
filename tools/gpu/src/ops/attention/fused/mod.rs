//! Attention without the score matrix: one workgroup for every four query rows.

use super::{AttentionParams, Builder, contiguous_rows, place_rows, product, row_scratch};
use crate::error::GpuError;
use crate::step::{Shader, Tensor, shader};
use shiftformer::ops::attention::HeadView;

static SHADER: Shader =
    shader!("attention", ["tensor", "memory", "arith", "packed", "exp", "reduce", "attention", "entry"], "shader.wgsl");

/// Query rows of a workgroup.
const ROWS: u32 = 4;
/// Most invocations side by side over the columns of a row: with one for each row they fill the workgroup.
const MAX_LANES: u32 = 16;

/// Whether every row of the view starts at a whole word.
fn starts_at_words(view: &HeadView) -> bool {
    [view.offset, view.batch, view.head, view.row].iter().all(|v| v.is_multiple_of(4))
}

pub(in crate::ops) fn steps(build: &mut Builder<'_>, op: &AttentionParams) -> Result<(), GpuError> {
    // Rows that start and end at whole words are written in place, others by way of scratch memory.
    let view = op.out;
    let whole = starts_at_words(&view) && op.v_dim.is_multiple_of(4);
    let (out, view) = if whole { (build.output(), view) } else { (row_scratch(build, op)?, contiguous_rows(op)) };
    let lanes = op.v_dim.div_ceil(4).next_power_of_two().min(MAX_LANES);
    let tensors = [0, 1, 2, 3, 4].map(|i| build.input(i));
    let [q, k, v, bias0, bias1] = tensors;
    let blocks = product(&[op.batch, op.heads, op.n_q.div_ceil(ROWS)]);
    let params = build
        .params(&[q, k, v, bias0, bias1, out])
        .with(blocks as u32)
        .with(lanes)
        .with(AttentionParams { out: view, ..*op })
        .constant("ALIGNED", [op.q, op.k, op.v].iter().all(starts_at_words))
        .constant("BIAS0", bias0 != Tensor::ABSENT)
        .constant("BIAS1", bias1 != Tensor::ABSENT)
        .constant("WIDE_EXP", op.wide_exp);
    build.groups(&SHADER, params, blocks)?;
    if whole { Ok(()) } else { place_rows(build, op, out) }
}
