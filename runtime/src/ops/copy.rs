//! Data movement: transpose, slice, concat, roll, window partition, expand, all as one strided copy.

use super::{
    Dims, Extent, Memory, OpFault, Operands, Operator, Proof, RowAccess, RowRead, RunFault, require, stretches, wide,
};
use crate::format::op_params;
use crate::kernels::Kernels;
use crate::tensor::Dtype;
use core::ops::Range;

op_params! {
    /// `y[to.at(i)] = x[from.at(i)]` for every index `i` of `dims`; elements keep their bytes.
    ///
    /// Several copies may write the parts of one tensor; all but the last have `partial`.
    Copy {
        /// Shape of what is copied.
        dims: Dims,
        /// View of the input; stride 0 repeats.
        from: Extent,
        /// View of the output.
        to: Extent,
        /// XORed into every 1-byte element: 0x80 makes `u8` pixels into `i8` values less 128.
        flip: u32,
        /// Later copies write the rest of the output.
        partial: bool,
    }
}

/// Work of an element.
const ELEMENT_WORK: u32 = 20;

impl Operator for Copy {
    fn check(&self, io: &Operands<'_>) -> Result<Proof, OpFault> {
        use crate::tensor::Dtype::{I8, I16, I32, U8, U16};
        let all = &[I8, U8, I16, U16, I32];
        let (input, out) = (io.need_input(0, all, 1)?, io.need_room(all, 1)?);
        let size = input.dtype.bytes();
        require(size == out.dtype.bytes() && self.flip <= 255, OpFault::Operand)?;
        require(self.flip == 0 || size == 1, OpFault::Range)?;
        let len = super::product(&self.dims);
        require(len > 0 && len < 1 << 31, OpFault::Range)?;
        // So the work is bounded by the output, and the order of the elements does not matter.
        require(self.to.is_injective(&self.dims), OpFault::Alias)?;
        require(self.from.fits(&self.dims, input.len()) && self.to.fits(&self.dims, out.len()), OpFault::Operand)?;
        Ok(Proof::NONE)
    }

    fn run<B: Kernels>(&self, memory: &mut Memory<'_>, rows: Range<u32>) -> Result<(), RunFault> {
        if let Some(width) = self.row() {
            return self.copy_rows(memory, width, rows.start as usize..rows.end as usize);
        }
        let elements = wide::elements(rows, self.elements());
        let x = memory.inputs.bytes(0)?;
        self.copy(x, memory.out, memory.output.dtype, elements);
        Ok(())
    }

    fn completes_output(&self) -> bool {
        !self.partial
    }

    fn pieces(&self) -> u32 {
        if self.row().is_some() { self.rows() } else { wide::pieces(self.elements()) }
    }

    fn piece_work(&self) -> u32 {
        self.row().unwrap_or(wide::PIECE).saturating_mul(ELEMENT_WORK)
    }

    fn written_from(&self, element: u32) -> u32 {
        self.to.run_from(&self.dims, element)
    }

    fn row_access(&self) -> Option<RowAccess> {
        let row = self.row()?;
        Some(RowAccess { out_first: self.to.offset, ..RowAccess::rows(RowRead::first(row), row) })
    }
}

impl Copy {
    /// Elements that are copied: fewer than 2^31.
    fn elements(&self) -> u32 {
        super::product(&self.dims) as u32
    }

    fn rows(&self) -> u32 {
        super::product(self.dims.get(..5).unwrap_or(&[])) as u32
    }

    /// Width of a row, where rows of the whole input go, as they are, to rows of the output.
    fn row(&self) -> Option<u32> {
        let [1, 1, 1, 1, _, width] = self.dims else { return None };
        let dense = |view: &Extent| matches!(view.strides, [_, _, _, _, row, 1] if row == width as i32);
        let whole = self.from.offset == 0 && dense(&self.from) && dense(&self.to);
        (whole && self.flip == 0).then_some(width)
    }

    fn copy_rows(&self, memory: &mut Memory<'_>, width: u32, rows: Range<usize>) -> Result<(), RunFault> {
        let size = memory.output.dtype.bytes();
        let (first, bytes) = (self.to.offset as usize * size, width as usize * size);
        let x = memory.inputs.rows::<u8>(0, rows.clone(), bytes)?;
        let out = if memory.output.window > 0 {
            memory.out_rows::<u8>(rows, bytes)?.0
        } else {
            memory.out.get_mut(first + rows.start * bytes..first + rows.end * bytes).ok_or(RunFault::Memory)?
        };
        out.iter_mut().zip(x).for_each(|(to, from)| *to = *from);
        Ok(())
    }

    /// Copies `elements` of type `dtype`.
    fn copy(&self, x: &[u8], out: &mut [u8], dtype: Dtype, elements: Range<usize>) {
        let size = dtype.bytes();
        let [.., step_from] = self.from.strides;
        let [.., step_to] = self.to.strides;
        let flip = self.flip as u8;
        let flat = step_from == 1 && step_to == 1;
        for ([from, to], count) in stretches(&self.dims, [&self.from, &self.to], elements) {
            if flat {
                let source = x.get(from * size..).unwrap_or(&[]).iter().take(count * size);
                let target = out.get_mut(to * size..).unwrap_or(&mut []).get_mut(..count * size).unwrap_or(&mut []);
                target.iter_mut().zip(source).for_each(|(to, from)| *to = *from);
                if flip != 0 {
                    target.iter_mut().for_each(|to| *to ^= flip);
                }
                continue;
            }
            let from = (from, step_from as isize);
            let to = (to, step_to as isize);
            match dtype {
                Dtype::I8 | Dtype::U8 => strided::<1>(x, from, out, to, count, flip),
                Dtype::I16 | Dtype::U16 => strided::<2>(x, from, out, to, count, 0),
                Dtype::I32 => strided::<4>(x, from, out, to, count, 0),
            }
        }
    }
}

/// Copies `count` elements of `SIZE` bytes, each place given as first element and step.
fn strided<const SIZE: usize>(
    x: &[u8],
    (mut from, step_from): (usize, isize),
    out: &mut [u8],
    (mut to, step_to): (usize, isize),
    count: usize,
    flip: u8,
) {
    let (x, out) = (x.as_chunks::<SIZE>().0, out.as_chunks_mut::<SIZE>().0);
    for _ in 0..count {
        if let (Some(source), Some(target)) = (x.get(from), out.get_mut(to)) {
            *target = source.map(|b| b ^ flip);
        }
        from = from.wrapping_add_signed(step_from);
        to = to.wrapping_add_signed(step_to);
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Weights, run};
    use super::*;

    fn copy(dims: Dims, from: [i32; 6], to: [i32; 6]) -> Copy {
        let view = |strides| Extent { offset: 0, strides };
        Copy { dims, from: view(from), to: view(to), flip: 0, partial: false }
    }

    #[test]
    fn an_element_is_written_once() {
        let x: [i32; 6] = core::array::from_fn(|i| i as i32);
        let at = |op: &Copy| run(op, &Weights::default(), &[(Dtype::I8, &x)], (Dtype::I8, 6)).map(|(_, y)| y);
        let dims = [1, 1, 1, 1, 3, 2];
        let transposed = copy(dims, [0, 0, 0, 0, 1, 3], [0, 0, 0, 0, 2, 1]);
        assert_eq!(at(&transposed), Ok(std::vec![0, 3, 1, 4, 2, 5]));
        let repeated = copy(dims, [0; 6], [0, 0, 0, 0, 2, 1]);
        assert_eq!(at(&repeated), Ok(std::vec![0; 6]));
        // 2^26 elements, in one step, to one place.
        let long = copy([1 << 13, 1 << 13, 1, 1, 1, 1], [0; 6], [0; 6]);
        assert_eq!(at(&long), Err(OpFault::Alias));
        assert_eq!(at(&copy(dims, [0, 0, 0, 0, 2, 1], [0, 0, 0, 0, 1, 1])), Err(OpFault::Alias));
    }
}
