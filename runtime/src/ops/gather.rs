//! Rows of a table by index: token and position embeddings.

use super::{Memory, OpFault, Operands, Operator, Proof, RunFault, require, wide};
use crate::format::op_params;
use crate::kernels::Kernels;
use crate::stepwise::stepwise;
use crate::tensor::Dtype;
use core::ops::Range;

op_params! {
    /// Inputs: 0 the table `[rows, width]` of any type, 1 the ids `[n]` as `i32`, `i16` or `i8`; output `[n, width]` of
    /// the table's type. Negative ids count from the end: the table has the rows `-rows..rows`.
    Gather {
        /// Rows of the table.
        rows: u32,
        /// Elements of a row.
        width: u32,
        /// Number of ids.
        n: u32,
    }
}

impl Operator for Gather {
    fn check(&self, io: &Operands<'_>) -> Result<Proof, OpFault> {
        let any = &[Dtype::I8, Dtype::U8, Dtype::I16, Dtype::U16, Dtype::I32];
        require(self.rows > 0 && self.rows < 1 << 31 && self.width > 0, OpFault::Range)?;
        let table = io.need_input(0, any, u64::from(self.rows) * u64::from(self.width))?;
        io.need_input(1, &[Dtype::I32, Dtype::I16, Dtype::I8], u64::from(self.n))?;
        io.need_output(&[table.dtype], u64::from(self.n) * u64::from(self.width)).map(|_| Proof::NONE)
    }

    fn run<B: Kernels>(&self, memory: &mut Memory<'_>, pieces: Range<u32>) -> Result<(), RunFault> {
        let table = memory.inputs.bytes(0)?;
        let (ids, bytes) = (memory.inputs.record(1).ok_or(RunFault::Memory)?.dtype, memory.inputs.bytes(1)?);
        let (first, end) = (pieces.start as usize, pieces.end as usize);
        let ids = wide::values(ids, bytes, first..end);
        let row_bytes = (self.width as usize * memory.output.dtype.bytes()).max(1);
        let out = memory.out.get_mut(first * row_bytes..end * row_bytes).ok_or(RunFault::Memory)?;
        for (out, id) in stepwise(out.chunks_exact_mut(row_bytes)).zip(ids) {
            let row = self.row(id).ok_or(RunFault::Index { value: id, limit: self.rows })?;
            let row = table.get(row * row_bytes..).ok_or(RunFault::Memory)?;
            out.iter_mut().zip(row).for_each(|(to, from)| *to = *from);
        }
        Ok(())
    }

    fn pieces(&self) -> u32 {
        self.n
    }

    fn piece_work(&self) -> u32 {
        self.width.saturating_mul(BYTE_WORK * size_of::<i32>() as u32).saturating_add(ROW_WORK)
    }
}

/// Work of a byte, and of finding a row.
const BYTE_WORK: u32 = 8;
const ROW_WORK: u32 = 200;

impl Gather {
    /// The row of an id, where there is one.
    fn row(&self, id: i32) -> Option<usize> {
        let from_start = if id < 0 { id.checked_add_unsigned(self.rows)? } else { id };
        u32::try_from(from_start).ok().filter(|&row| row < self.rows).map(|row| row as usize)
    }
}
