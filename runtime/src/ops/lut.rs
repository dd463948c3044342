//! Any function of one 8-bit tensor, as a table.

use super::memory::cast_mut;
use super::{Memory, OpFault, Operands, Operator, Proof, RunFault, require, wide};
use crate::format::{Blob, op_params};
use crate::kernels::Kernels;
use crate::tensor::Dtype;
use core::ops::Range;

op_params! {
    /// `y[i] = table[x[i] + 128]`, `x: [len] i8`, `y: [len]` in the element type of the table.
    Lut {
        /// Elements.
        len: u32,
        /// 256 entries of `i8` or `i16`.
        table: Blob,
    }
}

/// Work of an element.
const ELEMENT_WORK: u32 = 12;

impl Operator for Lut {
    fn check(&self, io: &Operands<'_>) -> Result<Proof, OpFault> {
        let input = io.need_input(0, &[Dtype::I8], u64::from(self.len))?;
        let out = io.need_output(&[Dtype::I8, Dtype::I16], u64::from(self.len))?;
        require(out.offset != input.offset || input.place != out.place || out.dtype == Dtype::I8, OpFault::Alias)?;
        io.need_blob(self.table, 256 * out.dtype.bytes() as u64).map(|_| Proof::NONE)
    }

    fn run<B: Kernels>(&self, memory: &mut Memory<'_>, pieces: Range<u32>) -> Result<(), RunFault> {
        let range = wide::elements(pieces, self.len);
        if memory.output.dtype == Dtype::I8 {
            let table = memory.inputs.blob::<i8>(self.table)?.first_chunk().ok_or(RunFault::Memory)?;
            let out = cast_mut::<i8>(memory.out)?.get_mut(range.clone()).ok_or(RunFault::Memory)?;
            if !memory.inputs.is_in_place(0) {
                let x = memory.inputs.get::<i8>(0)?.get(range).ok_or(RunFault::Memory)?;
                out.iter_mut().zip(x).for_each(|(to, from)| *to = *from);
            }
            B::lut_in_place(out, table);
            return Ok(());
        }
        let table: &[i16; 256] = memory.inputs.blob::<i16>(self.table)?.first_chunk().ok_or(RunFault::Memory)?;
        let x = memory.inputs.get(0)?.get(range.clone()).ok_or(RunFault::Memory)?;
        B::lut_wide(x, table, cast_mut::<i16>(memory.out)?.get_mut(range).ok_or(RunFault::Memory)?);
        Ok(())
    }

    fn pieces(&self) -> u32 {
        wide::pieces(self.len)
    }

    fn piece_work(&self) -> u32 {
        ELEMENT_WORK * wide::PIECE
    }

    fn in_place(&self) -> Option<usize> {
        (self.table.bytes == 256).then_some(0)
    }
}
