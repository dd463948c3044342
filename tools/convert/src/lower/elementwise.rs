//! Elementwise functions: tables of one 8-bit tensor, sums, products, softmax, normalization.

use super::view::{View, collapse, normalize};
use super::{Form, LowerError, Lowering};
use crate::graph::exec::eval_scalar;
use crate::graph::{Binary, Node, Op, TensorId, Unary};
use crate::quantize::multiplier::multiplier;
use crate::quantize::range::least;
use shiftformer::arith::norm;
use shiftformer::format::Profile;
use shiftformer::ops::{self, Extent};
use shiftformer::tensor::Dtype;

/// Elementwise nodes that together are one function of one tensor.
#[derive(Clone, Debug)]
pub(super) struct Chain {
    /// The argument.
    pub base: TensorId,
    /// Nodes in order.
    pub nodes: Vec<usize>,
    /// The value.
    pub output: TensorId,
}

impl Lowering<'_> {
    /// The one computed operand of a node that is a function of it alone: all others are scalar constants.
    fn elementwise_argument(&self, node: &Node) -> Option<TensorId> {
        if !matches!(node.op, Op::Unary(_) | Op::Binary(_) | Op::Where) {
            return None;
        }
        let mut argument = None;
        for &input in &node.inputs {
            let tensor = &self.graph.tensors[input];
            if tensor.value.is_some() {
                if tensor.len() != 1 {
                    return None;
                }
            } else if argument.is_some_and(|a| a != input) {
                return None;
            } else {
                argument = Some(input);
            }
        }
        argument
    }

    /// Finds maximal chains; their inner nodes are absorbed.
    pub(super) fn find_chains(&mut self) {
        let mut start_of: Vec<Option<usize>> = vec![None; self.graph.nodes.len()];
        let mut chains: Vec<Chain> = Vec::new();
        for (index, node) in self.graph.nodes.iter().enumerate() {
            let Some(argument) = self.elementwise_argument(node) else { continue };
            let before = self.producers[argument]
                .filter(|_| self.consumers[argument].iter().all(|&c| c == index))
                .and_then(|producer| start_of[producer]);
            match before {
                Some(chain) => {
                    let previous = *chains[chain].nodes.last().unwrap_or(&index);
                    self.absorbed[previous] = true;
                    chains[chain].nodes.push(index);
                    chains[chain].output = node.output;
                    start_of[index] = Some(chain);
                }
                None => {
                    chains.push(Chain { base: argument, nodes: vec![index], output: node.output });
                    start_of[index] = Some(chains.len() - 1);
                }
            }
        }
        for chain in chains {
            if let Some(&last) = chain.nodes.last() {
                self.chains.insert(last, chain);
            }
        }
    }

    /// Value of a chain for one argument.
    pub(super) fn eval_chain(&self, chain: &Chain, x: f64) -> f64 {
        let mut value = x;
        let mut argument = chain.base;
        for &index in &chain.nodes {
            let node = &self.graph.nodes[index];
            let operands: Vec<f64> = node
                .inputs
                .iter()
                .map(|&input| match self.graph.constant(input) {
                    Some(data) if input != argument => data.to_f32().first().map_or(0.0, |&v| f64::from(v)),
                    _ => value,
                })
                .collect();
            value = eval_scalar(&node.op, &operands);
            argument = node.output;
        }
        value
    }

    /// Positive factor of a chain of multiplications and divisions by positive scalars.
    pub(super) fn scalar_factor(&self, chain: &Chain) -> Option<f64> {
        let mut argument = chain.base;
        let mut factor = 1.0;
        for &index in &chain.nodes {
            let node = &self.graph.nodes[index];
            let constant = |i: usize| Some(f64::from(*self.graph.constant(*node.inputs.get(i)?)?.to_f32().first()?));
            factor *= match node.op {
                Op::Binary(Binary::Mul) if node.inputs[0] == argument => constant(1)?,
                Op::Binary(Binary::Mul) => constant(0)?,
                Op::Binary(Binary::Div) if node.inputs[0] == argument => 1.0 / constant(1)?,
                Op::Unary(Unary::Cast) => 1.0,
                _ => return None,
            };
            argument = node.output;
        }
        (factor > 0.0 && factor.is_finite()).then_some(factor)
    }

    /// Units of a chain's result in 8 bits, from the values the table can take over the argument's calibrated range.
    fn chain_units(&mut self, chain: &Chain) -> (f64, f64) {
        let asymmetric = self.asymmetric(chain.output);
        self.narrow_units(chain.output, asymmetric)
    }

    pub(super) fn chain(&mut self, chain: &Chain) -> Result<(), LowerError> {
        if let Some(factor) = self.scalar_factor(chain) {
            let forms = self.forms[chain.base].clone();
            let shape = self.graph.shape(chain.output).to_vec();
            for view in [forms.narrow, forms.wide].into_iter().flatten() {
                if let Some(view) = view.reshape(&shape) {
                    self.set(chain.output, View { scale: view.scale * factor, ..view });
                }
            }
            if self.forms[chain.output].narrow.is_some() || self.forms[chain.output].wide.is_some() {
                return Ok(());
            }
        }
        let linear = self.producers[chain.base]
            .filter(|&p| matches!(self.graph.nodes[p].op, Op::Linear | Op::Conv2d(_)) && self.absorbed[p]);
        if let Some(linear) = linear {
            return self.linear_with_table(linear, chain);
        }
        if self.shift_gelu(chain)? {
            return Ok(());
        }
        let input = self.get(chain.base, Form::Narrow)?;
        let node = &self.graph.nodes[*chain.nodes.last().unwrap_or(&0)];
        let input = self.contiguous(&input, &node.name)?;
        let dtype = self.preferred(chain.output);
        let (scale, zero) = match dtype {
            Dtype::I8 => self.chain_units(chain),
            _ => (self.wide_scale(chain.output), 0.0),
        };
        let to = self.output(chain.output, dtype, scale, zero);
        let table = self.table(chain, &input, dtype, scale, zero);
        let op = ops::lut::Lut { len: input.len() as u32, table };
        self.push(&node.name, ops::Op::Lut(op), &[Some(input.tensor)], to);
        Ok(())
    }

    /// The 256 values of a chain, as a blob.
    pub(super) fn table(
        &mut self,
        chain: &Chain,
        input: &View,
        dtype: Dtype,
        scale: f64,
        zero: f64,
    ) -> shiftformer::format::Blob {
        let (low, high) = dtype.range();
        let integer = self.integer_table(chain, input, scale, zero).filter(|_| dtype == Dtype::I8);
        let values: Vec<i32> = match integer {
            Some(table) => table.into_iter().map(i32::from).collect(),
            None => (-128..=127)
                .map(|q| {
                    let y = self.eval_chain(chain, (f64::from(q) - input.zero) * input.scale);
                    let y = if y.is_nan() { 0.0 } else { y };
                    (y / scale + zero).round().clamp(f64::from(low), f64::from(high)) as i32
                })
                .collect(),
        };
        if dtype == Dtype::I8 {
            let values: Vec<i8> = values.iter().map(|&v| v as i8).collect();
            self.program.weights.add_i8(&values)
        } else {
            let values: Vec<i16> = values.iter().map(|&v| v as i16).collect();
            self.program.weights.add_i16(&values)
        }
    }

    /// Under the shift profile: the values of the shift-and-add function, where the chain is one of them.
    fn integer_table(&self, chain: &Chain, input: &View, scale: f64, zero: f64) -> Option<[i8; 256]> {
        if self.options.profile != Profile::Shift || chain.nodes.len() != 1 {
            return None;
        }
        crate::quantize::activation::table(&self.graph.nodes[chain.nodes[0]].op, input.scale, input.zero, scale, zero)
    }

    /// The range of a table's argument that gives the least error of its value.
    pub(super) fn argument_units(&mut self, chain: &Chain) -> (f64, f64) {
        if let Some(units) = self.fixed_units(chain.base) {
            return units;
        }
        let stats = self.calibration.stats(chain.base);
        let (min, max) = (f64::from(stats.min), f64::from(stats.max));
        let bins: Vec<(f64, f64)> = stats.bins().collect();
        if bins.is_empty() || min >= max {
            return self.narrow_units(chain.base, true);
        }
        // A quarter of the bins is plenty to tell ranges apart.
        let coarse: Vec<(f64, f64)> = bins
            .chunks(4)
            .map(|c| {
                let n: f64 = c.iter().map(|b| b.1).sum();
                (c.iter().map(|b| b.0 * b.1).sum::<f64>() / n, n)
            })
            .collect();
        let exact: Vec<f64> = coarse.iter().map(|&(x, _)| self.eval_chain(chain, x)).collect();
        let cost = |low: f64, high: f64| -> f64 {
            let step = (high - low) / 255.0;
            coarse
                .iter()
                .zip(&exact)
                .map(|(&(x, n), &y)| {
                    let inside = x.clamp(low, high);
                    let clipped = self.eval_chain(chain, inside) - y;
                    // The rounding noise of the argument seen through the slope of the function.
                    let slope = (self.eval_chain(chain, inside + step / 2.0)
                        - self.eval_chain(chain, inside - step / 2.0))
                        / step;
                    n * (clipped * clipped + slope * slope * step * step / 12.0)
                })
                .sum()
        };
        let cuts = || (0..20).map(|i| 1.0 - f64::from(i) / 22.0);
        let (mut low, mut high) = (min, max);
        for _ in 0..2 {
            high = least(cuts().map(|c| if max > 0.0 { max * c } else { max }), |&h| {
                if h > low { cost(low, h) } else { f64::MAX }
            })
            .unwrap_or(high);
            low = least(cuts().map(|c| if min < 0.0 { min * c } else { min }), |&l| {
                if l < high { cost(l, high) } else { f64::MAX }
            })
            .unwrap_or(low);
        }
        let scale = (high - low) / 255.0;
        let zero = (-128.0 - low / scale).round();
        self.sane(chain.base, (scale, zero.clamp(-32768.0, 32767.0)))
    }

    pub(super) fn binary(&mut self, node: &Node, kind: Binary) -> Result<(), LowerError> {
        match kind {
            Binary::Add | Binary::Sub | Binary::Mul => {}
            // Flags are 0 and 1: both is their product, either their saturated sum.
            Binary::And => return self.binary(node, Binary::Mul),
            Binary::Or => return self.either(node),
            Binary::Div => {
                // Division by a constant tensor is a product; by a computed one it has no single rounding.
                return Err(self.unsupported(node, "division by a computed tensor; use a product with its reciprocal"));
            }
            _ => {
                return Err(
                    self.unsupported(node, "between two tensors only Add, Sub, Mul, And and Or have an integer form")
                );
            }
        }
        let shape = self.graph.shape(node.output).to_vec();
        let (mut first, mut second) = (node.inputs[0], node.inputs[1]);
        // The first operand may be overwritten: prefer the computed one of full shape.
        let swap = kind != Binary::Sub && (self.is_constant(first) || self.graph.shape(first) != shape);
        if swap && !(self.is_constant(second) || self.graph.shape(second) != shape) {
            std::mem::swap(&mut first, &mut second);
        }
        let (a, b) = (self.get(first, Form::Any)?, self.get(second, Form::Any)?);
        if kind == Binary::Add && self.quant_add(node, &a, &b)? {
            return Ok(());
        }
        let dtype = self.preferred(node.output);
        let (a, b) = (a.expand(&shape), b.expand(&shape));
        let (dims, extents) = collapse(&shape, &[&a, &b]).ok_or_else(|| LowerError::Rank(node.name.clone()))?;
        let extents: Vec<Extent> = extents.iter().map(|e| normalize(&dims, e)).collect();
        let (scale, zero) = match dtype {
            Dtype::I8 => self.narrow_units(node.output, self.asymmetric(node.output)),
            _ => (self.stream_scale(node.output, a.scale), 0.0),
        };
        let to = self.output(node.output, dtype, scale, zero);
        let op = if kind == Binary::Mul {
            let (acc_shift, multiplier) = multiplier(a.scale * b.scale / scale);
            let (zero_a, zero_b) = (a.zero.round() as i32, b.zero.round() as i32);
            ops::Op::Mul(ops::mul::Mul {
                dims,
                a: extents[0],
                b: extents[1],
                zero_a,
                zero_b,
                acc_shift,
                multiplier,
                zero_point: zero as i32,
            })
        } else {
            let sign = if kind == Binary::Sub { -1.0 } else { 1.0 };
            let ranges = [a.tensor, b.tensor].map(|t| {
                let (low, high) = self.program.tensors[t].dtype.range();
                f64::from(low.abs().max(high))
            });
            let factors = [a.scale / scale, sign * b.scale / scale];
            let mut shift = 30;
            let (ma, mb, bias) = loop {
                let one = 2f64.powi(shift);
                let (ma, mb) = ((factors[0] * one).round(), (factors[1] * one).round());
                let half = if shift > 0 { one / 2.0 } else { 0.0 };
                let bias = half + zero * one - a.zero * ma - b.zero * mb;
                let worst = ma.abs() * ranges[0] + mb.abs() * ranges[1] + bias.abs();
                if worst < 2_147_483_000.0 || shift == 0 {
                    break (ma as i32, mb as i32, bias.round() as i32);
                }
                shift -= 1;
            };
            ops::Op::Add(ops::add::Add { dims, a: extents[0], b: extents[1], ma, mb, bias, shift: shift as u32 })
        };
        self.push(&node.name, op, &[Some(a.tensor), Some(b.tensor)], to);
        Ok(())
    }

    /// `a or b` of flags: 0, 1 or 2 by their sum, then a table.
    fn either(&mut self, node: &Node) -> Result<(), LowerError> {
        self.binary(node, Binary::Add)?;
        let sum = self.get(node.output, Form::Narrow)?;
        let table: Vec<i8> = (-128..=127).map(|v: i32| i8::from(v > 0)).collect();
        let table = self.program.weights.add_i8(&table);
        let to = self.output(node.output, Dtype::I8, 1.0, 0.0);
        let op = ops::lut::Lut { len: sum.len() as u32, table };
        self.push(&format!("{}/either", node.name), ops::Op::Lut(op), &[Some(sum.tensor)], to);
        Ok(())
    }

    /// Scale of a 16-bit sum that continues a stream of scale `before`: equal, or larger by a power of two.
    pub(super) fn stream_scale(&mut self, id: TensorId, before: f64) -> f64 {
        let needed = self.calibration.stats(id).abs_max() / WIDE_LIMIT;
        if before > 1e-20 && needed > 0.0 && before > needed / 256.0 && before < needed * 64.0 {
            let steps = (needed / before).log2().ceil().max(0.0);
            before * 2f64.powf(steps)
        } else {
            self.wide_scale(id)
        }
    }

    pub(super) fn softmax(&mut self, node: &Node) -> Result<(), LowerError> {
        if self.is_ivit() && self.shiftmax(node)? {
            return Ok(());
        }
        let view = self.get(node.inputs[0], Form::Any)?;
        let view = self.contiguous(&view, &node.name)?;
        let n = view.shape.last().copied().unwrap_or(1);
        let dtype = self.preferred(node.output);
        let scale = if dtype == Dtype::I8 { 1.0 / 128.0 } else { 1.0 / 32768.0 };
        let (acc_shift, multiplier) = multiplier(view.scale * LOG2_UNITS);
        let to = self.output(node.output, dtype, scale, 0.0);
        let op = ops::softmax::Softmax { rows: (view.len() / n) as u32, n: n as u32, acc_shift, multiplier };
        self.push(&node.name, ops::Op::Softmax(op), &[Some(view.tensor)], to);
        Ok(())
    }

    pub(super) fn layer_norm(&mut self, node: &Node, eps: f64, rms: bool) -> Result<(), LowerError> {
        let view = self.get(node.inputs[0], Form::Any)?;
        let view = self.contiguous(&view, &node.name)?;
        let n = view.shape.last().copied().unwrap_or(1);
        if n as u32 > norm::MAX_WIDTH {
            return Err(self.unsupported(node, "rows of more than 4096 values"));
        }
        let affine = |index: usize, default: f32| -> Vec<f64> {
            let values = node.inputs.get(index).and_then(|&id| self.graph.floats(id));
            let values = values.map_or_else(|| vec![default; n], <[f32]>::to_vec);
            (0..n).map(|i| f64::from(values[if values.len() == 1 { 0 } else { i }])).collect()
        };
        let (gamma, beta) = (affine(1, 1.0), if rms { vec![0.0; n] } else { affine(2, 0.0) });
        if self.is_ivit() && !rms {
            return self.i_layer_norm(node, &gamma, &beta);
        }
        let dtype = self.preferred(node.output);
        let (scale, zero) = match dtype {
            Dtype::I8 => self.narrow_units(node.output, self.asymmetric(node.output)),
            _ => (self.wide_scale(node.output), 0.0),
        };
        let fraction = if dtype == Dtype::I8 { norm::FRACTION_I8 } else { norm::FRACTION_I16 } as i32;
        let limit = f64::from(i32::MAX);
        let gamma: Vec<i32> = gamma
            .iter()
            .map(|g| {
                (g / scale * 2f64.powi(32 - norm::NORMALIZED_FRACTION_BITS as i32 + fraction))
                    .round()
                    .clamp(-limit, limit) as i32
            })
            .collect();
        let half = f64::from(1 << (fraction - 1));
        let most = f64::from(1 << 30);
        let beta: Vec<i32> = beta
            .iter()
            .map(|b| ((b / scale + zero) * 2f64.powi(fraction) + half).round().clamp(-most, most) as i32)
            .collect();
        // The zero point of the input cancels in LayerNorm; RMSNorm has none (its input is asked for in 16 bits).
        let eps = (eps / (view.scale * view.scale) * (n * n) as f64).round().min(norm::MAX_EPS as f64) as u64;
        let to = self.output(node.output, dtype, scale, zero);
        let op = ops::layer_norm::LayerNorm {
            rows: (view.len() / n) as u32,
            n: n as u32,
            rms,
            eps,
            gamma: self.program.weights.add_i32(&gamma),
            beta: self.program.weights.add_i32(&beta),
        };
        self.push(&node.name, ops::Op::LayerNorm(op), &[Some(view.tensor)], to);
        Ok(())
    }
}

/// Greatest `i16` a calibrated value of a stream may take before the scale doubles.
const WIDE_LIMIT: f64 = 26000.0;
/// log2 units with 8 fractional bits per natural unit.
pub(super) const LOG2_UNITS: f64 = std::f64::consts::LOG2_E * 256.0;
