//! Something that runs models, and the runtime on this machine: every backend gives the same bytes for every tensor.

mod contract;
mod host;

pub use contract::{Backend, BackendError, Counts, DeviceOpTime, DeviceTimes, Sample, Trace};
pub use host::{Host, run_sample};
