//! Where every operator's output lies in the memory of a batch.
//!
//! Each output has words of its own: nothing is reused, so the plan of the arena, which the runtime follows, is judged
//! with everything else, and any output can be fetched after a run. The samples of one tensor lie side by side.

use crate::error::GpuError;
use crate::step::{Buffer, Tensor};
use shiftformer::Model;
use shiftformer::format::{NO_TENSOR, Place, TensorRecord};
use shiftformer::ops::Op;
use shiftformer::tensor::Dtype;

/// A piece of memory per sample.
#[derive(Clone, Copy, Debug)]
pub struct Region {
    /// Words per sample before this one.
    pub offset: u64,
    /// Bytes per sample that count.
    pub bytes: usize,
    /// Element type.
    pub dtype: Dtype,
}

impl Region {
    /// Words per sample: whole words, and a multiple of four so that 16-byte groups stay whole.
    pub fn words(&self) -> u64 {
        self.bytes.next_multiple_of(16) as u64 / 4
    }

    /// First byte in the memory of a batch of `capacity` samples.
    pub fn byte_offset(&self, capacity: u64) -> u64 {
        self.offset * capacity * 4
    }

    /// As the shaders see it in a batch of `capacity` samples.
    pub fn tensor(&self, capacity: u64) -> Tensor {
        Tensor {
            base: (self.offset * capacity) as u32,
            stride: self.words() as u32,
            dtype: self.dtype,
            buffer: Buffer::Data,
        }
    }
}

/// Operands of one operator.
#[derive(Clone, Debug)]
pub struct Operands {
    /// Inputs; `None` where there is none.
    pub inputs: Vec<Option<Source>>,
    /// Output.
    pub output: Region,
    /// Record of the output.
    pub record: TensorRecord,
    /// Bytes of its packed weights.
    pub packed_bytes: u64,
    /// Whether the output is whole after this operator.
    pub complete: bool,
}

/// Where an input is read from.
#[derive(Clone, Copy, Debug)]
pub enum Source {
    /// The output of an earlier operator, or a model input.
    Region(Region),
    /// A constant.
    Weights(TensorRecord),
}

/// The memory of one sample.
pub struct Layout {
    /// Per operator.
    pub ops: Vec<Operands>,
    /// Model inputs; of a model with state, last, the position of the run and its rows.
    pub inputs: Vec<Region>,
    /// That last one, where there is state.
    pub step: Option<Region>,
    /// Model outputs.
    pub outputs: Vec<Region>,
    /// One word: 1 + the operator that met an index out of range.
    pub fault: Region,
    /// Two words per operator.
    pub digests: Region,
    /// Words per sample of all of this.
    pub words: u64,
}

/// Hands out regions.
struct Allocator {
    words: u64,
}

impl Allocator {
    fn region(&mut self, bytes: usize, dtype: Dtype) -> Region {
        let region = Region { offset: self.words, bytes, dtype };
        self.words += region.words();
        region
    }
}

impl Layout {
    /// Lays out `model`.
    ///
    /// # Errors
    /// [`GpuError::Unwritten`], [`GpuError::Op`].
    pub fn new(model: &Model<'_>) -> Result<Self, GpuError> {
        let mut memory = Allocator { words: 0 };
        let mut current: Vec<Option<Region>> = vec![None; model.sections().n_tensors];
        // Tensors whose last writer left a part to later ones.
        let mut open = vec![false; current.len()];
        let inputs: Vec<Region> = (0..model.n_inputs())
            .filter_map(|i| Some((model.input_tensor(i)?, model.input(i)?)))
            .map(|(tensor, record)| {
                let region = memory.region(record.bytes(), record.dtype);
                current[tensor] = Some(region);
                region
            })
            .collect();
        let step = (model.state().rows > 0).then(|| memory.region(8, Dtype::I32));
        let inputs: Vec<Region> = inputs.into_iter().chain(step).collect();
        let mut ops = Vec::with_capacity(model.n_ops());
        for index in 0..model.n_ops() {
            let broken = |reason| GpuError::Op { op: index, reason };
            let record = model.op_record(index).ok_or(broken("its record does not decode"))?;
            let op = decode(model, index).ok_or(broken("its parameters do not decode"))?;
            let mut sources = Vec::with_capacity(record.inputs.len());
            for &tensor in &record.inputs {
                sources.push(source(model, &current, index, tensor)?);
            }
            let out = usize::from(record.output);
            let out_record = model.tensor(out).ok_or(broken("its output does not exist"))?;
            let output = match current[out] {
                Some(region) if open[out] => region,
                _ => memory.region(out_record.bytes(), out_record.dtype),
            };
            current[out] = Some(output);
            open[out] = !op.completes_output();
            ops.push(Operands {
                inputs: sources,
                output,
                record: out_record,
                packed_bytes: packed_bytes(&op),
                complete: op.completes_output(),
            });
        }
        let outputs = (0..model.n_outputs())
            .filter_map(|i| model.output_tensor(i))
            .map(|tensor| current[tensor].ok_or(GpuError::Unwritten { op: model.n_ops(), tensor }))
            .collect::<Result<_, _>>()?;
        let fault = memory.region(4, Dtype::I32);
        let digests = memory.region(model.n_ops() * 8, Dtype::I32);
        Ok(Self { ops, inputs, step, outputs, fault, digests, words: memory.words })
    }
}

/// Bytes of the packed weights of `op`, if it has any.
fn packed_bytes(op: &Op) -> u64 {
    let dense = match op {
        Op::Linear(layer) => Some(layer.dense),
        Op::Conv2d(layer) => Some(layer.dense),
        Op::DepthwiseConv2d(layer) => Some(layer.dense),
        Op::LinearI16(layer) => Some(layer.linear.dense),
        Op::Conv2dI16(layer) => Some(layer.conv.dense),
        Op::DepthwiseConv2dI16(layer) => Some(layer.conv.dense),
        Op::MatMul(_)
        | Op::Attention(_)
        | Op::AttentionScores(_)
        | Op::AttentionExp(_)
        | Op::AttentionValues(_)
        | Op::Softmax(_)
        | Op::LayerNorm(_)
        | Op::Add(_)
        | Op::Mul(_)
        | Op::Lut(_)
        | Op::Requant(_)
        | Op::Copy(_)
        | Op::Gather(_)
        | Op::LmulLinear(_)
        | Op::LookupLinear(_)
        | Op::Embedding(_)
        | Op::ReduceMean(_)
        | Op::Pool2d(_)
        | Op::DyadicRequant(_)
        | Op::Shiftmax(_)
        | Op::ShiftGelu(_)
        | Op::ILayerNorm(_)
        | Op::KvAppend(_)
        | Op::Positions(_)
        | Op::CausalAttention(_)
        | Op::WindowedAttention(_)
        | Op::Rope(_)
        | Op::MatMulI16(_)
        | Op::LutI16(_)
        | Op::MaxPoolI16(_) => None,
    };
    dense.map_or(0, |dense| u64::from(dense.weights.bytes))
}

/// Operator `index` with its parameters.
pub fn decode(model: &Model<'_>, index: usize) -> Option<Op> {
    Op::decode(model.op_kind(index)?, model.op_params(index)?)
}

fn source(model: &Model<'_>, current: &[Option<Region>], op: usize, tensor: u16) -> Result<Option<Source>, GpuError> {
    if tensor == NO_TENSOR {
        return Ok(None);
    }
    let index = usize::from(tensor);
    let unwritten = GpuError::Unwritten { op, tensor: index };
    // An index without a record is an absent operand to the runtime as well.
    let Some(record) = model.tensor(index) else { return Ok(None) };
    match record.place {
        Place::Constant => Ok(Some(Source::Weights(record))),
        // Memory of the batch is kept from one run to the next.
        Place::Arena | Place::State => {
            current.get(index).copied().flatten().map(|r| Some(Source::Region(r))).ok_or(unwritten)
        }
    }
}
