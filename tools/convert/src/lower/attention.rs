//! Attention: operands by strides, biases in log2 units.

use super::elementwise::LOG2_UNITS;
use super::view::View;
use super::{Form, LowerError, Lowering};
use crate::graph::{Attention, Binary, HeadView, Node, Op, TensorId};
use crate::quantize::multiplier::{multiplier, row_ratio};
use shiftformer::arith::exp::MASKED;
use shiftformer::ops::attention::{self, AttentionParams, BiasView};
use shiftformer::ops::{self};
use shiftformer::tensor::Dtype;

/// Real scores at or below this are masked out.
const MASK_LIMIT: f64 = -80.0;

/// A bias in log2 units with 8 fractional bits.
fn bias_units(real: f64) -> i16 {
    if real.is_nan() || real <= MASK_LIMIT {
        return MASKED;
    }
    (real * LOG2_UNITS).round().clamp(-32767.0, 32767.0) as i16
}

impl Lowering<'_> {
    pub(super) fn attention(&mut self, node: &Node, a: &Attention) -> Result<(), LowerError> {
        let mut operands = Vec::new();
        for &id in &node.inputs[..3] {
            let view = self.get(id, Form::Symmetric)?;
            operands.push(self.contiguous(&view, &node.name)?);
        }
        let (q, k, v) = (&operands[0], &operands[1], &operands[2]);
        let scores = [a.batch, a.heads, a.n_q, a.n_k];
        let mut biases = [None, None];
        let mut views = [BiasView::NONE; 2];
        for (slot, &id) in node.inputs[3..].iter().enumerate().take(2) {
            let view = self.bias(id, &node.name)?;
            let rank = view.shape.len();
            let view = if rank > 4 { view.reshape(&scores).unwrap_or(view) } else { view };
            let view = view.expand(&scores);
            if view.strides.iter().any(|&s| s < 0) {
                return Err(self.unsupported(node, "a bias read backwards"));
            }
            let [batch, head, row, column] = [0, 1, 2, 3].map(|d| view.strides[d] as u32);
            views[slot] = BiasView { offset: view.offset as u32, batch, head, row, column };
            biases[slot] = Some(view.tensor);
        }
        let wide_exp = self.options.wide_exp && a.n_k <= attention::MAX_WIDE_ROW as usize;
        let (acc_shift, score_multiplier) = multiplier(q.scale * k.scale * f64::from(a.scale) * LOG2_UNITS);
        let (scale, zero) = self.narrow_units(node.output, self.asymmetric(node.output));
        // The ratio of value and output scale has a limited range; the output scale gives way.
        let scale = scale.clamp(v.scale / 31.0, v.scale * 63.0);
        let (ratio_m, ratio_shift) = row_ratio(v.scale / scale);
        let head_view = |view: HeadView| attention::HeadView {
            offset: view.offset as u32,
            batch: view.batch as u32,
            head: view.head as u32,
            row: view.row as u32,
        };
        let params = AttentionParams {
            batch: a.batch as u32,
            heads: a.heads as u32,
            kv_group: (a.heads / a.kv_heads.max(1)) as u32,
            n_q: a.n_q as u32,
            n_k: a.n_k as u32,
            head_dim: a.head_dim as u32,
            v_dim: a.v_dim as u32,
            wide_exp,
            acc_shift,
            score_multiplier,
            ratio_m,
            ratio_shift,
            zero_point: zero as i32,
            q: head_view(a.q),
            k: head_view(a.k),
            v: head_view(a.v),
            out: head_view(a.out),
            bias0: views[0],
            bias1: views[1],
        };
        let (q, k, v) = (q.tensor, k.tensor, v.tensor);
        let to = self.output(node.output, Dtype::I8, scale, zero);
        if !self.options.unfused_attention {
            let op = ops::Op::Attention(attention::Attention { attention: params });
            self.push(&node.name, op, &[Some(q), Some(k), Some(v), biases[0], biases[1]], to);
            return Ok(());
        }
        let name = &node.name;
        let logits = self.new_tensor(&format!("{name}/scores"), Dtype::I32, &scores, 1.0 / LOG2_UNITS, 0.0, None);
        let op = ops::Op::AttentionScores(attention::AttentionScores { attention: params });
        self.push(&format!("{name}/scores"), op, &[Some(q), Some(k), None, biases[0], biases[1]], logits);
        let dtype = if wide_exp { Dtype::U16 } else { Dtype::U8 };
        let exps = self.new_tensor(&format!("{name}/exp"), dtype, &scores, 1.0, 0.0, None);
        let op = ops::Op::AttentionExp(attention::AttentionExp { attention: params });
        self.push(&format!("{name}/exp"), op, &[Some(logits)], exps);
        let op = ops::Op::AttentionValues(attention::AttentionValues { attention: params });
        self.push(name, op, &[Some(exps), None, Some(v)], to);
        Ok(())
    }

    /// A bias operand as an `i16` view in log2 units.
    fn bias(&mut self, id: TensorId, name: &str) -> Result<View, LowerError> {
        let units = 1.0 / LOG2_UNITS;
        if let Some(data) = self.graph.tensors[id].value.clone() {
            let values: Vec<i16> = data.to_f32().iter().map(|&v| bias_units(f64::from(v))).collect();
            let shape = self.graph.shape(id).to_vec();
            let blob = self.program.weights.add_i16(&values);
            let index = self.new_tensor(&self.name(id), Dtype::I16, &shape, units, 0.0, None);
            self.program.tensors[index].constant = Some(blob);
            return Ok(View::whole(index, &shape, units, 0.0));
        }
        let producer = self.producers[id];
        if let Some(index) = producer {
            let node = &self.graph.nodes[index];
            match &node.op {
                Op::Transpose { .. } | Op::Reshape | Op::Slice { .. } | Op::Expand => {
                    let view = self.bias(node.inputs[0], name)?;
                    return self.moved(node, &view);
                }
                Op::Binary(Binary::Add) if !self.chains.contains_key(&index) => {
                    // Two parts: added in log2 units, where masked stays masked by saturation.
                    let (a, b) = (self.bias(node.inputs[0], name)?, self.bias(node.inputs[1], name)?);
                    let shape = self.graph.shape(id).to_vec();
                    let (a, b) = (a.expand(&shape), b.expand(&shape));
                    let collapsed =
                        super::view::collapse(&shape, &[&a, &b]).ok_or_else(|| LowerError::Rank(name.to_owned()))?;
                    let (dims, extents) = collapsed;
                    let extents: Vec<_> = extents.iter().map(|e| super::view::normalize(&dims, e)).collect();
                    let to = self.new_tensor(&format!("{name}/bias"), Dtype::I16, &shape, units, 0.0, None);
                    let op = ops::add::Add { dims, a: extents[0], b: extents[1], ma: 1, mb: 1, bias: 0, shift: 0 };
                    self.push(&format!("{name}/bias"), ops::Op::Add(op), &[Some(a.tensor), Some(b.tensor)], to);
                    return Ok(View::whole(to, &shape, units, 0.0));
                }
                _ => {}
            }
            if let Some(chain) = self.chains.get(&index).cloned() {
                let input = self.get(chain.base, Form::Narrow)?;
                let input = self.contiguous(&input, name)?;
                let values: Vec<i16> = (-128..=127)
                    .map(|q| bias_units(self.eval_chain(&chain, (f64::from(q) - input.zero) * input.scale)))
                    .collect();
                let table = self.program.weights.add_i16(&values);
                let shape = self.graph.shape(id).to_vec();
                let to = self.new_tensor(&format!("{name}/mask"), Dtype::I16, &shape, units, 0.0, None);
                let op = ops::lut::Lut { len: input.len() as u32, table };
                self.push(&format!("{name}/mask"), ops::Op::Lut(op), &[Some(input.tensor)], to);
                return Ok(View::whole(to, &shape, units, 0.0));
            }
        }
        // A computed bias: the same values in log2 units.
        let source = self.get(id, Form::Any)?;
        let source = self.contiguous(&source, name)?;
        let to = self.new_tensor(&format!("{name}/bias"), Dtype::I16, &source.shape, units, 0.0, None);
        self.requant(&source, to);
        Ok(View::whole(to, &source.shape, units, 0.0))
    }
}
