//! The choice of the next token from integer logits.
//!
//! Logits are turned into distances below the maximum in `log2 / 256`, the units of [`crate::arith::exp`], whose
//! exponential gives each token a weight of 16 bits. Tokens are kept by rank (top-k) and by their share (top-p); one of the
//! kept ones is drawn with [`Pcg32`]. The same seed, settings and logits give the same token on every machine.
//!
//! The order is: repetition penalty, temperature, top-k, top-p over what top-k keeps. Of equally likely tokens those with
//! lower ids come first.
//!
//! # Precision
//! A distance is rounded down, and a weight is within 0.24 % of `32640 * 2^-distance` and then cut to a whole number: tokens
//! more than 32640 times less likely than the most likely one are never drawn.

use super::Pcg32;
use crate::arith::exp::exp_u16;
use crate::format::TensorRecord;
use crate::tensor::Dtype;
use core::fmt;

/// 1 in the settings, whose fractions have 16 bits.
pub const ONE: u32 = 1 << 16;
/// Weights from this distance on are 0.
const NEVER: u16 = 16 << 8;
/// Zero points lie within the element type; this bounds what is computed with them to 50 bits in any case.
const FARTHEST_ZERO: i32 = 1 << 16;

/// How tokens are drawn. Fractions are in `1 / 65536` ([`ONE`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sampling {
    /// Logits are divided by it; 0 takes the most likely token.
    pub temperature: u32,
    /// Only the `top_k` most likely tokens are drawn; 0 for all.
    pub top_k: u32,
    /// Only the most likely tokens that together have this share are drawn, the one that completes it included.
    pub top_p: u32,
    /// Logits above 0 of recent tokens are divided by it, others multiplied: `ONE` for no penalty.
    ///
    /// # Reference
    /// Keskar et al., "CTRL", arXiv 1909.05858, section 4.1, with the sign as the `transformers` library has it.
    pub repetition_penalty: u32,
}

impl Sampling {
    /// The most likely token.
    pub const GREEDY: Sampling = Sampling { temperature: 0, top_k: 0, top_p: ONE, repetition_penalty: ONE };
}

impl Default for Sampling {
    fn default() -> Self {
        Self::GREEDY
    }
}

/// Settings that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum SamplingError {
    /// `top_p` is 0 or above 1.
    TopP,
    /// `repetition_penalty` is below 1 or above 256.
    RepetitionPenalty,
    /// `temperature` is above 256.
    Temperature,
}

impl fmt::Display for SamplingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TopP => "top-p must be above 0 and at most 1; 1 keeps every token",
            Self::RepetitionPenalty => "the repetition penalty must be from 1 to 256; 1 is none",
            Self::Temperature => "the temperature must be at most 256; 0 takes the most likely token",
        })
    }
}

impl core::error::Error for SamplingError {}

/// Why no token was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum SampleError {
    /// There are no logits.
    Empty,
    /// The scratch memory has fewer values than there are logits.
    Scratch {
        /// Values needed.
        needed: usize,
        /// Values given.
        given: usize,
    },
}

impl fmt::Display for SampleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("there are no logits to choose from; run the model first"),
            Self::Scratch { needed, given } => {
                write!(f, "choosing from {needed} tokens needs scratch memory for as many values, {given} given")
            }
        }
    }
}

impl core::error::Error for SampleError {}

/// One row of logits: integers, with the value that stands for 0.
#[derive(Clone, Copy, Debug)]
pub struct Logits<'l> {
    values: Values<'l>,
    zero_point: i32,
}

#[derive(Clone, Copy, Debug)]
enum Values<'l> {
    I8(&'l [i8]),
    I16(&'l [i16]),
}

impl<'l> Logits<'l> {
    /// Logits of 8 bits.
    pub fn i8(values: &'l [i8], zero_point: i32) -> Self {
        Self { values: Values::I8(values), zero_point: zero_point.clamp(-FARTHEST_ZERO, FARTHEST_ZERO) }
    }

    /// Logits of 16 bits.
    pub fn i16(values: &'l [i16], zero_point: i32) -> Self {
        Self { values: Values::I16(values), zero_point: zero_point.clamp(-FARTHEST_ZERO, FARTHEST_ZERO) }
    }

    /// Row `row` of an output of a model, whose contents are `bytes`; `None` when it is neither of 8 nor of 16 bits, has no
    /// such row, or `bytes` are not aligned to its elements.
    pub fn row(tensor: &TensorRecord, bytes: &'l [u8], row: usize) -> Option<Self> {
        let width = tensor.row();
        let range = row.checked_mul(width)?..row.checked_add(1)?.checked_mul(width)?;
        let zero_point = tensor.zero_point;
        match tensor.dtype {
            Dtype::I8 => Some(Self::i8(bytemuck::try_cast_slice(bytes).ok()?.get(range)?, zero_point)),
            Dtype::I16 => Some(Self::i16(bytemuck::try_cast_slice(bytes).ok()?.get(range)?, zero_point)),
            Dtype::U8 | Dtype::U16 | Dtype::I32 => None,
        }
    }

    /// Number of logits.
    pub fn len(&self) -> usize {
        match self.values {
            Values::I8(values) => values.len(),
            Values::I16(values) => values.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Logit `id` in steps above 0.
    fn at(&self, id: usize) -> Option<i32> {
        let value = match self.values {
            Values::I8(values) => values.get(id).map(|&v| i32::from(v)),
            Values::I16(values) => values.get(id).map(|&v| i32::from(v)),
        };
        value.map(|v| v.saturating_sub(self.zero_point))
    }

    /// All logits in steps above 0.
    pub(crate) fn steps(&self) -> impl Iterator<Item = i32> + '_ {
        (0..self.len()).filter_map(|id| self.at(id))
    }

    /// The token with the largest logit, of several the one with the lowest id; `None` when there are no logits.
    pub fn argmax(&self) -> Option<u32> {
        let better = |best: (usize, i32), next: (usize, i32)| if next.1 > best.1 { next } else { best };
        self.steps().enumerate().reduce(better).map(|(id, _)| id as u32)
    }
}

/// Chooses tokens, one after the other.
#[derive(Clone, Copy, Debug)]
pub struct Sampler {
    settings: Sampling,
    random: Pcg32,
}

/// The tokens kept: those nearer than `distance`, and the first `ties` at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Kept {
    distance: u16,
    ties: usize,
}

impl Kept {
    /// The weights of the kept tokens, by id.
    fn weights(self, distances: &[u16]) -> impl Iterator<Item = (u32, u32)> + '_ {
        let mut ties = self.ties;
        distances.iter().enumerate().filter_map(move |(id, &distance)| {
            let tie = distance == self.distance;
            if distance > self.distance || tie && ties == 0 {
                return None;
            }
            ties -= usize::from(tie);
            Some((id as u32, u32::from(exp_u16(u32::from(distance)))))
        })
    }

    /// Sum of the weights. They are at most 32640, so that 131,586 tokens fit.
    fn sum(self, distances: &[u16]) -> u64 {
        self.weights(distances).map(|(_, weight)| u64::from(weight)).sum()
    }
}

impl Sampler {
    /// A sampler with these settings, whose choices follow from `seed`.
    ///
    /// # Errors
    /// [`SamplingError`] for settings that cannot be.
    pub const fn new(settings: Sampling, seed: u64) -> Result<Self, SamplingError> {
        if settings.top_p == 0 || settings.top_p > ONE {
            return Err(SamplingError::TopP);
        }
        if settings.repetition_penalty < ONE || settings.repetition_penalty > ONE << 8 {
            return Err(SamplingError::RepetitionPenalty);
        }
        if settings.temperature > ONE << 8 {
            return Err(SamplingError::Temperature);
        }
        Ok(Self { settings, random: Pcg32::new(seed) })
    }

    /// The next token.
    ///
    /// One step of the logits is `units` in `log2 / 256`, times `2^16`: `scale * log2(e) * 2^24`, as
    /// [`Tokenizer::logit_units`](super::Tokenizer::logit_units) says. `recent` are the tokens that
    /// [`Sampling::repetition_penalty`] is for, often all before. `scratch` takes one value per logit; none is needed for
    /// the most likely token without a penalty.
    ///
    /// # Errors
    /// [`SampleError`].
    pub fn next(
        &mut self,
        logits: Logits<'_>,
        units: u32,
        recent: &[u32],
        scratch: &mut [u16],
    ) -> Result<u32, SampleError> {
        let most_likely = logits.argmax().ok_or(SampleError::Empty)?;
        let settings = self.settings;
        if settings.temperature == 0 && settings.repetition_penalty == ONE {
            return Ok(most_likely);
        }
        let (needed, given) = (logits.len(), scratch.len());
        let distances = scratch.get_mut(..needed).ok_or(SampleError::Scratch { needed, given })?;
        let penalized = Penalized { logits, recent, penalty: settings.repetition_penalty };
        let Some((best, largest)) = penalized.argmax() else { return Err(SampleError::Empty) };
        if settings.temperature == 0 {
            return Ok(best);
        }
        // Distance per step, with 16 bits of fraction; a step of `NEVER` is as good as any above.
        let per_step = (u64::from(units) << 16).checked_div(u64::from(settings.temperature)).unwrap_or(0);
        let per_step = per_step.min(u64::from(NEVER) << 16);
        let distance = |value: i64| {
            let distance = (largest - value).unsigned_abs().saturating_mul(per_step) >> 32;
            u16::try_from(distance).unwrap_or(NEVER).min(NEVER)
        };
        penalized.fill(distances, distance);
        let kept = top_p(distances, top_k(distances, settings.top_k), settings.top_p);
        let sum = u32::try_from(kept.sum(distances)).unwrap_or(u32::MAX);
        let mut left = self.random.below(sum);
        for (id, weight) in kept.weights(distances) {
            match left.checked_sub(weight) {
                Some(rest) => left = rest,
                None => return Ok(id),
            }
        }
        Ok(best)
    }
}

/// Logits with the penalty of recent tokens: values in steps with 16 bits of fraction.
struct Penalized<'l> {
    logits: Logits<'l>,
    recent: &'l [u32],
    penalty: u32,
}

impl Penalized<'_> {
    fn value(steps: i32) -> i64 {
        i64::from(steps) << 16
    }

    /// Recent tokens among the logits with their penalized values.
    fn recent(&self) -> impl Iterator<Item = (usize, i64)> + '_ {
        let recent = self.recent.iter().filter(|_| self.penalty != ONE);
        recent.filter_map(|&id| {
            let value = Self::value(self.logits.at(id as usize)?);
            let penalty = i64::from(self.penalty);
            let less = if value > 0 { (value << 16).checked_div(penalty) } else { Some((value >> 16) * penalty) };
            Some((id as usize, less.unwrap_or(value)))
        })
    }

    fn is_recent(&self, id: usize) -> bool {
        self.penalty != ONE && self.recent.iter().any(|&recent| recent as usize == id)
    }

    /// The token with the largest value, of several the one with the lowest id, and its value.
    fn argmax(&self) -> Option<(u32, i64)> {
        let others = self.logits.steps().enumerate().filter(|&(id, _)| !self.is_recent(id));
        let all = others.map(|(id, steps)| (id, Self::value(steps))).chain(self.recent());
        let order = |&(id, value): &(usize, i64)| (value, core::cmp::Reverse(id));
        all.max_by_key(order).map(|(id, value)| (id as u32, value))
    }

    fn fill(&self, distances: &mut [u16], distance: impl Fn(i64) -> u16) {
        for (to, steps) in distances.iter_mut().zip(self.logits.steps()) {
            // Recent tokens are above the maximum perhaps, and are written below.
            *to = distance(Self::value(steps));
        }
        for (id, value) in self.recent() {
            if let Some(to) = distances.get_mut(id) {
                *to = distance(value);
            }
        }
    }
}

/// The shortest distance for which `enough` holds; it holds at [`NEVER`] and from the shortest on.
fn shortest(enough: impl Fn(u16) -> bool) -> u16 {
    let (mut from, mut to) = (0, NEVER);
    while from < to {
        let middle = from.midpoint(to);
        if enough(middle) { to = middle } else { from = middle + 1 }
    }
    to
}

fn top_k(distances: &[u16], k: u32) -> Kept {
    let k = if k == 0 { distances.len() } else { distances.len().min(k as usize) };
    let count = |distance: u16| distances.iter().filter(|&&d| d <= distance).count();
    let distance = shortest(|distance| count(distance) >= k);
    let nearer = distance.checked_sub(1).map_or(0, count);
    Kept { distance, ties: k.saturating_sub(nearer) }
}

fn top_p(distances: &[u16], kept: Kept, p: u32) -> Kept {
    if p >= ONE {
        return kept;
    }
    // At least 1, so that a token is kept.
    let target = (kept.sum(distances) * u64::from(p)).div_ceil(u64::from(ONE)).max(1);
    let within = |distance: u16| {
        let ties = if distance < kept.distance { usize::MAX } else { kept.ties };
        Kept { distance: distance.min(kept.distance), ties }
    };
    let distance = shortest(|distance| within(distance).sum(distances) >= target);
    let nearer = Kept { distance, ties: 0 }.sum(distances);
    let weight = u64::from(exp_u16(u32::from(distance))).max(1);
    Kept { distance, ties: target.saturating_sub(nearer).div_ceil(weight) as usize }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::Random;
    use std::vec::Vec;

    /// `log2(e) * 2^24` for logits whose step is 1/16.
    const UNITS: u32 = 1_512_775;

    fn random_logits(random: &mut Random, n: usize, spread: u64) -> Vec<i16> {
        (0..n).map(|_| random.below(2 * spread + 1) as i16 - spread as i16).collect()
    }

    /// The tokens by falling logit, equal ones by their ids, as a sort has them.
    fn by_rank(logits: &[i16]) -> Vec<usize> {
        let mut ids: Vec<usize> = (0..logits.len()).collect();
        ids.sort_by_key(|&id| (core::cmp::Reverse(logits[id]), id));
        ids
    }

    /// The distances of logits without a penalty at temperature 1.
    fn distances(logits: &[i16]) -> Vec<u16> {
        let largest = i64::from(*logits.iter().max().unwrap());
        let distance = |&l: &i16| (((largest - i64::from(l)) * i64::from(UNITS)) >> 16).min(i64::from(NEVER)) as u16;
        logits.iter().map(distance).collect()
    }

    fn draw(settings: Sampling, logits: &[i16], recent: &[u32], seed: u64, n: usize) -> Vec<u32> {
        let mut sampler = Sampler::new(settings, seed).unwrap();
        let mut scratch = std::vec![0; logits.len()];
        (0..n).map(|_| sampler.next(Logits::i16(logits, 0), UNITS, recent, &mut scratch).unwrap()).collect()
    }

    #[test]
    fn the_largest_logit_wins_and_the_lowest_id_of_equal_ones() {
        assert_eq!(draw(Sampling::GREEDY, &[3, 9, -1, 9], &[], 0, 1), [1]);
        assert_eq!(Logits::i8(&[-128, 127, 127], -128).argmax(), Some(1));
        assert_eq!(Logits::i8(&[], 0).argmax(), None);
        // Greedy needs no scratch memory.
        let mut sampler = Sampler::new(Sampling::GREEDY, 0).unwrap();
        assert_eq!(sampler.next(Logits::i8(&[1, 2], 0), UNITS, &[], &mut []), Ok(1));
    }

    #[test]
    fn top_k_and_top_p_keep_what_a_sort_keeps() {
        let mut random = Random(17);
        for round in 0..400 {
            let n = 1 + random.below(300) as usize;
            let spread = [2, 40, 1000][round % 3];
            let logits = random_logits(&mut random, n, spread);
            let distances = distances(&logits);
            let k = random.below(n as u64 + 5) as u32;
            let p = 1 + random.below(u64::from(ONE)) as u32;
            let kept = top_p(&distances, top_k(&distances, k), p);
            let mut expected: Vec<usize> = by_rank(&logits);
            // Logits that differ may have one distance: then the ids decide.
            expected.sort_by_key(|&id| (distances[id], id));
            expected.truncate(if k == 0 { n } else { k as usize });
            let weight = |id: usize| u64::from(exp_u16(u32::from(distances[id])));
            let total: u64 = expected.iter().map(|&id| weight(id)).sum();
            if p < ONE {
                let mut sum = 0;
                let needed = expected.iter().take_while(|&&id| {
                    let before = sum;
                    sum += weight(id);
                    before * u64::from(ONE) < total * u64::from(p)
                });
                let needed = needed.count();
                expected.truncate(needed);
            }
            // Tokens of weight 0 are never drawn, kept or not.
            let mut expected: Vec<u32> =
                expected.into_iter().filter(|&id| weight(id) > 0).map(|id| id as u32).collect();
            expected.sort_unstable();
            let weights = kept.weights(&distances);
            let found: Vec<u32> = weights.filter(|&(_, weight)| weight > 0).map(|(id, _)| id).collect();
            assert_eq!(found, expected, "n {n} k {k} p {p} spread {spread}");
        }
    }

    #[test]
    fn tokens_are_drawn_as_often_as_the_softmax_says() {
        let logits = [0i16, 16, 32, 8, -40];
        for temperature in [ONE / 2, ONE, 3 * ONE] {
            let settings = Sampling { temperature, ..Sampling::GREEDY };
            let drawn = draw(settings, &logits, &[], 5, 100_000);
            let real = |l: i16| (f64::from(l) / 16.0 * f64::from(ONE) / f64::from(temperature)).exp();
            let sum: f64 = logits.iter().map(|&l| real(l)).sum();
            for (id, &l) in logits.iter().enumerate() {
                let share = drawn.iter().filter(|&&t| t as usize == id).count() as f64 / 1e5;
                // Five standard deviations of a share, 0.5 % of the exponential and its rounding.
                let expected = real(l) / sum;
                let bound = 5.0 * (expected * (1.0 - expected) / 1e5).sqrt() + 0.01 * expected;
                assert!((share - expected).abs() <= bound, "{id} at {temperature}: {share} for {expected}");
            }
        }
    }

    #[test]
    fn one_seed_gives_one_text() {
        let mut random = Random(3);
        let logits = random_logits(&mut random, 64, 50);
        let settings = Sampling { temperature: ONE, top_k: 20, top_p: ONE * 9 / 10, repetition_penalty: ONE + ONE / 8 };
        let first = draw(settings, &logits, &[1, 5, 5], 11, 200);
        assert_eq!(first, draw(settings, &logits, &[1, 5, 5], 11, 200));
        assert_ne!(first, draw(settings, &logits, &[1, 5, 5], 12, 200));
    }

    #[test]
    fn choices_do_not_depend_on_the_zero_point_or_the_width() {
        let mut random = Random(8);
        let narrow: Vec<i8> = (0..200).map(|_| random.below(256) as u8 as i8).collect();
        let wide: Vec<i16> = narrow.iter().map(|&l| i16::from(l) + 300).collect();
        let settings = Sampling { temperature: 2 * ONE, repetition_penalty: 2 * ONE, ..Sampling::GREEDY };
        let (mut a, mut b) = (Sampler::new(settings, 1).unwrap(), Sampler::new(settings, 1).unwrap());
        let mut scratch = [0; 200];
        for _ in 0..100 {
            let x = a.next(Logits::i8(&narrow, -7), UNITS, &[3, 4], &mut scratch);
            let y = b.next(Logits::i16(&wide, 293), UNITS, &[3, 4], &mut scratch);
            assert_eq!(x, y);
        }
    }

    #[test]
    fn the_penalty_makes_recent_tokens_less_likely() {
        let settings = Sampling { repetition_penalty: 2 * ONE, ..Sampling::GREEDY };
        // 100 / 2 < 60; -10 * 2 < -15; a token that comes twice is penalized once.
        assert_eq!(draw(settings, &[100, 60, 0], &[0, 0], 0, 1), [1]);
        assert_eq!(draw(settings, &[100, 40, 0], &[0, 0], 0, 1), [0]);
        assert_eq!(draw(settings, &[-10, -15], &[0], 0, 1), [1]);
        // Ids beyond the logits are none of the tokens.
        assert_eq!(draw(settings, &[-10, -15], &[7, u32::MAX], 0, 1), [0]);
        let drawn = draw(Sampling { temperature: ONE, ..settings }, &[64, 64], &[0], 1, 10_000);
        let share = drawn.iter().filter(|&&t| t == 0).count() as f64 / 1e4;
        let expected = 1.0 / (1.0 + 2f64.exp());
        assert!((share - expected).abs() < 0.02, "{share} for {expected}");
    }

    #[test]
    fn extremes_are_chosen_from_without_overflow() {
        let logits = [i16::MIN, i16::MAX, 0];
        for units in [0, 1, UNITS, u32::MAX] {
            for temperature in [1, ONE, ONE << 8] {
                for repetition_penalty in [ONE, ONE << 8] {
                    let settings = Sampling { temperature, top_k: 2, top_p: 1, repetition_penalty };
                    let mut sampler = Sampler::new(settings, 0).unwrap();
                    for zero in [i32::MIN, 0, i32::MAX] {
                        let token = sampler.next(Logits::i16(&logits, zero), units, &[0, 1, 2], &mut [0; 3]).unwrap();
                        assert!(token < 3);
                    }
                }
            }
        }
    }

    #[test]
    fn settings_that_cannot_be_are_refused() {
        let with = |change: fn(&mut Sampling)| {
            let mut settings = Sampling::GREEDY;
            change(&mut settings);
            Sampler::new(settings, 0).err()
        };
        assert_eq!(with(|s| s.top_p = 0), Some(SamplingError::TopP));
        assert_eq!(with(|s| s.top_p = ONE + 1), Some(SamplingError::TopP));
        assert_eq!(with(|s| s.repetition_penalty = ONE - 1), Some(SamplingError::RepetitionPenalty));
        assert_eq!(with(|s| s.temperature = (ONE << 8) + 1), Some(SamplingError::Temperature));
        let mut sampler = Sampler::new(Sampling { temperature: 1, ..Sampling::GREEDY }, 0).unwrap();
        assert_eq!(sampler.next(Logits::i8(&[], 0), 1, &[], &mut []), Err(SampleError::Empty));
        let scratch = Err(SampleError::Scratch { needed: 2, given: 1 });
        assert_eq!(sampler.next(Logits::i8(&[1, 2], 0), 1, &[], &mut [0]), scratch);
    }
}
