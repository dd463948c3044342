//! What a decoder has besides: keys and values in the state, attention over them, rotations and tables by position.

use super::elementwise::LOG2_UNITS;
use super::{Form, LowerError, Lowering};
use crate::graph::{Attention, Causal, HeadView, Node, Rope, TensorId};
use crate::program::{State, TensorIndex};
use crate::quantize::multiplier::{multiplier, row_ratio};
use shiftformer::ops::attention::causal::{CausalAttention, WindowedAttention};
use shiftformer::ops::attention::{self, AttentionParams, BiasView};
use shiftformer::ops::kv_append::KvAppend;
use shiftformer::ops::{self, positions, rope};
use shiftformer::tensor::Dtype;

/// 1 as a cosine in the table of a rotation.
const ANGLE_ONE: f64 = 32768.0;

impl Lowering<'_> {
    /// Attention of the rows of a run to all positions up to theirs, or the last of them; new keys and values go to the
    /// state first.
    pub(super) fn causal_attention(&mut self, node: &Node, a: &Attention, causal: Causal) -> Result<(), LowerError> {
        let (rows, positions) = (a.n_q, causal.positions);
        // A row at a time keeps what its window has, in a ring; more at once need what lies before the first of them.
        let window = (causal.window < positions).then_some(causal.window);
        let capacity = window.filter(|_| rows == 1).unwrap_or(positions);
        let mut operands = Vec::new();
        for &id in &node.inputs[..3] {
            let view = self.get(id, Form::Symmetric)?;
            operands.push(self.contiguous(&view, &node.name)?);
        }
        let widths = [(a.heads, a.head_dim), (a.kv_heads, a.head_dim), (a.kv_heads, a.v_dim)].map(|(n, d)| n * d);
        let is_rows = |view: HeadView, width: usize, of_head: usize| {
            view.offset == 0 && view.row == width && (view.head == of_head || width == of_head)
        };
        let in_rows = is_rows(a.q, widths[0], a.head_dim)
            && is_rows(a.k, widths[1], a.head_dim)
            && is_rows(a.v, widths[2], a.v_dim)
            && is_rows(a.out, a.heads * a.v_dim, a.v_dim);
        if !in_rows || operands.iter().zip(widths).any(|(view, width)| view.len() != rows * width) {
            return Err(self.unsupported(node, "queries, keys or values of a token that do not lie in one row"));
        }
        let kept = self.program.state.get_or_insert(State { capacity: positions, rows });
        if *kept != (State { capacity: positions, rows }) {
            return Err(self.unsupported(node, "caches of different lengths"));
        }
        let (q, k, v) = (operands[0].clone(), operands[1].clone(), operands[2].clone());
        let keys = self.keep(node, "keys", k.tensor, widths[1], capacity, rows);
        let values = self.keep(node, "values", v.tensor, widths[2], capacity, rows);
        let wide_exp = self.options.wide_exp && capacity <= attention::MAX_WIDE_ROW as usize;
        let (acc_shift, score_multiplier) = multiplier(q.scale * k.scale * f64::from(a.scale) * LOG2_UNITS);
        let (scale, zero) = self.narrow_units(node.output, self.asymmetric(node.output));
        // The ratio of value and output scale has a limited range; the output scale gives way.
        let scale = scale.clamp(v.scale / 31.0, v.scale * 63.0);
        let (ratio_m, ratio_shift) = row_ratio(v.scale / scale);
        let view = |width: usize, head: usize| attention::HeadView {
            offset: 0,
            batch: 0,
            head: head as u32,
            row: width as u32,
        };
        let attention = AttentionParams {
            batch: 1,
            heads: a.heads as u32,
            kv_group: (a.heads / a.kv_heads.max(1)) as u32,
            n_q: rows as u32,
            n_k: capacity as u32,
            head_dim: a.head_dim as u32,
            v_dim: a.v_dim as u32,
            wide_exp,
            acc_shift,
            score_multiplier,
            ratio_m,
            ratio_shift,
            zero_point: zero as i32,
            q: view(widths[0], a.head_dim),
            k: view(widths[1], a.head_dim),
            v: view(widths[2], a.v_dim),
            out: view(a.heads * a.v_dim, a.v_dim),
            bias0: BiasView::NONE,
            bias1: BiasView::NONE,
        };
        let to = self.output(node.output, Dtype::I8, scale, zero);
        let op = match window {
            None => ops::Op::CausalAttention(CausalAttention { attention }),
            Some(window) => ops::Op::WindowedAttention(WindowedAttention { attention, window: window as u32 }),
        };
        self.push(&node.name, op, &[Some(q.tensor), Some(keys), Some(values)], to);
        Ok(())
    }

    /// Rows of `from` into a new tensor of the state.
    fn keep(
        &mut self,
        node: &Node,
        what: &str,
        from: TensorIndex,
        width: usize,
        capacity: usize,
        rows: usize,
    ) -> TensorIndex {
        let name = format!("{}/{what}", node.name);
        let (scale, zero) = (self.program.tensors[from].scale, self.program.tensors[from].zero);
        let state = self.new_tensor(&name, Dtype::I8, &[capacity, width], scale, zero, None);
        self.program.tensors[state].in_state = true;
        let op = KvAppend { rows: rows as u32, width: width as u32, capacity: capacity as u32 };
        self.push(&name, ops::Op::KvAppend(op), &[Some(from)], state);
        state
    }

    pub(super) fn rope(&mut self, node: &Node, r: Rope) -> Result<(), LowerError> {
        // 16 bits here save one rounding of queries and keys.
        let view = self.get(node.inputs[0], Form::Wide)?;
        let view = self.contiguous(&view, &node.name)?;
        let angles = |id: TensorId| self.graph.floats(id).map(<[f32]>::to_vec).unwrap_or_default();
        let (cosines, sines) = (angles(node.inputs[1]), angles(node.inputs[2]));
        let fixed = |value: f32| (f64::from(value) * ANGLE_ONE).round().clamp(-ANGLE_ONE, ANGLE_ONE - 1.0) as i16;
        let table: Vec<i16> = cosines.iter().zip(&sines).flat_map(|(&cos, &sin)| [fixed(cos), fixed(sin)]).collect();
        let table = self.program.weights.add_i16(&table);
        let rows = view.len() / (r.heads * r.head_dim).max(1);
        let (scale, _) = self.narrow_units(node.output, false);
        // The table counts half with 16-bit elements, whose products leave no bit for a shift.
        let ratio = view.scale / scale / (ANGLE_ONE / 2.0);
        let (acc_shift, multiplier) = (0, (ratio * 2f64.powi(32)).round().clamp(1.0, f64::from(i32::MAX)) as i32);
        let op = rope::Rope {
            rows: rows as u32,
            heads: r.heads as u32,
            head_dim: r.head_dim as u32,
            rotary: r.rotary as u32,
            interleaved: r.interleaved,
            capacity: self.graph.shape(node.inputs[1]).first().map_or(0, |&n| n as u32),
            acc_shift,
            multiplier,
            table,
        };
        let to = self.output(node.output, Dtype::I8, scale, 0.0);
        self.push(&node.name, ops::Op::Rope(op), &[Some(view.tensor)], to);
        Ok(())
    }

    pub(super) fn positions(&mut self, node: &Node) -> Result<(), LowerError> {
        let form = if self.preferred(node.output) == Dtype::I8 { Form::Symmetric } else { Form::Wide };
        let table = self.get(node.inputs[0], form)?;
        let dtype = self.program.tensors[table.tensor].dtype;
        let [capacity, width] = table.shape[..] else {
            return Err(self.unsupported(node, "a table of positions must have two dimensions"));
        };
        let rows = self.graph.tensors[node.output].len() / width.max(1);
        let to = self.output(node.output, dtype, table.scale, table.zero);
        let op = positions::Positions { rows: rows as u32, width: width as u32, capacity: capacity as u32 };
        self.push(&node.name, ops::Op::Positions(op), &[Some(table.tensor)], to);
        Ok(())
    }
}
