//! Depthwise 2-D convolution of a 16-bit image.

use super::depthwise::{DepthwiseConv2d, acc_bounds_of};
use super::linear::Dense;
use super::{Division, Memory, OpFault, Operands, Operator, Proof, RunFault};
use crate::format::op_params;
use crate::kernels::{DepthwiseJob, DepthwiseOut, Kernels};
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
        let x = memory.inputs.get::<i16>(0)?;
        let DepthwiseConv2d { window, dense, channels } = &self.conv;
        let weights = memory.inputs.blob::<i8>(dense.weights)?;
        let bias = memory.inputs.blob::<i32>(dense.bias)?;
        let multipliers = memory.inputs.blob::<i32>(dense.multipliers)?;
        let lut = dense.table(&memory.inputs)?;
        let Dense { acc_shift, zero_point, .. } = *dense;
        let wide = memory.output.dtype == Dtype::I16;
        let count = *channels as usize;
        window.each_run(*channels, x, 0, rows, &mut |windows, x, pixel| {
            let pad_value = window.pad_value;
            let job = DepthwiseJob { windows, pad_value, weights, bias, multipliers, acc_shift, zero_point };
            let first = memory.index(pixel as usize * count);
            let part = first..first + windows.pixels * count;
            if wide {
                let out = memory.out::<i16>()?.0.get_mut(part).ok_or(RunFault::Memory)?;
                B::depthwise_wide(&job, x, DepthwiseOut::I16(out));
            } else {
                let out = memory.out::<i8>()?.0.get_mut(part).ok_or(RunFault::Memory)?;
                B::depthwise_wide(&job, x, DepthwiseOut::I8(&mut *out));
                if let Some(table) = lut {
                    B::lut_in_place(out, table);
                }
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
