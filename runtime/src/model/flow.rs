//! What operators read was written: by the caller, or by the operators before, and by nothing else since.
//!
//! Without that a file would be accepted whose results hang on what the arena held before, or on what the scratch memory of
//! one kernel or another leaves behind.

use super::{Model, ModelError, arena_range, overlap};
use crate::format::{OpRecord, Place, TensorRecord};
use crate::kernels::Kernels;
use crate::ops::OpFault;
use core::ops::Range;

/// Operators looked at in all, and stretches of outputs: bounds the time of the check for any file.
const MAX_LOOKS: u32 = 1 << 26;

impl<B: Kernels> Model<'_, B> {
    /// Checks that every byte an operator or the caller reads is written before, and not overwritten in between.
    pub(super) fn check_flow(&self) -> Result<(), ModelError> {
        let mut looks = MAX_LOOKS;
        for op in 0..self.n_ops() {
            self.check_operands(op, &mut looks).ok_or_else(|| self.op_error(op, OpFault::Unwritten))?;
        }
        let last = self.n_ops();
        for output in 0..self.n_outputs() {
            let tensor = self.output_tensor(output).unwrap_or(usize::MAX);
            let written = self.is_written(tensor, last, &mut looks);
            written.ok_or(ModelError::Tensor { tensor: tensor as u16 })?;
        }
        Ok(())
    }

    fn check_operands(&self, op: usize, looks: &mut u32) -> Option<()> {
        let record = self.op_record(op)?;
        for &tensor in &record.inputs {
            if self.tensor(usize::from(tensor)).is_some_and(|tensor| tensor.place == Place::Arena) {
                self.is_written(usize::from(tensor), op, looks)?;
            }
        }
        let output = self.tensor(usize::from(record.output))?;
        if output.place == Place::Arena && self.needs(&record)?.completes_output {
            self.check_parts(op, &record, output.len() as u32, looks)?;
        }
        if self.is_chained(op) || self.is_chained(op + 1) { self.check_blocks(op, &record, &output) } else { Some(()) }
    }

    /// Whether all of tensor `index` is written when operator `before` starts, and still there.
    fn is_written(&self, index: usize, before: usize, looks: &mut u32) -> Option<()> {
        let range = arena_range(&self.tensor(index)?);
        for op in (0..before).rev() {
            *looks = looks.checked_sub(1)?;
            let record = self.op_record(op)?;
            if usize::from(record.output) == index {
                // Parts of it: the last operator that writes some comes later.
                return self.needs(&record)?.completes_output.then_some(());
            }
            if self.writes_in(&record, &range)? {
                return None;
            }
        }
        (0..self.n_inputs()).any(|input| self.input_tensor(input) == Some(index)).then_some(())
    }

    /// Whether an operator writes to `range`, its output or its scratch memory.
    fn writes_in(&self, record: &OpRecord, range: &Range<usize>) -> Option<bool> {
        let first = record.scratch_offset as usize;
        let scratch = first..first.saturating_add(record.scratch_bytes as usize);
        Some(overlap(&self.written(record)?, range) || overlap(&scratch, range))
    }

    /// What an operator writes of the arena: its output, or the rows of it that it copies there.
    fn written(&self, record: &OpRecord) -> Option<Range<usize>> {
        let output = self.tensor(usize::from(record.output))?;
        if output.place != Place::Arena {
            return Some(0..0);
        }
        let whole = arena_range(&output);
        let (words, entry) = self.op_code(record)?;
        let needs = entry.needs(words)?;
        let Some(rows) = entry.row_access(words).filter(|_| !needs.completes_output && output.window == 0) else {
            return Some(whole);
        };
        let at = |elements: u64| {
            let bytes = elements.saturating_mul(output.dtype.bytes() as u64);
            whole.start.saturating_add(usize::try_from(bytes).unwrap_or(usize::MAX)).min(whole.end)
        };
        let first = u64::from(rows.out_first);
        Some(at(first)..at(first.saturating_add(u64::from(rows.out_row) * u64::from(needs.pieces))))
    }

    /// Whether operator `last` and those before it that write parts of its output write all of its `len` elements.
    fn check_parts(&self, last: usize, record: &OpRecord, len: u32, looks: &mut u32) -> Option<()> {
        let run_of = |op: usize, element: u32| -> Option<u32> {
            let part = self.op_record(op)?;
            let (words, entry) = self.op_code(&part)?;
            Some(if part.output == record.output { entry.written_from(words, element) } else { 0 })
        };
        let mut element = 0;
        let mut op = last;
        while element < len {
            let mut run = run_of(op, element)?;
            if run == 0 {
                // Parts mostly take turns: on from the one before, round again from the last.
                let first = self.first_part(last, record, looks)?;
                let mut candidates = (first..op).rev().chain((op..=last).rev());
                (op, run) = candidates.find_map(|op| {
                    *looks = looks.checked_sub(1)?;
                    run_of(op, element).filter(|&run| run > 0).map(|run| (op, run))
                })?;
            }
            *looks = looks.checked_sub(1)?;
            element = element.saturating_add(run);
        }
        Some(())
    }

    /// The first of the operators that write parts of the output of `last`, nothing else being written there until then.
    fn first_part(&self, last: usize, record: &OpRecord, looks: &mut u32) -> Option<usize> {
        let range = arena_range(&self.tensor(usize::from(record.output))?);
        let mut first = last;
        for op in (0..last).rev() {
            *looks = looks.checked_sub(1)?;
            let part = self.op_record(op)?;
            if part.output == record.output {
                if self.needs(&part)?.completes_output {
                    break;
                }
                first = op;
            } else if self.writes_in(&part, &range)? {
                break;
            }
        }
        Some(first)
    }

    /// For an operator of a chain, whose operators run again for every block of rows: nothing of what it reads from outside
    /// is overwritten by those behind it, nothing of what it has written whole by those before it.
    fn check_blocks(&self, op: usize, record: &OpRecord, output: &TensorRecord) -> Option<()> {
        let chain = self.chain(op)?;
        let inside = |tensor: u16| {
            let mut ops = chain.ops.clone();
            ops.any(|op| self.op_record(op).is_some_and(|record| record.output == tensor))
        };
        for other in chain.ops.clone().filter(|&other| other != op) {
            let written = self.op_record(other)?;
            if other < op {
                let whole = output.place == Place::Arena && output.window == 0 && written.output != record.output;
                if whole && self.writes_in(&written, &arena_range(output))? {
                    return None;
                }
                continue;
            }
            let target = self.tensor(usize::from(written.output))?;
            for &tensor in record.inputs.iter().filter(|&&tensor| !inside(tensor)) {
                let Some(input) = self.tensor(usize::from(tensor)).filter(|input| input.place == Place::Arena) else {
                    continue;
                };
                let range = arena_range(&input);
                let first = written.scratch_offset as usize;
                let scratch = first..first.saturating_add(written.scratch_bytes as usize);
                // Whole outputs are written behind what is read: `Chain::check`.
                let windowed = target.place == Place::Arena && target.window > 0;
                if overlap(&scratch, &range) || windowed && overlap(&arena_range(&target), &range) {
                    return None;
                }
            }
        }
        Some(())
    }
}
