//! Any function of one 16-bit tensor, as a table with straight lines between its entries.

use super::memory::{cast, cast_mut};
use super::{Division, Memory, OpFault, Operands, Operator, Proof, RunFault};
use crate::format::{Blob, op_params};
use crate::kernels::{self, Kernels};
use crate::tensor::Dtype;
use core::ops::Range;

op_params! {
    /// `y[i] = t[n] + (((t[n + 1] - t[n]) * f + 64) >> 7)` for `x[i] + 32768 = 128 n + f`, `f < 128`; `x, y: [len] i16`.
    ///
    /// `y` may lie in the memory of `x`.
    LutI16 {
        /// Elements.
        len: u32,
        /// [`ENTRIES`] values of `i16`: the function at `-32768, -32640, .., 32640, 32768`.
        table: Blob,
    }
}

/// Entries of a table: one more than it has steps.
pub const ENTRIES: usize = kernels::LUT_I16_ENTRIES;
/// Steps of the argument between two entries.
pub const STEP: i32 = 128;

/// Work of an element, see [`Operator::piece_work`].
const ELEMENT_WORK: u32 = 24;

impl Operator for LutI16 {
    fn check(&self, io: &Operands<'_>) -> Result<Proof, OpFault> {
        io.need_input(0, &[Dtype::I16], u64::from(self.len))?;
        io.need_output(&[Dtype::I16], u64::from(self.len))?;
        io.need_blob(self.table, (ENTRIES * size_of::<i16>()) as u64).map(|_| Proof::NONE)
    }

    fn run<B: Kernels>(&self, memory: &mut Memory<'_>, pieces: Range<u32>) -> Result<(), RunFault> {
        let range = pieces.start as usize..pieces.end as usize;
        let table = memory.inputs.blob::<i16>(self.table)?.first_chunk().ok_or(RunFault::Memory)?;
        let part = memory.index(range.start)..memory.index(range.end);
        let out = cast_mut::<i16>(memory.out)?.get_mut(part).ok_or(RunFault::Memory)?;
        if !memory.inputs.is_in_place(0) {
            let x = cast::<i16>(memory.inputs.bytes(0)?)?.get(range).ok_or(RunFault::Memory)?;
            out.iter_mut().zip(x).for_each(|(out, &x)| *out = x);
        }
        B::lut_i16_in_place(out, table);
        Ok(())
    }

    fn in_place(&self) -> Option<usize> {
        Some(0)
    }

    fn pieces(&self) -> u32 {
        self.len
    }

    fn piece_work(&self) -> u32 {
        ELEMENT_WORK
    }

    fn division(&self) -> Option<Division> {
        Some(Division::rows(1, 4))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Weights, run, run_in_place};
    use super::*;
    use std::vec::Vec;

    #[test]
    fn entries_are_met_and_lines_are_rounded() {
        let mut table = std::vec![0i16; ENTRIES];
        table.iter_mut().enumerate().for_each(|(i, t)| *t = (i as i32 * 7 - 1500) as i16);
        table[0] = i16::MAX;
        table[1] = i16::MIN;
        table[256] = -5;
        table[257] = 6;
        table[512] = i16::MIN;
        table[511] = i16::MAX;
        let mut weights = Weights::default();
        let op = LutI16 { len: 9, table: weights.add(&table) };
        let x = [-32768, -32767, -32640, -1, 0, 1, 64, 32640, 32767];
        let line = |low: i32, high: i32, f: i32| low + ((f64::from((high - low) * f) / 128.0 + 0.5).floor() as i32);
        let expected: Vec<i32> = [
            32767,
            line(32767, -32768, 1),
            -32768,
            line(7 * 255 - 1500, -5, 127),
            -5,
            line(-5, 6, 1),
            line(-5, 6, 64),
            32767,
            line(32767, -32768, 127),
        ]
        .to_vec();
        let inputs = [(Dtype::I16, &x[..])];
        assert_eq!(run(&op, &weights, &inputs, (Dtype::I16, 9)).expect("runs").1, expected);
        assert_eq!(run_in_place(&op, &weights, &inputs, (Dtype::I16, 9)).expect("runs").1, expected);
    }
}
