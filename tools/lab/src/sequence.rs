//! Decoders over sequences of tokens: sessions on any backend of this machine, and what their logits are worth.

use crate::backend::{self, BackendError};
use crate::eval::metrics::argmax;
use serde::Serialize;
use shiftformer::kernels::{Kernels, Native, Portable};
use shiftformer::text::Tokenizer;
use shiftformer::{AlignedBytes, RunFault, Session};
use shiftformer_convert::model_file::{ModelFile, dequantize};
use shiftformer_convert::sequences::Sequences;

/// Why a decoder cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum SequenceRunError {
    /// The model keeps nothing between runs.
    #[error("the model is no decoder: it keeps no keys and values; convert it with --context N")]
    NoDecoder,
    /// The backend is not there, or failed.
    #[error("{0}")]
    Backend(#[from] BackendError),
    /// Tokens and positions.
    #[error("{0}")]
    Tokens(String),
    /// The run failed.
    #[error("the run failed: {0}")]
    Run(RunFault),
    /// The logits of the file are of another model.
    #[error(
        "the logits in the file are of a vocabulary of {given}, the model has {expected}; use logits of the same model"
    )]
    Vocabulary {
        /// Of the file.
        given: usize,
        /// Of the model.
        expected: usize,
    },
}

/// A decoder that is running.
pub trait Decoder {
    /// Processes `tokens`; `row` is given the bytes of the logits of each.
    ///
    /// # Errors
    /// As [`Session::prefill`], and where the backend fails; the state is then as before.
    fn feed(&mut self, tokens: &[u32], row: &mut dyn FnMut(&[u8])) -> Result<(), SequenceRunError>;

    /// Tokens in the state.
    fn position(&self) -> u32;

    /// Forgets all tokens.
    ///
    /// # Errors
    /// Where the backend fails.
    fn reset(&mut self) -> Result<(), SequenceRunError>;
}

impl<B: Kernels> Decoder for Session<'_, '_, B> {
    fn feed(&mut self, tokens: &[u32], row: &mut dyn FnMut(&[u8])) -> Result<(), SequenceRunError> {
        let rows = (self.model().state().rows as usize).max(1);
        let start = self.position();
        for block in tokens.chunks(rows) {
            let done = self.prefill(block);
            if let Err(fault) = done {
                self.truncate(start);
                return Err(SequenceRunError::Run(fault));
            }
            for index in 0..block.len() as u32 {
                row(self.row_of_output(index).ok_or(SequenceRunError::Run(RunFault::Memory))?);
            }
        }
        Ok(())
    }

    fn position(&self) -> u32 {
        Session::position(self)
    }

    fn reset(&mut self) -> Result<(), SequenceRunError> {
        Session::reset(self);
        Ok(())
    }
}

/// Sizes of a decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct DecoderShape {
    /// Positions that the state has room for.
    pub context: usize,
    /// Tokens of a run at most.
    pub rows: usize,
    /// Tokens of the vocabulary.
    pub vocabulary: usize,
    /// Bytes of state.
    pub state_bytes: usize,
    /// Bytes of arena.
    pub arena_bytes: usize,
}

/// The sizes of `model`.
///
/// # Errors
/// [`SequenceRunError::NoDecoder`].
pub fn shape(model: &ModelFile) -> Result<DecoderShape, SequenceRunError> {
    let opened = model.open::<Portable>().map_err(|_| SequenceRunError::NoDecoder)?;
    let state = opened.state();
    let output = opened.output(0).filter(|_| state.rows > 0 && opened.n_inputs() == 1);
    let output = output.ok_or(SequenceRunError::NoDecoder)?;
    Ok(DecoderShape {
        context: state.capacity as usize,
        rows: state.rows as usize,
        vocabulary: output.len() / state.rows as usize,
        state_bytes: opened.state_bytes(),
        arena_bytes: opened.arena_bytes(),
    })
}

/// Calls `work` with a session of `model` on `backend`.
///
/// # Errors
/// [`SequenceRunError`], or that of `work`.
pub fn with_decoder<T, E: From<SequenceRunError>>(
    model: &ModelFile,
    backend: &str,
    work: &mut dyn FnMut(&mut dyn Decoder) -> Result<T, E>,
) -> Result<T, E> {
    shape(model)?;
    match backend {
        "portable" => on::<Portable, T, E>(model, work),
        "native" => on::<Native, T, E>(model, work),
        other => work(backend::open_decoder(other, model).map_err(SequenceRunError::Backend)?.as_mut()),
    }
}

fn on<B: Kernels, T, E: From<SequenceRunError>>(
    model: &ModelFile,
    work: &mut dyn FnMut(&mut dyn Decoder) -> Result<T, E>,
) -> Result<T, E> {
    let opened = model.open::<B>().map_err(|_| SequenceRunError::NoDecoder)?;
    let [mut arena, mut state] = [opened.arena_bytes(), opened.state_bytes()].map(AlignedBytes::zeroed);
    let session = Session::with_state(&opened, &mut arena, &mut state);
    let mut session = session.map_err(|_| SequenceRunError::Run(RunFault::Memory))?;
    work(&mut session)
}

/// Real logits of the bytes of a row.
pub struct Logits<'m> {
    model: &'m ModelFile,
    dtype: shiftformer::tensor::Dtype,
    units: (f64, f64),
}

impl<'m> Logits<'m> {
    /// Those of `model`.
    ///
    /// # Errors
    /// [`SequenceRunError::NoDecoder`].
    pub fn of(model: &'m ModelFile) -> Result<Self, SequenceRunError> {
        let endpoint = model.outputs().first().ok_or(SequenceRunError::NoDecoder)?;
        let dtype = model.output_dtype(0).ok_or(SequenceRunError::NoDecoder)?;
        Ok(Self { model, dtype, units: model.units(endpoint.tensor) })
    }

    /// The logits of one token.
    pub fn decode(&self, row: &[u8]) -> Vec<f32> {
        dequantize(row, self.dtype, self.units.0, self.units.1)
    }

    /// The model.
    pub fn model(&self) -> &ModelFile {
        self.model
    }
}

/// What the logits of a decoder are worth.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SequenceScore {
    /// Sequences.
    pub sequences: usize,
    /// Tokens whose logits were computed.
    pub tokens: usize,
    /// Tokens beyond the context, left out.
    pub left_out: usize,
    /// `10 log10(signal / noise)` against the logits of the float model.
    pub sqnr_db: Option<f64>,
    /// Share of tokens with the same most likely successor as the float model.
    pub agreement: Option<f64>,
    /// Mean of `-log2` of the probability of the token that follows.
    pub bits_per_token: Option<f64>,
    /// The same of the float model.
    pub float_bits_per_token: Option<f64>,
    /// Bits of the tokens that follow over the bytes of their text, where the model has a tokenizer.
    pub bits_per_byte: Option<f64>,
    /// The same of the float model.
    pub float_bits_per_byte: Option<f64>,
}

#[derive(Default)]
struct Sums {
    tokens: usize,
    signal: f64,
    noise: f64,
    same: usize,
    compared: usize,
    bits: f64,
    float_bits: f64,
    predicted: usize,
    /// Of the text of the predicted tokens.
    bytes: usize,
}

/// Evaluates `model` on the first `limit` sequences.
///
/// # Errors
/// [`SequenceRunError`], the first met.
pub fn evaluate(
    model: &ModelFile,
    backend: &str,
    data: &Sequences,
    limit: Option<usize>,
    mut progress: impl FnMut(),
) -> Result<SequenceScore, SequenceRunError> {
    let shape = shape(model)?;
    data.check(shape.vocabulary).map_err(|error| SequenceRunError::Tokens(error.to_string()))?;
    if let Some(given) = data.vocabulary().filter(|&given| given != shape.vocabulary) {
        return Err(SequenceRunError::Vocabulary { given, expected: shape.vocabulary });
    }
    let logits = Logits::of(model)?;
    let count = data.ids.len().min(limit.unwrap_or(usize::MAX));
    let length = data.length().min(shape.context);
    let mut sums = Sums::default();
    let opened = model.open::<Portable>().map_err(|_| SequenceRunError::NoDecoder)?;
    let tokenizer = Tokenizer::open(opened.sections()).map_err(|error| SequenceRunError::Tokens(error.to_string()))?;
    with_decoder(model, backend, &mut |decoder| {
        for (index, ids) in data.ids.iter().take(count).enumerate() {
            decoder.reset()?;
            let tokens: Vec<u32> = ids.iter().take(length).map(|&id| id as u32).collect();
            let mut at = 0;
            let mut row = |bytes: &[u8]| {
                let ours = logits.decode(bytes);
                let float = data
                    .logits
                    .as_ref()
                    .and_then(|all| all.get(index)?.get(at * shape.vocabulary..)?.get(..shape.vocabulary));
                sums.token(&ours, float, tokens.get(at + 1).copied());
                at += 1;
            };
            decoder.feed(&tokens, &mut row)?;
            if let Some(tokenizer) = &tokenizer {
                sums.bytes += text_bytes(tokenizer, tokens.get(1..).unwrap_or(&[]))?;
            }
            progress();
        }
        Ok::<(), SequenceRunError>(())
    })?;
    let ratio = |sum: f64, n: usize| (n > 0).then(|| sum / n as f64);
    let has_float = data.logits.is_some();
    Ok(SequenceScore {
        sequences: count,
        tokens: sums.tokens,
        left_out: count * (data.length() - length),
        sqnr_db: (sums.signal > 0.0).then(|| 10.0 * (sums.signal / sums.noise.max(1e-30)).log10()),
        agreement: ratio(sums.same as f64, sums.compared),
        bits_per_token: ratio(sums.bits, sums.predicted),
        float_bits_per_token: ratio(sums.float_bits, sums.predicted).filter(|_| has_float),
        bits_per_byte: ratio(sums.bits, sums.bytes),
        float_bits_per_byte: ratio(sums.float_bits, sums.bytes).filter(|_| has_float),
    })
}

/// Bytes of the text of `tokens`.
fn text_bytes(tokenizer: &Tokenizer<'_>, tokens: &[u32]) -> Result<usize, SequenceRunError> {
    let mut bytes = 0;
    let mut decoder = tokenizer.decoder(false);
    let mut count = |part: &str| bytes += part.len();
    for &token in tokens {
        decoder.next(token, &mut count).map_err(|error| SequenceRunError::Tokens(error.to_string()))?;
    }
    decoder.finish(&mut count);
    Ok(bytes)
}

/// Two runs of a sequence whose logits are compared with those of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// As many tokens at a time as a run takes.
    Prefill,
    /// One token at a time.
    Steps,
}

/// The first token whose logits differ.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SequenceDifference {
    /// The backend.
    pub backend: String,
    /// How it ran.
    pub way: Way,
    /// The sequence.
    pub sequence: usize,
    /// The token in it.
    pub token: usize,
    /// The first logit that differs.
    pub logit: usize,
}

/// What a comparison of backends over sequences found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SequenceComparison {
    /// Whether all logits are equal.
    pub equal: bool,
    /// Sequences.
    pub sequences: usize,
    /// Tokens of each run.
    pub tokens: usize,
    /// The backends.
    pub backends: Vec<String>,
    /// The first difference of every run from the reference.
    pub differences: Vec<SequenceDifference>,
}

/// Runs the first `limit` sequences on every backend, as prompts and token by token, and compares the bytes of all logits
/// with those of the first backend's prompts.
///
/// # Errors
/// [`SequenceRunError`], the first met.
pub fn compare(
    model: &ModelFile,
    backends: &[String],
    data: &Sequences,
    limit: Option<usize>,
) -> Result<SequenceComparison, SequenceRunError> {
    let shape = shape(model)?;
    data.check(shape.vocabulary).map_err(|error| SequenceRunError::Tokens(error.to_string()))?;
    let width = model.output_dtype(0).ok_or(SequenceRunError::NoDecoder)?.bytes();
    let count = data.ids.len().min(limit.unwrap_or(usize::MAX));
    let length = data.length().min(shape.context);
    let mut reference: Option<Vec<Vec<Vec<u8>>>> = None;
    let mut differences = Vec::new();
    for backend in backends {
        for way in [Way::Prefill, Way::Steps] {
            let rows = sequences_on(model, backend, way, &data.ids[..count], length)?;
            let Some(wanted) = &reference else {
                reference = Some(rows);
                continue;
            };
            differences.extend(rows.iter().zip(wanted).enumerate().find_map(|(sequence, (got, want))| {
                let token = got.iter().zip(want).position(|(got, want)| got != want)?;
                let logit = got[token].iter().zip(&want[token]).position(|(a, b)| a != b)? / width;
                Some(SequenceDifference { backend: backend.clone(), way, sequence, token, logit })
            }));
        }
    }
    let (equal, backends) = (differences.is_empty(), backends.to_vec());
    Ok(SequenceComparison { equal, sequences: count, tokens: count * length, backends, differences })
}

/// The logits of every token of every sequence.
fn sequences_on(
    model: &ModelFile,
    backend: &str,
    way: Way,
    ids: &[Vec<i64>],
    length: usize,
) -> Result<Vec<Vec<Vec<u8>>>, SequenceRunError> {
    with_decoder(model, backend, &mut |decoder| {
        let mut all = Vec::with_capacity(ids.len());
        for ids in ids {
            decoder.reset()?;
            let tokens: Vec<u32> = ids.iter().take(length).map(|&id| id as u32).collect();
            let mut rows = Vec::with_capacity(tokens.len());
            let mut row = |bytes: &[u8]| rows.push(bytes.to_vec());
            let parts = match way {
                Way::Prefill => tokens.len(),
                Way::Steps => 1,
            };
            tokens.chunks(parts.max(1)).try_for_each(|part| decoder.feed(part, &mut row))?;
            all.push(rows);
        }
        Ok(all)
    })
}

impl Sums {
    fn token(&mut self, ours: &[f32], float: Option<&[f32]>, next: Option<u32>) {
        self.tokens += 1;
        if let Some(next) = next {
            self.predicted += 1;
            self.bits += bits(ours, next as usize);
            self.float_bits += float.map_or(0.0, |float| bits(float, next as usize));
        }
        let Some(float) = float else { return };
        self.compared += 1;
        self.same += usize::from(argmax(ours) == argmax(float));
        for (&got, &want) in ours.iter().zip(float) {
            self.signal += f64::from(want).powi(2);
            self.noise += (f64::from(got) - f64::from(want)).powi(2);
        }
    }
}

/// `-log2` of the probability of `token`.
fn bits(logits: &[f32], token: usize) -> f64 {
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&v| f64::from(v - top).exp()).sum();
    let own = logits.get(token).map_or(f64::NEG_INFINITY, |&v| f64::from(v - top));
    (sum.ln() - own) / std::f64::consts::LN_2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_those_of_the_softmax() {
        assert!((bits(&[0.0; 8], 3) - 3.0).abs() < 1e-12);
        assert!((bits(&[0.0, 2f32.ln()], 1) - 1.5f64.log2()).abs() < 1e-6);
    }
}
