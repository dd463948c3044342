//! ONNX models become float graphs: every shape known, constants folded, everything else a [`crate::graph::Op`].
//!
//! The protobuf is walked in topological order. Each node has a handler in `ops` that checks its attributes and shapes
//! and emits graph nodes through the `builder`, which computes those whose operands are all constants on the spot: the
//! shape arithmetic of exporters folds away without being treated apart. Local functions and branches with a constant
//! condition are inlined. Nodes that no output needs are never looked at.
//!
//! Any bytes give a graph or an [`ImportError`], in bounded time and memory: see the limits in `builder`.

mod builder;
mod defaults;
mod isolate;
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
use prost::Message;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

/// Longest model file that is read: protobuf's own limit.
const MAX_FILE_BYTES: u64 = (1 << 31) - 1;
/// Oldest and newest opset of the standard domain whose semantics are known.
const OPSETS: std::ops::RangeInclusive<i64> = 7..=25;

/// What the caller decides.
#[derive(Clone, Debug, Default)]
pub struct ImportOptions {
    /// Sizes of symbolic dimensions by name, or by position as `input.axis`, e.g. `tokens.1`, which goes before the name.
    pub dims: BTreeMap<String, usize>,
}

/// Why a model cannot be imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The file cannot be read.
    #[error("cannot read `{}`: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: std::io::Error,
    },
    /// The file is longer than protobuf allows.
    #[error("the model has {0} bytes; ONNX files end at 2 GiB: store the weights as external data")]
    TooLong(u64),
    /// The bytes are not an ONNX model.
    #[error("not an ONNX model: {0}")]
    Parse(String),
    /// The standard domain has an opset that is not known.
    #[error("opset {0} is not supported; export with opset 13 to 21 (known: 7 to 25)")]
    Opset(i64),
    /// Symbolic dimensions without a size.
    #[error("the model has dynamic dimensions; give each a size: {}", .0.iter().map(|name| format!("--dim {name}=VALUE")).collect::<Vec<_>>().join(" "))]
    DynamicDims(Vec<String>),
    /// Sizes were given for dimensions that the model does not have.
    #[error("the model has no dimension `{0}`; its dynamic dimensions: {known}", known = if .1.is_empty() { "none".to_owned() } else { .1.join(", ") })]
    UnknownDim(String, Vec<String>),
    /// Inputs, outputs or nodes do not form a graph.
    #[error("broken graph: {0}")]
    Graph(String),
    /// A stored tensor cannot be used.
    #[error("tensor `{name}`: {reason}")]
    Tensor {
        /// Name of the tensor.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// A value has another shape than the model declares.
    #[error("`{name}` has the shape {computed:?}, but the model declares {declared}; export the model again")]
    DeclaredShape {
        /// Name of the value.
        name: String,
        /// As the operators give it.
        computed: Vec<usize>,
        /// As the file says.
        declared: String,
    },
    /// A node is malformed.
    #[error("node `{node}` ({op}): {reason}")]
    Node {
        /// Name of the node.
        node: String,
        /// Its operator.
        op: String,
        /// What is wrong.
        reason: String,
    },
    /// All nodes that have no counterpart.
    #[error("{} unsupported operator(s):{}", .0.len(), .0.iter().map(|op| format!("\n  {op}")).collect::<String>())]
    Unsupported(Vec<UnsupportedNode>),
    /// A defect of the importer, caught.
    #[error("the importer failed on this model ({0}); please report it with the file")]
    Internal(String),
}

/// A node without a counterpart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnsupportedNode {
    /// Name of the node.
    pub node: String,
    /// Operator, with its domain unless that is the standard one.
    pub op: String,
    /// Opset version of its domain.
    pub version: i64,
    /// The nearest form that is supported.
    pub hint: String,
}

impl fmt::Display for UnsupportedNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} `{}` (opset {}): {}", self.op, self.node, self.version, self.hint)
    }
}

/// Reads the ONNX model at `path`.
///
/// # Errors
/// [`ImportError`]. External data is read from the folder of the model only.
pub fn import(path: &Path, options: &ImportOptions) -> Result<Graph, ImportError> {
    let read = |source| ImportError::Read { path: path.to_owned(), source };
    let length = std::fs::metadata(path).map_err(read)?.len();
    if length > MAX_FILE_BYTES {
        return Err(ImportError::TooLong(length));
    }
    let bytes = files::read(path).map_err(read)?;
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    import_bytes(&bytes, Some(folder), options)
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
