//! Functions of rows and reductions: softmax, normalization, sums, means, extremes.

use super::movement::walk;
use super::operand::Operand;
use crate::graph::{Data, DataType, Reduce, contiguous_strides};

pub(super) fn rows(x: &[f32], shape: &[usize], f: impl Fn(&[f32], &mut [f32])) -> Option<Data> {
    let n = shape.last().copied().unwrap_or(1).max(1);
    let mut out = vec![0.0; x.len()];
    for (x, y) in x.chunks_exact(n).zip(out.chunks_exact_mut(n)) {
        f(x, y);
    }
    Some(Data::Float(out))
}

pub(super) fn softmax_row(x: &[f32], y: &mut [f32]) {
    let max = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0f64;
    for (x, y) in x.iter().zip(y.iter_mut()) {
        // A row that is masked out everywhere has no maximum: it becomes uniform instead of NaN.
        *y = if max == f32::NEG_INFINITY { 1.0 } else { (x - max).exp() };
        sum += f64::from(*y);
    }
    y.iter_mut().for_each(|y| *y = (f64::from(*y) / sum) as f32);
}

pub(super) fn norm_row(x: &[f32], y: &mut [f32], gamma: Option<&[f32]>, beta: Option<&[f32]>, eps: f64, centre: bool) {
    let n = x.len() as f64;
    let mean = if centre { x.iter().map(|&v| f64::from(v)).sum::<f64>() / n } else { 0.0 };
    let variance = x.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / n;
    let factor = 1.0 / (variance + eps).sqrt();
    let at = |values: Option<&[f32]>, i: usize, default: f64| match values {
        Some([one]) => f64::from(*one),
        Some(values) => values.get(i).map_or(default, |&v| f64::from(v)),
        None => default,
    };
    for (i, (x, y)) in x.iter().zip(y).enumerate() {
        *y = ((f64::from(*x) - mean) * factor * at(gamma, i, 1.0) + at(beta, i, 0.0)) as f32;
    }
}

pub(super) fn reduce(x: Operand<'_>, kind: Reduce, axes: &[usize]) -> Option<Data> {
    let rank = x.0.len();
    if axes.iter().any(|&a| a >= rank) {
        return None;
    }
    // Output strides are 0 along reduced dimensions.
    let kept: Vec<usize> = (0..rank).filter(|d| !axes.contains(d)).collect();
    let out_shape: Vec<usize> = kept.iter().map(|&d| x.0[d]).collect();
    let own = contiguous_strides(&out_shape);
    let mut strides = vec![0isize; rank];
    for (&d, &s) in kept.iter().zip(&own) {
        strides[d] = s as isize;
    }
    let len: usize = out_shape.iter().product();
    let count: usize = axes.iter().map(|&a| x.0[a]).product();
    let start = match kind {
        Reduce::Mean | Reduce::Sum => 0.0,
        Reduce::Prod => 1.0,
        Reduce::Max => f64::NEG_INFINITY,
        Reduce::Min => f64::INFINITY,
    };
    let is_int = x.1.dtype() == DataType::Int;
    let values: Vec<f64> = match x.1 {
        Data::Int(v) => v.iter().map(|&v| v as f64).collect(),
        other => other.to_f32().into_iter().map(f64::from).collect(),
    };
    let mut out = vec![start; len];
    let mut source = values.iter();
    walk(0, x.0, &strides, |i| {
        let (Some(acc), Some(&v)) = (out.get_mut(i), source.next()) else { return };
        *acc = match kind {
            Reduce::Mean | Reduce::Sum => *acc + v,
            Reduce::Prod => *acc * v,
            Reduce::Max => acc.max(v),
            Reduce::Min => acc.min(v),
        };
    });
    if kind == Reduce::Mean {
        out.iter_mut().for_each(|v| *v /= count.max(1) as f64);
    }
    Some(if is_int {
        Data::Int(out.iter().map(|&v| v as i64).collect())
    } else {
        Data::Float(out.iter().map(|&v| v as f32).collect())
    })
}
