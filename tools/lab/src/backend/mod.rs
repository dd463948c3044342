//! Where a model can be run: every backend gives the same bytes for every tensor.

mod gpu;
mod qemu;

pub use gpu::Gpu;
pub use qemu::Qemu;
use shiftformer::kernels::{Native, Portable};
pub use shiftformer_convert::backend::{Backend, BackendError, Counts, DeviceOpTime, DeviceTimes, Host, Sample, Trace};
use shiftformer_convert::model_file::ModelFile;
use shiftformer_convert::model_file::unchain::{UnchainError, unchain};
use shiftformer_link::Machine;

/// Names of all backends.
pub fn names() -> Vec<String> {
    let boards = Machine::ALL.iter().map(|machine| machine.name).chain([qemu::LINUX]);
    let boards = boards.map(|board| format!("qemu:{board}"));
    ["portable", "native", "gpu"].map(str::to_owned).into_iter().chain(boards).collect()
}

/// What `native` runs of a model: whole operators, see [`unchain`].
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
        _ => Err(BackendError::Unknown(name.to_owned(), names().join(", "))),
    }
}
