//! The list of operators: the one place that names them all.

use super::entry::{decode, needs_of};
use super::{
    Entry, Operator, RowAccess, add, attention, conv2d, conv2d_i16, copy, depthwise, depthwise_i16, dyadic_requant,
    embedding, gather, i_layer_norm, kv_append, layer_norm, linear, linear_i16, lmul_linear, lookup_linear, lut,
    lut_i16, matmul, matmul_i16, max_pool_i16, mul, pool, positions, reduce_mean, requant, rope, shiftgelu, shiftmax,
    softmax,
};
use crate::format::{Blob, Word};
use crate::kernels::Kernels;

/// The operators a session can run.
pub struct OpTable<B>(core::marker::PhantomData<fn() -> B>);

/// Declares the kinds, in the order of their codes: code, kind, name, parameters, and the minor version of the container
/// that added it. Codes are never reused.
macro_rules! operators {
    ($($code:literal $kind:ident $name:literal $params:ty, since $since:literal;)*) => {
        /// Which operator a record holds.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[cfg_attr(feature = "defmt", derive(defmt::Format))]
        #[repr(u16)]
        pub enum OpKind { $(
            #[doc = $name]
            $kind = $code,
        )* }

        impl OpKind {
            /// All kinds.
            pub const ALL: &'static [OpKind] = &[$(OpKind::$kind),*];

            /// The kind with this code.
            pub fn from_code(code: u16) -> Option<Self> {
                match code { $($code => Some(OpKind::$kind),)* _ => None }
            }

            /// Name in reports.
            pub const fn name(self) -> &'static str {
                match self { $(OpKind::$kind => $name,)* }
            }

            /// The minor version of the container that added this kind: older readers do not know it.
            pub const fn since(self) -> u16 {
                match self { $(OpKind::$kind => $since,)* }
            }

            /// Path of its parameter type in this module, for generated code.
            pub const fn type_path(self) -> &'static str {
                match self { $(OpKind::$kind => stringify!($params),)* }
            }
        }

        /// An operator with its parameters, for tools that look into a model.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(missing_docs)]
        pub enum Op { $($kind($params),)* }

        impl Op {
            /// Decodes the parameters of an operator of this kind.
            pub fn decode(kind: OpKind, words: &[u8]) -> Option<Self> {
                match kind { $(OpKind::$kind => Some(Op::$kind(decode(words)?)),)* }
            }

            /// Which operator this is.
            pub fn kind(&self) -> OpKind {
                match self { $(Op::$kind(_) => OpKind::$kind,)* }
            }

            /// Appends the parameters.
            pub fn encode(&self, out: &mut dyn crate::format::WriteWords) {
                match self { $(Op::$kind(params) => params.write(out),)* }
            }

            /// Calls `visit` for every blob among the parameters.
            pub fn each_blob(&mut self, visit: &mut dyn FnMut(&mut Blob)) {
                match self { $(Op::$kind(params) => params.each_blob(visit),)* }
            }

            /// Multiplications with accumulation in one run.
            pub fn macs(&self) -> u64 {
                match self { $(Op::$kind(params) => params.macs(),)* }
            }

            /// Bytes of scratch memory one run needs.
            pub fn scratch_bytes(&self) -> u32 {
                match self { $(Op::$kind(params) => params.scratch_bytes(),)* }
            }

            /// Which input may lie in the same memory as the output.
            pub fn in_place(&self) -> Option<usize> {
                match self { $(Op::$kind(params) => params.in_place(),)* }
            }

            /// Pieces of work a run can be divided into.
            pub fn pieces(&self) -> u32 {
                match self { $(Op::$kind(params) => params.pieces(),)* }
            }

            /// Pieces that a step does.
            pub fn step(&self) -> u32 {
                match self { $(Op::$kind(params) => needs_of(params).step(),)* }
            }

            /// Work of a step at most, see [`Operator::piece_work`].
            pub fn step_work(&self) -> u64 {
                let piece = match self { $(Op::$kind(params) => params.piece_work(),)* };
                u64::from(self.step()) * u64::from(piece)
            }

            /// What its rows read and write, where its pieces are rows.
            pub fn row_access(&self) -> Option<RowAccess> {
                match self { $(Op::$kind(params) => params.row_access(),)* }
            }

            /// Whether the whole output is written when this operator has run.
            pub fn completes_output(&self) -> bool {
                match self { $(Op::$kind(params) => params.completes_output(),)* }
            }
        }

        impl<B: Kernels> OpTable<B> {
            /// Every operator. A firmware that must be small names the ones its model uses instead.
            pub const ALL: &'static [Entry<B>] = &[$(Entry::of::<$params>(OpKind::$kind),)*];
        }
    };
}

operators! {
    1 Linear "linear" linear::Linear, since 0;
    2 Conv2d "conv2d" conv2d::Conv2d, since 0;
    3 DepthwiseConv2d "depthwise_conv2d" depthwise::DepthwiseConv2d, since 0;
    4 MatMul "matmul" matmul::MatMul, since 0;
    5 Attention "attention" attention::Attention, since 0;
    6 AttentionScores "attention_scores" attention::AttentionScores, since 0;
    7 AttentionExp "attention_exp" attention::AttentionExp, since 0;
    8 AttentionValues "attention_values" attention::AttentionValues, since 0;
    9 Softmax "softmax" softmax::Softmax, since 0;
    10 LayerNorm "layer_norm" layer_norm::LayerNorm, since 0;
    11 Add "add" add::Add, since 0;
    12 Mul "mul" mul::Mul, since 0;
    13 Lut "lut" lut::Lut, since 0;
    14 Requant "requant" requant::Requant, since 0;
    15 Copy "copy" copy::Copy, since 0;
    16 Gather "gather" gather::Gather, since 0;
    17 ReduceMean "reduce_mean" reduce_mean::ReduceMean, since 0;
    18 Pool2d "pool2d" pool::Pool2d, since 0;
    19 DyadicRequant "dyadic_requant" dyadic_requant::DyadicRequant, since 0;
    20 Shiftmax "shiftmax" shiftmax::Shiftmax, since 0;
    21 ShiftGelu "shiftgelu" shiftgelu::ShiftGelu, since 0;
    22 ILayerNorm "i_layer_norm" i_layer_norm::ILayerNorm, since 0;
    23 KvAppend "kv_append" kv_append::KvAppend, since 2;
    24 CausalAttention "causal_attention" attention::causal::CausalAttention, since 2;
    25 Rope "rope" rope::Rope, since 2;
    26 LinearI16 "linear_i16" linear_i16::LinearI16, since 3;
    27 Conv2dI16 "conv2d_i16" conv2d_i16::Conv2dI16, since 3;
    28 DepthwiseConv2dI16 "depthwise_conv2d_i16" depthwise_i16::DepthwiseConv2dI16, since 3;
    29 MatMulI16 "matmul_i16" matmul_i16::MatMulI16, since 3;
    30 LutI16 "lut_i16" lut_i16::LutI16, since 3;
    31 MaxPoolI16 "max_pool_i16" max_pool_i16::MaxPoolI16, since 3;
    32 Positions "positions" positions::Positions, since 3;
    33 Embedding "embedding" embedding::Embedding, since 4;
    34 LmulLinear "lmul_linear" lmul_linear::LmulLinear, since 4;
    35 WindowedAttention "windowed_attention" attention::causal::WindowedAttention, since 6;
    36 LookupLinear "lookup_linear" lookup_linear::LookupLinear, since 6;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::VERSION_MINOR;

    #[test]
    fn the_reader_knows_every_kind_it_lists() {
        assert!(OpKind::ALL.iter().all(|kind| kind.since() <= VERSION_MINOR));
        assert!(OpKind::ALL.iter().all(|&kind| OpKind::from_code(kind as u16) == Some(kind)));
    }
}
