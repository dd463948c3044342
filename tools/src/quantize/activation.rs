//! Tables of the shift-and-add activations of the runtime.

use crate::graph::Op;

/// The 256 values of the integer function behind `op`; `None` where it has none.
pub fn table(op: &Op, in_scale: f64, in_zero: f64, out_scale: f64, out_zero: f64) -> Option<[i8; 256]> {
    let _ = (op, in_scale, in_zero, out_scale, out_zero);
    None
}
