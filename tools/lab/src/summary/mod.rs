//! What a model file holds, for `inspect` and the report.

pub mod timeline;

use serde::Serialize;
use shiftformer::Model;
use shiftformer::format::{NO_TENSOR, Place, Profile, SectionKind, field};
use shiftformer::kernels::Kernels;
use shiftformer::ops::Op;
use shiftformer::text::{TextError, Tokenizer};
use shiftformer_convert::lower::facts::{Group, facts};
use shiftformer_convert::pack::Annotations;

/// A model in figures.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Summary {
    /// `major.minor` of the container.
    pub format_version: String,
    /// Numeric profile.
    pub profile: &'static str,
    /// File name of the source model.
    pub source: String,
    /// Weights and biases of the source model.
    pub params: u64,
    /// Bytes of packed weights, biases, multipliers and tables.
    pub weight_bytes: usize,
    /// Bytes of the file.
    pub file_bytes: usize,
    /// Bytes that a device needs of the file: without the names and scales for people.
    pub flash_bytes: usize,
    /// Bytes of arena.
    pub arena_bytes: usize,
    /// What is kept from one run to the next, where the model does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<StateSummary>,
    /// No plan of these operators can need less.
    pub arena_lower_bound_bytes: usize,
    /// Multiplications with accumulation of one inference.
    pub macs: u64,
    /// Reference runs stored in the file.
    pub receipts: usize,
    /// Inputs in order.
    pub inputs: Vec<EndpointSummary>,
    /// Outputs in order.
    pub outputs: Vec<EndpointSummary>,
    /// Operators in the order of execution.
    pub ops: Vec<OpSummary>,
    /// Tokenizer of a language model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<TokenizerSummary>,
    /// Choices and warnings of the converter.
    pub notes: Vec<String>,
}

/// The tokenizer in a model file.
#[derive(Clone, Debug, Serialize)]
pub struct TokenizerSummary {
    /// Number of token ids.
    pub tokens: u32,
    /// Bytes in flash.
    pub bytes: usize,
    /// Whether its tables are valid.
    pub valid: bool,
}

/// Memory that lives from one run to the next.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct StateSummary {
    /// Bytes, apart from the arena.
    pub bytes: usize,
    /// Positions (tokens) it has room for.
    pub positions: usize,
    /// Rows (tokens) of a run at most.
    pub rows: usize,
}

/// An input or output.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct EndpointSummary {
    /// Name in the source model.
    pub name: String,
    /// Element type.
    pub dtype: &'static str,
    /// Dimensions in the source model.
    pub shape: Vec<usize>,
    /// Real units of one step.
    pub scale: f64,
    /// The integer that stands for 0.
    pub zero: f64,
    /// Raw pixels become `(x / 255 - mean) / std`: mean and std.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub normalization: Option<(f64, f64)>,
}

/// A tensor as an operator sees it.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct OperandSummary {
    /// Name.
    pub name: String,
    /// Element type.
    pub dtype: &'static str,
    /// Dimensions.
    pub shape: Vec<u32>,
    /// A table in flash.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub constant: bool,
}

/// An operator.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct OpSummary {
    /// Place in the order of execution.
    pub index: usize,
    /// Name of the source node.
    pub name: String,
    /// Kind.
    pub kind: &'static str,
    /// What that kind does.
    #[serde(skip)]
    pub group: Group,
    /// Multiplications with accumulation.
    pub macs: u64,
    /// Operands.
    #[serde(rename = "in")]
    pub inputs: Vec<OperandSummary>,
    /// Result.
    #[serde(rename = "out")]
    pub output: Option<OperandSummary>,
    /// Bits, with sign, that hold every accumulator value for any input.
    pub acc_bits: u32,
    /// Bits, with sign, of the widest requantization product, 0 where there is none.
    pub product_bits: u32,
    /// Bits, with sign, of the widest sum that is kept in 64 bits, 0 where all sums have 32.
    pub wide_bits: u32,
    /// Bits of the widest row sum (exponentials, variance), 0 where there is none.
    pub sum_bits: u32,
    /// Scratch bytes in the arena.
    pub scratch_bytes: u32,
    /// Rows at a time, where it runs in blocks of rows together with its neighbours.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub block_rows: Option<u32>,
}

/// Name of a profile on the command line.
pub fn profile_name(profile: Profile) -> &'static str {
    match profile {
        Profile::Shift => "shift",
        Profile::Ivit => "ivit",
        Profile::Lut => "lut",
        Profile::Lmul => "lmul",
    }
}

/// Summarizes `model`; `annotations` may be empty.
pub fn summarize<B: Kernels>(model: &Model<'_, B>, annotations: &Annotations) -> Summary {
    let ops: Vec<OpSummary> = (0..model.n_ops()).filter_map(|op| op_summary(model, annotations, op)).collect();
    let blocks = timeline::blocks(model, annotations);
    let live = timeline::usage(&blocks, model.n_ops()).into_iter().max().unwrap_or(0);
    let human_bytes = model.sections().get(SectionKind::Annotations).len();
    let lower_bound = if annotations.arena_lower_bound_bytes > 0 { annotations.arena_lower_bound_bytes } else { live };
    Summary {
        format_version: format_version(model.sections().file),
        profile: profile_name(model.profile()),
        source: annotations.source.clone(),
        params: annotations.params,
        weight_bytes: model.sections().get(SectionKind::Weights).len(),
        file_bytes: model.file_bytes(),
        flash_bytes: model.file_bytes() - human_bytes,
        arena_bytes: model.arena_bytes(),
        state: (model.state_bytes() > 0).then(|| StateSummary {
            bytes: model.state_bytes(),
            positions: model.state().capacity as usize,
            rows: model.state().rows as usize,
        }),
        arena_lower_bound_bytes: lower_bound,
        macs: ops.iter().map(|op| op.macs).sum(),
        receipts: model.receipts().len(),
        inputs: endpoints(model, annotations, true),
        outputs: endpoints(model, annotations, false),
        ops,
        tokenizer: tokenizer(model),
        notes: annotations.notes.clone(),
    }
}

fn tokenizer<B: Kernels>(model: &Model<'_, B>) -> Option<TokenizerSummary> {
    let bytes = model.sections().get(SectionKind::Text).len();
    match Tokenizer::open(model.sections()) {
        Ok(tokenizer) => tokenizer.map(|t| TokenizerSummary { tokens: t.vocabulary(), bytes, valid: true }),
        Err(TextError) => Some(TokenizerSummary { tokens: 0, bytes, valid: false }),
    }
}

/// `major.minor` from the header of a checked file.
fn format_version(file: &[u8]) -> String {
    let half = |offset: usize| file.get(offset..).and_then(|b| b.first_chunk()).map_or(0, |b| u16::from_le_bytes(*b));
    format!("{}.{}", half(field::MAJOR), half(field::MINOR))
}

fn endpoints<B: Kernels>(model: &Model<'_, B>, annotations: &Annotations, inputs: bool) -> Vec<EndpointSummary> {
    let (count, known, word) = if inputs {
        (model.n_inputs(), &annotations.inputs, "input")
    } else {
        (model.n_outputs(), &annotations.outputs, "output")
    };
    let summary = |index: usize| {
        let (record, tensor) = if inputs {
            (model.input(index)?, model.input_tensor(index)?)
        } else {
            (model.output(index)?, model.output_tensor(index)?)
        };
        let units = annotations.tensors.get(tensor);
        let own_shape = || record.shape().iter().map(|&d| d as usize).collect();
        Some(EndpointSummary {
            name: known.get(index).map_or_else(|| format!("{word}{index}"), |e| e.name.clone()),
            dtype: record.dtype.name(),
            shape: known.get(index).map_or_else(own_shape, |e| e.shape.clone()),
            scale: units.map_or(1.0, |u| u.scale),
            zero: units.map_or(f64::from(record.zero_point), |u| u.zero),
            normalization: known.get(index).and_then(|e| e.normalization),
        })
    };
    (0..count).filter_map(summary).collect()
}

fn op_summary<B: Kernels>(model: &Model<'_, B>, annotations: &Annotations, op: usize) -> Option<OpSummary> {
    let record = model.op_record(op)?;
    let kind = model.op_kind(op)?;
    let operand = |tensor: u16| {
        let index = usize::from(tensor);
        let tensor = model.tensor(index)?;
        let name = annotations.tensors.get(index).map_or_else(|| format!("tensor {index}"), |t| t.name.clone());
        let shape = tensor.shape().to_vec();
        Some(OperandSummary { name, dtype: tensor.dtype.name(), shape, constant: tensor.place == Place::Constant })
    };
    let cert = model.certificate(op)?;
    Some(OpSummary {
        index: op,
        name: annotations.ops.get(op).cloned().unwrap_or_else(|| format!("{} {op}", kind.name())),
        kind: kind.name(),
        group: facts(kind).group,
        macs: Op::decode(kind, model.op_params(op)?)?.macs(),
        inputs: record.inputs.iter().filter(|&&t| t != NO_TENSOR).filter_map(|&t| operand(t)).collect(),
        output: operand(record.output),
        acc_bits: cert.acc_bits(),
        product_bits: cert.product_bits,
        wide_bits: cert.wide_bits,
        sum_bits: cert.sum_bits,
        block_rows: model.chain(op).filter(|chain| chain.ops.len() > 1).map(|chain| chain.block),
        scratch_bytes: record.scratch_bytes,
    })
}
