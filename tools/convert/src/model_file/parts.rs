//! A model file taken apart and put together again: single operators, damaged copies, stripped files.

use crate::pack::{AnnotatedTensor, Annotations, Frame, PackError, assemble, minor_version, prove};
use crate::program::Endpoint;
use shiftformer::Model;
use shiftformer::format::{
    NO_TENSOR, OpRecord, Place, Profile, SectionKind, StateLayout, TensorRecord, Word, align_up,
};
use shiftformer::kernels::Kernels;
use shiftformer::ops::{Op, OpFault, Operands};

/// The contents of a model file. The certificate is not among them: it is proven anew when the file is written.
#[derive(Clone, Debug)]
pub struct ModelParts {
    /// Operator records; parameters are in `ops`.
    pub records: Vec<OpRecord>,
    /// Kind and parameters of every operator.
    pub ops: Vec<Op>,
    /// Tensor records.
    pub tensors: Vec<TensorRecord>,
    /// The `Weights` section.
    pub weights: Vec<u8>,
    /// Tensors of the inputs.
    pub inputs: Vec<u16>,
    /// Tensors of the outputs.
    pub outputs: Vec<u16>,
    /// The `Receipts` section.
    pub receipts: Vec<u8>,
    /// Names and scales; `None` for a stripped file.
    pub annotations: Option<Annotations>,
    /// Numeric profile.
    pub profile: Profile,
    /// Size of the arena.
    pub arena_bytes: usize,
    /// What the model keeps from one run to the next; all zero for most.
    pub state: StateLayout,
    /// The `Text` section; empty for a model without a tokenizer.
    pub text: Vec<u8>,
}

impl ModelParts {
    /// Takes a model apart.
    pub fn of<B: Kernels>(model: &Model<'_, B>, annotations: &Annotations) -> Self {
        let op = |op| Op::decode(model.op_kind(op)?, model.op_params(op)?);
        let small = |tensor: Option<usize>| tensor.and_then(|t| u16::try_from(t).ok());
        Self {
            records: (0..model.n_ops()).filter_map(|op| model.op_record(op)).collect(),
            ops: (0..model.n_ops()).filter_map(op).collect(),
            tensors: (0..model.sections().n_tensors).filter_map(|t| model.tensor(t)).collect(),
            weights: model.sections().get(SectionKind::Weights).to_vec(),
            inputs: (0..model.n_inputs()).filter_map(|i| small(model.input_tensor(i))).collect(),
            outputs: (0..model.n_outputs()).filter_map(|i| small(model.output_tensor(i))).collect(),
            receipts: model.sections().get(SectionKind::Receipts).to_vec(),
            annotations: Some(annotations.clone()),
            profile: model.profile(),
            arena_bytes: model.arena_bytes(),
            state: model.state(),
            text: model.sections().get(SectionKind::Text).to_vec(),
        }
    }

    /// A model of operator `op` alone: its arena operands become inputs, its result the output, in raw integers
    /// (scale 1). `None` when there is no such operator.
    pub fn single_op(&self, op: usize) -> Option<Self> {
        let (mut record, params) = (*self.records.get(op)?, *self.ops.get(op)?);
        let mut builder = SingleOp { parts: self, tensors: Vec::new(), map: Vec::new(), end: 0 };
        let mut inputs = Vec::new();
        for tensor in &mut record.inputs {
            if *tensor != NO_TENSOR {
                let (index, is_new) = builder.tensor(*tensor)?;
                if is_new && builder.tensors.get(usize::from(index))?.place == Place::Arena {
                    inputs.push(index);
                }
                *tensor = index;
            }
        }
        record.chained = false;
        record.by_rows = 0;
        record.output = builder.tensor(record.output)?.0;
        record.scratch_offset = builder.end as u32;
        let arena_bytes = builder.end + align_up(record.scratch_bytes as usize);
        let tensors = builder.tensors;
        let endpoint = |kind: &str, n: usize, tensor: u16| Endpoint {
            name: format!("{kind}{n}"),
            tensor: usize::from(tensor),
            shape: tensors[usize::from(tensor)].shape().iter().map(|&d| d as usize).collect(),
            normalization: None,
            masks: false,
        };
        let old = self.annotations.as_ref();
        let name = old.and_then(|h| h.ops.get(op)).cloned().unwrap_or_else(|| format!("operator {op}"));
        let raw = |n: usize| AnnotatedTensor {
            name: format!("tensor{n}"),
            scale: 1.0,
            zero: 0.0,
            source: None,
            column_factors: Vec::new(),
        };
        let annotations = Annotations {
            producer: old.map_or_else(String::new, |h| h.producer.clone()),
            source: format!("operator {op} of {}", old.map_or("", |h| &h.source)),
            inputs: inputs.iter().enumerate().map(|(n, &t)| endpoint("x", n, t)).collect(),
            outputs: vec![endpoint("y", 0, record.output)],
            tensors: (0..tensors.len()).map(raw).collect(),
            ops: vec![name],
            ..Annotations::default()
        };
        Some(Self {
            records: vec![record],
            ops: vec![params],
            tensors,
            weights: self.weights.clone(),
            inputs,
            outputs: vec![record.output],
            receipts: Vec::new(),
            annotations: Some(annotations),
            profile: self.profile,
            arena_bytes,
            state: StateLayout::default(),
            text: Vec::new(),
        })
    }

    /// Writes the file, proving every operator.
    ///
    /// # Errors
    /// [`PackError`] when an operator cannot be proven or the file is too large.
    pub fn write(&self) -> Result<Vec<u8>, PackError> {
        let mut tensors = Vec::new();
        self.tensors.iter().for_each(|t| t.encode(&mut |word: u32| tensors.extend_from_slice(&word.to_le_bytes())));
        let (mut ops, mut params, mut certificate) = (Vec::new(), Vec::new(), Vec::new());
        for (index, (record, op)) in self.records.iter().zip(&self.ops).enumerate() {
            let first = params.len();
            op.encode(&mut |word: u32| params.extend_from_slice(&word.to_le_bytes()));
            let (params_offset, params_words) = ((first / 4) as u32, ((params.len() - first) / 4) as u16);
            let record = OpRecord { kind: op.kind() as u16, params_offset, params_words, ..*record };
            record.encode(&mut |word: u32| ops.extend_from_slice(&word.to_le_bytes()));
            let io = Operands { record, tensors: &tensors, weights: &self.weights, proven: false };
            let cert = prove(op.kind(), &params[first..], &io).map_err(|fault| self.fault(index, fault))?;
            cert.write(&mut |word: u32| certificate.extend_from_slice(&word.to_le_bytes()));
        }
        let counts = [self.inputs.len() as u16, self.outputs.len() as u16];
        let io = counts.iter().chain(&self.inputs).chain(&self.outputs).flat_map(|n| n.to_le_bytes()).collect();
        let mut sections = vec![
            (SectionKind::Ops, ops),
            (SectionKind::Tensors, tensors),
            (SectionKind::Params, params),
            (SectionKind::Weights, self.weights.clone()),
            (SectionKind::Io, io),
            (SectionKind::Certificate, certificate),
            (SectionKind::Receipts, self.receipts.clone()),
        ];
        if self.state != StateLayout::default() {
            let mut state = Vec::new();
            self.state.write(&mut |word: u32| state.extend_from_slice(&word.to_le_bytes()));
            sections.push((SectionKind::State, state));
        }
        if !self.text.is_empty() {
            sections.push((SectionKind::Text, self.text.clone()));
        }
        if let Some(annotations) = &self.annotations {
            sections.push((SectionKind::Annotations, serde_json::to_vec(annotations).unwrap_or_default()));
        }
        let frame = Frame {
            arena_bytes: self.arena_bytes,
            n_ops: self.ops.len(),
            n_tensors: self.tensors.len(),
            profile: self.profile as u8,
            minor: minor_version(
                self.ops.iter().zip(&self.records).map(|(op, record)| (op, record.chained, record.by_rows > 0)),
            ),
        };
        assemble(&frame, &sections)
    }

    fn fault(&self, op: usize, fault: OpFault) -> PackError {
        let name = self.annotations.as_ref().and_then(|h| h.ops.get(op)).cloned().unwrap_or_default();
        PackError::Op { name, origin: None, kind: self.ops[op].kind().name(), fault, remedy: "" }
    }

    /// Appends a blob of `i32` values to the weights.
    pub fn add_blob(&mut self, values: &[i32]) -> shiftformer::format::Blob {
        self.weights.resize(align_up(self.weights.len()), 0);
        let blob = shiftformer::format::Blob { offset: self.weights.len() as u32, bytes: values.len() as u32 * 4 };
        self.weights.extend(values.iter().flat_map(|v| v.to_le_bytes()));
        blob
    }
}

/// The tensors of one operator, laid one after the other.
struct SingleOp<'a> {
    parts: &'a ModelParts,
    tensors: Vec<TensorRecord>,
    map: Vec<(u16, u16)>,
    end: usize,
}

impl SingleOp<'_> {
    /// New index of tensor `old`, and whether it was not there before.
    fn tensor(&mut self, old: u16) -> Option<(u16, bool)> {
        if let Some(&(_, new)) = self.map.iter().find(|(from, _)| *from == old) {
            return Some((new, false));
        }
        let mut record = *self.parts.tensors.get(usize::from(old))?;
        record.window = 0;
        if record.place == Place::Arena {
            record.offset = self.end as u32;
            self.end += align_up(record.bytes());
        }
        let new = u16::try_from(self.tensors.len()).ok()?;
        self.tensors.push(record);
        self.map.push((old, new));
        Some((new, true))
    }
}
