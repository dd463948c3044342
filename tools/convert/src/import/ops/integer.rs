//! Operators on integers: dynamic quantization, QLinear forms, weights of a few bits.
//!
//! Integers are kept as the values that they stand for (see `quant`). Where the scale follows from the data at run time
//! it is taken for 1 everywhere: `DynamicQuantizeLinear` gives its operand as it is, and products of integers with
//! scales become products of reals. The converter calibrates in its place.

use super::super::builder::{Builder, DYNAMIC};
use super::super::node::{Call, OpResult, Outputs, invalid, one, unsupported};
use super::super::tensor::Elem;
use super::conv::convolve;
use super::matmul::product;
use super::quant::{Scaling, integers, reals_of};
use crate::graph::{Binary, Data, DataType, FakeQuant, Op, Reduce, TensorId, Unary};

/// `y, y_scale, y_zero_point = DynamicQuantizeLinear(x)`.
pub fn dynamic_quantize(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    let x = call.input(0)?;
    let shape = builder.shape(x);
    let held = FakeQuant { scale: vec![1.0], zero_point: vec![0], axis: 0, range: DYNAMIC };
    let values = builder.constant(&[], Data::Float(vec![1.0]))?;
    let zero = builder.constant(&[], Data::Int(vec![0]))?;
    builder.set_elem(zero, Elem::Uint8);
    builder.set_elem(values, Elem::Undefined);
    let y = builder.emit(Op::Reshape, &[x], shape)?;
    builder.mark_integers(y, held);
    Ok(vec![Some(y), Some(values), Some(zero)])
}

/// The integers of operand `x` less `zero_point`, as floats. A zero point per row or column broadcasts from `shape`.
fn centred(builder: &mut Builder, x: TensorId, zero_point: Option<TensorId>, column: bool) -> OpResult<TensorId> {
    if let Some(held) = builder.quantization(x).cloned() {
        let zeros = zero_point.map(|id| builder.ints(id, "the zero point")).transpose()?;
        let own = i64::from(held.zero_point[0]);
        let offset = match zeros.as_deref() {
            None => own,
            Some([zero]) => own - zero,
            Some(_) => return unsupported("a zero point per row of computed integers; use one zero point"),
        };
        let real = builder.hold_as_floats(x)?;
        let q = builder.scale(real, 1.0 / held.scale[0])?;
        if offset == 0 {
            return Ok(q);
        }
        let offset = builder.scalar(offset as f32);
        return builder.binary(Binary::Add, q, offset);
    }
    if builder.dtype(x) != DataType::Int {
        return invalid("takes integers");
    }
    let real = builder.cast(x, DataType::Float)?;
    let Some(zero) = zero_point else { return Ok(real) };
    let mut zero = builder.cast(zero, DataType::Float)?;
    if builder.graph.constant(zero).is_some_and(|z| z.to_f32().iter().all(|&z| z == 0.0)) {
        return Ok(real);
    }
    if let ([n], true) = (builder.graph.shape(zero), column) {
        let n = *n;
        zero = builder.reshape(zero, &[n, 1])?;
    }
    builder.binary(Binary::Sub, real, zero)
}

/// `MatMulInteger(A, B, a_zero_point?, b_zero_point?)`.
pub fn matmul(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    let a = centred(builder, call.input(0)?, call.optional(2), true)?;
    let b = centred(builder, call.input(1)?, call.optional(3), false)?;
    let y = product(builder, a, b)?;
    builder.set_elem(y, Elem::Int32);
    one(y)
}

/// `ConvInteger(x, w, x_zero_point?, w_zero_point?)`.
pub fn conv(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    let x = centred(builder, call.input(0)?, call.optional(2), false)?;
    let zero = match call.optional(3) {
        Some(zero) if builder.graph.shape(zero).len() == 1 && builder.graph.shape(zero) != [1] => {
            let mut shape = vec![1; builder.rank(call.input(1)?)];
            shape[0] = builder.graph.shape(zero)[0];
            Some(builder.reshape(zero, &shape)?)
        }
        zero => zero,
    };
    let w = centred(builder, call.input(1)?, zero, false)?;
    let y = convolve(builder, call, x, w, None)?;
    builder.set_elem(y, Elem::Int32);
    one(y)
}

/// `QLinearMatMul(a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero)`.
pub fn q_matmul(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    let a = reals_of(builder, call.input(0)?, &Scaling::at(call, 1, -2)?)?;
    let b = reals_of(builder, call.input(3)?, &Scaling::at(call, 4, -1)?)?;
    let y = product(builder, a, b)?;
    one(integers(builder, y, &Scaling::at(call, 6, -1)?, Elem::Uint8)?)
}

/// `QLinearConv(x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero, bias?)`.
pub fn q_conv(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    let (own, of_weights) = (Scaling::at(call, 1, 1)?, Scaling::at(call, 4, 0)?);
    let x = reals_of(builder, call.input(0)?, &own)?;
    let w = reals_of(builder, call.input(3)?, &of_weights)?;
    let bias = call.optional(8).map(|bias| bias_reals(builder, bias, own.scale, of_weights.scale)).transpose()?;
    let y = convolve(builder, call, x, w, bias)?;
    one(integers(builder, y, &Scaling::at(call, 6, 1)?, Elem::Uint8)?)
}

/// A bias in units of the products.
fn bias_reals(builder: &mut Builder, bias: TensorId, x_scale: TensorId, w_scale: TensorId) -> OpResult<TensorId> {
    let values = builder.ints(bias, "the bias")?;
    let x_scale = builder.float_value(x_scale, "the scale")?;
    let w_scale = builder.floats(w_scale, "the scale")?;
    let scale = |i: usize| x_scale * w_scale[if w_scale.len() == 1 { 0 } else { i.min(w_scale.len() - 1) }];
    if w_scale.is_empty() || w_scale.len() != 1 && w_scale.len() != values.len() {
        return invalid("a scale per channel is expected");
    }
    let shape = builder.shape(bias);
    let reals = values.iter().enumerate().map(|(i, &b)| b as f32 * scale(i)).collect();
    builder.constant(&shape, Data::Float(reals))
}

/// `QLinearAdd` and `QLinearMul` of onnxruntime.
pub fn q_binary(builder: &mut Builder, call: &Call, kind: Binary) -> OpResult<Outputs> {
    let a = reals_of(builder, call.input(0)?, &Scaling::at(call, 1, -1)?)?;
    let b = reals_of(builder, call.input(3)?, &Scaling::at(call, 4, -1)?)?;
    let y = builder.binary(kind, a, b)?;
    one(integers(builder, y, &Scaling::at(call, 6, -1)?, Elem::Uint8)?)
}

/// Functions of one tensor in onnxruntime's form.
pub fn q_unary(builder: &mut Builder, call: &Call, kind: Unary) -> OpResult<Outputs> {
    let x = reals_of(builder, call.input(0)?, &Scaling::at(call, 1, -1)?)?;
    let y = builder.unary(kind, x)?;
    one(integers(builder, y, &Scaling::at(call, 3, -1)?, Elem::Uint8)?)
}

/// `QLinearGlobalAveragePool` of onnxruntime.
pub fn q_global_average(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    let x = reals_of(builder, call.input(0)?, &Scaling::at(call, 1, -1)?)?;
    let rank = builder.rank(x);
    let axes = if call.int_or("channels_last", 0)? != 0 { (1..rank - 1).collect() } else { (2..rank).collect() };
    let y = builder.reduce(Reduce::Mean, x, axes, true)?;
    one(integers(builder, y, &Scaling::at(call, 3, -1)?, Elem::Uint8)?)
}

/// `QLinearConcat(y_scale, y_zero, (x, x_scale, x_zero)..)` of onnxruntime.
pub fn q_concat(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    let mut parts = Vec::new();
    for index in (2..call.inputs.len()).step_by(3) {
        parts.push(reals_of(builder, call.input(index)?, &Scaling::at(call, index + 1, -1)?)?);
    }
    let Some(&first) = parts.first() else { return invalid("there is nothing to join") };
    let axis = super::super::node::axis_index(call.int_or("axis", 0)?, builder.rank(first))?;
    let y = builder.concat(&parts, axis)?;
    one(integers(builder, y, &Scaling::at(call, 0, -1)?, Elem::Uint8)?)
}

/// `QGemm(A, a_scale, a_zero, B, b_scale, b_zero, C?, y_scale?, y_zero?)` of onnxruntime.
pub fn q_gemm(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    let (of_a, of_b) = (Scaling::at(call, 1, -1)?, Scaling::at(call, 4, -1)?);
    let mut a = reals_of(builder, call.input(0)?, &of_a)?;
    let turned = call.int_or("transB", 0)? != 0;
    let mut b = reals_of(builder, call.input(3)?, &Scaling { axis: if turned { 0 } else { 1 }, ..of_b })?;
    if call.int_or("transA", 0)? != 0 {
        a = builder.transpose_last(a)?;
    }
    if turned {
        b = builder.transpose_last(b)?;
    }
    let y = product(builder, a, b)?;
    let mut y = builder.scale(y, call.float_or("alpha", 1.0)?)?;
    if let Some(bias) = call.optional(6) {
        let bias = bias_reals(builder, bias, of_a.scale, of_b.scale)?;
        y = builder.binary(Binary::Add, y, bias)?;
    }
    one(match call.optional(7) {
        Some(_) => integers(builder, y, &Scaling::at(call, 7, -1)?, Elem::Uint8)?,
        None => y,
    })
}

/// `MatMulIntegerToFloat(A, B, a_scale, b_scale, a_zero?, b_zero?, bias?)` of onnxruntime.
pub fn matmul_to_float(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    let a = centred(builder, call.input(0)?, call.optional(4), true)?;
    let b = centred(builder, call.input(1)?, call.optional(5), false)?;
    scaled_product(builder, [a, b], [Some(call.input(2)?), Some(call.input(3)?)], call.optional(6))
}

/// `DynamicQuantizeMatMul(A, B, b_scale, b_zero?, bias?)` of onnxruntime.
pub fn dynamic_matmul(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    let b = centred(builder, call.input(1)?, call.optional(3), false)?;
    scaled_product(builder, [call.input(0)?, b], [None, Some(call.input(2)?)], call.optional(4))
}

fn scaled_product(
    builder: &mut Builder,
    [a, b]: [TensorId; 2],
    scales: [Option<TensorId>; 2],
    bias: Option<TensorId>,
) -> OpResult<Outputs> {
    let b = match scales[1] {
        Some(scale) => builder.binary(Binary::Mul, b, scale)?,
        None => b,
    };
    let mut y = product(builder, a, b)?;
    if let Some(scale) = scales[0] {
        y = builder.binary(Binary::Mul, y, scale)?;
    }
    if let Some(bias) = bias {
        y = builder.binary(Binary::Add, y, bias)?;
    }
    one(y)
}

/// `MatMulNBits(A, B, scales, zero_points?, g_idx?, bias?)` of onnxruntime: `A B'` with `B [n, k]` in blocks of a few bits.
pub fn matmul_n_bits(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    call.ignore(&["accuracy_level"]);
    let size = |name: &str, default: i64| call.int_or(name, default).map(|v| usize::try_from(v).unwrap_or(0));
    let (k, n, bits, block) = (size("K", 0)?, size("N", 0)?, size("bits", 4)?, size("block_size", 32)?);
    if !matches!(bits, 2 | 4 | 8) || block == 0 || k == 0 || n == 0 {
        return unsupported(format!("{bits} bits in blocks of {block}; use 2, 4 or 8 bits"));
    }
    if call.optional(4).is_some_and(|id| builder.shape(id) != [0]) {
        return unsupported("g_idx; use weights in the order of their groups");
    }
    let blocks = k.div_ceil(block);
    let bytes = builder.ints(call.input(1)?, "the weights")?;
    let scales = builder.floats(call.input(2)?, "the scales")?;
    let per_block = block * bits / 8;
    let per_row = (blocks * bits).div_ceil(8);
    let zeros: Option<Vec<f32>> = match call.optional(3) {
        None => None,
        Some(id) => match builder.graph.constant(id) {
            Some(Data::Float(values)) => Some(values.clone()),
            Some(Data::Int(packed)) if packed.len() == n * per_row => {
                let at = |i: usize| field(&packed[i / blocks * per_row..], i % blocks, bits) as f32;
                Some((0..n * blocks).map(at).collect())
            }
            _ => return invalid("the zero points do not fit the blocks"),
        },
    };
    let fits = bytes.len() == n * blocks * per_block && scales.len() == n * blocks;
    if !fits || zeros.as_ref().is_some_and(|zeros| zeros.len() != n * blocks) {
        return invalid(format!("weights and scales do not form {n} rows of {blocks} blocks"));
    }
    let middle = (1u32 << (bits - 1)) as f32;
    let count = builder.checked_count(&[n, k])?;
    builder.charge(count)?;
    let weight = |i: usize| {
        let (row, column) = (i / k, i % k);
        let b = row * blocks + column / block;
        let q = field(&bytes[b * per_block..], column % block, bits) as f32;
        (q - zeros.as_ref().map_or(middle, |zeros| zeros[b])) * scales[b]
    };
    let weights = builder.constant(&[n, k], Data::Float((0..count).map(weight).collect()))?;
    let bias = call.optional(5).filter(|&bias| builder.shape(bias) == [n]);
    one(builder.linear(call.input(0)?, weights, bias)?)
}

/// Element `i` of fields of `bits` bits, the lowest bits first.
fn field(bytes: &[i64], i: usize, bits: usize) -> i64 {
    let per_byte = 8 / bits;
    (bytes[i / per_byte] >> (i % per_byte * bits)) & ((1 << bits) - 1)
}
