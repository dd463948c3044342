//! Dense layers by L-Mul: activations become floating-point patterns by a table, products are additions.

use super::dense::Target;
use super::view::View;
use super::{Form, LowerError, Lowering};
use crate::graph::{Node, Op};
use crate::quantize::floats::{gain, largest, pattern, step, value};
use crate::quantize::multiplier::multipliers;
use shiftformer::arith::lmul::{Fixed, FloatFormat, MAX_TOP};
use shiftformer::format::Profile;
use shiftformer::ops;
use shiftformer::tensor::Dtype;
use std::collections::BTreeSet;

/// Which dense layers multiply by addition under [`Profile::Lmul`], and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lmul {
    /// Format of activations and weights.
    pub format: FloatFormat,
    /// Names of the layers; empty stands for all.
    pub layers: BTreeSet<String>,
}

impl Default for Lmul {
    fn default() -> Self {
        Self { format: FloatFormat::E4m3, layers: BTreeSet::new() }
    }
}

/// Exponents of products that are tried for the smallest step.
const BASES: u32 = 1 << 10;

impl Lowering<'_> {
    /// The format in which a node multiplies by addition, if it does.
    pub(super) fn lmul_format(&self, node: &Node) -> Option<FloatFormat> {
        let lmul = &self.options.lmul;
        let named = lmul.layers.is_empty() || lmul.layers.contains(&node.name);
        let does = self.options.profile == Profile::Lmul && node.op == Op::Linear && named;
        does.then_some(lmul.format)
    }

    /// Refuses names that no dense layer has.
    pub(super) fn check_lmul_layers(&self) -> Result<(), LowerError> {
        let dense = || self.graph.nodes.iter().filter(|node| node.op == Op::Linear).map(|node| node.name.as_str());
        let unknown = |name: &&String| !dense().any(|known| known == name.as_str());
        match self.options.lmul.layers.iter().find(unknown) {
            None => Ok(()),
            Some(name) => Err(LowerError::Unsupported(vec![format!(
                "`--lmul-layers`: no dense layer is called `{name}`; there are {}",
                dense().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
            )])),
        }
    }

    /// `x` as patterns: the tensor, and the real value of the pattern of 1.
    fn patterns(&mut self, x: &View, format: FloatFormat) -> (usize, f64) {
        if let Some(&known) = self.patterns.get(&(x.tensor, format)) {
            return known;
        }
        let real = |q: i32| (f64::from(q) - x.zero) * x.scale;
        let unit = real(-128).abs().max(real(127).abs()).max(1e-30) / largest(format);
        let entries = (-128..128).map(|q| pattern(format, real(q) / unit));
        let (dtype, table) = match format.bytes() {
            1 => (Dtype::I8, self.program.weights.add(&entries.map(|p| p as u8).collect::<Vec<_>>())),
            _ => (Dtype::I16, self.program.weights.add_i16(&entries.map(|p| p as u16 as i16).collect::<Vec<_>>())),
        };
        let name = format!("{}/{}", self.program.tensors[x.tensor].name, format.name());
        let to = self.new_tensor(&name, dtype, &x.shape, unit, 0.0, None);
        let op = ops::lut::Lut { len: x.len() as u32, table };
        self.push(&name, ops::Op::Lut(op), &[Some(x.tensor)], to);
        self.patterns.insert((x.tensor, format), (to, unit));
        (to, unit)
    }

    /// Emits the dense layer `node` with products in `format`.
    pub(super) fn emit_lmul(
        &mut self,
        node: &Node,
        format: FloatFormat,
        target: &Target,
        to: usize,
    ) -> Result<(), LowerError> {
        let x = self.get(node.inputs[0], Form::Narrow)?;
        let x = self.contiguous(&x, &node.name)?;
        let graph = self.graph;
        let (Some(weights), [n, k]) = (graph.floats(node.inputs[1]), graph.shape(node.inputs[1])) else {
            return Err(self.unsupported(node, "weights must be constants of two dimensions"));
        };
        let (n, k) = (*n, *k);
        let bias = node.inputs.get(2).and_then(|&id| graph.floats(id)).unwrap_or_default();
        let (patterns, x_unit) = self.patterns(&x, format);
        let means = if self.options.bias_correction { self.calibration.input_means(&node.name) } else { None };
        let means = means.filter(|means| means.len() == k);
        let (mut packed, mut units, mut biases) = (Vec::with_capacity(n * k), Vec::new(), Vec::new());
        for (channel, row) in weights.chunks_exact(k).enumerate() {
            let most = row.iter().fold(0.0f64, |m, &w| m.max(f64::from(w.abs())));
            let unit = most.max(1e-30) / largest(format);
            let mut real = f64::from(bias.get(channel).copied().unwrap_or(0.0));
            for (i, &w) in row.iter().enumerate() {
                let rounded = pattern(format, f64::from(w) / unit);
                // The mean of the input times the rounding error of the weight is a known error.
                real += means.map_or(0.0, |means| means[i] * (f64::from(w) - value(format, rounded) * unit));
                packed.push(rounded);
            }
            units.push(unit * x_unit / gain(format));
            biases.push(real);
        }
        let fixed = self.smallest_step(node, format, &packed, k, &|channel, base| {
            biases[channel] / (units[channel] * step(format, base))
        })?;
        let step = step(format, fixed.base);
        let ratios: Vec<f64> = units.iter().map(|unit| unit * step / target.scale).collect();
        let (acc_shift, factors) = multipliers(&ratios);
        let biases: Vec<i32> =
            biases.iter().zip(&units).map(|(bias, unit)| (bias / (unit * step)).round() as i32).collect();
        let bytes: Vec<u8> = match format.bytes() {
            1 => packed.iter().map(|&p| p as u8).collect(),
            _ => packed.iter().flat_map(|&p| (p as u16).to_le_bytes()).collect(),
        };
        let op = ops::lmul_linear::LmulLinear {
            rows: (x.len() / k) as u32,
            k: k as u32,
            n: n as u32,
            format,
            base: fixed.base,
            top: fixed.top,
            acc_shift,
            zero_point: target.zero as i32,
            weights: self.program.weights.add(&bytes),
            bias: self.program.weights.add_i32(&biases),
            multipliers: self.program.weights.add_i32(&factors),
        };
        self.push(&node.name, ops::Op::LmulLinear(op), &[Some(patterns)], to);
        Ok(())
    }

    /// The finest step of the sums for which none can overflow, whatever patterns the activations have.
    fn smallest_step(
        &self,
        node: &Node,
        format: FloatFormat,
        packed: &[u32],
        k: usize,
        bias: &dyn Fn(usize, u32) -> f64,
    ) -> Result<Fixed, LowerError> {
        let largest_pattern = format.sign() - 1;
        let fits = |fixed: &Fixed| {
            packed.chunks_exact(k).enumerate().all(|(channel, row)| {
                let products = row.iter().map(|&w| i64::from(fixed.product(largest_pattern, w & largest_pattern)));
                products.sum::<i64>() as f64 + bias(channel, fixed.base).abs() < f64::from(i32::MAX)
            })
        };
        // No product of the largest values saturates: those of patterns of 8 bits are sums of 8 bits; `bf16`, whose exponents
        // reach beyond any sum, is scaled to 1.
        let (top, exponent) = match format {
            FloatFormat::E4m3 | FloatFormat::E5m2 => (MAX_TOP, 255 >> format.mantissa_bits()),
            FloatFormat::Bf16 => {
                (MAX_TOP.saturating_sub(k.next_power_of_two().trailing_zeros()), (1 << format.exponent_bits()) - 2)
            }
        };
        (exponent - top..BASES)
            .map(|base| Fixed { format, base, top })
            .find(|fixed| fits(fixed))
            .ok_or_else(|| self.unsupported(node, "its sums do not fit 32 bits; use a smaller bias"))
    }
}
