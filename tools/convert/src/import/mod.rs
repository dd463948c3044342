//! ONNX models become float graphs: every shape known, constants folded, everything else a [`crate::graph::Op`].
//!
//! The protobuf is walked in topological order. Each node has a handler in `ops` that checks its attributes and shapes
//! and emits graph nodes through the `builder`, which computes those whose operands are all constants on the spot: the
//! shape arithmetic of exporters folds away without being treated apart. Local functions and branches with a constant
//! condition are inlined. Nodes that no output needs are never looked at.
//!
//! Any bytes give a graph or an [`ImportError`], in bounded time and memory: see the limits in `builder`.

mod builder;
pub mod decoder;
mod defaults;
mod error;
pub mod isolate;
mod node;
#[allow(missing_docs, clippy::all)]
pub mod onnx;
mod ops;
mod order;
mod signature;
mod tensor;
#[cfg(test)]
mod tests;
mod walk;

use crate::files;
use crate::graph::Graph;
use crate::import::onnx::ModelProto;
pub use error::{ImportError, UnsupportedNode};
use prost::Message;
pub use signature::ImportOptions;
use std::path::Path;

/// Longest model file that is read: protobuf's own limit.
const MAX_FILE_BYTES: u64 = (1 << 31) - 1;
/// Reads the ONNX model at `path`.
///
/// # Errors
/// [`ImportError`]. External data is read from the folder of the model only.
pub fn import(path: &Path, options: &ImportOptions) -> Result<Graph, ImportError> {
    let bytes = read_model(path)?;
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    import_bytes(&bytes, Some(folder), options)
}

/// The bytes of a model file.
fn read_model(path: &Path) -> Result<Vec<u8>, ImportError> {
    let read = |source| ImportError::Read { path: path.to_owned(), source };
    let length = std::fs::metadata(path).map_err(read)?.len();
    if length > MAX_FILE_BYTES {
        return Err(ImportError::TooLong(length));
    }
    files::read(path).map_err(read)
}

/// Reads an ONNX model from memory; external data lies in `folder`, or is refused.
///
/// # Errors
/// [`ImportError`]; a panic inside the importer is one too.
pub fn import_bytes(bytes: &[u8], folder: Option<&Path>, options: &ImportOptions) -> Result<Graph, ImportError> {
    isolate::run(|| {
        let model = parse(bytes)?;
        let defaults =
            if model.functions.is_empty() { Default::default() } else { defaults::function_defaults(bytes)? };
        walk::import_model(model, defaults, folder, options)
    })
    .unwrap_or_else(|message| Err(ImportError::Internal(message)))
}

fn parse(bytes: &[u8]) -> Result<ModelProto, ImportError> {
    if bytes.is_empty() {
        return Err(ImportError::Parse("the file is empty".into()));
    }
    let model = ModelProto::decode(bytes).map_err(|error| ImportError::Parse(format!("{error} (truncated?)")))?;
    match &model.graph {
        None => Err(ImportError::Parse("it has no graph".into())),
        Some(graph) if graph.output.is_empty() => Err(ImportError::Parse("its graph has no outputs".into())),
        Some(_) => Ok(model),
    }
}
