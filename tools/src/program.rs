//! The integer program between quantizer and file: the runtime's own operators over named tensors, no offsets yet.

use serde::{Deserialize, Serialize};
use shiftformer::format::{Blob, Profile, align_up};
use shiftformer::ops::Op;
use shiftformer::tensor::Dtype;
use std::collections::HashMap;

/// Index into [`Program::tensors`].
pub type TensorIndex = usize;

/// Operators in order of execution over tensors of known types.
#[derive(Clone, Debug)]
pub struct Program {
    /// All tensors.
    pub tensors: Vec<QTensor>,
    /// All operators.
    pub ops: Vec<QOp>,
    /// The `Weights` section.
    pub weights: Weights,
    /// Model inputs.
    pub inputs: Vec<Endpoint>,
    /// Model outputs.
    pub outputs: Vec<Endpoint>,
    /// Numeric profile.
    pub profile: Profile,
}

/// A quantized tensor: `real = scale * (q - zero)`.
#[derive(Clone, Debug)]
pub struct QTensor {
    /// Name, from the source model where there is one.
    pub name: String,
    /// Element type.
    pub dtype: Dtype,
    /// Dimensions, at most six.
    pub shape: Vec<usize>,
    /// Real units of one step.
    pub scale: f64,
    /// The value that stands for 0. An integer but for raw images, whose mean need not fall on a step.
    pub zero: f64,
    /// Where the values lie, for a constant.
    pub constant: Option<Blob>,
    /// Float tensor of the source graph whose values these are, where the layout is the same too.
    pub source: Option<usize>,
}

impl QTensor {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether a dimension is zero.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Size in bytes.
    pub fn bytes(&self) -> usize {
        self.len() * self.dtype.bytes()
    }
}

/// One operator.
#[derive(Clone, Debug)]
pub struct QOp {
    /// Name of the source node.
    pub name: String,
    /// Kind and parameters.
    pub op: Op,
    /// Operands; `None` for an absent optional one.
    pub inputs: Vec<Option<TensorIndex>>,
    /// Result.
    pub output: TensorIndex,
}

/// A model input or output.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Endpoint {
    /// Name in the source model.
    pub name: String,
    /// Index of the tensor.
    pub tensor: TensorIndex,
    /// Shape in the source model.
    pub shape: Vec<usize>,
    /// How raw pixels became the source model's input: `(x / 255 - mean) / std`.
    pub normalization: Option<(f64, f64)>,
}

/// The `Weights` section under construction; equal blobs are stored once.
#[derive(Clone, Debug, Default)]
pub struct Weights {
    bytes: Vec<u8>,
    known: HashMap<Vec<u8>, Blob>,
}

impl Weights {
    /// Stores `bytes` at a 16-byte boundary, or finds them.
    pub fn add(&mut self, bytes: &[u8]) -> Blob {
        if bytes.is_empty() {
            return Blob::NONE;
        }
        if let Some(&blob) = self.known.get(bytes) {
            return blob;
        }
        self.bytes.resize(align_up(self.bytes.len()), 0);
        let blob = Blob { offset: self.bytes.len() as u32, bytes: bytes.len() as u32 };
        self.bytes.extend_from_slice(bytes);
        self.known.insert(bytes.to_vec(), blob);
        blob
    }

    /// Stores `i32` values.
    pub fn add_i32(&mut self, values: &[i32]) -> Blob {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.add(&bytes)
    }

    /// Stores `i16` values.
    pub fn add_i16(&mut self, values: &[i16]) -> Blob {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.add(&bytes)
    }

    /// Stores `i8` values.
    pub fn add_i8(&mut self, values: &[i8]) -> Blob {
        let bytes: Vec<u8> = values.iter().map(|&v| v as u8).collect();
        self.add(&bytes)
    }

    /// The section.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl Program {
    /// An empty program.
    pub fn new(profile: Profile) -> Self {
        Self {
            tensors: Vec::new(),
            ops: Vec::new(),
            weights: Weights::default(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            profile,
        }
    }

    /// Adds a tensor.
    pub fn add_tensor(&mut self, tensor: QTensor) -> TensorIndex {
        self.tensors.push(tensor);
        self.tensors.len() - 1
    }
}
