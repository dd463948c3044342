//! Activations of 16 bits: which tensors can be read in them, and how layers and functions do.

use super::chains::Chain;
use super::dense::Target;
use super::view::View;
use super::{Form, LowerError, Lowering};
use crate::calibrate::Calibration;
use crate::graph::{Binary, DataType, Graph, Node, Op, Reduce, TensorId};
use crate::quantize::multiplier::multiplier;
use crate::quantize::range::RangeMethod;
use crate::quantize::weights::{self, QWeights};
use shiftformer::format::Blob;
use shiftformer::ops;
use shiftformer::ops::halves::Halves;
use shiftformer::ops::lut_i16;
use shiftformer::tensor::Dtype;
use shiftformer::weights::WeightFormat;

/// A tensor that could be read in 16 bits.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// The tensor.
    pub tensor: TensorId,
    /// Noise over signal that its 8 bits leave behind the operators that read it, estimated: the order of trials.
    pub noise: f64,
}

/// The float tensors that dense layers, products and elementwise functions read in 8 bits and could read in 16, the noisiest
/// in 8 bits first. What came quantized keeps its units; what only moves values or has 8 bits by its operator (attention,
/// pooling) gains nothing.
pub fn candidates(graph: &Graph, calibration: &Calibration) -> Vec<Candidate> {
    let producers = graph.producers();
    let narrow_source = |mut id: TensorId| loop {
        let Some(index) = producers[id] else { return false };
        let node = &graph.nodes[index];
        match node.op {
            Op::Reshape | Op::Transpose { .. } | Op::Slice { .. } | Op::Expand | Op::MaxPool(_) => id = node.inputs[0],
            Op::Attention(_) | Op::AveragePool { .. } | Op::FakeQuant(_) | Op::Rope(_) | Op::Positions => return true,
            Op::Linear
            | Op::Lookup(_)
            | Op::Conv2d(_)
            | Op::MatMul { .. }
            | Op::Softmax
            | Op::LayerNorm { .. }
            | Op::RmsNorm { .. }
            | Op::Unary(_)
            | Op::Binary(_)
            | Op::Where
            | Op::Gather { .. }
            | Op::Reduce { .. }
            | Op::Concat { .. }
            | Op::Pad { .. } => return false,
        }
    };
    let consumers = graph.consumers();
    let mut found: Vec<Candidate> = Vec::new();
    for node in &graph.nodes {
        let constant = |id: &TensorId| graph.tensors[*id].value.is_some();
        let reads = match node.op {
            Op::Linear | Op::Conv2d(_) | Op::MatMul { .. } | Op::MaxPool(_) => &node.inputs[..1],
            Op::Reduce { kind: Reduce::Max, .. } => &node.inputs[..1],
            // Functions of one tensor; sums and products of two read 16 bits in any case.
            Op::Unary(_) => &node.inputs[..],
            Op::Binary(_) | Op::Where if node.inputs.iter().any(constant) => &node.inputs[..],
            _ => continue,
        };
        for &id in reads {
            let tensor = &graph.tensors[id];
            let fixed = calibration.fixed.contains_key(&id);
            let plain = tensor.dtype == DataType::Float && tensor.value.is_none() && !fixed;
            if !plain || calibration.stats(id).is_whole() || narrow_source(id) {
                continue;
            }
            let noise = noise_behind(graph, calibration, &consumers, node, id);
            match found.iter_mut().find(|candidate| candidate.tensor == id) {
                Some(candidate) => candidate.noise += noise,
                None => found.push(Candidate { tensor: id, noise }),
            }
        }
    }
    found.retain(|candidate| candidate.noise.is_finite());
    found.sort_by(|a, b| b.noise.total_cmp(&a.noise));
    found
}

/// Noise over signal behind `node`, or behind the sum that its result is added to, where it reads `id` in 8 bits.
fn noise_behind(graph: &Graph, calibration: &Calibration, consumers: &[Vec<usize>], node: &Node, id: TensorId) -> f64 {
    let square = |values: &[f32]| values.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>();
    let mean_square = |id: TensorId| {
        let stats = calibration.stats(id);
        stats.energy / (stats.count as f64).max(1.0)
    };
    let gain = match node.op {
        Op::Linear | Op::Conv2d(_) => {
            let outputs = graph.shape(node.inputs[1]).first().copied().unwrap_or(1).max(1);
            graph.floats(node.inputs[1]).map_or(1.0, square) / outputs as f64
        }
        Op::MatMul { .. } => graph.shape(id).last().map_or(1.0, |&k| k as f64) * mean_square(node.inputs[1]),
        _ => 1.0,
    };
    let added = match consumers[node.output][..] {
        [one] => graph.nodes.get(one).filter(|reader| reader.op == Op::Binary(Binary::Add)),
        _ => None,
    };
    let (low, high) = calibration.stats(id).asymmetric(RangeMethod::Minmax);
    let step = (high - low) / 255.0;
    step * step / 12.0 * gain / mean_square(added.map_or(node.output, |sum| sum.output)).max(1e-30)
}

/// What sums may take of 2^31 beside a bias.
const SUM_ROOM: f64 = 0.87 * 2_147_483_648.0;

impl Lowering<'_> {
    /// Whether `view` is one of a 16-bit tensor.
    pub(super) fn is_wide(&self, view: &View) -> bool {
        self.program.tensors[view.tensor].dtype == Dtype::I16
    }

    /// In which form a layer reads `id`: 16 bits where they are chosen, else `narrow`.
    pub(super) fn read_form(&self, id: TensorId, narrow: Form) -> Form {
        if self.options.wide.contains(&id) && !self.is_ivit() { Form::Wide } else { narrow }
    }

    /// Smallest scale of the `n` channels of weights `values`, of `format`. A bias has to leave room for the sum, at most 2^28 steps
    /// once it is shifted as the largest of the scales asks for beside that of `target`; a sum of 16-bit activations fits what is
    /// left, whatever they are. A channel whose whole sum is no step of the target keeps a multiplier all the same: what
    /// corrects its bias may be larger than its weights.
    pub(super) fn scale_floor(
        &self,
        n: usize,
        (values, format): (&[f32], WeightFormat),
        bias: &[f32],
        x: &View,
        target: &Target,
    ) -> Vec<f64> {
        let largest = values.iter().fold(0.0f32, |most, v| most.max(v.abs()));
        let ratio = f64::from(largest) / f64::from((1 << (format.bits() - 1)) - 1) * x.scale / target.scale;
        let shift = |drop: i32| 2f64.powi(multiplier(ratio * 2f64.powi(drop)).0 as i32 - drop);
        // The halves of 16-bit sums may leave out low bits. Sums of 8 bits that do not fit unshifted are refused.
        let (reach, gain) = match self.is_wide(x) {
            true => (32768.0, (0..=8).map(shift).fold(f64::INFINITY, f64::min)),
            false if shift(0) > 1.0 => (256.0, shift(0)),
            false => (0.0, 0.0),
        };
        let room = f64::from(1 << 28) / shift(0);
        let least = target.scale / (x.scale * room);
        let k = values.len() / n.max(1);
        let floor = |c: usize| {
            let magnitude: f64 = values[c * k..(c + 1) * k].iter().map(|v| f64::from(v.abs())).sum();
            let bias = f64::from(bias.get(c).copied().unwrap_or(0.0).abs());
            (bias / (x.scale * room)).max(least).max(magnitude * reach * gain / SUM_ROOM)
        };
        (0..n).map(floor).collect()
    }

    /// The biases of the high halves, and how the sums of both halves become one; `steps` are the biases in steps of the
    /// whole sums, `ratio` is the largest scale of a whole sum over that of the result. As many low bits are left out as the
    /// bounds of the sums ask for, shifted to the left where the result has finer steps.
    pub(super) fn halves(&mut self, q: &QWeights, steps: &[f64], ratio: f64) -> (Vec<i32>, Halves) {
        let channel = |c: usize| &q.values[c * q.k..(c + 1) * q.k];
        let reach = |c: usize| {
            let magnitude: i64 = channel(c).iter().map(|&w| i64::from(w).abs()).sum();
            steps[c].abs() + 32768.0 * magnitude as f64
        };
        let most = (0..q.n).map(reach).fold(0.0, f64::max);
        // A little below 2^31: the low halves are bounded by themselves.
        let fits = |&drop: &u32| {
            let part = f64::from(1 << drop);
            let (acc_shift, _) = multiplier(ratio * part);
            most * 1.01 / part * f64::from(1 << acc_shift) < f64::from(i32::MAX)
        };
        let drop = (0..8u32).find(fits).unwrap_or(8);
        let half = if drop > 0 { 1i64 << (drop - 1) } else { 0 };
        let (mut high, mut low) = (Vec::with_capacity(q.n), Vec::with_capacity(q.n));
        for &steps in steps {
            let steps = steps.clamp(-256.0 * f64::from(i32::MAX), 256.0 * f64::from(i32::MAX)) as i64;
            high.push(steps.div_euclid(256) as i32);
            low.push((steps.rem_euclid(256) + half) as i32);
        }
        let low_bias: Blob = self.program.weights.add_i32(&weights::pad_channels(&low));
        (high, Halves { drop, low_bias })
    }

    /// Whether `view` has all elements of its tensor, each once, in another order.
    pub(super) fn is_permuted(&self, view: &View) -> bool {
        let mut dims: Vec<(isize, usize)> = view.strides.iter().copied().zip(view.shape.iter().copied()).collect();
        dims.retain(|&(_, extent)| extent > 1);
        dims.sort_unstable();
        let mut next = 1;
        let dense = dims.iter().all(|&(stride, extent)| {
            let fits = stride == next;
            next = next.saturating_mul(extent as isize);
            fits
        });
        dense && view.offset == 0 && view.len() == self.program.tensors[view.tensor].len() && !view.is_contiguous()
    }

    /// A function of one tensor of 16 bits: a table with straight lines between its entries.
    pub(super) fn wide_chain(&mut self, chain: &Chain) -> Result<(), LowerError> {
        let node = &self.graph.nodes[*chain.nodes.last().unwrap_or(&0)];
        let x = self.get(chain.base, Form::Wide)?;
        let scale = self.wide_scale(chain.output);
        let (x, to) = if self.is_permuted(&x) && x.shape == self.graph.shape(chain.output) {
            // The order of the elements does not matter: images keep their channels last.
            let shape = self.program.tensors[x.tensor].shape.clone();
            let to = self.new_tensor(&self.name(chain.output), Dtype::I16, &shape, scale, 0.0, None);
            self.set(chain.output, View { tensor: to, scale, ..x.clone() });
            (x, to)
        } else {
            let x = self.contiguous(&x, &node.name)?;
            (x, self.output(chain.output, Dtype::I16, scale, 0.0))
        };
        let entry = |index: usize| {
            let at = index as f64 * f64::from(lut_i16::STEP) - 32768.0;
            let y = self.eval_chain(chain, at * x.scale);
            let y = if y.is_nan() { 0.0 } else { y };
            (y / scale).round().clamp(-32768.0, 32767.0) as i16
        };
        let entries: Vec<i16> = (0..lut_i16::ENTRIES).map(entry).collect();
        let table = self.program.weights.add_i16(&entries);
        let op = lut_i16::LutI16 { len: x.len() as u32, table };
        self.push(&node.name, ops::Op::LutI16(op), &[Some(x.tensor)], to);
        Ok(())
    }
}
