//! `com.microsoft.GroupQueryAttention`, the attention of ONNX Runtime GenAI.

use super::super::builder::Builder;
use super::super::node::{Call, OpResult, Outputs, invalid, unsupported};
use super::attention::{HIDDEN, both, core, merge_heads, split_heads};
use super::rotary;
use crate::graph::{Data, TensorId};

/// Operands.
const KEY: usize = 1;
const VALUE: usize = 2;
const PAST_KEY: usize = 3;
const PAST_VALUE: usize = 4;
const LAST_KEYS: usize = 5;
const COSINES: usize = 7;
const SINES: usize = 8;
const POSITIONS: usize = 9;
const BIAS: usize = 10;

/// `(query, key?, value?, past_key?, past_value?, seqlens_k, total_sequence_length, cos_cache?, sin_cache?, position_ids?,
/// attention_bias?)` to rows, keys and values. Lengths must be constants: those of [`import_decoder`].
///
/// [`import_decoder`]: crate::import::decoder::import_decoder
pub fn attention(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    call.ignore(&["kv_cache_bit_width", "k_quant_type", "v_quant_type", "qk_output"]);
    for (name, neutral) in [("smooth_softmax", 0), ("qk_output", 0)] {
        if call.int_or(name, neutral)? != neutral {
            return unsupported(format!("{name}; nearest: attention without it"));
        }
    }
    if call.float_or("softcap", 0.0)? != 0.0 {
        return unsupported("softcap; nearest: attention without it");
    }
    if (BIAS + 1..call.inputs.len()).any(|index| call.optional(index).is_some()) {
        return unsupported("head sinks and quantized caches; nearest: GroupQueryAttention with floats");
    }
    let heads = count(call, "num_heads")?;
    let kv_heads = count(call, "kv_num_heads")?;
    let query = call.input(0)?;
    let [_, n, width] = builder.dims(query)?;
    let (q, k, v) = match (call.optional(KEY), call.optional(VALUE)) {
        (Some(k), Some(v)) => (query, k, v),
        (None, None) => {
            let d = width / (heads + 2 * kv_heads);
            let q = builder.narrow(query, 2, 0, heads * d)?;
            let k = builder.narrow(query, 2, heads * d, kv_heads * d)?;
            (q, k, builder.narrow(query, 2, (heads + kv_heads) * d, kv_heads * d)?)
        }
        _ => return invalid("key and value come together"),
    };
    let (mut q, mut k) = (split_heads(builder, q, heads)?, split_heads(builder, k, kv_heads)?);
    let mut v = split_heads(builder, v, kv_heads)?;
    let past = call.optional(PAST_KEY).map_or(0, |past| builder.shape(past).get(2).copied().unwrap_or(0));
    if builder.ints(call.input(LAST_KEYS)?, "seqlens_k")? != [(past + n) as i64 - 1] {
        return unsupported("rows that do not follow the past; nearest: one sequence without padding");
    }
    if call.int_or("do_rotary", 0)? != 0 {
        let positions = match call.optional(POSITIONS) {
            Some(positions) => positions,
            None => builder.constant(&[1, n], Data::Int((past..past + n).map(|at| at as i64).collect()))?,
        };
        let interleaved = call.int_or("rotary_interleaved", 0)? != 0;
        let tables = [call.input(COSINES)?, call.input(SINES)?];
        q = rotary::rotate_heads(builder, q, tables, positions, interleaved)?;
        k = rotary::rotate_heads(builder, k, tables, positions, interleaved)?;
    } else {
        call.ignore(&["rotary_interleaved"]);
    }
    if let (Some(past_key), Some(past_value)) = (call.optional(PAST_KEY), call.optional(PAST_VALUE)) {
        k = builder.concat(&[past_key, k], 2)?;
        v = builder.concat(&[past_value, v], 2)?;
    }
    let window = usize::try_from(call.int_or("local_window_size", -1)?).ok();
    let hidden = visible(builder, [n, past + n], window)?;
    let bias = both(builder, Some(hidden), call.optional(BIAS))?;
    let d = builder.graph.shape(q)[3];
    let scale = match call.float_or("scale", 0.0)? {
        0.0 => 1.0 / (d as f32).sqrt(),
        scale => scale,
    };
    let y = core(builder, q, k, v, scale, bias)?;
    Ok(vec![Some(merge_heads(builder, y)?), Some(k), Some(v)])
}

fn count(call: &Call, name: &str) -> OpResult<usize> {
    match usize::try_from(call.int_or(name, 0)?) {
        Ok(heads) if heads > 0 => Ok(heads),
        _ => invalid(format!("{name} is missing")),
    }
}

/// What hides the keys behind each of the last `n` of `t` positions, and those a window or more before it.
fn visible(builder: &mut Builder, [n, t]: [usize; 2], window: Option<usize>) -> OpResult<TensorId> {
    let count = builder.checked_count(&[n, t])?;
    builder.charge(count)?;
    let hidden = |i: usize| {
        let (row, key) = (i / t + t - n, i % t);
        key > row || window.is_some_and(|window| key + window <= row)
    };
    builder.constant(&[n, t], Data::Float((0..count).map(|i| if hidden(i) { HIDDEN } else { 0.0 }).collect()))
}
