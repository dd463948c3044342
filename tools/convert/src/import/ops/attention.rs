//! Attention of opset 23 and 24, and the core that onnxruntime's forms share: products, scale, bias, softmax.

use super::super::builder::Builder;
use super::super::node::{Call, OpResult, Outputs, invalid, unsupported};
use crate::graph::{Binary, Data, DataType, Op, Reduce, TensorId, Unary};

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
    let scaled = builder.scale(products, scale)?;
    let scores = match bias {
        Some(bias) => biased(builder, scaled, bias)?,
        None => scaled,
    };
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
        (Some(a), Some(b)) => {
            let sum = builder.binary(Binary::Add, a, b)?;
            if !builder.is_constant(sum) {
                return Ok(Some(sum));
            }
            // Hidden by both is not more hidden: the sum of two lowest numbers is not finite.
            let lowest = builder.scalar(HIDDEN);
            Ok(Some(builder.binary(Binary::Max, sum, lowest)?))
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

/// Which keys the queries may see, and what is added to their scores.
#[derive(Default)]
struct Masks {
    /// Boolean masks, `[.., n, t]` or broadcast to it.
    allowed: Vec<TensorId>,
    /// Float masks.
    added: Option<TensorId>,
}

impl Masks {
    /// Takes in the operand `attn_mask`, padded to `t` keys.
    fn add_operand(&mut self, builder: &mut Builder, call: &Call, t: usize) -> OpResult<()> {
        let Some(mut mask) = call.optional(3) else { return Ok(()) };
        let dtype = builder.dtype(mask);
        if dtype == DataType::Int {
            return invalid("the mask must be boolean or float");
        }
        let mut shape = builder.shape(mask);
        let Some(keys) = shape.last().copied() else { return invalid("the mask has no dimensions") };
        if keys == 1 && t > 1 && call.version < 24 {
            return unsupported(format!(
                "a mask of one column for {t} keys, which opset 24 pads and opset 23 broadcasts; expand the mask"
            ));
        }
        if keys < t {
            let (mut before, mut after) = (vec![0; shape.len()], vec![0; shape.len()]);
            (before[shape.len() - 1], after[shape.len() - 1]) = (0, t - keys);
            shape[before.len() - 1] = t;
            let value = if dtype == DataType::Bool { 0.0 } else { f32::NEG_INFINITY };
            mask = match dtype {
                DataType::Bool => builder.emit(Op::Pad { before, after, value }, &[mask], shape)?,
                _ => pad_keys(builder, mask, &shape, keys)?,
            };
        }
        if dtype == DataType::Bool {
            self.allowed.push(mask);
            return Ok(());
        }
        if let Some(values) = builder.graph.floats(mask)
            && values.contains(&f32::NEG_INFINITY)
        {
            let allowed = Data::Bool(values.iter().map(|&v| v > f32::NEG_INFINITY).collect());
            let shape = builder.shape(mask);
            let allowed = builder.constant(&shape, allowed)?;
            self.allowed.push(allowed);
        }
        self.added = Some(mask);
        Ok(())
    }

    /// Allows key `j` for query `i` where `low <= j - (i + offset) <= high`. The offset is `[]` or `[batch]`.
    fn add_window(
        &mut self,
        builder: &mut Builder,
        [n, t]: [usize; 2],
        offset: TensorId,
        [low, high]: [Option<i64>; 2],
    ) -> OpResult<()> {
        let count = builder.checked_count(&[n, t])?;
        builder.charge(count)?;
        let distances = (0..count).map(|i| (i % t) as i64 - (i / t) as i64).collect();
        let distances = builder.constant(&[n, t], Data::Int(distances))?;
        let offset = match builder.shape(offset)[..] {
            [batch] => builder.reshape(offset, &[batch, 1, 1, 1])?,
            _ => offset,
        };
        for (bound, kind) in [(low, Binary::GreaterOrEqual), (high, Binary::LessOrEqual)] {
            let Some(bound) = bound else { continue };
            let bound = builder.constant(&[], Data::Int(vec![bound]))?;
            let bound = builder.binary(Binary::Add, offset, bound)?;
            let within = builder.binary(kind, distances, bound)?;
            self.allowed.push(within);
        }
        Ok(())
    }

    /// What is added to the scores, and 0 for the rows that see no key, 1 for all others, `[.., n, 1]`.
    ///
    /// There is no such factor where every row is known to see a key.
    fn finish(self, builder: &mut Builder) -> OpResult<(Option<TensorId>, Option<TensorId>)> {
        let (constant, computed): (Vec<_>, Vec<_>) = self.allowed.iter().partition(|&&id| builder.is_constant(id));
        let mut parts = computed;
        let known = constant.into_iter().try_fold(None, |all, mask| conjunction(builder, all, mask))?;
        parts.extend(known);
        let all = parts.iter().try_fold(None, |all, &mask| conjunction(builder, all, mask))?;
        let visible = all.map(|all| any_key(builder, all)).transpose()?;
        let always =
            visible.and_then(|id| builder.graph.constant(id)).is_some_and(|v| v.to_f32().iter().all(|&v| v > 0.0));
        let mut bias = self.added;
        for mask in parts {
            let hidden = additive(builder, mask, HIDDEN)?;
            bias = both(builder, bias, Some(hidden))?;
        }
        Ok((bias, visible.filter(|_| !always)))
    }
}

/// A float mask with -infinity for the keys behind the first `keys`.
fn pad_keys(builder: &mut Builder, mask: TensorId, shape: &[usize], keys: usize) -> OpResult<TensorId> {
    let mut rest = shape.to_vec();
    let last = rest.len() - 1;
    rest[last] = shape[last] - keys;
    let count = builder.checked_count(&rest)?;
    builder.charge(count)?;
    let hidden = if builder.is_constant(mask) { f32::NEG_INFINITY } else { HIDDEN };
    let hidden = builder.constant(&rest, Data::Float(vec![hidden; count]))?;
    builder.concat(&[mask, hidden], last)
}

fn conjunction(builder: &mut Builder, all: Option<TensorId>, mask: TensorId) -> OpResult<Option<TensorId>> {
    Ok(Some(match all {
        Some(all) => builder.binary(Binary::And, all, mask)?,
        None => mask,
    }))
}

/// Whether a row of `allowed [.., n, t]` allows any key, as the numbers 0 and 1 of shape `[.., n, 1]`.
fn any_key(builder: &mut Builder, allowed: TensorId) -> OpResult<TensorId> {
    let Some(last) = builder.rank(allowed).checked_sub(1) else { return builder.cast(allowed, DataType::Float) };
    let number = builder.cast(allowed, DataType::Float)?;
    builder.reduce(Reduce::Max, number, vec![last], true)
}

/// What the scores are on their way to the probabilities.
struct Scores {
    /// `qk_matmul_output` as the mode asks for it.
    shown: TensorId,
    /// What goes into the softmax.
    last: TensorId,
}

/// Products of queries and keys, capped, with the masks added.
fn scores(builder: &mut Builder, call: &Call, q: TensorId, k: TensorId, bias: Option<TensorId>) -> OpResult<Scores> {
    let d = builder.graph.shape(q)[3];
    let scale = call.float_or("scale", 1.0 / (d as f32).sqrt())?;
    let products = builder.matmul(q, k, true)?;
    let plain = builder.scale(products, scale)?;
    let softcap = call.float_or("softcap", 0.0)?;
    let capped = if softcap > 0.0 {
        let part = builder.scale(plain, 1.0 / softcap)?;
        let bounded = builder.unary(Unary::Tanh, part)?;
        builder.scale(bounded, softcap)?
    } else {
        plain
    };
    let last = match bias {
        Some(bias) => biased(builder, capped, bias)?,
        None => capped,
    };
    let shown = match call.int_or("qk_matmul_output_mode", 0)? {
        0 => plain,
        1 => capped,
        2 | 3 => last,
        mode => return invalid(format!("unknown qk_matmul_output_mode {mode}")),
    };
    Ok(Scores { shown, last })
}

/// `scores + bias`, where the bias must not widen them.
fn biased(builder: &mut Builder, scores: TensorId, bias: TensorId) -> OpResult<TensorId> {
    let shape = builder.shape(scores);
    let sum = builder.binary(Binary::Add, scores, bias)?;
    if builder.graph.shape(sum) != shape {
        return invalid(format!(
            "a mask of shape {:?} does not fit scores of shape {shape:?}",
            builder.graph.shape(bias)
        ));
    }
    Ok(sum)
}

/// A new key or value behind those of the past, along the sequence.
fn behind_past(builder: &mut Builder, call: &Call, past: usize, new: TensorId) -> OpResult<TensorId> {
    match call.optional(past) {
        Some(past) if builder.rank(past) == 4 => builder.concat(&[past, new], 2),
        Some(_) => invalid("past keys and values must have four dimensions"),
        None => Ok(new),
    }
}

/// A window attribute; -1 is no bound.
fn window(call: &Call, name: &str) -> OpResult<Option<i64>> {
    match call.int_or(name, -1)? {
        -1 => Ok(None),
        size if size >= 0 => Ok(Some(size)),
        size => invalid(format!("{name} is {size}")),
    }
}

pub fn attention(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    call.ignore(&["q_num_heads", "kv_num_heads", "qk_matmul_output_mode"]);
    let flat = builder.rank(call.input(0)?) == 3;
    let q = operand(builder, call, 0, "q_num_heads")?;
    let (k, v) = (operand(builder, call, 1, "kv_num_heads")?, operand(builder, call, 2, "kv_num_heads")?);
    if call.optional(4).is_some() != call.optional(5).is_some() {
        return invalid("past_key and past_value come together");
    }
    let new = builder.graph.shape(k)[2];
    let (k, v) = (behind_past(builder, call, 4, k)?, behind_past(builder, call, 5, v)?);
    let [batch, heads, n, _] = builder.dims(q)?;
    let [_, kv_heads, t, _] = builder.dims(k)?;
    let mut masks = Masks::default();
    masks.add_operand(builder, call, t)?;
    let lengths = call.optional(6).map(|lengths| builder.reshape(lengths, &[batch])).transpose()?;
    let offset = match lengths {
        Some(lengths) if call.optional(4).is_none() => {
            let queries = builder.constant(&[], Data::Int(vec![n as i64]))?;
            builder.binary(Binary::Sub, lengths, queries)?
        }
        _ => builder.constant(&[], Data::Int(vec![(t - new) as i64]))?,
    };
    let causal = call.int_or("is_causal", 0)? != 0;
    let (left, right) = (window(call, "left_window_size")?, window(call, "right_window_size")?);
    let right = if causal { Some(0) } else { right };
    masks.add_window(builder, [n, t], offset, [left.map(|size| -size), right])?;
    if let Some(lengths) = lengths {
        let key = builder.constant(&[t], Data::Int((0..t as i64).collect()))?;
        let end = builder.reshape(lengths, &[batch, 1, 1, 1])?;
        let within = builder.binary(Binary::Less, key, end)?;
        masks.allowed.push(within);
    }
    let (bias, visible) = masks.finish(builder)?;
    let full_k = repeat_heads(builder, k, heads, kv_heads)?;
    let full_v = repeat_heads(builder, v, heads, kv_heads)?;
    if builder.graph.shape(full_v)[..3] != builder.graph.shape(full_k)[..3] {
        return invalid("keys and values differ in length");
    }
    let Scores { mut shown, last } = scores(builder, call, q, full_k, bias)?;
    let weights = builder.softmax(last)?;
    let mut y = builder.matmul(weights, full_v, false)?;
    if call.int_or("qk_matmul_output_mode", 0)? == 3 && call.wants(3) {
        shown = match visible {
            Some(visible) => builder.binary(Binary::Mul, weights, visible)?,
            None => weights,
        };
    }
    y = match visible {
        Some(visible) if flat => merged_times(builder, y, visible)?,
        Some(visible) => rows_times(builder, y, visible)?,
        None if flat => merge_heads(builder, y)?,
        None => y,
    };
    Ok(vec![Some(y), Some(k), Some(v), Some(shown)])
}

/// `y [batch, heads, n, d]` with merged heads and its rows times `factor [.., n, 1]`: behind the merge where all heads
/// have the same masks, where it does not keep the attention from writing merged heads.
fn merged_times(builder: &mut Builder, y: TensorId, factor: TensorId) -> OpResult<TensorId> {
    let shape = builder.shape(factor);
    let shape = match shape[..] {
        [n, one] | [1, n, one] | [1, 1, n, one] => vec![n, one],
        [batch, 1, n, one] => vec![batch, n, one],
        _ => {
            let y = rows_times(builder, y, factor)?;
            return merge_heads(builder, y);
        }
    };
    let factor = builder.reshape(factor, &shape)?;
    let y = merge_heads(builder, y)?;
    rows_times(builder, y, factor)
}

/// `y [batch, heads, n, d]` with its rows times `factor [.., n, 1]`.
fn rows_times(builder: &mut Builder, y: TensorId, factor: TensorId) -> OpResult<TensorId> {
    let shape = builder.shape(y);
    let product = builder.binary(Binary::Mul, y, factor)?;
    if builder.graph.shape(product) != shape {
        return invalid("a mask does not fit the scores");
    }
    Ok(product)
}
