//! Instructions per operator on a core, from counts in the emulator.

use super::boards::Core;
use shiftformer::ops::{Op, OpKind};

/// `instructions = fixed + per_mac * macs + per_element * output elements`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cost {
    /// Per multiplication with accumulation.
    pub per_mac: f64,
    /// Per element written.
    pub per_element: f64,
}

/// Instructions to enter an operator: decoding its record and splitting the arena.
pub const PER_OPERATOR: f64 = 600.0;

const fn cost(per_mac: f64, per_element: f64) -> Cost {
    Cost { per_mac, per_element }
}

/// Cost of an operator kind on a core.
///
/// Fitted to counts of the encoder block of 50 tokens and the bundled digits model (`shiftformer bench --backend
/// qemu:...` prints them per operator): an estimate for other shapes, good to a factor of about 1.5. `shiftformer bench`
/// gives the exact number for the model itself.
pub fn cost_of(core: Core, kind: OpKind) -> Cost {
    let [m0, dsp, mve] = match kind {
        OpKind::Linear | OpKind::Conv2d => [cost(4.6, 40.0), cost(0.85, 8.0), cost(0.15, 4.0)],
        OpKind::MatMul => [cost(5.0, 40.0), cost(1.2, 10.0), cost(0.3, 6.0)],
        OpKind::Attention | OpKind::AttentionScores | OpKind::AttentionValues => {
            [cost(7.0, 60.0), cost(2.2, 20.0), cost(0.6, 8.0)]
        }
        OpKind::DepthwiseConv2d => [cost(12.0, 40.0), cost(8.0, 30.0), cost(8.0, 30.0)],
        OpKind::AttentionExp | OpKind::Softmax => [cost(0.0, 60.0), cost(0.0, 30.0), cost(0.0, 10.0)],
        OpKind::LayerNorm => [cost(0.0, 60.0), cost(0.0, 22.0), cost(0.0, 6.0)],
        _ => [cost(1.0, 20.0), cost(1.0, 10.0), cost(1.0, 5.0)],
    };
    match core {
        Core::M0 | Core::M0Plus => m0,
        Core::M4 | Core::M7 | Core::M33 => dsp,
        Core::M55 => mve,
    }
}

/// Estimated instructions of one operator that writes `elements` elements.
pub fn instructions(core: Core, op: &Op, elements: usize) -> f64 {
    let cost = cost_of(core, op.kind());
    PER_OPERATOR + cost.per_mac * op.macs() as f64 + cost.per_element * elements as f64
}
