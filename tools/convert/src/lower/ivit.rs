//! Lowering under the profile of the published I-ViT operators.
//!
//! As in the published models every product is summed in 32 bits and requantized dyadically (`QuantAct`), residual streams
//! have 16 bits and enter the requantization of the branch that is added to them, activations are symmetric. Attention is
//! taken apart beforehand ([`crate::convert::ivit`]); what has no published form is lowered as in the default profile.

use super::chains::Chain;
use super::view::View;
use super::{Form, LowerError, Lowering};
use crate::graph::{Node, Op, TensorId, Unary};
use crate::quantize::multiplier::dyadic;
use shiftformer::arith::ivit::{SHIFTGELU_N, SHIFTMAX_N, ShiftExp};
use shiftformer::format::{Blob, Profile};
use shiftformer::ops;
use shiftformer::tensor::Dtype;

/// Factor of the sigmoid that approximates GELU.
const GELU_FACTOR: f64 = 1.702;
/// Longest sum of 16-bit probabilities times 8-bit values that fits 32 bits.
const MAX_WIDE_SUM: usize = (1 << 31) / (128 * ops::matmul::MAX_PROBABILITY as usize);
/// A rounded period this far from `1 / S` is reported.
const COARSE: f64 = 0.02;
/// So is one of so few steps: the exponential has hardly any values between its halvings.
const COARSE_PERIOD: u32 = 8;
/// Maximum magnitude of an I-LayerNorm bias, see [`ops::i_layer_norm::ILayerNorm`].
const MAX_BIAS: f64 = (1u64 << 52) as f64;

/// `-floor(-1 / scale)`, where the exponential takes it.
fn period(scale: f64, halvings: u32) -> Option<u32> {
    let period = -(-1.0 / scale).floor();
    let period = if (1.0..=f64::from(u32::MAX)).contains(&period) { period as u32 } else { return None };
    ShiftExp::new(period, halvings).map(|_| period)
}

impl Lowering<'_> {
    pub(super) fn is_ivit(&self) -> bool {
        self.options.profile == Profile::Ivit
    }

    /// A tensor for the sums of a product.
    pub(super) fn sums(&mut self, name: &str, shape: &[usize]) -> usize {
        self.new_tensor(&format!("{name}/acc"), Dtype::I32, shape, 1.0, 0.0, None)
    }

    /// Emits the requantization of `x`, which is `[.., ratios.len()]`, or any shape for one ratio, into `to`; `identity` is
    /// the tensor of a residual branch with its ratio.
    pub(super) fn quant_act(
        &mut self,
        name: &str,
        x: usize,
        ratios: &[f64],
        identity: Option<(usize, f64)>,
        to: usize,
    ) {
        let tensor = &self.program.tensors[to];
        let width = if ratios.len() > 1 { ratios.len() } else { tensor.shape.last().copied().unwrap_or(1) };
        let rows = tensor.len() / width.max(1);
        let pairs: Vec<i32> = ratios.iter().flat_map(|&ratio| dyadic(ratio)).collect();
        let [identity_multiplier, identity_shift] = identity.map_or([0, 0], |(_, ratio)| dyadic(ratio));
        let op = ops::dyadic_requant::DyadicRequant {
            rows: rows as u32,
            n: width as u32,
            ratios: self.program.weights.add_i32(&pairs),
            identity_multiplier,
            identity_shift: identity_shift as u32,
        };
        let inputs = [Some(x), identity.map(|(tensor, _)| tensor)];
        let used = if identity.is_some() { 2 } else { 1 };
        self.push(&format!("{name}/quant_act"), ops::Op::DyadicRequant(op), &inputs[..used], to);
    }

    /// The GELU a chain consists of.
    fn is_gelu(&self, chain: &Chain) -> bool {
        let [node] = chain.nodes[..] else { return false };
        matches!(self.graph.nodes[node].op, Op::Unary(Unary::Gelu { .. } | Unary::QuickGelu))
    }

    /// ShiftGELU for a chain that is one GELU; `false` where it is not, or where its scale is out of range.
    pub(super) fn shift_gelu(&mut self, chain: &Chain) -> Result<bool, LowerError> {
        if !self.is_ivit() || !self.is_gelu(chain) {
            return Ok(false);
        }
        let input = self.get(chain.base, Form::Symmetric)?;
        let node = &self.graph.nodes[chain.nodes[0]];
        let input = self.contiguous(&input, &node.name)?;
        let scale = input.scale * GELU_FACTOR;
        let Some(period) = period(scale, SHIFTGELU_N).filter(|&p| p < 1 << 24) else {
            self.notes.push(format!(
                "`{}`: a scale of {:.2e} is too fine for ShiftGELU; a table is used",
                node.name, input.scale
            ));
            return Ok(false);
        };
        self.report_coarse(&node.name, "ShiftGELU", scale, period);
        let n = input.shape.last().copied().unwrap_or(1);
        let op =
            ops::shiftgelu::ShiftGelu { rows: (input.len() / n) as u32, n: n as u32, period, halvings: SHIFTGELU_N };
        let product = self.sums(&node.name, &input.shape);
        // Eight bits of the sigmoid: one is 2^7.
        let product_scale = input.scale / 128.0;
        self.program.tensors[product].scale = product_scale;
        self.push(&node.name, ops::Op::ShiftGelu(op), &[Some(input.tensor)], product);
        let to = self.quant_output(chain.output);
        let ratio = product_scale / self.program.tensors[to].scale;
        self.quant_act(&node.name, product, &[ratio], None, to);
        Ok(true)
    }

    /// The tensor of `id` in the width its consumers prefer, symmetric.
    fn quant_output(&mut self, id: TensorId) -> usize {
        let dtype = self.preferred(id);
        let scale = match dtype {
            Dtype::I8 => self.narrow_units(id, false).0,
            _ => self.wide_scale(id),
        };
        self.output(id, dtype, scale, 0.0)
    }

    fn report_coarse(&mut self, name: &str, operator: &str, scale: f64, period: u32) {
        let error = f64::from(period) * scale - 1.0;
        if error.abs() > COARSE {
            let percent = error * 100.0;
            let note = format!(
                "`{name}`: S = {scale:.4} is coarse for {operator}: 1/S is rounded to {period} ({percent:+.1} %)"
            );
            self.notes.push(note);
        } else if period < COARSE_PERIOD {
            self.notes.push(format!(
                "`{name}`: S = {scale:.4} is coarse for {operator}: a halving takes only {period} steps"
            ));
        }
    }

    /// `scale` of `id`, enlarged so that the exponential of its only reader has a period without rounding: `S = 1 / period`.
    pub(super) fn whole_period(&self, id: TensorId, scale: f64) -> f64 {
        let Some(factor) = self.exponential_factor(id).filter(|_| self.is_ivit()) else { return scale };
        let period = (1.0 / (scale * factor) + 1e-9).floor();
        // The division and product round: a hair above, so that `-floor(-1 / S)` is this period and not the next.
        if period >= 1.0 { (1.0 + 1e-12) / period / factor } else { scale }
    }

    /// What the only reader of `id` multiplies its scale with before it takes an exponential.
    fn exponential_factor(&self, id: TensorId) -> Option<f64> {
        let index = self.only_consumer(id)?;
        if let Some(chain) = self.chains.values().find(|chain| chain.nodes.first() == Some(&index)) {
            return match self.scalar_factor(chain) {
                Some(factor) => self.exponential_factor(chain.output).map(|behind| factor * behind),
                None => self.is_gelu(chain).then_some(GELU_FACTOR),
            };
        }
        (self.graph.nodes[index].op == Op::Softmax).then_some(1.0)
    }

    /// Shiftmax; `false` where the scale is out of range.
    pub(super) fn shiftmax(&mut self, node: &Node) -> Result<bool, LowerError> {
        let input = self.get(node.inputs[0], Form::Symmetric)?;
        let input = self.contiguous(&input, &node.name)?;
        let Some(period) = period(input.scale, SHIFTMAX_N) else {
            self.notes.push(format!(
                "`{}`: a scale of {:.2e} is too fine for Shiftmax; the default form is used",
                node.name, input.scale
            ));
            return Ok(false);
        };
        self.report_coarse(&node.name, "Shiftmax", input.scale, period);
        let n = input.shape.last().copied().unwrap_or(1);
        let to = if self.options.wide_exp && self.feeds_products_only(node.output) {
            self.output(node.output, Dtype::U16, 1.0 / 32768.0, 0.0)
        } else {
            self.output(node.output, Dtype::I8, 1.0 / 128.0, 0.0)
        };
        let op = ops::shiftmax::Shiftmax { rows: (input.len() / n) as u32, n: n as u32, period, halvings: SHIFTMAX_N };
        self.push(&node.name, ops::Op::Shiftmax(op), &[Some(input.tensor)], to);
        Ok(true)
    }

    /// Whether every reader of `id` is a product that can take it as 16-bit probabilities.
    fn feeds_products_only(&self, id: TensorId) -> bool {
        let k = self.graph.shape(id).last().copied().unwrap_or(0);
        k <= MAX_WIDE_SUM
            && self.consumers[id].iter().all(|&index| {
                let node = self.graph.nodes.get(index);
                node.is_some_and(|n| matches!(n.op, Op::MatMul { .. }) && n.inputs[0] == id && n.inputs[1] != id)
            })
    }

    /// 16-bit probabilities as the left side of a product.
    pub(super) fn probabilities(&self, id: TensorId) -> Option<View> {
        let view = self.forms[id].wide.as_ref()?;
        (self.program.tensors[view.tensor].dtype == Dtype::U16).then(|| view.clone())
    }

    /// I-LayerNorm with the requantization behind it.
    pub(super) fn i_layer_norm(&mut self, node: &Node, gamma: &[f64], beta: &[f64]) -> Result<(), LowerError> {
        let view = self.get(node.inputs[0], Form::Any)?;
        let view = self.contiguous(&view, &node.name)?;
        let n = gamma.len();
        let unit = (n as f64).sqrt() / f64::from(1 << 30);
        let to = self.quant_output(node.output);
        let scale = self.program.tensors[to].scale;
        let (mut biases, mut pairs) = (Vec::new(), Vec::new());
        for (&gamma, &beta) in gamma.iter().zip(beta) {
            let bias = (beta / gamma / unit).floor();
            if bias.abs() <= MAX_BIAS {
                biases.extend((bias as i64).to_le_bytes());
                pairs.extend(dyadic(gamma * unit / scale));
            } else {
                // Gamma is zero beside beta: the output is beta, and the normalized value is lost in its last bit.
                let sign = if beta < 0.0 { -1.0 } else { 1.0 };
                biases.extend(((sign * MAX_BIAS) as i64).to_le_bytes());
                pairs.extend(dyadic(beta.abs() / MAX_BIAS / scale));
            }
        }
        let op = ops::i_layer_norm::ILayerNorm {
            rows: (view.len() / n) as u32,
            n: n as u32,
            bias: self.program.weights.add(&biases),
            ratios: self.program.weights.add_i32(&pairs),
        };
        self.push(&node.name, ops::Op::ILayerNorm(op), &[Some(view.tensor)], to);
        Ok(())
    }

    /// The sum of two tensors of the same shape; `false` where a view or a zero point is in the way.
    pub(super) fn quant_add(&mut self, node: &Node, a: &View, b: &View) -> Result<bool, LowerError> {
        let shape = self.graph.shape(node.output).to_vec();
        let whole = |view: &View| view.shape == shape && view.zero == 0.0;
        if !self.is_ivit() || !whole(a) || !whole(b) {
            return Ok(false);
        }
        let (a, b) = (self.contiguous(a, &node.name)?, self.contiguous(b, &node.name)?);
        let to = self.quant_output(node.output);
        let scale = self.program.tensors[to].scale;
        self.quant_act(&node.name, a.tensor, &[a.scale / scale], Some((b.tensor, b.scale / scale)), to);
        Ok(true)
    }

    /// A dense layer whose sums join a 16-bit stream.
    pub(super) fn quant_residual(
        &mut self,
        linear: usize,
        residual: TensorId,
        sum: TensorId,
    ) -> Result<(), LowerError> {
        let node = &self.graph.nodes[linear];
        let stream = self.get(residual, Form::Wide)?;
        let stream = self.contiguous(&stream, &node.name)?;
        let scale = self.wide_scale(sum);
        let target = super::dense::Target { dtype: Dtype::I16, scale, zero: 0.0, lut: Blob::NONE };
        let to = self.output(sum, Dtype::I16, scale, 0.0);
        self.emit_linear_sums(node, &target, to, Some((stream.tensor, stream.scale / scale)))
    }
}
