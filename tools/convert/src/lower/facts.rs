//! What is known of every kind of operator beside its arithmetic: one row per kind, and no kind without a row.

use shiftformer::ops::linear::Dense;
use shiftformer::ops::{Op, OpKind};
use shiftformer::tensor::Dtype;

/// What an operator costs beside the instructions to enter it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cost {
    /// Instructions per multiplication with accumulation.
    pub per_mac: f64,
    /// Instructions per element, see [`OpFacts::counted`].
    pub per_element: f64,
}

/// Cost by the instructions a core has.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Costs {
    /// ARMv6-M, and other cores without products of several values.
    pub plain: Cost,
    /// ARMv7E-M with the DSP extension.
    pub dsp: Cost,
    /// Helium.
    pub mve: Cost,
}

/// Which elements [`Cost::per_element`] counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counted {
    /// Those that are read.
    Read,
    /// Those that are written.
    Written,
}

/// Operators by what they do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// Products with weights or of activations.
    Dense,
    /// Attention and its parts, softmax.
    Attention,
    /// Normalization.
    Norm,
    /// All others.
    Other,
}

/// Where the noise of an operator comes from when its output's scale and range are good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Noise {
    /// Rounded weights, or the function of a table behind them.
    Weights,
    /// Small probabilities that round to zero.
    SoftmaxTail,
    /// The function itself.
    Function,
}

/// How the value that an operator holds before it requantizes is read from the results of modified copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadoutForm {
    /// The result in this type is the value.
    Whole(Dtype),
    /// As [`Whole`](ReadoutForm::Whole), for operators whose own result has 8 bits.
    WholeOfNarrow(Dtype),
    /// The 16-bit result is `value >> shift` for the first of these shifts; what is known is taken off for the next.
    Parts(&'static [u32]),
    /// The result is `value >> shift` for the smallest shift up to the last at which it does not saturate.
    Leading(Dtype, u32),
}

/// A value that can be read, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Readout {
    /// What the value is.
    pub meaning: &'static str,
    /// How it is read.
    pub way: ReadoutForm,
}

/// What is known of a kind of operator.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OpFacts {
    /// What it does.
    pub group: Group,
    /// Instructions, see [`facts`].
    pub costs: Costs,
    /// What the instructions per element are counted by.
    pub counted: Counted,
    /// What makes its sums smaller where they cannot be proven to fit; follows the fault in a message.
    pub remedy: &'static str,
    /// Where its noise comes from.
    pub noise: Noise,
    /// The accumulator behind an element; `None` for kinds that choose bytes or hold what they return.
    pub readout: Option<Readout>,
}

const fn costs(plain: (f64, f64), dsp: (f64, f64), mve: (f64, f64)) -> Costs {
    const fn cost((per_mac, per_element): (f64, f64)) -> Cost {
        Cost { per_mac, per_element }
    }
    Costs { plain: cost(plain), dsp: cost(dsp), mve: cost(mve) }
}

const LINEAR: Costs = costs((3.53, 65.9), (0.82, 9.4), (0.13, 4.9));
/// Estimates: an addition, a look-up and the sign for every product.
const LMUL: Costs = costs((16.0, 80.0), (14.0, 60.0), (14.0, 60.0));
/// A product is one of a chunk: its elements are looked at once for all channels.
const LOOKUP: Costs = costs((4.0, 80.0), (3.5, 40.0), (3.5, 40.0));
const CONV2D: Costs = costs((3.45, 115.0), (0.78, 30.0), (0.14, 24.0));
const DEPTHWISE: Costs = costs((12.0, 40.0), (8.0, 30.0), (8.0, 30.0));
/// Two products of 8 bits for each of 16, and both halves of the rows.
const LINEAR_I16: Costs = costs((7.1, 100.0), (1.7, 30.0), (0.27, 16.0));
const CONV2D_I16: Costs = costs((7.1, 160.0), (1.7, 60.0), (0.29, 40.0));
const DEPTHWISE_I16: Costs = costs((12.0, 40.0), (10.0, 30.0), (10.0, 30.0));
const MATMUL_I16: Costs = costs((13.5, 100.0), (2.7, 25.0), (0.95, 16.0));
const MATMUL: Costs = costs((6.7, 75.0), (1.3, 15.0), (0.45, 8.0));
const ATTENTION: Costs = costs((4.45, 282.5), (0.91, 101.0), (0.135, 44.5));
const EXPONENTIALS: Costs = costs((0.0, 60.0), (0.0, 30.0), (0.0, 10.0));
const LAYER_NORM: Costs = costs((0.0, 104.7), (0.0, 21.6), (0.0, 9.6));
const REQUANT: Costs = costs((0.0, 88.5), (0.0, 43.2), (0.0, 35.3));
const MEANS: Costs = costs((0.0, 42.2), (0.0, 25.5), (0.0, 21.6));
const COPY: Costs = costs((0.0, 2.7), (0.0, 0.8), (0.0, 0.7));
const ELEMENTWISE: Costs = costs((0.0, 34.1), (0.0, 11.8), (0.0, 4.0));

const FEWER_INPUTS: &str = "; use fewer input channels per layer, a smaller bias or `--weights 4`";
const NARROWER_HEADS: &str = "; use narrower heads or fewer keys";
const TWO_STEPS: &str = "; average in two steps";
const NARROWER_RANGE: &str = "; its operand spans too wide a range: mask with -1e4 or Where instead of larger numbers";
const CLOSER_SCALES: &str = "; its operands and its result are too far apart in size: scale one of them, or clip it";
const NEAR_ONE: &str = "; scale its operand closer to 1";

const fn read(meaning: &'static str, way: ReadoutForm) -> Option<Readout> {
    Some(Readout { meaning, way })
}

const SUM: Option<Readout> = read("sum", ReadoutForm::Parts(&[16, 0]));
const MEAN_OF_VALUES: Option<Readout> = read("weighted mean x 16", ReadoutForm::Leading(Dtype::I8, 4));

/// What is known of `kind`.
///
/// Costs are fitted by least squares to counts per operator (`shiftformer bench --backend qemu:...`) of three models: the
/// encoder block of 50 tokens, the bundled digits model and KWT-1. They give the total of each within 9 %; other shapes,
/// and kinds that these models lack, are estimates.
pub const fn facts(kind: OpKind) -> OpFacts {
    use Counted::{Read, Written};
    use Group::{Attention, Dense, Norm, Other};
    use Noise::{Function, SoftmaxTail, Weights};
    let (group, costs, counted, remedy, noise, readout) = match kind {
        OpKind::Linear => (Dense, LINEAR, Written, FEWER_INPUTS, Weights, SUM),
        OpKind::Conv2d => (Dense, CONV2D, Written, FEWER_INPUTS, Weights, SUM),
        OpKind::DepthwiseConv2d => (Dense, DEPTHWISE, Written, FEWER_INPUTS, Weights, SUM),
        OpKind::MatMul => {
            let sum = read("sum", ReadoutForm::Whole(Dtype::I32));
            (Dense, MATMUL, Written, "; make the summed dimension shorter", Function, sum)
        }
        OpKind::Attention => (Attention, ATTENTION, Written, NARROWER_HEADS, SoftmaxTail, MEAN_OF_VALUES),
        OpKind::LmulLinear => (Dense, LMUL, Written, FEWER_INPUTS, Function, None),
        OpKind::LookupLinear => (Dense, LOOKUP, Written, FEWER_INPUTS, Function, None),
        OpKind::LinearI16 => (Dense, LINEAR_I16, Written, FEWER_INPUTS, Weights, None),
        OpKind::Conv2dI16 => (Dense, CONV2D_I16, Written, FEWER_INPUTS, Weights, None),
        OpKind::DepthwiseConv2dI16 => (Dense, DEPTHWISE_I16, Written, FEWER_INPUTS, Weights, SUM),
        OpKind::MatMulI16 => (Dense, MATMUL_I16, Written, "; make the summed dimension shorter", Function, None),
        OpKind::MaxPoolI16 => (Other, MEANS, Read, NEAR_ONE, Function, None),
        OpKind::LutI16 => (Other, ELEMENTWISE, Written, NEAR_ONE, Function, None),
        OpKind::AttentionScores => {
            let sum = read("sum", ReadoutForm::Whole(Dtype::I32));
            (Attention, ATTENTION, Written, NARROWER_HEADS, Function, sum)
        }
        OpKind::AttentionExp => (Attention, EXPONENTIALS, Written, NARROWER_HEADS, SoftmaxTail, None),
        OpKind::AttentionValues => (Attention, ATTENTION, Written, NARROWER_HEADS, Function, MEAN_OF_VALUES),
        OpKind::Softmax => {
            let probability = read("probability x 2^15", ReadoutForm::WholeOfNarrow(Dtype::I16));
            (Attention, EXPONENTIALS, Written, NARROWER_RANGE, SoftmaxTail, probability)
        }
        OpKind::Shiftmax => {
            let probability = read("probability x 2^15", ReadoutForm::WholeOfNarrow(Dtype::U16));
            (Attention, ELEMENTWISE, Written, NARROWER_RANGE, SoftmaxTail, probability)
        }
        OpKind::LayerNorm => {
            let normalized = read("normalized value x 2^15", ReadoutForm::Parts(&[6, 0]));
            (Norm, LAYER_NORM, Written, NEAR_ONE, Function, normalized)
        }
        OpKind::ILayerNorm => {
            let remedy = "; use a smaller beta, a greater gamma or the profile `shift`";
            let normalized = read("normalized value with bias", ReadoutForm::Parts(&[40, 25, 10, 0]));
            (Norm, ELEMENTWISE, Written, remedy, Function, normalized)
        }
        OpKind::Add => (Other, ELEMENTWISE, Written, CLOSER_SCALES, Function, SUM),
        OpKind::Mul => {
            let product = read("product", ReadoutForm::Leading(Dtype::I16, 18));
            (Other, ELEMENTWISE, Written, CLOSER_SCALES, Function, product)
        }
        OpKind::Requant => {
            let centred = read("input less its zero point", ReadoutForm::Leading(Dtype::I16, 2));
            (Other, REQUANT, Written, CLOSER_SCALES, Function, centred)
        }
        OpKind::DyadicRequant => {
            let sum = read("rounded sum", ReadoutForm::Leading(Dtype::I16, 31));
            (Other, ELEMENTWISE, Written, CLOSER_SCALES, Function, sum)
        }
        OpKind::ReduceMean => (Other, MEANS, Read, TWO_STEPS, Function, SUM),
        OpKind::Pool2d => (Other, MEANS, Read, TWO_STEPS, Function, read("sum", ReadoutForm::Leading(Dtype::I8, 24))),
        // No copy of it alone is made: its keys and values are in the state.
        OpKind::CausalAttention | OpKind::WindowedAttention => {
            (Attention, ATTENTION, Written, NARROWER_HEADS, SoftmaxTail, None)
        }
        OpKind::Copy | OpKind::KvAppend | OpKind::Positions => (Other, COPY, Written, NEAR_ONE, Function, None),
        OpKind::Gather | OpKind::Embedding | OpKind::Lut | OpKind::Rope | OpKind::ShiftGelu => {
            (Other, ELEMENTWISE, Written, NEAR_ONE, Function, None)
        }
    };
    OpFacts { group, costs, counted, remedy, noise, readout }
}

/// The weights of an operator that has some.
pub fn dense(op: &Op) -> Option<&Dense> {
    match op {
        Op::Linear(linear) => Some(&linear.dense),
        Op::Conv2d(conv) => Some(&conv.dense),
        Op::DepthwiseConv2d(conv) => Some(&conv.dense),
        Op::LinearI16(op) => Some(&op.linear.dense),
        Op::Conv2dI16(op) => Some(&op.conv.dense),
        Op::DepthwiseConv2dI16(op) => Some(&op.conv.dense),
        Op::MatMul(_)
        | Op::MatMulI16(_)
        | Op::LutI16(_)
        | Op::MaxPoolI16(_)
        | Op::Attention(_)
        | Op::AttentionScores(_)
        | Op::AttentionExp(_)
        | Op::CausalAttention(_)
        | Op::WindowedAttention(_)
        | Op::KvAppend(_)
        | Op::Positions(_)
        | Op::Rope(_)
        | Op::AttentionValues(_)
        | Op::Softmax(_)
        | Op::LayerNorm(_)
        | Op::Add(_)
        | Op::Mul(_)
        | Op::Lut(_)
        | Op::Requant(_)
        | Op::Copy(_)
        | Op::Gather(_)
        | Op::LmulLinear(_)
        | Op::LookupLinear(_)
        | Op::Embedding(_)
        | Op::ReduceMean(_)
        | Op::Pool2d(_)
        | Op::DyadicRequant(_)
        | Op::Shiftmax(_)
        | Op::ShiftGelu(_)
        | Op::ILayerNorm(_) => None,
    }
}
