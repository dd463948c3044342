//! Products of 16-bit activations with 8-bit numbers, made of two products of 8 bits.
//!
//! An activation is `x = 256 h + l` with both halves in `-128..=127`: `h = (x + 128) >> 8`, and `l` is its low byte, signed.
//! Values above [`MAX_VALUE`], which have no such halves, count as that one. So `sum(x w) = 256 sum(h w) + sum(l w)`, and
//! every kernel for 8-bit products serves 16 bits. The sum that goes on is
//!
//! `acc = ((sum(h w) + bias) << (8 - drop)) + ((sum(l w) + low_bias) >> drop)`
//!
//! which is `(sum(x w) + b + 2^(drop-1)) >> drop`, rounded once, for `256 bias + low_bias = b + 2^(drop-1)`. `drop` low bits are left out where the whole sum could not be proven to fit `i32`: at 8 a layer has the bounds of the
//! same layer with 8-bit activations.

use super::linear::{Dense, channel_bytes};
use super::{Inputs, OpFault, Operands, Proof, RunFault, require};
use crate::format::{Blob, op_params};
use crate::kernels::{self, Kernels, LinearJob, LinearOut, ROW_BLOCK, WideJob};
use crate::tensor::Dtype;
use crate::weights::{PackedWeights, WeightFormat};

op_params! {
    /// How the sums of the two halves become one, see [the module](self).
    Halves {
        /// Low bits of the sum that are left out, 0..=8.
        drop: u32,
        /// `i32` per channel, padded to a multiple of 4: what the sum of the low halves starts with.
        low_bias: Blob,
    }
}

pub use crate::kernels::portable::MAX_VALUE;

/// All bits of the low half.
const MAX_DROP: u32 = 8;

/// Channels that one pass makes where scratch memory counts.
const CHANNELS: usize = 32;

/// How many rows and channels are made at a time.
#[derive(Clone, Copy)]
pub(super) struct AtOnce {
    pub rows: usize,
    pub channels: usize,
}

impl AtOnce {
    /// On devices: what bounds the scratch memory.
    pub const DEVICE: Self = Self { rows: ROW_BLOCK, channels: CHANNELS };

    /// Bytes of scratch for a layer of `[n, k]`.
    pub fn scratch_bytes(self, n: usize, k: usize, format: WeightFormat) -> usize {
        kernels::wide_scratch_bytes(self.rows, self.channels.min(n), k) + kernels::dense_scratch_bytes(k, format)
    }
}

impl Halves {
    /// Checks an `[n, k]` layer and bounds its sums.
    pub(super) fn check(&self, dense: &Dense, io: &Operands<'_>, n: u32, k: u32, out: Dtype) -> Result<Proof, OpFault> {
        require(self.drop <= MAX_DROP && out != Dtype::I32, OpFault::Range)?;
        let (weights, bias) = dense.check_blobs(io, n, k, out)?;
        let low_bias = io.need_blob(self.low_bias, channel_bytes(n))?;
        if io.proven {
            return Ok(Proof::NONE);
        }
        let halves = [weights.acc_bounds(bias, k as usize), weights.acc_bounds(low_bias, k as usize)];
        Ok(proof(halves, self.drop, dense.acc_shift))
    }

    /// The job of a dense layer.
    pub(super) fn job<'a>(&self, inputs: &Inputs<'a>, dense: LinearJob<'a>) -> Result<WideJob<'a>, RunFault> {
        Ok(WideJob { dense, low_bias: inputs.blob(self.low_bias)?, drop: self.drop })
    }
}

/// Bounds from those of the sums of the high and of the low halves.
pub(super) fn proof([high, low]: [(i64, i64); 2], drop: u32, acc_shift: u32) -> Proof {
    let up = MAX_DROP - drop;
    let shifted = (high.0 << up, high.1 << up);
    let sum = (shifted.0 + (low.0 >> drop), shifted.1 + (low.1 >> drop));
    let parts = (high.0.min(low.0).min(shifted.0), high.1.max(low.1).max(shifted.1));
    Proof { second_acc: parts, ..Proof::of(sum, acc_shift) }
}

/// A dense layer over the rows of `job`, at most [`AtOnce::rows`]; `scratch` has [`AtOnce::scratch_bytes`].
pub(super) fn layer<B: Kernels>(
    job: &WideJob<'_>,
    at_once: AtOnce,
    x: &[i16],
    mut out: LinearOut<'_>,
    scratch: &mut [u8],
) -> Result<(), RunFault> {
    for first in (0..job.dense.n).step_by(at_once.channels) {
        let part = channels(job, first, at_once.channels.min(job.dense.n - first)).ok_or(RunFault::Memory)?;
        let out = out.channels_from(first).ok_or(RunFault::Memory)?;
        B::linear_wide(&part, x, out, scratch);
    }
    Ok(())
}

/// `count` channels of a job from channel `first` on, a multiple of the channels of a panel.
fn channels<'a>(job: &WideJob<'a>, first: usize, count: usize) -> Option<WideJob<'a>> {
    let LinearJob { k, weights, bias, multipliers, .. } = job.dense;
    let bytes = weights.bytes.get(PackedWeights::bytes_for(first, k, weights.format)..)?;
    let dense = LinearJob {
        n: count,
        weights: PackedWeights { bytes, format: weights.format },
        bias: bias.get(first..)?,
        multipliers: multipliers.get(first..)?,
        ..job.dense
    };
    Some(WideJob { dense, low_bias: job.low_bias.get(first..)?, drop: job.drop })
}
