//! Depthwise 2-D convolution: every channel has its own window of weights.

use super::conv2d::Window;
use super::linear::Dense;
use super::linear::{EPILOGUE_WORK, are_positive};
use super::{Division, Memory, OpFault, Operands, Operator, Proof, RunFault, require};
use crate::format::op_params;
use crate::kernels::{DepthwiseJob, DepthwiseOut, Kernels};
use crate::tensor::Dtype;
use crate::weights::WeightFormat;
use core::ops::Range;

op_params! {
    /// `x: i8` image, read by strides, to `y: [out_h * out_w, channels] i8 | i16`, channels last.
    ///
    /// `dense.weights` is `[kernel_h * kernel_w, channels]` 8-bit, row major; bias and multipliers are `[channels]`
    /// padded to a multiple of 4.
    DepthwiseConv2d {
        /// Window geometry.
        window: Window,
        /// Channels in and out.
        channels: u32,
        /// Weights and requantization.
        dense: Dense,
    }
}

/// Work of a tap of one channel, see [`Division`].
const TAP_WORK: u64 = 4;

/// The same for [`Operator::piece_work`].
pub(super) const STEP_TAP_WORK: u32 = 12;

impl DepthwiseConv2d {
    /// Checks everything but the type of the image, which has `len` elements; weights and biases.
    pub(super) fn check_shape<'a>(&self, io: &Operands<'a>, len: usize) -> Result<(&'a [u8], &'a [u8]), OpFault> {
        self.window.check(self.channels, len)?;
        let out =
            io.need_output(&[Dtype::I8, Dtype::I16], u64::from(self.window.pixels()) * u64::from(self.channels))?;
        require(
            self.dense.format == WeightFormat::I8 && self.dense.zero_point.unsigned_abs() <= 32768,
            OpFault::Range,
        )?;
        let taps = u64::from(self.window.kernel_h) * u64::from(self.window.kernel_w);
        let channels = self.channels as usize;
        let weights = io.need_blob(self.dense.weights, taps.saturating_mul(u64::from(self.channels)))?;
        let padded = (channels.next_multiple_of(4) * 4) as u64;
        let bias = io.need_blob(self.dense.bias, padded)?;
        let multipliers = io.need_blob(self.dense.multipliers, padded)?;
        if self.dense.lut.is_some() {
            io.need_blob(self.dense.lut, 256)?;
            require(out.dtype == Dtype::I8, OpFault::Blob)?;
        }
        require(io.proven || are_positive(multipliers), OpFault::Range)?;
        Ok((weights, bias))
    }
}

impl Operator for DepthwiseConv2d {
    fn check(&self, io: &Operands<'_>) -> Result<Proof, OpFault> {
        let input = io.need_input(0, &[Dtype::I8], 1)?;
        let (weights, bias) = self.check_shape(io, input.len())?;
        if io.proven {
            return Ok(Proof::NONE);
        }
        let channels = self.channels as usize;
        Ok(Proof::of(acc_bounds(weights, bias, channels), self.dense.acc_shift))
    }

    fn run<B: Kernels>(&self, memory: &mut Memory<'_>, pieces: Range<u32>) -> Result<(), RunFault> {
        let x = memory.inputs.get::<i8>(0)?;
        let weights = memory.inputs.blob::<i8>(self.dense.weights)?;
        let bias = memory.inputs.blob::<i32>(self.dense.bias)?;
        let multipliers = memory.inputs.blob::<i32>(self.dense.multipliers)?;
        let lut = self.dense.table(&memory.inputs)?;
        let Dense { acc_shift, zero_point, .. } = self.dense;
        let wide = memory.output.dtype == Dtype::I16;
        let channels = self.channels as usize;
        self.window.runs::<B>(self.channels, x, pieces, |windows, x, pixel| {
            let pad_value = self.window.pad_value;
            let job = DepthwiseJob { windows, pad_value, weights, bias, multipliers, acc_shift, zero_point };
            let first = memory.index(pixel as usize * channels);
            let part = first..first + windows.pixels * channels;
            if wide {
                let out = memory.out::<i16>()?.0.get_mut(part).ok_or(RunFault::Memory)?;
                B::depthwise(&job, x, DepthwiseOut::I16(out));
            } else {
                let out = memory.out::<i8>()?.0.get_mut(part).ok_or(RunFault::Memory)?;
                B::depthwise(&job, x, DepthwiseOut::I8(&mut *out));
                if let Some(table) = lut {
                    B::lut_in_place(out, table);
                }
            }
            Ok(())
        })
    }

    fn macs(&self) -> u64 {
        let taps = u64::from(self.window.kernel_h) * u64::from(self.window.kernel_w);
        u64::from(self.window.pixels()) * u64::from(self.channels) * taps
    }

    fn division(&self) -> Option<Division> {
        let rows = Division::rows(self.window.out_w.saturating_mul(self.channels), 0);
        Some(Division { work: TAP_WORK * self.macs() / u64::from(self.window.out_h).max(1), ..rows })
    }

    fn piece_work(&self) -> u32 {
        let taps = [self.window.kernel_h, self.window.kernel_w, self.window.out_w, self.channels];
        super::work(&taps).saturating_mul(STEP_TAP_WORK).saturating_add(super::work(&[
            EPILOGUE_WORK,
            self.window.out_w,
            self.channels,
        ]))
    }

    fn pieces(&self) -> u32 {
        self.window.out_h
    }
}

/// Minimum and maximum accumulator over all channels for any `i8` input.
pub fn acc_bounds(weights: &[u8], bias: &[u8], channels: usize) -> (i64, i64) {
    acc_bounds_of(weights, bias, channels, (-128, 127))
}

/// [`acc_bounds`] for inputs from `min` to `max`.
pub(super) fn acc_bounds_of(weights: &[u8], bias: &[u8], channels: usize, (min, max): (i64, i64)) -> (i64, i64) {
    let mut bounds = (0, 0);
    for (channel, bias) in bias.as_chunks::<4>().0.iter().enumerate().take(channels) {
        let bias = i64::from(i32::from_le_bytes(*bias));
        let (mut low, mut high) = (bias, bias);
        for &w in weights.get(channel..).unwrap_or(&[]).iter().step_by(channels.max(1)) {
            let w = i64::from(w as i8);
            low += (max * w).min(min * w);
            high += (max * w).max(min * w);
        }
        bounds = (low.min(bounds.0), high.max(bounds.1));
    }
    bounds
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::testing::{Random, Weights, run, run_with};
    use super::*;
    use crate::arith::requant::requantize_i8;
    use crate::format::Blob;
    use crate::kernels::Native;
    use std::vec::Vec;

    /// Windows over an image of 9 x 11 pixels, by planes or with the channels last.
    pub(crate) fn windows() -> Vec<(u32, Window)> {
        let mut windows = Vec::new();
        for (channels, kernel, stride, pads, dilation) in [
            (1, [3, 3], [1, 1], [1, 1], [1, 1]),
            (20, [3, 3], [2, 1], [0, 1], [1, 1]),
            (17, [5, 5], [1, 2], [2, 2], [1, 1]),
            (32, [3, 2], [1, 1], [2, 3], [2, 3]),
            (16, [9, 11], [3, 3], [8, 10], [1, 1]),
            (4, [2, 2], [5, 4], [0, 0], [1, 2]),
            // The first windows lie outside.
            (3, [2, 2], [1, 1], [3, 3], [1, 1]),
        ] {
            for planar in [false, true] {
                let out = |axis: usize, extent: u32| {
                    (extent + 2 * pads[axis] - dilation[axis] * (kernel[axis] - 1) - 1) / stride[axis] + 1
                };
                let [column_stride, row_stride, channel_stride] =
                    if planar { [1, 11, 99] } else { [channels, 11 * channels, 1] };
                let window = Window {
                    in_h: 9,
                    in_w: 11,
                    out_h: out(0, 9),
                    out_w: out(1, 11),
                    kernel_h: kernel[0],
                    kernel_w: kernel[1],
                    stride_h: stride[0],
                    stride_w: stride[1],
                    pad_top: pads[0],
                    pad_left: pads[1],
                    dilation_h: dilation[0],
                    dilation_w: dilation[1],
                    channel_stride,
                    row_stride,
                    column_stride,
                    pad_value: -7,
                };
                windows.push((channels, window));
            }
        }
        windows
    }

    #[test]
    fn every_output_is_the_sum_over_its_window() {
        for (channels, window) in windows() {
            let (taps, n) = ((window.kernel_h * window.kernel_w) as usize, channels as usize);
            let mut random = Random(u64::from(channels));
            let x = random.values(Dtype::I8, 99 * n);
            let w: Vec<i8> = random.values(Dtype::I8, taps * n).iter().map(|&w| w as i8).collect();
            let bias: Vec<i32> = (0..n.next_multiple_of(4)).map(|_| random.below(2000) as i32 - 1000).collect();
            let mut blobs = Weights::default();
            let dense = Dense {
                format: WeightFormat::I8,
                acc_shift: 1,
                zero_point: -3,
                weights: blobs.add(&w),
                bias: blobs.add(&bias),
                multipliers: blobs.add(&std::vec![1 << 23; n.next_multiple_of(4)]),
                lut: Blob::NONE,
            };
            let op = DepthwiseConv2d { window, channels, dense };
            let output = (Dtype::I8, window.pixels() as usize * n);
            let expected: Vec<i32> = (0..window.pixels())
                .flat_map(|pixel| (0..n).map(move |channel| (pixel, channel)))
                .map(|(pixel, channel)| {
                    let at = |tap: usize| x[tap + channel * window.channel_stride as usize];
                    let products = window
                        .taps(pixel)
                        .enumerate()
                        .map(|(index, tap)| tap.map_or(window.pad_value, at) * i32::from(w[index * n + channel]));
                    requantize_i8(bias[channel] + products.sum::<i32>(), 1, 1 << 23, -3).into()
                })
                .collect();
            let inputs = [(Dtype::I8, &x[..])];
            assert_eq!(run(&op, &blobs, &inputs, output).expect("runs").1, expected, "{window:?}");
            assert_eq!(
                run_with::<Native>(&op, &blobs, &inputs, output).expect("runs").1,
                expected,
                "native {window:?}"
            );
        }
    }
}
