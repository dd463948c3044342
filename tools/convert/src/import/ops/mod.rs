//! Handlers of the ONNX operators, by family.

mod attention;
mod constant;
mod conv;
mod einsum;
mod elementwise;
mod group_query;
mod index;
mod integer;
mod lookup;
mod matmul;
mod microsoft;
mod movement;
mod norm;
mod quant;
mod reduce;
mod resize;
mod rotary;
mod softmax;

use super::builder::Builder;
use super::node::{Call, OpResult, Outputs};
use crate::graph::{Binary, Reduce, Unary};

/// Domain of the operators that this project defines.
pub const OWN_DOMAIN: &str = "shiftformer";

/// Emits the nodes of one ONNX node.
pub type Handler = fn(&mut Builder, &Call) -> OpResult<Outputs>;

/// The handler of an operator.
pub fn handler(domain: &str, op: &str) -> Option<Handler> {
    match domain {
        "" => standard(op),
        "com.microsoft" => contributed(op),
        OWN_DOMAIN => own(op),
        _ => None,
    }
}

macro_rules! unary {
    ($kind:expr) => {
        |builder, call| elementwise::unary(builder, call, $kind)
    };
}

macro_rules! binary {
    ($kind:expr) => {
        |builder, call| elementwise::binary(builder, call, $kind)
    };
}

fn standard(op: &str) -> Option<Handler> {
    elementwise_handler(op).or_else(|| layer_handler(op)).or_else(|| movement_handler(op))
}

fn elementwise_handler(op: &str) -> Option<Handler> {
    Some(match op {
        "Abs" => unary!(Unary::Abs),
        "Acos" => elementwise::arc_cosine,
        "Acosh" => elementwise::area_cosine,
        "Asin" => elementwise::arc_sine,
        "Asinh" => elementwise::area_sine,
        "Atan" => unary!(Unary::Atan),
        "Atanh" => elementwise::area_tangent,
        "Cosh" => |builder, call| elementwise::hyperbolic(builder, call, Binary::Add),
        "Sinh" => |builder, call| elementwise::hyperbolic(builder, call, Binary::Sub),
        "Tan" => elementwise::tangent,
        "Shrink" => elementwise::shrink,
        "Ceil" => unary!(Unary::Ceil),
        "Cos" => unary!(Unary::Cos),
        "Erf" => unary!(Unary::Erf),
        "Exp" => unary!(Unary::Exp),
        "Floor" => unary!(Unary::Floor),
        "HardSwish" => unary!(Unary::HardSwish),
        "IsNaN" => unary!(Unary::IsNaN),
        "Log" => unary!(Unary::Log),
        "Mish" => unary!(Unary::Mish),
        "Neg" => unary!(Unary::Neg),
        "Not" => unary!(Unary::Not),
        "Reciprocal" => unary!(Unary::Reciprocal),
        "Relu" => unary!(Unary::Relu),
        "Round" => unary!(Unary::Round),
        "Sigmoid" => unary!(Unary::Sigmoid),
        "Sign" => unary!(Unary::Sign),
        "Sin" => unary!(Unary::Sin),
        "Softplus" => unary!(Unary::Softplus),
        "Sqrt" => unary!(Unary::Sqrt),
        "Tanh" => unary!(Unary::Tanh),
        "Celu" => elementwise::celu,
        "Clip" => elementwise::clip,
        "Elu" => elementwise::elu,
        "Gelu" => elementwise::gelu,
        "HardSigmoid" => elementwise::hard_sigmoid,
        "IsInf" => elementwise::is_inf,
        "LeakyRelu" => elementwise::leaky_relu,
        "PRelu" => elementwise::prelu,
        "Selu" => elementwise::selu,
        "Softsign" => elementwise::softsign,
        "Swish" => elementwise::swish,
        "ThresholdedRelu" => elementwise::thresholded_relu,
        "Add" => binary!(Binary::Add),
        "And" => binary!(Binary::And),
        "Div" => binary!(Binary::Div),
        "Equal" => binary!(Binary::Equal),
        "Greater" => binary!(Binary::Greater),
        "GreaterOrEqual" => binary!(Binary::GreaterOrEqual),
        "Less" => binary!(Binary::Less),
        "LessOrEqual" => binary!(Binary::LessOrEqual),
        "Mul" => binary!(Binary::Mul),
        "Or" => binary!(Binary::Or),
        "Sub" => binary!(Binary::Sub),
        "Xor" => binary!(Binary::Xor),
        "Max" => |builder, call| elementwise::variadic(builder, call, Binary::Max),
        "Min" => |builder, call| elementwise::variadic(builder, call, Binary::Min),
        "Sum" => |builder, call| elementwise::variadic(builder, call, Binary::Add),
        "Mean" => elementwise::mean,
        "Mod" => elementwise::modulo,
        "Pow" => elementwise::pow,
        "Where" => elementwise::select,
        "Cast" => elementwise::cast,
        "CastLike" => elementwise::cast_like,
        _ => return None,
    })
}

fn layer_handler(op: &str) -> Option<Handler> {
    Some(match op {
        "MatMul" => matmul::matmul,
        "Gemm" => matmul::gemm,
        "Einsum" => einsum::einsum,
        "Conv" => conv::conv,
        "MaxPool" => conv::max_pool,
        "AveragePool" => conv::average_pool,
        "GlobalAveragePool" => |builder, call| conv::global_pool(builder, call, Reduce::Mean),
        "GlobalMaxPool" => |builder, call| conv::global_pool(builder, call, Reduce::Max),
        "BatchNormalization" => norm::batch,
        "GroupNormalization" => norm::group,
        "InstanceNormalization" => norm::instance,
        "LayerNormalization" => norm::layer,
        "LpNormalization" => norm::lp,
        "RMSNormalization" | "SimplifiedLayerNormalization" => norm::rms,
        "Softmax" => softmax::softmax,
        "Attention" => attention::attention,
        "RotaryEmbedding" => rotary::standard,
        "Hardmax" => index::hardmax,
        "LogSoftmax" => softmax::log_softmax,
        "ConvTranspose" => conv::conv_transpose,
        "LpPool" => conv::lp_pool,
        "GlobalLpPool" => conv::global_lp_pool,
        "LRN" => norm::local_response,
        "MeanVarianceNormalization" => norm::mean_variance,
        "ReduceMean" => |builder, call| reduce::reduce(builder, call, Reduce::Mean),
        "ReduceSum" => |builder, call| reduce::reduce(builder, call, Reduce::Sum),
        "ReduceMax" => |builder, call| reduce::reduce(builder, call, Reduce::Max),
        "ReduceMin" => |builder, call| reduce::reduce(builder, call, Reduce::Min),
        "ReduceProd" => |builder, call| reduce::reduce(builder, call, Reduce::Prod),
        "ReduceL1" => reduce::l1,
        "ReduceL2" => reduce::l2,
        "ReduceSumSquare" => reduce::sum_square,
        "ReduceLogSum" => reduce::log_sum,
        "ReduceLogSumExp" => reduce::log_sum_exp,
        "DynamicQuantizeLinear" => integer::dynamic_quantize,
        "MatMulInteger" => integer::matmul,
        "ConvInteger" => integer::conv,
        "QLinearMatMul" => integer::q_matmul,
        "QLinearConv" => integer::q_conv,
        "QuantizeLinear" => quant::quantize,
        "DequantizeLinear" => quant::dequantize,
        _ => return None,
    })
}

fn movement_handler(op: &str) -> Option<Handler> {
    Some(match op {
        "Concat" => movement::concat,
        "DepthToSpace" => movement::depth_to_space,
        "Dropout" => movement::dropout,
        "Expand" => movement::expand,
        "Flatten" => movement::flatten,
        "Identity" => movement::identity,
        "Pad" => movement::pad,
        "CenterCropPad" => movement::center_crop_pad,
        "TensorScatter" => movement::tensor_scatter,
        "Resize" => resize::resize,
        "Upsample" => resize::upsample,
        "Reshape" => movement::reshape,
        "Slice" => movement::slice,
        "SpaceToDepth" => movement::space_to_depth,
        "Split" => movement::split,
        "Squeeze" => movement::squeeze,
        "Tile" => movement::tile,
        "Transpose" => movement::transpose,
        "Unsqueeze" => movement::unsqueeze,
        "ArgMax" => |builder, call| index::arg_extreme(builder, call, true),
        "ArgMin" => |builder, call| index::arg_extreme(builder, call, false),
        "CumSum" => index::cumulative_sum,
        "Gather" => index::gather,
        "GatherElements" => index::gather_elements,
        "GatherND" => index::gather_nd,
        "NonZero" => index::non_zero,
        "OneHot" => index::one_hot,
        "ScatterElements" | "Scatter" => index::scatter_elements,
        "ScatterND" => index::scatter_nd,
        "TopK" => index::top_k,
        "Trilu" => index::trilu,
        "Constant" => constant::constant,
        "ConstantOfShape" => constant::constant_of_shape,
        "EyeLike" => constant::eye_like,
        "Range" => constant::range,
        "Shape" => constant::shape,
        "Size" => constant::size,
        _ => return None,
    })
}

/// Operators of this project.
fn own(op: &str) -> Option<Handler> {
    Some(match op {
        "LookupLinear" => lookup::linear,
        _ => return None,
    })
}

fn contributed(op: &str) -> Option<Handler> {
    Some(match op {
        "Attention" => microsoft::attention,
        "GroupQueryAttention" => group_query::attention,
        "MultiHeadAttention" => microsoft::multi_head_attention,
        "EmbedLayerNormalization" => microsoft::embed_layer_norm,
        "SkipLayerNormalization" => |builder, call| microsoft::skip_norm(builder, call, false),
        "SkipSimplifiedLayerNormalization" => |builder, call| microsoft::skip_norm(builder, call, true),
        "SimplifiedLayerNormalization" => norm::rms,
        "Gelu" => unary!(Unary::Gelu { tanh: false }),
        "BiasGelu" => |builder, call| microsoft::biased_gelu(builder, call, false),
        "FastGelu" => |builder, call| microsoft::biased_gelu(builder, call, true),
        "QuickGelu" => elementwise::quick_gelu,
        "FusedMatMul" | "TransposeMatMul" => matmul::fused_matmul,
        "FusedConv" => conv::fused_conv,
        "FusedGemm" => matmul::fused_gemm,
        "QuantizeLinear" => quant::quantize,
        "DequantizeLinear" => quant::dequantize,
        "RotaryEmbedding" => rotary::microsoft,
        "MatMulNBits" => integer::matmul_n_bits,
        "MatMulIntegerToFloat" => integer::matmul_to_float,
        "DynamicQuantizeMatMul" => integer::dynamic_matmul,
        "QGemm" => integer::q_gemm,
        "QLinearAdd" => |builder, call| integer::q_binary(builder, call, Binary::Add),
        "QLinearMul" => |builder, call| integer::q_binary(builder, call, Binary::Mul),
        "QLinearConcat" => integer::q_concat,
        "QLinearGlobalAveragePool" => integer::q_global_average,
        "QLinearSigmoid" => |builder, call| integer::q_unary(builder, call, Unary::Sigmoid),
        "QLinearLeakyRelu" => |builder, call| {
            let slope = call.float_or("alpha", 0.01)?;
            integer::q_unary(builder, call, Unary::LeakyRelu { slope })
        },
        "Trilu" => index::trilu,
        _ => return None,
    })
}

/// The nearest supported form of an operator without handler.
pub fn hint(domain: &str, op: &str) -> &'static str {
    match op {
        "Loop" | "Scan" => "loops are not supported; export with fixed sizes so that the exporter unrolls it",
        "LSTM" | "GRU" | "RNN" => "recurrent layers are not supported; use attention encoders",
        "MatMulBnb4" | "MatMulFpQ4" => "give the float model and convert it with 4-bit weights",
        _ if op.starts_with("QLinear") || op == "QAttention" || op == "QEmbedLayerNormalization" => {
            "quantize in QDQ format (QuantFormat.QDQ) instead of operators on integers"
        }
        "MaxRoiPool" | "RoiAlign" => "use AveragePool or MaxPool",
        "NonMaxSuppression" => "take the boxes and scores as outputs and pick on the host",
        "PackedAttention" | "PackedMultiHeadAttention" | "DecoderMaskedMultiHeadAttention" | "SparseAttention" => {
            "use Attention of opset 23 or com.microsoft.MultiHeadAttention without a cache"
        }
        "SequenceConstruct" | "SequenceAt" | "SplitToSequence" | "ConcatFromSequence" | "SequenceEmpty"
        | "SequenceInsert" => "sequences are not supported; use Split and Concat",
        "RandomNormal" | "RandomUniform" | "RandomNormalLike" | "RandomUniformLike" | "Bernoulli" | "Multinomial" => {
            "random values are not supported; export the model in evaluation mode"
        }
        _ if domain == "com.microsoft.nchwc" || op.starts_with("Nhwc") => {
            "optimized for one processor's layout; optimize at most at level extended"
        }
        _ if !domain.is_empty() && domain != "com.microsoft" => {
            "operators of this domain are not known; export with standard operators, or with its functions in the model"
        }
        _ => "no counterpart; express it by standard arithmetic, movement, MatMul, Conv and Softmax",
    }
}
