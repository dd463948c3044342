//! Rotary position embeddings of opset 23 and of onnxruntime.

use super::super::builder::Builder;
use super::super::node::{Call, OpResult, Outputs, invalid, one, unsupported};
use super::attention::{merge_heads, split_heads};
use super::index::take;
use crate::graph::{Binary, Data, TensorId};

/// Where operands and attributes of a form are.
struct Form {
    /// Operand: cosines, then sines behind it.
    cosines: usize,
    /// Operand: positions.
    positions: usize,
}

/// `RotaryEmbedding(X, cos_cache, sin_cache, position_ids?)`.
pub fn standard(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    rotate(builder, call, &Form { cosines: 1, positions: 3 })
}

/// `com.microsoft.RotaryEmbedding(input, position_ids, cos_cache, sin_cache)`.
pub fn microsoft(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    if call.int_or("is_packed_batching", 0)? != 0 {
        return unsupported("is_packed_batching; use batches padded to one length");
    }
    if call.float_or("scale", 1.0)? != 1.0 {
        return unsupported("a scale; use cosines and sines scaled by the exporter");
    }
    rotate(builder, call, &Form { cosines: 2, positions: 1 })
}

fn rotate(builder: &mut Builder, call: &Call, form: &Form) -> OpResult<Outputs> {
    let x = call.input(0)?;
    let flat = builder.rank(x) == 3;
    let declared = usize::try_from(call.int_or("num_heads", 0)?).unwrap_or(0);
    let width = usize::try_from(call.int_or("rotary_embedding_dim", 0)?).unwrap_or(0);
    let interleaved = call.int_or("interleaved", 0)? != 0;
    let x = if flat {
        // Onnxruntime lets the width of a head follow from the cosines.
        let half = builder.shape(call.input(form.cosines)?).last().copied().unwrap_or(0);
        let rows = builder.dims::<3>(x)?[2];
        let heads = if declared == 0 && width == 0 { rows.checked_div(2 * half).unwrap_or(0) } else { declared };
        split_heads(builder, x, heads)?
    } else {
        x
    };
    let [_, _, _, d] = builder.dims(x)?;
    let width = if width == 0 { d } else { width };
    if width > d || width % 2 != 0 {
        return invalid(format!("{width} of {d} values cannot be rotated"));
    }
    let positions = call.optional(form.positions);
    let tables = [call.input(form.cosines)?, call.input(form.cosines + 1)?];
    let y = rotated(builder, x, tables, positions, (width, interleaved))?;
    one(if flat { merge_heads(builder, y)? } else { y })
}

/// `x [batch, heads, n, d]` rotated by the angles of `positions`; as many elements of a head as the tables say.
pub fn rotate_heads(
    builder: &mut Builder,
    x: TensorId,
    tables: [TensorId; 2],
    positions: TensorId,
    interleaved: bool,
) -> OpResult<TensorId> {
    let [_, _, _, d] = builder.dims(x)?;
    let [_, half] = builder.dims(tables[0])?;
    if 2 * half > d {
        return invalid(format!("{} of {d} values cannot be rotated", 2 * half));
    }
    rotated(builder, x, tables, Some(positions), (2 * half, interleaved))
}

/// `x [batch, heads, n, d]` with the first `width` elements of every head rotated.
fn rotated(
    builder: &mut Builder,
    x: TensorId,
    tables: [TensorId; 2],
    positions: Option<TensorId>,
    (width, interleaved): (usize, bool),
) -> OpResult<TensorId> {
    let [batch, _, n, d] = builder.dims(x)?;
    let [cosines, sines] = tables.map(|table| angles(builder, table, positions, [batch, n, width / 2]));
    let (cosines, sines) = (cosines?, sines?);
    let part = builder.narrow(x, 3, 0, width)?;
    let [first, second] = halves(builder, part, interleaved)?;
    let product = |builder: &mut Builder, a, b| builder.binary(Binary::Mul, a, b);
    let (fc, ss) = (product(builder, first, cosines)?, product(builder, second, sines)?);
    let (fs, sc) = (product(builder, first, sines)?, product(builder, second, cosines)?);
    let real = builder.binary(Binary::Sub, fc, ss)?;
    let imaginary = builder.binary(Binary::Add, fs, sc)?;
    let y = joined(builder, [real, imaginary], interleaved)?;
    if width == d {
        return Ok(y);
    }
    let rest = builder.narrow(x, 3, width, d - width)?;
    builder.concat(&[y, rest], 3)
}

/// Rows of a table of cosines or sines for every position, `[batch or 1, 1, n, half]`.
fn angles(
    builder: &mut Builder,
    table: TensorId,
    positions: Option<TensorId>,
    [batch, n, half]: [usize; 3],
) -> OpResult<TensorId> {
    let Some(positions) = positions else {
        // The rows are those of the positions already.
        return match builder.shape(table)[..] {
            [_, rows, columns] if rows == n && columns == half => {
                let batches = builder.shape(table)[0];
                builder.reshape(table, &[batches, 1, n, half])
            }
            ref shape => invalid(format!("cosines and sines of shape {shape:?} for {n} rows of {half} pairs")),
        };
    };
    let [_, columns] = builder.dims(table)?;
    if columns != half {
        return invalid(format!("cosines and sines of {columns} values for {half} pairs"));
    }
    let shape = builder.shape(positions);
    let positions = match shape[..] {
        [rows, columns] if columns == n && (rows == batch || rows == 1) => positions,
        // One position: that of the first row.
        [1] | [] => {
            let ascending = builder.constant(&[1, n], Data::Int((0..n as i64).collect()))?;
            let first = builder.reshape(positions, &[1, 1])?;
            builder.binary(Binary::Add, first, ascending)?
        }
        _ => return invalid(format!("positions of shape {shape:?} for {batch} x {n} rows")),
    };
    let rows = take(builder, table, positions, 0)?;
    let batches = builder.shape(rows)[0];
    builder.reshape(rows, &[batches, 1, n, half])
}

/// The pairs that are rotated: neighbours, or first and second half.
fn halves(builder: &mut Builder, x: TensorId, interleaved: bool) -> OpResult<[TensorId; 2]> {
    let shape = builder.shape(x);
    let half = shape[3] / 2;
    if !interleaved {
        return Ok([builder.narrow(x, 3, 0, half)?, builder.narrow(x, 3, half, half)?]);
    }
    let part = |builder: &mut Builder, start: usize| {
        let (mut starts, mut steps, mut out) = (vec![0; 4], vec![1; 4], shape.clone());
        (starts[3], steps[3], out[3]) = (start, 2, half);
        builder.slice(x, starts, steps, out)
    };
    Ok([part(builder, 0)?, part(builder, 1)?])
}

/// The opposite of [`halves`].
fn joined(builder: &mut Builder, parts: [TensorId; 2], interleaved: bool) -> OpResult<TensorId> {
    if !interleaved {
        return builder.concat(&parts, 3);
    }
    let mut shape = builder.shape(parts[0]);
    shape.push(1);
    let [a, b] = parts.map(|part| builder.reshape(part, &shape));
    let pairs = builder.concat(&[a?, b?], 4)?;
    shape.pop();
    shape[3] *= 2;
    builder.reshape(pairs, &shape)
}
