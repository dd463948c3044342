//! Attention of opset 23 and 24, and the core that onnxruntime's forms share: products, scale, bias, softmax.

use super::super::builder::Builder;
use super::super::node::{Call, OpResult, Outputs, invalid, one, unsupported};
use crate::graph::{Binary, Data, DataType, TensorId};

/// Added to the scores of keys that a mask hides.
pub const HIDDEN: f32 = f32::MIN;

/// `softmax(scale q k' + bias) v` for `q [batch, heads, n, d]`, `k [batch, kv_heads, t, d]`, `v [batch, kv_heads, t, dv]`.
pub fn core(
    builder: &mut Builder,
    q: TensorId,
    k: TensorId,
    v: TensorId,
    scale: f32,
    bias: Option<TensorId>,
) -> OpResult<TensorId> {
    let ([_, heads, ..], [_, kv_heads, ..]) = (builder.dims::<4>(q)?, builder.dims::<4>(k)?);
    if builder.rank(v) != 4 || builder.graph.shape(v)[..3] != builder.graph.shape(k)[..3] {
        return invalid("keys and values differ in length");
    }
    let k = repeat_heads(builder, k, heads, kv_heads)?;
    let v = repeat_heads(builder, v, heads, kv_heads)?;
    let products = builder.matmul(q, k, true)?;
    let mut scores = builder.scale(products, scale)?;
    if let Some(bias) = bias {
        let shape = builder.shape(scores);
        scores = builder.binary(Binary::Add, scores, bias)?;
        if builder.graph.shape(scores) != shape {
            return invalid(format!(
                "a mask of shape {:?} does not fit scores of shape {shape:?}",
                builder.graph.shape(bias)
            ));
        }
    }
    let weights = builder.softmax(scores)?;
    builder.matmul(weights, v, false)
}

/// Every key and value head serves `heads / kv_heads` neighbouring query heads.
fn repeat_heads(builder: &mut Builder, x: TensorId, heads: usize, kv_heads: usize) -> OpResult<TensorId> {
    if heads == kv_heads {
        return Ok(x);
    }
    let [batch, _, t, d] = builder.shape(x)[..] else { return invalid("heads must have four dimensions") };
    if kv_heads == 0 || !heads.is_multiple_of(kv_heads) {
        return invalid(format!("{heads} query heads do not share {kv_heads} key heads"));
    }
    let apart = builder.reshape(x, &[batch, kv_heads, 1, t, d])?;
    let repeated = builder.expand(apart, &[batch, kv_heads, heads / kv_heads, t, d])?;
    builder.reshape(repeated, &[batch, heads, t, d])
}

/// `[batch, n, heads * d]` as `[batch, heads, n, d]`.
pub fn split_heads(builder: &mut Builder, x: TensorId, heads: usize) -> OpResult<TensorId> {
    let [batch, n, width] = builder.shape(x)[..] else { return invalid("operands must have three dimensions") };
    if heads == 0 || width % heads != 0 {
        return invalid(format!("rows of {width} do not split into {heads} heads"));
    }
    let apart = builder.reshape(x, &[batch, n, heads, width / heads])?;
    builder.transpose(apart, &[0, 2, 1, 3])
}

/// `[batch, heads, n, d]` as `[batch, n, heads * d]`.
pub fn merge_heads(builder: &mut Builder, x: TensorId) -> OpResult<TensorId> {
    let [batch, heads, n, d] = builder.shape(x)[..] else { return invalid("heads must have four dimensions") };
    let rows = builder.transpose(x, &[0, 2, 1, 3])?;
    builder.reshape(rows, &[batch, n, heads * d])
}

/// What a boolean mask adds to the scores: nothing where true, `hidden` where false.
pub fn additive(builder: &mut Builder, mask: TensorId, hidden: f32) -> OpResult<TensorId> {
    let (shown, hidden) = (builder.scalar(0.0), builder.scalar(hidden));
    builder.select(mask, shown, hidden)
}

/// What hides the keys behind each of `n` queries among `t` keys, the first query at key `offset`.
pub fn causal(builder: &mut Builder, n: usize, t: usize, offset: usize) -> OpResult<TensorId> {
    let count = builder.checked_count(&[n, t])?;
    builder.charge(count)?;
    let values = (0..count).map(|i| if i % t > i / t + offset { HIDDEN } else { 0.0 }).collect();
    builder.constant(&[n, t], Data::Float(values))
}

/// The sum of two biases that may be missing.
pub fn both(builder: &mut Builder, a: Option<TensorId>, b: Option<TensorId>) -> OpResult<Option<TensorId>> {
    match (a, b) {
        // Hidden by both is not more hidden: the sum of two greatest negative numbers is not finite.
        (Some(a), Some(b)) => {
            let sum = builder.binary(Binary::Add, a, b)?;
            let least = builder.scalar(HIDDEN);
            Ok(Some(builder.binary(Binary::Max, sum, least)?))
        }
        (a, b) => Ok(a.or(b)),
    }
}

/// Operands as `[batch, heads, n, d]`; three dimensions are split by the attribute `heads`.
fn operand(builder: &mut Builder, call: &Call, index: usize, heads: &str) -> OpResult<TensorId> {
    let x = call.input(index)?;
    match builder.rank(x) {
        4 => Ok(x),
        3 => {
            let Some(heads) = call.int(heads)? else { return invalid(format!("{heads} is missing")) };
            split_heads(builder, x, usize::try_from(heads).unwrap_or(0))
        }
        rank => invalid(format!("operand {index} has {rank} dimensions, three or four are expected")),
    }
}

fn refuse_extras(call: &Call) -> OpResult<()> {
    if call.optional(4).is_some() || call.optional(5).is_some() || call.wants(1) || call.wants(2) {
        return unsupported("past and present keys (a cache); nearest: Attention over the whole sequence");
    }
    if call.wants(3) {
        return unsupported("the output qk_matmul_output; nearest: MatMul and Softmax as nodes");
    }
    if call.optional(6).is_some() {
        return unsupported("nonpad_kv_seqlen; nearest: attn_mask");
    }
    if call.float_or("softcap", 0.0)? != 0.0 {
        return unsupported("softcap; nearest: Attention without it");
    }
    Ok(())
}

pub fn attention(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    refuse_extras(call)?;
    call.ignore(&["q_num_heads", "kv_num_heads", "qk_matmul_output_mode"]);
    let flat = builder.rank(call.input(0)?) == 3;
    let q = operand(builder, call, 0, "q_num_heads")?;
    let k = operand(builder, call, 1, "kv_num_heads")?;
    let v = operand(builder, call, 2, "kv_num_heads")?;
    let (n, d, t) = (builder.graph.shape(q)[2], builder.graph.shape(q)[3], builder.graph.shape(k)[2]);
    let mask = match call.optional(3) {
        Some(mask) if builder.dtype(mask) == DataType::Bool => Some(additive(builder, mask, HIDDEN)?),
        Some(mask) if builder.dtype(mask) == DataType::Float => Some(mask),
        Some(_) => return invalid("the mask must be boolean or float"),
        None => None,
    };
    let future = if call.int_or("is_causal", 0)? != 0 { Some(causal(builder, n, t, 0)?) } else { None };
    let bias = both(builder, mask, future)?;
    let scale = call.float_or("scale", 1.0 / (d as f32).sqrt())?;
    let y = core(builder, q, k, v, scale, bias)?;
    one(if flat { merge_heads(builder, y)? } else { y })
}
