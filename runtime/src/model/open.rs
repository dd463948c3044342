//! Opening a model: one pass that proves every later access.

use super::{Model, Proven, arena_range, overlap};
use crate::format::{
    CertRecord, FormatError, OpRecord, Place, ReadWords, Receipts, SectionKind, Sections, StateLayout, TensorRecord,
    Word,
};
use crate::kernels::{Kernels, Portable};
use crate::ops::{Entry, OpFault, OpKind, OpTable, Operands, require};
use core::fmt;

/// What of a model is known without a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trust {
    /// Nothing: everything is checked.
    Nothing,
    /// The values of weights and tables, and the order of the operators.
    Values,
}

/// Why a model cannot be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum ModelError {
    /// The frame of the file is at fault.
    Format(FormatError),
    /// A section has the wrong length.
    Section(SectionName),
    /// A tensor record is invalid or lies outside arena or weights.
    Tensor {
        /// Index of the tensor.
        tensor: u16,
    },
    /// An operator cannot be run.
    Op {
        /// Index of the operator.
        op: u16,
        /// Its kind code.
        kind: u16,
        /// What is wrong.
        fault: OpFault,
    },
    /// The memory for the tables of [`Model::whole`] is too small.
    Tables {
        /// Bytes the tables need.
        needed: usize,
        /// Bytes given.
        given: usize,
    },
}

/// A section, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[allow(missing_docs)]
#[non_exhaustive]
pub enum SectionName {
    Ops,
    Tensors,
    Io,
    Certificate,
    Receipts,
    State,
}

impl fmt::Display for ModelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Format(fault) => fault.fmt(f),
            Self::Section(name) => {
                let name = match name {
                    SectionName::Ops => "operator",
                    SectionName::Tensors => "tensor",
                    SectionName::Io => "input/output",
                    SectionName::Certificate => "certificate",
                    SectionName::Receipts => "receipt",
                    SectionName::State => "state",
                };
                write!(f, "the {name} section is invalid; convert the model again")
            }
            Self::Tensor { tensor } => write!(f, "tensor {tensor} is invalid; convert the model again"),
            Self::Op { op, kind, fault: OpFault::Kind } => match OpKind::from_code(*kind) {
                Some(kind) => write!(
                    f,
                    "operator {op} ({}) is not in the operator table of this program; generate the table again with \
                     `shiftformer codegen`",
                    kind.name()
                ),
                None => {
                    write!(f, "operator {op} has kind {kind}, which this version does not know; update shiftformer")
                }
            },
            Self::Op { op, kind, fault } => {
                let name = OpKind::from_code(*kind).map_or("unknown", OpKind::name);
                write!(f, "operator {op} ({name}): {fault}; convert the model again")
            }
            Self::Tables { needed, given } => {
                write!(f, "the tables of whole operators need {needed} bytes, {given} given")
            }
        }
    }
}

impl core::error::Error for ModelError {}

impl From<FormatError> for ModelError {
    fn from(fault: FormatError) -> Self {
        Self::Format(fault)
    }
}

impl<'m> Model<'m, Portable> {
    /// Opens a model for the portable kernels with every operator linked in.
    ///
    /// # Errors
    /// [`ModelError`]: the first fault found.
    pub fn open(file: &'m [u8]) -> Result<Self, ModelError> {
        Self::open_with(file, OpTable::<Portable>::ALL)
    }
}

impl<'m, B: Kernels> Model<'m, B> {
    /// Opens a model whose operators are run by `table`: its order does not matter, operators it lacks are an error.
    ///
    /// Checks header, checksums, every record, that no operator's output overlaps what it reads, and recomputes the
    /// overflow bounds from the weights.
    ///
    /// # Errors
    /// [`ModelError`]: the first fault found.
    pub fn open_with(file: &'m [u8], table: &'static [Entry<B>]) -> Result<Self, ModelError> {
        Self::checked(Sections::read(file)?, table, Trust::Nothing)
    }

    /// Opens a model that was proven when the firmware was built: the module that `shiftformer codegen` writes does so.
    ///
    /// What makes it safe to run is checked as by [`open_with`](Self::open_with): header, section table, every record, every
    /// size, range, and overlap. Left out is what would take a look at every byte or at every pair of operators:
    ///
    /// | not checked again | consequence if the promise of [`Proven`] were false |
    /// |---|---|
    /// | checksums of header and payload | other weights compute something else |
    /// | overflow bounds from the weights, signs of multipliers, entries of tables | sums wrap around |
    /// | that what is read was written before | what the arena held before counts |
    ///
    /// # Errors
    /// [`ModelError`]: the first fault found.
    pub fn open_proven(proven: &Proven<'m>, table: &'static [Entry<B>]) -> Result<Self, ModelError> {
        Self::checked(Sections::read_proven(proven.file())?, table, Trust::Values)
    }

    /// Opens a model whose sections lie in memory apart, with all checks of [`open_with`](Self::open_with) but those of the
    /// frame.
    ///
    /// # Errors
    /// [`ModelError`]: the first fault found.
    pub fn of_sections(sections: Sections<'m>, table: &'static [Entry<B>]) -> Result<Self, ModelError> {
        Self::checked(sections, table, Trust::Nothing)
    }

    /// The model of these sections, every record checked.
    pub(super) fn checked(
        sections: Sections<'m>,
        table: &'static [Entry<B>],
        trust: Trust,
    ) -> Result<Self, ModelError> {
        let sized = |kind, bytes: usize, name| {
            if sections.get(kind).len() == bytes { Ok(()) } else { Err(ModelError::Section(name)) }
        };
        sized(SectionKind::Ops, sections.n_ops * OpRecord::BYTES, SectionName::Ops)?;
        sized(SectionKind::Tensors, sections.n_tensors * TensorRecord::BYTES, SectionName::Tensors)?;
        sized(SectionKind::Certificate, sections.n_ops * CertRecord::BYTES, SectionName::Certificate)?;
        let io = sections.get(SectionKind::Io);
        let io_counts = io.split_first_chunk::<4>().filter(|(head, rest)| {
            let [a, b, c, d] = **head;
            usize::from(u16::from_le_bytes([a, b])) + usize::from(u16::from_le_bytes([c, d])) == rest.len() / 2
                && rest.len().is_multiple_of(2)
        });
        let ([a, b, ..], _) = io_counts.ok_or(ModelError::Section(SectionName::Io))?;
        let n_inputs = usize::from(u16::from_le_bytes([*a, *b]));
        let receipts = Receipts::new(&[], 0, 0).ok_or(ModelError::Section(SectionName::Receipts))?;
        let state = state_of(&sections).ok_or(ModelError::Section(SectionName::State))?;
        let mut model = Self { sections, receipts, n_inputs, state, table };
        let mut state_end = 0;
        for tensor in 0..sections.n_tensors {
            model.check_tensor(tensor, &mut state_end).ok_or(ModelError::Tensor { tensor: tensor as u16 })?;
        }
        for endpoint in 0..io.len() / 2 - 2 {
            let tensor = model.endpoint(endpoint).ok_or(ModelError::Section(SectionName::Io))?;
            if tensor.place != Place::Arena || tensor.window > 0 {
                return Err(ModelError::Section(SectionName::Io));
            }
        }
        let padded = |i| model.input(i).map_or(0, |t| Receipts::padded(t.bytes()));
        let input_bytes = (0..n_inputs).map(padded).fold(0usize, usize::saturating_add);
        model.receipts = Receipts::new(sections.get(SectionKind::Receipts), input_bytes, sections.n_ops)
            .ok_or(ModelError::Section(SectionName::Receipts))?;
        for op in 0..sections.n_ops {
            model.check_op(op, trust).map_err(|fault| model.op_error(op, fault))?;
        }
        for op in 0..sections.n_ops {
            model.check_chain_from(op).map_err(|fault| model.op_error(op, fault))?;
        }
        if trust == Trust::Nothing {
            model.check_flow()?;
        }
        Ok(model)
    }

    /// Whether a tensor lies in its memory; tensors in the state must do so one behind the other, see
    /// [`check_state`](Self::check_state).
    fn check_tensor(&self, index: usize, state_end: &mut usize) -> Option<()> {
        let tensor = &self.tensor(index)?;
        let room = match tensor.place {
            Place::Arena => self.sections.arena_bytes,
            Place::Constant => self.sections.get(SectionKind::Weights).len(),
            Place::State => self.state_bytes(),
        };
        let end = (tensor.offset as usize).checked_add(tensor.held_bytes())?;
        let windowed = tensor.window > 0;
        // Parts of a digest start at whole words.
        let row_bytes = tensor.row() as u64 * tensor.dtype.bytes() as u64;
        let whole_words = (u64::from(tensor.window) * row_bytes).is_multiple_of(4);
        let fits = tensor.offset.is_multiple_of(16) && end <= room && !tensor.is_empty();
        let sane = fits && (!windowed || tensor.place == Place::Arena && whole_words);
        if tensor.place == Place::State {
            self.check_state(tensor, state_end)?
        }
        sane.then_some(())
    }

    /// Whether a tensor in the state has a row per position, or is a ring of fewer that single rows are written to, and lies
    /// behind the one before, which ends at `end`.
    fn check_state(&self, tensor: &TensorRecord, end: &mut usize) -> Option<()> {
        let follows = tensor.offset as usize >= core::mem::replace(end, arena_range(tensor).end);
        let rows = tensor.shape().first().copied()?;
        let ring = self.state.rows == 1 && 0 < rows && rows < self.state.capacity;
        (follows && (ring || rows == self.state.capacity)).then_some(())
    }

    fn check_op(&self, op: usize, trust: Trust) -> Result<(), OpFault> {
        let record = self.op_record(op).ok_or(OpFault::Params)?;
        let (words, entry) = self.op_code(&record).ok_or(OpFault::Kind)?;
        let cert = self.certificate(op).ok_or(OpFault::Params)?;
        let tensors = self.sections.get(SectionKind::Tensors);
        let weights = self.sections.get(SectionKind::Weights);
        let io = Operands { record, tensors, weights, proven: trust == Trust::Values };
        let needs = entry.check(words, &io, &cert)?;
        let record = &io.record;
        require(record.by_rows == 0 || u32::from(record.by_rows) == needs.pieces, OpFault::Params)?;
        let scratch_end = (record.scratch_offset as usize).checked_add(record.scratch_bytes as usize);
        let scratch_fits = record.scratch_bytes >= needs.scratch_bytes && record.scratch_offset.is_multiple_of(16);
        let scratch_end = scratch_end.filter(|&end| scratch_fits && end <= self.sections.arena_bytes);
        let scratch = record.scratch_offset as usize..scratch_end.ok_or(OpFault::Scratch)?;
        // The state is memory of its own.
        let output = self.slot(io.record.output).ok_or(OpFault::Operand)?;
        let out = if output.place == Place::Arena { output.range() } else { 0..0 };
        if overlap(&out, &scratch) {
            return Err(OpFault::Alias);
        }
        for (index, &tensor) in io.record.inputs.iter().enumerate() {
            let Some(input) = self.slot(tensor).filter(|t| t.place == Place::Arena) else { continue };
            let range = input.range();
            let same_place = range == out && needs.in_place == Some(index);
            if overlap(&range, &scratch) || (overlap(&range, &out) && !same_place) {
                return Err(OpFault::Alias);
            }
        }
        Ok(())
    }

    pub(super) fn op_error(&self, op: usize, fault: OpFault) -> ModelError {
        let kind = self.op_record(op).map_or(0, |r| r.kind);
        ModelError::Op { op: op as u16, kind, fault }
    }

    /// Checks the chain that starts at `op`, where one does: also an operator alone is one.
    fn check_chain_from(&self, op: usize) -> Result<(), OpFault> {
        if self.is_chained(op) {
            // Checked with the first operator of the chain.
            return if op > 0 { Ok(()) } else { Err(OpFault::Chain) };
        }
        self.chain(op).ok_or(OpFault::Chain)?.check(self)
    }
}

/// The layout in the `State` section, all zero where there is none.
fn state_of(sections: &Sections<'_>) -> Option<StateLayout> {
    let bytes = sections.get(SectionKind::State);
    if bytes.is_empty() {
        return Some(StateLayout::default());
    }
    let state = StateLayout::read(&mut ReadWords::new(bytes))?;
    let sane = state.bytes > 0 && state.bytes < 1 << 31 && 0 < state.rows && state.rows <= state.capacity;
    (sane && bytes.len() == 4 * StateLayout::WORDS).then_some(state)
}
