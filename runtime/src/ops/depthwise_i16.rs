//! Depthwise 2-D convolution of a 16-bit image.

use super::depthwise::{DepthwiseConv2d, acc_bounds_of};
use super::{Division, Memory, OpFault, Operands, Operator, Proof, RunFault};
use crate::arith::requant;
use crate::format::op_params;
use crate::kernels::Kernels;
use crate::stepwise::stepwise;
use crate::tensor::Dtype;
use core::ops::Range;

op_params! {
    /// `x: i16` image without a zero point, read by strides, to `y: [out_h * out_w, channels] i8 | i16`, channels last.
    ///
    /// The sums are those of the whole values: a window of 500 taps is proven to fit with any weights.
    DepthwiseConv2dI16 {
        /// As for 8-bit images.
        conv: DepthwiseConv2d,
    }
}

/// Channels whose sums are kept side by side.
const CHANNELS: usize = 16;

impl DepthwiseConv2dI16 {
    /// The sums of the channels from `first` on of output pixel `pixel`.
    #[inline(always)]
    fn sums(&self, x: &[i16], weights: &[i8], bias: &[i32], pixel: u32, first: usize) -> [i32; CHANNELS] {
        let DepthwiseConv2d { window, channels, .. } = &self.conv;
        let (channels, stride) = (*channels as usize, window.channel_stride as usize);
        let mut acc = [0; CHANNELS];
        acc.iter_mut().zip(bias.get(first..).unwrap_or(&[])).for_each(|(acc, &bias)| *acc = bias);
        for (tap, at) in window.taps(pixel).enumerate() {
            let weights = weights.get(tap * channels + first..).unwrap_or(&[]);
            let add = |(acc, (x, &w)): (&mut i32, (i32, &i8))| *acc = acc.wrapping_add(x.wrapping_mul(i32::from(w)));
            // Arrays of a known size become vectors. What lies beyond the channels is not written.
            let block = at.filter(|_| stride == 1).and_then(|at| x.get(at + first..)?.first_chunk::<CHANNELS>());
            if let (Some(x), Some(weights)) = (block, weights.first_chunk::<CHANNELS>()) {
                acc.iter_mut().zip(x.iter().map(|&x| i32::from(x)).zip(weights)).for_each(add);
                continue;
            }
            let weights = weights.iter();
            match at {
                Some(at) => {
                    let x = x.get(at + first * stride..).unwrap_or(&[]);
                    let x = x.iter().step_by(stride.max(1)).map(|&x| i32::from(x));
                    acc.iter_mut().zip(x.zip(weights)).for_each(add);
                }
                None => {
                    let pad = core::iter::repeat(window.pad_value);
                    acc.iter_mut().zip(pad.zip(weights)).for_each(add);
                }
            }
        }
        acc
    }

    fn pixels(
        &self,
        memory: &mut Memory<'_>,
        rows: Range<u32>,
        mut write: impl FnMut(&mut Memory<'_>, usize, &[i32], &[i32]) -> Result<(), RunFault>,
    ) -> Result<(), RunFault> {
        let x = memory.inputs.get::<i16>(0)?;
        let dense = &self.conv.dense;
        let weights = memory.inputs.blob::<i8>(dense.weights)?;
        let bias = memory.inputs.blob::<i32>(dense.bias)?;
        let multipliers = memory.inputs.blob::<i32>(dense.multipliers)?;
        let channels = self.conv.channels as usize;
        let width = self.conv.window.out_w;
        for pixel in rows.start.saturating_mul(width)..rows.end.saturating_mul(width) {
            let start = memory.index(pixel as usize * channels);
            for (block, scales) in stepwise(multipliers.chunks(CHANNELS)).enumerate() {
                let first = block * CHANNELS;
                let sums = self.sums(x, weights, bias, pixel, first);
                let count = channels.saturating_sub(first).min(CHANNELS);
                write(memory, start + first, sums.get(..count).unwrap_or(&[]), scales)?;
            }
        }
        Ok(())
    }
}

impl Operator for DepthwiseConv2dI16 {
    fn check(&self, io: &Operands<'_>) -> Result<Proof, OpFault> {
        let input = io.need_input(0, &[Dtype::I16], 1)?;
        let (weights, bias) = self.conv.check_shape(io, input.len())?;
        if io.proven {
            return Ok(Proof::NONE);
        }
        let bounds = acc_bounds_of(weights, bias, self.conv.channels as usize, (-32768, 32767));
        Ok(Proof::of(bounds, self.conv.dense.acc_shift))
    }

    fn run<B: Kernels>(&self, memory: &mut Memory<'_>, rows: Range<u32>) -> Result<(), RunFault> {
        let dense = &self.conv.dense;
        let lut = dense.table(&memory.inputs)?;
        let (shift, zero_point) = (dense.acc_shift, dense.zero_point);
        if memory.output.dtype == Dtype::I16 {
            return self.pixels(memory, rows, |memory, start, sums, multipliers| {
                let out = memory.out::<i16>()?.0.get_mut(start..).ok_or(RunFault::Memory)?;
                for (out, (&acc, &m)) in out.iter_mut().zip(sums.iter().zip(multipliers)) {
                    *out = requant::requantize_i16(acc, shift, m);
                }
                Ok(())
            });
        }
        self.pixels(memory, rows, |memory, start, sums, multipliers| {
            let out = memory.out::<i8>()?.0.get_mut(start..).ok_or(RunFault::Memory)?;
            for (out, (&acc, &m)) in out.iter_mut().zip(sums.iter().zip(multipliers)) {
                let y = requant::requantize_i8(acc, shift, m, zero_point);
                // XOR with 0x80 is + 128 as an index; a u8 cannot leave 256 entries.
                *out = lut.map_or(y, |table| table[usize::from(y as u8 ^ 0x80)]);
            }
            Ok(())
        })
    }

    fn macs(&self) -> u64 {
        self.conv.macs()
    }

    fn division(&self) -> Option<Division> {
        self.conv.division()
    }

    fn piece_work(&self) -> u32 {
        self.conv.piece_work().saturating_mul(2)
    }

    fn pieces(&self) -> u32 {
        self.conv.pieces()
    }
}

#[cfg(test)]
mod tests {
    use super::super::depthwise::tests::windows;
    use super::super::linear::Dense;
    use super::super::testing::{Random, Weights, run, run_with};
    use super::*;
    use crate::arith::requant::requantize_i8;
    use crate::format::Blob;
    use crate::kernels::Native;
    use crate::weights::WeightFormat;
    use std::vec::Vec;

    #[test]
    fn every_output_is_the_sum_over_its_window() {
        for (channels, window) in windows() {
            let (taps, n) = ((window.kernel_h * window.kernel_w) as usize, channels as usize);
            let mut random = Random(u64::from(channels) + 7);
            let x = random.values(Dtype::I16, 99 * n);
            let w: Vec<i8> = random.values(Dtype::I8, taps * n).iter().map(|&w| w as i8).collect();
            let bias: Vec<i32> = (0..n.next_multiple_of(4)).map(|_| random.below(2000) as i32 - 1000).collect();
            let mut blobs = Weights::default();
            let dense = Dense {
                format: WeightFormat::I8,
                acc_shift: 0,
                zero_point: -3,
                weights: blobs.add(&w),
                bias: blobs.add(&bias),
                multipliers: blobs.add(&std::vec![1 << 17; n.next_multiple_of(4)]),
                lut: Blob::NONE,
            };
            let op = DepthwiseConv2dI16 { conv: DepthwiseConv2d { window, channels, dense } };
            let output = (Dtype::I8, window.pixels() as usize * n);
            let expected: Vec<i32> = (0..window.pixels())
                .flat_map(|pixel| (0..n).map(move |channel| (pixel, channel)))
                .map(|(pixel, channel)| {
                    let at = |tap: usize| x[tap + channel * window.channel_stride as usize];
                    let products = window
                        .taps(pixel)
                        .enumerate()
                        .map(|(index, tap)| tap.map_or(window.pad_value, at) * i32::from(w[index * n + channel]));
                    requantize_i8(bias[channel] + products.sum::<i32>(), 0, 1 << 17, -3).into()
                })
                .collect();
            let inputs = [(Dtype::I16, &x[..])];
            assert_eq!(run(&op, &blobs, &inputs, output).expect("runs").1, expected, "{window:?}");
            assert_eq!(run_with::<Native>(&op, &blobs, &inputs, output).expect("runs").1, expected, "{window:?}");
        }
    }
}
