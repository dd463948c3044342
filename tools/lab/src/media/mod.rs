//! Images and sound as samples of a model.

pub mod image;
pub mod sound;

use shiftformer_convert::model_file::ModelFileError;
use std::path::{Path, PathBuf};

/// Why a file cannot be a sample.
#[derive(Debug, thiserror::Error)]
pub enum MediaError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}; check the path", path.display())]
    Read {
        /// The path.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The file is not what it should be, or damaged.
    #[error("{}: {why}; give a whole {expected} file", path.display())]
    Damaged {
        /// The path.
        path: PathBuf,
        /// What the decoder says.
        why: String,
        /// What can be read.
        expected: &'static str,
    },
    /// The model takes something else.
    #[error("the model takes {takes}, not {kind}; pass --data")]
    Kind {
        /// Its inputs, for people.
        takes: String,
        /// What was given.
        kind: &'static str,
    },
    /// Nobody says how pixels become the model's numbers.
    #[error(
        "the model takes real numbers and does not say how they are made of pixels; pass --mean and --std, of x / 255 (--mean 0 --std 1 for x / 255 itself)"
    )]
    Normalization,
    /// The file says it, and the arguments too.
    #[error("the model was converted with its mean and deviation, or takes bytes; leave out --mean and --std")]
    Twice,
    /// A mean or deviation per channel, of another number of channels.
    #[error(
        "--mean and --std have {given} values, the model's images {channels} channels; give one value or one per channel"
    )]
    Channels {
        /// Values given.
        given: usize,
        /// Channels of the model's images.
        channels: usize,
    },
    /// A rate that cannot be converted.
    #[error("{}: {rate} samples per second; give sound of {} to {} per second", path.display(), sound::RATES.start(), sound::RATES.end())]
    Rate {
        /// The path.
        path: PathBuf,
        /// Its samples per second.
        rate: u32,
    },
    /// No samples at all.
    #[error("{}: no sound in it", .0.display())]
    Empty(PathBuf),
    /// The model cannot take the values.
    #[error(transparent)]
    Model(#[from] ModelFileError),
}

/// Bytes of an input, and what was done to what was given, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Converted {
    /// Bytes of the model's only input.
    pub bytes: Vec<u8>,
    /// A line each.
    pub notes: Vec<String>,
}

fn read(path: &Path) -> Result<Vec<u8>, MediaError> {
    std::fs::read(path).map_err(|source| MediaError::Read { path: path.to_owned(), source })
}

/// Inputs and shapes, for people.
fn takes(model: &shiftformer_convert::model_file::ModelFile) -> String {
    let inputs = model.inputs().iter().map(|input| format!("`{}` of shape {:?}", input.name, input.shape));
    inputs.collect::<Vec<_>>().join(" and ")
}
