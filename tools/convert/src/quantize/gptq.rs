//! Error-compensated rounding of weights: GPTQ, then coordinate descent.
//!
//! With `H = X^T X` over the rows `X` of a layer's inputs, the error of a rounded row `q` of weights is
//! `(w - q) H (w - q)^T`. GPTQ rounds one column after the other, the one with the largest `H_jj` first, and moves what
//! was lost to the columns still to come. Coordinate descent then changes single weights by whole steps as long as that
//! lowers the error.
//!
//! # Reference
//! Frantar, Ashkboos, Hoefler, Alistarh, "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
//! Transformers", ICLR 2023, Algorithm 1 (columns in order of activation size); Behdin et al., "QuantEase", 2023, for
//! the coordinate descent.

use super::weights::{Grid, QWeights};
use crate::parallel;
use shiftformer::weights::WeightFormat;

/// Second moments of the input columns of a layer.
#[derive(Clone, Debug)]
pub struct Hessian {
    /// `[k, k]`, row major.
    sums: Vec<f64>,
    k: usize,
}

/// Part of the mean diagonal added to every diagonal entry, so that columns that never vary can be inverted.
const DAMPING: f64 = 0.01;
/// Passes of coordinate descent; most layers stop changing after three.
const PASSES: usize = 6;
/// Scales that are tried for a row of 4 bits.
const SCALES: usize = 9;

impl Hessian {
    /// For inputs of width `k`.
    pub fn new(k: usize) -> Self {
        Self { sums: vec![0.0; k * k], k }
    }

    /// Adds the rows of `x` (`[rows, k]`).
    pub fn add(&mut self, x: &[f32]) {
        for row in x.chunks_exact(self.k.max(1)) {
            for (i, &a) in row.iter().enumerate().filter(|(_, a)| **a != 0.0) {
                let sums = &mut self.sums[i * self.k..(i + 1) * self.k];
                sums.iter_mut().zip(row).for_each(|(s, &b)| *s += f64::from(a) * f64::from(b));
            }
        }
    }

    /// Adds the sums of another part of the samples.
    pub fn merge(&mut self, other: &Self) {
        self.sums.iter_mut().zip(&other.sums).for_each(|(a, b)| *a += b);
    }

    fn at(&self, i: usize, j: usize) -> f64 {
        self.sums[i * self.k + j]
    }

    fn damped(&self) -> Self {
        let mean = (0..self.k).map(|i| self.at(i, i)).sum::<f64>() / self.k.max(1) as f64;
        let mut damped = self.clone();
        for i in 0..self.k {
            damped.sums[i * self.k + i] += (mean * DAMPING).max(1e-12);
        }
        damped
    }

    /// Takes the means out: `H - s s^T / rows`, `s` the sums of the columns.
    pub fn centre(&mut self, sums: &[f64], rows: f64) {
        for i in 0..self.k {
            let row = &mut self.sums[i * self.k..(i + 1) * self.k];
            row.iter_mut().zip(sums).for_each(|(h, s)| *h -= sums[i] * s / rows);
        }
    }

    /// For linear systems with the damped matrix; `None` where it is not positive.
    pub fn solver(&self) -> Option<Solver> {
        let mut factor = self.damped().sums;
        cholesky(&mut factor, self.k)?;
        Some(Solver { factor, k: self.k })
    }

    /// `(row) H (row)^T`.
    pub fn energy(&self, row: &[f64]) -> f64 {
        (0..self.k).map(|i| row[i] * (0..self.k).map(|j| self.at(i, j) * row[j]).sum::<f64>()).sum()
    }
}

/// The Cholesky factor of a damped [`Hessian`].
#[derive(Clone, Debug)]
pub struct Solver {
    factor: Vec<f64>,
    k: usize,
}

impl Solver {
    /// `x` with `x H = right`.
    pub fn solve(&self, right: &[f64]) -> Vec<f64> {
        let (l, k) = (&self.factor, self.k);
        let mut x = right.to_vec();
        for i in 0..k {
            let sum: f64 = (0..i).map(|j| l[i * k + j] * x[j]).sum();
            x[i] = (x[i] - sum) / l[i * k + i];
        }
        for i in (0..k).rev() {
            let sum: f64 = (i + 1..k).map(|j| l[j * k + i] * x[j]).sum();
            x[i] = (x[i] - sum) / l[i * k + i];
        }
        x
    }
}

/// Upper Cholesky factor of the inverse of `h`, columns in the given order.
fn inverse_factor(h: &Hessian, order: &[usize]) -> Option<Vec<f64>> {
    let k = h.k;
    // Cholesky h = L L^T, then L^-1, then h^-1 = L^-T L^-1, then its own factor U with h^-1 = U^T U.
    let mut l: Vec<f64> = order.iter().flat_map(|&i| order.iter().map(move |&j| h.at(i, j))).collect();
    cholesky(&mut l, k)?;
    let mut inverse_l = vec![0.0; k * k];
    for column in 0..k {
        for row in column..k {
            let start = if row == column { 1.0 } else { 0.0 };
            let sum: f64 = (column..row).map(|j| l[row * k + j] * inverse_l[j * k + column]).sum();
            inverse_l[row * k + column] = (start - sum) / l[row * k + row];
        }
    }
    let mut inverse = vec![0.0; k * k];
    for i in 0..k {
        for j in 0..=i {
            let sum: f64 = (i..k).map(|r| inverse_l[r * k + i] * inverse_l[r * k + j]).sum();
            (inverse[i * k + j], inverse[j * k + i]) = (sum, sum);
        }
    }
    cholesky(&mut inverse, k)?;
    // The lower factor, transposed.
    Some((0..k * k).map(|at| if at % k >= at / k { inverse[(at % k) * k + at / k] } else { 0.0 }).collect())
}

/// Lower factor in place; `None` where the matrix is not positive.
fn cholesky(m: &mut [f64], k: usize) -> Option<()> {
    for i in 0..k {
        for j in 0..=i {
            let dot: f64 = (0..j).map(|r| m[i * k + r] * m[j * k + r]).sum();
            let rest = m[i * k + j] - dot;
            if i == j {
                if rest <= 0.0 || !rest.is_finite() {
                    return None;
                }
                m[i * k + i] = rest.sqrt();
            } else {
                m[i * k + j] = rest / m[j * k + j];
            }
        }
    }
    Some(())
}

/// Rounds `[n, k]` weights to `bits` bits per output channel, with the error weighed by `hessian`.
///
/// `floor` as in [`super::weights::quantize`].
pub fn quantize(
    weights: &[f32],
    n: usize,
    k: usize,
    format: WeightFormat,
    floor: &[f64],
    hessian: &Hessian,
) -> QWeights {
    let plain = || super::weights::quantize(weights, n, k, format, floor);
    if hessian.k != k {
        return plain();
    }
    let damped = hessian.damped();
    let mut order: Vec<usize> = (0..k).collect();
    order.sort_by(|&a, &b| damped.at(b, b).total_cmp(&damped.at(a, a)));
    let Some(factor) = inverse_factor(&damped, &order) else { return plain() };
    let grid = Grid::of(format);
    // At 8 bits the full range is within 0.1 dB of the best.
    let scales = if format.bits() < 8 { grid.cuts(SCALES) } else { 1 };
    let round = |(channel, row): (usize, &[f32])| {
        let row: Vec<f64> = row.iter().map(|&w| f64::from(w)).collect();
        let min = floor.get(channel).copied().unwrap_or(0.0).max(1e-30);
        round_row(&row, grid, (min, scales), &damped, &order, &factor)
    };
    let rows = parallel::map(weights.chunks_exact(k.max(1)).enumerate().collect(), round);
    let scales = rows.iter().map(|(_, scale)| *scale).collect();
    QWeights { values: rows.into_iter().flat_map(|(values, _)| values).collect(), scales, n, k, format }
}

/// Tries several scales for one row; keeps the one with the smallest weighed error.
fn round_row(
    row: &[f64],
    grid: Grid,
    (min, scales): (f64, usize),
    h: &Hessian,
    order: &[usize],
    factor: &[f64],
) -> (Vec<i8>, f64) {
    let full = grid.full_scale(row.iter().copied());
    if full <= f64::MIN_POSITIVE {
        return (vec![0; row.len()], min.max(1e-30));
    }
    let mut best: Option<(f64, Vec<f64>, f64)> = None;
    for step in 0..scales {
        let scale = (full * (1.0 - step as f64 * 0.06)).max(min);
        let q = compensate(row, scale, grid, order, factor);
        let error = h.energy(&lost(row, &q, scale));
        if best.as_ref().is_none_or(|(e, ..)| error < *e) {
            best = Some((error, q, scale));
        }
    }
    let Some((_, mut q, scale)) = best else { return (vec![0; row.len()], min) };
    descend(row, &mut q, scale, grid, h);
    (q.iter().map(|&v| v as i8).collect(), scale)
}

fn lost(row: &[f64], q: &[f64], scale: f64) -> Vec<f64> {
    row.iter().zip(q).map(|(w, q)| w - q * scale).collect()
}

/// GPTQ on one row.
fn compensate(row: &[f64], scale: f64, grid: Grid, order: &[usize], factor: &[f64]) -> Vec<f64> {
    let k = row.len();
    let mut left: Vec<f64> = order.iter().map(|&j| row[j]).collect();
    let mut q = vec![0.0; k];
    for i in 0..k {
        let rounded = grid.nearest(left[i] / scale);
        q[order[i]] = rounded;
        let error = (left[i] - rounded * scale) / factor[i * k + i];
        for (l, f) in left[i..].iter_mut().zip(&factor[i * k + i..(i + 1) * k]) {
            *l -= error * f;
        }
    }
    q
}

/// Moves single weights by whole steps while that lowers the error.
fn descend(row: &[f64], q: &mut [f64], scale: f64, grid: Grid, h: &Hessian) {
    let k = row.len();
    // gradient_j = sum_i H_ji (w_i - q_i scale)
    let mut gradient: Vec<f64> = {
        let rest = lost(row, q, scale);
        (0..k).map(|j| (0..k).map(|i| h.at(j, i) * rest[i]).sum()).collect()
    };
    for _ in 0..PASSES {
        let mut moved = false;
        for j in 0..k {
            let wish = q[j] + (gradient[j] / h.at(j, j) / scale);
            let better = grid.nearest(wish);
            let step = (better - q[j]) * scale;
            if step != 0.0 {
                q[j] = better;
                gradient.iter_mut().zip(&h.sums[j * k..(j + 1) * k]).for_each(|(g, h)| *g -= step * h);
                moved = true;
            }
        }
        if !moved {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Correlated inputs: columns share a common part.
    fn inputs(k: usize, rows: usize) -> Vec<f32> {
        let noise = |i: usize| ((i * 7919 + 13) % 1009) as f32 / 504.5 - 1.0;
        (0..rows * k).map(|at| noise(at / k * 31) * 2.0 + noise(at) * (1.0 + (at % k) as f32 / 8.0)).collect()
    }

    #[test]
    fn compensation_beats_rounding_on_correlated_inputs() {
        let (n, k) = (8, 24);
        let mut hessian = Hessian::new(k);
        hessian.add(&inputs(k, 200));
        let weights: Vec<f32> = (0..n * k).map(|i| ((i * 2654435761 % 977) as f32 / 488.5 - 1.0) * 0.3).collect();
        let error = |q: &QWeights| -> f64 {
            (0..n)
                .map(|c| {
                    let row: Vec<f64> = weights[c * k..(c + 1) * k].iter().map(|&w| f64::from(w)).collect();
                    let values: Vec<f64> = q.values[c * k..(c + 1) * k].iter().map(|&v| f64::from(v)).collect();
                    hessian.energy(&lost(&row, &values, q.scales[c]))
                })
                .sum()
        };
        let plain = super::super::weights::quantize(&weights, n, k, WeightFormat::I4, &vec![0.0; n]);
        let compensated = quantize(&weights, n, k, WeightFormat::I4, &vec![0.0; n], &hessian);
        assert!(error(&compensated) < 0.5 * error(&plain), "{} {}", error(&compensated), error(&plain));
        assert!(compensated.values.iter().all(|v| (-7..=7).contains(v)));
    }

    #[test]
    fn columns_that_are_always_zero_do_no_harm() {
        let mut hessian = Hessian::new(3);
        hessian.add(&[1.0, 0.0, 2.0, -1.0, 0.0, 0.5]);
        let q = quantize(&[0.5, 0.25, -0.5, 0.0, 0.0, 0.0], 2, 3, WeightFormat::I4, &[0.0, 0.0], &hessian);
        assert!(q.scales.iter().all(|s| s.is_finite() && *s > 0.0));
        assert_eq!(q.values[3..], [0, 0, 0]);
    }
}
