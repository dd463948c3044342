//! Sum of two tensors of different scales, with broadcasting.

use super::memory::cast_mut;
use super::{Dims, Extent, Memory, OpFault, Operands, Operator, Proof, RunFault, require, wide};
use crate::format::op_params;
use crate::kernels::Kernels;
use crate::tensor::Dtype;
use core::ops::Range;

op_params! {
    /// `y = sat((a * ma + b * mb + bias) >> shift)` for every element of the contiguous output.
    ///
    /// `bias` holds half a step and the zero points. `a` may be in place where its view is contiguous.
    Add {
        /// Shape of the output.
        dims: Dims,
        /// View of `a`; stride 0 repeats.
        a: Extent,
        /// View of `b`; stride 0 repeats.
        b: Extent,
        /// Factor of `a`.
        ma: i32,
        /// Factor of `b`; negative subtracts.
        mb: i32,
        /// Added before the shift.
        bias: i32,
        /// Right shift, 0..=30.
        shift: u32,
    }
}

/// Checks the views of a binary elementwise operator.
pub(super) fn check_views(io: &Operands<'_>, dims: &Dims, views: [&Extent; 2]) -> Result<[Dtype; 2], OpFault> {
    let all = &[Dtype::I8, Dtype::U8, Dtype::I16];
    let first = io.need_input(0, all, 1)?;
    let second = io.need_input(1, all, 1)?;
    let len = super::product(dims);
    io.need_output(&[Dtype::I8, Dtype::I16], len)?;
    require(len > 0 && len < 1 << 31, OpFault::Range)?;
    let [a, b] = views;
    require(a.fits(dims, first.len()) && b.fits(dims, second.len()), OpFault::Operand)?;
    let output = io.output()?;
    let in_place = first.place == output.place && first.offset == output.offset;
    require(!in_place || a.is_contiguous(dims), OpFault::Alias)?;
    Ok([first.dtype, second.dtype])
}

/// Work of an element of an operator on two tensors.
pub(super) const BINARY_WORK: u32 = 80;

/// Minimum and maximum `x * m` over the values of `dtype`.
fn product_range(dtype: Dtype, m: i32) -> (i64, i64) {
    let (min, max) = dtype.range();
    let (p, q) = (i64::from(min) * i64::from(m), i64::from(max) * i64::from(m));
    (p.min(q), p.max(q))
}

impl Operator for Add {
    fn check(&self, io: &Operands<'_>) -> Result<Proof, OpFault> {
        let [a, b] = check_views(io, &self.dims, [&self.a, &self.b])?;
        require(self.shift <= 30, OpFault::Range)?;
        let (a, b) = (product_range(a, self.ma), product_range(b, self.mb));
        let bias = i64::from(self.bias);
        // The products, and partial sums in either order, stay inside as well.
        let low = a.0.min(0) + b.0.min(0) + bias.min(0);
        let high = a.1.max(0) + b.1.max(0) + bias.max(0);
        Ok(Proof::sums((low, high)))
    }

    fn run<B: Kernels>(&self, memory: &mut Memory<'_>, pieces: Range<u32>) -> Result<(), RunFault> {
        let &Self { ref dims, ref a, ref b, ma, mb, bias, shift } = self;
        let range = wide::elements(pieces, super::product(dims) as u32);
        let flat = a.is_contiguous(dims) && b.is_contiguous(dims);
        let i16s = memory.inputs.record(1).is_some_and(|b| b.dtype == Dtype::I16) && memory.output.dtype == Dtype::I16;
        if flat && i16s && memory.inputs.is_in_place(0) {
            let b = memory.inputs.get::<i16>(1)?.get(range.clone()).ok_or(RunFault::Memory)?;
            let out = cast_mut::<i16>(memory.out)?.get_mut(range).ok_or(RunFault::Memory)?;
            B::add_i16_in_place(out, b, ma, mb, bias, shift);
            return Ok(());
        }
        wide::binary(memory, dims, [a, b], range, |a, b| (a * ma).wrapping_add(b * mb).wrapping_add(bias) >> shift)
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
