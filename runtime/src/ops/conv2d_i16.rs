//! 2-D convolution of a 16-bit image, as a dense layer over gathered windows.

use super::conv2d::Conv2d;
use super::halves::{self, AtOnce, Halves};
use super::linear::JobSize;
use super::memory::cast_mut;
use super::{Division, Memory, OpFault, Operands, Operator, Proof, RowAccess, RunFault, require};
use crate::format::{Blob, op_params};
use crate::kernels::{self, Kernels, LinearOut};
use crate::stepwise::stepwise;
use crate::tensor::Dtype;
use core::ops::Range;

op_params! {
    /// `x: i16` image without a zero point, read by strides, to `y: [out_h * out_w, n] i8 | i16`, channels last.
    Conv2dI16 {
        /// As for 8-bit images; `dense.bias` is added to the sums of the high halves.
        conv: Conv2d,
        /// How the sums of the halves become one; `low_bias` holds all groups, like `dense.bias`.
        halves: Halves,
    }
}

/// Work of gathering an element, see [`Division`].
const GATHER_WORK: u64 = 100;

/// Rows of an image that hosts take at a time as they lie.
#[cfg(feature = "std")]
const ROWS_AT_ONCE: usize = 252;

impl Conv2dI16 {
    fn gathered_bytes(&self, count: usize) -> usize {
        (count * self.conv.k() * size_of::<i16>()).next_multiple_of(16)
    }

    fn scratch_for(&self, at_once: AtOnce) -> usize {
        let n = self.conv.group_n() as usize;
        self.gathered_bytes(at_once.rows) + at_once.scratch_bytes(n, self.conv.k(), self.conv.dense.format)
    }

    fn low_bias(&self, group: u32) -> Blob {
        let bytes = self.halves.low_bias.bytes.checked_div(self.conv.groups).unwrap_or(0);
        Conv2d::part(self.halves.low_bias, bytes as usize, group)
    }

    fn blocks<B: Kernels>(&self, memory: &mut Memory<'_>, pixels: Range<u32>, at_once: AtOnce) -> Result<(), RunFault> {
        let channels = self.conv.channels as usize;
        for first in pixels.clone().step_by(at_once.rows) {
            let block = first..(first + at_once.rows as u32).min(pixels.end);
            for group in 0..self.conv.groups {
                let x = memory.inputs.get::<i16>(0)?;
                let gathered = memory.scratch.get_mut(..self.gathered_bytes(at_once.rows)).ok_or(RunFault::Memory)?;
                let gathered: &mut [i16] = cast_mut(gathered)?;
                let pad = self.conv.window.pad_value as i16;
                for (pixel, out) in block.clone().zip(stepwise(gathered.chunks_exact_mut(self.conv.k().max(1)))) {
                    self.conv.gather_taps(x, pad, pixel, group as usize * channels, out);
                }
                self.dense::<B>(memory, block.clone(), at_once, group, true)?;
            }
        }
        Ok(())
    }

    /// [`blocks`](Self::blocks) of an image whose rows are the windows.
    #[cfg(feature = "std")]
    fn rows<B: Kernels>(&self, memory: &mut Memory<'_>, pixels: Range<u32>, at_once: AtOnce) -> Result<(), RunFault> {
        for first in pixels.clone().step_by(at_once.rows) {
            let block = first..(first + at_once.rows as u32).min(pixels.end);
            self.dense::<B>(memory, block, at_once, 0, false)?;
        }
        Ok(())
    }

    /// The dense layer of one group over windows that are `gathered` in the scratch, or over rows of the image.
    fn dense<B: Kernels>(
        &self,
        memory: &mut Memory<'_>,
        pixels: Range<u32>,
        at_once: AtOnce,
        group: u32,
        gathered: bool,
    ) -> Result<(), RunFault> {
        let (k, n, group_n) = (self.conv.k(), self.conv.n as usize, self.conv.group_n() as usize);
        let size = JobSize { rows: pixels.len(), k, n: group_n, x_stride: k, out_stride: n };
        let dense = self.conv.group(group).job(&memory.inputs, size)?;
        let halves = Halves { low_bias: self.low_bias(group), ..self.halves };
        let job = halves.job(&memory.inputs, dense)?;
        let lut = self.conv.dense.table(&memory.inputs)?;
        let held = memory.output.first_held(pixels.start as usize);
        let start = memory.index((pixels.start as usize - held) * n + group as usize * group_n);
        let bytes = self.gathered_bytes(at_once.rows);
        let (windows, scratch) = memory.scratch.split_at_mut_checked(bytes).ok_or(RunFault::Memory)?;
        let windows: &[i16] = if gathered {
            cast_mut(windows)?
        } else {
            memory.inputs.get::<i16>(0)?.get(pixels.start as usize * k..).ok_or(RunFault::Memory)?
        };
        let out = match memory.output.dtype {
            Dtype::I8 => {
                LinearOut::I8 { out: cast_mut::<i8>(memory.out)?.get_mut(start..).ok_or(RunFault::Memory)?, lut }
            }
            Dtype::I16 => {
                LinearOut::I16 { out: cast_mut::<i16>(memory.out)?.get_mut(start..).ok_or(RunFault::Memory)? }
            }
            Dtype::U8 | Dtype::U16 | Dtype::I32 => return Err(RunFault::Memory),
        };
        halves::layer::<B>(&job, at_once, windows, out, scratch)
    }
}

impl Operator for Conv2dI16 {
    fn check(&self, io: &Operands<'_>) -> Result<Proof, OpFault> {
        let input = io.need_input(0, &[Dtype::I16], 1)?;
        let k = self.conv.check_shape(input.len())?;
        let out =
            io.need_output(&[Dtype::I8, Dtype::I16], u64::from(self.conv.window.pixels()) * u64::from(self.conv.n))?;
        require(self.conv.is_even(self.halves.low_bias), OpFault::Blob)?;
        let group = |g: u32| {
            let halves = Halves { low_bias: self.low_bias(g), ..self.halves };
            halves.check(&self.conv.group(g), io, self.conv.group_n(), k, out.dtype)
        };
        (0..self.conv.groups).try_fold(Proof::NONE, |proof, g| Ok(proof.and(group(g)?)))
    }

    fn run<B: Kernels>(&self, memory: &mut Memory<'_>, pixels: Range<u32>) -> Result<(), RunFault> {
        #[cfg(feature = "std")]
        if B::GATHERED_ROWS > kernels::ROW_BLOCK {
            let Memory { inputs, output, out, skipped, .. } = memory;
            let reads_rows = self.conv.reads_rows();
            let rows = if reads_rows { ROWS_AT_ONCE } else { B::GATHERED_ROWS };
            let at_once = AtOnce { rows, channels: (self.conv.n as usize).max(1) };
            return kernels::with_scratch(self.scratch_for(at_once), |scratch| {
                let mut memory = Memory { inputs: *inputs, output: *output, out, scratch, skipped: *skipped };
                match reads_rows {
                    true => self.rows::<B>(&mut memory, pixels, at_once),
                    false => self.blocks::<B>(&mut memory, pixels, at_once),
                }
            });
        }
        self.blocks::<B>(memory, pixels, AtOnce::DEVICE)
    }

    fn macs(&self) -> u64 {
        self.conv.macs()
    }

    fn scratch_bytes(&self) -> u32 {
        self.scratch_for(AtOnce::DEVICE) as u32
    }

    fn pieces(&self) -> u32 {
        self.conv.window.pixels()
    }

    fn block(&self) -> u32 {
        kernels::ROW_BLOCK as u32
    }

    fn piece_work(&self) -> u32 {
        self.conv.piece_work().saturating_mul(2)
    }

    fn division(&self) -> Option<Division> {
        let (n, k) = (u64::from(self.conv.n), self.conv.k() as u64);
        let work = 2 * n * k + GATHER_WORK * u64::from(self.conv.groups) * k;
        Some(Division::rows(self.conv.n, work))
    }

    fn row_access(&self) -> Option<RowAccess> {
        self.conv.row_access()
    }
}
