//! The operators: each folder holds one operator's shader, the dispatches it takes, and its tests against the portable
//! runtime. A `Params` structure in WGSL is the operands, what the host computes, then the operator's parameter words
//! in the order of the file format.

mod add;
mod attention;
mod builder;
mod conv2d;
mod conv2d_i16;
mod copy;
mod depthwise;
mod depthwise_i16;
mod dyadic_requant;
mod embedding;
mod gather;
mod i_layer_norm;
mod kv_append;
mod layer_norm;
mod linear;
mod linear_i16;
mod lmul_linear;
mod lookup_linear;
mod lut;
mod lut_i16;
mod matmul;
mod matmul_i16;
mod max_pool_i16;
mod mul;
mod pool;
mod positions;
mod reduce_mean;
mod requant;
mod rope;
mod shiftgelu;
mod shiftmax;
mod softmax;

use crate::error::GpuError;
pub use builder::{Builder, Following};
pub use copy::is_whole as copies_all;
use shiftformer::ops::Op;

/// Appends the dispatches of `op` to `builder`.
///
/// # Errors
/// [`GpuError::Op`].
pub fn add(builder: &mut Builder<'_>, op: &Op) -> Result<(), GpuError> {
    match op {
        Op::Linear(params) => linear::steps(builder, params),
        Op::Conv2d(params) => conv2d::steps(builder, params),
        Op::DepthwiseConv2d(params) => depthwise::steps(builder, params),
        Op::MatMul(params) => matmul::steps(builder, params),
        Op::Attention(params) => attention::fused::steps(builder, &params.attention),
        Op::AttentionScores(params) => attention::scores::steps(builder, &params.attention),
        Op::AttentionExp(params) => attention::exp::steps(builder, &params.attention),
        Op::AttentionValues(params) => attention::values::steps(builder, &params.attention),
        Op::Softmax(params) => softmax::steps(builder, params),
        Op::LayerNorm(params) => layer_norm::steps(builder, params),
        Op::Add(params) => add::steps(builder, params),
        Op::Mul(params) => mul::steps(builder, params),
        Op::Lut(params) => lut::steps(builder, params),
        Op::Requant(params) => requant::steps(builder, params),
        Op::Copy(params) => copy::steps(builder, params),
        Op::Gather(params) => gather::steps(builder, params),
        Op::Embedding(params) => embedding::steps(builder, params),
        Op::ReduceMean(params) => reduce_mean::steps(builder, params),
        Op::Pool2d(params) => pool::steps(builder, params),
        Op::DyadicRequant(params) => dyadic_requant::steps(builder, params),
        Op::Shiftmax(params) => shiftmax::steps(builder, params),
        Op::ShiftGelu(params) => shiftgelu::steps(builder, params),
        Op::ILayerNorm(params) => i_layer_norm::steps(builder, params),
        Op::LinearI16(params) => linear_i16::steps(builder, params),
        Op::Conv2dI16(params) => conv2d_i16::steps(builder, params),
        Op::DepthwiseConv2dI16(params) => depthwise_i16::steps(builder, params),
        Op::MatMulI16(params) => matmul_i16::steps(builder, params),
        Op::LmulLinear(params) => lmul_linear::steps(builder, params),
        Op::LookupLinear(params) => lookup_linear::steps(builder, params),
        Op::LutI16(params) => lut_i16::steps(builder, params),
        Op::MaxPoolI16(params) => max_pool_i16::steps(builder, params),
        Op::KvAppend(params) => kv_append::steps(builder, params),
        Op::CausalAttention(params) => attention::causal::steps(builder, &params.attention, params.attention.n_k),
        Op::WindowedAttention(params) => attention::causal::steps(builder, &params.attention, params.window),
        Op::Rope(params) => rope::steps(builder, params),
        Op::Positions(params) => positions::steps(builder, params),
    }
}
