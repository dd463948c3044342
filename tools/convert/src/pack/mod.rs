//! Writes a program as `.sfm` bytes.

use crate::graph::origin;
use crate::lower::facts::{dense, facts};
use crate::program::by_rows::by_rows;
use crate::program::plan::Plan;
use crate::program::{Endpoint, Program};
use serde::{Deserialize, Serialize};
use shiftformer::format::{
    CRC, CertRecord, HEADER_BYTES, MAGIC, NO_TENSOR, OpRecord, Place, Receipts, SECTION_ENTRY_BYTES, SectionKind,
    StateLayout, TensorRecord, VERSION_MAJOR, VERSION_MINOR_BY_ROWS, VERSION_MINOR_CHAINS, Word, align_up, field,
    header_crc,
};
use shiftformer::kernels::Portable;
use shiftformer::ops::{Op, OpFault, OpKind, OpTable, Operands};

/// What people and host tools want to know about a model: the `Annotations` section, JSON.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Annotations {
    /// Program that wrote the file.
    pub producer: String,
    /// File name of the source model.
    pub source: String,
    /// Inputs.
    pub inputs: Vec<Endpoint>,
    /// Outputs.
    pub outputs: Vec<Endpoint>,
    /// Per tensor: name, scale, zero.
    pub tensors: Vec<AnnotatedTensor>,
    /// Name of each operator.
    pub ops: Vec<String>,
    /// Parameters of the source model (weights and biases).
    pub params: u64,
    /// What the planner proved to be the smallest possible arena.
    pub arena_lower_bound_bytes: usize,
    /// Choices and warnings of the converter, for people.
    pub notes: Vec<String>,
}

/// Name and units of a tensor.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AnnotatedTensor {
    /// Name.
    pub name: String,
    /// Real units of one step.
    pub scale: f64,
    /// The value that stands for 0.
    pub zero: f64,
    /// Float tensor of the fused source graph with these values, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<usize>,
    /// Where scales were migrated: the float tensor of the source model is `real * factor`, column by column.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub column_factors: Vec<f32>,
}

/// Why a program cannot be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PackError {
    /// An operator cannot be proven safe.
    #[error("operator `{name}` ({}{kind}): {fault}{remedy}", .origin.as_ref().map_or(String::new(), |op| format!("{op}, as ")))]
    Op {
        /// Name of the operator.
        name: String,
        /// The operator of the source model that it is a part of.
        origin: Option<String>,
        /// Its kind.
        kind: &'static str,
        /// What is wrong.
        fault: OpFault,
        /// What can be done.
        remedy: &'static str,
    },
    /// A count or size is beyond what the format holds.
    #[error("the model has too many {0} for one file")]
    TooLarge(&'static str),
}

/// A reference run to be stored.
#[derive(Clone, Debug)]
pub struct ReceiptData {
    /// Bytes of every input.
    pub inputs: Vec<Vec<u8>>,
    /// Digest of every operator.
    pub digests: Vec<u64>,
}

/// What a reader runs: the sections of a program but its weights.
#[derive(Clone, Debug)]
pub struct Records {
    /// `Ops`.
    pub ops: Vec<u8>,
    /// `Tensors`.
    pub tensors: Vec<u8>,
    /// `Params`.
    pub params: Vec<u8>,
    /// `Io`.
    pub io: Vec<u8>,
    /// `Certificate`.
    pub certificate: Vec<u8>,
    /// `State`; empty where nothing is kept from run to run.
    pub state: Vec<u8>,
}

/// The records of `program` placed by `plan`, every operator proven.
///
/// # Errors
/// [`PackError`] when an operator's accumulators cannot be proven to fit, naming it.
pub fn records(program: &Program, plan: &Plan) -> Result<Records, PackError> {
    if program.ops.len() > usize::from(u16::MAX) - 1 {
        return Err(PackError::TooLarge("operators"));
    }
    if program.tensors.len() > usize::from(NO_TENSOR) - 1 {
        return Err(PackError::TooLarge("tensors"));
    }
    let mut tensors = Vec::new();
    let mut state_bytes = 0;
    for (index, tensor) in program.tensors.iter().enumerate() {
        let mut dims = [1u32; 6];
        // Leading dimensions are merged beyond rank 6; only the element count matters to a reader.
        let extra = tensor.shape.len().saturating_sub(6);
        let merged = tensor.shape.iter().take(extra + 1).product::<usize>();
        let shape: Vec<usize> = if extra > 0 {
            std::iter::once(merged).chain(tensor.shape.iter().skip(extra + 1).copied()).collect()
        } else {
            tensor.shape.clone()
        };
        for (dim, &size) in dims.iter_mut().zip(&shape) {
            *dim = u32::try_from(size).map_err(|_| PackError::TooLarge("elements"))?;
        }
        let (place, offset) = match tensor.constant {
            Some(blob) => (Place::Constant, blob.offset),
            None if tensor.in_state => {
                let offset = state_bytes;
                state_bytes = align_up(state_bytes + tensor.bytes());
                (Place::State, u32::try_from(offset).map_err(|_| PackError::TooLarge("bytes of state"))?)
            }
            None => (Place::Arena, plan.offsets[index] as u32),
        };
        let record = TensorRecord {
            dtype: tensor.dtype,
            place,
            rank: shape.len() as u8,
            window: tensor.window,
            offset,
            dims,
            zero_point: tensor.zero.round() as i32,
        };
        record.encode(&mut |word: u32| tensors.extend_from_slice(&word.to_le_bytes()));
    }
    let (mut ops, mut params, mut certificate) = (Vec::new(), Vec::new(), Vec::new());
    let by_rows = by_rows(program);
    for (index, op) in program.ops.iter().enumerate() {
        let mut inputs = [NO_TENSOR; 6];
        for (to, from) in inputs.iter_mut().zip(&op.inputs) {
            *to = from.map_or(NO_TENSOR, |t| t as u16);
        }
        let params_offset = (params.len() / 4) as u32;
        op.op.encode(&mut |word: u32| params.extend_from_slice(&word.to_le_bytes()));
        let record = OpRecord {
            kind: op.op.kind() as u16,
            chained: op.chained,
            by_rows: by_rows[index],
            inputs,
            output: op.output as u16,
            scratch_offset: plan.scratch[index] as u32,
            scratch_bytes: align_up(op.op.scratch_bytes() as usize) as u32,
            params_offset,
            params_words: ((params.len() / 4) as u32 - params_offset) as u16,
        };
        record.encode(&mut |word: u32| ops.extend_from_slice(&word.to_le_bytes()));
        let words = &params[params_offset as usize * 4..];
        let io = Operands { record, tensors: &tensors, weights: program.weights.bytes(), proven: false };
        let fault = |fault| PackError::Op {
            name: op.name.clone(),
            origin: origin(&program.origins, &op.name).map(str::to_owned),
            kind: op.op.kind().name(),
            fault,
            remedy: if fault == OpFault::Overflow { facts(op.op.kind()).remedy } else { "" },
        };
        let cert = prove(op.op.kind(), words, &io).map_err(fault)?;
        cert.write(&mut |word: u32| certificate.extend_from_slice(&word.to_le_bytes()));
    }
    let mut io = Vec::new();
    io.extend_from_slice(&(program.inputs.len() as u16).to_le_bytes());
    io.extend_from_slice(&(program.outputs.len() as u16).to_le_bytes());
    for endpoint in program.inputs.iter().chain(&program.outputs) {
        io.extend_from_slice(&(endpoint.tensor as u16).to_le_bytes());
    }
    let mut state = Vec::new();
    if let Some(kept) = program.state {
        let size = |n: usize| u32::try_from(n).map_err(|_| PackError::TooLarge("bytes of state"));
        let layout = StateLayout { bytes: size(state_bytes)?, capacity: size(kept.capacity)?, rows: size(kept.rows)? };
        layout.write(&mut |word: u32| state.extend_from_slice(&word.to_le_bytes()));
    }
    Ok(Records { ops, tensors, params, io, certificate, state })
}

/// Serializes `program` placed by `plan`.
///
/// # Errors
/// [`PackError`] when an operator's accumulators cannot be proven to fit, naming it.
pub fn pack(
    program: &Program,
    plan: &Plan,
    annotations: &Annotations,
    receipts: &[ReceiptData],
) -> Result<Vec<u8>, PackError> {
    write(program, plan, records(program, plan)?, annotations, receipts)
}

/// [`pack`] of records that are there already.
///
/// # Errors
/// [`PackError::TooLarge`] beyond 2 GiB.
pub fn write(
    program: &Program,
    plan: &Plan,
    records: Records,
    annotations: &Annotations,
    receipts: &[ReceiptData],
) -> Result<Vec<u8>, PackError> {
    let Records { ops, tensors, params, io, certificate, state } = records;
    let annotations = serde_json::to_vec(annotations).unwrap_or_default();
    let mut sections = vec![
        (SectionKind::Ops, ops),
        (SectionKind::Tensors, tensors),
        (SectionKind::Params, params),
        (SectionKind::Weights, program.weights.bytes().to_vec()),
        (SectionKind::Io, io),
        (SectionKind::Certificate, certificate),
        (SectionKind::Receipts, receipt_section(receipts)),
        (SectionKind::Annotations, annotations),
    ];
    if !state.is_empty() {
        sections.push((SectionKind::State, state));
    }
    let any_by_rows = by_rows(program).iter().any(|&pieces| pieces > 0);
    let frame = Frame {
        arena_bytes: plan.arena_bytes,
        n_ops: program.ops.len(),
        n_tensors: program.tensors.len(),
        profile: program.profile as u8,
        minor: minor_version(program.ops.iter().map(|op| (&op.op, op.chained, any_by_rows))),
    };
    assemble(&frame, &sections)
}

/// The lowest minor version that a reader must know for these operators, chained or not, by rows or not.
pub(crate) fn minor_version<'o>(ops: impl Iterator<Item = (&'o Op, bool, bool)>) -> u16 {
    let of = |(op, chained, by_rows): (&Op, bool, bool)| {
        let weights = dense(op).map_or(0, |dense| dense.format.since());
        let forms = [(chained, VERSION_MINOR_CHAINS), (by_rows, VERSION_MINOR_BY_ROWS)];
        let forms = forms.iter().filter(|(has, _)| *has).map(|&(_, since)| since);
        forms.fold(op.kind().since().max(weights), u16::max)
    };
    ops.map(of).max().unwrap_or(0)
}

/// What can be proven about an operator.
///
/// # Errors
/// The first [`OpFault`] found.
pub(crate) fn prove(kind: OpKind, words: &[u8], io: &Operands<'_>) -> Result<CertRecord, OpFault> {
    let entry = OpTable::<Portable>::ALL.iter().find(|entry| entry.kind == kind).ok_or(OpFault::Kind)?;
    entry.prove(words, io)?.certificate()
}

fn receipt_section(receipts: &[ReceiptData]) -> Vec<u8> {
    let Some(first) = receipts.first() else { return Vec::new() };
    let inputs: usize = first.inputs.iter().map(|bytes| Receipts::padded(bytes.len())).sum();
    let stride = inputs + first.digests.len() * 8;
    let mut section = Vec::new();
    section.extend_from_slice(&(receipts.len() as u32).to_le_bytes());
    section.extend_from_slice(&(stride as u32).to_le_bytes());
    for receipt in receipts {
        for input in &receipt.inputs {
            section.extend_from_slice(input);
            section.resize(section.len() + Receipts::padded(input.len()) - input.len(), 0);
        }
        for digest in &receipt.digests {
            section.extend_from_slice(&digest.to_le_bytes());
        }
    }
    section
}

/// Header fields that do not follow from the sections.
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    /// Arena a session needs.
    pub arena_bytes: usize,
    /// Number of operators.
    pub n_ops: usize,
    /// Number of tensors.
    pub n_tensors: usize,
    /// Profile byte.
    pub profile: u8,
    /// Minor version that a reader must know.
    pub minor: u16,
}

/// Writes header, section table and sections, with their checksums.
///
/// # Errors
/// [`PackError::TooLarge`] beyond 2 GiB.
pub fn assemble(frame: &Frame, sections: &[(SectionKind, Vec<u8>)]) -> Result<Vec<u8>, PackError> {
    let header_bytes = align_up(HEADER_BYTES + sections.len() * SECTION_ENTRY_BYTES);
    let mut file = vec![0u8; header_bytes];
    let mut entries = Vec::new();
    for (kind, bytes) in sections {
        file.resize(align_up(file.len()), 0);
        for word in [*kind as u32, file.len() as u32, bytes.len() as u32, 0] {
            entries.extend_from_slice(&word.to_le_bytes());
        }
        file.extend_from_slice(bytes);
    }
    if file.len() >= 1 << 31 || frame.arena_bytes >= 1 << 31 {
        return Err(PackError::TooLarge("bytes"));
    }
    let put =
        |offset: usize, bytes: &[u8], file: &mut Vec<u8>| file[offset..offset + bytes.len()].copy_from_slice(bytes);
    put(0, &MAGIC, &mut file);
    put(field::MAJOR, &VERSION_MAJOR.to_le_bytes(), &mut file);
    put(field::MINOR, &frame.minor.to_le_bytes(), &mut file);
    put(field::HEADER_BYTES, &(header_bytes as u32).to_le_bytes(), &mut file);
    let file_bytes = file.len() as u32;
    put(field::FILE_BYTES, &file_bytes.to_le_bytes(), &mut file);
    put(field::ARENA_BYTES, &(frame.arena_bytes as u32).to_le_bytes(), &mut file);
    put(field::N_OPS, &(frame.n_ops as u16).to_le_bytes(), &mut file);
    put(field::N_TENSORS, &(frame.n_tensors as u16).to_le_bytes(), &mut file);
    put(field::N_SECTIONS, &(sections.len() as u16).to_le_bytes(), &mut file);
    put(field::PROFILE, &[frame.profile], &mut file);
    put(HEADER_BYTES, &entries, &mut file);
    let payload_crc = CRC.checksum(&file[header_bytes..]);
    put(field::PAYLOAD_CRC, &payload_crc.to_le_bytes(), &mut file);
    let crc = header_crc(&file[..header_bytes]).unwrap_or(0);
    put(field::HEADER_CRC, &crc.to_le_bytes(), &mut file);
    Ok(file)
}
