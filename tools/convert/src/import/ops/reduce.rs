//! Reductions.

use super::super::builder::Builder;
use super::super::node::{Call, OpResult, Outputs, axis_indices, one};
use crate::graph::{Binary, DataType, Reduce, TensorId, Unary};

/// The reduced dimensions: attribute or operand, all where there are none.
fn axes(builder: &Builder, call: &Call, rank: usize) -> OpResult<Vec<usize>> {
    let noop = call.int_or("noop_with_empty_axes", 0)? != 0;
    let axes = match call.optional(1) {
        Some(id) => Some(builder.ints(id, "the axes")?),
        None => call.ints("axes")?,
    };
    match axes {
        Some(axes) if !axes.is_empty() => axis_indices(&axes, rank),
        _ if noop => Ok(vec![]),
        _ => Ok((0..rank).collect()),
    }
}

fn apply(builder: &mut Builder, call: &Call, kind: Reduce, x: TensorId) -> OpResult<TensorId> {
    let axes = axes(builder, call, builder.rank(x))?;
    let keep = call.int_or("keepdims", 1)? != 0;
    // Any and all of booleans.
    if builder.dtype(x) == DataType::Bool {
        let number = builder.cast(x, DataType::Int)?;
        let y = builder.reduce(kind, number, axes, keep)?;
        return builder.cast(y, DataType::Bool);
    }
    builder.reduce(kind, x, axes, keep)
}

pub fn reduce(builder: &mut Builder, call: &Call, kind: Reduce) -> OpResult<Outputs> {
    one(apply(builder, call, kind, call.input(0)?)?)
}

fn square_sum(builder: &mut Builder, call: &Call) -> OpResult<TensorId> {
    let x = call.input(0)?;
    let square = builder.binary(Binary::Mul, x, x)?;
    apply(builder, call, Reduce::Sum, square)
}

pub fn sum_square(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    one(square_sum(builder, call)?)
}

pub fn l2(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    let sum = square_sum(builder, call)?;
    one(builder.unary(Unary::Sqrt, sum)?)
}

pub fn l1(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    let size = builder.unary(Unary::Abs, call.input(0)?)?;
    one(apply(builder, call, Reduce::Sum, size)?)
}
