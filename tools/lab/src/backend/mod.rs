//! Where a model can be run: every backend gives the same bytes for every tensor.

#[cfg(feature = "gpu")]
mod gpu;
mod names;
#[cfg(feature = "qemu")]
mod qemu;
#[cfg(feature = "serial")]
pub mod serial;

use crate::sequence::Decoder;
#[cfg(feature = "gpu")]
pub use gpu::Gpu;
pub use names::names;
#[cfg(feature = "qemu")]
pub use qemu::Qemu;
use shiftformer::kernels::{Native, Portable};
pub use shiftformer_convert::backend::{Backend, BackendError, Counts, DeviceOpTime, DeviceTimes, Host, Sample, Trace};
use shiftformer_convert::model_file::ModelFile;
use shiftformer_convert::model_file::merge_row_blocks::{MergeError, merge_row_blocks};

/// What `native` runs of a model: whole operators, see [`merge_row_blocks`].
///
/// # Errors
/// [`BackendError::Unavailable`] when the model cannot be planned so.
pub fn in_whole_operators(backend: &str, model: &ModelFile) -> Result<ModelFile, BackendError> {
    let unavailable = |why: MergeError| BackendError::Unavailable { backend: backend.to_owned(), why: why.to_string() };
    merge_row_blocks(model).map_err(unavailable)
}

/// Opens the backend `name` for `model`. `portable` runs the operators as the file has them, `native` whole ones. An emulated
/// machine (`qemu:BOARD`) uses its fast kernels, or the portable ones as `qemu:BOARD:portable`. `gpu` is the best adapter
/// there is, `gpu:ADAPTER` one by its index or part of its name. `serial:PORT` is a device that runs the firmware program `device`.
///
/// # Errors
/// [`BackendError::Unknown`] and [`BackendError::Unavailable`]: never another backend instead.
pub fn open(name: &str, model: &ModelFile) -> Result<Box<dyn Backend>, BackendError> {
    if let Some(board) = name.strip_prefix("qemu:") {
        return on_board(name, board, model);
    }
    if let Some(adapter) = name.strip_prefix("gpu:") {
        return on_gpu(name, Some(adapter), model);
    }
    if let Some(port) = name.strip_prefix("serial:") {
        return on_serial(name, port, model);
    }
    match name {
        "gpu" => on_gpu(name, None, model),
        "portable" => Ok(Box::new(Host::<Portable>::new(name, model))),
        "native" => Ok(Box::new(Host::<Native>::new(name, &in_whole_operators(name, model)?))),
        _ => Err(BackendError::Unknown(name.to_owned(), names().join(", "))),
    }
}

/// Opens a backend of [`open`] for the tokens of a decoder.
///
/// # Errors
/// As [`open`].
pub fn open_decoder(name: &str, model: &ModelFile) -> Result<Box<dyn Decoder>, BackendError> {
    if let Some(board) = name.strip_prefix("qemu:") {
        return decoder_on_board(name, board, model);
    }
    if name.starts_with("serial:") {
        let why = "a device on a serial line runs samples, no texts yet; use a demo of the firmware".to_owned();
        return Err(BackendError::Unavailable { backend: name.to_owned(), why });
    }
    match name.strip_prefix("gpu:") {
        Some(adapter) => decoder_on_gpu(name, Some(adapter), model),
        None if name == "gpu" => decoder_on_gpu(name, None, model),
        None => Err(BackendError::Unknown(name.to_owned(), names().join(", "))),
    }
}

#[cfg(feature = "gpu")]
fn decoder_on_gpu(name: &str, adapter: Option<&str>, model: &ModelFile) -> Result<Box<dyn Decoder>, BackendError> {
    Ok(Box::new(Gpu::open(name, adapter, model)?.tokens()?))
}

#[cfg(not(feature = "gpu"))]
fn decoder_on_gpu(name: &str, _: Option<&str>, _: &ModelFile) -> Result<Box<dyn Decoder>, BackendError> {
    Err(left_out(name, "gpu"))
}

#[cfg(all(feature = "qemu", unix))]
fn decoder_on_board(name: &str, board: &str, model: &ModelFile) -> Result<Box<dyn Decoder>, BackendError> {
    Ok(Box::new(Qemu::open(name, board, model)?.tokens()?))
}

#[cfg(all(feature = "qemu", not(unix)))]
fn decoder_on_board(name: &str, _: &str, _: &ModelFile) -> Result<Box<dyn Decoder>, BackendError> {
    let why = "tokens go to an emulated machine through named pipes, which this system has not".to_owned();
    Err(BackendError::Unavailable { backend: name.to_owned(), why })
}

#[cfg(not(feature = "qemu"))]
fn decoder_on_board(name: &str, _: &str, _: &ModelFile) -> Result<Box<dyn Decoder>, BackendError> {
    Err(left_out(name, "qemu"))
}

#[cfg(feature = "serial")]
fn on_serial(name: &str, port: &str, model: &ModelFile) -> Result<Box<dyn Backend>, BackendError> {
    Ok(Box::new(serial::Serial::open(name, port, model)?))
}

#[cfg(not(feature = "serial"))]
fn on_serial(name: &str, _: &str, _: &ModelFile) -> Result<Box<dyn Backend>, BackendError> {
    Err(left_out(name, "serial"))
}

#[cfg(feature = "gpu")]
fn on_gpu(name: &str, adapter: Option<&str>, model: &ModelFile) -> Result<Box<dyn Backend>, BackendError> {
    Ok(Box::new(Gpu::open(name, adapter, model)?))
}

#[cfg(not(feature = "gpu"))]
fn on_gpu(name: &str, _: Option<&str>, _: &ModelFile) -> Result<Box<dyn Backend>, BackendError> {
    Err(left_out(name, "gpu"))
}

#[cfg(feature = "qemu")]
fn on_board(name: &str, board: &str, model: &ModelFile) -> Result<Box<dyn Backend>, BackendError> {
    Ok(Box::new(Qemu::open(name, board, model)?))
}

#[cfg(not(feature = "qemu"))]
fn on_board(name: &str, _: &str, _: &ModelFile) -> Result<Box<dyn Backend>, BackendError> {
    Err(left_out(name, "qemu"))
}

#[cfg(not(all(feature = "gpu", feature = "qemu", feature = "serial")))]
fn left_out(name: &str, feature: &str) -> BackendError {
    let why = format!("this program was built without the feature `{feature}`");
    BackendError::Unavailable { backend: name.to_owned(), why }
}
