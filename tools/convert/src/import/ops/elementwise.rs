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
    let truncates = call.int_or("fmod", 0)? != 0;
    let computed = !builder.is_constant(a);
    let divisor: Option<Vec<f64>> = match builder.dtype(b) {
        DataType::Float => builder.floats(b, "the divisor").ok().map(|v| v.iter().map(|&v| f64::from(v)).collect()),
        DataType::Int => builder.ints(b, "the divisor").ok().map(|v| v.iter().map(|&v| v as f64).collect()),
        DataType::Bool => None,
    };
    if let Some(&[divisor]) = divisor.as_deref().filter(|_| computed && builder.is_constant(b))
        && divisor != 0.0
    {
        return one(remainder(builder, a, b, divisor, truncates)?);
    }
    if !truncates {
        return one(builder.binary(Binary::Mod, a, b)?);
    }
    // The sign of the dividend: |a| mod |b| with the sign of a.
    let (size_a, size_b) = (builder.unary(Unary::Abs, a)?, builder.unary(Unary::Abs, b)?);
    let rest = builder.binary(Binary::Mod, size_a, size_b)?;
    let sign = builder.unary(Unary::Sign, a)?;
    one(builder.binary(Binary::Mul, rest, sign)?)
}

/// `x - d round(x / d)`, where `round` goes down or towards zero: the quotient is a whole number, exact for whole `x`.
fn remainder(builder: &mut Builder, x: TensorId, d: TensorId, divisor: f64, truncates: bool) -> OpResult<TensorId> {
    let dtype = builder.dtype(x);
    let real = builder.cast(x, DataType::Float)?;
    let real_divisor = builder.scalar(divisor as f32);
    // Not a product with the reciprocal, which misses whole numbers.
    let quotient = builder.binary(Binary::Div, real, real_divisor)?;
    let rounding = if truncates { Unary::Trunc } else { Unary::Floor };
    let whole = builder.unary(rounding, quotient)?;
    let whole = builder.cast(whole, dtype)?;
    let taken = builder.binary(Binary::Mul, whole, d)?;
    builder.binary(Binary::Sub, x, taken)
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
        return unsupported(format!("cast to element type {number}; use floats, integers or booleans"));
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
    let computed = |index: usize| call.optional(index).is_some_and(|id| !builder.is_constant(id));
    if builder.dtype(x) == DataType::Int || computed(1) || computed(2) {
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
    let x = call.input(0)?;
    let (x, infinity) = match (negative != 0, positive != 0) {
        (true, true) => (builder.unary(Unary::Abs, x)?, f32::INFINITY),
        (false, true) => (x, f32::INFINITY),
        (true, false) => (x, f32::NEG_INFINITY),
        (false, false) => {
            let shape = builder.shape(x);
            let count = shape.iter().product();
            return one(builder.constant(&shape, Data::Bool(vec![false; count]))?);
        }
    };
    let infinity = builder.scalar(infinity);
    one(builder.binary(Binary::Equal, x, infinity)?)
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

/// `x - bias` above `lambd`, `x + bias` below `-lambd`, else 0.
pub fn shrink(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    let x = call.input(0)?;
    let (lambda, bias) = (call.float_or("lambd", 0.5)?, call.float_or("bias", 0.0)?);
    let [lambda, low, bias, zero] = [lambda, -lambda, bias, 0.0].map(|value| builder.scalar(value));
    let above = builder.binary(Binary::Greater, x, lambda)?;
    let below = builder.binary(Binary::Less, x, low)?;
    let less = builder.binary(Binary::Sub, x, bias)?;
    let more = builder.binary(Binary::Add, x, bias)?;
    let rest = builder.select(below, more, zero)?;
    one(builder.select(above, less, rest)?)
}

pub fn tangent(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    let x = call.input(0)?;
    let (sine, cosine) = (builder.unary(Unary::Sin, x)?, builder.unary(Unary::Cos, x)?);
    one(builder.binary(Binary::Div, sine, cosine)?)
}

/// `(exp(x) + exp(-x)) / 2`, or the difference.
pub fn hyperbolic(builder: &mut Builder, call: &Call, kind: Binary) -> OpResult<Outputs> {
    let x = call.input(0)?;
    let mirrored = builder.unary(Unary::Neg, x)?;
    let (rising, falling) = (builder.unary(Unary::Exp, x)?, builder.unary(Unary::Exp, mirrored)?);
    let both = builder.binary(kind, rising, falling)?;
    one(builder.scale(both, 0.5)?)
}

/// `sqrt(x^2 + offset)`.
fn root_of_square(builder: &mut Builder, x: TensorId, offset: f32) -> OpResult<TensorId> {
    let square = builder.binary(Binary::Mul, x, x)?;
    let offset = builder.scalar(offset);
    let sum = builder.binary(Binary::Add, square, offset)?;
    builder.unary(Unary::Sqrt, sum)
}

pub fn area_sine(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    let x = call.input(0)?;
    // By the absolute value: for negative numbers the sum cancels.
    let (size, sign) = (builder.unary(Unary::Abs, x)?, builder.unary(Unary::Sign, x)?);
    let root = root_of_square(builder, size, 1.0)?;
    let sum = builder.binary(Binary::Add, size, root)?;
    let value = builder.unary(Unary::Log, sum)?;
    one(builder.binary(Binary::Mul, value, sign)?)
}

pub fn area_cosine(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    let x = call.input(0)?;
    let root = root_of_square(builder, x, -1.0)?;
    let sum = builder.binary(Binary::Add, x, root)?;
    one(builder.unary(Unary::Log, sum)?)
}

pub fn area_tangent(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    let x = call.input(0)?;
    let unit = builder.scalar(1.0);
    let (above, below) = (builder.binary(Binary::Add, unit, x)?, builder.binary(Binary::Sub, unit, x)?);
    let ratio = builder.binary(Binary::Div, above, below)?;
    let value = builder.unary(Unary::Log, ratio)?;
    one(builder.scale(value, 0.5)?)
}

/// `atan(x / sqrt(1 - x^2))`.
fn arc(builder: &mut Builder, call: &Call) -> OpResult<TensorId> {
    let x = call.input(0)?;
    let square = builder.binary(Binary::Mul, x, x)?;
    let unit = builder.scalar(1.0);
    let rest = builder.binary(Binary::Sub, unit, square)?;
    let root = builder.unary(Unary::Sqrt, rest)?;
    let ratio = builder.binary(Binary::Div, x, root)?;
    builder.unary(Unary::Atan, ratio)
}

pub fn arc_sine(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    one(arc(builder, call)?)
}

pub fn arc_cosine(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    let angle = arc(builder, call)?;
    let right = builder.scalar(std::f32::consts::FRAC_PI_2);
    one(builder.binary(Binary::Sub, right, angle)?)
}
