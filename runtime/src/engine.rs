//! Running a model: a session over a caller-owned arena.

use crate::format::{Place, SectionKind, TensorRecord};
use crate::kernels::{Kernels, Portable};
use crate::model::Model;
use crate::ops::{Memory, Needs, RunFault};
use core::fmt;

/// A run of a model over an arena.
///
/// Write the inputs, [`run`](Session::run), read the outputs. Memory of inputs is reused during a run: write them again
/// before the next.
pub struct Session<'m, 'a, B: Kernels = Portable> {
    model: Model<'m, B>,
    arena: &'a mut [u8],
    op: usize,
    piece: u32,
}

/// Why an arena cannot hold a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum ArenaError {
    /// Fewer bytes than the model needs.
    TooSmall {
        /// Bytes the model needs.
        needed: usize,
        /// Bytes given.
        given: usize,
    },
    /// The arena does not start at a multiple of 16 bytes; see [`Aligned`](crate::Aligned).
    Misaligned,
}

impl fmt::Display for ArenaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooSmall { needed, given } => write!(
                f,
                "the arena is {} bytes too small: {needed} needed, {given} given",
                needed.saturating_sub(*given)
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

/// Called by a run around every operator. All methods do nothing unless overridden; `()` observes nothing and costs
/// nothing.
pub trait Observer {
    /// Before operator `op` starts.
    fn before(&mut self, op: usize) {
        let _ = op;
    }
    /// After operator `op`, with the bytes of its output; empty where a later operator writes the rest of that tensor.
    fn after(&mut self, op: usize, output: &[u8]) {
        let _ = (op, output);
    }
}

impl Observer for () {}

/// [`Observer`] that hands the digest of every operator's output to a closure.
pub struct Digests<F: FnMut(usize, u64)>(pub F);

impl<F: FnMut(usize, u64)> Observer for Digests<F> {
    fn after(&mut self, op: usize, output: &[u8]) {
        (self.0)(op, crate::arith::digest::digest(output));
    }
}

impl<'m, 'a, B: Kernels> Session<'m, 'a, B> {
    /// A session over `arena`, which needs no particular content.
    ///
    /// # Errors
    /// [`ArenaError`] when the arena is too small (and by how much) or misaligned.
    pub fn new(model: &Model<'m, B>, arena: &'a mut [u8]) -> Result<Self, ArenaError> {
        let (needed, given) = (model.arena_bytes(), arena.len());
        if given < needed {
            return Err(ArenaError::TooSmall { needed, given });
        }
        if !(arena.as_ptr() as usize).is_multiple_of(crate::format::SECTION_ALIGN) {
            return Err(ArenaError::Misaligned);
        }
        Ok(Self { model: *model, arena, op: 0, piece: 0 })
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

    /// Bytes of output `index` after a run.
    pub fn output(&self, index: usize) -> Option<&[u8]> {
        self.bytes(&self.model.output(index)?)
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
            Place::Constant => None,
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
        for op in 0..self.model.n_ops() {
            observer.before(op);
            let needs = self.needs(op)?;
            self.run_pieces(op, 0..needs.pieces)?;
            observer.after(op, if needs.completes_output { self.written(op)? } else { &[] });
        }
        Ok(())
    }

    // These three are calls of their own so that none keeps its records on the stack while an operator runs.

    #[inline(never)]
    fn needs(&self, op: usize) -> Result<Needs, RunFault> {
        let record = self.model.op_record(op).ok_or(RunFault::Memory)?;
        self.model.needs(&record).ok_or(RunFault::Memory)
    }

    /// Bytes of the output of operator `op`.
    #[inline(never)]
    fn written(&self, op: usize) -> Result<&[u8], RunFault> {
        let record = self.model.op_record(op).ok_or(RunFault::Memory)?;
        let output = self.model.tensor(usize::from(record.output)).ok_or(RunFault::Memory)?;
        Ok(self.bytes(&output).unwrap_or(&[]))
    }

    /// Does the next bounded piece of work: some rows of one operator. After [`Progress::Done`] it starts anew.
    ///
    /// # Errors
    /// As [`run`](Self::run); the run is then cancelled.
    pub fn step(&mut self) -> Result<Progress, RunFault> {
        let (op, piece) = (self.op, self.piece);
        self.cancel();
        if op >= self.model.n_ops() {
            return Ok(Progress::Done);
        }
        let pieces = self.needs(op)?.pieces;
        self.run_pieces(op, piece..piece + 1)?;
        let next = if piece + 1 < pieces { (op, piece + 1) } else { (op + 1, 0) };
        if next.0 == self.model.n_ops() {
            return Ok(Progress::Done);
        }
        (self.op, self.piece) = next;
        Ok(Progress::Running { op: next.0 })
    }

    /// Forgets a run that is under way; the next [`step`](Self::step) starts from the inputs.
    pub fn cancel(&mut self) {
        (self.op, self.piece) = (0, 0);
    }

    #[inline(never)]
    fn run_pieces(&mut self, op: usize, pieces: core::ops::Range<u32>) -> Result<(), RunFault> {
        // Records and memory by reference: a move would put them on the stack twice.
        let Some(record) = &self.model.op_record(op) else { return Err(RunFault::Memory) };
        let (words, entry) = self.model.op_code(record).ok_or(RunFault::Memory)?;
        let sections = self.model.sections();
        let (weights, tensors) = (sections.get(SectionKind::Weights), sections.get(SectionKind::Tensors));
        match &mut Memory::split(self.arena, weights, tensors, record) {
            Some(memory) => entry.run(words, memory, pieces),
            None => Err(RunFault::Memory),
        }
    }
}
