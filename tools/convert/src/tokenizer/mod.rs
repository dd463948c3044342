//! Tokenizers for the `Text` section of a model: Hugging Face `tokenizer.json`, bytes, or single characters.
//!
//! A device encodes and decodes exactly as the `tokenizers` crate does. What it cannot do exactly is refused here, by the
//! name that the file has for it.

mod hugging_face;
mod write;

use crate::model_file::ModelFile;
use crate::model_file::parts::ModelParts;
use crate::pack::PackError;
use shiftformer::kernels::Portable;
use shiftformer::tensor::Dtype;
use shiftformer::text::{EncodeError, Tokenizer};
use std::path::{Path, PathBuf};

/// Where the tokenizer of a model comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A Hugging Face `tokenizer.json`.
    HuggingFace(PathBuf),
    /// Every byte is a token: ids 0 to 255.
    Bytes,
    /// These characters, in the order of their ids.
    Characters(String),
}

/// Why a tokenizer cannot be stored.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}; check the path")]
    Read {
        /// The path.
        path: String,
        /// The cause.
        source: std::io::Error,
    },
    /// The file is not what it should be.
    #[error("{path} is not a tokenizer.json of Hugging Face ({why}); save one with `tokenizer.save`")]
    Malformed {
        /// The path.
        path: String,
        /// What is wrong.
        why: String,
    },
    /// A part that a device has no exact counterpart of.
    #[error("the tokenizer has {what}, which cannot be done exactly on a device; supported are {supported}")]
    Unsupported {
        /// The part.
        what: String,
        /// What could be in its place.
        supported: &'static str,
    },
    /// Tables that contradict each other.
    #[error("the tokenizer is inconsistent: {0}; save it again")]
    Inconsistent(String),
    /// Tokenizer and model belong to different vocabularies.
    #[error(
        "the tokenizer has {tokenizer} tokens, the logits of the model {model}; take the tokenizer that the model was \
         trained with"
    )]
    Vocabulary {
        /// Tokens of the tokenizer.
        tokenizer: u32,
        /// Logits of the model.
        model: u32,
    },
    /// The model has no logits.
    #[error("a tokenizer is for models whose first output is logits of 8 or 16 bits; leave --tokenizer out")]
    NoLogits,
    /// The file cannot be written.
    #[error("{0}")]
    Pack(#[from] PackError),
    /// The scale of the logits is out of range.
    #[error("one step of the logits is {0}, beyond what sampling can work with (1e-6 to 100); convert the model again")]
    Scale(f64),
}

impl Source {
    /// The source that a command line names: `bytes`, `characters:ABC`, or a path.
    pub fn parse(text: &str) -> Self {
        match (text, text.strip_prefix("characters:")) {
            ("bytes", _) => Self::Bytes,
            (_, Some(characters)) => Self::Characters(characters.to_owned()),
            (path, None) => Self::HuggingFace(PathBuf::from(path)),
        }
    }

    /// The `Text` section for a model with `vocabulary` logits, of which one step is `logit_scale`.
    ///
    /// # Errors
    /// [`TokenizerError`]; nothing is left out in silence.
    pub fn section(&self, vocabulary: u32, logit_scale: f64) -> Result<Vec<u8>, TokenizerError> {
        let tables = match self {
            Self::HuggingFace(path) => {
                return section_of_json(&read(path)?, &path.display().to_string(), vocabulary, logit_scale);
            }
            Self::Bytes => write::bytes(),
            Self::Characters(characters) => write::characters(characters)?,
        };
        tables.section(vocabulary, logit_scale)
    }
}

/// The `Text` section that a `tokenizer.json` gives, as [`Source::section`]; `origin` is what errors call them.
///
/// # Errors
/// [`TokenizerError`].
pub fn section_of_json(json: &str, origin: &str, vocabulary: u32, logit_scale: f64) -> Result<Vec<u8>, TokenizerError> {
    hugging_face::read(json, origin)?.section(vocabulary, logit_scale)
}

/// The file of `model` with the tokenizer of `source`, which must have its vocabulary.
///
/// # Errors
/// [`TokenizerError`].
pub fn attach(model: &ModelFile, source: &Source) -> Result<Vec<u8>, TokenizerError> {
    let opened = model.open::<Portable>().map_err(|_| TokenizerError::NoLogits)?;
    let logits = opened.output(0).filter(|logits| matches!(logits.dtype, Dtype::I8 | Dtype::I16));
    let (logits, endpoint) = logits.zip(model.outputs().first()).ok_or(TokenizerError::NoLogits)?;
    let (scale, _) = model.units(endpoint.tensor);
    let vocabulary = u32::try_from(logits.row()).unwrap_or(u32::MAX);
    let text = source.section(vocabulary, scale)?;
    Ok(ModelParts { text, ..ModelParts::of(&opened, model.annotations()) }.write()?)
}

fn read(path: &Path) -> Result<String, TokenizerError> {
    let shown = || path.display().to_string();
    let bytes = std::fs::read(path).map_err(|source| TokenizerError::Read { path: shown(), source })?;
    String::from_utf8(bytes).map_err(|fault| TokenizerError::Malformed { path: shown(), why: fault.to_string() })
}

/// What one step of logits with this scale is for [`shiftformer::text::Sampler::next`]: `scale * log2(e) * 2^24`.
///
/// # Errors
/// [`TokenizerError::Scale`] where that is not a positive number of 32 bits.
pub fn logit_units(scale: f64) -> Result<u32, TokenizerError> {
    let units = (scale * std::f64::consts::LOG2_E * f64::from(1 << 24)).round();
    if (1.0..=f64::from(u32::MAX)).contains(&units) { Ok(units as u32) } else { Err(TokenizerError::Scale(scale)) }
}

/// Every id of `text`, as a device encodes it.
///
/// # Errors
/// [`EncodeError`] for what the tokenizer refuses.
pub fn encode(tokenizer: &Tokenizer<'_>, text: &str, special: bool) -> Result<Vec<u32>, EncodeError> {
    let around = tokenizer.layout().before.bytes + tokenizer.layout().after.bytes;
    let mut ids = vec![0; text.len() + 1 + around as usize];
    let length = tokenizer.encode(text, special, &mut ids)?;
    ids.truncate(length);
    Ok(ids)
}
