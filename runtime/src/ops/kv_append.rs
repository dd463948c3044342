//! Rows of a run into the state: keys and values for attention of later positions.

use super::memory::cast_mut;
use super::{Memory, OpFault, Operands, Operator, Proof, RowAccess, RowRead, RunFault, require};
use crate::format::{Place, op_params};
use crate::kernels::Kernels;
use crate::tensor::Dtype;
use core::ops::Range;

op_params! {
    /// `state[(pos + i) mod capacity] = x[i]` for the rows `i` of a run at position `pos`: `x` is `[rows, width] i8`, the
    /// output `[capacity, width] i8` in the state. Rows beyond the position count for nothing until a run has finished.
    KvAppend {
        /// Rows of a run at most.
        rows: u32,
        /// Elements of a row.
        width: u32,
        /// Rows of the state: a session with more positions writes them again from the first on.
        capacity: u32,
    }
}

/// Work of a byte.
const BYTE_WORK: u32 = 8;

impl Operator for KvAppend {
    fn check(&self, io: &Operands<'_>) -> Result<Proof, OpFault> {
        require(self.rows > 0 && self.width > 0 && self.rows <= self.capacity, OpFault::Range)?;
        let input = io.need_input(0, &[Dtype::I8], u64::from(self.rows) * u64::from(self.width))?;
        require(input.place == Place::Arena, OpFault::Operand)?;
        let out = io.output()?;
        let whole = out.len() as u64 == u64::from(self.capacity) * u64::from(self.width);
        require(out.place == Place::State && out.dtype == Dtype::I8 && whole, OpFault::Operand)?;
        Ok(Proof::NONE)
    }

    fn run<B: Kernels>(&self, memory: &mut Memory<'_>, rows: Range<u32>) -> Result<(), RunFault> {
        let width = self.width as usize;
        let (pos, capacity) = (memory.inputs.step().pos, self.capacity);
        // No division on the way to every token: one row of a run is what a ring is written by.
        let pos = if pos < capacity { pos } else { pos.checked_rem(capacity).unwrap_or(0) };
        let first = pos as usize + rows.start as usize;
        let rows = rows.start as usize..rows.end as usize;
        let x = memory.inputs.rows::<i8>(0, rows.clone(), width)?;
        let start = first.checked_mul(width).ok_or(RunFault::Memory)?;
        let out = cast_mut::<i8>(memory.out)?.get_mut(start..).ok_or(RunFault::Memory)?;
        let out = out.get_mut(..x.len()).ok_or(RunFault::Memory)?;
        out.iter_mut().zip(x).for_each(|(to, from)| *to = *from);
        Ok(())
    }

    fn completes_output(&self) -> bool {
        false
    }

    fn pieces(&self) -> u32 {
        self.rows
    }

    fn piece_work(&self) -> u32 {
        self.width.saturating_mul(BYTE_WORK)
    }

    fn row_access(&self) -> Option<RowAccess> {
        Some(RowAccess::rows(RowRead::first(self.width), self.width))
    }
}
