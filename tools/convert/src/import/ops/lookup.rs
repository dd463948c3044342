//! Layers of look-ups: `LookupLinear` of the domain `shiftformer`, as `scripts/train_lookup.py` exports it.

use super::super::builder::Builder;
use super::super::node::{Call, OpResult, Outputs, invalid, one};
use crate::graph::{DataType, Lookup, Op};
use shiftformer::ops::lookup_linear::MAX_CHUNK;

/// `LookupLinear(x [.., k], tables [k / chunk, 2^chunk, n], bias [n])`.
pub fn linear(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    let (x, tables, bias) = (call.input(0)?, call.input(1)?, call.input(2)?);
    let chunk = usize::try_from(call.int_or("chunk", 0)?).unwrap_or(0);
    let temperature = call.float_or("temperature", 1.0)?;
    let [chunks, codes, n] = builder.dims(tables)?;
    if chunk == 0 || chunk > MAX_CHUNK as usize {
        return invalid(format!("chunks have 1 to {MAX_CHUNK} elements, not {chunk}"));
    }
    if !(temperature > 0.0 && temperature.is_finite()) {
        return invalid(format!("the temperature {temperature} is not above 0"));
    }
    let mut shape = builder.shape(x);
    let fits = shape.last() == Some(&(chunks * chunk)) && codes == 1 << chunk && builder.dims(bias)? == [n];
    if !fits || [x, tables, bias].iter().any(|&id| builder.dtype(id) != DataType::Float) {
        let tables = [chunks, codes, n];
        return invalid(format!("{shape:?} in chunks of {chunk} does not fit tables of {tables:?} and their bias"));
    }
    if let Some(last) = shape.last_mut() {
        *last = n;
    }
    one(builder.emit(Op::Lookup(Lookup { chunk, temperature }), &[x, tables, bias], shape)?)
}
