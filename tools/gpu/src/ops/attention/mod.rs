//! Attention: fused, and in three operators with the score matrix.

use super::builder::{Builder, product};
use super::copy;
use crate::error::GpuError;
use crate::step::Tensor;
use shiftformer::ops::Extent;
use shiftformer::ops::attention::{AttentionParams, HeadView};
use shiftformer::ops::copy::Copy;
use shiftformer::tensor::Dtype;

pub(super) mod causal;
pub(super) mod exp;
pub(super) mod fused;
pub(super) mod scores;
pub(super) mod values;

/// Query rows of all heads and batches.
fn rows(op: &AttentionParams) -> u64 {
    product(&[op.batch, op.heads, op.n_q])
}

/// Scores of all pairs of rows.
fn score_len(op: &AttentionParams) -> u64 {
    rows(op) * u64::from(op.n_k)
}

/// Width of an output row in whole words.
fn padded_v(op: &AttentionParams) -> u32 {
    op.v_dim.next_multiple_of(4)
}

/// Output rows one after the other, each in whole words.
fn contiguous_rows(op: &AttentionParams) -> HeadView {
    let row = padded_v(op);
    HeadView { offset: 0, row, head: row * op.n_q, batch: row * op.n_q * op.heads }
}

/// Scratch for [`contiguous_rows`].
fn row_scratch(build: &mut Builder<'_>, op: &AttentionParams) -> Result<Tensor, GpuError> {
    build.scratch(rows(op) * u64::from(padded_v(op)), Dtype::I8)
}

/// Copies the rows of [`row_scratch`] to where they belong.
fn place_rows(build: &mut Builder<'_>, op: &AttentionParams, from: Tensor) -> Result<(), GpuError> {
    let view = |v: HeadView| {
        let stride = |s: u32| i32::try_from(s).map_err(|_| build.broken("its output view leaves the tensor"));
        let strides = [0, 0, stride(v.batch)?, stride(v.head)?, stride(v.row)?, 1];
        Ok::<_, GpuError>(Extent { offset: v.offset, strides })
    };
    let copy = Copy {
        dims: [1, 1, op.batch, op.heads, op.n_q, op.v_dim],
        from: view(contiguous_rows(op))?,
        to: view(op.out)?,
        flip: 0,
        partial: false,
    };
    let out = build.output();
    copy::scatter(build, from, out, &copy)
}

#[cfg(test)]
mod tests;
