//! Normalizations.

use super::super::builder::{Builder, broadcast};
use super::super::node::{Call, OpResult, Outputs, axis_index, axis_indices, invalid, one, unsupported};
use crate::graph::{Binary, Data, Op, Reduce, TensorId, Unary};

/// LayerNorm, or RMSNorm where `rms`, over the dimensions of `x` from `axis` on.
pub fn normalize(
    builder: &mut Builder,
    x: TensorId,
    axis: usize,
    gamma: Option<TensorId>,
    beta: Option<TensorId>,
    eps: f32,
    rms: bool,
) -> OpResult<TensorId> {
    let shape = builder.shape(x);
    let n: usize = shape[axis..].iter().product();
    let mut flat_shape = shape[..axis].to_vec();
    flat_shape.push(n);
    let mut inputs = vec![builder.reshape(x, &flat_shape)?];
    let scaled = gamma.map(|gamma| weights(builder, gamma, &shape[axis..])).transpose()?.flatten();
    let shifted = beta.map(|beta| weights(builder, beta, &shape[axis..])).transpose()?.flatten();
    // The node takes a beta only behind a gamma, and both only as constants.
    let fused = match (gamma, scaled, beta, shifted) {
        (_, Some(gamma), None, _) => vec![gamma],
        (_, Some(gamma), _, Some(beta)) if !rms => vec![gamma, beta],
        _ => vec![],
    };
    inputs.extend(&fused);
    let op = if rms { Op::RmsNorm { eps } } else { Op::LayerNorm { eps } };
    let y = builder.emit(op, &inputs, flat_shape)?;
    let mut y = builder.reshape(y, &shape)?;
    if let Some(gamma) = gamma.filter(|_| fused.is_empty()) {
        y = builder.binary(Binary::Mul, y, gamma)?;
    }
    if let Some(beta) = beta.filter(|_| fused.len() < 2) {
        y = builder.binary(Binary::Add, y, beta)?;
    }
    Ok(y)
}

/// The constant `id` as one value for each element of `shape`.
fn weights(builder: &mut Builder, id: TensorId, shape: &[usize]) -> OpResult<Option<TensorId>> {
    if broadcast(builder.graph.shape(id), shape)? != shape || !builder.is_constant(id) {
        return Ok(None);
    }
    let name = builder.graph.tensors[id].name.clone();
    let full = builder.expand(id, shape)?;
    let flat = builder.reshape(full, &[shape.iter().product()])?;
    builder.graph.tensors[flat].name = name;
    Ok(Some(flat))
}

pub fn layer(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    let x = call.input(0)?;
    let axis = axis_index(call.int_or("axis", -1)?, builder.rank(x))?;
    let eps = call.float_or("epsilon", 1e-5)?;
    let y = normalize(builder, x, axis, call.optional(1), call.optional(2), eps, false)?;
    let (mean, deviation) =
        if call.wants(1) || call.wants(2) { statistics(builder, call, x, axis, eps)? } else { (None, None) };
    Ok(vec![Some(y), mean, deviation])
}

/// Mean and inverse standard deviation over the dimensions from `axis` on, which stay as 1.
fn statistics(
    builder: &mut Builder,
    call: &Call,
    x: TensorId,
    axis: usize,
    eps: f32,
) -> OpResult<(Option<TensorId>, Option<TensorId>)> {
    let axes: Vec<usize> = (axis..builder.rank(x)).collect();
    let mean = builder.reduce(Reduce::Mean, x, axes.clone(), true)?;
    if !call.wants(2) {
        return Ok((Some(mean), None));
    }
    let distance = builder.binary(Binary::Sub, x, mean)?;
    let square = builder.binary(Binary::Mul, distance, distance)?;
    let variance = builder.reduce(Reduce::Mean, square, axes, true)?;
    let eps = builder.scalar(eps);
    let sum = builder.binary(Binary::Add, variance, eps)?;
    let deviation = builder.unary(Unary::Sqrt, sum)?;
    Ok((Some(mean), Some(builder.unary(Unary::Reciprocal, deviation)?)))
}

/// `(x - mean) / (deviation + 1e-9)` over `axes`, by default all but channels.
pub fn mean_variance(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    let x = call.input(0)?;
    let shape = builder.shape(x);
    let axes = call.ints("axes")?.unwrap_or_else(|| vec![0, 2, 3]);
    let axes = axis_indices(&axes, shape.len())?;
    let kept: Vec<usize> = (0..shape.len()).filter(|d| !axes.contains(d)).collect();
    let perm: Vec<usize> = kept.iter().chain(&axes).copied().collect();
    let turned = builder.transpose(x, &perm)?;
    // What is added to the deviation counts for nothing beside a variance of this size.
    let y = normalize(builder, turned, kept.len(), None, None, 1e-18, false)?;
    let mut back = vec![0; perm.len()];
    perm.iter().enumerate().for_each(|(i, &p)| back[p] = i);
    one(builder.transpose(y, &back)?)
}

/// `x / (bias + alpha / size * sum of squares of size neighbouring channels)^beta`.
pub fn local_response(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    let x = call.input(0)?;
    let shape = builder.shape(x);
    let (alpha, beta) = (call.float_or("alpha", 1e-4)?, call.float_or("beta", 0.75)?);
    let (bias, size) = (call.float_or("bias", 1.0)?, call.int_or("size", 0)?);
    let (Some(&channels), true) = (shape.get(1), size > 0) else { return invalid("the operand has no channels") };
    let (before, after) = ((size - 1) / 2, size / 2);
    let count = builder.checked_count(&[channels, channels])?;
    builder.charge(count)?;
    let near = |i: usize| {
        let distance = (i % channels) as i64 - (i / channels) as i64;
        f32::from(u8::from(-before <= distance && distance <= after)) * alpha / size as f32
    };
    let weights = builder.constant(&[channels, channels], Data::Float((0..count).map(near).collect()))?;
    let square = builder.binary(Binary::Mul, x, x)?;
    let mut perm: Vec<usize> = (0..shape.len()).collect();
    perm.swap(1, shape.len() - 1);
    let turned = builder.transpose(square, &perm)?;
    let sums = builder.linear(turned, weights, None)?;
    let sums = builder.transpose(sums, &perm)?;
    let [bias, exponent] = [bias, -beta].map(|value| builder.scalar(value));
    let base = builder.binary(Binary::Add, sums, bias)?;
    let factor = builder.binary(Binary::Pow, base, exponent)?;
    one(builder.binary(Binary::Mul, x, factor)?)
}

pub fn rms(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    let x = call.input(0)?;
    let axis = axis_index(call.int_or("axis", -1)?, builder.rank(x))?;
    let eps = call.float_or("epsilon", 1e-5)?;
    one(normalize(builder, x, axis, call.optional(1), None, eps, true)?)
}

/// A value per channel as `[c, 1, ..]`, for a tensor of `rank` dimensions with channels second.
fn per_channel(builder: &mut Builder, id: TensorId, rank: usize) -> OpResult<TensorId> {
    let [channels] = builder.shape(id)[..] else { return invalid("one value per channel is expected") };
    let mut shape = vec![1; rank.saturating_sub(1)];
    match shape.first_mut() {
        Some(first) => *first = channels,
        None => return invalid("the operand has no channels"),
    }
    builder.reshape(id, &shape)
}

fn scale_and_shift(builder: &mut Builder, x: TensorId, gamma: TensorId, beta: TensorId) -> OpResult<TensorId> {
    let rank = builder.rank(x);
    let (gamma, beta) = (per_channel(builder, gamma, rank)?, per_channel(builder, beta, rank)?);
    let scaled = builder.binary(Binary::Mul, x, gamma)?;
    builder.binary(Binary::Add, scaled, beta)
}

/// Normalization by the statistics of each channel of the operand itself: BatchNormalization in training mode, as
/// TensorFlow writes LayerNorm.
fn batch_of_itself(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    let x = call.input(0)?;
    let rank = builder.rank(x);
    if rank < 2 {
        return invalid("the operand has no channels");
    }
    let eps = call.float_or("epsilon", 1e-5)?;
    let momentum = call.float_or("momentum", 0.9)?;
    // Channels first, and back.
    let mut perm: Vec<usize> = (0..rank).collect();
    perm.swap(0, 1);
    let turned = builder.transpose(x, &perm)?;
    let normal = normalize(builder, turned, 1, None, None, eps, false)?;
    let normal = builder.transpose(normal, &perm)?;
    let y = scale_and_shift(builder, normal, call.input(1)?, call.input(2)?)?;
    let axes: Vec<usize> = (0..rank).filter(|&d| d != 1).collect();
    let running = |builder: &mut Builder, before: TensorId, now: TensorId| {
        let (before, now) = (builder.scale(before, momentum)?, builder.scale(now, 1.0 - momentum)?);
        builder.binary(Binary::Add, before, now)
    };
    let mut outputs = vec![Some(y), None, None];
    if call.wants(1) || call.wants(2) {
        let mean = builder.reduce(Reduce::Mean, x, axes.clone(), true)?;
        let distance = builder.binary(Binary::Sub, x, mean)?;
        let square = builder.binary(Binary::Mul, distance, distance)?;
        let variance = builder.reduce(Reduce::Mean, square, axes, false)?;
        let channels = builder.shape(variance);
        let mean = builder.reshape(mean, &channels)?;
        outputs[1] = Some(running(builder, call.input(3)?, mean)?);
        outputs[2] = Some(running(builder, call.input(4)?, variance)?);
    }
    Ok(outputs)
}

/// `(x - mean) / sqrt(variance + eps) * gamma + beta` with computed statistics.
fn batch_of_computed(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    let x = call.input(0)?;
    let rank = builder.rank(x);
    let (mean, variance) = (per_channel(builder, call.input(3)?, rank)?, per_channel(builder, call.input(4)?, rank)?);
    let distance = builder.binary(Binary::Sub, x, mean)?;
    let eps = builder.scalar(call.float_or("epsilon", 1e-5)?);
    let sum = builder.binary(Binary::Add, variance, eps)?;
    let deviation = builder.unary(Unary::Sqrt, sum)?;
    let inverse = builder.unary(Unary::Reciprocal, deviation)?;
    let normal = builder.binary(Binary::Mul, distance, inverse)?;
    one(scale_and_shift(builder, normal, call.input(1)?, call.input(2)?)?)
}

/// `x * a + b` with `a = gamma / sqrt(variance + eps)` and `b = beta - mean * a`.
pub fn batch(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    call.ignore(&["epsilon"]);
    if call.int_or("training_mode", 0)? != 0 {
        return batch_of_itself(builder, call);
    }
    if (1..5).any(|index| call.optional(index).is_some_and(|id| !builder.is_constant(id))) {
        return batch_of_computed(builder, call);
    }
    let x = call.input(0)?;
    let param = |index, what| builder.floats(call.input(index)?, what);
    let (gamma, beta) = (param(1, "the scale")?, param(2, "the bias")?);
    let (mean, variance) = (param(3, "the mean")?, param(4, "the variance")?);
    let channels = builder.graph.shape(x).get(1).copied().unwrap_or(1);
    if [&gamma, &beta, &mean, &variance].iter().any(|v| v.len() != channels) {
        return invalid(format!("{channels} values per parameter are expected"));
    }
    let eps = f64::from(call.float_or("epsilon", 1e-5)?);
    let factor: Vec<f64> =
        gamma.iter().zip(&variance).map(|(&g, &v)| f64::from(g) / (f64::from(v) + eps).sqrt()).collect();
    let offset =
        beta.iter().zip(&mean).zip(&factor).map(|((&b, &m), f)| (f64::from(b) - f64::from(m) * f) as f32).collect();
    if factor.iter().any(|f| !f.is_finite()) {
        return invalid("a variance is negative or not finite");
    }
    let factor = builder.constant(&[channels], Data::Float(factor.iter().map(|&f| f as f32).collect()))?;
    let offset = builder.constant(&[channels], Data::Float(offset))?;
    one(scale_and_shift(builder, x, factor, offset)?)
}

/// LayerNorm over each of `groups` groups of channels.
fn grouped(builder: &mut Builder, x: TensorId, groups: usize, eps: f32) -> OpResult<TensorId> {
    let shape = builder.shape(x);
    let [batch, channels, rest @ ..] = &shape[..] else { return invalid("the operand has no channels") };
    if groups == 0 || channels % groups != 0 {
        return invalid(format!("{channels} channels do not split into {groups} groups"));
    }
    let row = channels / groups * rest.iter().product::<usize>();
    let rows = builder.reshape(x, &[*batch, groups, row])?;
    let normal = normalize(builder, rows, 2, None, None, eps, false)?;
    builder.reshape(normal, &shape)
}

pub fn instance(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    let x = call.input(0)?;
    let channels = builder.graph.shape(x).get(1).copied().unwrap_or(0);
    let normal = grouped(builder, x, channels, call.float_or("epsilon", 1e-5)?)?;
    one(scale_and_shift(builder, normal, call.input(1)?, call.input(2)?)?)
}

pub fn group(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    let x = call.input(0)?;
    let groups = usize::try_from(call.int_or("num_groups", 0)?).unwrap_or(0);
    let normal = grouped(builder, x, groups, call.float_or("epsilon", 1e-5)?)?;
    let channels = builder.graph.shape(x)[1];
    let mut weights = [call.input(1)?, call.input(2)?];
    if call.version < 21 {
        // One value per group.
        for id in &mut weights {
            let column = builder.reshape(*id, &[groups, 1])?;
            let repeated = builder.expand(column, &[groups, channels / groups])?;
            *id = builder.reshape(repeated, &[channels])?;
        }
    }
    one(scale_and_shift(builder, normal, weights[0], weights[1])?)
}

/// The norm below which `LpNormalization` divides by this instead, as PyTorch's `normalize` does.
const MIN_NORM: f32 = 1e-12;

/// `x` divided by its norm along an axis.
pub fn lp(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    let x = call.input(0)?;
    let axis = axis_index(call.int_or("axis", -1)?, builder.rank(x))?;
    let norm = match call.int_or("p", 2)? {
        1 => {
            let size = builder.unary(Unary::Abs, x)?;
            builder.reduce(Reduce::Sum, size, vec![axis], true)?
        }
        2 => {
            let square = builder.binary(Binary::Mul, x, x)?;
            let sum = builder.reduce(Reduce::Sum, square, vec![axis], true)?;
            builder.unary(Unary::Sqrt, sum)?
        }
        p => return unsupported(format!("norm of order {p}; use 1 or 2")),
    };
    // Rows of zeros stay zeros.
    let norm = builder.unary(Unary::Clip { low: MIN_NORM, high: f32::INFINITY }, norm)?;
    one(builder.binary(Binary::Div, x, norm)?)
}
