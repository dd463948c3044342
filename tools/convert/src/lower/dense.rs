//! Linear layers, convolutions, pooling, products of activations.

use super::chains::Chain;
use super::view::View;
use super::{Form, LowerError, Lowering};
use crate::graph::{Binary, Node, Op, TensorId, Window};
use crate::parallel;
use crate::quantize::multiplier::{multiplier, multipliers};
use crate::quantize::sequential;
use crate::quantize::weights::{self, Layer, QWeights, on_grid};
use shiftformer::format::Blob;
use shiftformer::ops::halves::Halves;
use shiftformer::ops::linear::Dense;
use shiftformer::ops::{self, conv2d};
use shiftformer::tensor::Dtype;
use shiftformer::weights::WeightFormat;
use std::sync::Arc;

/// Where the requantized sums go.
pub(super) struct Target {
    pub dtype: Dtype,
    pub scale: f64,
    pub zero: f64,
    pub lut: Blob,
}

/// Weights ready for one dense operator.
struct Packed {
    /// The layer whose output are its sums.
    sums: Dense,
    /// Scale of a sum over that of the target, per channel.
    ratios: Vec<f64>,
    /// How the sums of 16-bit activations are made; unused with 8 bits.
    halves: Halves,
}

impl<'g> Lowering<'g> {
    /// Linear layers whose sum is added to a residual stream, and those whose result only feeds a table.
    pub(super) fn find_residuals(&mut self) {
        for (index, node) in self.graph.nodes.iter().enumerate() {
            if node.op != Op::Binary(Binary::Add)
                || self.chains.contains_key(&index)
                || self.absorbed[index]
                || self.entries.contains_key(&index)
            {
                continue;
            }
            let shape = self.graph.shape(node.output);
            let [a, b] = node.inputs[..] else { continue };
            if a == b || self.graph.shape(a) != shape || self.graph.shape(b) != shape {
                continue;
            }
            let linear_of = |id: TensorId| {
                let producer = self.producers[id]?;
                let is_linear = self.graph.nodes[producer].op == Op::Linear;
                let plain = is_linear && self.lmul_format(&self.graph.nodes[producer]).is_none();
                (plain && self.only_consumer(id) == Some(index)).then_some(producer)
            };
            // The later one is computed last: the other is the stream.
            let found = match (linear_of(a), linear_of(b)) {
                (Some(x), Some(y)) => Some(if x > y { (x, b) } else { (y, a) }),
                (Some(x), None) => Some((x, b)),
                (None, Some(y)) => Some((y, a)),
                (None, None) => None,
            };
            if let Some((linear, residual)) = found.filter(|&(_, residual)| !self.is_constant(residual)) {
                self.residuals.insert(index, (linear, residual));
                self.absorbed[linear] = true;
            }
        }
        if self.is_ivit() {
            // The published form has no tables behind sums.
            return;
        }
        let fused: Vec<usize> = self
            .chains
            .iter()
            .filter(|(last, _)| !self.segments.contains_key(last) && self.step(**last).is_none())
            .filter_map(|(_, chain)| {
                let producer = self.producers[chain.base]?;
                let dense = matches!(self.graph.nodes[producer].op, Op::Linear | Op::Conv2d(_));
                let alone = self.consumers[chain.base].iter().all(|&c| Some(&c) == chain.nodes.first());
                let plain = self.lmul_format(&self.graph.nodes[producer]).is_none();
                (dense && alone && plain).then_some(producer)
            })
            .collect();
        for producer in fused {
            self.absorbed[producer] = true;
        }
    }

    fn weight_format(&self, node: &Node) -> WeightFormat {
        self.options.layer_formats.get(&node.name).copied().unwrap_or(self.options.weights)
    }

    /// Quantizes and packs `[n, k]` weights for input `x`.
    fn pack(
        &mut self,
        node: &Node,
        values: &[f32],
        [n, k]: [usize; 2],
        bias: &[f32],
        x: &View,
        target: &Target,
    ) -> Packed {
        let format = self.weight_format(node);
        let floor = self.scale_floor(n, (values, format), bias, x, target);
        let layer = self.quantize_weights(node, values, n, k, format, &floor);
        self.pack_quantized(node, &layer, values, bias, x, target)
    }

    fn quantize_weights(
        &mut self,
        node: &Node,
        values: &[f32],
        n: usize,
        k: usize,
        format: WeightFormat,
        floor: &[f64],
    ) -> Arc<Layer> {
        if let Some(kept) = self.kept_weights(node, values, [n, k], format) {
            return Arc::new(Layer::new(kept));
        }
        let rounded = self.calibration.rounded.get(&node.name).filter(|r| r.weights.format == format);
        let fits = |q: &QWeights| (q.n, q.k) == (n, k) && q.scales.iter().zip(floor).all(|(scale, min)| scale >= min);
        if let Some(rounded) = rounded.filter(|r| fits(&r.weights)) {
            return Arc::new(Layer::new(rounded.weights.clone()));
        }
        if format.bits() < 8 && k > sequential::MAX_WIDTH {
            let note = format!(
                "`{}`: {k} columns are rounded to {} bits one by one, without compensation",
                node.name,
                format.bits()
            );
            self.notes.push(note);
        }
        let quantize = |floor: &[f64]| Layer::new(weights::quantize(values, n, k, format, floor));
        let Some(source) = &self.graph.tensors[node.inputs[1]].value else { return Arc::new(quantize(floor)) };
        let form = (n, k, node.op != Op::Linear, format);
        let free = self.calibration.prepared.layer(source, form, || quantize(&[]));
        if free.weights.scales.iter().zip(floor).all(|(scale, least)| scale >= least) {
            return free;
        }
        Arc::new(quantize(floor))
    }

    /// Weights that came quantized, where their integers fit `format`: their own grid, in the smallest format that holds it.
    fn kept_weights(&self, node: &Node, values: &[f32], [n, k]: [usize; 2], format: WeightFormat) -> Option<QWeights> {
        let scales = self.calibration.fixed_weights.get(&node.inputs[1]).filter(|scales| scales.len() == n)?;
        let mut formats: Vec<WeightFormat> =
            WeightFormat::ALL.iter().copied().filter(|other| other.bits() <= format.bits()).collect();
        formats.sort_by_key(|other| other.bits());
        let held = |format| Some((format, on_grid(values, scales, format)?));
        let (format, values) = formats.into_iter().find_map(held)?;
        Some(QWeights { values, scales: scales.clone(), n, k, format })
    }

    fn pack_quantized(
        &mut self,
        node: &Node,
        layer: &Layer,
        exact: &[f32],
        bias: &[f32],
        x: &View,
        target: &Target,
    ) -> Packed {
        if !self.is_wide(x) {
            return self.pack_whole(node, layer, exact, bias, x, target);
        }
        let q = &layer.weights;
        let steps = self.bias_steps(node, q, exact, bias, x);
        let largest = q.scales.iter().fold(0.0f64, |m, &s| m.max(s));
        let (biases, halves) = self.halves(q, &steps, largest * x.scale / target.scale);
        let unit = x.scale * f64::from(1 << halves.drop);
        let ratios = q.scales.iter().map(|s| s * unit / target.scale).collect();
        Packed { sums: self.sums_of(layer, &biases), ratios, halves }
    }

    /// A layer whose sums are those of the whole activations.
    fn pack_whole(
        &mut self,
        node: &Node,
        layer: &Layer,
        exact: &[f32],
        bias: &[f32],
        x: &View,
        target: &Target,
    ) -> Packed {
        let q = &layer.weights;
        let steps = self.bias_steps(node, q, exact, bias, x);
        let biases: Vec<i32> =
            steps.iter().map(|s| s.clamp(-f64::from(i32::MAX), f64::from(i32::MAX)) as i32).collect();
        let ratios = q.scales.iter().map(|s| s * x.scale / target.scale).collect();
        Packed { sums: self.sums_of(layer, &biases), ratios, halves: Halves { drop: 0, low_bias: Blob::NONE } }
    }

    fn sums_of(&mut self, layer: &Layer, biases: &[i32]) -> Dense {
        Dense {
            format: layer.weights.format,
            acc_shift: 0,
            zero_point: 0,
            weights: self.program.weights.add(&layer.packed),
            bias: self.program.weights.add_i32(&weights::pad_channels(biases)),
            multipliers: Blob::NONE,
            lut: Blob::NONE,
        }
    }

    /// The biases in steps of the sums, whole numbers.
    fn bias_steps(&self, node: &Node, q: &QWeights, exact: &[f32], bias: &[f32], x: &View) -> Vec<f64> {
        let (n, k) = (q.n, q.k);
        // Weights that came quantized are exact, and so is their bias.
        let own = self.calibration.fixed_weights.contains_key(&node.inputs[1]);
        let kept = own && on_grid(exact, &q.scales, q.format).is_some_and(|values| values == q.values);
        let correct = self.options.bias_correction && !kept;
        // The mean of the input times the rounding error of the weights is a known error: take it out of the bias.
        let means = if correct { self.calibration.input_means(&node.name) } else { None };
        let means = means.filter(|m| m.len() == k).map(<[f64]>::to_vec);
        // Error-compensated rounding comes with its own correction.
        let corrected =
            self.calibration.rounded.get(&node.name).filter(|r| r.weights.values == q.values).map(|r| r.bias.clone());
        let steps = |c: usize| {
            let row = &q.values[c * k..(c + 1) * k];
            let sum: i64 = row.iter().map(|&w| i64::from(w)).sum();
            let mut real = f64::from(bias.get(c).copied().unwrap_or(0.0));
            if let Some(corrected) = corrected.as_ref().filter(|_| correct) {
                real = corrected[c];
            } else if let Some(means) = &means {
                let exact = &exact[c * k..(c + 1) * k];
                let lost = row
                    .iter()
                    .zip(exact)
                    .zip(means)
                    .map(|((&w, &e), m)| (f64::from(e) - f64::from(w) * q.scales[c]) * m);
                real += lost.sum::<f64>();
            }
            (real / (x.scale * q.scales[c]) - x.zero * sum as f64).round()
        };
        parallel::map((0..n).collect(), steps)
    }

    /// The layer with its requantization to `target`.
    fn requantized(&mut self, packed: &Packed, target: &Target) -> Dense {
        let (acc_shift, m) = multipliers(&packed.ratios);
        Dense {
            acc_shift,
            zero_point: target.zero as i32,
            multipliers: self.program.weights.add_i32(&weights::pad_channels(&m)),
            lut: target.lut,
            ..packed.sums
        }
    }

    /// Input 0 of a dense node as a view, its weights and bias.
    fn operands(&mut self, node: &Node) -> Result<(View, &'g [f32], &'g [f32]), LowerError> {
        let x = self.get(node.inputs[0], self.read_form(node.inputs[0], Form::Narrow))?;
        let graph = self.graph;
        let Some(weights) = graph.floats(node.inputs[1]) else {
            return Err(self.unsupported(node, "weights must be constants"));
        };
        let bias = node.inputs.get(2).and_then(|&id| graph.floats(id)).unwrap_or_default();
        Ok((x, weights, bias))
    }

    fn emit_linear(
        &mut self,
        node: &Node,
        target: &Target,
        to: usize,
        residual: Option<(usize, u32)>,
    ) -> Result<(), LowerError> {
        if self.is_ivit() {
            return self.emit_linear_sums(node, target, to, None);
        }
        if let Some(format) = self.lmul_format(node) {
            return self.emit_lmul(node, format, target, to);
        }
        let (x, weights, bias) = self.operands(node)?;
        let x = self.contiguous(&x, &node.name)?;
        let [n, k] = self.graph.shape(node.inputs[1])[..] else {
            return Err(self.unsupported(node, "weights must have two dimensions"));
        };
        let packed = self.pack(node, weights, [n, k], bias, &x, target);
        let rows = (x.len() / k) as u32;
        let residual_shift = residual.map_or(0, |(_, shift)| shift);
        let dense = self.requantized(&packed, target);
        let linear = ops::linear::Linear { rows, k: k as u32, n: n as u32, residual_shift, dense };
        let op = match self.is_wide(&x) {
            true => ops::Op::LinearI16(ops::linear_i16::LinearI16 { linear, halves: packed.halves }),
            false => ops::Op::Linear(linear),
        };
        let inputs = match residual {
            Some((tensor, _)) => vec![Some(x.tensor), Some(tensor)],
            None => vec![Some(x.tensor)],
        };
        self.push(&node.name, op, &inputs, to);
        Ok(())
    }

    /// The published form: sums in 32 bits, then a dyadic requantization with the residual tensor and its ratio.
    pub(super) fn emit_linear_sums(
        &mut self,
        node: &Node,
        target: &Target,
        to: usize,
        residual: Option<(usize, f64)>,
    ) -> Result<(), LowerError> {
        let (x, weights, bias) = self.operands(node)?;
        let x = self.contiguous(&x, &node.name)?;
        let [n, k] = self.graph.shape(node.inputs[1])[..] else {
            return Err(self.unsupported(node, "weights must have two dimensions"));
        };
        let packed = self.pack(node, weights, [n, k], bias, &x, target);
        let rows = x.len() / k;
        let sums = self.sums(&node.name, &[rows, n]);
        let op =
            ops::linear::Linear { rows: rows as u32, k: k as u32, n: n as u32, residual_shift: 0, dense: packed.sums };
        self.push(&node.name, ops::Op::Linear(op), &[Some(x.tensor)], sums);
        self.quant_act(&node.name, sums, &packed.ratios, residual, to);
        Ok(())
    }

    pub(super) fn linear(&mut self, index: usize) -> Result<(), LowerError> {
        let node = &self.graph.nodes[index];
        let dtype = self.preferred(node.output);
        let (scale, zero) = match dtype {
            Dtype::I8 => self.narrow_units(node.output, self.asymmetric(node.output)),
            _ => (self.wide_scale(node.output), 0.0),
        };
        let target = Target { dtype, scale, zero, lut: Blob::NONE };
        let to = self.output(node.output, dtype, scale, zero);
        self.emit_linear(node, &target, to, None)
    }

    /// A dense layer with a table behind it.
    pub(super) fn linear_with_table(&mut self, index: usize, chain: &Chain) -> Result<(), LowerError> {
        let node = &self.graph.nodes[index];
        let wide = self.options.wide.contains(&chain.base);
        if self.preferred(chain.output) == Dtype::I16 || wide {
            // The table's argument or result is wanted in 16 bits: two operators.
            self.absorbed[index] = false;
            if !wide {
                self.wants[chain.base].narrow = true;
                self.wants[chain.base].zero_point = true;
            }
            match &node.op {
                Op::Conv2d(window) => self.conv2d(node, window)?,
                _ => self.linear(index)?,
            }
            return self.chain(chain);
        }
        let (scale, zero) = self.argument_units(chain);
        let asymmetric = self.asymmetric(chain.output);
        let (out_scale, out_zero) = self.narrow_units(chain.output, asymmetric);
        let argument = View::whole(0, &[1], scale, zero);
        let lut = self.table(chain, &argument, Dtype::I8, out_scale, out_zero);
        let target = Target { dtype: Dtype::I8, scale, zero, lut };
        if let Op::Conv2d(window) = &node.op {
            return self.emit_conv(node, window, &target, chain.output, (out_scale, out_zero));
        }
        let to = self.output(chain.output, Dtype::I8, out_scale, out_zero);
        self.emit_linear(node, &target, to, None)
    }

    /// A linear layer that adds to a 16-bit stream.
    pub(super) fn linear_with_residual(
        &mut self,
        linear: usize,
        residual: TensorId,
        add: usize,
    ) -> Result<(), LowerError> {
        let (node, sum) = (&self.graph.nodes[linear], self.graph.nodes[add].output);
        if self.is_ivit() {
            return self.quant_residual(linear, residual, sum);
        }
        let stream = self.get(residual, Form::Wide)?;
        let stream = self.contiguous(&stream, &node.name)?;
        let mut scale = self.stream_scale(sum, stream.scale);
        let ratio = (scale / stream.scale).log2();
        let mut stream = stream;
        let shift = if (ratio - ratio.round()).abs() < 1e-6 && (0.0..=15.0).contains(&ratio.round()) {
            ratio.round() as u32
        } else {
            // Scales too far apart for a shift: convert the stream first.
            scale = self.wide_scale(sum).max(1e-30);
            let to = self.new_tensor(&format!("{}/stream", node.name), Dtype::I16, &stream.shape, scale, 0.0, None);
            self.requant(&stream, to);
            stream = View::whole(to, &stream.shape.clone(), scale, 0.0);
            0
        };
        let target = Target { dtype: Dtype::I16, scale, zero: 0.0, lut: Blob::NONE };
        let to = self.output(sum, Dtype::I16, scale, 0.0);
        self.emit_linear(node, &target, to, Some((stream.tensor, shift)))
    }

    /// Geometry of `window` over the image `x`.
    fn window(&self, node: &Node, window: &Window, x: &View) -> Result<conv2d::Window, LowerError> {
        let out = self.graph.shape(node.output);
        if x.shape.len() != 4 || x.shape[0] != 1 {
            return Err(self.unsupported(node, "images must be [1, channels, height, width]"));
        }
        let stride = |d: usize| x.strides[d].max(0) as u32;
        Ok(conv2d::Window {
            in_h: x.shape[2] as u32,
            in_w: x.shape[3] as u32,
            out_h: out[2] as u32,
            out_w: out[3] as u32,
            kernel_h: window.kernel[0] as u32,
            kernel_w: window.kernel[1] as u32,
            stride_h: window.strides[0] as u32,
            stride_w: window.strides[1] as u32,
            pad_top: window.pads[0] as u32,
            pad_left: window.pads[1] as u32,
            dilation_h: window.dilations[0] as u32,
            dilation_w: window.dilations[1] as u32,
            channel_stride: stride(1),
            row_stride: stride(2),
            column_stride: stride(3),
            pad_value: x.zero.round().clamp(-128.0, 127.0) as i32,
        })
    }

    /// An image whose offset is 0 and whose strides are not negative.
    fn image(&mut self, view: View, name: &str) -> Result<View, LowerError> {
        if view.offset == 0 && view.strides.iter().all(|&s| s >= 0) {
            return Ok(view);
        }
        self.contiguous(&view, name)
    }

    /// The output of an operator that writes channels last, as the float graph sees it: channels first.
    fn image_output(&mut self, id: TensorId, dtype: Dtype, scale: f64, zero: f64) -> usize {
        let shape = self.graph.shape(id).to_vec();
        let [batch, n, h, w] = shape[..] else { return self.output(id, dtype, scale, zero) };
        let to = self.new_tensor(&self.name(id), dtype, &[batch, h, w, n], scale, zero, None);
        let view = View::whole(to, &[batch, h, w, n], scale, zero).transpose(&[0, 3, 1, 2]);
        self.set(id, view);
        to
    }

    pub(super) fn conv2d(&mut self, node: &Node, window: &Window) -> Result<(), LowerError> {
        let dtype = self.preferred(node.output);
        let (scale, zero) = match dtype {
            Dtype::I8 => self.narrow_units(node.output, self.asymmetric(node.output)),
            _ => (self.wide_scale(node.output), 0.0),
        };
        let target = Target { dtype, scale, zero, lut: Blob::NONE };
        self.emit_conv(node, window, &target, node.output, (scale, zero))
    }

    fn emit_conv(
        &mut self,
        node: &Node,
        window: &Window,
        target: &Target,
        out: TensorId,
        units: (f64, f64),
    ) -> Result<(), LowerError> {
        let (x, weights, bias) = self.operands(node)?;
        let mut x = self.image(x, &node.name)?;
        let mut geometry = self.window(node, window, &x)?;
        let padded = window.pads.iter().any(|&p| p > 0);
        if padded && x.zero != x.zero.round() {
            // Padding needs a whole zero point; the difference is below half a step everywhere.
            x.zero = x.zero.round();
        }
        let shape = self.graph.shape(node.inputs[1]).to_vec();
        let [n, c, kh, kw] = shape[..] else { return Err(self.unsupported(node, "weights must have four dimensions")) };
        let groups = window.groups;
        let (group_n, k) = (n / groups, kh * kw * c);
        let to = self.image_output(out, target.dtype, units.0, units.1);
        if kh == 1 && kw == 1 && groups == 1 {
            geometry.dilation_h = 1;
            geometry.dilation_w = 1;
        }
        if groups > 1 && c == 1 && group_n == 1 {
            return self.emit_depthwise(node, geometry, weights, bias, &x, target, to);
        }
        // (n, c, kh, kw) to (n, kh, kw, c).
        let reorder = |w: &[f32]| -> Vec<f32> {
            let taps = kh * kw;
            w.chunks_exact(c * taps)
                .flat_map(|filter| (0..taps * c).map(move |i| filter[(i % c) * taps + i / c]))
                .collect()
        };
        let reordered = reorder(weights);
        let mut parts = [Vec::<u8>::new(), Vec::new(), Vec::new(), Vec::new()];
        // One shift for all groups: found on the whole layer, then every group is packed with it.
        let format = self.weight_format(node);
        let floor = self.scale_floor(n, (&reordered, format), bias, &x, target);
        let whole = self.quantize_weights(node, &reordered, n, k, format, &floor);
        let packed = self.pack_quantized(node, &whole, &reordered, bias, &x, target);
        if groups == 1 && self.is_ivit() {
            let pixels = geometry.out_h as usize * geometry.out_w as usize;
            let sums = self.sums(&node.name, &[pixels, n]);
            let op =
                conv2d::Conv2d { window: geometry, channels: c as u32, groups: 1, n: n as u32, dense: packed.sums };
            self.push(&node.name, ops::Op::Conv2d(op), &[Some(x.tensor)], sums);
            self.quant_act(&node.name, sums, &packed.ratios, None, to);
            return Ok(());
        }
        let dense = self.requantized(&packed, target);
        if groups == 1 {
            let conv = conv2d::Conv2d { window: geometry, channels: c as u32, groups: 1, n: n as u32, dense };
            self.push_conv(node, conv, packed.halves, &x, to);
            return Ok(());
        }
        let section = |blob: Blob, program: &crate::program::Program| {
            program.weights.bytes()[blob.offset as usize..][..blob.bytes as usize].to_vec()
        };
        let biases = section(dense.bias, &self.program);
        let low_biases = match packed.halves.low_bias.is_some() {
            true => section(packed.halves.low_bias, &self.program),
            false => vec![0; biases.len()],
        };
        let factors = section(dense.multipliers, &self.program);
        // What fits 3 bits fits 4 as well.
        let format = match whole.weights.format {
            format if conv2d::Conv2d::parts_fit(format, groups, group_n, k) => format,
            _ => WeightFormat::I4,
        };
        for group in 0..groups {
            let rows = group * group_n..(group + 1) * group_n;
            let q = QWeights {
                values: whole.weights.values[rows.start * k..rows.end * k].to_vec(),
                scales: whole.weights.scales[rows.clone()].to_vec(),
                n: group_n,
                k,
                format,
            };
            parts[0].extend(weights::pack(&q));
            for (part, source) in [(1, &biases), (2, &factors), (3, &low_biases)] {
                let mut bytes = source[rows.start * 4..rows.end * 4].to_vec();
                bytes.resize(group_n.next_multiple_of(4) * 4, 0);
                parts[part].extend(bytes);
            }
        }
        let dense = Dense {
            weights: self.program.weights.add(&parts[0]),
            bias: self.program.weights.add(&parts[1]),
            multipliers: self.program.weights.add(&parts[2]),
            format,
            ..dense
        };
        let conv = conv2d::Conv2d { window: geometry, channels: c as u32, groups: groups as u32, n: n as u32, dense };
        let low_bias = if self.is_wide(&x) { self.program.weights.add(&parts[3]) } else { Blob::NONE };
        self.push_conv(node, conv, Halves { low_bias, ..packed.halves }, &x, to);
        Ok(())
    }

    /// Emits a convolution of an image of 8 or 16 bits.
    fn push_conv(&mut self, node: &Node, conv: conv2d::Conv2d, halves: Halves, x: &View, to: usize) {
        let op = match self.is_wide(x) {
            true => ops::Op::Conv2dI16(ops::conv2d_i16::Conv2dI16 { conv, halves }),
            false => ops::Op::Conv2d(conv),
        };
        self.push(&node.name, op, &[Some(x.tensor)], to);
    }

    #[allow(clippy::too_many_arguments)]
    fn emit_depthwise(
        &mut self,
        node: &Node,
        window: conv2d::Window,
        values: &[f32],
        bias: &[f32],
        x: &View,
        target: &Target,
        to: usize,
    ) -> Result<(), LowerError> {
        let channels = self.graph.shape(node.inputs[1])[0];
        let taps = values.len() / channels;
        let floor = self.scale_floor(channels, (values, WeightFormat::I8), bias, x, target);
        let layer = self.quantize_weights(node, values, channels, taps, WeightFormat::I8, &floor);
        let wide = self.is_wide(x);
        // The few products of a window fit as they are: no halves, the bias in whole steps.
        let (packed, q) = (self.pack_whole(node, &layer, values, bias, x, target), &layer.weights);
        // [channels, taps] to [taps, channels].
        let turned: Vec<i8> = (0..taps * channels).map(|i| q.values[(i % channels) * taps + i / channels]).collect();
        let dense = self.requantized(&packed, target);
        let dense = Dense { weights: self.program.weights.add_i8(&turned), format: WeightFormat::I8, ..dense };
        let conv = ops::depthwise::DepthwiseConv2d { window, channels: channels as u32, dense };
        let op = match wide {
            true => ops::Op::DepthwiseConv2dI16(ops::depthwise_i16::DepthwiseConv2dI16 { conv }),
            false => ops::Op::DepthwiseConv2d(conv),
        };
        self.push(&node.name, op, &[Some(x.tensor)], to);
        Ok(())
    }

    /// Max pooling, or average pooling with `count_include_pad`.
    pub(super) fn pool(&mut self, node: &Node, window: &Window, average: Option<bool>) -> Result<(), LowerError> {
        let form = if average.is_none() { self.read_form(node.inputs[0], Form::Narrow) } else { Form::Narrow };
        let x = self.get(node.inputs[0], form)?;
        let x = self.image(x, &node.name)?;
        let geometry = self.window(node, window, &x)?;
        let taps = window.kernel[0] * window.kernel[1];
        let (scale, zero) = match average {
            Some(_) => self.narrow_units(node.output, self.asymmetric(node.output)),
            None => (x.scale, x.zero),
        };
        let (acc_shift, table) = match average {
            Some(include_pad) => {
                let ratios: Vec<f64> =
                    (1..=taps).map(|count| x.scale / scale / if include_pad { taps } else { count } as f64).collect();
                multipliers(&ratios)
            }
            None => (0, Vec::new()),
        };
        if self.is_wide(&x) {
            let to = self.image_output(node.output, Dtype::I16, scale, zero);
            let op = ops::max_pool_i16::MaxPoolI16 { window: geometry, channels: x.shape[1] as u32 };
            self.push(&node.name, ops::Op::MaxPoolI16(op), &[Some(x.tensor)], to);
            return Ok(());
        }
        let to = self.image_output(node.output, Dtype::I8, scale, zero);
        let op = ops::pool::Pool2d {
            window: geometry,
            channels: x.shape[1] as u32,
            acc_shift,
            zero_point: zero as i32,
            multipliers: self.program.weights.add_i32(&table),
        };
        self.push(&node.name, ops::Op::Pool2d(op), &[Some(x.tensor)], to);
        Ok(())
    }

    pub(super) fn matmul(&mut self, node: &Node, transpose_b: bool) -> Result<(), LowerError> {
        let a = match self.probabilities(node.inputs[0]) {
            Some(view) => view,
            None => self.get(node.inputs[0], self.read_form(node.inputs[0], Form::Symmetric))?,
        };
        let b = self.get(node.inputs[1], Form::Symmetric)?;
        let unit_rows = |view: View, lowering: &mut Self| -> Result<View, LowerError> {
            let rank = view.shape.len();
            let straight = rank >= 2
                && view.offset == 0
                && (view.strides[rank - 1] == 1 || view.shape[rank - 1] == 1)
                && view.strides.iter().all(|&s| s >= 0)
                && view.strides[rank - 2] >= view.shape[rank - 1] as isize;
            if straight { Ok(view) } else { lowering.contiguous(&view, &node.name) }
        };
        // [.., k, n] read along its columns is [.., n, k]: no transposition at run time.
        let rank_b = b.shape.len();
        let columns = !transpose_b
            && rank_b >= 2
            && b.strides[rank_b - 2] == 1
            && b.shape[rank_b - 1] > 1
            && b.shape[rank_b - 2] > 1;
        let (b, transpose_b) = if columns {
            let mut perm: Vec<usize> = (0..rank_b).collect();
            perm.swap(rank_b - 1, rank_b - 2);
            (b.transpose(&perm), true)
        } else {
            (b, transpose_b)
        };
        let (a, b) = (unit_rows(a, self)?, unit_rows(b, self)?);
        let out = self.graph.shape(node.output).to_vec();
        let (rank_a, rank_b, rank) = (a.shape.len(), b.shape.len(), out.len());
        let (m, k) = (a.shape[rank_a - 2], a.shape[rank_a - 1]);
        let n = if transpose_b { b.shape[rank_b - 2] } else { b.shape[rank_b - 1] };
        let batch_shape = &out[..rank - 2];
        let strides = |view: &View| -> Vec<isize> {
            let own = view.shape.len() - 2;
            let batch =
                View { shape: view.shape[..own].to_vec(), strides: view.strides[..own].to_vec(), ..view.clone() };
            batch.expand(batch_shape).strides
        };
        let (sa, sb) = (strides(&a), strides(&b));
        let batch_view = |s: &[isize]| View {
            shape: batch_shape.to_vec(),
            strides: s.to_vec(),
            offset: 0,
            tensor: 0,
            scale: 1.0,
            zero: 0.0,
        };
        let (dims, extents) = super::view::collapse(batch_shape, &[&batch_view(&sa), &batch_view(&sb)])
            .filter(|(dims, _)| dims[..3].iter().all(|&d| d == 1))
            .ok_or_else(|| LowerError::Rank(node.name.clone()))?;
        let last3 = |e: &ops::Extent| [3, 4, 5].map(|d| e.strides[d].max(0) as u32);
        let dtype = self.preferred(node.output);
        let (scale, zero) = match dtype {
            Dtype::I8 => self.narrow_units(node.output, self.asymmetric(node.output)),
            _ => (self.wide_scale(node.output), 0.0),
        };
        let wide = self.is_wide(&a) && !self.is_ivit();
        // 2^23 for every product, in both halves together.
        let drop = (0..8).find(|drop| (k as u64) << (23 - drop) <= 1 << 31).unwrap_or(8);
        let ratio = a.scale * b.scale / scale * if wide { f64::from(1 << drop) } else { 1.0 };
        let (acc_shift, multiplier) = if self.is_ivit() { (0, 0) } else { multiplier(ratio) };
        let to = self.output(node.output, dtype, scale, zero);
        let op = ops::matmul::MatMul {
            batch: [dims[3], dims[4], dims[5]],
            m: m as u32,
            n: n as u32,
            k: k as u32,
            a_batch: last3(&extents[0]),
            a_row: a.strides[rank_a - 2].max(k as isize) as u32,
            b_batch: last3(&extents[1]),
            b_row: b.strides[rank_b - 2].max(b.shape[rank_b - 1] as isize) as u32,
            b_transposed: transpose_b,
            acc_shift,
            multiplier,
            zero_point: zero as i32,
        };
        if self.is_ivit() {
            let sums = self.sums(&node.name, &out);
            self.push(&node.name, ops::Op::MatMul(op), &[Some(a.tensor), Some(b.tensor)], sums);
            self.quant_act(&node.name, sums, &[ratio], None, to);
            return Ok(());
        }
        let op = match wide {
            true => ops::Op::MatMulI16(ops::matmul_i16::MatMulI16 { product: op, drop }),
            false => ops::Op::MatMul(op),
        };
        self.push(&node.name, op, &[Some(a.tensor), Some(b.tensor)], to);
        Ok(())
    }
}
