//! Max and average pooling.

use super::conv2d::Window;
use super::depthwise::STEP_TAP_WORK;
use super::linear::EPILOGUE_WORK;
use super::{Division, Memory, OpFault, Operands, Operator, Proof, RunFault, require};
use crate::format::{Blob, op_params};
use crate::kernels::{Kernels, PoolJob, PoolMean};
use crate::tensor::Dtype;
use core::ops::Range;

op_params! {
    /// `x: i8` image, read by strides, to `y: [out_h * out_w, channels] i8`, channels last.
    ///
    /// Maximum where `multipliers` is absent; padding does not take part. Else
    /// `y = sat8(zero_point + mulhi_round((sum - count * pad_value) << acc_shift, multipliers[count - 1]))` over the
    /// `count` elements inside the image (`pad_value` is the input's zero point).
    Pool2d {
        /// Window geometry.
        window: Window,
        /// Channels.
        channels: u32,
        /// Left shift of the sum.
        acc_shift: u32,
        /// Zero point of the output.
        zero_point: i32,
        /// `i32` for each possible count, `kernel_h * kernel_w` of them.
        multipliers: Blob,
    }
}

/// Work of a tap of one channel, see [`Division`].
const TAP_WORK: u64 = 4;

impl Operator for Pool2d {
    fn check(&self, io: &Operands<'_>) -> Result<Proof, OpFault> {
        let input = io.need_input(0, &[Dtype::I8], 1)?;
        self.window.check(self.channels, input.len())?;
        io.need_output(&[Dtype::I8], u64::from(self.window.pixels()) * u64::from(self.channels))?;
        require(self.zero_point.unsigned_abs() <= 128, OpFault::Range)?;
        let taps = i64::from(self.window.kernel_h) * i64::from(self.window.kernel_w);
        if !self.multipliers.is_some() {
            return Ok(Proof::NONE);
        }
        let multipliers = io.need_blob(self.multipliers, taps as u64 * 4)?;
        let positive = multipliers.as_chunks::<4>().0.iter().all(|m| i32::from_le_bytes(*m) >= 0);
        require(positive && taps <= 1 << 16, OpFault::Range)?;
        // Windows at the edge have fewer terms: zero terms stay inside.
        let zero = i64::from(self.window.pad_value);
        Ok(Proof::of((taps * (-128 - zero).min(0), taps * (127 - zero).max(0)), self.acc_shift))
    }

    fn run<B: Kernels>(&self, memory: &mut Memory<'_>, pieces: Range<u32>) -> Result<(), RunFault> {
        let x = memory.inputs.get::<i8>(0)?;
        let multipliers = memory.inputs.blob::<i32>(self.multipliers)?;
        let channels = self.channels as usize;
        self.window.runs::<B>(self.channels, x, pieces, |windows, x, pixel| {
            let count: usize = windows.inside.iter().product();
            let mean = (!multipliers.is_empty()).then(|| PoolMean {
                zero_in: self.window.pad_value,
                acc_shift: self.acc_shift,
                multiplier: multipliers.get(count.saturating_sub(1)).copied().unwrap_or(0),
                zero_point: self.zero_point,
            });
            let first = memory.index(pixel as usize * channels);
            let out = memory.out::<i8>()?.0.get_mut(first..first + windows.pixels * channels);
            B::pool(&PoolJob { windows, mean }, x, out.ok_or(RunFault::Memory)?);
            Ok(())
        })
    }

    fn division(&self) -> Option<Division> {
        let row = self.window.out_w.saturating_mul(self.channels);
        let taps = u64::from(self.window.kernel_h) * u64::from(self.window.kernel_w);
        Some(Division::rows(row, TAP_WORK * u64::from(row) * taps))
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

#[cfg(test)]
mod tests {
    use super::super::depthwise::tests::windows;
    use super::super::testing::{Random, Weights, run, run_with};
    use super::*;
    use crate::arith::requant::requantize_i8;
    use crate::kernels::Native;
    use std::vec::Vec;

    #[test]
    fn every_output_is_the_maximum_or_the_mean_of_its_window() {
        for (channels, window) in windows() {
            let (taps, n) = ((window.kernel_h * window.kernel_w) as usize, channels as usize);
            let x = Random(u64::from(channels)).values(Dtype::I8, 99 * n);
            let mut blobs = Weights::default();
            let multipliers: Vec<i32> = (1..=taps as i32).map(|count| (1 << 30) / count).collect();
            let mean = blobs.add(&multipliers);
            for multipliers in [Blob::NONE, mean] {
                let op = Pool2d { window, channels, acc_shift: 2, zero_point: 5, multipliers };
                let output = (Dtype::I8, window.pixels() as usize * n);
                let expected = |pixel: u32, channel: usize| {
                    let at = |tap: usize| x[tap + channel * window.channel_stride as usize];
                    let inside: Vec<i32> = window.taps(pixel).flatten().map(at).collect();
                    if !multipliers.is_some() {
                        return inside.iter().copied().max().unwrap_or(-128);
                    }
                    let sum = inside.iter().map(|x| x - window.pad_value).sum();
                    requantize_i8(sum, 2, (1 << 30) / inside.len().max(1) as i32, 5).into()
                };
                let expected: Vec<i32> = (0..window.pixels())
                    .flat_map(|pixel| (0..n).map(move |c| (pixel, c)))
                    .map(|(pixel, c)| expected(pixel, c))
                    .collect();
                let inputs = [(Dtype::I8, &x[..])];
                assert_eq!(run(&op, &blobs, &inputs, output).expect("runs").1, expected, "{window:?}");
                assert_eq!(run_with::<Native>(&op, &blobs, &inputs, output).expect("runs").1, expected, "{window:?}");
            }
        }
    }
}
