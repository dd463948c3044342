//! The operands of a running operator, borrowed apart from one arena.

use super::RunFault;
use crate::format::{Blob, MAX_INPUTS, OpRecord, Place, TensorRecord, TensorSlot};
use core::ops::Range;

/// Inputs, output and scratch of one operator: inputs shared, output and scratch exclusive, all from one arena.
pub struct Memory<'a> {
    /// What the operator reads.
    pub inputs: Inputs<'a>,
    /// The output's type and place.
    pub output: TensorSlot,
    /// Bytes of the output: all rows, or those in its window.
    pub out: &'a mut [u8],
    /// The scratch area.
    pub scratch: &'a mut [u8],
    /// Elements of the output in memory that lie before `out`: those of other threads.
    #[cfg(feature = "std")]
    pub(super) skipped: usize,
}

/// The readable side: input tensors and weights.
#[derive(Clone, Copy)]
pub struct Inputs<'a> {
    /// What is left of the arena around output and scratch: each part with its offset, in ascending order.
    arena: [(usize, &'a [u8]); 3],
    weights: &'a [u8],
    tensors: &'a [u8],
    /// Their records, [`NO_TENSOR`](crate::format::NO_TENSOR) where there is none.
    indices: [u16; MAX_INPUTS],
    /// Of an output in the arena; beyond all offsets otherwise.
    output_offset: usize,
    /// What is left of the state around the output.
    state: [(usize, &'a [u8]); 2],
    step: Step,
}

/// Where a run stands among the positions of its model's state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// Position of the first row of the run: that many rows are in the state already.
    pub pos: u32,
    /// Rows of the run.
    pub rows: u32,
}

/// What the operands of a run lie in.
pub(crate) struct Areas<'a> {
    pub arena: &'a mut [u8],
    pub state: &'a mut [u8],
    pub weights: &'a [u8],
    pub tensors: &'a [u8],
    pub step: Step,
}

impl<'a> Memory<'a> {
    /// Splits arena and state into output, scratch and the rest. `None` when the ranges overlap or leave them.
    ///
    /// A call of its own: what it keeps on the stack is gone when the operator runs.
    #[inline(never)]
    pub(crate) fn split(areas: Areas<'a>, op: &OpRecord) -> Option<Self> {
        let Areas { arena, state, weights, tensors, step } = areas;
        let output = tensor(tensors, op.output)?;
        let in_state = output.place == Place::State;
        // What an output in the state takes of the arena: nothing, at its start.
        let out = if in_state { (0, 0) } else { (output.offset, output.bytes) };
        let (kept, state_out) = if in_state { (output.offset, output.bytes) } else { (state.len(), 0) };
        let (state_low, state_rest) = state.split_at_mut_checked(kept)?;
        let (state_bytes, state_high) = state_rest.split_at_mut_checked(state_out)?;
        // An empty scratch area may be anywhere: take it from the end of the output.
        let scratch = match op.scratch_bytes as usize {
            0 => (out.0.checked_add(out.1)?, 0),
            bytes => (op.scratch_offset as usize, bytes),
        };
        let out_first = out.0 <= scratch.0;
        let (first, second) = if out_first { (out, scratch) } else { (scratch, out) };
        let (low, rest) = arena.split_at_mut_checked(first.0)?;
        let (first_bytes, rest) = rest.split_at_mut_checked(first.1)?;
        let middle_start = first.0 + first.1;
        let (middle, rest) = rest.split_at_mut_checked(second.0.checked_sub(middle_start)?)?;
        let (second_bytes, high) = rest.split_at_mut_checked(second.1)?;
        let arena = [(0, &*low), (middle_start, &*middle), (second.0 + second.1, &*high)];
        let (out, scratch) = if out_first { (first_bytes, second_bytes) } else { (second_bytes, first_bytes) };
        let inputs = Inputs {
            arena,
            weights,
            tensors,
            indices: op.inputs,
            output_offset: if in_state { usize::MAX } else { output.offset },
            state: [(0, &*state_low), (kept + state_out, &*state_high)],
            step,
        };
        Some(Self {
            inputs,
            output,
            out: if in_state { state_bytes } else { out },
            scratch,
            #[cfg(feature = "std")]
            skipped: 0,
        })
    }

    /// Elements of the output in memory that lie before `out`.
    #[cfg(feature = "std")]
    pub fn skipped(&self) -> usize {
        self.skipped
    }

    /// Elements of the output in memory that lie before `out`: none where there is one thread.
    #[cfg(not(feature = "std"))]
    #[inline(always)]
    pub const fn skipped(&self) -> usize {
        0
    }

    /// Where an element of the output in memory is in `out`.
    #[inline(always)]
    pub fn index(&self, element: usize) -> usize {
        element.saturating_sub(self.skipped())
    }

    /// Memory for what writes the elements of the output in memory before `middle`, and for what writes those from there
    /// on; the latter has no scratch. `None` when it is not in `out`.
    #[cfg(feature = "std")]
    pub(super) fn halves(&mut self, middle: usize) -> Option<(Memory<'_>, Memory<'_>)> {
        let Self { inputs, output, skipped, .. } = *self;
        let bytes = middle.checked_sub(skipped)?.checked_mul(output.dtype.bytes())?;
        let (low, high) = self.out.split_at_mut_checked(bytes)?;
        let low = Memory { inputs, output, out: low, scratch: &mut *self.scratch, skipped };
        Some((low, Memory { inputs, output, out: high, scratch: &mut [], skipped: middle }))
    }

    /// The output as elements of `T`, and the scratch bytes.
    ///
    /// # Errors
    /// [`RunFault::Memory`].
    pub fn out<T: bytemuck::Pod>(&mut self) -> Result<(&mut [T], &mut [u8]), RunFault> {
        Ok((cast_mut(self.out)?, self.scratch))
    }

    /// Rows `rows` of the output, each of `width` elements of `T`, and the scratch bytes.
    ///
    /// # Errors
    /// [`RunFault::Memory`], also when they are not in its window.
    pub fn out_rows<T: bytemuck::Pod>(
        &mut self,
        rows: Range<usize>,
        width: usize,
    ) -> Result<(&mut [T], &mut [u8]), RunFault> {
        self.out_rows_from(rows, width, 0)
    }

    /// As [`out_rows`](Self::out_rows), from element `first` of the first row on.
    ///
    /// # Errors
    /// [`RunFault::Memory`], also when they are not in its window.
    #[inline(always)]
    pub fn out_rows_from<T: bytemuck::Pod>(
        &mut self,
        rows: Range<usize>,
        width: usize,
        first: usize,
    ) -> Result<(&mut [T], &mut [u8]), RunFault> {
        let part = self.out_part(rows, width);
        let part = part.start.wrapping_add(first)..part.end;
        let (out, scratch) = self.out()?;
        Ok((out.get_mut(part).ok_or(RunFault::Memory)?, scratch))
    }

    /// The elements of `out` that rows `rows` of `width` elements are.
    // Out of line, once for all element types.
    #[inline(never)]
    fn out_part(&self, rows: Range<usize>, width: usize) -> Range<usize> {
        let part = part(self.output.first_held(rows.start), rows, width);
        self.index(part.start)..self.index(part.end)
    }
}

impl<'a> Inputs<'a> {
    /// Position and rows of the run.
    pub fn step(&self) -> Step {
        self.step
    }

    /// Type and place of input `index`.
    pub fn record(&self, index: usize) -> Option<TensorSlot> {
        tensor(self.tensors, *self.indices.get(index)?)
    }

    /// Whether input `index` lies in the memory of the output.
    #[inline(never)]
    pub fn is_in_place(&self, index: usize) -> bool {
        self.record(index).is_some_and(|t| t.place == Place::Arena && t.offset == self.output_offset)
    }

    /// Rows `rows` of input `index`, each of `width` elements of `T`.
    ///
    /// # Errors
    /// [`RunFault::Memory`], also when they are not in its window.
    pub fn rows<T: bytemuck::Pod>(&self, index: usize, rows: Range<usize>, width: usize) -> Result<&'a [T], RunFault> {
        cast(self.row_bytes(index, rows, width.wrapping_mul(size_of::<T>())).ok_or(RunFault::Memory)?)
    }

    #[inline(never)]
    fn row_bytes(&self, index: usize, rows: Range<usize>, width: usize) -> Option<&'a [u8]> {
        let tensor = tensor(self.tensors, *self.indices.get(index)?)?;
        self.bytes_of(&tensor)?.get(part(tensor.first_held(rows.start), rows, width))
    }

    /// The bytes of input `index`; not to be had when it is in place.
    ///
    /// # Errors
    /// [`RunFault::Memory`].
    pub fn bytes(&self, index: usize) -> Result<&'a [u8], RunFault> {
        self.record(index).and_then(|tensor| self.bytes_of(&tensor)).ok_or(RunFault::Memory)
    }

    fn bytes_of(&self, tensor: &TensorSlot) -> Option<&'a [u8]> {
        let (start, part) = match tensor.place {
            // In no other part: they are in ascending order.
            Place::Arena => *self.arena.iter().rfind(|(start, _)| *start <= tensor.offset)?,
            Place::Constant => (0, self.weights),
            Place::State => *self.state.iter().rfind(|(start, _)| *start <= tensor.offset)?,
        };
        part.get(tensor.offset - start..)?.get(..tensor.bytes)
    }

    /// Input `index` as elements of `T`.
    ///
    /// # Errors
    /// [`RunFault::Memory`].
    pub fn get<T: bytemuck::Pod>(&self, index: usize) -> Result<&'a [T], RunFault> {
        cast(self.bytes(index)?)
    }

    /// The elements of a blob in the `Weights` section.
    ///
    /// # Errors
    /// [`RunFault::Memory`].
    pub fn blob<T: bytemuck::Pod>(&self, blob: Blob) -> Result<&'a [T], RunFault> {
        cast(blob.of(self.weights).ok_or(RunFault::Memory)?)
    }
}

/// The record of tensor `index`, one of a checked model.
#[inline(always)]
fn tensor(tensors: &[u8], index: u16) -> Option<TensorSlot> {
    TensorSlot::read(tensors.get(usize::from(index) * TensorRecord::BYTES..)?)
}

/// Elements of the rows `rows` of `width` elements in memory that starts with row `first`. Rows that cannot be there give
/// any range: it is compared with the memory in any case.
fn part(first: usize, rows: Range<usize>, width: usize) -> Range<usize> {
    let at = |row: usize| row.wrapping_sub(first).wrapping_mul(width);
    at(rows.start)..at(rows.end)
}

/// Elements of `T` in `bytes`.
pub(crate) fn cast<T: bytemuck::Pod>(bytes: &[u8]) -> Result<&[T], RunFault> {
    bytemuck::try_cast_slice(bytes).map_err(|_| RunFault::Memory)
}

/// Elements of `T` in `bytes`.
pub(crate) fn cast_mut<T: bytemuck::Pod>(bytes: &mut [u8]) -> Result<&mut [T], RunFault> {
    bytemuck::try_cast_slice_mut(bytes).map_err(|_| RunFault::Memory)
}
