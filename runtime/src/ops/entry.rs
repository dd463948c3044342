//! How a model reaches an operator: functions over parameter words, one entry per kind in a table.

use super::{Memory, OpFault, OpKind, Operands, Operator, Proof, RowAccess, RunFault, require};
use crate::format::{CertRecord, ReadWords, Word};
use crate::kernels::Kernels;
use core::ops::Range;

/// Runs pieces of the operator whose parameters the words hold.
type RunFn = fn(&[u8], &mut Memory<'_>, Range<u32>) -> Result<(), RunFault>;

/// Work of a step, in the unit of [`Operator::piece_work`]: steps of small pieces have no more, and one block of pieces
/// where a block alone has more. [`Model::step_macs`](crate::Model::step_macs) is the maximum of a model.
pub const STEP_WORK: u32 = 75_000;

/// How an operator is checked and run, for one set of kernels. In memory: the kind, then a pointer, as in C.
#[repr(C)]
pub struct Entry<B: 'static> {
    /// Which operator.
    pub kind: OpKind,
    functions: &'static Functions<B>,
}

/// The functions of an operator: what other languages make entries of.
pub struct Functions<B> {
    check: fn(&[u8], &Operands<'_>) -> Result<Proof, OpFault>,
    needs: fn(&[u8]) -> Option<Requirements>,
    row_access: fn(&[u8]) -> Option<RowAccess>,
    written_from: fn(&[u8], u32) -> u32,
    run: RunFn,
    parts: fn(&[u8]) -> Option<Parts>,
    run_parts: RunFn,
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
    /// Pieces that kernels take at once for speed.
    pub block: u32,
    /// Work of a piece at most, see [`Operator::piece_work`].
    pub piece_work: u32,
    /// Whether the output is whole afterwards.
    pub completes_output: bool,
}

impl Requirements {
    /// Pieces that are done at once by a step: as many as [`STEP_WORK`] has room for, at least one block.
    pub fn step(&self) -> u32 {
        let block = self.block.max(1);
        let blocks = STEP_WORK / self.piece_work.max(1) / block;
        blocks.max(1).saturating_mul(block).min(self.pieces.max(1))
    }
}

/// Parts of a whole run, see [`Operator::parts`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parts {
    /// How many there are.
    pub count: u32,
    /// Work of one at most.
    pub work: u32,
}

impl Parts {
    /// Parts that are done at once by a step.
    pub fn step(&self) -> u32 {
        (STEP_WORK / self.work.max(1)).clamp(1, self.count.max(1))
    }
}

impl<B: Kernels> Functions<B> {
    /// The functions of operator `O`.
    pub const fn of<O: Operator>() -> Self {
        Self {
            check: check::<O>,
            needs: needs::<O>,
            row_access: row_access::<O>,
            written_from: written_from::<O>,
            run: run::<B, O>,
            parts: parts::<O>,
            run_parts: run_parts::<B, O>,
            kernels: core::marker::PhantomData,
        }
    }
}

impl<B: Kernels> Entry<B> {
    /// The entry of operator `O`.
    pub const fn of<O: Operator>(kind: OpKind) -> Self {
        Self { kind, functions: const { &Functions::of::<O>() } }
    }

    /// Decodes and checks an operator; returns the bounds of its intermediate values.
    ///
    /// # Errors
    /// The first [`OpFault`] found.
    pub fn prove(&self, words: &[u8], io: &Operands<'_>) -> Result<Proof, OpFault> {
        (self.functions.check)(words, io)
    }

    /// [`prove`](Self::prove), and `cert` must state what was proven.
    ///
    /// # Errors
    /// The first [`OpFault`] found.
    pub fn check(&self, words: &[u8], io: &Operands<'_>, cert: &CertRecord) -> Result<Requirements, OpFault> {
        let proof = self.prove(words, io)?;
        require(io.proven || proof.is_covered_by(cert), OpFault::Overflow)?;
        self.needs(words).ok_or(OpFault::Params)
    }

    /// What the operator asks of the engine; `None` when its parameters do not decode.
    pub fn needs(&self, words: &[u8]) -> Option<Requirements> {
        (self.functions.needs)(words)
    }

    /// What the rows of the operator read and write; `None` where it has none or its parameters do not decode.
    pub fn row_access(&self, words: &[u8]) -> Option<RowAccess> {
        (self.functions.row_access)(words)
    }

    /// How many elements of the output are written without a gap from `element` on; 0 also when the parameters do not
    /// decode.
    pub(crate) fn written_from(&self, words: &[u8], element: u32) -> u32 {
        (self.functions.written_from)(words, element)
    }

    /// Runs pieces of a checked operator, those of `pieces` that it has.
    ///
    /// # Errors
    /// [`RunFault`].
    pub fn run(&self, words: &[u8], memory: &mut Memory<'_>, pieces: Range<u32>) -> Result<(), RunFault> {
        (self.functions.run)(words, memory, pieces)
    }

    /// The parts of a whole run; `None` where pieces are as fine as steps have to be.
    pub(crate) fn parts(&self, words: &[u8]) -> Option<Parts> {
        (self.functions.parts)(words)
    }

    /// Runs parts of a checked operator, see [`Operator::parts`].
    ///
    /// # Errors
    /// [`RunFault`].
    pub fn run_parts(&self, words: &[u8], memory: &mut Memory<'_>, parts: Range<u32>) -> Result<(), RunFault> {
        (self.functions.run_parts)(words, memory, parts)
    }
}

/// Apart from [`needs`], which a run asks as well: it has no use for parts.
fn parts<O: Operator>(words: &[u8]) -> Option<Parts> {
    let params = decode::<O>(words);
    let params = params.as_ref()?;
    let parts = Parts { count: params.parts(), work: params.part_work() };
    // More than can be counted: pieces then.
    (parts.count > 0 && parts.count < u32::MAX).then_some(parts)
}

fn run_parts<B: Kernels, O: Operator>(
    words: &[u8],
    memory: &mut Memory<'_>,
    parts: Range<u32>,
) -> Result<(), RunFault> {
    match &decode::<O>(words) {
        Some(params) => params.run_parts::<B>(memory, parts),
        None => Err(RunFault::Memory),
    }
}

fn check<O: Operator>(words: &[u8], io: &Operands<'_>) -> Result<Proof, OpFault> {
    decode::<O>(words).ok_or(OpFault::Params)?.check(io)
}

fn needs<O: Operator>(words: &[u8]) -> Option<Requirements> {
    // By reference, here and below: a move would copy the parameters.
    decode::<O>(words).as_ref().map(needs_of)
}

fn row_access<O: Operator>(words: &[u8]) -> Option<RowAccess> {
    decode::<O>(words).as_ref()?.row_access()
}

fn written_from<O: Operator>(words: &[u8], element: u32) -> u32 {
    decode::<O>(words).as_ref().map_or(0, |params| params.written_from(element))
}

pub(super) fn needs_of<O: Operator>(params: &O) -> Requirements {
    Requirements {
        scratch_bytes: params.scratch_bytes(),
        in_place: params.in_place(),
        pieces: params.pieces(),
        block: params.block(),
        piece_work: params.piece_work(),
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
