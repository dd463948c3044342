//! What onnxruntime's optimizer fuses (domain com.microsoft), taken apart again.

use super::super::builder::Builder;
use super::super::node::{Call, OpResult, Outputs, invalid, one, unsupported};
use super::attention::{HIDDEN, additive, both, causal, core, merge_heads, split_heads};
use super::index::take;
use super::norm::normalize;
use crate::graph::{Binary, Data, DataType, TensorId, Unary};

/// Gelu of `x` plus an optional bias; `tanh` as in FastGelu.
pub fn biased_gelu(builder: &mut Builder, call: &Call, tanh: bool) -> OpResult<Outputs> {
    let mut x = call.input(0)?;
    if let Some(bias) = call.optional(1) {
        x = builder.binary(Binary::Add, x, bias)?;
    }
    one(builder.unary(Unary::Gelu { tanh }, x)?)
}

/// LayerNorm or RMSNorm of `input + skip + bias`; output 3 is the sum.
pub fn skip_norm(builder: &mut Builder, call: &Call, rms: bool) -> OpResult<Outputs> {
    let mut sum = builder.binary(Binary::Add, call.input(0)?, call.input(1)?)?;
    let gamma = call.input(2)?;
    let (beta, bias) = if rms { (None, call.optional(3)) } else { (call.optional(3), call.optional(4)) };
    if let Some(bias) = bias {
        sum = builder.binary(Binary::Add, sum, bias)?;
    }
    let Some(axis) = builder.rank(sum).checked_sub(1) else { return invalid("the operand has no dimensions") };
    let eps = call.float_or("epsilon", if rms { 1e-5 } else { 1e-12 })?;
    let y = normalize(builder, sum, axis, Some(gamma), beta, eps, rms)?;
    Ok(vec![Some(y), None, None, Some(sum)])
}

/// The sum of word, position and segment embeddings, normalized; output 1 counts the tokens shown by the mask.
pub fn embed_layer_norm(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    call.ignore(&["mask_index_type"]);
    let ids = call.input(0)?;
    let [batch, n] = builder.shape(ids)[..] else { return invalid("ids must have two dimensions") };
    let positions = match call.optional(8) {
        Some(positions) => positions,
        None => {
            let ascending = builder.constant(&[1, n], Data::Int((0..n as i64).collect()))?;
            builder.expand(ascending, &[batch, n])?
        }
    };
    let words = take(builder, call.input(2)?, ids, 0)?;
    let places = take(builder, call.input(3)?, positions, 0)?;
    let mut sum = builder.binary(Binary::Add, words, places)?;
    if let (Some(segments), Some(table)) = (call.optional(1), call.optional(4)) {
        let kinds = take(builder, table, segments, 0)?;
        sum = builder.binary(Binary::Add, sum, kinds)?;
    }
    let eps = call.float_or("epsilon", 1e-12)?;
    let y = normalize(builder, sum, 2, call.optional(5), call.optional(6), eps, false)?;
    let shown = match call.optional(7) {
        Some(mask) if call.wants(1) => Some(builder.reduce(crate::graph::Reduce::Sum, mask, vec![1], false)?),
        _ if call.wants(1) => Some(builder.constant(&[batch], Data::Int(vec![0; batch]))?),
        _ => None,
    };
    Ok(vec![Some(y), shown, Some(sum)])
}

/// What the mask operand of onnxruntime's attention adds to scores `[batch, heads, n, t]`.
///
/// `mask` is `[batch]` (number of keys shown), or `[batch, t]`, `[batch, n, t]` with 0 for hidden keys.
fn mask_bias(builder: &mut Builder, call: &Call, mask: TensorId, batch: usize, t: usize) -> OpResult<TensorId> {
    // The smallest number stands for onnxruntime's own constant where exporters choose it.
    let hidden = call.float_or("mask_filter_value", -10000.0)?.max(HIDDEN);
    let shape = builder.shape(mask);
    let shown = match shape[..] {
        [rows] if rows == batch => {
            let key = builder.constant(&[1, t], Data::Int((0..t as i64).collect()))?;
            let end = builder.reshape(mask, &[batch, 1])?;
            let within = builder.binary(Binary::Less, key, end)?;
            builder.reshape(within, &[batch, 1, 1, t])?
        }
        [rows, keys] if rows == batch && keys == t => {
            let flags = builder.cast(mask, DataType::Bool)?;
            builder.reshape(flags, &[batch, 1, 1, t])?
        }
        [rows, n, keys] if rows == batch && keys == t => {
            let flags = builder.cast(mask, DataType::Bool)?;
            builder.reshape(flags, &[batch, 1, n, t])?
        }
        _ => return unsupported(format!("a mask of shape {shape:?}; use [batch, keys]")),
    };
    additive(builder, shown, hidden)
}

fn refuse_cache(call: &Call, past: &[usize]) -> OpResult<()> {
    if past.iter().any(|&index| call.optional(index).is_some()) || (1..call.wanted.len()).any(|index| call.wants(index))
    {
        return unsupported("past and present keys (a cache); use attention over the whole sequence");
    }
    if call.int_or("do_rotary", 0)? != 0 {
        return unsupported("do_rotary; use the rotation as Slice, Neg, Concat, Mul, Add");
    }
    Ok(())
}

fn heads_of(call: &Call) -> OpResult<usize> {
    match usize::try_from(call.int_or("num_heads", 0)?) {
        Ok(heads) if heads > 0 => Ok(heads),
        _ => invalid("num_heads is missing"),
    }
}

/// `1 / sqrt(d)` unless the node says another scale; 0 means none said.
fn scale_of(call: &Call, d: usize) -> OpResult<f32> {
    let scale = call.float_or("scale", 0.0)?;
    Ok(if scale == 0.0 { 1.0 / (d as f32).sqrt() } else { scale })
}

/// Attention over split heads with all biases, as rows again.
fn attend(
    builder: &mut Builder,
    call: &Call,
    q: TensorId,
    k: TensorId,
    v: TensorId,
    bias: Option<TensorId>,
) -> OpResult<Outputs> {
    let (n, d, t) = (builder.graph.shape(q)[2], builder.graph.shape(q)[3], builder.graph.shape(k)[2]);
    let future =
        if call.int_or("unidirectional", 0)? != 0 { Some(causal(builder, n, t, t.saturating_sub(n))?) } else { None };
    let bias = both(builder, bias, future)?;
    let y = core(builder, q, k, v, scale_of(call, d)?, bias)?;
    one(merge_heads(builder, y)?)
}

/// One matrix for queries, keys and values.
pub fn attention(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    refuse_cache(call, &[4, 6])?;
    let heads = heads_of(call)?;
    let (x, weights) = (call.input(0)?, call.input(1)?);
    let [batch, n, _] = builder.dims(x)?;
    let [_, total] = builder.dims(weights)?;
    let mut qkv = super::matmul::product(builder, x, weights)?;
    if let Some(bias) = call.optional(2) {
        qkv = builder.binary(Binary::Add, qkv, bias)?;
    }
    let widths = match call.ints("qkv_hidden_sizes")? {
        Some(widths) => widths.iter().map(|&w| usize::try_from(w).unwrap_or(0)).collect(),
        None => vec![total / 3; 3],
    };
    let &[q, k, v] = &widths[..] else { return invalid("qkv_hidden_sizes must have three values") };
    if q.checked_add(k).and_then(|w| w.checked_add(v)) != Some(total) || q != k {
        return invalid(format!("queries, keys and values of {widths:?} do not add up to rows of {total}"));
    }
    let mut parts = [(0, q), (q, k), (q + k, v)].map(|(start, width)| builder.narrow(qkv, 2, start, width)).into_iter();
    let mut part = || parts.next().unwrap_or_else(|| invalid("three parts"));
    let (q, k, v) = (part()?, part()?, part()?);
    let (q, k, v) = (split_heads(builder, q, heads)?, split_heads(builder, k, heads)?, split_heads(builder, v, heads)?);
    let mask = call.optional(3).map(|mask| mask_bias(builder, call, mask, batch, n)).transpose()?;
    let bias = both(builder, mask, call.optional(5))?;
    attend(builder, call, q, k, v, bias)
}

/// Queries, keys and values apart.
pub fn multi_head_attention(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    refuse_cache(call, &[6, 7, 8])?;
    let heads = heads_of(call)?;
    let mut operands = match (builder.rank(call.input(0)?), call.optional(1), call.optional(2)) {
        (3, Some(k), Some(v)) => [call.input(0)?, k, v],
        (5, None, None) => unpack(builder, call.input(0)?)?,
        _ => return unsupported("packed keys and values; use queries, keys and values of three dimensions"),
    };
    if let Some(bias) = call.optional(3) {
        add_biases(builder, &mut operands, bias)?;
    }
    let mut split = [0; 3];
    for (place, &x) in split.iter_mut().zip(&operands) {
        // Keys and values of a cross attention may come with their heads apart.
        *place = if builder.rank(x) == 4 { x } else { split_heads(builder, x, heads)? };
    }
    let [q, k, v] = split;
    let (batch, t) = (builder.graph.shape(q)[0], builder.graph.shape(k)[2]);
    let mask = call.optional(4).map(|mask| mask_bias(builder, call, mask, batch, t)).transpose()?;
    let bias = both(builder, mask, call.optional(5))?;
    attend(builder, call, q, k, v, bias)
}

/// `[batch, n, heads, 3, d]` as three times `[batch, n, heads * d]`.
fn unpack(builder: &mut Builder, x: TensorId) -> OpResult<[TensorId; 3]> {
    let [batch, n, heads, 3, d] = builder.shape(x)[..] else {
        return invalid("packed operands must be [batch, n, heads, 3, d]");
    };
    let mut parts = [0; 3];
    for (index, place) in parts.iter_mut().enumerate() {
        let part = builder.narrow(x, 3, index, 1)?;
        *place = builder.reshape(part, &[batch, n, heads * d])?;
    }
    Ok(parts)
}

/// Adds the parts of one bias row to queries, keys and values.
fn add_biases(builder: &mut Builder, operands: &mut [TensorId; 3], bias: TensorId) -> OpResult<()> {
    let mut start = 0;
    for x in operands {
        let [_, _, width] = builder.shape(*x)[..] else {
            return unsupported("a bias for keys with their heads apart; use three dimensions");
        };
        if builder.rank(bias) != 1 || start + width > builder.graph.shape(bias)[0] {
            return invalid("the bias is shorter than queries, keys and values together");
        }
        let part = builder.narrow(bias, 0, start, width)?;
        *x = builder.binary(Binary::Add, *x, part)?;
        start += width;
    }
    Ok(())
}
