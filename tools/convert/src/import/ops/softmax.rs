//! Softmax over any axis, and over several as before opset 13.

use super::super::builder::Builder;
use super::super::node::{Call, OpResult, Outputs, axis_index, one};
use super::reduce::log_sum_exp_over;
use crate::graph::{Binary, TensorId};

pub fn softmax(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    let x = call.input(0)?;
    let rank = builder.rank(x);
    if call.version < 13 {
        let axis = call.int_or("axis", 1)?;
        let axis = if axis == rank as i64 { rank } else { axis_index(axis, rank)? };
        return one(flattened(builder, x, axis)?);
    }
    let axis = axis_index(call.int_or("axis", -1)?, rank)?;
    one(along(builder, x, axis)?)
}

/// `x - log(sum(exp(x)))`.
pub fn log_softmax(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    let x = call.input(0)?;
    let shape = builder.shape(x);
    let rank = shape.len();
    if call.version < 13 {
        let axis = call.int_or("axis", 1)?;
        let axis = if axis == rank as i64 { rank } else { axis_index(axis, rank)? };
        let rows = shape[..axis].iter().product();
        let flat = builder.reshape(x, &[rows, shape[axis..].iter().product()])?;
        let total = log_sum_exp_over(builder, flat, &[1])?;
        let y = builder.binary(Binary::Sub, flat, total)?;
        return one(builder.reshape(y, &shape)?);
    }
    let axis = axis_index(call.int_or("axis", -1)?, rank)?;
    let total = log_sum_exp_over(builder, x, &[axis])?;
    one(builder.binary(Binary::Sub, x, total)?)
}

/// Over dimension `axis`.
pub fn along(builder: &mut Builder, x: TensorId, axis: usize) -> OpResult<TensorId> {
    let rank = builder.rank(x);
    if axis + 1 == rank {
        return builder.softmax(x);
    }
    let mut perm: Vec<usize> = (0..rank).collect();
    perm.swap(axis, rank - 1);
    let turned = builder.transpose(x, &perm)?;
    let y = builder.softmax(turned)?;
    builder.transpose(y, &perm)
}

/// Over all dimensions from `axis` on together.
pub fn flattened(builder: &mut Builder, x: TensorId, axis: usize) -> OpResult<TensorId> {
    let shape = builder.shape(x);
    if axis + 1 == shape.len() {
        return builder.softmax(x);
    }
    let rows = shape[..axis].iter().product();
    let flat = builder.reshape(x, &[rows, shape[axis..].iter().product()])?;
    let y = builder.softmax(flat)?;
    builder.reshape(y, &shape)
}
