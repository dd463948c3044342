//! Rounding to whole numbers: Floor, Ceil, Round, casts to integers, division of whole numbers.
//!
//! Where the value changes is a matter of single steps of the argument, so that it is taken in 16 bits: a sum whose shift
//! rounds down. Values within half a step of a whole number are that number.

use super::chains::Chain;
use super::view::{View, collapse, normalize};
use super::{Form, LowerError, Lowering};
use crate::graph::{Binary, DataType, Node, Op, Unary};
use shiftformer::ops;
use shiftformer::tensor::Dtype;

/// Which whole number a value becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rounding {
    Down,
    Up,
    Nearest,
    TowardsZero,
}

/// What a step function does: rounding of its operand times a factor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Step {
    rounding: Rounding,
    factor: f64,
}

/// Room for values beyond those of the calibration samples, as a factor.
const HEADROOM: f64 = 1.4;

impl Lowering<'_> {
    /// Node `index` as a rounding of its first operand.
    pub(super) fn step(&self, index: usize) -> Option<Step> {
        let node = &self.graph.nodes[index];
        let dtype = |id: usize| self.graph.tensors[id].dtype;
        let plain = |rounding| Some(Step { rounding, factor: 1.0 });
        match node.op {
            Op::Unary(Unary::Floor) => plain(Rounding::Down),
            Op::Unary(Unary::Ceil) => plain(Rounding::Up),
            Op::Unary(Unary::Round) => plain(Rounding::Nearest),
            Op::Unary(Unary::Trunc) => plain(Rounding::TowardsZero),
            Op::Unary(Unary::Cast) if dtype(node.output) == DataType::Int => (dtype(node.inputs[0]) == DataType::Float)
                .then_some(Step { rounding: Rounding::TowardsZero, factor: 1.0 }),
            Op::Binary(Binary::Div) if dtype(node.output) == DataType::Int && !self.is_constant(node.inputs[0]) => {
                let divisor = self.graph.constant(node.inputs[1]).filter(|data| data.len() == 1)?;
                let divisor = f64::from(*divisor.to_f32().first()?);
                (divisor >= 1.0).then_some(Step { rounding: Rounding::TowardsZero, factor: 1.0 / divisor })
            }
            _ => None,
        }
    }

    /// Lowers a chain that is one rounding; `false` where it is something else or beyond 16 bits.
    pub(super) fn whole_steps(&mut self, chain: &Chain) -> Result<bool, LowerError> {
        let &[only] = &chain.nodes[..] else { return Ok(false) };
        let Some(Step { rounding, factor }) = self.step(only) else { return Ok(false) };
        let (min, max) = self.useful_range(chain.output);
        let forms = &self.forms[chain.base];
        if max.max(-min) * HEADROOM >= 32767.0 || forms.narrow.is_none() && forms.wide.is_none() {
            return Ok(false);
        }
        let node = &self.graph.nodes[only];
        let x = self.get(chain.base, Form::Wide)?;
        let x = self.contiguous(&x, &node.name)?;
        let x = View { scale: x.scale * factor, ..x };
        if x.scale == 1.0 && x.zero == 0.0 {
            self.set(chain.output, x);
            return Ok(true);
        }
        let (low, _) = self.useful_range(chain.base);
        let rounding = match rounding {
            Rounding::TowardsZero if low >= 0.0 => Rounding::Down,
            other => other,
        };
        let to = self.output(chain.output, Dtype::I16, 1.0, 0.0);
        if rounding != Rounding::TowardsZero {
            return self.emit_rounding(&node.name, &x, rounding, to);
        }
        // What lies above 0 is rounded down, what lies below up; both parts saturate at 0.
        let mut parts = Vec::new();
        for (zero, rounding, what) in [(-32768.0, Rounding::Down, "above"), (32767.0, Rounding::Up, "below")] {
            let name = format!("{}/{what}", node.name);
            let part = self.new_tensor(&name, Dtype::I16, &x.shape, x.scale, zero, None);
            self.requant(&x, part);
            let part = View::whole(part, &x.shape, x.scale, zero);
            let rounded = self.new_tensor(&name, Dtype::I16, &x.shape, 1.0, 0.0, None);
            if !self.emit_rounding(&name, &part, rounding, rounded)? {
                return Ok(false);
            }
            parts.push(View::whole(rounded, &x.shape, 1.0, 0.0));
        }
        self.emit_sum(&node.name, [(&parts[0], 1.0), (&parts[1], 1.0)], to)?;
        Ok(true)
    }

    /// Emits the rounding of the whole tensor `x` into `to`, whose scale is 1; `false` where 32 bits do not hold it.
    fn emit_rounding(&mut self, name: &str, x: &View, rounding: Rounding, to: usize) -> Result<bool, LowerError> {
        let (dims, extents) = collapse(&x.shape, &[x, x]).ok_or_else(|| LowerError::Rank(name.to_owned()))?;
        let terms = |shift: i32| {
            let one = 2f64.powi(shift);
            let factor = (x.scale * one).round();
            let half_step = (factor / 2.0).round();
            let bias = match rounding {
                Rounding::Down | Rounding::TowardsZero => half_step,
                // ceil(x - h) = floor(x + 1 - h).
                Rounding::Up => one - half_step,
                Rounding::Nearest => (one / 2.0).floor(),
            };
            (factor, bias - x.zero * factor)
        };
        let fits = |&shift: &i32| {
            let (factor, bias) = terms(shift);
            factor * 32768.0 + bias.abs() < 2_147_483_000.0
        };
        let Some(shift) = (0..=30).rev().find(fits) else { return Ok(false) };
        let (factor, bias) = terms(shift);
        let (a, b) = (normalize(&dims, &extents[0]), normalize(&dims, &extents[1]));
        let op = ops::add::Add { dims, a, b, ma: factor as i32, mb: 0, bias: bias as i32, shift: shift as u32 };
        self.push(name, ops::Op::Add(op), &[Some(x.tensor), Some(x.tensor)], to);
        Ok(true)
    }

    /// Whether `node` changes by steps of its operand, so that the operand is wanted in 16 bits.
    pub(super) fn is_step_like(&self, index: usize, node: &Node) -> bool {
        self.step(index).is_some() || node.op == Op::Unary(Unary::Sign)
    }
}
