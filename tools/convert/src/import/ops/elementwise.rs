//! Functions of single elements, comparisons, selection, casts.

use super::super::builder::Builder;
use super::super::node::{Call, OpResult, Outputs, invalid, one, unsupported};
use super::super::tensor::{data_type, elem_of};
use crate::graph::{Binary, Data, DataType, TensorId, Unary};

pub fn unary(builder: &mut Builder, call: &Call, kind: Unary) -> OpResult<Outputs> {
    let x = call.input(0)?;
    let fits = match kind {
        Unary::Not => builder.dtype(x) == DataType::Bool,
        Unary::Abs | Unary::Neg | Unary::Sign | Unary::Relu => builder.dtype(x) != DataType::Bool,
        _ => builder.dtype(x) == DataType::Float,
    };
    if !fits {
        return invalid(format!("does not take a {:?}", builder.dtype(x)));
    }
    if kind == Unary::Relu && builder.dtype(x) == DataType::Int {
        let zero = builder.constant(&[], Data::Int(vec![0]))?;
        return one(builder.binary(Binary::Max, x, zero)?);
    }
    one(builder.unary(kind, x)?)
}

pub fn binary(builder: &mut Builder, call: &Call, kind: Binary) -> OpResult<Outputs> {
    let (a, b) = (call.input(0)?, call.input(1)?);
    let logic = matches!(kind, Binary::And | Binary::Or | Binary::Xor);
    let arithmetic = !logic && kind != Binary::Equal;
    let boolean = builder.dtype(a) == DataType::Bool;
    if logic && !boolean || arithmetic && boolean {
        return invalid(format!("does not take a {:?}", builder.dtype(a)));
    }
    one(builder.binary(kind, a, b)?)
}

pub fn variadic(builder: &mut Builder, call: &Call, kind: Binary) -> OpResult<Outputs> {
    let mut result = call.input(0)?;
    for index in 1..call.inputs.len() {
        result = builder.binary(kind, result, call.input(index)?)?;
    }
    one(result)
}

pub fn mean(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    let Some(Some(sum)) = variadic(builder, call, Binary::Add)?.pop() else { return invalid("no operands") };
    one(builder.scale(sum, 1.0 / call.inputs.len() as f32)?)
}

pub fn modulo(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    let (a, b) = (call.input(0)?, call.input(1)?);
    if call.int_or("fmod", 0)? == 0 {
        return one(builder.binary(Binary::Mod, a, b)?);
    }
    // The sign of the dividend: |a| mod |b| with the sign of a.
    let (size_a, size_b) = (builder.unary(Unary::Abs, a)?, builder.unary(Unary::Abs, b)?);
    let rest = builder.binary(Binary::Mod, size_a, size_b)?;
    let sign = builder.unary(Unary::Sign, a)?;
    one(builder.binary(Binary::Mul, rest, sign)?)
}

pub fn pow(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    let (x, exponent) = (call.input(0)?, call.input(1)?);
    let dtype = builder.dtype(x);
    let exponent = builder.cast(exponent, dtype)?;
    one(builder.binary(Binary::Pow, x, exponent)?)
}

pub fn select(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    one(builder.select(call.input(0)?, call.input(1)?, call.input(2)?)?)
}

pub fn cast(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    let number = call.int_or("to", 0)?;
    let Some(elem) = i32::try_from(number).ok().and_then(elem_of) else {
        return unsupported(format!("cast to element type {number}; nearest: floats, integers, booleans"));
    };
    let Some(dtype) = data_type(elem) else { return invalid("unknown element type") };
    let x = call.input(0)?;
    let y = builder.cast(x, dtype)?;
    if y != x {
        builder.set_elem(y, elem);
    }
    one(y)
}

pub fn cast_like(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    let dtype = builder.dtype(call.input(1)?);
    one(builder.cast(call.input(0)?, dtype)?)
}

fn bound(builder: &Builder, call: &Call, index: usize, attribute: &str, default: f32) -> OpResult<f32> {
    match call.optional(index) {
        Some(id) => builder.float_value(id, attribute),
        None => call.float_or(attribute, default),
    }
}

pub fn clip(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    let x = call.input(0)?;
    if builder.dtype(x) == DataType::Int {
        let mut y = x;
        for (index, kind) in [(1, Binary::Max), (2, Binary::Min)] {
            if let Some(limit) = call.optional(index) {
                y = builder.binary(kind, y, limit)?;
            }
        }
        return one(y);
    }
    let low = bound(builder, call, 1, "min", f32::MIN)?;
    let high = bound(builder, call, 2, "max", f32::MAX)?;
    // ONNX leaves `min > max` to the order of the two comparisons: the upper limit is last.
    one(builder.unary(Unary::Clip { low: low.min(high), high }, x)?)
}

pub fn elu(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    unary(builder, call, Unary::Elu { alpha: call.float_or("alpha", 1.0)? })
}

pub fn selu(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    let alpha = call.float_or("alpha", 1.673_263_2)?;
    let gamma = call.float_or("gamma", 1.050_701)?;
    let y = builder.unary(Unary::Elu { alpha }, call.input(0)?)?;
    one(builder.scale(y, gamma)?)
}

pub fn celu(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    let alpha = call.float_or("alpha", 1.0)?;
    let x = builder.scale(call.input(0)?, 1.0 / alpha)?;
    let y = builder.unary(Unary::Elu { alpha: 1.0 }, x)?;
    one(builder.scale(y, alpha)?)
}

pub fn gelu(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    match call.text_or("approximate", "none")?.as_str() {
        "none" => unary(builder, call, Unary::Gelu { tanh: false }),
        "tanh" => unary(builder, call, Unary::Gelu { tanh: true }),
        other => invalid(format!("unknown approximation `{other}`")),
    }
}

/// `x * sigmoid(alpha * x)`.
fn gated(builder: &mut Builder, x: TensorId, alpha: f32) -> OpResult<Outputs> {
    if alpha == 1.0 {
        return one(builder.unary(Unary::Silu, x)?);
    }
    if alpha == 1.702 {
        return one(builder.unary(Unary::QuickGelu, x)?);
    }
    let scaled = builder.scale(x, alpha)?;
    let gate = builder.unary(Unary::Sigmoid, scaled)?;
    one(builder.binary(Binary::Mul, x, gate)?)
}

pub fn quick_gelu(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    gated(builder, call.input(0)?, call.float_or("alpha", 1.702)?)
}

pub fn swish(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    gated(builder, call.input(0)?, call.float_or("alpha", 1.0)?)
}

pub fn hard_sigmoid(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    let (alpha, beta) = (call.float_or("alpha", 0.2)?, call.float_or("beta", 0.5)?);
    unary(builder, call, Unary::HardSigmoid { alpha, beta })
}

pub fn leaky_relu(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    unary(builder, call, Unary::LeakyRelu { slope: call.float_or("alpha", 0.01)? })
}

pub fn is_inf(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    let (negative, positive) = (call.int_or("detect_negative", 1)?, call.int_or("detect_positive", 1)?);
    if negative == 0 || positive == 0 {
        return unsupported("detects one sign only; nearest: IsInf with both");
    }
    let size = builder.unary(Unary::Abs, call.input(0)?)?;
    let infinity = builder.scalar(f32::INFINITY);
    one(builder.binary(Binary::Equal, size, infinity)?)
}

/// `max(x, 0) + slope * min(x, 0)`; the slope broadcasts to the right.
pub fn prelu(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    let (x, slope) = (call.input(0)?, call.input(1)?);
    if let Some([slope]) = builder.graph.floats(slope) {
        let slope = *slope;
        return one(builder.unary(Unary::LeakyRelu { slope }, x)?);
    }
    let zero = builder.scalar(0.0);
    let positive = builder.unary(Unary::Relu, x)?;
    let negative = builder.binary(Binary::Min, x, zero)?;
    let scaled = builder.binary(Binary::Mul, negative, slope)?;
    one(builder.binary(Binary::Add, positive, scaled)?)
}

pub fn softsign(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    let x = call.input(0)?;
    let size = builder.unary(Unary::Abs, x)?;
    let unit = builder.scalar(1.0);
    let divisor = builder.binary(Binary::Add, size, unit)?;
    one(builder.binary(Binary::Div, x, divisor)?)
}

pub fn thresholded_relu(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    let x = call.input(0)?;
    let threshold = builder.scalar(call.float_or("alpha", 1.0)?);
    let zero = builder.scalar(0.0);
    let above = builder.binary(Binary::Greater, x, threshold)?;
    one(builder.select(above, x, zero)?)
}
