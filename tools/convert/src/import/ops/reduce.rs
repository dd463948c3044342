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
    if kind == Reduce::Prod && !builder.is_constant(x) {
        return product(builder, x, &axes, keep);
    }
    builder.reduce(kind, x, axes, keep)
}

/// The product over `axes` by products of halves.
fn product(builder: &mut Builder, mut x: TensorId, axes: &[usize], keep: bool) -> OpResult<TensorId> {
    for &axis in axes {
        loop {
            let n = builder.graph.shape(x)[axis];
            if n <= 1 {
                break;
            }
            let half = n / 2;
            let (first, second) = (builder.narrow(x, axis, 0, half)?, builder.narrow(x, axis, half, half)?);
            let both = builder.binary(Binary::Mul, first, second)?;
            x = if n.is_multiple_of(2) {
                both
            } else {
                let last = builder.narrow(x, axis, n - 1, 1)?;
                builder.concat(&[both, last], axis)?
            };
        }
    }
    if keep {
        return Ok(x);
    }
    let shape = builder.shape(x);
    let kept: Vec<usize> = (0..shape.len()).filter(|d| !axes.contains(d)).map(|d| shape[d]).collect();
    builder.reshape(x, &kept)
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

pub fn log_sum(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    let sum = apply(builder, call, Reduce::Sum, call.input(0)?)?;
    one(builder.unary(Unary::Log, sum)?)
}

/// `log(sum(exp(x)))`, as `m + log(sum(exp(x - m)))` with the maximum `m`: nothing overflows, and the sum is at least 1.
pub fn log_sum_exp(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    let x = call.input(0)?;
    let axes = axes(builder, call, builder.rank(x))?;
    let keep = call.int_or("keepdims", 1)? != 0;
    let y = log_sum_exp_over(builder, x, &axes)?;
    if keep {
        return one(y);
    }
    let shape = builder.shape(y);
    let kept: Vec<usize> = (0..shape.len()).filter(|d| !axes.contains(d)).map(|d| shape[d]).collect();
    one(builder.reshape(y, &kept)?)
}

/// `log(sum(exp(x)))` over `axes`, which stay as 1.
pub fn log_sum_exp_over(builder: &mut Builder, x: TensorId, axes: &[usize]) -> OpResult<TensorId> {
    if axes.is_empty() {
        return Ok(x);
    }
    let maximum = builder.reduce(Reduce::Max, x, axes.to_vec(), true)?;
    let below = builder.binary(Binary::Sub, x, maximum)?;
    let exponential = builder.unary(Unary::Exp, below)?;
    let sum = builder.reduce(Reduce::Sum, exponential, axes.to_vec(), true)?;
    let log = builder.unary(Unary::Log, sum)?;
    builder.binary(Binary::Add, maximum, log)
}

pub fn l1(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    let size = builder.unary(Unary::Abs, call.input(0)?)?;
    one(apply(builder, call, Reduce::Sum, size)?)
}
