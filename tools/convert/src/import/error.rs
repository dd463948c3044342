//! Why a model cannot be imported.

use std::fmt;
use std::path::PathBuf;

/// Why a model cannot be imported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
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
    /// The interface is not that of a decoder.
    #[error("{0}")]
    Decoder(String),
    /// A defect of the importer, caught.
    #[error("the importer failed on this model ({0}); please report it with the file")]
    Internal(String),
}

/// A node without a counterpart.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
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
