//! Which values of a tensor matter: a masked score may be any number far below the others.
//!
//! Masks are written with -inf, the smallest `f32`, -1e9 or -1e4. Behind a softmax all of them say "not this one", and so does
//! any value some 20 nats below the maximum of its row. Ranges are cut there, so that the steps belong to the scores.

use crate::calibrate::Calibration;
use crate::graph::{Binary, Graph, Node, Op, Reduce, TensorId, Unary};

/// Everything at or below `low` has the effect of `low`, everything at or above `high` that of `high`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Limits {
    /// Negative infinity where all small values matter.
    pub low: f64,
    /// Infinity where all large values matter.
    pub high: f64,
}

/// exp(-20) is a sixteenth of half a step of 16-bit probabilities.
const MASKED_NATS: f64 = 20.0;
/// Biases of attention are kept in log2 units with 8 fractional bits in an `i16`: 88.7 nats.
const BIAS_NATS: f64 = 88.7;
/// A sum of at most this is that of a hidden key.
const HIDING: f32 = -2000.0;
/// Beside numbers below this the steps of single precision are a sixteenth and more: scores are lost in them.
const ABSORBING: f32 = -1e6;
/// Room for values beyond those of the calibration samples, as a factor.
const HEADROOM: f64 = 1.5;

impl Limits {
    /// All values matter.
    pub const NONE: Self = Self { low: f64::NEG_INFINITY, high: f64::INFINITY };
    /// No reader yet.
    const UNREAD: Self = Self { low: f64::INFINITY, high: f64::NEG_INFINITY };

    /// Limits that hold for two readers.
    fn join(self, other: Self) -> Self {
        Self { low: self.low.min(other.low), high: self.high.max(other.high) }
    }

    /// Limits of `x` where these are the limits of `x * factor`.
    fn divided(self, factor: f64) -> Self {
        if factor > 0.0 {
            Self { low: self.low / factor, high: self.high / factor }
        } else if factor < 0.0 {
            Self { low: self.high / factor, high: self.low / factor }
        } else {
            Self::NONE
        }
    }

    /// Limits of `x` where these are the limits of `x + other`, `other` being in `range`.
    fn less(self, range: (f64, f64)) -> Self {
        Self { low: self.low - range.1, high: self.high - range.0 }
    }

    /// `x` within the limits.
    pub fn clamp(self, x: f64) -> f64 {
        x.max(self.low).min(self.high)
    }
}

/// The limits of every tensor of `graph`.
pub(super) fn limits(graph: &Graph, calibration: &Calibration) -> Vec<Limits> {
    let mut limits = vec![Limits::UNREAD; graph.tensors.len()];
    for &output in &graph.outputs {
        limits[output] = Limits::NONE;
    }
    for node in graph.nodes.iter().rev() {
        let out = limits[node.output];
        // What nobody reads is not computed.
        let out = if out == Limits::UNREAD { Limits::NONE } else { out };
        for (operand, &id) in node.inputs.iter().enumerate() {
            let of_reader = reader(graph, calibration, node, operand, out);
            limits[id] = limits[id].join(of_reader);
        }
    }
    for node in graph.nodes.iter().filter(|node| node.op == Op::Softmax) {
        limits[node.inputs[0]].low -= spread_beside_mask(graph, calibration, node.inputs[0]);
    }
    for tensor in &mut limits {
        if tensor.low.is_nan() || tensor.high.is_nan() || tensor.low >= tensor.high {
            *tensor = Limits::NONE;
        }
    }
    limits
}

/// How far apart the scores in a row of nothing but hidden keys are. Beside a mask of -1e4 single precision still tells them
/// apart, and the softmax of such a row is that of its scores; beside -1e9 they are all the same.
fn spread_beside_mask(graph: &Graph, calibration: &Calibration, argument: TensorId) -> f64 {
    let sum = graph.nodes.iter().find(|node| node.output == argument && node.op == Op::Binary(Binary::Add));
    let Some(&[a, b]) = sum.map(|node| &node.inputs[..]) else { return 0.0 };
    let least = |id: TensorId| match graph.constant(id) {
        Some(data) => data.to_f32().into_iter().fold(0.0, f32::min),
        None => calibration.stats(id).min,
    };
    let masks = |id: TensorId| (ABSORBING..=HIDING).contains(&least(id));
    let scores = match (masks(a), masks(b)) {
        (false, true) => a,
        (true, false) => b,
        _ => return 0.0,
    };
    let (low, high) = range(graph, calibration, scores);
    high - low
}

/// Limits of operand `operand` of `node`, whose result has the limits `out`.
fn reader(graph: &Graph, calibration: &Calibration, node: &Node, operand: usize, out: Limits) -> Limits {
    let other = || node.inputs.get(1 - operand.min(1)).copied();
    let scalar = |id: TensorId| {
        let value = graph.constant(id).filter(|data| data.len() == 1)?;
        value.to_f32().first().map(|&v| f64::from(v))
    };
    match &node.op {
        Op::Softmax => match f64::from(calibration.stats(node.inputs[0]).min_peak) {
            peak if peak.is_finite() => Limits { low: peak - MASKED_NATS - peak.abs() / 2.0, ..Limits::NONE },
            _ => Limits::NONE,
        },
        Op::Attention(_) if operand >= 3 => Limits { low: -BIAS_NATS, ..Limits::NONE },
        Op::Transpose { .. }
        | Op::Reshape
        | Op::Slice { .. }
        | Op::Concat { .. }
        | Op::Expand
        | Op::Pad { .. }
        | Op::FakeQuant(_) => out,
        Op::Gather { .. } if operand == 0 => out,
        Op::Where if operand > 0 => out,
        Op::Binary(Binary::Add) => match other() {
            Some(id) if id != node.inputs[operand] => out.less(range(graph, calibration, id)),
            _ => Limits::NONE,
        },
        Op::Binary(Binary::Sub) => match (other(), operand) {
            (Some(id), 0) => {
                let (low, high) = range(graph, calibration, id);
                out.less((-high, -low))
            }
            (Some(id), 1) => {
                let difference = out.less(range(graph, calibration, id));
                difference.divided(-1.0)
            }
            _ => Limits::NONE,
        },
        Op::Binary(Binary::Mul) => other().and_then(scalar).map_or(Limits::NONE, |factor| out.divided(factor)),
        Op::Binary(Binary::Div) if operand == 0 => {
            other().and_then(scalar).map_or(Limits::NONE, |divisor| out.divided(1.0 / divisor))
        }
        // A larger operand hides what lies below its least value.
        Op::Binary(Binary::Max) => match other() {
            Some(id) => Limits { low: out.low.max(range(graph, calibration, id).0), high: out.high },
            None => Limits::NONE,
        },
        Op::Binary(Binary::Min) => match other() {
            Some(id) => Limits { low: out.low, high: out.high.min(range(graph, calibration, id).1) },
            None => Limits::NONE,
        },
        Op::Reduce { kind: Reduce::Max, .. } | Op::MaxPool(_) => {
            let min = f64::from(calibration.stats(node.output).min);
            Limits { low: out.low.max(min - HEADROOM * min.abs().max(1.0)), high: out.high }
        }
        Op::Reduce { kind: Reduce::Min, .. } => {
            let most = f64::from(calibration.stats(node.output).max);
            Limits { low: out.low, high: out.high.min(most + HEADROOM * most.abs().max(1.0)) }
        }
        Op::Unary(Unary::Neg) => out.divided(-1.0),
        Op::Unary(Unary::Clip { low, high }) => {
            Limits { low: out.low.max(f64::from(*low)), high: out.high.min(f64::from(*high)) }
        }
        Op::Linear
        | Op::MatMul { .. }
        | Op::Conv2d(_)
        | Op::AveragePool { .. }
        | Op::LayerNorm { .. }
        | Op::RmsNorm { .. }
        | Op::Unary(_)
        | Op::Binary(_)
        | Op::Where
        | Op::Gather { .. }
        | Op::Reduce { .. }
        | Op::Attention(_)
        | Op::Rope(_)
        | Op::Lookup(_)
        | Op::Positions => Limits::NONE,
    }
}

/// The values an operand may take, with room for what the samples did not show.
fn range(graph: &Graph, calibration: &Calibration, id: TensorId) -> (f64, f64) {
    if let Some(data) = graph.constant(id) {
        let finite = data.to_f32().into_iter().filter(|v| v.is_finite()).map(f64::from);
        return finite.fold((0.0, 0.0), |(low, high), v| (v.min(low), v.max(high)));
    }
    let stats = calibration.stats(id);
    if stats.count == 0 {
        return (f64::NEG_INFINITY, f64::INFINITY);
    }
    (f64::from(stats.min).min(0.0) * HEADROOM, f64::from(stats.max).max(0.0) * HEADROOM)
}
