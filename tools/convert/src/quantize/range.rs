//! Which range of an activation gets the 256 steps of `i8`.

use serde::{Deserialize, Serialize};

/// Bins of a histogram.
pub const BINS: usize = 2048;

/// What was seen of a tensor over the calibration samples.
#[derive(Clone, Debug)]
pub struct TensorStats {
    /// Minimum value.
    pub min: f32,
    /// Maximum value.
    pub max: f32,
    /// Counts over [`BINS`] equal parts of `min ..= max`.
    pub histogram: Vec<u32>,
    /// Sum of squares.
    pub energy: f64,
    /// Number of values.
    pub count: u64,
    /// Number of values that are whole numbers.
    pub whole: u64,
    /// Smallest maximum of a row (last dimension) that is not masked out as a whole; infinite where no softmax reads it.
    pub min_peak: f32,
    /// Whether it is minus infinity somewhere: a mask. The extent is that of the finite values.
    pub hides: bool,
}

/// How the range of an activation is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RangeMethod {
    /// The full range seen.
    Minmax,
    /// All but 0.01 % of the values.
    Percentile,
    /// Minimum mean square error (rounding and clipping together).
    Mse,
    /// Least Kullback-Leibler divergence of the quantized distribution.
    Entropy,
    /// The method with the best measured SQNR of the whole model.
    Auto,
}

impl Default for TensorStats {
    fn default() -> Self {
        Self {
            min: f32::INFINITY,
            max: f32::NEG_INFINITY,
            histogram: Vec::new(),
            energy: 0.0,
            count: 0,
            whole: 0,
            min_peak: f32::INFINITY,
            hides: false,
        }
    }
}

impl TensorStats {
    /// First pass: extent of the values.
    pub fn extend(&mut self, values: &[f32]) {
        for &v in values {
            self.min = self.min.min(v);
            self.max = self.max.max(v);
            self.energy += f64::from(v) * f64::from(v);
            self.whole += u64::from(v.fract() == 0.0);
        }
        self.count += values.len() as u64;
    }

    /// Merges the extents of another part of the samples.
    pub fn merge(&mut self, other: &Self) {
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        self.energy += other.energy;
        self.count += other.count;
        self.whole += other.whole;
        self.min_peak = self.min_peak.min(other.min_peak);
        self.hides |= other.hides;
    }

    /// Notes the maximum of every row of `width` values of a softmax argument. Rows at or below `masked` have no key that
    /// counts.
    pub fn extend_peaks(&mut self, values: &[f32], width: usize, masked: f32) {
        let peaks = values.chunks_exact(width.max(1)).map(|row| row.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        self.min_peak = peaks.filter(|&peak| peak > masked).fold(self.min_peak, f32::min);
    }

    /// Whether every value seen is a whole number: a count, a position, a flag, a one-hot vector.
    pub fn is_whole(&self) -> bool {
        self.count > 0 && self.whole == self.count
    }

    /// Second pass: histogram over the extent of the first.
    pub fn fill(&self, values: &[f32], histogram: &mut [u32]) {
        let width = (self.max - self.min).max(f32::MIN_POSITIVE);
        let scale = (BINS as f32 - 0.01) / width;
        for &v in values {
            let bin = ((v - self.min) * scale) as usize;
            if let Some(count) = histogram.get_mut(bin.min(BINS - 1)) {
                *count += 1;
            }
        }
    }

    /// Maximum magnitude.
    pub fn abs_max(&self) -> f64 {
        if self.count == 0 { 0.0 } else { f64::from(self.min.abs().max(self.max.abs())) }
    }

    /// Centre and count of every bin that has any.
    pub fn bins(&self) -> impl Iterator<Item = (f64, f64)> + '_ {
        let width = f64::from(self.max - self.min) / BINS as f64;
        let first = f64::from(self.min) + width / 2.0;
        let filled = self.histogram.iter().enumerate().filter(|&(_, &n)| n > 0);
        filled.map(move |(i, &n)| (first + width * i as f64, f64::from(n)))
    }

    /// Mean square error of quantizing to `steps` steps over `low..high`, clipped outside.
    fn error(&self, low: f64, high: f64, steps: f64) -> f64 {
        let step = (high - low) / steps;
        let noise = step * step / 12.0;
        self.bins()
            .map(|(x, n)| {
                let outside = if x < low { low - x } else { (x - high).max(0.0) };
                n * (noise + outside * outside)
            })
            .sum()
    }

    fn percentile_cut(&self, fraction: f64) -> (f64, f64) {
        let total: f64 = self.histogram.iter().map(|&n| f64::from(n)).sum();
        let allowed = total * fraction / 2.0;
        let width = f64::from(self.max - self.min) / BINS as f64;
        let cut = |counts: &mut dyn Iterator<Item = &u32>| {
            let mut sum = 0.0;
            counts
                .take_while(|&&n| {
                    sum += f64::from(n);
                    sum <= allowed
                })
                .count() as f64
        };
        let low = f64::from(self.min) + width * cut(&mut self.histogram.iter());
        let high = f64::from(self.max) - width * cut(&mut self.histogram.iter().rev());
        if low < high { (low, high) } else { (f64::from(self.min), f64::from(self.max)) }
    }

    /// Kullback-Leibler divergence between the clipped distribution of magnitudes and its quantized form.
    fn divergence(&self, clip: f64, levels: usize) -> f64 {
        let mut fine = vec![0.0; BINS];
        let top = self.abs_max().max(f64::MIN_POSITIVE);
        for (x, n) in self.bins() {
            fine[((x.abs() / top * BINS as f64) as usize).min(BINS - 1)] += n;
        }
        let kept = ((clip / top * BINS as f64).round() as usize).clamp(levels, BINS);
        let outliers: f64 = fine[kept..].iter().sum();
        let mut p = fine[..kept].to_vec();
        p[kept - 1] += outliers;
        let mut q = vec![0.0; kept];
        for level in 0..levels {
            let (from, to) = (level * kept / levels, (level + 1) * kept / levels);
            let total: f64 = fine[from..to].iter().sum();
            let filled = fine[from..to].iter().filter(|&&n| n > 0.0).count().max(1) as f64;
            for i in from..to {
                q[i] = if fine[i] > 0.0 { total / filled } else { 0.0 };
            }
        }
        let (sum_p, sum_q): (f64, f64) = (p.iter().sum(), q.iter().sum());
        if sum_p == 0.0 || sum_q == 0.0 {
            return 0.0;
        }
        p.iter()
            .zip(&q)
            .filter(|&(&p, _)| p > 0.0)
            .map(|(&p, &q)| {
                let (p, q) = (p / sum_p, (q / sum_q).max(1e-9));
                p * (p / q).ln()
            })
            .sum()
    }

    /// Clipping magnitude for a symmetric quantization with 127 steps on each side.
    pub fn symmetric(&self, method: RangeMethod) -> f64 {
        let top = self.abs_max();
        if top == 0.0 || self.histogram.is_empty() {
            return top;
        }
        let candidates = (0..96).map(|i| top * (1.0 - f64::from(i) / 128.0));
        match method {
            RangeMethod::Minmax => top,
            RangeMethod::Percentile => {
                let (low, high) = self.percentile_cut(1e-4);
                low.abs().max(high.abs())
            }
            RangeMethod::Entropy => {
                let divergence = |c: &f64| self.divergence(*c, 128);
                argmin(candidates, divergence).unwrap_or(top)
            }
            RangeMethod::Mse | RangeMethod::Auto => argmin(candidates, |c| self.error(-c, *c, 254.0)).unwrap_or(top),
        }
    }

    /// Range for an asymmetric quantization with 255 steps; it contains 0.
    pub fn asymmetric(&self, method: RangeMethod) -> (f64, f64) {
        let (min, max) = (f64::from(self.min).min(0.0), f64::from(self.max).max(0.0));
        if self.count == 0 || self.histogram.is_empty() {
            return if self.count == 0 { (0.0, 0.0) } else { (min, max) };
        }
        match method {
            RangeMethod::Minmax => (min, max),
            RangeMethod::Percentile => {
                let (low, high) = self.percentile_cut(1e-4);
                (low.min(0.0), high.max(0.0))
            }
            RangeMethod::Entropy => {
                let clip = self.symmetric(method);
                (min.max(-clip), max.min(clip))
            }
            RangeMethod::Mse | RangeMethod::Auto => {
                let cuts = || (0..40).map(|i| 1.0 - f64::from(i) / 50.0);
                let (mut low, mut high) = (min, max);
                for _ in 0..2 {
                    high = argmin(cuts().map(|c| max * c), |&h| self.error(low, h, 255.0)).unwrap_or(high);
                    low = argmin(cuts().map(|c| min * c), |&l| self.error(l, high, 255.0)).unwrap_or(low);
                }
                (low, high)
            }
        }
    }
}

/// The candidate with the smallest cost.
pub fn argmin<T>(candidates: impl Iterator<Item = T>, mut cost: impl FnMut(&T) -> f64) -> Option<T> {
    let mut best: Option<(f64, T)> = None;
    for candidate in candidates {
        let c = cost(&candidate);
        if best.as_ref().is_none_or(|(b, _)| c < *b) {
            best = Some((c, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats(values: &[f32]) -> TensorStats {
        let mut stats = TensorStats::default();
        stats.extend(values);
        let mut histogram = vec![0; BINS];
        stats.fill(values, &mut histogram);
        stats.histogram = histogram;
        stats
    }

    #[test]
    fn an_outlier_is_clipped_by_all_but_minmax() {
        let mut values: Vec<f32> = (0..20_000).map(|i| ((i * 37 % 2001) as f32 - 1000.0) / 1000.0).collect();
        values.push(60.0);
        let stats = stats(&values);
        assert_eq!(stats.symmetric(RangeMethod::Minmax), 60.0);
        for method in [RangeMethod::Percentile, RangeMethod::Entropy] {
            assert!(stats.symmetric(method) < 35.0, "{method:?}: {}", stats.symmetric(method));
        }
        // Clipping at c costs (60 - c)^2 once and saves 20,000 (2 c / 254)^2 / 12: least at c = 54.4.
        assert!((53.0..56.0).contains(&stats.symmetric(RangeMethod::Mse)), "{}", stats.symmetric(RangeMethod::Mse));
    }

    #[test]
    fn constant_and_empty_tensors_have_a_range() {
        for values in [&[][..], &[0.0; 8], &[3.0; 8]] {
            let stats = stats(values);
            for method in [RangeMethod::Minmax, RangeMethod::Percentile, RangeMethod::Mse, RangeMethod::Entropy] {
                let (low, high) = stats.asymmetric(method);
                assert!(low.is_finite() && high.is_finite() && low <= 0.0 && high >= 0.0);
                assert!(stats.symmetric(method).is_finite());
            }
        }
    }
}
