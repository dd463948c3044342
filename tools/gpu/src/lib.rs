//! Executes `.sfm` models on a GPU, in integers only, to judge the other backends byte by byte.
//!
//! It shares the reader of the file format with the runtime and nothing else: every operator is a WGSL shader of its
//! own, without a floating-point number, and digests are computed on the device, so that eight bytes per operator and
//! sample come back.
//!
//! - [`Gpu`]: an adapter, opened; [`adapters`] lists them.
//! - [`GpuModel`]: a model uploaded once and run over batches of samples. One with state keeps it from one run to the next,
//!   for each place in the batch; a sample then has one more input, the position and the rows of the run as two `i32`.
//!
//! Inside: `layout` gives every operator's output its own memory, `ops` turns operators into dispatches (`step`), and
//! `executor` runs them, one submission per batch.

mod digest;
mod error;
mod executor;
mod gpu;
mod layout;
mod matrix;
mod ops;
mod profile;
mod step;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use error::GpuError;
pub use executor::{GpuModel, Sample, Trace};
pub use gpu::{AdapterSummary, Damage, Gpu, Route, Selection, adapters};
pub use profile::DispatchTime;
