//! Rows of a table by position: learned and sinusoidal position embeddings.

use super::{Memory, OpFault, Operands, Operator, Proof, RowAccess, RowRead, RunFault, require};
use crate::format::{Place, op_params};
use crate::kernels::Kernels;
use crate::tensor::Dtype;
use core::ops::Range;

op_params! {
    /// `y[i] = table[pos + i]` for the rows `i` of a run at position `pos`: input 0 is the table `[capacity, width]`, a
    /// constant of `i8` or `i16`, the output `[rows, width]` of its type.
    Positions {
        /// Rows of a run at most.
        rows: u32,
        /// Elements of a row.
        width: u32,
        /// Rows of the table.
        capacity: u32,
    }
}

/// Work of a byte, and of a row besides, see [`Operator::piece_work`].
const BYTE_WORK: u32 = 8;
const ROW_WORK: u32 = 60;

impl Operator for Positions {
    fn check(&self, io: &Operands<'_>) -> Result<Proof, OpFault> {
        require(self.rows > 0 && self.width > 0 && self.rows <= self.capacity, OpFault::Range)?;
        let len = u64::from(self.capacity) * u64::from(self.width);
        let table = io.need_input(0, &[Dtype::I8, Dtype::I16], len)?;
        require(table.place == Place::Constant, OpFault::Operand)?;
        io.need_output(&[table.dtype], u64::from(self.rows) * u64::from(self.width)).map(|_| Proof::NONE)
    }

    fn run<B: Kernels>(&self, memory: &mut Memory<'_>, rows: Range<u32>) -> Result<(), RunFault> {
        let bytes = (self.width as usize).saturating_mul(memory.output.dtype.bytes());
        let pos = memory.inputs.step().pos;
        let table = memory.inputs.bytes(0)?;
        for row in rows {
            let position = pos.saturating_add(row);
            let beyond = RunFault::Index { value: position as i32, limit: self.capacity };
            let from = (position as usize).checked_mul(bytes).and_then(|start| table.get(start..)?.get(..bytes));
            let from = from.ok_or(beyond)?;
            let row = row as usize..row as usize + 1;
            let (out, _) = memory.out_rows::<u8>(row, bytes)?;
            out.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
        }
        Ok(())
    }

    fn pieces(&self) -> u32 {
        self.rows
    }

    fn piece_work(&self) -> u32 {
        self.width.saturating_mul(BYTE_WORK * size_of::<i16>() as u32).saturating_add(ROW_WORK)
    }

    fn row_access(&self) -> Option<RowAccess> {
        Some(RowAccess::rows(RowRead::NONE, self.width))
    }
}
