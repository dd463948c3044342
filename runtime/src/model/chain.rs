//! Operators that run together in blocks of rows, so that what passes between them need not be whole in memory.
//!
//! The rows of LayerNorm, of dense layers and of the queries of attention do not depend on each other. A chain runs all
//! of its operators on some rows, then on the next: the hidden layer of an MLP, four times as wide as its input, exists
//! for a few tokens at a time. Tensors inside a chain have a window ([`TensorRecord::window`]); the bytes computed are
//! those of the operators one after the other.

use super::{Model, arena_range, overlap};
use crate::format::{OpRecord, Place, TensorRecord};
use crate::kernels::Kernels;
use crate::ops::{OpFault, RowAccess, RowRead};
use core::ops::Range;

/// Operators a chain may have.
pub const MAX_CHAIN: usize = 8;
/// Blocks a chain may have: bounds the time of the check.
const MAX_BLOCKS: u32 = 1 << 16;

/// Consecutive operators that run in blocks of rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// The operators.
    pub ops: Range<usize>,
    /// Rows of each; for an operator that is alone, its pieces.
    pub rows: u32,
    /// Rows of a block.
    pub block: u32,
}

impl<B: Kernels> Model<'_, B> {
    /// The chain that operator `op` belongs to; of one operator where it is not chained.
    pub fn chain(&self, op: usize) -> Option<Chain> {
        Chain::of(self, op)
    }
}

impl Chain {
    /// The chain of operator `op`.
    fn of<B: Kernels>(model: &Model<'_, B>, op: usize) -> Option<Self> {
        let (mut start, mut end) = (op, op + 1);
        while start > 0 && model.is_chained(start) {
            start -= 1;
        }
        while model.is_chained(end) {
            end += 1;
        }
        let rows = model.needs(&model.op_record(start)?)?.pieces;
        let block = if end - start == 1 { rows } else { u32::from(Self::window(model, start)?) };
        Some(Self { ops: start..end, rows, block })
    }

    /// Rows in the window of the output of operator `op`, the first of a chain.
    fn window<B: Kernels>(model: &Model<'_, B>, op: usize) -> Option<u8> {
        let window = model.tensor(usize::from(model.op_record(op)?.output))?.window;
        (window > 0).then_some(window)
    }

    /// Number of blocks.
    pub fn blocks(&self) -> u32 {
        self.rows.checked_div(self.block).map_or(1, |_| self.rows.div_ceil(self.block.max(1)))
    }

    /// The pieces of each operator in block `block`.
    pub fn pieces(&self, block: u32) -> Range<u32> {
        let at = |block: u32| block.saturating_mul(self.block).min(self.rows);
        at(block)..at(block.saturating_add(1))
    }

    /// Checks that every operator has these rows, that what has a window stays inside the chain and is written before
    /// it is read, and that nothing is overwritten that a later block reads.
    pub(super) fn check<B: Kernels>(&self, model: &Model<'_, B>) -> Result<(), OpFault> {
        let alone = self.ops.len() == 1;
        if !alone && (self.ops.len() > MAX_CHAIN || self.block == 0 || self.blocks() > MAX_BLOCKS) {
            return Err(OpFault::Chain);
        }
        for op in self.ops.clone() {
            self.check_op(model, op).ok_or(OpFault::Chain)?;
        }
        Ok(())
    }

    fn check_op<B: Kernels>(&self, model: &Model<'_, B>, op: usize) -> Option<()> {
        let record = model.op_record(op)?;
        if self.ops.len() == 1 {
            let whole = |&tensor: &u16| model.slot(tensor).is_none_or(|slot| slot.window == 0);
            return (whole(&record.output) && record.inputs.iter().all(whole)).then_some(());
        }
        let output = model.tensor(usize::from(record.output))?;
        let access = access(model, &record)?;
        let needs = model.needs(&record)?;
        let whole_rows = access.out_first == 0 && needs.completes_output && self.holds(&output, access.out_row);
        (needs.pieces == self.rows && (output.window == 0 || whole_rows)).then_some(())?;
        for (&tensor, read) in record.inputs.iter().zip(access.inputs) {
            let Some(input) = model.tensor(usize::from(tensor)) else { continue };
            let by_rows = matches!(read, RowRead::Row(width) if self.holds(&input, width));
            let outside = input.window == 0 && !self.writes(model, op, tensor);
            (outside || by_rows && self.writes(model, op, tensor)).then_some(())?;
        }
        if output.window == 0 { self.check_output(model, op, &output, &access) } else { Some(()) }
    }

    /// Whether `record` has the rows of the chain, of `width` elements, all of them or those of a block.
    fn holds(&self, record: &TensorRecord, width: u32) -> bool {
        let elements = u64::from(width) * u64::from(self.rows);
        let window = u32::from(record.window);
        record.row() == width as usize && record.len() as u64 == elements && (window == 0 || window == self.block)
    }

    /// Whether an operator of the chain before `op` writes `tensor`.
    fn writes<B: Kernels>(&self, model: &Model<'_, B>, op: usize, tensor: u16) -> bool {
        (self.ops.start..op).any(|op| model.op_record(op).is_some_and(|record| record.output == tensor))
    }

    /// Whether nothing of the chain's inputs is overwritten by the whole output of `op` before it has been read.
    fn check_output<B: Kernels>(
        &self,
        model: &Model<'_, B>,
        op: usize,
        output: &TensorRecord,
        access: &RowAccess,
    ) -> Option<()> {
        let written = model.op_record(op)?.output;
        for reader in self.ops.clone() {
            let record = model.op_record(reader)?;
            let reads = self::access(model, &record)?.inputs;
            for (&tensor, read) in record.inputs.iter().zip(reads) {
                let Some(input) = model.tensor(usize::from(tensor)) else { continue };
                let apart = input.place != Place::Arena || !overlap(&arena_range(&input), &arena_range(output));
                let reads_the_output = tensor == written && reader > op;
                let in_time = input.window == 0 && reader <= op && self.read_in_time(output, access, &input, read);
                (apart || reads_the_output || in_time).then_some(())?;
            }
        }
        Some(())
    }

    /// Whether every block ends writing `output` before the first byte of `input` that a later block reads.
    fn read_in_time(&self, output: &TensorRecord, access: &RowAccess, input: &TensorRecord, read: RowRead) -> bool {
        let byte = |record: &TensorRecord, element: u64| {
            u64::from(record.offset).saturating_add(element.saturating_mul(record.dtype.bytes() as u64))
        };
        (1..self.blocks()).all(|block| {
            let row = self.pieces(block).start;
            let end = u64::from(access.out_first) + u64::from(access.out_row) * u64::from(row);
            byte(output, end) <= byte(input, read.from(row))
        })
    }
}

fn access<B: Kernels>(model: &Model<'_, B>, record: &OpRecord) -> Option<RowAccess> {
    let (words, entry) = model.op_code(record)?;
    entry.row_access(words)
}
