//! The same values at another scale or width.

use super::{Memory, OpFault, Operands, Operator, Proof, RunFault, require, wide};
use crate::format::op_params;
use crate::kernels::{Kernels, ScoreScale};
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
        let Self { len, zero_in, acc_shift, multiplier, zero_out } = *self;
        let scale = ScoreScale { acc_shift, multiplier };
        wide::chunks(memory, 0, wide::elements(pieces, len), |values| {
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
