//! Why a conversion failed.

use super::runnable::RunError;
use crate::backend::BackendError;
use crate::calibrate::CalibrateError;
use crate::decoder;
use crate::graph::exec::ExecError;
use crate::lower::LowerError;
use crate::model_file::ModelFileError;
use crate::pack::PackError;

/// Why a conversion failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConvertError {
    /// A calibration run failed.
    #[error("{0}")]
    Calibrate(#[from] CalibrateError),
    /// The float graph cannot be run.
    #[error("the float model cannot be run: {0}")]
    Exec(#[from] ExecError),
    /// An operator has no integer form.
    #[error("{0}")]
    Lower(#[from] LowerError),
    /// An operator cannot be proven safe, or the model is too large.
    #[error("{0}")]
    Pack(#[from] PackError),
    /// The packed model does not open.
    #[error("the packed model does not open: {0}")]
    Model(#[from] ModelFileError),
    /// The packed model does not run.
    #[error("the packed model does not run: {0}")]
    Backend(#[from] BackendError),
    /// A sample does not fit the model.
    #[error("calibration sample {sample}: input `{name}` needs {expected} values, {given} given; check the npz")]
    Sample {
        /// Index of the sample.
        sample: usize,
        /// Name of the input.
        name: String,
        /// Elements of the input.
        expected: usize,
        /// Elements given.
        given: usize,
    },
    /// An id outside the table it is looked up in.
    #[error(
        "calibration sample {sample}: input `{name}` holds {value}; the table `{table}` has {rows} rows; check the tokenizer"
    )]
    Id {
        /// Index of the sample.
        sample: usize,
        /// Name of the input.
        name: String,
        /// The id.
        value: i64,
        /// Name of the table.
        table: String,
        /// Its rows.
        rows: usize,
    },
    /// Calibration data is not finite.
    #[error("calibration sample {sample}: input `{name}` holds {value}; clean the data")]
    NotFinite {
        /// Index of the sample.
        sample: usize,
        /// Name of the input.
        name: String,
        /// The value.
        value: f32,
    },
    /// A weight is not finite.
    #[error("weight `{0}` holds NaN or infinity; export the model again")]
    Weight(String),
    /// Even 2 bits everywhere are too large.
    #[error("the model needs at least {min} bytes of flash with 2-bit weights, the budget is {budget}")]
    Budget {
        /// Size with 2 bits everywhere.
        min: usize,
        /// The budget.
        budget: usize,
    },
    /// The graph cannot be cut to rows.
    #[error("{0}")]
    Decoder(#[from] decoder::DecoderError),
    /// The option needs samples.
    #[error("{0} needs calibration data: pass --calib DATA.npz")]
    NeedsSamples(&'static str),
}

impl From<RunError> for ConvertError {
    fn from(error: RunError) -> Self {
        match error {
            RunError::Pack(error) => Self::Pack(error),
            RunError::Model(error) => Self::Model(error),
            RunError::Backend(error) => Self::Backend(error),
        }
    }
}
