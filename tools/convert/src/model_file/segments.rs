//! A model cut into files that run one after the other over the same arena, for weights that do not fit the memory at once.
//!
//! Everything stays where it lies in the arena of the whole model, so what a segment leaves is what the next one takes: its
//! inputs are the tensors that are alive where the model is cut. Segments have no names and no reference runs.

use super::parts::ModelParts;
use super::{ModelFile, ModelFileError};
use crate::pack::PackError;
use crate::program::Weights;
use shiftformer::Model;
use shiftformer::format::{NO_TENSOR, Place, TensorRecord};
use shiftformer::kernels::Portable;
use std::collections::{BTreeSet, HashMap};
use std::ops::Range;

/// Why a model cannot be cut.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SegmentError {
    /// It keeps state between runs.
    #[error(
        "a decoder keeps keys and values between runs, which segments do not; only models without state can be split"
    )]
    State,
    /// It has no operators.
    #[error("the model has no operators")]
    Empty,
    /// Operators that must stay together take more than a segment may.
    #[error(
        "`{name}` takes {needed} bytes by itself, {given} given: make the buffer larger, or convert with fewer bits (`--weights 4`){chained}"
    )]
    TooLarge {
        /// Name of the operator, the first of them.
        name: String,
        /// Bytes of the smallest segment with it.
        needed: usize,
        /// Bytes that a segment may have.
        given: usize,
        /// What else helps.
        chained: &'static str,
    },
    /// A segment cannot be written.
    #[error("a segment cannot be written: {0}")]
    Pack(#[from] PackError),
    /// A segment is not valid.
    #[error("a segment is not valid: {0}")]
    Model(#[from] ModelFileError),
}

/// Cuts `file` into models of at most `buffer` bytes, as few as taking in turn as many operators as fit gives.
///
/// # Errors
/// [`SegmentError`] when it cannot be cut so small.
pub fn segments(file: &ModelFile, buffer: usize) -> Result<Vec<Vec<u8>>, SegmentError> {
    let model: Model<'_, Portable> = file.open().map_err(ModelFileError::from)?;
    let whole = Whole::new(ModelParts::of(&model, file.annotations()))?;
    let (mut segments, mut first) = (Vec::new(), 0);
    for pair in whole.cuts.windows(2) {
        // What has been taken so far without this group of operators, and with it.
        let (before, with) = (first..pair[0], whole.segment(first..pair[1])?);
        if with.len() <= buffer {
            continue;
        }
        if !before.is_empty() {
            segments.push(whole.segment(before)?);
            first = pair[0];
        }
        let alone = whole.segment(first..pair[1])?;
        if alone.len() > buffer {
            return Err(whole.too_large(first..pair[1], alone.len(), buffer));
        }
    }
    segments.push(whole.segment(first..whole.parts.ops.len())?);
    for segment in &segments {
        ModelFile::from_bytes(segment)?;
    }
    Ok(segments)
}

/// A model, and where it can be cut.
struct Whole {
    parts: ModelParts,
    /// Numbers of operators, from 0 to how many there are: between those before and those from there on.
    cuts: Vec<usize>,
}

impl Whole {
    fn new(parts: ModelParts) -> Result<Self, SegmentError> {
        if parts.state.rows > 0 {
            return Err(SegmentError::State);
        }
        if parts.ops.is_empty() {
            return Err(SegmentError::Empty);
        }
        let mut cuts = vec![0];
        // Until the last operator that writes a tensor it is not whole.
        let mut writers = HashMap::new();
        for (op, record) in parts.records.iter().enumerate() {
            writers.entry(record.output).and_modify(|range: &mut Range<usize>| range.end = op).or_insert(op..op);
        }
        for op in 1..parts.records.len() {
            let torn = writers.values().any(|range| range.start < op && op <= range.end);
            if !parts.records[op].chained && !torn {
                cuts.push(op);
            }
        }
        cuts.push(parts.records.len());
        Ok(Self { parts, cuts })
    }

    /// Tensors of the arena that are read from operator `op` on, or are outputs, and written before.
    fn alive(&self, op: usize) -> Vec<u16> {
        let parts = &self.parts;
        let written: BTreeSet<u16> =
            parts.records[..op].iter().map(|record| record.output).chain(parts.inputs.iter().copied()).collect();
        let read = parts.records[op..].iter().flat_map(|record| record.inputs);
        let read: BTreeSet<u16> = read.chain(parts.outputs.iter().copied()).collect();
        let in_arena =
            |&tensor: &u16| parts.tensors.get(usize::from(tensor)).is_some_and(|record| record.place == Place::Arena);
        written.intersection(&read).copied().filter(in_arena).collect()
    }

    /// The operators `ops` as a model: it takes what is alive before them and leaves what is alive after them.
    fn segment(&self, ops: Range<usize>) -> Result<Vec<u8>, PackError> {
        let parts = &self.parts;
        let inputs = if ops.start == 0 { parts.inputs.clone() } else { self.alive(ops.start) };
        let outputs = if ops.end == parts.ops.len() { parts.outputs.clone() } else { self.alive(ops.end) };
        let mut renumbered = Renumbered { parts, weights: Weights::default(), tensors: Vec::new() };
        let (inputs, outputs) = (renumbered.all(&inputs), renumbered.all(&outputs));
        let (mut records, mut operators) = (parts.records[ops.clone()].to_vec(), parts.ops[ops.clone()].to_vec());
        for (record, op) in records.iter_mut().zip(&mut operators) {
            for tensor in record.inputs.iter_mut().filter(|tensor| **tensor != NO_TENSOR) {
                *tensor = renumbered.tensor(*tensor);
            }
            record.output = renumbered.tensor(record.output);
            record.by_rows = 0;
            op.each_blob(&mut |blob| {
                let range = blob.offset as usize..(blob.offset + blob.bytes) as usize;
                *blob = renumbered.weights.add(&parts.weights[range]);
            });
        }
        let tensors = renumbered.records();
        let segment = ModelParts {
            records,
            ops: operators,
            tensors,
            weights: renumbered.weights.bytes().to_vec(),
            inputs,
            outputs,
            receipts: Vec::new(),
            annotations: None,
            profile: parts.profile,
            arena_bytes: parts.arena_bytes,
            state: parts.state,
            text: Vec::new(),
        };
        segment.write()
    }

    fn too_large(&self, ops: Range<usize>, needed: usize, given: usize) -> SegmentError {
        let names = self.parts.annotations.as_ref().and_then(|whole| whole.ops.get(ops.start));
        let chained = if ops.len() > 1 { ", or with `--row-blocks off`" } else { "" };
        let name = names.cloned().unwrap_or_else(|| format!("operator {}", ops.start));
        SegmentError::TooLarge { name, needed, given, chained }
    }
}

/// Tensors and weights of a segment.
struct Renumbered<'a> {
    parts: &'a ModelParts,
    weights: Weights,
    /// Number in the whole model of every tensor of the segment.
    tensors: Vec<u16>,
}

impl Renumbered<'_> {
    /// The number in the segment.
    fn tensor(&mut self, old: u16) -> u16 {
        let known = self.tensors.iter().position(|&tensor| tensor == old);
        let new = known.unwrap_or_else(|| {
            self.tensors.push(old);
            self.tensors.len() - 1
        });
        new as u16
    }

    fn all(&mut self, old: &[u16]) -> Vec<u16> {
        old.iter().map(|&tensor| self.tensor(tensor)).collect()
    }

    /// The records, with the values of constants.
    fn records(&mut self) -> Vec<TensorRecord> {
        let (parts, weights) = (self.parts, &mut self.weights);
        let record = |&old: &u16| {
            let mut record = parts.tensors[usize::from(old)];
            if record.place == Place::Constant {
                let first = record.offset as usize;
                record.offset = weights.add(&parts.weights[first..first + record.bytes()]).offset;
            }
            record
        };
        self.tensors.iter().map(record).collect()
    }
}
