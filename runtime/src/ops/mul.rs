//! Product of two tensors, element by element, with broadcasting.

use super::add::{BINARY_WORK, check_views};
use super::memory::cast_mut;
#[cfg(feature = "std")]
use super::stretches;
use super::{Dims, Extent, Memory, OpFault, Operands, Operator, Proof, RunFault, require, wide};
use crate::arith::requant::mulhi_round;
use crate::format::op_params;
use crate::kernels::{Kernels, NormOut, NormRow, ScoreScale};
use crate::tensor::Dtype;
use core::ops::Range;

op_params! {
    /// `y = sat(zero_point + mulhi_round(((a - zero_a) * (b - zero_b)) << acc_shift, multiplier))`.
    Mul {
        /// Shape of the output.
        dims: Dims,
        /// View of `a`; stride 0 repeats.
        a: Extent,
        /// View of `b`; stride 0 repeats.
        b: Extent,
        /// Zero point of `a`.
        zero_a: i32,
        /// Zero point of `b`.
        zero_b: i32,
        /// Left shift of the product.
        acc_shift: u32,
        /// Requantization; negative where the factor is.
        multiplier: i32,
        /// Added after requantization.
        zero_point: i32,
    }
}

/// Maximum magnitude of a zero point.
pub(super) const MAX_ZERO: u32 = 255;

/// Elements `range` of input `index`; `None` where kernels do not take its type.
fn operand<'a>(memory: &Memory<'a>, index: usize, range: Range<usize>) -> Result<Option<NormRow<'a>>, RunFault> {
    let dtype = memory.inputs.record(index).ok_or(RunFault::Memory)?.dtype;
    Ok(match dtype {
        Dtype::I8 => Some(NormRow::I8(memory.inputs.get(index)?.get(range).ok_or(RunFault::Memory)?)),
        Dtype::I16 => Some(NormRow::I16(memory.inputs.get(index)?.get(range).ok_or(RunFault::Memory)?)),
        Dtype::U8 | Dtype::U16 | Dtype::I32 => None,
    })
}

/// Elements `part` of the output.
fn result<'m>(memory: &'m mut Memory<'_>, part: Range<usize>) -> Result<NormOut<'m>, RunFault> {
    Ok(match memory.output.dtype {
        Dtype::I8 => NormOut::I8(cast_mut(memory.out)?.get_mut(part).ok_or(RunFault::Memory)?),
        Dtype::I16 => NormOut::I16(cast_mut(memory.out)?.get_mut(part).ok_or(RunFault::Memory)?),
        Dtype::U8 | Dtype::U16 | Dtype::I32 => return Err(RunFault::Memory),
    })
}

/// Shortest row of neighbours that is worth a call of a kernel.
#[cfg(feature = "std")]
const LEAST_ROW: usize = 8;
/// Elements of an operand in place that kernels take at a time.
#[cfg(feature = "std")]
const COPIED: usize = 256;

#[cfg(feature = "std")]
impl Mul {
    /// Elements `range` by kernels, a row of neighbours at a time; `false` where there are no such rows.
    fn by_rows<B: Kernels>(&self, memory: &mut Memory<'_>, range: Range<usize>) -> Result<bool, RunFault> {
        let &Self { ref dims, ref a, ref b, zero_a, zero_b, acc_shift, multiplier, zero_point } = self;
        let in_place = memory.inputs.is_in_place(0);
        let [_, _, _, _, _, width] = *dims;
        let rows = [a, b].iter().all(|view| matches!(view.strides, [.., 1])) && width as usize >= LEAST_ROW;
        let dtype = |index: usize| memory.inputs.record(index).map(|record| record.dtype);
        let types = [0, 1].map(|index| matches!(dtype(index), Some(Dtype::I8 | Dtype::I16)));
        let copies = memory.output.dtype == Dtype::I16 && dtype(0) == Some(Dtype::I16);
        if !rows || types != [true; 2] || in_place && !copies {
            return Ok(false);
        }
        let (scale, zeros) = (ScoreScale { acc_shift, multiplier }, [zero_a, zero_b, zero_point]);
        let (mut copy, mut to) = ([0i16; COPIED], range.start);
        for ([mut from, mut other], mut left) in stretches(dims, [a, b], range) {
            while left > 0 {
                let count = if in_place { left.min(COPIED) } else { left };
                let b = operand(memory, 1, other..other + count)?.ok_or(RunFault::Memory)?;
                let part = memory.index(to)..memory.index(to + count);
                let a = if in_place {
                    let held = memory.index(from)..memory.index(from + count);
                    let copy = copy.get_mut(..count).ok_or(RunFault::Memory)?;
                    copy.copy_from_slice(cast_mut::<i16>(memory.out)?.get(held).ok_or(RunFault::Memory)?);
                    NormRow::I16(copy)
                } else {
                    operand(memory, 0, from..from + count)?.ok_or(RunFault::Memory)?
                };
                B::multiply(a, b, result(memory, part)?, zeros, scale);
                (from, other, to, left) = (from + count, other + count, to + count, left - count);
            }
        }
        Ok(true)
    }
}

impl Operator for Mul {
    fn check(&self, io: &Operands<'_>) -> Result<Proof, OpFault> {
        let dtypes = check_views(io, &self.dims, [&self.a, &self.b])?;
        let zeros = [self.zero_a, self.zero_b];
        require(zeros.iter().all(|z| z.unsigned_abs() <= MAX_ZERO), OpFault::Range)?;
        require(self.zero_point.unsigned_abs() <= 32768 && self.multiplier != i32::MIN, OpFault::Range)?;
        let [a, b] = [0, 1].map(|i| {
            let (dtype, zero) = (dtypes.get(i).copied().unwrap_or(dtypes[0]), zeros.get(i).copied().unwrap_or(0));
            (i64::from(dtype.range().0 - zero), i64::from(dtype.range().1 - zero))
        });
        let corners = [a.0 * b.0, a.0 * b.1, a.1 * b.0, a.1 * b.1];
        let low = corners.iter().copied().fold(0, i64::min);
        let high = corners.iter().copied().fold(0, i64::max);
        Ok(Proof::of((low, high), self.acc_shift))
    }

    fn run<B: Kernels>(&self, memory: &mut Memory<'_>, pieces: Range<u32>) -> Result<(), RunFault> {
        let &Self { ref dims, ref a, ref b, zero_a, zero_b, acc_shift, multiplier, zero_point } = self;
        let range = wide::elements(pieces, super::product(dims) as u32);
        let (scale, zeros) = (ScoreScale { acc_shift, multiplier }, [zero_a, zero_b, zero_point]);
        // In place rows overlap; others than neighbours are gathered.
        if a.is_contiguous(dims)
            && b.is_contiguous(dims)
            && !memory.inputs.is_in_place(0)
            && let (Some(a), Some(b)) = (operand(memory, 0, range.clone())?, operand(memory, 1, range.clone())?)
        {
            let part = memory.index(range.start)..memory.index(range.end);
            B::multiply(a, b, result(memory, part)?, zeros, scale);
            return Ok(());
        }
        #[cfg(feature = "std")]
        if self.by_rows::<B>(memory, range.clone())? {
            return Ok(());
        }
        wide::binary(memory, dims, [a, b], range, |a, b| {
            let product = (a - zero_a).wrapping_mul(b - zero_b) << acc_shift;
            mulhi_round(product, multiplier).wrapping_add(zero_point)
        })
    }

    fn pieces(&self) -> u32 {
        wide::pieces(super::product(&self.dims) as u32)
    }

    fn piece_work(&self) -> u32 {
        BINARY_WORK * wide::PIECE
    }

    fn in_place(&self) -> Option<usize> {
        self.a.is_contiguous(&self.dims).then_some(0)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Random, Weights, run_in_place, run_with};
    use super::*;
    use crate::arith::requant::{sat_i8, sat_i16};
    use crate::kernels::Native;

    /// `[rows, width]` times a row, or times a column, as the formula says.
    fn check([rows, width]: [usize; 2], by_row: bool, [x, out]: [Dtype; 2], in_place: bool) {
        let mut random = Random(7);
        let a = random.values(x, rows * width);
        let b = random.values(Dtype::I8, if by_row { width } else { rows });
        let dims = [1, 1, 1, 1, rows as u32, width as u32];
        let strides = if by_row { [0, 0, 0, 0, 0, 1] } else { [0, 0, 0, 0, 1, 0] };
        let (acc_shift, multiplier) = (1, if out == Dtype::I8 { 1 << 24 } else { -(1 << 28) });
        let [zero_a, zero_b, zero_point] = [if x == Dtype::I8 { 3 } else { 0 }, -7, 5];
        let b_view = Extent { offset: 0, strides };
        let op =
            Mul { dims, a: Extent::contiguous(dims), b: b_view, zero_a, zero_b, acc_shift, multiplier, zero_point };
        let inputs = [(x, &a[..]), (Dtype::I8, &b[..])];
        let run = if in_place { run_in_place } else { run_with::<Native> };
        let (_, got) = run(&op, &Weights::default(), &inputs, (out, a.len())).expect("runs");
        for (at, (&a, got)) in a.iter().zip(got).enumerate() {
            let b = b[if by_row { at % width } else { at / width }];
            let scaled = mulhi_round(((a - zero_a) * (b - zero_b)) << acc_shift, multiplier) + zero_point;
            let want = if out == Dtype::I8 { i32::from(sat_i8(scaled)) } else { i32::from(sat_i16(scaled)) };
            assert_eq!(got, want, "element {at} of {rows} x {width}, by row {by_row}, in place {in_place}");
        }
    }

    #[test]
    fn rows_of_neighbours_are_the_formula() {
        use Dtype::{I8, I16};
        for size in [[1, 7], [3, 8], [5, 33], [2, 300], [70, 16]] {
            for by_row in [true, false] {
                for dtypes in [[I8, I8], [I8, I16], [I16, I8], [I16, I16]] {
                    check(size, by_row, dtypes, false);
                }
                check(size, by_row, [I16, I16], true);
                check(size, by_row, [I8, I8], true);
            }
        }
    }
}
