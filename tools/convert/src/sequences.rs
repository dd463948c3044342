//! Sequences of tokens: npz files with `ids` `[sequences, length]` and, where there is a reference, `logits`
//! `[sequences, length, vocabulary]`; or a text, for models with a tokenizer.

use crate::data::{Array, DataError, read_arrays};
use crate::model_file::Values;
use crate::tokenizer::encode;
use shiftformer::text::{EncodeError, Tokenizer};
use std::path::Path;

/// How a zip file, and so an npz, starts.
const ZIP: &[u8] = b"PK";

/// The sequences of one file.
#[derive(Clone, Debug, PartialEq)]
pub struct Sequences {
    /// Tokens.
    pub ids: Vec<Vec<i64>>,
    /// Logits of the float model, `[length, vocabulary]` each.
    pub logits: Option<Vec<Vec<f32>>>,
}

/// Why a file holds no sequences.
#[derive(Debug, thiserror::Error)]
pub enum SequenceError {
    /// The file is no npz.
    #[error(transparent)]
    Data(#[from] DataError),
    /// An array is missing or has the wrong shape.
    #[error(
        "{path}: {why}; sequences are `ids` [sequences, length] of integers and optionally `logits` [sequences, length, vocabulary]"
    )]
    Shape {
        /// The path.
        path: String,
        /// What is wrong.
        why: String,
    },
    /// A text cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The path.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// A file is neither npz nor text.
    #[error("{path} is neither an npz file nor a text in UTF-8; pass sequences as npz, or a text file")]
    NoText {
        /// The path.
        path: String,
    },
    /// There is nothing to turn a text into tokens with.
    #[error("{path} is a text, and the model has no tokenizer; pass --tokenizer when converting, or sequences as npz")]
    NoTokenizer {
        /// The path.
        path: String,
    },
    /// The tokenizer refuses the text.
    #[error("{path}: {source}")]
    Encode {
        /// The path.
        path: String,
        /// Why.
        source: EncodeError,
    },
    /// A token outside the vocabulary.
    #[error("sequence {sequence} holds the token {token}; the vocabulary has {vocabulary} tokens; check the tokenizer")]
    Token {
        /// Index of the sequence.
        sequence: usize,
        /// The token.
        token: i64,
        /// Size of the vocabulary.
        vocabulary: usize,
    },
}

impl Sequences {
    /// Reads a file.
    ///
    /// # Errors
    /// [`SequenceError`]; each says what to change.
    pub fn open(path: &Path) -> Result<Self, SequenceError> {
        let name = path.display().to_string();
        Self::from_arrays(&read_arrays(path, &|name| name == "ids" || name == "logits")?, &name)
    }

    /// The arrays `ids` and `logits` of those in memory; `origin` names them in errors.
    ///
    /// # Errors
    /// [`SequenceError::Shape`].
    pub fn from_arrays(arrays: &[(String, Array)], origin: &str) -> Result<Self, SequenceError> {
        let fail = |why: String| SequenceError::Shape { path: origin.to_owned(), why };
        let array = |wanted: &str| arrays.iter().find(|(name, _)| name == wanted).map(|(_, array)| array);
        let ids = array("ids").ok_or_else(|| fail("there is no array `ids`".to_owned()))?;
        let [count, length] = ids.shape[..] else { return Err(fail(format!("`ids` has the shape {:?}", ids.shape))) };
        if count == 0 || length == 0 {
            return Err(fail(format!("`ids` of shape {:?} holds no tokens", ids.shape)));
        }
        let tokens = tokens(ids).ok_or_else(|| fail("`ids` are not integers".to_owned()))?;
        let logits = array("logits").map(|logits| -> Result<Vec<Vec<f32>>, SequenceError> {
            let fits = logits.shape.len() == 3 && logits.shape[..2] == ids.shape[..] && logits.shape[2] > 0;
            let values = logits.values.to_real(None);
            let part = length * logits.shape.last().copied().unwrap_or(1);
            if !fits {
                return Err(fail(format!(
                    "`logits` of shape {:?} do not belong to `ids` of shape {:?}",
                    logits.shape, ids.shape
                )));
            }
            Ok(values.chunks_exact(part).map(<[f32]>::to_vec).collect())
        });
        Ok(Self { ids: tokens.chunks_exact(length).map(<[i64]>::to_vec).collect(), logits: logits.transpose()? })
    }

    /// Reads a file: npz, or a text that `tokenizer` turns into sequences of `length` tokens. Each starts with the tokens
    /// that the tokenizer puts before a text; a rest at the end that fills no sequence is left out.
    ///
    /// # Errors
    /// [`SequenceError`]; each says what to change.
    pub fn open_with(path: &Path, tokenizer: Option<&Tokenizer<'_>>, length: usize) -> Result<Self, SequenceError> {
        let name = || path.display().to_string();
        let bytes = std::fs::read(path).map_err(|source| SequenceError::Read { path: name(), source })?;
        if bytes.starts_with(ZIP) {
            return Self::open(path);
        }
        let text = String::from_utf8(bytes).map_err(|_| SequenceError::NoText { path: name() })?;
        let tokenizer = tokenizer.ok_or_else(|| SequenceError::NoTokenizer { path: name() })?;
        let ids = |text: &str, special| {
            let ids = encode(tokenizer, text, special);
            ids.map_err(|source| SequenceError::Encode { path: name(), source })
        };
        let before = if tokenizer.layout().after.bytes == 0 { ids("", true)? } else { Vec::new() };
        let ids = ids(&text, false)?;
        let room = length.saturating_sub(before.len()).max(1);
        let whole = ids.len() / room * room;
        let taken = if whole == 0 { &ids[..] } else { &ids[..whole] };
        if taken.is_empty() {
            return Err(SequenceError::Shape { path: name(), why: "the text is empty".to_owned() });
        }
        let sequence = |part: &[u32]| before.iter().chain(part).map(|&id| i64::from(id)).collect();
        Ok(Self { ids: taken.chunks(room).map(sequence).collect(), logits: None })
    }

    /// Whether the file at `path` holds an array `ids`.
    ///
    /// # Errors
    /// [`DataError`] when it is no npz.
    pub fn is_in(path: &Path) -> Result<bool, DataError> {
        Ok(!read_arrays(path, &|name| name == "ids")?.is_empty())
    }

    /// Tokens of a sequence; all sequences are of one length.
    pub fn length(&self) -> usize {
        self.ids.first().map_or(0, Vec::len)
    }

    /// Size of the vocabulary, where there are logits.
    pub fn vocabulary(&self) -> Option<usize> {
        Some(self.logits.as_ref()?.first()?.len() / self.length().max(1))
    }

    /// Checks that every token is below `vocabulary`.
    ///
    /// # Errors
    /// [`SequenceError::Token`].
    pub fn check(&self, vocabulary: usize) -> Result<(), SequenceError> {
        for (sequence, ids) in self.ids.iter().enumerate() {
            if let Some(&token) = ids.iter().find(|&&id| usize::try_from(id).is_err() || id as usize >= vocabulary) {
                return Err(SequenceError::Token { sequence, token, vocabulary });
            }
        }
        Ok(())
    }

    /// The first `length` tokens of the first `limit` sequences, as samples of a model whose only input are ids.
    pub fn samples(&self, length: usize, limit: usize) -> Vec<Vec<Values>> {
        let first = |ids: &Vec<i64>| vec![Values::Int(ids.iter().copied().take(length).collect())];
        self.ids.iter().take(limit).map(first).collect()
    }
}

fn tokens(ids: &Array) -> Option<Vec<i64>> {
    match &ids.values {
        Values::U8(v) => Some(v.iter().map(|&id| i64::from(id)).collect()),
        Values::Int(v) => Some(v.clone()),
        Values::Float(_) => None,
    }
}
