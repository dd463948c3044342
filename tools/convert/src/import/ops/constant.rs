//! Values that do not depend on the input: constants, ranges, shapes.

use super::super::builder::Builder;
use super::super::node::{Call, OpError, OpResult, Outputs, invalid, one, unsupported};
use super::super::tensor::{self, Elem, data_type, elem_of};
use crate::graph::{Data, DataType};
use crate::import::onnx::TensorProto;

pub fn constant(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    if let Some(proto) = call.tensor("value")? {
        return stored(builder, proto);
    }
    if let Some(value) = call.float("value_float")? {
        return one(builder.scalar(value));
    }
    let (shape, data) = if let Some(values) = call.floats("value_floats")? {
        (vec![values.len()], Data::Float(values))
    } else if let Some(value) = call.int("value_int")? {
        (vec![], Data::Int(vec![value]))
    } else if let Some(values) = call.ints("value_ints")? {
        (vec![values.len()], Data::Int(values))
    } else {
        return unsupported("sparse and text constants are not supported; store a dense tensor of numbers");
    };
    one(builder.constant(&shape, data)?)
}

fn stored(builder: &mut Builder, proto: &TensorProto) -> OpResult<Outputs> {
    let stored = tensor::decode(proto, builder.folder()).map_err(|error| OpError::Other(Box::new(error)))?;
    let id = builder.constant(&stored.shape, stored.data)?;
    builder.set_elem(id, stored.elem);
    one(id)
}

pub fn constant_of_shape(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    let requested = builder.ints(call.input(0)?, "the shape")?;
    let Some(shape) = requested.iter().map(|&d| usize::try_from(d).ok()).collect::<Option<Vec<_>>>() else {
        return invalid(format!("{requested:?} is not a shape"));
    };
    let count = builder.checked_count(&shape)?;
    builder.charge(count)?;
    let Some(proto) = call.tensor("value")? else {
        return one(builder.constant(&shape, Data::Float(vec![0.0; count]))?);
    };
    let value = tensor::decode(proto, builder.folder()).map_err(|error| OpError::Other(Box::new(error)))?;
    let data = match value.data {
        Data::Float(v) if v.len() == 1 => Data::Float(vec![v[0]; count]),
        Data::Int(v) if v.len() == 1 => Data::Int(vec![v[0]; count]),
        Data::Bool(v) if v.len() == 1 => Data::Bool(vec![v[0]; count]),
        _ => return invalid("the value must be a single element"),
    };
    let id = builder.constant(&shape, data)?;
    builder.set_elem(id, value.elem);
    one(id)
}

pub fn eye_like(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    let x = call.input(0)?;
    let [rows, columns] = builder.shape(x)[..] else { return invalid("the operand must be a matrix") };
    let elem = match call.int("dtype")? {
        Some(number) => i32::try_from(number).ok().and_then(elem_of),
        None => Some(builder.elem(x)),
    };
    let k = call.int_or("k", 0)?;
    builder.charge(rows * columns)?;
    let ones = (0..rows * columns).map(|i| (i % columns) as i64 == ((i / columns) as i64).saturating_add(k));
    let data = match elem.and_then(data_type) {
        Some(DataType::Float) => Data::Float(ones.map(|one| f32::from(u8::from(one))).collect()),
        Some(DataType::Int) => Data::Int(ones.map(i64::from).collect()),
        Some(DataType::Bool) => Data::Bool(ones.collect()),
        None => return unsupported("element type; use floats, integers or booleans"),
    };
    one(builder.constant(&[rows, columns], data)?)
}

pub fn range(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    let (start, limit, delta) = (call.input(0)?, call.input(1)?, call.input(2)?);
    if builder.dtype(start) == DataType::Int {
        let single = |id| -> OpResult<i64> {
            match builder.ints(id, "the range")?[..] {
                [value] => Ok(value),
                _ => invalid("the range takes single values"),
            }
        };
        let (start, limit, delta) = (single(start)?, single(limit)?, single(delta)?);
        if delta == 0 {
            return invalid("the step is zero");
        }
        let span =
            if delta > 0 { i128::from(limit) - i128::from(start) } else { i128::from(start) - i128::from(limit) };
        let count = (span.max(0) as u128).div_ceil(u128::from(delta.unsigned_abs()));
        let count = builder.checked_count(&[usize::try_from(count).unwrap_or(usize::MAX)])?;
        builder.charge(count)?;
        let values = (0..count as i64).map(|i| start.wrapping_add(i.wrapping_mul(delta))).collect();
        return one(builder.constant(&[count], Data::Int(values))?);
    }
    let single = |id| builder.float_value(id, "the range").map(f64::from);
    let (start, limit, delta) = (single(start)?, single(limit)?, single(delta)?);
    let count = ((limit - start) / delta).ceil().max(0.0);
    if !count.is_finite() {
        return invalid("the range has no end");
    }
    let count = builder.checked_count(&[count as usize])?;
    builder.charge(count)?;
    let values = (0..count).map(|i| (start + i as f64 * delta) as f32).collect();
    one(builder.constant(&[count], Data::Float(values))?)
}

pub fn shape(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    let shape = builder.shape(call.input(0)?);
    let rank = shape.len() as i64;
    let index = |value: i64| if value < 0 { value.saturating_add(rank) } else { value }.clamp(0, rank) as usize;
    let (start, end) = (index(call.int_or("start", 0)?), index(call.int_or("end", rank)?));
    let dims: Vec<i64> = shape.get(start..end).unwrap_or(&[]).iter().map(|&d| d as i64).collect();
    one(builder.constant(&[dims.len()], Data::Int(dims))?)
}

pub fn size(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    let count: usize = builder.graph.shape(call.input(0)?).iter().product();
    let id = builder.constant(&[], Data::Int(vec![count as i64]))?;
    builder.set_elem(id, Elem::Int64);
    one(id)
}
