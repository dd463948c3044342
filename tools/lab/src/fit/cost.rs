//! Instructions per operator on a core, from counts in the emulator.

use super::boards::Core;
use shiftformer::ops::{Op, OpKind};

/// What an operator costs beside [`PER_OPERATOR`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cost {
    /// Instructions per multiplication with accumulation.
    pub per_mac: f64,
    /// Instructions per element that is written; for reductions and pooling, that is read.
    pub per_element: f64,
}

/// Instructions to enter an operator: looking up its records and parameters, and splitting the arena.
pub const PER_OPERATOR: f64 = 1500.0;

const fn cost(per_mac: f64, per_element: f64) -> Cost {
    Cost { per_mac, per_element }
}

/// Cost of an operator kind on a core.
///
/// Fitted by least squares to counts per operator (`shiftformer bench --backend qemu:...`) of three models: the encoder
/// block of 50 tokens, the bundled digits model and KWT-1. It gives the total of each within 9 %; other
/// shapes, and kinds that these models lack, are estimates. `fit --count` has the exact number for the model itself.
/// Cortex-M33 has the kernels of Cortex-M4 and its counts.
pub fn cost_of(core: Core, kind: OpKind) -> Cost {
    let [m0, dsp, mve] = match kind {
        OpKind::Linear => [cost(3.53, 65.9), cost(0.82, 9.4), cost(0.13, 4.9)],
        OpKind::Conv2d => [cost(3.45, 115.0), cost(0.78, 30.0), cost(0.14, 24.0)],
        OpKind::MatMul => [cost(6.7, 75.0), cost(1.3, 15.0), cost(0.45, 8.0)],
        OpKind::Attention | OpKind::AttentionScores | OpKind::AttentionValues => {
            [cost(4.45, 282.5), cost(0.91, 101.0), cost(0.135, 44.5)]
        }
        OpKind::DepthwiseConv2d => [cost(12.0, 40.0), cost(8.0, 30.0), cost(8.0, 30.0)],
        OpKind::AttentionExp | OpKind::Softmax => [cost(0.0, 60.0), cost(0.0, 30.0), cost(0.0, 10.0)],
        OpKind::LayerNorm => [cost(0.0, 104.7), cost(0.0, 21.6), cost(0.0, 9.6)],
        OpKind::Requant => [cost(0.0, 88.5), cost(0.0, 43.2), cost(0.0, 35.3)],
        OpKind::ReduceMean | OpKind::Pool2d => [cost(0.0, 42.2), cost(0.0, 25.5), cost(0.0, 21.6)],
        OpKind::Copy => [cost(0.0, 2.7), cost(0.0, 0.8), cost(0.0, 0.7)],
        _ => [cost(0.0, 34.1), cost(0.0, 11.8), cost(0.0, 4.0)],
    };
    match core {
        Core::M0 | Core::M0Plus | Core::M3 | Core::M23 | Core::Rv32Imac => m0,
        Core::M4 | Core::M7 | Core::M33 => dsp,
        Core::M55 => mve,
    }
}

/// Estimated instructions of one operator that reads `read` and writes `written` elements.
pub fn instructions(core: Core, op: &Op, read: usize, written: usize) -> f64 {
    let cost = cost_of(core, op.kind());
    let elements = match op.kind() {
        OpKind::ReduceMean | OpKind::Pool2d => read,
        _ => written,
    };
    PER_OPERATOR + cost.per_mac * op.macs() as f64 + cost.per_element * elements as f64
}

/// Estimated instructions that an operator adds for every further block of rows it runs in.
///
/// Attention prepares the keys and values of every head again: 15 instructions an element, counted on a Cortex-M4.
pub fn per_block(op: &Op) -> f64 {
    let again = match op {
        Op::Attention(a) => {
            let p = &a.attention;
            f64::from(p.heads) * f64::from(p.n_k) * (f64::from(p.head_dim) + f64::from(p.v_dim)) * 15.0
        }
        _ => 0.0,
    };
    PER_OPERATOR + again
}
