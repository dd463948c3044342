//! Tables of the shift-and-add activations of the runtime, see [`shiftformer::arith::activation`].

use crate::graph::{Op, Unary};
use shiftformer::arith::activation::{ARGUMENT_BITS, Activation, ActivationTable, MAX_ARGUMENT, VALUE_BITS};

/// Minimum scales for which the integer function is within one step: below, the 24 bits of the argument and the error of the
/// function are no longer small against a step.
const LEAST_SCALE: f64 = 1.0 / 16384.0;

/// The 256 values of the integer function behind `op`, from `q = -128`; `None` where it has none, or where the scales are
/// outside the range in which it is within one step of the correctly rounded function.
pub fn table(op: &Op, in_scale: f64, in_zero: f64, out_scale: f64, out_zero: f64) -> Option<[i8; 256]> {
    let Op::Unary(kind) = op else { return None };
    let activation = match kind {
        Unary::Gelu { tanh: false } => Activation::Gelu,
        Unary::Gelu { tanh: true } => Activation::GeluTanh,
        Unary::QuickGelu => Activation::QuickGelu,
        Unary::Silu => Activation::Silu,
        Unary::Sigmoid => Activation::Sigmoid,
        Unary::Tanh => Activation::Tanh,
        _ => return None,
    };
    let reach = (128.0 + in_zero.abs()) * in_scale;
    let zero_is_whole = out_zero.fract() == 0.0 && out_zero.abs() <= 32768.0;
    let sane = in_scale >= LEAST_SCALE && (LEAST_SCALE..=1e6).contains(&out_scale) && zero_is_whole;
    if !sane || reach > MAX_ARGUMENT as f64 {
        return None;
    }
    let argument = |x: f64| (x * 2f64.powi(ARGUMENT_BITS as i32)).round() as i64;
    let ratio = 2f64.powi(-(VALUE_BITS as i32)) / out_scale;
    // 31 bits of the ratio: the product with a value of 31 bits stays below 2^62.
    let shift = 30 - ratio.log2().floor() as i32;
    let multiplier = (ratio * 2f64.powi(shift)).round() as i64;
    let table = ActivationTable {
        activation,
        step: argument(in_scale),
        offset: argument(in_zero * in_scale),
        multiplier,
        shift: u32::try_from(shift).ok().filter(|shift| (1..=62).contains(shift))?,
        zero_point: out_zero as i32,
    };
    Some(table.values())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::exec::eval_scalar;
    use proptest::prelude::*;

    const KINDS: [Unary; 6] = [
        Unary::Gelu { tanh: false },
        Unary::Gelu { tanh: true },
        Unary::QuickGelu,
        Unary::Silu,
        Unary::Sigmoid,
        Unary::Tanh,
    ];

    /// Maximum distance of the table from the correctly rounded function.
    fn worst(op: &Op, scale: f64, zero: f64, out_scale: f64, out_zero: f64) -> f64 {
        let values = table(op, scale, zero, out_scale, out_zero).unwrap();
        let distance = |(q, y): (i32, i8)| {
            let exact = eval_scalar(op, &[(f64::from(q) - zero) * scale]) / out_scale + out_zero;
            (f64::from(y) - exact.round().clamp(-128.0, 127.0)).abs()
        };
        (-128..128).zip(values).map(distance).fold(0.0, f64::max)
    }

    proptest! {
        #[test]
        fn tables_are_within_one_step(
            kind in 0usize..6,
            scale in -8.0f64..-1.0,
            out_scale in -9.0f64..0.0,
            zero in -300.0f64..300.0,
            out_zero in -128i32..128,
        ) {
            let op = Op::Unary(KINDS[kind]);
            let (scale, out_scale) = (scale.exp2(), out_scale.exp2());
            prop_assert!(worst(&op, scale, zero, out_scale, f64::from(out_zero)) <= 1.0);
        }
    }

    #[test]
    fn scales_out_of_range_have_no_table() {
        let op = Op::Unary(Unary::Silu);
        assert!(table(&op, 4.1, 0.0, 1.0, 0.0).is_none());
        assert!(table(&op, 1e-6, 0.0, 1.0, 0.0).is_none());
        assert!(table(&op, f64::NAN, 0.0, 1.0, 0.0).is_none());
        assert!(table(&op, 0.1, 0.0, f64::NAN, 0.0).is_none());
        assert!(table(&Op::Unary(Unary::Relu), 0.1, 0.0, 0.1, 0.0).is_none());
    }
}
