//! What every backend does: runs samples, tells digests and outputs.

use shiftformer::ModelError;
use std::time::Duration;

/// The bytes of every input of one sample, in the order of the model's inputs.
pub type Sample = Vec<Vec<u8>>;

/// What a backend says of one sample.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// Digest of every operator's output; that of no bytes where a later operator writes the rest of the tensor.
    pub digests: Vec<u64>,
    /// Bytes of every output.
    pub outputs: Vec<Vec<u8>>,
}

/// Instructions of one inference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counts {
    /// The whole inference.
    pub total: u64,
    /// Each operator.
    pub ops: Vec<u64>,
    /// Bytes of stack the inference took at its deepest.
    pub stack_bytes: u32,
    /// Instructions of opening the model with every check.
    pub open: u64,
    /// Instructions of opening the model where it was proven when the firmware was built.
    pub open_proven: u64,
    /// Steps of an inference.
    pub steps: u32,
    /// Instructions of an inference in steps.
    pub all_steps: u64,
    /// Instructions of the longest step.
    pub longest_step: u64,
    /// Operator it belongs to.
    pub longest_step_op: usize,
}

/// Why a backend cannot run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackendError {
    /// No backend has this name.
    #[error("unknown backend `{0}`; known: {1}")]
    Unknown(String, String),
    /// The backend needs something this machine lacks.
    #[error("backend {backend} is not available: {why}")]
    Unavailable {
        /// Its name.
        backend: String,
        /// What is missing and how to get it.
        why: String,
    },
    /// The model is not valid.
    #[error("{0}")]
    Model(#[from] ModelError),
    /// A run failed.
    #[error("backend {backend}: {why}")]
    Run {
        /// Its name.
        backend: String,
        /// What went wrong.
        why: String,
    },
}

/// Times of one batch on a device.
#[derive(Clone, Debug)]
pub struct DeviceTimes {
    /// All of it in one go, digests included.
    pub batch: Duration,
    /// Per operator, each waiting for the one before; the digests of all come last.
    pub ops: Vec<DeviceOpTime>,
}

/// Time of one operator, or of the digests, on a device.
#[derive(Clone, Debug, Default)]
pub struct DeviceOpTime {
    /// Time.
    pub time: Duration,
    /// Bytes of operands and output of the whole batch, and of constants once.
    pub bytes: u64,
    /// What ran.
    pub shaders: Vec<&'static str>,
}

/// Something that runs one model.
pub trait Backend {
    /// The name it was opened by.
    fn name(&self) -> &str;

    /// The device behind the name, where the name does not say it.
    fn device(&self) -> Option<String> {
        None
    }

    /// Runs every sample.
    ///
    /// # Errors
    /// [`BackendError`] when a run fails; a token id out of range is one.
    fn run(&mut self, samples: &[Sample]) -> Result<Vec<Trace>, BackendError>;

    /// Prepares for batches of `samples` at a time, where the backend works in batches; returns how many one holds, which
    /// its memory may bound.
    ///
    /// # Errors
    /// [`BackendError`] when not even one sample fits.
    fn set_batch(&mut self, samples: usize) -> Result<usize, BackendError> {
        Ok(samples)
    }

    /// Bytes of the output of operator `op` right after it has run on `sample`.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    fn op_output(&mut self, sample: &Sample, op: usize) -> Result<Vec<u8>, BackendError>;

    /// Times of one batch by the device's own clock, where it has one: inputs lie on the device, outputs stay there.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    fn device_times(&mut self, samples: &[Sample]) -> Result<Option<DeviceTimes>, BackendError> {
        let _ = samples;
        Ok(None)
    }

    /// Instructions of one inference, where the backend counts them exactly.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    fn counts(&mut self, sample: &Sample) -> Result<Option<Counts>, BackendError> {
        self.counts_at(sample, 0)
    }

    /// [`counts`](Self::counts) of one token of a decoder behind `position` others; 0 counts the sample as it is.
    ///
    /// # Errors
    /// [`BackendError`].
    fn counts_at(&mut self, sample: &Sample, position: u32) -> Result<Option<Counts>, BackendError> {
        let _ = (sample, position);
        Ok(None)
    }
}
