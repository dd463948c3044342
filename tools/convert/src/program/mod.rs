//! The integer program between quantizer and file: the runtime's own operators over named tensors, no offsets yet.

pub mod by_rows;
pub mod chain;
pub mod plan;

use foldhash::fast::FixedState;
use serde::{Deserialize, Serialize};
use shiftformer::format::{Blob, Profile, align_up};
use shiftformer::ops::Op;
use shiftformer::tensor::Dtype;
use std::collections::HashMap;
use std::hash::BuildHasher;
use std::ops::Range;
use std::sync::Arc;

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
    /// What is kept between runs, where the model does.
    pub state: Option<State>,
    /// Numeric profile.
    pub profile: Profile,
    /// Operators of the source model by the names of its nodes, see [`origin`](crate::graph::origin).
    pub origins: Arc<HashMap<String, String>>,
}

/// Sizes of a model with state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// Positions that the state has room for.
    pub capacity: usize,
    /// Rows of a run at most.
    pub rows: usize,
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
    /// Rows (of the last dimension) in memory at a time; 0: all. Inside chains only.
    pub window: u8,
    /// Lies in the state: a row per position.
    pub in_state: bool,
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

    /// Whether it takes memory of the arena.
    pub fn in_arena(&self) -> bool {
        self.constant.is_none() && !self.in_state
    }

    /// Size in bytes, of all rows.
    pub fn bytes(&self) -> usize {
        self.len() * self.dtype.bytes()
    }

    /// Bytes of memory it takes: of all rows, or of those in its window.
    pub fn held_bytes(&self) -> usize {
        let row = self.shape.last().copied().unwrap_or(1) * self.dtype.bytes();
        if self.window == 0 { self.bytes() } else { (usize::from(self.window) * row).min(self.bytes()) }
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
    /// Runs in blocks of rows together with the operator before.
    pub chained: bool,
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
    /// Negative infinity and numbers beyond the range mean "masked out" and saturate.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub masks: bool,
}

/// The `Weights` section under construction; equal blobs are stored once.
#[derive(Clone, Debug, Default)]
pub struct Weights {
    bytes: Vec<u8>,
    /// Blobs by their hash.
    known: HashMap<u64, Vec<Blob>>,
}

impl Weights {
    /// The section of a file, in which later blobs are not looked for.
    pub fn from_section(bytes: &[u8]) -> Self {
        Self { bytes: bytes.to_vec(), known: HashMap::new() }
    }

    /// Stores `bytes` at a 16-byte boundary, or finds them.
    pub fn add(&mut self, bytes: &[u8]) -> Blob {
        if bytes.is_empty() {
            return Blob::NONE;
        }
        let known = self.known.entry(FixedState::default().hash_one(bytes)).or_default();
        let same = |blob: &&Blob| self.bytes[blob.offset as usize..][..blob.bytes as usize] == *bytes;
        if let Some(&blob) = known.iter().find(same) {
            return blob;
        }
        self.bytes.resize(align_up(self.bytes.len()), 0);
        let blob = Blob { offset: self.bytes.len() as u32, bytes: bytes.len() as u32 };
        self.bytes.extend_from_slice(bytes);
        known.push(blob);
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
            state: None,
            profile,
            origins: Arc::default(),
        }
    }

    /// Adds a tensor.
    pub fn add_tensor(&mut self, tensor: QTensor) -> TensorIndex {
        self.tensors.push(tensor);
        self.tensors.len() - 1
    }

    /// The operators that run in blocks of rows together with operator `op`, the first of them.
    pub fn chain_at(&self, op: usize) -> Range<usize> {
        let others = self.ops[op + 1..].iter().take_while(|op| op.chained).count();
        op..op + 1 + others
    }

    /// Removes operators nobody reads, tensors nobody names and weights nobody uses.
    pub fn remove_dead(&mut self) {
        self.remove_dead_ops();
        let mut used = vec![false; self.tensors.len()];
        let operands = self.ops.iter().flat_map(|op| op.inputs.iter().copied().flatten().chain([op.output]));
        let endpoints = self.inputs.iter().chain(&self.outputs).map(|e| e.tensor);
        for tensor in operands.chain(endpoints) {
            used[tensor] = true;
        }
        let mut new_index = vec![0; used.len()];
        let mut count = 0;
        for (to, &used) in new_index.iter_mut().zip(&used) {
            *to = count;
            count += usize::from(used);
        }
        let mut keep = used.iter();
        self.tensors.retain(|_| keep.next().copied().unwrap_or(false));
        for op in &mut self.ops {
            op.inputs.iter_mut().flatten().for_each(|t| *t = new_index[*t]);
            op.output = new_index[op.output];
        }
        for endpoint in self.inputs.iter_mut().chain(&mut self.outputs) {
            endpoint.tensor = new_index[endpoint.tensor];
        }
        self.compact_weights();
    }

    fn remove_dead_ops(&mut self) {
        let mut alive: Vec<bool> = vec![false; self.tensors.len()];
        for output in &self.outputs {
            alive[output.tensor] = true;
        }
        let mut keep = vec![false; self.ops.len()];
        for (op, keep) in self.ops.iter().zip(&mut keep).rev() {
            if alive[op.output] {
                *keep = true;
                op.inputs.iter().flatten().for_each(|&t| alive[t] = true);
            }
        }
        let mut keep = keep.into_iter();
        self.ops.retain(|_| keep.next().unwrap_or(false));
    }

    fn compact_weights(&mut self) {
        let old = std::mem::take(&mut self.weights);
        let mut new = Weights::default();
        let mut moved = |blob: &mut Blob| {
            if blob.is_some() {
                *blob = new.add(&old.bytes[blob.offset as usize..][..blob.bytes as usize]);
            }
        };
        for op in &mut self.ops {
            op.op.each_blob(&mut moved);
        }
        for tensor in &mut self.tensors {
            tensor.constant.iter_mut().for_each(&mut moved);
        }
        self.weights = new;
    }
}
