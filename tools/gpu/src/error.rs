//! Why a model cannot run on a GPU.

/// Why a model cannot run on a GPU.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GpuError {
    /// The machine offers no Vulkan, Metal or DirectX 12 adapter.
    #[error("no GPU adapter found; install a Vulkan, Metal or DirectX 12 driver (Mesa's lavapipe runs on any CPU)")]
    NoAdapter,
    /// No adapter has this index or name.
    #[error("no GPU adapter is called `{0}`; `shiftformer adapters` lists them")]
    UnknownAdapter(String),
    /// The environment names a route that does not exist.
    #[error("SHIFTFORMER_GPU_ROUTE is `{0}`; it can be fastest, packed or checked")]
    Route(String),
    /// The adapter exists, but gives no device.
    #[error("the GPU adapter `{adapter}` cannot be opened: {reason}")]
    Device {
        /// Name of the adapter.
        adapter: String,
        /// What the driver says.
        reason: String,
    },
    /// One sample needs more memory than the adapter binds at a time.
    #[error("one sample needs {needed} bytes on the GPU, and `{adapter}` binds {limit} at most; use another adapter")]
    TooLarge {
        /// Name of the adapter.
        adapter: String,
        /// Bytes needed.
        needed: u64,
        /// Bytes the adapter can bind.
        limit: u64,
    },
    /// Times cannot be taken.
    #[error("the GPU adapter `{0}` has no timestamps; profile on another")]
    NoTimestamps(String),
    /// The driver refused memory, a shader or a submission.
    #[error("the GPU driver refused the work: {0}")]
    Driver(String),
    /// The file relies on memory that no operator wrote.
    #[error("operator {op} reads tensor {tensor} before any operator writes it; convert the model again")]
    Unwritten {
        /// Index of the operator.
        op: usize,
        /// Index of the tensor.
        tensor: usize,
    },
    /// An operator record cannot be executed although the model was opened.
    #[error("operator {op} cannot run on the GPU: {reason}")]
    Op {
        /// Index of the operator.
        op: usize,
        /// What is wrong.
        reason: &'static str,
    },
    /// A sample has other inputs than the model.
    #[error("sample {sample}: input {input} must have {needed} bytes, {given} given")]
    Input {
        /// Index of the sample.
        sample: usize,
        /// Index of the input.
        input: usize,
        /// Bytes the model wants.
        needed: usize,
        /// Bytes given.
        given: usize,
    },
    /// The data itself is out of range.
    #[error("sample {sample}, operator {op}: {fault}")]
    Fault {
        /// Index of the sample.
        sample: usize,
        /// Index of the operator.
        op: usize,
        /// What the runtime says in this place.
        fault: shiftformer::RunFault,
    },
}
