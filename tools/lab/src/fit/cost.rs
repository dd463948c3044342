//! Instructions per operator on a core, from counts in the emulator.

use super::boards::Core;
use shiftformer::ops::{Op, OpKind};
use shiftformer_convert::lower::facts::{Cost, Counted, facts};

/// Instructions to enter an operator: looking up its records and parameters, and splitting the arena.
pub const PER_OPERATOR: f64 = 1500.0;

/// Cost of an operator kind on a core. Cortex-M33 has the kernels of Cortex-M4 and its counts.
pub fn cost_of(core: Core, kind: OpKind) -> Cost {
    let costs = facts(kind).costs;
    match core {
        Core::M0 | Core::M0Plus | Core::M3 | Core::M23 | Core::Rv32Imc | Core::Rv32Imac => costs.plain,
        Core::M4 | Core::M7 | Core::M33 => costs.dsp,
        Core::M55 => costs.mve,
    }
}

/// Estimated instructions of one operator that reads `read` and writes `written` elements.
pub fn instructions(core: Core, op: &Op, read: usize, written: usize) -> f64 {
    let cost = cost_of(core, op.kind());
    let elements = match facts(op.kind()).counted {
        Counted::Read => read,
        Counted::Written => written,
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
