//! The operators, each a symbol of its own: a linker drops those that no table names.

use shiftformer::kernels::Native;
use shiftformer::ops::{self, Functions, OpKind, Operator};

/// The functions of an operator.
#[repr(transparent)]
pub struct sf_functions(#[allow(dead_code, reason = "read by way of entries")] Functions<Native>);

impl sf_functions {
    const fn of<O: Operator>() -> Self {
        Self(Functions::of::<O>())
    }
}

/// `linear`.
#[unsafe(no_mangle)]
pub static sf_op_linear: sf_functions = sf_functions::of::<ops::linear::Linear>();
/// `conv2d`.
#[unsafe(no_mangle)]
pub static sf_op_conv2d: sf_functions = sf_functions::of::<ops::conv2d::Conv2d>();
/// `depthwise_conv2d`.
#[unsafe(no_mangle)]
pub static sf_op_depthwise_conv2d: sf_functions = sf_functions::of::<ops::depthwise::DepthwiseConv2d>();
/// `matmul`.
#[unsafe(no_mangle)]
pub static sf_op_matmul: sf_functions = sf_functions::of::<ops::matmul::MatMul>();
/// `attention`.
#[unsafe(no_mangle)]
pub static sf_op_attention: sf_functions = sf_functions::of::<ops::attention::Attention>();
/// `attention_scores`.
#[unsafe(no_mangle)]
pub static sf_op_attention_scores: sf_functions = sf_functions::of::<ops::attention::AttentionScores>();
/// `attention_exp`.
#[unsafe(no_mangle)]
pub static sf_op_attention_exp: sf_functions = sf_functions::of::<ops::attention::AttentionExp>();
/// `attention_values`.
#[unsafe(no_mangle)]
pub static sf_op_attention_values: sf_functions = sf_functions::of::<ops::attention::AttentionValues>();
/// `softmax`.
#[unsafe(no_mangle)]
pub static sf_op_softmax: sf_functions = sf_functions::of::<ops::softmax::Softmax>();
/// `layer_norm`.
#[unsafe(no_mangle)]
pub static sf_op_layer_norm: sf_functions = sf_functions::of::<ops::layer_norm::LayerNorm>();
/// `add`.
#[unsafe(no_mangle)]
pub static sf_op_add: sf_functions = sf_functions::of::<ops::add::Add>();
/// `mul`.
#[unsafe(no_mangle)]
pub static sf_op_mul: sf_functions = sf_functions::of::<ops::mul::Mul>();
/// `lut`.
#[unsafe(no_mangle)]
pub static sf_op_lut: sf_functions = sf_functions::of::<ops::lut::Lut>();
/// `requant`.
#[unsafe(no_mangle)]
pub static sf_op_requant: sf_functions = sf_functions::of::<ops::requant::Requant>();
/// `copy`.
#[unsafe(no_mangle)]
pub static sf_op_copy: sf_functions = sf_functions::of::<ops::copy::Copy>();
/// `gather`.
#[unsafe(no_mangle)]
pub static sf_op_gather: sf_functions = sf_functions::of::<ops::gather::Gather>();
/// `reduce_mean`.
#[unsafe(no_mangle)]
pub static sf_op_reduce_mean: sf_functions = sf_functions::of::<ops::reduce_mean::ReduceMean>();
/// `pool2d`.
#[unsafe(no_mangle)]
pub static sf_op_pool2d: sf_functions = sf_functions::of::<ops::pool::Pool2d>();
/// `dyadic_requant`.
#[unsafe(no_mangle)]
pub static sf_op_dyadic_requant: sf_functions = sf_functions::of::<ops::dyadic_requant::DyadicRequant>();
/// `shiftmax`.
#[unsafe(no_mangle)]
pub static sf_op_shiftmax: sf_functions = sf_functions::of::<ops::shiftmax::Shiftmax>();
/// `shiftgelu`.
#[unsafe(no_mangle)]
pub static sf_op_shiftgelu: sf_functions = sf_functions::of::<ops::shiftgelu::ShiftGelu>();
/// `i_layer_norm`.
#[unsafe(no_mangle)]
pub static sf_op_i_layer_norm: sf_functions = sf_functions::of::<ops::i_layer_norm::ILayerNorm>();
/// `kv_append`.
#[unsafe(no_mangle)]
pub static sf_op_kv_append: sf_functions = sf_functions::of::<ops::kv_append::KvAppend>();
/// `causal_attention`.
#[unsafe(no_mangle)]
pub static sf_op_causal_attention: sf_functions = sf_functions::of::<ops::attention::causal::CausalAttention>();
/// `rope`.
#[unsafe(no_mangle)]
pub static sf_op_rope: sf_functions = sf_functions::of::<ops::rope::Rope>();
/// `linear_i16`.
#[unsafe(no_mangle)]
pub static sf_op_linear_i16: sf_functions = sf_functions::of::<ops::linear_i16::LinearI16>();
/// `conv2d_i16`.
#[unsafe(no_mangle)]
pub static sf_op_conv2d_i16: sf_functions = sf_functions::of::<ops::conv2d_i16::Conv2dI16>();
/// `depthwise_conv2d_i16`.
#[unsafe(no_mangle)]
pub static sf_op_depthwise_conv2d_i16: sf_functions = sf_functions::of::<ops::depthwise_i16::DepthwiseConv2dI16>();
/// `matmul_i16`.
#[unsafe(no_mangle)]
pub static sf_op_matmul_i16: sf_functions = sf_functions::of::<ops::matmul_i16::MatMulI16>();
/// `lut_i16`.
#[unsafe(no_mangle)]
pub static sf_op_lut_i16: sf_functions = sf_functions::of::<ops::lut_i16::LutI16>();
/// `max_pool_i16`.
#[unsafe(no_mangle)]
pub static sf_op_max_pool_i16: sf_functions = sf_functions::of::<ops::max_pool_i16::MaxPoolI16>();
/// `positions`.
#[unsafe(no_mangle)]
pub static sf_op_positions: sf_functions = sf_functions::of::<ops::positions::Positions>();
/// `embedding`.
#[unsafe(no_mangle)]
pub static sf_op_embedding: sf_functions = sf_functions::of::<ops::embedding::Embedding>();
/// `lmul_linear`.
#[unsafe(no_mangle)]
pub static sf_op_lmul_linear: sf_functions = sf_functions::of::<ops::lmul_linear::LmulLinear>();
/// `windowed_attention`.
#[unsafe(no_mangle)]
pub static sf_op_windowed_attention: sf_functions = sf_functions::of::<ops::attention::causal::WindowedAttention>();
/// `lookup_linear`.
#[unsafe(no_mangle)]
pub static sf_op_lookup_linear: sf_functions = sf_functions::of::<ops::lookup_linear::LookupLinear>();

/// An operator that is added needs a symbol here.
const _: () = assert!(OpKind::ALL.len() == 36);
