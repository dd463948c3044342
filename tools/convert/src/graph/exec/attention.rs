//! Attention over heads in place.

use super::movement::broadcast_strides;
use super::operand::Operand;
use super::products::Gemm;
use super::rows::softmax_row;
use crate::graph::{Attention, Data, HeadView};

/// The element where row `row` of `head` of `batch` starts.
pub(super) fn view_start(view: &HeadView, batch: usize, head: usize) -> usize {
    view.offset + batch * view.batch + head * view.head
}

pub(super) fn attend(a: &Attention, inputs: &[Operand<'_>], shape: &[usize]) -> Option<Data> {
    let [q, k, v] = [inputs.first()?.1.floats()?, inputs.get(1)?.1.floats()?, inputs.get(2)?.1.floats()?];
    let score_shape = [a.batch, a.heads, a.n_q, a.n_k];
    let mut biases = Vec::new();
    for &(from, data) in inputs.iter().skip(3) {
        let extra = from.len().saturating_sub(4);
        let merged: Vec<usize> = if extra > 0 {
            // Leading batch dimensions count as one.
            let lead = from[..=extra].iter().product();
            std::iter::once(lead).chain(from[extra + 1..].iter().copied()).collect()
        } else {
            from.to_vec()
        };
        biases.push((broadcast_strides(&merged, &score_shape)?, data.floats()?));
    }
    let mut out = vec![0.0f32; shape.iter().product()];
    let mut scores = vec![0.0f32; a.n_q * a.n_k];
    let mut exps = vec![0.0f32; a.n_k];
    let mut values = vec![0.0f32; a.n_q * a.v_dim];
    let group = (a.heads / a.kv_heads.max(1)).max(1);
    for batch in 0..a.batch {
        for head in 0..a.heads {
            let q = q.get(view_start(&a.q, batch, head)..)?;
            let k = k.get(view_start(&a.k, batch, head / group)..)?;
            let v = v.get(view_start(&a.v, batch, head / group)..)?;
            let gemm = Gemm { m: a.n_q, k: a.head_dim, n: a.n_k, a_strides: [a.q.row, 1], b_strides: [1, a.k.row] };
            gemm.run(q, k, &mut scores)?;
            for (row, scores) in scores.chunks_exact_mut(a.n_k.max(1)).enumerate() {
                for (column, score) in scores.iter_mut().enumerate() {
                    *score *= a.scale;
                    for (strides, bias) in &biases {
                        let index = [batch, head, row, column];
                        let at: isize = strides.iter().zip(index).map(|(&s, i)| s * i as isize).sum();
                        *score += bias.get(at as usize)?;
                    }
                    if a.causal.is_some_and(|causal| column > row || row - column >= causal.window) {
                        *score = f32::NEG_INFINITY;
                    }
                }
                softmax_row(scores, &mut exps);
                scores.copy_from_slice(&exps);
            }
            let gemm = Gemm { m: a.n_q, k: a.n_k, n: a.v_dim, a_strides: [a.n_k, 1], b_strides: [a.v.row, 1] };
            gemm.run(&scores, v, &mut values)?;
            let start = view_start(&a.out, batch, head);
            for (row, values) in values.chunks_exact(a.v_dim.max(1)).enumerate() {
                out.get_mut(start + row * a.out.row..)?.get_mut(..a.v_dim)?.copy_from_slice(values);
            }
        }
    }
    Some(Data::Float(out))
}
