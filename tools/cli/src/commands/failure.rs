//! How commands end.

use shiftformer_convert::convert::ConvertError;
use shiftformer_convert::decoder::DecoderError;
use shiftformer_convert::import::ImportError;
use shiftformer_convert::model_file::ModelFileError;
use shiftformer_convert::model_file::labels::LabelsError;
use shiftformer_convert::sequences::SequenceError;
use shiftformer_convert::tokenizer::TokenizerError;
use shiftformer_lab::backend::BackendError;
use shiftformer_lab::eval::EvalError;
use shiftformer_lab::media::MediaError;
use shiftformer_lab::parity::ParityError;
use shiftformer_lab::sequence::SequenceRunError;
use shiftformer_transport::TransportError;
use std::path::PathBuf;

/// The answer of a command that ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Exit code 0.
    Passed,
    /// Exit code 1: what was checked does not hold.
    Failed,
}

/// Why a command could not run: exit code 2.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields are the path and the cause that the text names")]
pub enum Failure {
    /// The arguments contradict each other or name something unknown.
    #[error("{0}")]
    Usage(String),
    /// A file cannot be read.
    #[error("cannot read {}: {source}; check the path", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    /// A file cannot be written.
    #[error("cannot write {}: {source}; choose another path", path.display())]
    Write { path: PathBuf, source: std::io::Error },
    /// The model file is not usable.
    #[error("{}: {source}", path.display())]
    Model { path: PathBuf, source: ModelFileError },
    /// A packed model is not usable.
    #[error("{}: {source}", path.display())]
    Transport { path: PathBuf, source: TransportError },
    /// A file is not the JSON it should be.
    #[error("{}: {source}; give files that `shiftformer eval --json` wrote", path.display())]
    Json { path: PathBuf, source: serde_json::Error },
    /// The result cannot be written as JSON.
    #[error("cannot write JSON: {0}")]
    Serialize(#[from] serde_json::Error),
    /// The ONNX model cannot be imported.
    #[error("{}: {source}", path.display())]
    Import { path: PathBuf, source: ImportError },
    /// The conversion failed.
    #[error(transparent)]
    Convert(#[from] ConvertError),
    /// The outputs keep less than `--accept-sqnr`: the command's verdict, not a fault of its arguments.
    #[error("{0}")]
    Refused(String),
    /// The tokenizer cannot be stored with the model.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The backends cannot be compared.
    #[error(transparent)]
    Parity(#[from] ParityError),
    /// A backend is missing or failed.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// A decoder cannot be run.
    #[error(transparent)]
    Sequence(#[from] SequenceRunError),
    /// The file holds no sequences of tokens.
    #[error(transparent)]
    Sequences(#[from] SequenceError),
    /// The model is no decoder.
    #[error("{}: {source}", path.display())]
    Decoder { path: PathBuf, source: DecoderError },
    /// A file cannot be a sample.
    #[error(transparent)]
    Media(#[from] MediaError),
    /// The names of the classes do not fit.
    #[error("{}: {source}", path.display())]
    Labels { path: PathBuf, source: LabelsError },
    /// The evaluation cannot be done with this data.
    #[error(transparent)]
    Eval(#[from] EvalError),
}
