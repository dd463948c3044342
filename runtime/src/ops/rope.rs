//! Rotary position embedding in fixed point.
//!
//! # Reference
//! RoFormer (arXiv 2104.09864), eq. 34. Differs: cosines and sines are a table of 16-bit values, one row per position.

use super::{Division, Memory, OpFault, Operands, Operator, Proof, RowAccess, RowRead, RunFault, require};
use crate::format::{Blob, op_params};
use crate::kernels::{Kernels, NormRow, RotaryJob, ScoreScale};
use crate::tensor::Dtype;
use core::ops::Range;

op_params! {
    /// `x: [rows, heads * head_dim] i8 | i16` to `y` of the same shape in `i8`. With `(c, s)` of the row's position and pair:
    /// `y_a = requantize(x_a c - x_b s)`, `y_b = requantize(x_b c + x_a s)`; elements of a head beyond `rotary` are
    /// `requantize(x * 2^15)`. For `i16` everything in the table counts half, rounded down, and 2^15 is 2^14.
    Rope {
        /// Rows of a run at most.
        rows: u32,
        /// Heads of a row.
        heads: u32,
        /// Elements of a head.
        head_dim: u32,
        /// Elements of a head that are rotated, even.
        rotary: u32,
        /// Pairs are neighbours `(2 i, 2 i + 1)`; otherwise `(i, i + rotary / 2)`.
        interleaved: bool,
        /// Positions of the table.
        capacity: u32,
        /// Left shift of sums.
        acc_shift: u32,
        /// Requantization.
        multiplier: i32,
        /// `[capacity, rotary / 2, 2] i16`: cosine and sine times 2^15, at most 2^15 - 1.
        table: Blob,
    }
}

/// 1 as a cosine, which its table does not reach.
const ONE: i32 = 1 << 15;
/// Largest size of a dimension.
const MAX_DIM: u32 = 1 << 16;

/// By how many bits the table is shifted right for elements of `dtype`: the products of 16-bit ones fill 32 bits.
fn halving(dtype: Dtype) -> u32 {
    u32::from(dtype == Dtype::I16)
}

impl Rope {
    fn width(&self) -> u32 {
        self.heads.saturating_mul(self.head_dim)
    }
}

/// Work of an element.
const ELEMENT_WORK: u32 = 40;

impl Operator for Rope {
    fn check(&self, io: &Operands<'_>) -> Result<Proof, OpFault> {
        let dims = [self.heads, self.head_dim, self.rotary];
        require(dims.iter().all(|&d| d > 0 && d <= MAX_DIM) && self.rows > 0, OpFault::Range)?;
        require(self.rotary.is_multiple_of(2) && self.rotary <= self.head_dim, OpFault::Range)?;
        require(self.multiplier >= 0 && self.capacity >= self.rows, OpFault::Range)?;
        let len = u64::from(self.rows) * u64::from(self.heads) * u64::from(self.head_dim);
        let x = io.need_input(0, &[Dtype::I8, Dtype::I16], len)?;
        io.need_output(&[Dtype::I8], len)?;
        io.need_blob(self.table, u64::from(self.capacity) * u64::from(self.rotary) * size_of::<i16>() as u64)?;
        // Two products with -2^15 or -2^14 at most, whatever the table holds.
        let most = 2 * i64::from(x.dtype.range().0) * i64::from(ONE >> halving(x.dtype));
        Ok(Proof::of((most, -most), self.acc_shift))
    }

    fn run<B: Kernels>(&self, memory: &mut Memory<'_>, rows: Range<u32>) -> Result<(), RunFault> {
        let (width, rotary) = (self.width() as usize, self.rotary as usize);
        let table = memory.inputs.blob::<i16>(self.table)?;
        let pos = memory.inputs.step().pos;
        let wide = memory.inputs.record(0).ok_or(RunFault::Memory)?.dtype == Dtype::I16;
        let job = RotaryJob {
            head_dim: self.head_dim as usize,
            rotary,
            interleaved: self.interleaved,
            scale: ScoreScale { acc_shift: self.acc_shift, multiplier: self.multiplier },
        };
        for row in rows {
            let position = pos.saturating_add(row);
            let beyond = RunFault::Index { value: position as i32, limit: self.capacity };
            let angles = table.get(position as usize * rotary..).and_then(|t| t.get(..rotary)).ok_or(beyond)?;
            let row = row as usize..row as usize + 1;
            let x = if wide {
                NormRow::I16(memory.inputs.rows(0, row.clone(), width)?)
            } else {
                NormRow::I8(memory.inputs.rows(0, row.clone(), width)?)
            };
            B::rotate(&job, x, angles, memory.out_rows::<i8>(row, width)?.0);
        }
        Ok(())
    }

    fn macs(&self) -> u64 {
        u64::from(self.rows) * u64::from(self.heads) * u64::from(self.rotary) * 2
    }

    fn piece_work(&self) -> u32 {
        self.width().saturating_mul(ELEMENT_WORK)
    }

    fn pieces(&self) -> u32 {
        self.rows
    }

    fn block(&self) -> u32 {
        crate::kernels::ROW_BLOCK as u32
    }

    fn division(&self) -> Option<Division> {
        Some(Division::rows(self.width(), 8 * u64::from(self.width())))
    }

    fn row_access(&self) -> Option<RowAccess> {
        Some(RowAccess::rows(RowRead::first(self.width()), self.width()))
    }
}
