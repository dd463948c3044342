//! What a keyword spotter answers: the class it heard and how likely that is.

use crate::arith::exp::{EXP2_ONE, exp_u16};
use crate::text::Logits;

/// The most likely class of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard {
    /// Number of the class, of equally likely ones the lowest.
    pub class: u32,
    /// Its probability, `2^16` is one.
    pub probability: u32,
}

impl Heard {
    /// The class with the largest logit and its share of the softmax of all; `None` when there are no logits.
    ///
    /// One step of the logits is `units` in `log2 / 256`, times `2^16`: `scale * log2(e) * 2^24`. The probability is within
    /// 0.24 % of itself, as every exponential is ([`arith::exp`](crate::arith::exp)), and `2^-15` for each class.
    pub fn of(logits: Logits<'_>, units: u32) -> Option<Self> {
        let class = logits.argmax()?;
        let largest = logits.steps().max()?;
        let weight = |steps: i32| {
            let distance = (u64::from(largest.abs_diff(steps)) * u64::from(units)) >> 16;
            u64::from(exp_u16(u32::try_from(distance).unwrap_or(u32::MAX)))
        };
        // The largest itself has the weight of one.
        let sum: u64 = logits.steps().map(weight).sum();
        let probability = ((u64::from(EXP2_ONE) << 16) + sum / 2).checked_div(sum)?;
        Some(Self { class, probability: probability as u32 })
    }

    /// The probability in hundredths, rounded.
    pub const fn percent(self) -> u32 {
        (self.probability * 100 + (1 << 15)) >> 16
    }
}

/// Tells what is new in a stream of answers.
#[derive(Clone, Copy, Debug)]
pub struct News {
    threshold: u32,
    last: Option<u32>,
}

impl News {
    /// News are classes of at least this probability, `2^16` is one.
    pub const fn new(threshold: u32) -> Self {
        Self { threshold, last: None }
    }

    /// Whether `heard` is likely enough and not what was heard before. An unlikely answer is as if nothing had been heard.
    pub fn is_new(&mut self, heard: Heard) -> bool {
        let likely = (heard.probability >= self.threshold).then_some(heard.class);
        let new = likely.is_some() && likely != self.last;
        self.last = likely;
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    /// `scale * log2(e) * 2^24`.
    fn units(scale: f64) -> u32 {
        (scale * core::f64::consts::LOG2_E * 2f64.powi(24)).round() as u32
    }

    #[test]
    fn probabilities_are_those_of_the_softmax() {
        let mut random = crate::ops::testing::Random(11);
        for scale in [0.0005, 0.004, 0.1] {
            for n in [1, 2, 12, 35] {
                let values: Vec<i16> = (0..n).map(|_| random.below(4000) as i16 - 2000).collect();
                let heard = Heard::of(Logits::i16(&values, 7), units(scale)).unwrap();
                let most = *values.iter().max().unwrap();
                assert_eq!(values[heard.class as usize], most);
                let sum: f64 = values.iter().map(|&v| (f64::from(v - most) * scale).exp()).sum();
                let error = f64::from(heard.probability) / 65536.0 - 1.0 / sum;
                assert!(error.abs() < 0.0024 + n as f64 / 32768.0, "{n} classes, {scale}: {error}");
            }
        }
    }

    #[test]
    fn one_class_is_certain_and_none_is_none() {
        assert_eq!(Heard::of(Logits::i8(&[], 0), 1 << 16), None);
        let heard = Heard { class: 0, probability: 1 << 16 };
        assert_eq!(Heard::of(Logits::i8(&[-128], 0), u32::MAX), Some(heard));
        assert_eq!(heard.percent(), 100);
        let far = Heard::of(Logits::i16(&[i16::MIN, i16::MAX], i32::MIN), u32::MAX);
        assert_eq!(far, Some(Heard { class: 1, probability: 1 << 16 }));
        let even = Heard::of(Logits::i8(&[5, 5], 0), 1 << 16);
        assert_eq!(even, Some(Heard { class: 0, probability: 1 << 15 }));
    }

    #[test]
    fn news_are_likely_and_not_what_was_heard_before() {
        let mut news = News::new(1 << 15);
        let answers = [(1, 40_000), (1, 50_000), (2, 20_000), (1, 32_768), (2, 32_767), (2, 32_768), (3, 65_536)];
        let new = answers.map(|(class, probability)| news.is_new(Heard { class, probability }));
        assert_eq!(new, [true, false, false, true, false, true, true]);
    }
}
