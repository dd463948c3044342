//! Quantization that came with the model (QDQ format).
//!
//! QuantizeLinear gives the rounded values as floats, marked as integers of their scale; movement passes the mark on;
//! DequantizeLinear takes it off. So a pair becomes one [`Op::FakeQuant`](crate::graph::Op::FakeQuant).

use super::super::builder::{Builder, DYNAMIC};
use super::super::node::{Call, OpResult, Outputs, axis_index, invalid, one, unsupported};
use super::super::tensor::{Elem, elem_of, integer_range};
use crate::graph::{Binary, Data, DataType, FakeQuant, TensorId};

/// Scale and zero point operands of integers.
#[derive(Clone, Copy)]
pub struct Scaling {
    pub scale: TensorId,
    pub zero_point: Option<TensorId>,
    /// Dimension of scales per channel.
    pub axis: i64,
}

impl Scaling {
    /// From operands `index` and `index + 1`, per tensor or along dimension `axis`.
    pub fn at(call: &Call, index: usize, axis: i64) -> OpResult<Self> {
        Ok(Self { scale: call.input(index)?, zero_point: call.optional(index + 1), axis })
    }

    fn of_node(call: &Call) -> OpResult<Self> {
        call.ignore(&["output_dtype"]);
        Self::at(call, 1, call.int_or("axis", 1)?)
    }

    /// The quantization of a tensor of `shape` with integers of type `elem`.
    fn parameters(&self, builder: &Builder, shape: &[usize], elem: Elem) -> OpResult<FakeQuant> {
        let Some(range) = integer_range(elem) else {
            return unsupported(format!("integers of type {}; use INT8, UINT8, INT16 or UINT16", elem.as_str_name()));
        };
        let scale = builder.floats(self.scale, "the scale")?;
        if scale.iter().any(|s| !s.is_finite() || *s <= 0.0) {
            return invalid("scales must be positive");
        }
        let zero_point = match self.zero_point {
            None => vec![0; scale.len()],
            Some(id) => {
                let values = builder.ints(id, "the zero point")?;
                let zeros = values.iter().map(|&z| i32::try_from(z).ok().filter(|z| (range.0..=range.1).contains(z)));
                match zeros.collect::<Option<Vec<_>>>() {
                    Some(zeros) if zeros.len() == scale.len() => zeros,
                    Some(zeros) if zeros.len() == 1 => vec![zeros[0]; scale.len()],
                    _ => return invalid("zero points do not match the scales or the integer type"),
                }
            }
        };
        if scale.len() == 1 {
            return Ok(FakeQuant { scale, zero_point, axis: 0, range });
        }
        let axis = axis_index(self.axis, shape.len())?;
        if scale.len() != shape[axis] || builder.rank(self.scale) != 1 {
            return unsupported(format!(
                "{} scales for a tensor of shape {shape:?}; use one scale, or one per index of an axis",
                scale.len()
            ));
        }
        Ok(FakeQuant { scale, zero_point, axis, range })
    }
}

/// The integer type that QuantizeLinear makes.
fn target(builder: &Builder, call: &Call) -> OpResult<Elem> {
    if let Some(zero_point) = call.optional(2) {
        return Ok(builder.elem(zero_point));
    }
    match call.int_or("output_dtype", 0)? {
        0 => Ok(Elem::Uint8),
        number => match i32::try_from(number).ok().and_then(elem_of) {
            Some(elem) => Ok(elem),
            None => unsupported(format!("integers of type {number}; use INT8 or UINT8")),
        },
    }
}

pub fn quantize(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    let x = call.input(0)?;
    if builder.dtype(x) != DataType::Float {
        return invalid("takes floats");
    }
    if call.int_or("block_size", 0)? != 0 {
        return unsupported("scales per block; use one scale, or one per index of an axis");
    }
    let scaling = Scaling::of_node(call)?;
    let quantization = scaling.parameters(builder, &builder.shape(x), target(builder, call)?)?;
    one(builder.hold_as_integers(x, quantization)?)
}

/// `x` as integers of type `elem`.
pub fn integers(builder: &mut Builder, x: TensorId, scaling: &Scaling, elem: Elem) -> OpResult<TensorId> {
    let elem = scaling.zero_point.map_or(elem, |id| builder.elem(id));
    let quantization = scaling.parameters(builder, &builder.shape(x), elem)?;
    builder.hold_as_integers(x, quantization)
}

pub fn dequantize(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    let x = call.input(0)?;
    if call.int_or("block_size", 0)? != 0 && builder.quantization(x).is_none() {
        return one(dequantize_blocks(builder, call, x)?);
    }
    one(reals_of(builder, x, &Scaling::of_node(call)?)?)
}

/// The values of the integers `x`.
pub fn reals_of(builder: &mut Builder, x: TensorId, scaling: &Scaling) -> OpResult<TensorId> {
    let shape = builder.shape(x);
    if let Some(held) = builder.quantization(x).cloned() {
        let elem = scaling.zero_point.map_or(Elem::Undefined, |id| builder.elem(id));
        let range = integer_range(elem).unwrap_or(held.range);
        let same =
            builder.floats(scaling.scale, "the scale")? == held.scale && (range == held.range || held.range == DYNAMIC);
        let zeros = scaling.zero_point.map(|id| builder.ints(id, "the zero point")).transpose()?;
        let same =
            same && zeros.is_none_or(|zeros| zeros.iter().copied().eq(held.zero_point.iter().map(|&z| i64::from(z))));
        if !same {
            return unsupported("other scale or zero point than its QuantizeLinear; use the same on both");
        }
        return builder.hold_as_floats(x);
    }
    if builder.dtype(x) != DataType::Int {
        return invalid("takes integers");
    }
    let quantization = scaling.parameters(builder, &shape, builder.elem(x))?;
    match builder.graph.constant(x) {
        Some(Data::Int(values)) => {
            let values = reals(values, &shape, &quantization);
            let id = builder.constant(&shape, Data::Float(values))?;
            builder.graph.tensors[id].name = builder.graph.tensors[x].name.clone();
            // Biases have the scale of their products, tables of one dimension are no weights: only values count.
            let weights = quantization.range.1 <= i32::from(u8::MAX) && shape.len() >= 2;
            if weights { builder.fake_quant(id, quantization) } else { Ok(id) }
        }
        _ => dequantize_computed(builder, x, &quantization),
    }
}

/// `scale * (q - zero_point)` of constants.
fn reals(values: &[i64], shape: &[usize], quantization: &FakeQuant) -> Vec<f32> {
    let inner: usize = shape.iter().skip(quantization.axis + 1).product();
    let channels = quantization.scale.len();
    let channel = |i: usize| if channels == 1 { 0 } else { i / inner.max(1) % channels };
    let real = |(i, &q): (usize, &i64)| {
        let c = channel(i);
        (q - i64::from(quantization.zero_point[c])) as f32 * quantization.scale[c]
    };
    values.iter().enumerate().map(real).collect()
}

/// `scale * (q - zero_point)` of integers that the model computes or takes in.
fn dequantize_computed(builder: &mut Builder, x: TensorId, quantization: &FakeQuant) -> OpResult<TensorId> {
    let per_axis = |builder: &mut Builder, values: Vec<f32>| -> OpResult<TensorId> {
        let mut shape = vec![1; builder.rank(x)];
        if values.len() > 1 {
            shape[quantization.axis] = values.len();
        }
        builder.constant(&shape, Data::Float(values))
    };
    let mut y = builder.cast(x, DataType::Float)?;
    if quantization.zero_point.iter().any(|&zero| zero != 0) {
        let zeros = quantization.zero_point.iter().map(|&zero| zero as f32).collect();
        let zeros = per_axis(builder, zeros)?;
        y = builder.binary(Binary::Sub, y, zeros)?;
    }
    if let [scale] = quantization.scale[..] {
        return builder.scale(y, scale);
    }
    let scales = per_axis(builder, quantization.scale.clone())?;
    builder.binary(Binary::Mul, y, scales)
}

/// Constants with a scale per block along an axis, as plain floats.
fn dequantize_blocks(builder: &mut Builder, call: &Call, x: TensorId) -> OpResult<TensorId> {
    let shape = builder.shape(x);
    let axis = axis_index(call.int_or("axis", 1)?, shape.len())?;
    let Ok(block) = usize::try_from(call.int_or("block_size", 0)?) else { return invalid("negative block size") };
    let values = builder.ints(x, "integers with a scale per block")?;
    let scale_id = call.input(1)?;
    let scales = builder.floats(scale_id, "the scale")?;
    let zeros = call.optional(2).map(|id| builder.ints(id, "the zero point")).transpose()?;
    let blocks = shape[axis].div_ceil(block);
    let mut expected = shape.clone();
    expected[axis] = blocks;
    if builder.graph.shape(scale_id) != expected || zeros.as_ref().is_some_and(|z| z.len() != scales.len()) {
        return invalid(format!("scales must have the shape {expected:?}"));
    }
    let inner: usize = shape[axis + 1..].iter().product();
    let real = |(i, &q): (usize, &i64)| {
        let (outer, along, rest) = (i / inner / shape[axis], i / inner % shape[axis], i % inner);
        let s = (outer * blocks + along / block) * inner + rest;
        q.wrapping_sub(zeros.as_ref().map_or(0, |z| z[s])) as f32 * scales[s]
    };
    let reals = values.iter().enumerate().map(real).collect();
    builder.constant(&shape, Data::Float(reals))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constants_are_dequantized_per_channel() {
        let per_row = FakeQuant { scale: vec![0.5, 2.0], zero_point: vec![0, 1], axis: 0, range: (-128, 127) };
        assert_eq!(reals(&[2, -4, 3, 1], &[2, 2], &per_row), [1.0, -2.0, 4.0, 0.0]);
        let per_column = FakeQuant { axis: 1, ..per_row };
        assert_eq!(reals(&[2, -4, 3, 1], &[2, 2], &per_column), [1.0, -10.0, 1.5, 0.0]);
    }
}
