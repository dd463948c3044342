//! Matrix products.

use super::super::builder::{Builder, broadcast};
use super::super::node::{Call, OpResult, Outputs, invalid, one, unsupported};
use crate::graph::{Binary, Data, TensorId, Unary};

/// `a` times `b` by numpy's rules for vectors; a constant matrix `b` gives a linear layer.
pub fn product(builder: &mut Builder, a: TensorId, b: TensorId) -> OpResult<TensorId> {
    let (rank_a, rank_b) = (builder.rank(a), builder.rank(b));
    if rank_a == 0 || rank_b == 0 {
        return invalid("a scalar is not a matrix");
    }
    if rank_a == 1 || rank_b == 1 {
        return with_vectors(builder, a, b);
    }
    if rank_b == 2 && builder.is_constant(b) && !builder.is_constant(a) {
        let w = builder.transpose_last(b)?;
        return builder.linear(a, w, None);
    }
    builder.matmul(a, b, false)
}

fn with_vectors(builder: &mut Builder, a: TensorId, b: TensorId) -> OpResult<TensorId> {
    let (shape_a, shape_b) = (builder.shape(a), builder.shape(b));
    let left = if shape_a.len() == 1 { builder.reshape(a, &[1, shape_a[0]])? } else { a };
    let right = if shape_b.len() == 1 { builder.reshape(b, &[shape_b[0], 1])? } else { b };
    let y = product(builder, left, right)?;
    let mut shape = builder.shape(y);
    if shape_a.len() == 1 {
        shape.remove(shape.len() - 2);
    }
    if shape_b.len() == 1 {
        shape.pop();
    }
    builder.reshape(y, &shape)
}

pub fn matmul(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    one(product(builder, call.input(0)?, call.input(1)?)?)
}

pub fn fused_matmul(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    let (mut a, mut b) = (call.input(0)?, call.input(1)?);
    if builder.rank(a) < 2 || builder.rank(b) < 2 {
        return invalid("operands must be matrices");
    }
    // The first dimension stands before those of the batch.
    for (operand, attribute) in [(&mut a, "transBatchA"), (&mut b, "transBatchB")] {
        if call.int_or(attribute, 0)? != 0 {
            let last = builder.rank(*operand) - 1;
            let perm: Vec<usize> = (1..last).chain([0, last]).collect();
            *operand = builder.transpose(*operand, &perm)?;
        }
    }
    if call.int_or("transA", 0)? != 0 {
        a = builder.transpose_last(a)?;
    }
    let y = match call.int_or("transB", 0)? != 0 {
        true if builder.is_constant(b) => {
            let b = builder.transpose_last(b)?;
            product(builder, a, b)?
        }
        true => builder.matmul(a, b, true)?,
        false => product(builder, a, b)?,
    };
    one(builder.scale(y, call.float_or("alpha", 1.0)?)?)
}

/// `alpha * a' b' + beta * c`.
pub fn gemm(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    let (mut a, b) = (call.input(0)?, call.input(1)?);
    if builder.rank(a) != 2 || builder.rank(b) != 2 {
        return invalid("operands must be matrices");
    }
    if call.int_or("transA", 0)? != 0 {
        a = builder.transpose_last(a)?;
    }
    // As [n, k].
    let w = if call.int_or("transB", 0)? != 0 { b } else { builder.transpose_last(b)? };
    let (alpha, beta) = (call.float_or("alpha", 1.0)?, call.float_or("beta", 1.0)?);
    let c = match call.optional(2) {
        Some(c) if beta != 0.0 => Some(builder.scale(c, beta)?),
        _ => None,
    };
    if builder.is_constant(w) && !builder.is_constant(a) {
        let n = builder.graph.shape(w)[0];
        let bias = if alpha == 1.0 { c.and_then(|c| row(builder, c, n)) } else { None };
        let y = builder.linear(a, w, bias)?;
        let y = builder.scale(y, alpha)?;
        return one(if bias.is_some() { y } else { add(builder, y, c)? });
    }
    let y = builder.matmul(a, w, true)?;
    let y = builder.scale(y, alpha)?;
    one(add(builder, y, c)?)
}

fn add(builder: &mut Builder, y: TensorId, c: Option<TensorId>) -> OpResult<TensorId> {
    let Some(c) = c else { return Ok(y) };
    if broadcast(builder.graph.shape(y), builder.graph.shape(c))? != builder.graph.shape(y) {
        return invalid("the addend is larger than the product");
    }
    builder.binary(Binary::Add, y, c)
}

/// The constant `c` as one value per output channel, where it is that.
fn row(builder: &mut Builder, c: TensorId, n: usize) -> Option<TensorId> {
    let shape = builder.graph.shape(c);
    let values = builder.graph.floats(c)?;
    let rows = shape.len().saturating_sub(1);
    let is_row = shape[..rows].iter().all(|&d| d == 1) && (values.len() == n || values.len() == 1);
    let values = if values.len() == n { values.to_vec() } else { vec![*values.first()?; n] };
    if !is_row {
        return None;
    }
    let name = builder.graph.tensors[c].name.clone();
    Some(builder.graph.add_constant(name, vec![n], Data::Float(values)))
}

pub fn fused_gemm(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    let Some(Some(y)) = gemm(builder, call)?.pop() else { return invalid("no result") };
    one(activated(builder, call, y)?)
}

/// The activation that a fused operator of onnxruntime ends with.
pub fn activated(builder: &mut Builder, call: &Call, y: TensorId) -> OpResult<TensorId> {
    call.ignore(&["activation_alpha", "activation_beta", "activation_gamma"]);
    let params = call.floats("activation_params")?.unwrap_or_default();
    let param = |index: usize, name: &str, default: f32| -> OpResult<f32> {
        Ok(match call.float(name)? {
            Some(value) => value,
            None => params.get(index).copied().unwrap_or(default),
        })
    };
    let kind = match call.text_or("activation", "")?.as_str() {
        "" => return Ok(y),
        "Relu" => Unary::Relu,
        "Tanh" => Unary::Tanh,
        "Sigmoid" => Unary::Sigmoid,
        "LeakyRelu" => Unary::LeakyRelu { slope: param(0, "activation_alpha", 0.01)? },
        "HardSigmoid" => {
            Unary::HardSigmoid { alpha: param(0, "activation_alpha", 0.2)?, beta: param(1, "activation_beta", 0.5)? }
        }
        "Clip" => {
            Unary::Clip { low: param(0, "activation_alpha", f32::MIN)?, high: param(1, "activation_beta", f32::MAX)? }
        }
        other => {
            return unsupported(format!(
                "activation `{other}`; use Relu, Clip, LeakyRelu, HardSigmoid, Sigmoid or Tanh"
            ));
        }
    };
    builder.unary(kind, y)
}
