//! Softmax over the last dimension, where it is not part of an attention.

use super::memory::cast_mut;
use super::{Division, Memory, OpFault, Operands, Operator, Proof, RunFault, require};
use crate::arith::exp::{EXP2_ONE, RowScale};
use crate::arith::requant::{sat_i8, sat_i16};
use crate::format::op_params;
use crate::kernels::{ExpRow, Kernels, ScoreScale};
use crate::tensor::Dtype;
use core::ops::Range;

op_params! {
    /// `x: [rows, n] i8 | i16` to `y: [rows, n]`: `i8` with scale 2^-7 or `i16` with scale 2^-15.
    ///
    /// The 16-bit exponentials of [`crate::arith::exp`], one division a row, one rounding.
    Softmax {
        /// Rows.
        rows: u32,
        /// Length of a row.
        n: u32,
        /// Left shift of the input before the multiplication.
        acc_shift: u32,
        /// To log2 units with 8 fractional bits.
        multiplier: i32,
    }
}

impl Softmax {
    fn score_bytes(&self) -> usize {
        (self.n as usize * 4).next_multiple_of(16)
    }

    fn exp_bytes(&self) -> usize {
        (self.n as usize * 2).next_multiple_of(16)
    }
}

/// 1.0 as the ratio of a row scale.
const ONE: (u32, u32) = (1 << 14, 14);

/// Work of an element, see [`Division`].
const SOFTMAX_WORK: u64 = 300;

/// The same for [`Operator::piece_work`], and of a row besides.
const ELEMENT_WORK: u32 = 80;
const ROW_WORK: u32 = 300;

impl Operator for Softmax {
    fn check(&self, io: &Operands<'_>) -> Result<Proof, OpFault> {
        let len = u64::from(self.rows) * u64::from(self.n);
        require(self.n > 0 && self.n <= 65535 && self.multiplier >= 0, OpFault::Range)?;
        let (min, max) = io.need_input(0, &[Dtype::I8, Dtype::I16], len)?.dtype.range();
        let bits = io.need_output(&[Dtype::I8, Dtype::I16], len)?.dtype.bytes() * 8;
        let one = i64::from(EXP2_ONE);
        Ok(Proof {
            // The largest exponential with the fractional bits of the output, before the row's scale.
            second_acc: (0, one << (bits - 1)),
            row_sum: u64::from(self.n) * u64::from(EXP2_ONE),
            ..Proof::of((i64::from(min), i64::from(max)), self.acc_shift)
        })
    }

    fn run<B: Kernels>(&self, memory: &mut Memory<'_>, pieces: Range<u32>) -> Result<(), RunFault> {
        let n = self.n as usize;
        let dtype = memory.inputs.record(0).ok_or(RunFault::Memory)?.dtype;
        let x = memory.inputs.bytes(0)?;
        for row in pieces {
            let start = row as usize * n;
            let out_start = memory.index(start);
            let (scores, exps) = memory.scratch.split_at_mut_checked(self.score_bytes()).ok_or(RunFault::Memory)?;
            let scores = cast_mut::<i32>(scores)?.get_mut(..n).ok_or(RunFault::Memory)?;
            let exps = cast_mut::<u16>(exps)?.get_mut(..n).ok_or(RunFault::Memory)?;
            super::wide::load(dtype, x, start, 1, scores);
            B::scale_scores(scores, ScoreScale { acc_shift: self.acc_shift, multiplier: self.multiplier });
            let sum = B::exp_row(scores, ExpRow::U16(exps));
            let scale = RowScale::new(sum, ONE.0, ONE.1);
            if memory.output.dtype == Dtype::I8 {
                let out = cast_mut::<i8>(memory.out)?.get_mut(out_start..).ok_or(RunFault::Memory)?;
                out.iter_mut().zip(exps).for_each(|(out, e)| *out = sat_i8(scale.apply(i32::from(*e) << 7)));
            } else {
                let out = cast_mut::<i16>(memory.out)?.get_mut(out_start..).ok_or(RunFault::Memory)?;
                out.iter_mut().zip(exps).for_each(|(out, e)| *out = sat_i16(scale.apply(i32::from(*e) << 15)));
            }
        }
        Ok(())
    }

    fn scratch_bytes(&self) -> u32 {
        (self.score_bytes() + self.exp_bytes()) as u32
    }

    fn division(&self) -> Option<Division> {
        Some(Division::rows(self.n, SOFTMAX_WORK * u64::from(self.n)))
    }

    fn piece_work(&self) -> u32 {
        self.n.saturating_mul(ELEMENT_WORK).saturating_add(ROW_WORK)
    }

    fn pieces(&self) -> u32 {
        self.rows
    }
}
