//! The same values at another scale or width.

use super::memory::cast_mut;
use super::{Memory, OpFault, Operands, Operator, Proof, RunFault, require, wide};
use crate::format::op_params;
use crate::kernels::{Kernels, NormOut, NormRow, ROW_BLOCK, ScoreScale};
use crate::tensor::Dtype;
use core::ops::Range;

op_params! {
    /// `y = sat(zero_out + mulhi_round((x - zero_in) << acc_shift, multiplier))`.
    Requant {
        /// Elements.
        len: u32,
        /// Zero point of the input.
        zero_in: i32,
        /// Left shift before the multiplication.
        acc_shift: u32,
        /// Ratio of the scales, not negative.
        multiplier: i32,
        /// Zero point of the output.
        zero_out: i32,
    }
}

/// Values that are copied at a time where they lie in the memory of the output.
const COPIED: usize = 256;

impl Requant {
    /// Elements `range` by the kernel, on hosts. `false`: nothing was done, there is none for this type of input.
    fn by_kernel<B: Kernels>(&self, memory: &mut Memory<'_>, range: Range<usize>) -> Result<bool, RunFault> {
        let dtype = memory.inputs.record(0).ok_or(RunFault::Memory)?.dtype;
        if dtype == Dtype::U8 {
            return Ok(false);
        }
        let (zeros, scale) = ([self.zero_in, self.zero_out], self.scale());
        let part = memory.index(range.start)..memory.index(range.end);
        if memory.inputs.is_in_place(0) {
            if dtype == Dtype::I8 {
                in_place(cast_mut::<i8>(memory.out)?, part, |x, out| {
                    B::requant(NormRow::I8(x), NormOut::I8(out), zeros, scale);
                })?;
            } else {
                in_place(cast_mut::<i16>(memory.out)?, part, |x, out| {
                    B::requant(NormRow::I16(x), NormOut::I16(out), zeros, scale);
                })?;
            }
            return Ok(true);
        }
        let x = if dtype == Dtype::I8 {
            NormRow::I8(memory.inputs.get(0)?.get(range).ok_or(RunFault::Memory)?)
        } else {
            NormRow::I16(memory.inputs.get(0)?.get(range).ok_or(RunFault::Memory)?)
        };
        let out = if memory.output.dtype == Dtype::I8 {
            NormOut::I8(cast_mut(memory.out)?.get_mut(part).ok_or(RunFault::Memory)?)
        } else {
            NormOut::I16(cast_mut(memory.out)?.get_mut(part).ok_or(RunFault::Memory)?)
        };
        B::requant(x, out, zeros, scale);
        Ok(true)
    }

    fn scale(&self) -> ScoreScale {
        ScoreScale { acc_shift: self.acc_shift, multiplier: self.multiplier }
    }
}

/// Elements `part` of `out`, some at a time, by a function of a copy of theirs.
fn in_place<T: Copy + Default>(
    out: &mut [T],
    part: Range<usize>,
    mut f: impl FnMut(&[T], &mut [T]),
) -> Result<(), RunFault> {
    let mut copy = [T::default(); COPIED];
    for out in out.get_mut(part).ok_or(RunFault::Memory)?.chunks_mut(COPIED) {
        copy.iter_mut().zip(&*out).for_each(|(to, &from)| *to = from);
        f(&copy, out);
    }
    Ok(())
}

/// Work of an element.
const ELEMENT_WORK: u32 = 100;

impl Operator for Requant {
    fn check(&self, io: &Operands<'_>) -> Result<Proof, OpFault> {
        let input = io.need_input(0, &[Dtype::I8, Dtype::U8, Dtype::I16], u64::from(self.len))?;
        let out = io.need_output(&[Dtype::I8, Dtype::I16], u64::from(self.len))?;
        let aliased = out.offset == input.offset && input.place == out.place;
        require(!aliased || out.dtype.bytes() == input.dtype.bytes(), OpFault::Alias)?;
        let zeros = self.zero_in.unsigned_abs() <= 32768 && self.zero_out.unsigned_abs() <= 32768;
        require(zeros && self.multiplier >= 0, OpFault::Range)?;
        let (min, max) = input.dtype.range();
        let bounds = (i64::from(min) - i64::from(self.zero_in), i64::from(max) - i64::from(self.zero_in));
        Ok(Proof::of(bounds, self.acc_shift))
    }

    fn run<B: Kernels>(&self, memory: &mut Memory<'_>, pieces: Range<u32>) -> Result<(), RunFault> {
        let Self { len, zero_in, zero_out, .. } = *self;
        let range = wide::elements(pieces, len);
        // On devices the loop over any types is smaller.
        if B::GATHERED_ROWS > ROW_BLOCK && self.by_kernel::<B>(memory, range.clone())? {
            return Ok(());
        }
        let scale = self.scale();
        wide::chunks(memory, 0, range, |values| {
            values.iter_mut().for_each(|x| *x -= zero_in);
            B::scale_scores(values, scale);
            values.iter_mut().for_each(|y| *y = y.wrapping_add(zero_out));
        })
    }

    fn pieces(&self) -> u32 {
        wide::pieces(self.len)
    }

    fn piece_work(&self) -> u32 {
        ELEMENT_WORK * wide::PIECE
    }

    fn in_place(&self) -> Option<usize> {
        Some(0)
    }
}
