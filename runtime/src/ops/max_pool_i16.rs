//! Max pooling of a 16-bit image.

use super::conv2d::Window;
use super::depthwise::STEP_TAP_WORK;
use super::{Division, Memory, OpFault, Operands, Operator, Proof, RunFault};
use crate::format::op_params;
use crate::kernels::Kernels;
use crate::tensor::Dtype;
use core::ops::Range;

op_params! {
    /// `x: i16` image, read by strides, to `y: [out_h * out_w, channels] i16`, channels last; padding does not take part,
    /// and `i16::MIN` is the maximum of nothing.
    MaxPoolI16 {
        /// Window geometry.
        window: Window,
        /// Channels.
        channels: u32,
    }
}

/// Work of a tap of one channel, see [`Division`].
const TAP_WORK: u64 = 4;

impl Operator for MaxPoolI16 {
    fn check(&self, io: &Operands<'_>) -> Result<Proof, OpFault> {
        let input = io.need_input(0, &[Dtype::I16], 1)?;
        self.window.check(self.channels, input.len())?;
        io.need_output(&[Dtype::I16], u64::from(self.window.pixels()) * u64::from(self.channels))?;
        Ok(Proof::NONE)
    }

    fn run<B: Kernels>(&self, memory: &mut Memory<'_>, rows: Range<u32>) -> Result<(), RunFault> {
        let x = memory.inputs.get::<i16>(0)?;
        let (channels, stride) = (self.channels as usize, self.window.channel_stride as usize);
        let width = self.window.out_w;
        for pixel in rows.start.saturating_mul(width)..rows.end.saturating_mul(width) {
            let first = memory.index(pixel as usize * channels);
            let out = memory.out::<i16>()?.0.get_mut(first..first + channels).ok_or(RunFault::Memory)?;
            out.fill(i16::MIN);
            for at in self.window.taps(pixel).flatten() {
                let x = x.get(at..).unwrap_or(&[]);
                if stride == 1 {
                    out.iter_mut().zip(x).for_each(|(out, &x)| *out = x.max(*out));
                } else {
                    out.iter_mut().zip(x.iter().step_by(stride.max(1))).for_each(|(out, &x)| *out = x.max(*out));
                }
            }
        }
        Ok(())
    }

    fn division(&self) -> Option<Division> {
        let row = self.window.out_w.saturating_mul(self.channels);
        let taps = u64::from(self.window.kernel_h) * u64::from(self.window.kernel_w);
        Some(Division::rows(row, TAP_WORK * u64::from(row) * taps))
    }

    fn piece_work(&self) -> u32 {
        super::work(&[STEP_TAP_WORK, self.window.kernel_h, self.window.kernel_w, self.window.out_w, self.channels])
    }

    fn pieces(&self) -> u32 {
        self.window.out_h
    }
}

#[cfg(test)]
mod tests {
    use super::super::depthwise::tests::windows;
    use super::super::testing::{Random, Weights, run};
    use super::*;
    use std::vec::Vec;

    #[test]
    fn every_output_is_the_maximum_of_its_window() {
        for (channels, window) in windows() {
            let n = channels as usize;
            let x = Random(u64::from(channels)).values(Dtype::I16, 99 * n);
            let op = MaxPoolI16 { window, channels };
            let expected: Vec<i32> = (0..window.pixels())
                .flat_map(|pixel| (0..n).map(move |channel| (pixel, channel)))
                .map(|(pixel, channel)| {
                    let at = |tap: usize| x[tap + channel * window.channel_stride as usize];
                    window.taps(pixel).flatten().map(at).max().unwrap_or(-32768)
                })
                .collect();
            let output = (Dtype::I16, window.pixels() as usize * n);
            let inputs = [(Dtype::I16, &x[..])];
            assert_eq!(run(&op, &Weights::default(), &inputs, output).expect("runs").1, expected, "{window:?}");
        }
    }
}
