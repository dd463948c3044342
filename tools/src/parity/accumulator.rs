//! Reads the accumulator of one output element through a backend, without any help of the backend.
//!
//! A copy of the operator is given other requantization parameters, so that its 16-bit result *is* the accumulator: once
//! divided by 2^16 to find its magnitude, then exactly, with the bias moved by what was found. So the sum that is
//! reported is the one the backend under suspicion has formed.

use super::{Contestant, ParityError};
use crate::backend::Sample;
use crate::model_file::integers;
use crate::parts::Parts;
use shiftformer::format::{Blob, NO_TENSOR, TensorRecord};
use shiftformer::ops::Op;
use shiftformer::ops::linear::Dense;
use shiftformer::tensor::Dtype;

/// `(acc << 2) * 2^14 / 2^32 = acc / 2^16`.
const COARSE: i32 = 1 << 14;
/// `(acc << 2) * 2^30 / 2^32 = acc`.
const EXACT: i32 = 1 << 30;
const ACC_SHIFT: u32 = 2;

/// The accumulator of `element` of operator `op`, bias included; `None` where the operator has no such sum, or none that
/// can be read this way.
pub(super) fn read(
    side: &Contestant,
    op: usize,
    operands: &Sample,
    element: usize,
) -> Result<Option<i64>, ParityError> {
    let probe = |multiplier: i32, moved: i64| -> Result<Option<i64>, ParityError> {
        let make = |parts: &Parts| probe_model(&parts.single_op(op)?, multiplier, moved);
        let Some(mut backend) = side.open_other(make)? else { return Ok(None) };
        let traces = backend.run(std::slice::from_ref(operands))?;
        let output = traces.first().and_then(|t| t.outputs.first()).map_or(&[][..], |bytes| bytes);
        Ok(integers(output, Dtype::I16).get(element).map(|&v| i64::from(v)))
    };
    let Some(high) = probe(COARSE, 0)? else { return Ok(None) };
    let Some(rest) = probe(EXACT, high << 16)? else { return Ok(None) };
    Ok(Some((high << 16) + rest))
}

/// `single`, a model of one operator with a bias, with a 16-bit result `((acc - moved) << 2) * multiplier / 2^32`.
fn probe_model(single: &Parts, multiplier: i32, moved: i64) -> Option<Parts> {
    let mut probe = single.clone();
    let mut op = *single.ops.first()?;
    let dense: &mut Dense = match &mut op {
        Op::Linear(linear) => &mut linear.dense,
        Op::Conv2d(conv) => &mut conv.dense,
        Op::DepthwiseConv2d(conv) => &mut conv.dense,
        _ => return None,
    };
    let bias: Option<Vec<i32>> =
        i32s(dense.bias.of(&single.weights)?).map(|bias| i32::try_from(i64::from(bias) - moved).ok()).collect();
    let bias = bias?;
    dense.multipliers = probe.add_blob(&vec![multiplier; bias.len()]);
    dense.bias = probe.add_blob(&bias);
    dense.acc_shift = ACC_SHIFT;
    dense.zero_point = 0;
    dense.lut = Blob::NONE;
    probe.ops = vec![op];
    // The residual is added behind the requantization: leave it out.
    let record = probe.records.first_mut()?;
    record.inputs[1..].fill(NO_TENSOR);
    let output = usize::from(record.output);
    widen(&mut probe, output)?;
    Some(probe)
}

/// Makes tensor `output`, the last in the arena before the scratch, 16 bits wide.
fn widen(probe: &mut Parts, output: usize) -> Option<()> {
    let old: TensorRecord = *probe.tensors.get(output)?;
    let new =
        TensorRecord { dtype: Dtype::I16, offset: shiftformer::format::align_up(probe.arena_bytes) as u32, ..old };
    probe.arena_bytes = new.offset as usize + shiftformer::format::align_up(new.bytes());
    probe.tensors[output] = new;
    Some(())
}

fn i32s(bytes: &[u8]) -> impl Iterator<Item = i32> + '_ {
    bytes.as_chunks::<4>().0.iter().map(|b| i32::from_le_bytes(*b))
}
