//! Functions of a 16-bit argument as a sum of tables, where 256 equal steps over the whole range are too coarse.
//!
//! `f(x) = f(b0) + sum_i (f(clamp(x, b_i, b_i+1)) - f(b_i))`: every segment between two borders is an 8-bit requantization
//! that saturates at its ends, and a table that is 0 at its lower end. Logarithms and reciprocals get segments that shrink
//! towards 0, scores between 0 and 1 get room beyond what the calibration samples showed.

use super::chains::{Chain, STEPS, segment_steps};
use super::view::View;
use super::{Form, LowerError, Lowering};
use crate::graph::{Binary, DataType, Node, Op, TensorId, Unary};
use crate::quantize::multiplier::multiplier;
use shiftformer::ops;
use shiftformer::tensor::Dtype;

/// Signal to noise that 256 steps have to keep by the estimate, in dB.
const ENOUGH_DB: f64 = 28.0;
/// What segments have to gain by the estimate, in dB.
const WORTH_DB: f64 = 6.0;
/// Beyond this a sigmoid or a tanh has reached its end for 16 bits.
const SATURATED: f64 = 11.0;
/// Room for values beyond those of the calibration samples, as a factor.
const HEADROOM: f64 = 1.45;
/// Segments of a function at most: each is two operators and a sum.
const MOST_SEGMENTS: usize = 24;

impl Lowering<'_> {
    /// Whether graph outputs show `id`, movement in between allowed.
    fn is_shown(&self, id: TensorId) -> bool {
        self.consumers[id].iter().any(|&reader| match self.graph.nodes.get(reader) {
            None => true,
            Some(node) => {
                matches!(node.op, Op::Transpose { .. } | Op::Reshape | Op::Slice { .. } | Op::Expand | Op::Where)
                    && self.is_shown(node.output)
            }
        })
    }

    /// Whether an output shows `id` and it is a score, whose range is known whatever the samples showed.
    pub(super) fn is_score(&self, id: TensorId) -> bool {
        let tanh = |index: usize| self.graph.nodes[index].op == Op::Unary(Unary::Tanh);
        let bounded = self.graph.is_score(&self.producers, id) || self.producers[id].is_some_and(tanh);
        bounded && self.is_shown(id)
    }

    /// The borders of the segments of a chain, ascending; `None` where one table does.
    pub(super) fn chain_borders(&self, chain: &Chain) -> Option<Vec<f64>> {
        let float = |id: TensorId| self.graph.tensors[id].dtype == DataType::Float;
        if self.is_ivit() || !float(chain.base) || !float(chain.output) || self.fixed_units(chain.base).is_some() {
            return None;
        }
        let stats = self.calibration.stats(chain.base);
        if stats.count == 0 || stats.histogram.is_empty() || stats.is_whole() || self.scalar_factor(chain).is_some() {
            return None;
        }
        let (min, max) = (f64::from(stats.min), f64::from(stats.max));
        if self.is_score(chain.output) && chain.nodes.len() == 1 {
            let top = SATURATED.max(min.abs().max(max.abs()) * HEADROOM);
            return Some(vec![-top, -top / 3.0, top / 3.0, top]);
        }
        // Smooth activations are well served by 256 steps; these change without bound near 0.
        let steep = |index: &usize| {
            let node = &self.graph.nodes[*index];
            match node.op {
                Op::Unary(Unary::Log | Unary::Reciprocal | Unary::Sqrt) | Op::Binary(Binary::Pow) => true,
                Op::Binary(Binary::Div) => self.graph.constant(node.inputs[1]).is_none(),
                _ => false,
            }
        };
        if chain.nodes.iter().any(steep) {
            return self.borders(chain.base, None, &|x| self.eval_chain(chain, x));
        }
        let periodic = |index: &usize| matches!(self.graph.nodes[*index].op, Op::Unary(Unary::Sin | Unary::Cos));
        if chain.nodes.iter().any(periodic) {
            return self.even_borders(chain.base, &|x| self.eval_chain(chain, x));
        }
        None
    }

    /// Noise of a table per segment over the signal, in dB, by what was seen of `id`.
    fn estimate(&self, id: TensorId, f: &dyn Fn(f64) -> f64, borders: &[f64]) -> f64 {
        let stats = self.calibration.stats(id);
        let step =
            |x: f64| borders.windows(2).find(|pair| x <= pair[1]).map_or(0.0, |pair| (pair[1] - pair[0]) / STEPS);
        let of_bin = |(x, n): (f64, f64)| {
            let step = step(x);
            let slope = (f(x + step / 2.0) - f(x - step / 2.0)) / step;
            let loss = if slope.is_finite() { slope * slope * step * step / 12.0 } else { f(x) * f(x) };
            n * loss
        };
        let noise: f64 = stats.bins().map(of_bin).sum();
        let signal: f64 = stats.bins().map(|(x, n)| n * f(x) * f(x)).filter(|s| s.is_finite()).sum();
        10.0 * (signal.max(1e-300) / noise.max(1e-300)).log10()
    }

    /// Even segments for a function that goes on and on, as few as keep enough.
    fn even_borders(&self, id: TensorId, f: &dyn Fn(f64) -> f64) -> Option<Vec<f64>> {
        let stats = self.calibration.stats(id);
        let reach = |limit: f32| f64::from(limit) * HEADROOM;
        let (low, high) = (reach(stats.min.min(0.0)), reach(stats.max.max(0.0)));
        let even =
            |count: usize| -> Vec<f64> { (0..=count).map(|i| low + (high - low) * i as f64 / count as f64).collect() };
        let plain = self.estimate(id, f, &[f64::from(stats.min.min(0.0)), f64::from(stats.max.max(0.0))]);
        if plain >= ENOUGH_DB {
            return None;
        }
        let good = |count: &usize| self.estimate(id, f, &even(*count)) >= ENOUGH_DB + WORTH_DB;
        let count = (2..=MOST_SEGMENTS).find(good).unwrap_or(MOST_SEGMENTS);
        (self.estimate(id, f, &even(count)) >= plain + WORTH_DB).then(|| even(count))
    }

    /// Borders for a function of `id`, where one table is estimated to lose too much and segments much less.
    /// Values below `least` need no care.
    pub(super) fn borders(&self, id: TensorId, least: Option<f64>, f: &dyn Fn(f64) -> f64) -> Option<Vec<f64>> {
        let stats = self.calibration.stats(id);
        let (min, max) = (f64::from(stats.min), f64::from(stats.max));
        let plain = self.estimate(id, f, &[min.min(0.0), max.max(0.0)]);
        if plain >= ENOUGH_DB {
            return None;
        }
        let min = least.map_or(min, |least| least.max(min));
        let top = min.abs().max(max.abs()) * HEADROOM;
        let mut borders: Vec<f64> = Vec::new();
        if min > 0.0 {
            // What the samples did not show below their minimum is rare; 0 itself may be a pole.
            borders.push(min / 2.0);
            let ratio = (top / (min / 2.0)).powf(1.0 / (top / (min / 2.0)).log(8.0).ceil().clamp(1.0, 5.0));
            while borders.len() < 6 && borders[borders.len() - 1] * ratio < top * 0.99 {
                borders.push(borders[borders.len() - 1] * ratio);
            }
            borders.push(top);
        } else {
            for part in [64.0, 8.0, 1.0] {
                borders.push(top / part);
                borders.push(-top / part);
            }
            borders.sort_by(f64::total_cmp);
        }
        (self.estimate(id, f, &borders) >= plain + WORTH_DB).then_some(borders)
    }

    /// A chain in segments.
    pub(super) fn segmented_chain(&mut self, chain: &Chain, node: &Node, borders: &[f64]) -> Result<(), LowerError> {
        let x = self.get(chain.base, Form::Wide)?;
        let x = self.contiguous(&x, &node.name)?;
        let scale = self.wide_scale(chain.output);
        let values: Vec<Vec<f64>> = (0..borders.len() - 1)
            .map(|i| segment_steps(borders, i).map(|v| self.eval_chain(chain, v)).collect())
            .collect();
        let to = self.output(chain.output, Dtype::I16, scale, 0.0);
        self.emit_segments(&node.name, &x, borders, &values, to)
    }

    /// Emits a function of the whole 16-bit tensor `x`, `values` at the 256 steps of every segment, into `to`.
    pub(super) fn emit_segments(
        &mut self,
        name: &str,
        x: &View,
        borders: &[f64],
        values: &[Vec<f64>],
        to: usize,
    ) -> Result<(), LowerError> {
        let (scale, shape) = (self.program.tensors[to].scale, x.shape.clone());
        let most = 32767.0 * scale;
        let clamp = |v: f64| if v.is_nan() { 0.0 } else { v.clamp(-most, most) };
        let mut sum: Option<View> = None;
        for (index, values) in values.iter().enumerate() {
            let (low, high) = (borders[index], borders[index + 1]);
            let step = (high - low) / STEPS;
            // The table's entry 128 stands for the middle.
            let middle = ((low + 128.0 * step) / x.scale).round();
            let part_name = format!("{name}/segment{index}");
            let near = self.new_tensor(&part_name, Dtype::I8, &shape, step, 0.0, None);
            let (acc_shift, factor) = multiplier(x.scale / step);
            let op = ops::requant::Requant {
                len: x.len() as u32,
                zero_in: middle.clamp(-32768.0, 32767.0) as i32,
                acc_shift,
                multiplier: factor,
                zero_out: 0,
            };
            self.push(&part_name, ops::Op::Requant(op), &[Some(x.tensor)], near);
            let first = if index == 0 { 0.0 } else { clamp(values[0]) };
            let entries: Vec<f64> = values.iter().map(|&v| clamp(v) - first).collect();
            let reach = entries.iter().fold(0.0f64, |m, v| m.max(v.abs())) / 32767.0;
            let part_scale = if reach > scale { reach } else { scale };
            let table: Vec<i16> = entries.iter().map(|v| (v / part_scale).round() as i16).collect();
            let table = self.program.weights.add_i16(&table);
            let last = index + 2 == borders.len();
            let alone = last && sum.is_none();
            let part = if alone { to } else { self.new_tensor(&part_name, Dtype::I16, &shape, part_scale, 0.0, None) };
            let op = ops::lut::Lut { len: x.len() as u32, table };
            self.push(&part_name, ops::Op::Lut(op), &[Some(near)], part);
            let part = View::whole(part, &shape, part_scale, 0.0);
            sum = Some(match sum {
                None => part,
                Some(before) => {
                    let total =
                        if last { to } else { self.new_tensor(&part_name, Dtype::I16, &shape, scale, 0.0, None) };
                    self.emit_sum(&format!("{part_name}/sum"), [(&before, 1.0), (&part, 1.0)], total)?;
                    View::whole(total, &shape, scale, 0.0)
                }
            });
        }
        Ok(())
    }
}
