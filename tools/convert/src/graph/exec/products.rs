//! Products of matrices, and the dense layers made of them.

use super::movement::{broadcast_strides, walk};
use super::operand::Operand;
use crate::graph::Data;

/// `c[m, n] = a[m, k] b[k, n]` with the given strides, in elements.
#[derive(Clone, Copy)]
pub(super) struct Gemm {
    pub m: usize,
    pub k: usize,
    pub n: usize,
    pub a_strides: [usize; 2],
    pub b_strides: [usize; 2],
}

impl Gemm {
    /// `None` when a stride reaches beyond an operand.
    pub fn run(&self, a: &[f32], b: &[f32], c: &mut [f32]) -> Option<()> {
        let reach = |rows: usize, cols: usize, s: [usize; 2]| (rows.max(1) - 1) * s[0] + (cols.max(1) - 1) * s[1];
        let empty = self.m == 0 || self.n == 0;
        if empty || self.k == 0 {
            c.iter_mut().for_each(|c| *c = 0.0);
            return Some(());
        }
        let fits = reach(self.m, self.k, self.a_strides) < a.len()
            && reach(self.k, self.n, self.b_strides) < b.len()
            && c.len() >= self.m * self.n;
        if !fits {
            return None;
        }
        // SAFETY: the line above shows that every element addressed by the strides lies inside its slice.
        unsafe {
            matrixmultiply::sgemm(
                self.m,
                self.k,
                self.n,
                1.0,
                a.as_ptr(),
                self.a_strides[0] as isize,
                self.a_strides[1] as isize,
                b.as_ptr(),
                self.b_strides[0] as isize,
                self.b_strides[1] as isize,
                0.0,
                c.as_mut_ptr(),
                self.n as isize,
                1,
            );
        }
        Some(())
    }
}

pub(super) fn add_bias(out: &mut [f32], n: usize, bias: Option<&[f32]>) {
    if let Some(bias) = bias {
        for row in out.chunks_exact_mut(n.max(1)) {
            row.iter_mut().zip(bias.iter().cycle()).for_each(|(y, b)| *y += b);
        }
    }
}

pub(super) fn linear(x: &[f32], w: &[f32], bias: Option<&[f32]>, w_shape: &[usize]) -> Option<Data> {
    let [n, k] = w_shape[..] else { return None };
    let m = x.len().checked_div(k)?;
    let mut out = vec![0.0; m * n];
    Gemm { m, k, n, a_strides: [k, 1], b_strides: [1, k] }.run(x, w, &mut out)?;
    add_bias(&mut out, n, bias);
    Some(Data::Float(out))
}

/// [`linear`] of several samples with the same weights; `None` where they are not, or something does not fit.
pub(super) fn linear_batch(samples: &[Vec<Operand<'_>>], shape: &[usize]) -> Option<Vec<Data>> {
    let ([(_, x), (w_shape, w), bias @ ..], true) = (&samples.first()?[..], samples.len() > 1) else { return None };
    let len = x.len();
    let same = |inputs: &Vec<Operand<'_>>| {
        let shared = |(a, b): (&Operand<'_>, &Operand<'_>)| std::ptr::eq(a.1, b.1);
        inputs.len() == samples[0].len()
            && inputs[0].1.len() == len
            && inputs[1..].iter().zip(&samples[0][1..]).all(shared)
    };
    if !samples.iter().all(same) || w_shape.iter().product::<usize>() != w.len() {
        return None;
    }
    let mut rows = Vec::with_capacity(len * samples.len());
    for inputs in samples {
        rows.extend_from_slice(inputs[0].1.floats()?);
    }
    let bias = match bias {
        [] => None,
        [(_, bias), ..] => Some(bias.floats()?),
    };
    let Data::Float(out) = linear(&rows, w.floats()?, bias, w_shape)? else { return None };
    let size: usize = shape.iter().product();
    let whole = size > 0 && out.len() == size * samples.len();
    whole.then(|| out.chunks_exact(size).map(|part| Data::Float(part.to_vec())).collect())
}

pub(super) fn matmul(a: Operand<'_>, b: Operand<'_>, transpose_b: bool, shape: &[usize]) -> Option<Data> {
    // One-dimensional operands are a row on the left and a column on the right.
    let a_shape = if a.0.len() == 1 { vec![1, a.0[0]] } else { a.0.to_vec() };
    let b_shape = if b.0.len() == 1 { vec![b.0[0], 1] } else { b.0.to_vec() };
    let (ra, rb) = (a_shape.len().checked_sub(2)?, b_shape.len().checked_sub(2)?);
    let (m, k) = (a_shape[ra], a_shape[ra + 1]);
    let (bk, n) = if transpose_b { (b_shape[rb + 1], b_shape[rb]) } else { (b_shape[rb], b_shape[rb + 1]) };
    if k != bk {
        return None;
    }
    let batch_rank = ra.max(rb);
    let mut batch = vec![1usize; batch_rank];
    for (d, size) in batch.iter_mut().enumerate() {
        let dim = |s: &[usize], r: usize| (d + r).checked_sub(batch_rank).map_or(1, |i| s[i]);
        *size = dim(&a_shape, ra).max(dim(&b_shape, rb));
    }
    let strides = |s: &[usize], r: usize, matrix: usize| -> Option<Vec<isize>> {
        Some(broadcast_strides(&s[..r], &batch)?.iter().map(|&x| x * matrix as isize).collect())
    };
    let (sa, sb) = (strides(&a_shape, ra, m * k)?, strides(&b_shape, rb, k * n)?);
    let (mut a_at, mut b_at) = (Vec::new(), Vec::new());
    walk(0, &batch, &sa, |i| a_at.push(i));
    walk(0, &batch, &sb, |i| b_at.push(i));
    let (a, b) = (a.1.floats()?, b.1.floats()?);
    let mut out = vec![0.0; shape.iter().product()];
    if out.len() != a_at.len() * m * n {
        return None;
    }
    let b_strides = if transpose_b { [1, k] } else { [n, 1] };
    for ((a_at, b_at), out) in a_at.into_iter().zip(b_at).zip(out.chunks_exact_mut((m * n).max(1))) {
        Gemm { m, k, n, a_strides: [k, 1], b_strides }.run(a.get(a_at..)?, b.get(b_at..)?, out)?;
    }
    Some(Data::Float(out))
}
