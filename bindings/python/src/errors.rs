//! Faults as the exceptions of `shiftformer._errors`, with the texts of the command.

use pyo3::prelude::*;
use shiftformer_cli::{Failure, one_line};
use shiftformer_convert::convert::ConvertError;
use shiftformer_convert::data::DataError;
use shiftformer_convert::import::ImportError;
use shiftformer_convert::sequences::SequenceError;
use shiftformer_convert::tokenizer::TokenizerError;
use shiftformer_lab::eval::EvalError;
use shiftformer_lab::sequence::SequenceRunError;
use std::io;

/// The exception for a failure.
pub fn exception(failure: &Failure) -> PyErr {
    raised(class(failure), &one_line(&failure.to_string()))
}

/// The exception `class` of the package, with a text.
pub fn raised(class: &str, text: &str) -> PyErr {
    Python::attach(|py| {
        let made = py.import("shiftformer._errors").and_then(|module| module.getattr(class)?.call1((text,)));
        made.map_or_else(|error| error, PyErr::from_value)
    })
}

fn file(source: &io::Error) -> &'static str {
    if source.kind() == io::ErrorKind::NotFound { "NotFoundError" } else { "FileError" }
}

fn class(failure: &Failure) -> &'static str {
    match failure {
        Failure::Usage(_) | Failure::Labels { .. } | Failure::Media(_) => "UsageError",
        Failure::Read { source, .. } | Failure::Write { source, .. } => file(source),
        Failure::Model { .. } | Failure::Transport { .. } => "ModelError",
        Failure::Json { .. } | Failure::Serialize(_) | Failure::Parity(_) => "ShiftformerError",
        Failure::Import { source, .. } => match source {
            ImportError::Read { source, .. } => file(source),
            _ => "OnnxError",
        },
        Failure::Decoder { .. } => "OnnxError",
        Failure::Refused(_) => "AccuracyError",
        Failure::Convert(error) => convert(error),
        Failure::Tokenizer(error) => match error {
            TokenizerError::Read { source, .. } => file(source),
            _ => "TokenizerError",
        },
        Failure::Backend(_) => "BackendError",
        Failure::Sequence(error) => match error {
            SequenceRunError::Backend(_) | SequenceRunError::Run(_) => "BackendError",
            SequenceRunError::NoDecoder => "UsageError",
            SequenceRunError::Tokens(_) | SequenceRunError::Vocabulary { .. } => "DataError",
        },
        Failure::Sequences(error) => match error {
            SequenceError::Read { source, .. } | SequenceError::Data(DataError::Read { source, .. }) => file(source),
            _ => "DataError",
        },
        Failure::Eval(error) => match error {
            EvalError::Backend(_) => "BackendError",
            EvalError::Float { .. } => "OnnxError",
            EvalError::Data(DataError::Read { source, .. }) => file(source),
            _ => "DataError",
        },
    }
}

fn convert(error: &ConvertError) -> &'static str {
    match error {
        ConvertError::Sample { .. }
        | ConvertError::Id { .. }
        | ConvertError::NotFinite { .. }
        | ConvertError::NeedsSamples(_) => "DataError",
        _ => "ConversionError",
    }
}
