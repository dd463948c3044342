//! Why a model file cannot be used.

use shiftformer::ModelError;

/// Why a model file cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelFileError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}; check the path")]
    Read {
        /// The path.
        path: String,
        /// The cause.
        source: std::io::Error,
    },
    /// The bytes are not a valid model.
    #[error("{0}")]
    Model(#[from] ModelError),
    /// The annotations does not parse.
    #[error("the names and scales of the model do not parse ({0}); convert it again")]
    Annotations(serde_json::Error),
    /// A sample does not fit an input.
    #[error("input `{name}` needs {expected} values per sample, the data has {given}; check the shape in the npz")]
    Sample {
        /// Name of the input.
        name: String,
        /// Elements of the input.
        expected: usize,
        /// Elements given.
        given: usize,
    },
    /// An id outside the table it is looked up in.
    #[error("input `{name}` holds {value}; the table it is looked up in has {rows} rows; check the tokenizer")]
    Id {
        /// Name of the input.
        name: String,
        /// The id.
        value: i32,
        /// Rows of the table.
        rows: u32,
    },
    /// A value cannot be an input.
    #[error("input `{name}` holds {value}, which its integer type cannot hold; clean the data")]
    Value {
        /// Name of the input.
        name: String,
        /// The value met.
        value: String,
    },
}
