//! Product of two tensors, element by element, with broadcasting.

use super::add::{BINARY_WORK, check_views};
use super::memory::cast_mut;
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
            let out = if memory.output.dtype == Dtype::I8 {
                NormOut::I8(cast_mut(memory.out)?.get_mut(part).ok_or(RunFault::Memory)?)
            } else {
                NormOut::I16(cast_mut(memory.out)?.get_mut(part).ok_or(RunFault::Memory)?)
            };
            B::multiply(a, b, out, zeros, scale);
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
