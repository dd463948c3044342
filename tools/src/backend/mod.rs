//! Where a model can be run: every backend gives the same bytes for every tensor.

mod gpu;
mod host;
mod qemu;

use crate::model_file::ModelFile;
use crate::unchain::{UnchainError, unchain};
pub use gpu::Gpu;
pub use host::Host;
pub use qemu::Qemu;
use shiftformer::ModelError;
use shiftformer::kernels::{Native, Portable};

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
}

/// Why a backend cannot run.
#[derive(Debug, thiserror::Error)]
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

    /// Instructions of one inference, where the backend counts them exactly.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    fn counts(&mut self, sample: &Sample) -> Result<Option<Counts>, BackendError> {
        let _ = sample;
        Ok(None)
    }
}

/// Names of all backends.
pub const NAMES: &[&str] = &[
    "portable",
    "native",
    "gpu",
    "qemu:mps2-an386",
    "qemu:mps2-an500",
    "qemu:mps2-an505",
    "qemu:mps3-an547",
    "qemu:microbit",
    "qemu:m0-large",
    "qemu:aarch64",
];

/// What `native` runs of a model: whole operators, see [`crate::unchain`].
///
/// # Errors
/// [`BackendError::Unavailable`] when the model cannot be planned so.
pub fn in_whole_operators(backend: &str, model: &ModelFile) -> Result<ModelFile, BackendError> {
    let unavailable =
        |why: UnchainError| BackendError::Unavailable { backend: backend.to_owned(), why: why.to_string() };
    unchain(model).map_err(unavailable)
}

/// Opens the backend `name` for `model`. `portable` runs the operators as the file has them, `native` whole ones. An emulated
/// machine (`qemu:BOARD`) uses its fast kernels, or the portable ones as `qemu:BOARD:portable`. `gpu` is the best adapter
/// there is, `gpu:ADAPTER` one by its index or part of its name.
///
/// # Errors
/// [`BackendError::Unknown`] and [`BackendError::Unavailable`]: never another backend instead.
pub fn open(name: &str, model: &ModelFile) -> Result<Box<dyn Backend>, BackendError> {
    if let Some(board) = name.strip_prefix("qemu:") {
        return Ok(Box::new(Qemu::open(name, board, model)?));
    }
    if let Some(adapter) = name.strip_prefix("gpu:") {
        return Ok(Box::new(Gpu::open(name, Some(adapter), model)?));
    }
    match name {
        "gpu" => Ok(Box::new(Gpu::open(name, None, model)?)),
        "portable" => Ok(Box::new(Host::<Portable>::new(name, model))),
        "native" => Ok(Box::new(Host::<Native>::new(name, &in_whole_operators(name, model)?))),
        _ => Err(BackendError::Unknown(name.to_owned(), NAMES.join(", "))),
    }
}
