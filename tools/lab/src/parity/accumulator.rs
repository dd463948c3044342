//! Reads what an operator holds before it requantizes one element, through a backend and without any help of it.
//!
//! A copy of the operator is given other requantization parameters, so that its result *is* that value, or a part of
//! it: what is reported is what the backend under suspicion has formed. What can be read of each kind:
//!
//! | kind | value | how |
//! |---|---|---|
//! | linear, conv2d, depthwise, reduce_mean, add | the sum, bias included | in two parts, the bias moved between them |
//! | matmul | the sum | from the 32-bit result |
//! | attention_scores | the sum of `q . k` | from the 32-bit result |
//! | attention, attention_values | the weighted mean of the values before the output scale, times 16 | 8 leading bits |
//! | layer_norm | the normalized value, times 2^15 | in two parts, beta moved between them |
//! | i_layer_norm | the normalized value with its bias, up to 55 bits | in four parts, the bias moved between them |
//! | mul, requant | the product; the input less its zero point | 16 leading bits |
//! | average pool | the sum | 8 leading bits |
//! | dyadic_requant | the rounded sum before it saturates | 16 leading bits |
//! | softmax, shiftmax with 8-bit results | the probability in 16 bits | from the 16-bit result |
//!
//! The other kinds have no such value: tables, copies, gathers and the largest of a window choose bytes, and the
//! results of 16-bit probabilities, exponentials and shiftgelu are what they hold.

use super::side::{BackendRun, ParityError};
use crate::backend::Sample;
use shiftformer::format::{Blob, NO_TENSOR, TensorRecord, align_up};
use shiftformer::ops::Op;
use shiftformer::ops::attention::AttentionParams;
use shiftformer::ops::dyadic_requant::DyadicRequant;
use shiftformer::ops::i_layer_norm::ILayerNorm;
use shiftformer::ops::layer_norm::LayerNorm;
use shiftformer::ops::linear::Dense;
use shiftformer::tensor::Dtype;
use shiftformer_convert::lower::facts::{Readout, ReadoutForm, facts};
use shiftformer_convert::model_file::parts::ModelParts;

/// What an operator holds before it requantizes an element.
pub(super) struct Accumulator {
    /// The value.
    pub value: i64,
    /// What it is.
    pub meaning: &'static str,
}

/// The value behind `element` of operator `op`; `None` where there is none or no copy can be proven safe.
pub(super) fn read(
    side: &BackendRun,
    op: usize,
    operands: &Sample,
    element: usize,
) -> Result<Option<Accumulator>, ParityError> {
    let Some(single) = side.single_op(op)? else { return Ok(None) };
    let Some(Readout { meaning, way }) = single.ops.first().and_then(|op| facts(op.kind()).readout) else {
        return Ok(None);
    };
    let read = |dtype, shift, moved| -> Result<Option<i64>, ParityError> {
        let Some(model) = probe(&single, dtype, shift, moved) else { return Ok(None) };
        Ok(side.result(&model, operands, dtype)?.get(element).map(|&v| i64::from(v)))
    };
    let value = match way {
        ReadoutForm::WholeOfNarrow(_) if !is_narrow(&single) => None,
        ReadoutForm::Whole(dtype) | ReadoutForm::WholeOfNarrow(dtype) => read(dtype, 0, 0)?,
        ReadoutForm::Parts(shifts) => parts(shifts, |shift, moved| read(Dtype::I16, shift, moved))?,
        ReadoutForm::Leading(dtype, last) => leading(dtype, last, |shift| read(dtype, shift, 0))?,
    };
    Ok(value.map(|value| Accumulator { value, meaning }))
}

fn parts(
    shifts: &[u32],
    read: impl Fn(u32, i64) -> Result<Option<i64>, ParityError>,
) -> Result<Option<i64>, ParityError> {
    let mut known = 0;
    for &shift in shifts {
        let Some(part) = read(shift, known)? else { return Ok(None) };
        known += part << shift;
    }
    Ok(Some(known))
}

fn leading(
    dtype: Dtype,
    last: u32,
    read: impl Fn(u32) -> Result<Option<i64>, ParityError>,
) -> Result<Option<i64>, ParityError> {
    let (min, max) = dtype.range();
    for shift in 0..=last {
        // A copy that cannot be proven safe has too little room: the next shift needs less.
        if let Some(part) = read(shift)?.filter(|&part| part > i64::from(min) && part < i64::from(max)) {
            return Ok(Some(part << shift));
        }
    }
    Ok(None)
}

/// Whether the operator of `single` has a result of 8 bits.
fn is_narrow(single: &ModelParts) -> bool {
    let output = single.records.first().and_then(|record| single.tensors.get(usize::from(record.output)));
    output.is_some_and(|output| output.dtype == Dtype::I8)
}

/// A copy of `single` with the result `(value - moved) >> shift` in `dtype`.
fn probe(single: &ModelParts, dtype: Dtype, shift: u32, moved: i64) -> Option<ModelParts> {
    let mut probe = single.clone();
    let mut op = *single.ops.first()?;
    let (acc_shift, multiplier) = right_shift(shift);
    match &mut op {
        Op::Linear(linear) => dense(&mut probe, &mut linear.dense, shift, moved)?,
        Op::Conv2d(conv) => dense(&mut probe, &mut conv.dense, shift, moved)?,
        Op::DepthwiseConv2d(conv) => dense(&mut probe, &mut conv.dense, shift, moved)?,
        Op::DepthwiseConv2dI16(op) => dense(&mut probe, &mut op.conv.dense, shift, moved)?,
        Op::ReduceMean(mean) => {
            mean.bias = i32::try_from(i64::from(mean.bias) - moved).ok()?;
            (mean.acc_shift, mean.multiplier, mean.zero_point) = (acc_shift, multiplier, 0);
        }
        Op::Add(add) => {
            // Rounded half up, as the others are.
            let half = if shift > 0 { 1 << (shift - 1) } else { 0 };
            add.bias = i32::try_from(i64::from(add.bias) - moved + half).ok()?;
            add.shift = shift;
        }
        Op::MatMul(matmul) => (matmul.acc_shift, matmul.zero_point) = (0, 0),
        Op::AttentionScores(scores) => {
            (scores.attention.acc_shift, scores.attention.score_multiplier) = (acc_shift, multiplier);
            probe.records.first_mut()?.inputs[3..].fill(NO_TENSOR);
        }
        Op::Attention(attention) => mean_of_values(&mut attention.attention, shift),
        Op::AttentionValues(values) => mean_of_values(&mut values.attention, shift),
        Op::LayerNorm(norm) => normalized(&mut probe, norm, shift, moved)?,
        Op::ILayerNorm(norm) => published_normalized(&mut probe, norm, shift, moved)?,
        Op::Mul(mul) => (mul.acc_shift, mul.multiplier, mul.zero_point) = (acc_shift, multiplier, 0),
        Op::Requant(requant) => {
            (requant.acc_shift, requant.multiplier, requant.zero_out) = (acc_shift, multiplier, 0);
        }
        Op::Pool2d(pool) => {
            // The maximum of a window is no sum.
            pool.multipliers.is_some().then_some(())?;
            pool.multipliers = probe.add_blob(&vec![multiplier; pool.multipliers.bytes as usize / 4]);
            (pool.acc_shift, pool.zero_point) = (acc_shift, 0);
        }
        Op::DyadicRequant(requant) => finer(&mut probe, requant, shift)?,
        Op::Softmax(_) | Op::Shiftmax(_) => (),
        Op::LmulLinear(_)
        | Op::LookupLinear(_)
        | Op::LinearI16(_)
        | Op::Conv2dI16(_)
        | Op::MatMulI16(_)
        | Op::LutI16(_)
        | Op::MaxPoolI16(_) => return None,
        Op::AttentionExp(_) | Op::Lut(_) | Op::Copy(_) | Op::Gather(_) | Op::Embedding(_) | Op::ShiftGelu(_) => {
            return None;
        }
        Op::KvAppend(_) | Op::CausalAttention(_) | Op::WindowedAttention(_) | Op::Rope(_) | Op::Positions(_) => {
            return None;
        }
    }
    probe.ops = vec![op];
    let output = usize::from(probe.records.first()?.output);
    set_dtype(&mut probe, output, dtype)?;
    Some(probe)
}

/// Left shift and multiplier that make a right shift by `shift`, rounded half up. The smallest shifts need two bits of room.
fn right_shift(shift: u32) -> (u32, i32) {
    if shift < 2 { (2, 1 << (30 - shift)) } else { (0, 1 << (32 - shift)) }
}

/// A dense layer without table and residual, with its bias moved.
fn dense(probe: &mut ModelParts, dense: &mut Dense, shift: u32, moved: i64) -> Option<()> {
    let bias: Option<Vec<i32>> =
        i32s(dense.bias.of(&probe.weights)?).map(|bias| i32::try_from(i64::from(bias) - moved).ok()).collect();
    let bias = bias?;
    let (acc_shift, multiplier) = right_shift(shift);
    dense.multipliers = probe.add_blob(&vec![multiplier; bias.len()]);
    dense.bias = probe.add_blob(&bias);
    dense.acc_shift = acc_shift;
    dense.zero_point = 0;
    dense.lut = Blob::NONE;
    // The residual is added behind the requantization: leave it out.
    probe.records.first_mut()?.inputs[1..].fill(NO_TENSOR);
    Some(())
}

/// The ratio `2^(4 - shift)`: 16 is the largest power of two there is.
fn mean_of_values(attention: &mut AttentionParams, shift: u32) {
    attention.ratio_m = 1 << 14;
    attention.ratio_shift = 10 + shift;
    attention.zero_point = 0;
}

/// `normalized * 2^(30 - shift) / 2^32` in 4 fractional bits: of the 21 fractional bits 15 are left at shift 0.
fn normalized(probe: &mut ModelParts, norm: &mut LayerNorm, shift: u32, moved: i64) -> Option<()> {
    norm.gamma = probe.add_blob(&vec![1 << (30 - shift); norm.n as usize]);
    norm.beta = probe.add_blob(&vec![i32::try_from(-moved * 16).ok()?; norm.n as usize]);
    Some(())
}

/// The normalized value and its bias, moved, by a ratio of `2^-shift`.
fn published_normalized(probe: &mut ModelParts, norm: &mut ILayerNorm, shift: u32, moved: i64) -> Option<()> {
    let bias = norm.bias.of(&probe.weights)?.as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b) - moved);
    let words: Vec<i32> = bias.flat_map(|b| [b as i32, (b >> 32) as i32]).collect();
    norm.bias = probe.add_blob(&words);
    norm.ratios = probe.add_blob(&[1, shift as i32].repeat(norm.n as usize));
    Some(())
}

/// Both ratios `2^-shift` times what they were.
fn finer(probe: &mut ModelParts, requant: &mut DyadicRequant, shift: u32) -> Option<()> {
    let mut ratios: Vec<i32> = i32s(requant.ratios.of(&probe.weights)?).collect();
    ratios.iter_mut().skip(1).step_by(2).for_each(|s| *s += shift as i32);
    requant.ratios = probe.add_blob(&ratios);
    requant.identity_shift += shift;
    Some(())
}

/// Gives tensor `output` another element type and a place behind everything else.
fn set_dtype(probe: &mut ModelParts, output: usize, dtype: Dtype) -> Option<()> {
    let old: TensorRecord = *probe.tensors.get(output)?;
    let new = TensorRecord { dtype, offset: align_up(probe.arena_bytes) as u32, ..old };
    probe.arena_bytes = new.offset as usize + align_up(new.bytes());
    probe.tensors[output] = new;
    Some(())
}

fn i32s(bytes: &[u8]) -> impl Iterator<Item = i32> + '_ {
    bytes.as_chunks::<4>().0.iter().map(|b| i32::from_le_bytes(*b))
}

#[cfg(test)]
mod tests;
