//! How a model reaches an operator: functions over parameter words, one entry per kind in a table.

use super::{Memory, OpFault, OpKind, Operands, Operator, Proof, RowAccess, RunFault, require};
use crate::format::{CertRecord, ReadWords, Word};
use crate::kernels::Kernels;
use core::ops::Range;

/// Runs pieces of the operator whose parameters the words hold.
type RunFn = fn(&[u8], &mut Memory<'_>, Range<u32>) -> Result<(), RunFault>;

/// How an operator is checked and run, for one set of kernels.
pub struct Entry<B> {
    /// Which operator.
    pub kind: OpKind,
    check: fn(&[u8], &Operands<'_>) -> Result<Proof, OpFault>,
    needs: fn(&[u8]) -> Option<Requirements>,
    row_access: fn(&[u8]) -> Option<RowAccess>,
    run: RunFn,
    kernels: core::marker::PhantomData<fn() -> B>,
}

/// What a checked operator asks of the engine.
#[derive(Clone, Copy, Debug)]
pub struct Requirements {
    /// Bytes of scratch.
    pub scratch_bytes: u32,
    /// Input that may share the output's memory.
    pub in_place: Option<usize>,
    /// Pieces of work.
    pub pieces: u32,
    /// Pieces that are done at once.
    pub step: u32,
    /// Whether the output is whole afterwards.
    pub completes_output: bool,
}

impl<B: Kernels> Entry<B> {
    /// The entry of operator `O`.
    pub const fn of<O: Operator>(kind: OpKind) -> Self {
        Self {
            kind,
            check: check::<O>,
            needs: needs::<O>,
            row_access: row_access::<O>,
            run: run::<B, O>,
            kernels: core::marker::PhantomData,
        }
    }

    /// Decodes and checks an operator; returns the bounds of its intermediate values.
    ///
    /// # Errors
    /// The first [`OpFault`] found.
    pub fn prove(&self, words: &[u8], io: &Operands<'_>) -> Result<Proof, OpFault> {
        (self.check)(words, io)
    }

    /// [`prove`](Self::prove), and `cert` must state what was proven.
    ///
    /// # Errors
    /// The first [`OpFault`] found.
    pub fn check(&self, words: &[u8], io: &Operands<'_>, cert: &CertRecord) -> Result<Requirements, OpFault> {
        let proof = self.prove(words, io)?;
        require(proof.is_covered_by(cert), OpFault::Overflow)?;
        self.needs(words).ok_or(OpFault::Params)
    }

    /// What the operator asks of the engine; `None` when its parameters do not decode.
    pub fn needs(&self, words: &[u8]) -> Option<Requirements> {
        (self.needs)(words)
    }

    /// What the rows of the operator read and write; `None` where it has none or its parameters do not decode.
    pub fn row_access(&self, words: &[u8]) -> Option<RowAccess> {
        (self.row_access)(words)
    }

    /// Runs pieces of a checked operator, those of `pieces` that it has.
    ///
    /// # Errors
    /// [`RunFault`].
    pub fn run(&self, words: &[u8], memory: &mut Memory<'_>, pieces: Range<u32>) -> Result<(), RunFault> {
        (self.run)(words, memory, pieces)
    }
}

fn check<O: Operator>(words: &[u8], io: &Operands<'_>) -> Result<Proof, OpFault> {
    decode::<O>(words).ok_or(OpFault::Params)?.check(io)
}

fn needs<O: Operator>(words: &[u8]) -> Option<Requirements> {
    decode::<O>(words).map(|params| needs_of(&params))
}

fn row_access<O: Operator>(words: &[u8]) -> Option<RowAccess> {
    decode::<O>(words)?.row_access()
}

fn needs_of<O: Operator>(params: &O) -> Requirements {
    Requirements {
        scratch_bytes: params.scratch_bytes(),
        in_place: params.in_place(),
        pieces: params.pieces(),
        step: params.step().max(1),
        completes_output: params.completes_output(),
    }
}

fn run<B: Kernels, O: Operator>(words: &[u8], memory: &mut Memory<'_>, pieces: Range<u32>) -> Result<(), RunFault> {
    // By reference: a move would put the parameters on the stack twice.
    match &decode::<O>(words) {
        Some(params) => run_here::<B, O>(params, memory, pieces.start..pieces.end.min(params.pieces())),
        None => Err(RunFault::Memory),
    }
}

#[cfg(feature = "std")]
pub(super) use super::divide::run as run_here;

/// Runs pieces on this thread, the only one there is.
#[cfg(not(feature = "std"))]
pub(super) fn run_here<B: Kernels, O: Operator>(
    op: &O,
    memory: &mut Memory<'_>,
    pieces: Range<u32>,
) -> Result<(), RunFault> {
    op.run::<B>(memory, pieces)
}

pub(super) fn decode<O: Word>(words: &[u8]) -> Option<O> {
    // Once for all words.
    if words.len() != O::WORDS * size_of::<u32>() {
        return None;
    }
    O::read(&mut ReadWords::new(words))
}
