//! Functions of elements: unary, binary, choices, fake quantization.

use super::movement::broadcast;
use super::operand::{Image, Operand};
use crate::graph::{Binary, Data, DataType, FakeQuant, Op, Unary};

/// One elementwise operation on scalars; booleans are 0 and 1.
pub fn eval_scalar(op: &Op, operands: &[f64]) -> f64 {
    let at = |index: usize| operands.get(index).copied().unwrap_or(0.0);
    match op {
        Op::Unary(kind) => unary_f64(*kind, at(0)),
        Op::Binary(kind) => binary_f64(*kind, at(0), at(1)),
        Op::Where => {
            if at(0) != 0.0 {
                at(1)
            } else {
                at(2)
            }
        }
        _ => at(0),
    }
}

pub(super) fn unary_f64(kind: Unary, x: f64) -> f64 {
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    let softplus = |x: f64| x.max(0.0) + (-x.abs()).exp().ln_1p();
    let flag = |b: bool| f64::from(u8::from(b));
    match kind {
        Unary::Gelu { tanh: false } => 0.5 * x * (1.0 + libm::erf(x * std::f64::consts::FRAC_1_SQRT_2)),
        Unary::Gelu { tanh: true } => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
            0.5 * x * (1.0 + inner.tanh())
        }
        Unary::QuickGelu => x * sigmoid(1.702 * x),
        Unary::Relu => x.max(0.0),
        Unary::LeakyRelu { slope } => {
            if x < 0.0 {
                x * f64::from(slope)
            } else {
                x
            }
        }
        Unary::Elu { alpha } => {
            if x < 0.0 {
                f64::from(alpha) * x.exp_m1()
            } else {
                x
            }
        }
        Unary::Silu => x * sigmoid(x),
        Unary::Sigmoid => sigmoid(x),
        Unary::Tanh => x.tanh(),
        Unary::HardSwish => x * (x / 6.0 + 0.5).clamp(0.0, 1.0),
        Unary::HardSigmoid { alpha, beta } => (f64::from(alpha) * x + f64::from(beta)).clamp(0.0, 1.0),
        Unary::Mish => x * softplus(x).tanh(),
        Unary::Softplus => softplus(x),
        Unary::Erf => libm::erf(x),
        Unary::Exp => x.exp(),
        Unary::Log => x.ln(),
        Unary::Sqrt => x.sqrt(),
        Unary::Reciprocal => 1.0 / x,
        Unary::Neg => -x,
        Unary::Abs => x.abs(),
        Unary::Floor => x.floor(),
        Unary::Ceil => x.ceil(),
        Unary::Round => x.round_ties_even(),
        Unary::Trunc => x.trunc(),
        Unary::Sign => {
            if x == 0.0 {
                0.0
            } else {
                x.signum()
            }
        }
        Unary::Sin => x.sin(),
        Unary::Atan => x.atan(),
        Unary::Cos => x.cos(),
        Unary::Clip { low, high } => x.max(f64::from(low)).min(f64::from(high)),
        Unary::IsNaN => flag(x.is_nan()),
        Unary::Not => flag(x == 0.0),
        Unary::Cast => x,
    }
}

pub(super) fn binary_f64(kind: Binary, a: f64, b: f64) -> f64 {
    let flag = |b: bool| f64::from(u8::from(b));
    match kind {
        Binary::Add => a + b,
        Binary::Sub => a - b,
        Binary::Mul => a * b,
        Binary::Div => a / b,
        Binary::Pow => a.powf(b),
        Binary::Min => a.min(b),
        Binary::Max => a.max(b),
        Binary::Mod => a - (a / b).floor() * b,
        Binary::Equal => flag(a == b),
        Binary::Less => flag(a < b),
        Binary::LessOrEqual => flag(a <= b),
        Binary::Greater => flag(a > b),
        Binary::GreaterOrEqual => flag(a >= b),
        Binary::And => flag(a != 0.0 && b != 0.0),
        Binary::Or => flag(a != 0.0 || b != 0.0),
        Binary::Xor => flag((a != 0.0) != (b != 0.0)),
    }
}

/// Integer arithmetic as ONNX defines it; comparisons give 0 and 1.
pub(super) fn binary_i64(kind: Binary, a: i64, b: i64) -> i64 {
    match kind {
        Binary::Add => a.wrapping_add(b),
        Binary::Sub => a.wrapping_sub(b),
        Binary::Mul => a.wrapping_mul(b),
        Binary::Div => a.checked_div(b).unwrap_or(0),
        Binary::Pow => u32::try_from(b).map_or(0, |b| a.wrapping_pow(b)),
        Binary::Min => a.min(b),
        Binary::Max => a.max(b),
        Binary::Mod => a.checked_rem_euclid(b).map_or(0, |r| if b < 0 && r != 0 { r + b } else { r }),
        Binary::Equal => i64::from(a == b),
        Binary::Less => i64::from(a < b),
        Binary::LessOrEqual => i64::from(a <= b),
        Binary::Greater => i64::from(a > b),
        Binary::GreaterOrEqual => i64::from(a >= b),
        Binary::And => i64::from(a != 0 && b != 0),
        Binary::Or => i64::from(a != 0 || b != 0),
        Binary::Xor => i64::from((a != 0) != (b != 0)),
    }
}

pub(super) fn is_predicate(kind: Binary) -> bool {
    matches!(
        kind,
        Binary::Equal
            | Binary::Less
            | Binary::LessOrEqual
            | Binary::Greater
            | Binary::GreaterOrEqual
            | Binary::And
            | Binary::Or
            | Binary::Xor
    )
}

pub(super) fn unary(kind: Unary, data: &Data, dtype: DataType) -> Data {
    if kind == Unary::Cast {
        return cast(data, dtype);
    }
    match data {
        Data::Float(v) if dtype == DataType::Bool => {
            Data::Bool(v.iter().map(|&x| unary_f64(kind, f64::from(x)) != 0.0).collect())
        }
        Data::Float(v) => Data::Float(v.iter().map(|&x| unary_f64(kind, f64::from(x)) as f32).collect()),
        Data::Int(v) => Data::Int(v.iter().map(|&x| unary_f64(kind, x as f64) as i64).collect()),
        Data::Bool(v) => Data::Bool(v.iter().map(|&x| unary_f64(kind, f64::from(u8::from(x))) != 0.0).collect()),
    }
}

pub(super) fn cast(data: &Data, dtype: DataType) -> Data {
    match (data, dtype) {
        (Data::Float(v), DataType::Int) => Data::Int(v.iter().map(|&x| x as i64).collect()),
        (Data::Float(v), DataType::Bool) => Data::Bool(v.iter().map(|&x| x != 0.0).collect()),
        (Data::Int(v), DataType::Bool) => Data::Bool(v.iter().map(|&x| x != 0).collect()),
        (Data::Bool(v), DataType::Int) => Data::Int(v.iter().map(|&x| i64::from(x)).collect()),
        (_, DataType::Float) => Data::Float(data.to_f32()),
        _ => data.clone(),
    }
}

pub(super) fn binary(kind: Binary, a: Operand<'_>, b: Operand<'_>, shape: &[usize]) -> Option<Data> {
    let (a, b) = (broadcast(a, shape)?, broadcast(b, shape)?);
    if let (Data::Float(a), Data::Float(b)) = (&*a, &*b) {
        let pairs = a.iter().zip(b);
        return Some(match kind {
            Binary::Add => Data::Float(pairs.map(|(a, b)| a + b).collect()),
            Binary::Sub => Data::Float(pairs.map(|(a, b)| a - b).collect()),
            Binary::Mul => Data::Float(pairs.map(|(a, b)| a * b).collect()),
            Binary::Div => Data::Float(pairs.map(|(a, b)| a / b).collect()),
            _ if is_predicate(kind) => {
                Data::Bool(pairs.map(|(&a, &b)| binary_f64(kind, f64::from(a), f64::from(b)) != 0.0).collect())
            }
            _ => Data::Float(pairs.map(|(&a, &b)| binary_f64(kind, f64::from(a), f64::from(b)) as f32).collect()),
        });
    }
    if a.dtype() == DataType::Float || b.dtype() == DataType::Float {
        // Mixed operands come from exporters that rely on implicit promotion.
        let (a, b) = (a.to_f32(), b.to_f32());
        let values = a.iter().zip(&b).map(|(&a, &b)| binary_f64(kind, f64::from(a), f64::from(b)) as f32);
        return Some(if is_predicate(kind) {
            Data::Bool(values.map(|v| v != 0.0).collect())
        } else {
            Data::Float(values.collect())
        });
    }
    let both_bool = a.dtype() == DataType::Bool && b.dtype() == DataType::Bool;
    let (a, b) = (cast(&a, DataType::Int), cast(&b, DataType::Int));
    let values = a.ints()?.iter().zip(b.ints()?).map(|(&a, &b)| binary_i64(kind, a, b));
    Some(if is_predicate(kind) || both_bool {
        Data::Bool(values.map(|v| v != 0).collect())
    } else {
        Data::Int(values.collect())
    })
}

pub(super) fn select(condition: Operand<'_>, a: Operand<'_>, b: Operand<'_>, shape: &[usize]) -> Option<Data> {
    let condition = cast(&*broadcast(condition, shape)?, DataType::Bool);
    let Data::Bool(condition) = condition else { return None };
    let (a, b) = (broadcast(a, shape)?, broadcast(b, shape)?);
    fn mix<T: Copy>(condition: &[bool], a: &[T], b: &[T]) -> Vec<T> {
        condition.iter().zip(a.iter().zip(b)).map(|(&c, (&a, &b))| if c { a } else { b }).collect()
    }
    Some(match (&*a, &*b) {
        (Data::Int(a), Data::Int(b)) => Data::Int(mix(&condition, a, b)),
        (Data::Bool(a), Data::Bool(b)) => Data::Bool(mix(&condition, a, b)),
        (a, b) => Data::Float(mix(&condition, &a.to_f32(), &b.to_f32())),
    })
}

pub(super) fn fake_quant(x: Image<'_>, quant: &FakeQuant) -> Option<Data> {
    let channels = quant.scale.len();
    let inner: usize = if channels > 1 { x.0.get(quant.axis + 1..)?.iter().product() } else { 1 };
    if channels > 1 && x.0.get(quant.axis) != Some(&channels) {
        return None;
    }
    let (low, high) = (f64::from(quant.range.0), f64::from(quant.range.1));
    let values = x.1.iter().enumerate().map(|(i, &v)| {
        let channel = if channels > 1 { (i / inner.max(1)) % channels } else { 0 };
        let scale = f64::from(quant.scale.get(channel).copied().unwrap_or(1.0));
        let zero = f64::from(quant.zero_point.get(channel).copied().unwrap_or(0));
        let q = ((f64::from(v) / scale).round_ties_even() + zero).clamp(low, high);
        ((q - zero) * scale) as f32
    });
    Some(Data::Float(values.collect()))
}
