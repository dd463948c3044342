//! Running a model: a session over a caller-owned arena.

mod observe;
mod state;
mod tokens;

use crate::format::{Place, SectionKind, TensorRecord};
use crate::kernels::portable::fill;
use crate::kernels::{Kernels, Portable};
use crate::model::{Chain, Model};
use crate::ops::{Areas, Memory, RunFault, Step};
use core::fmt;
use core::ops::Range;

pub use observe::{Digests, Observer, Part};
pub use state::SnapshotError;

/// A run of a model over an arena.
///
/// Write the inputs, [`run`](Session::run), read the outputs. Memory of inputs is reused during a run: write them again
/// before the next.
pub struct Session<'m, 'a, B: Kernels = Portable> {
    model: Model<'m, B>,
    arena: &'a mut [u8],
    /// What lives from one run to the next; empty for a model without.
    state: &'a mut [u8],
    /// Rows that are in the state, and rows of the next run.
    at: Step,
    next: Position,
    /// The outputs are those of the inputs last written.
    finished: bool,
}

/// All pieces of an operator, however many it has.
const ALL: Range<u32> = 0..u32::MAX;

/// Where a run goes on: pieces of `op` from `piece` on, in block `block` of its chain.
#[derive(Clone, Copy, Default)]
struct Position {
    op: usize,
    block: u32,
    piece: u32,
}

/// Why an arena cannot hold a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum ArenaError {
    /// Fewer bytes than the model needs.
    TooSmall {
        /// Bytes the model needs.
        needed: usize,
        /// Bytes given.
        given: usize,
    },
    /// The arena or the state does not start at a multiple of 16 bytes; see [`Aligned`](crate::Aligned).
    Misaligned,
    /// Fewer bytes of state than the model needs; see [`Session::with_state`].
    StateTooSmall {
        /// Bytes the model needs.
        needed: usize,
        /// Bytes given.
        given: usize,
    },
}

impl fmt::Display for ArenaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooSmall { needed, given } => write!(
                f,
                "the arena is {} bytes too small: {needed} needed, {given} given",
                needed.saturating_sub(*given)
            ),
            Self::StateTooSmall { needed, given } => write!(
                f,
                "the model keeps {needed} bytes from one run to the next, {given} given; use `Session::with_state`"
            ),
            Self::Misaligned => f.write_str("the arena must start at an address divisible by 16; wrap it in `Aligned`"),
        }
    }
}

impl core::error::Error for ArenaError {}

/// Where a run stands after a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Progress {
    /// Work is left.
    Running {
        /// Operator that comes next, or goes on.
        op: usize,
    },
    /// The outputs are ready.
    Done,
}

impl<'m, 'a, B: Kernels> Session<'m, 'a, B> {
    /// A session over `arena`, which needs no particular content, for a model without state.
    ///
    /// # Errors
    /// [`ArenaError`] when the arena is too small (and by how much) or misaligned, or the model keeps state.
    pub fn new(model: &Model<'m, B>, arena: &'a mut [u8]) -> Result<Self, ArenaError> {
        Self::with_state(model, arena, &mut [])
    }

    /// A session over `arena` and `state`, which need no particular content: it starts at position 0.
    ///
    /// # Errors
    /// [`ArenaError`] when one of them is too small or misaligned.
    pub fn with_state(model: &Model<'m, B>, arena: &'a mut [u8], state: &'a mut [u8]) -> Result<Self, ArenaError> {
        let (needed, given) = (model.arena_bytes(), arena.len());
        if given < needed {
            return Err(ArenaError::TooSmall { needed, given });
        }
        let (needed, given) = (model.state_bytes(), state.len());
        if given < needed {
            return Err(ArenaError::StateTooSmall { needed, given });
        }
        let aligned = |bytes: &[u8]| (bytes.as_ptr() as usize).is_multiple_of(crate::format::SECTION_ALIGN);
        if !aligned(arena) || needed > 0 && !aligned(state) {
            return Err(ArenaError::Misaligned);
        }
        // A file may read rows of the state that it does not write: they must not hold what was there before.
        fill(state, 0);
        let at = Step { pos: 0, rows: model.state().rows };
        Ok(Self { model: *model, arena, state, at, next: Position::default(), finished: false })
    }

    /// The model.
    pub fn model(&self) -> &Model<'m, B> {
        &self.model
    }

    /// Memory of input `index`, to be filled before each run. Cancels a run that is under way.
    pub fn input_mut(&mut self, index: usize) -> Option<&mut [u8]> {
        self.cancel();
        let tensor = self.model.input(index)?;
        self.arena.get_mut(tensor.offset as usize..)?.get_mut(..tensor.bytes())
    }

    /// [`input_mut`](Self::input_mut) as elements of `T`; `None` also when `T` has not the size of the element type.
    pub fn input_as<T: bytemuck::Pod>(&mut self, index: usize) -> Option<&mut [T]> {
        let size = self.model.input(index)?.dtype.bytes();
        let bytes = self.input_mut(index)?;
        if size_of::<T>() == size { bytemuck::try_cast_slice_mut(bytes).ok() } else { None }
    }

    /// Bytes of output `index`. `None` also unless a run has finished since inputs were last handed out.
    pub fn output(&self, index: usize) -> Option<&[u8]> {
        if self.finished { self.bytes(&self.model.output(index)?) } else { None }
    }

    /// [`output`](Self::output) as elements of `T`; `None` also when `T` has not the size of the element type.
    pub fn output_as<T: bytemuck::Pod>(&self, index: usize) -> Option<&[T]> {
        let size = self.model.output(index)?.dtype.bytes();
        let bytes = self.output(index)?;
        if size_of::<T>() == size { bytemuck::try_cast_slice(bytes).ok() } else { None }
    }

    fn bytes(&self, tensor: &TensorRecord) -> Option<&[u8]> {
        match tensor.place {
            Place::Arena => self.arena.get(tensor.offset as usize..)?.get(..tensor.bytes()),
            Place::Constant | Place::State => None,
        }
    }

    /// Runs all operators.
    ///
    /// # Errors
    /// [`RunFault`] when the data itself is out of range (a token id beyond its table).
    pub fn run(&mut self) -> Result<(), RunFault> {
        self.run_with(&mut ())
    }

    /// [`run`](Self::run), calling `observer` around every operator.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn run_with(&mut self, observer: &mut impl Observer) -> Result<(), RunFault> {
        self.cancel();
        self.check_room()?;
        let mut op = 0;
        while op < self.model.n_ops() {
            if self.model.is_chained(op + 1) {
                let chain = self.model.chain(op).ok_or(RunFault::Memory)?;
                op = chain.ops.end;
                self.run_chain(chain, observer)?;
            } else {
                self.run_observed(op, ALL, ALL.end, observer)?;
                op += 1;
            }
        }
        self.finish();
        Ok(())
    }

    fn run_chain<O: Observer>(&mut self, chain: Chain, observer: &mut O) -> Result<(), RunFault> {
        for block in 0..chain.blocks() {
            for op in chain.ops.clone() {
                self.run_observed(op, chain.pieces(block), chain.rows, observer)?;
            }
        }
        Ok(())
    }

    fn run_observed<O: Observer>(
        &mut self,
        op: usize,
        pieces: Range<u32>,
        rows: u32,
        observer: &mut O,
    ) -> Result<(), RunFault> {
        observer.before(op);
        self.run_pieces(op, pieces.clone(), false)?;
        observer.ran(op);
        if O::WATCHES_OUTPUT {
            observer.after(op, self.part(op, pieces, rows).ok_or(RunFault::Memory)?);
        }
        Ok(())
    }

    /// What rows `pieces` of `rows` of operator `op` have written.
    #[inline(never)]
    fn part(&self, op: usize, pieces: Range<u32>, rows: u32) -> Option<Part<'_>> {
        let record = self.model.op_record(op)?;
        let output = self.model.tensor(usize::from(record.output))?;
        let is_last = pieces.end == rows;
        let (row, total) = (output.row() * output.dtype.bytes(), output.bytes());
        let (first, last) = (pieces.start as usize, pieces.end as usize);
        if !self.model.needs(&record)?.completes_output {
            return Some(Part { bytes: &[], offset: 0, total: 0, is_last });
        }
        let memory = self.arena.get(output.offset as usize..)?;
        // Where the operator writes only some of the rows, they count with the others at the end.
        let all_rows = row.checked_mul(rows as usize) == Some(total);
        if !all_rows || first == 0 && is_last {
            let bytes = if is_last { memory.get(..total)? } else { &[] };
            return Some(Part { bytes, offset: 0, total, is_last });
        }
        let held = output.first_held(first);
        let bytes =
            memory.get(first.checked_sub(held)?.checked_mul(row)?..last.checked_sub(held)?.checked_mul(row)?)?;
        Some(Part { bytes, offset: first.checked_mul(row)?, total, is_last })
    }

    /// Does the next bounded piece of work: some rows of one operator. After [`Progress::Done`] it starts anew.
    ///
    /// # Errors
    /// As [`run`](Self::run); the run is then cancelled.
    pub fn step(&mut self) -> Result<Progress, RunFault> {
        let at = self.next;
        self.cancel();
        let Some(record) = self.model.op_record(at.op) else {
            self.finish();
            return Ok(Progress::Done);
        };
        self.check_room()?;
        let chain = self.model.chain(at.op).ok_or(RunFault::Memory)?;
        let parts = self.model.parts(at.op, &record);
        let (block, step) = match parts {
            Some(parts) => (0..parts.count, parts.step()),
            None => (chain.pieces(at.block), self.model.needs(&record).ok_or(RunFault::Memory)?.step()),
        };
        let first = at.piece.max(block.start);
        let last = first.saturating_add(step).min(block.end);
        self.run_pieces(at.op, first..last, parts.is_some())?;
        let next = if last < block.end {
            Position { piece: last, ..at }
        } else if at.op + 1 < chain.ops.end {
            Position { op: at.op + 1, piece: 0, ..at }
        } else if at.block + 1 < chain.blocks() {
            Position { op: chain.ops.start, block: at.block + 1, piece: 0 }
        } else {
            Position { op: chain.ops.end, block: 0, piece: 0 }
        };
        if next.op == self.model.n_ops() {
            self.finish();
            return Ok(Progress::Done);
        }
        self.next = next;
        Ok(Progress::Running { op: next.op })
    }

    /// Forgets a run that is under way; the next [`step`](Self::step) starts from the inputs. Position and state are
    /// those before it.
    pub fn cancel(&mut self) {
        self.next = Position::default();
        self.finished = false;
    }

    // Calls of their own so that none keeps its records on the stack while an operator runs.
    #[inline(never)]
    fn run_pieces(&mut self, op: usize, pieces: Range<u32>, in_parts: bool) -> Result<(), RunFault> {
        // Records and memory by reference: a move would put them on the stack twice.
        let Some(record) = &self.model.op_record(op) else { return Err(RunFault::Memory) };
        let (words, entry) = self.model.op_code(record).ok_or(RunFault::Memory)?;
        let pieces =
            if self.at.rows < self.model.state().rows { self.fed(record, entry, words, pieces) } else { pieces };
        let sections = self.model.sections();
        let (weights, tensors) = (sections.get(SectionKind::Weights), sections.get(SectionKind::Tensors));
        let areas = Areas { arena: self.arena, state: self.state, weights, tensors, step: self.at };
        match &mut Memory::split(areas, record) {
            Some(memory) if in_parts => entry.run_parts(words, memory, pieces),
            Some(memory) => entry.run(words, memory, pieces),
            None => Err(RunFault::Memory),
        }
    }
}
