//! How close two sets of outputs are: sums that can be cut into parts and joined without a rounding error.

use serde::{Deserialize, Serialize};

/// What stands for "no difference at all" in decibels, as JSON has no infinity.
pub const SQNR_CAP_DB: f64 = 300.0;

/// A sum of `f64` values without rounding, so that the order and the grouping of the terms do not matter.
///
/// Shewchuk's expansion: `parts` do not overlap and add up to the exact sum (Adaptive Precision Floating-Point
/// Arithmetic, 1997, Grow-Expansion). Terms must be finite.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ExactSum {
    parts: Vec<f64>,
}

impl ExactSum {
    /// Adds one term.
    pub fn add(&mut self, term: f64) {
        let mut high = term;
        let mut kept = 0;
        for index in 0..self.parts.len() {
            let part = self.parts[index];
            let (a, b) = if high.abs() < part.abs() { (part, high) } else { (high, part) };
            high = a + b;
            let low = b - (high - a);
            if low != 0.0 {
                self.parts[kept] = low;
                kept += 1;
            }
        }
        self.parts.truncate(kept);
        self.parts.push(high);
    }

    /// Adds another sum.
    pub fn merge(&mut self, other: &Self) {
        for &part in &other.parts {
            self.add(part);
        }
    }

    /// The exact sum, rounded once to `f64` (half to even).
    pub fn value(&self) -> f64 {
        let mut rest = self.parts.iter().rev().copied();
        let Some(mut high) = rest.next() else { return 0.0 };
        let mut low = 0.0;
        for part in rest.by_ref() {
            let before = high;
            high = before + part;
            low = part - (high - before);
            if low != 0.0 {
                break;
            }
        }
        // The first rounding was a tie if doubling the remainder is exact; then what follows decides.
        if let Some(next) = rest.next()
            && low != 0.0
            && (low < 0.0) == (next < 0.0)
        {
            let twice = low * 2.0;
            let up = high + twice;
            if up - high == twice {
                high = up;
            }
        }
        high
    }
}

/// Sums over samples from which all figures of an evaluation follow. Scores of disjoint samples can be merged exactly.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// Samples seen.
    pub samples: u64,
    /// Rows of logits with a label.
    pub labelled: u64,
    /// Of these, rows whose largest integer logit is the label's.
    pub correct: u64,
    /// Of these, rows whose largest float logit is the label's.
    pub float_correct: u64,
    /// Rows of logits with a float reference.
    pub compared: u64,
    /// Of these, rows where both have their largest logit at the same place.
    pub agree: u64,
    /// Sum of squares of the reference.
    pub signal: ExactSum,
    /// Sum of squares of the difference.
    pub noise: ExactSum,
    /// Sum over samples of the cosine between output and reference.
    pub cosine: ExactSum,
    /// Samples in which an output reaches the end of its range, by output.
    #[serde(default)]
    pub at_the_edge: Vec<u64>,
}

/// The figures of an evaluation; `None` where there was no label or no reference.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Figures {
    /// Samples seen.
    pub samples: u64,
    /// Share of labelled rows that the integer model gets right, 0 to 1.
    pub accuracy: Option<f64>,
    /// Share of labelled rows that the float model gets right, 0 to 1.
    pub float_accuracy: Option<f64>,
    /// Share of rows where both choose the same class, 0 to 1.
    pub agreement: Option<f64>,
    /// `10 log10(signal / noise)` over all outputs and samples, at most [`SQNR_CAP_DB`].
    pub sqnr_db: Option<f64>,
    /// Mean cosine between output and reference.
    pub cosine: Option<f64>,
}

/// The logits of one sample: `rows` rows that end on their own maximum.
#[derive(Clone, Copy, Debug)]
pub struct Logits<'a> {
    /// Row major, in real units.
    pub values: &'a [f32],
    /// Number of rows.
    pub rows: usize,
    /// A row of one value is class 1 above this, else class 0.
    pub threshold: f32,
}

impl Logits<'_> {
    /// Place of the largest value of each row; the first of equals.
    pub fn classes(&self) -> Vec<usize> {
        let width = (self.values.len() / self.rows.max(1)).max(1);
        if width == 1 {
            return self.values.iter().map(|&v| usize::from(v > self.threshold)).collect();
        }
        self.values.chunks_exact(width).map(argmax).collect()
    }
}

/// Place of the largest value; the first of equals, 0 for none.
pub fn argmax(values: &[f32]) -> usize {
    let mut best = 0;
    for (index, value) in values.iter().enumerate() {
        if *value > values[best] {
            best = index;
        }
    }
    best
}

impl Score {
    /// Counts one sample. `labels` has one entry per row of the logits, or none.
    pub fn sample(&mut self, ours: Logits<'_>, float: Option<Logits<'_>>, labels: &[i64]) {
        self.samples += 1;
        let chosen = ours.classes();
        let expected = float.map(|f| f.classes());
        let hits =
            |classes: &[usize]| classes.iter().zip(labels).filter(|&(&c, &l)| i64::try_from(c) == Ok(l)).count() as u64;
        if labels.len() == chosen.len() {
            self.labelled += labels.len() as u64;
            self.correct += hits(&chosen);
            self.float_correct += expected.as_deref().map_or(0, hits);
        }
        if let Some(expected) = expected {
            self.compared += expected.len() as u64;
            self.agree += chosen.iter().zip(&expected).filter(|(a, b)| a == b).count() as u64;
        }
    }

    /// Adds the difference of all outputs of one sample. Both have the same length.
    pub fn difference(&mut self, ours: &[f32], float: &[f32]) {
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
        let (signal, energy) = (dot(float, float), dot(ours, ours));
        let noise = ours.iter().zip(float).map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2)).sum::<f64>();
        self.signal.add(signal);
        self.noise.add(noise);
        let norm = (signal * energy).sqrt();
        // Two zero vectors point the same way.
        self.cosine.add(if norm > 0.0 { dot(ours, float) / norm } else { f64::from(u8::from(signal == energy)) });
    }

    /// Joins the score of other samples.
    pub fn merge(&mut self, other: &Self) {
        self.samples += other.samples;
        self.labelled += other.labelled;
        self.correct += other.correct;
        self.float_correct += other.float_correct;
        self.compared += other.compared;
        self.agree += other.agree;
        self.signal.merge(&other.signal);
        self.noise.merge(&other.noise);
        self.cosine.merge(&other.cosine);
        self.at_the_edge.resize(self.at_the_edge.len().max(other.at_the_edge.len()), 0);
        self.at_the_edge.iter_mut().zip(&other.at_the_edge).for_each(|(a, b)| *a += b);
    }

    /// Counts a sample whose output `output` reaches the end of its range, or does not.
    pub fn edge(&mut self, output: usize, reached: bool) {
        self.at_the_edge.resize(self.at_the_edge.len().max(output + 1), 0);
        self.at_the_edge[output] += u64::from(reached);
    }

    /// The figures that follow from the sums.
    pub fn figures(&self) -> Figures {
        let share = |part: u64, of: u64| (of > 0).then(|| part as f64 / of as f64);
        let compared = self.compared > 0;
        Figures {
            samples: self.samples,
            accuracy: share(self.correct, self.labelled),
            float_accuracy: share(self.float_correct, self.labelled).filter(|_| compared),
            agreement: share(self.agree, self.compared),
            sqnr_db: compared.then(|| sqnr_db(self.signal.value(), self.noise.value())),
            cosine: compared.then(|| self.cosine.value() / self.samples as f64),
        }
    }
}

/// `10 log10(signal / noise)`, at most [`SQNR_CAP_DB`] and at least its negative.
pub fn sqnr_db(signal: f64, noise: f64) -> f64 {
    if noise <= 0.0 {
        return SQNR_CAP_DB;
    }
    (10.0 * (signal / noise).log10()).clamp(-SQNR_CAP_DB, SQNR_CAP_DB)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(terms: &[f64]) -> ExactSum {
        let mut sum = ExactSum::default();
        terms.iter().for_each(|&t| sum.add(t));
        sum
    }

    #[test]
    fn exact_sum_keeps_what_plain_addition_loses() {
        assert_eq!(sum(&[1e100, 1.0, -1e100]).value(), 1.0);
        assert_eq!(sum(&[0.1; 10]).value(), 1.0);
        assert_eq!(sum(&[]).value(), 0.0);
        // A tie at the first rounding that a tiny term breaks upwards.
        let half_ulp = f64::EPSILON / 2.0;
        assert_eq!(sum(&[1.0, half_ulp]).value(), 1.0);
        assert_eq!(sum(&[1.0, half_ulp, 1e-40]).value(), 1.0 + f64::EPSILON);
    }

    #[test]
    fn any_cut_into_shards_merges_to_the_same_figures() {
        let value = |i: usize| ((i * 7919 % 1013) as f32 - 500.0) / 37.0;
        let sample = |score: &mut Score, s: usize| {
            let float: Vec<f32> = (0..10).map(|i| value(s * 10 + i)).collect();
            let ours: Vec<f32> = float.iter().enumerate().map(|(i, v)| v + value(i + s) * 1e-3).collect();
            score.sample(
                Logits { values: &ours, rows: 1, threshold: 0.0 },
                Some(Logits { values: &float, rows: 1, threshold: 0.0 }),
                &[(s % 10) as i64],
            );
            score.difference(&ours, &float);
        };
        let mut whole = Score::default();
        (0..97).for_each(|s| sample(&mut whole, s));
        for shards in [2, 3, 10] {
            let mut joined = Score::default();
            for shard in (0..shards).rev() {
                let mut part = Score::default();
                (0..97).filter(|s| s % shards == shard).for_each(|s| sample(&mut part, s));
                let text = serde_json::to_string(&part).unwrap();
                joined.merge(&serde_json::from_str(&text).unwrap());
            }
            assert_eq!(joined.figures(), whole.figures());
        }
    }

    #[test]
    fn figures_without_labels_or_reference_are_absent() {
        let mut score = Score::default();
        score.sample(Logits { values: &[0.0, 1.0], rows: 1, threshold: 0.0 }, None, &[]);
        let figures = score.figures();
        assert_eq!((figures.samples, figures.accuracy, figures.agreement, figures.sqnr_db), (1, None, None, None));
    }

    #[test]
    fn no_noise_is_the_cap() {
        assert_eq!(sqnr_db(1.0, 0.0), SQNR_CAP_DB);
        assert_eq!(sqnr_db(100.0, 1.0), 20.0);
    }
}
