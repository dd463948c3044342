//! Dense layer over 16-bit activations: `y = requantize(x W^T + b)`.

use super::halves::{self, AtOnce, Halves};
use super::linear::{JobSize, Linear};
use super::{Division, Memory, OpFault, Operands, Operator, Proof, RowAccess, RunFault, require};
use crate::format::op_params;
use crate::kernels::{self, Kernels, LinearOut};
use crate::tensor::Dtype;
use core::ops::Range;

op_params! {
    /// `x: [rows, k] i16` and optionally `residual: [rows, n] i16` to `y: [rows, n]` in `i8` or `i16`.
    ///
    /// With a residual (input 1) `y` is `i16` and may lie in the residual's memory. `x` has no zero point.
    LinearI16 {
        /// As for 8-bit activations; `dense.bias` is added to the sums of the high halves.
        linear: Linear,
        /// How the sums of the halves become one.
        halves: Halves,
    }
}

impl LinearI16 {
    fn blocks<B: Kernels>(
        &self,
        memory: &mut Memory<'_>,
        rows: Range<u32>,
        at_once: AtOnce,
        scratch: Option<&mut [u8]>,
    ) -> Result<(), RunFault> {
        let Linear { k, n, dense, residual_shift, .. } = self.linear;
        let (k, n) = (k as usize, n as usize);
        let lut = dense.table(&memory.inputs)?;
        let adds = memory.inputs.record(1).is_some();
        let mut own = scratch;
        for first in rows.clone().step_by(at_once.rows) {
            let block = first as usize..(first + at_once.rows as u32).min(rows.end) as usize;
            let size = JobSize { rows: block.len(), k, n, x_stride: k, out_stride: n };
            let job = self.halves.job(&memory.inputs, dense.job(&memory.inputs, size)?)?;
            let x = memory.inputs.rows::<i16>(0, block.clone(), k)?;
            if memory.output.dtype == Dtype::I8 {
                let (out, scratch) = memory.out_rows::<i8>(block, n)?;
                let scratch = own.as_deref_mut().unwrap_or(scratch);
                halves::layer::<B>(&job, at_once, x, LinearOut::I8 { out, lut }, scratch)?;
                continue;
            }
            let residual = match adds && !memory.inputs.is_in_place(1) {
                true => memory.inputs.rows::<i16>(1, block.clone(), n)?,
                false => &[],
            };
            let (out, scratch) = memory.out_rows::<i16>(block, n)?;
            out.iter_mut().zip(residual).for_each(|(to, &from)| *to = from);
            let out = if adds { LinearOut::I16Residual { out, residual_shift } } else { LinearOut::I16 { out } };
            halves::layer::<B>(&job, at_once, x, out, own.as_deref_mut().unwrap_or(scratch))?;
        }
        Ok(())
    }
}

impl Operator for LinearI16 {
    fn check(&self, io: &Operands<'_>) -> Result<Proof, OpFault> {
        let Linear { rows, k, n, dense, residual_shift } = self.linear;
        let len = u64::from(rows) * u64::from(n);
        let x = io.need_input(0, &[Dtype::I16], u64::from(rows) * u64::from(k))?;
        let out = io.need_output(&[Dtype::I8, Dtype::I16], len)?;
        // The rows of `x` are read again for other channels when some of the output is written.
        require(x.place != out.place || x.offset != out.offset, OpFault::Alias)?;
        if io.input(1).is_some() {
            let residual = io.need_input(1, &[Dtype::I16], len)?;
            let same = out.dtype == Dtype::I16 && residual.len() == out.len();
            require(same && out.len() as u64 == len, OpFault::Operand)?;
            require(residual_shift <= 15, OpFault::Range)?;
        }
        self.halves.check(&dense, io, n, k, out.dtype)
    }

    fn run<B: Kernels>(&self, memory: &mut Memory<'_>, rows: Range<u32>) -> Result<(), RunFault> {
        #[cfg(feature = "std")]
        if B::GATHERED_ROWS > kernels::ROW_BLOCK {
            let at_once = AtOnce { rows: B::GATHERED_ROWS, channels: (self.linear.n as usize).max(1) };
            let Linear { k, n, dense, .. } = self.linear;
            let bytes = at_once.scratch_bytes(n as usize, k as usize, dense.format);
            return kernels::with_scratch(bytes, |own| self.blocks::<B>(memory, rows, at_once, Some(own)));
        }
        self.blocks::<B>(memory, rows, AtOnce::DEVICE, None)
    }

    fn macs(&self) -> u64 {
        self.linear.macs()
    }

    fn scratch_bytes(&self) -> u32 {
        let Linear { k, n, dense, .. } = self.linear;
        AtOnce::DEVICE.scratch_bytes(n as usize, k as usize, dense.format) as u32
    }

    fn in_place(&self) -> Option<usize> {
        Some(1)
    }

    fn pieces(&self) -> u32 {
        self.linear.rows
    }

    fn block(&self) -> u32 {
        kernels::ROW_BLOCK as u32
    }

    fn piece_work(&self) -> u32 {
        self.linear.piece_work().saturating_mul(2)
    }

    fn division(&self) -> Option<Division> {
        let work = 2 * u64::from(self.linear.n) * u64::from(self.linear.k);
        Some(Division::rows(self.linear.n, work))
    }

    fn row_access(&self) -> Option<RowAccess> {
        self.linear.row_access()
    }
}

#[cfg(test)]
mod tests {
    use super::super::linear::Dense;
    use super::super::testing::{Random, Weights, run, run_with};
    use super::*;
    use crate::arith::requant::{mulhi_round, requantize_i8, rshift_round, sat_i16};
    use crate::format::Blob;
    use crate::kernels::Native;
    use crate::weights::{GROUP, PANEL, PackedWeights, WeightFormat};
    use std::vec::Vec;

    const MULTIPLIER: i32 = 1 << 20;

    /// A layer with these weights and biases (in steps of the whole sum).
    fn layer(weights: &mut Weights, [rows, k, n]: [usize; 3], w: &[i8], bias: &[i64], drop: u32) -> LinearI16 {
        let groups = k.div_ceil(GROUP);
        let mut packed = std::vec![0i8; PackedWeights::bytes_for(n, k, WeightFormat::I8)];
        for (i, &w) in w.iter().enumerate() {
            let (ch, k) = (i / k, i % k);
            packed[((ch / PANEL) * groups + k / GROUP) * 64 + (ch % PANEL) * GROUP + k % GROUP] = w;
        }
        let padded = n.next_multiple_of(PANEL);
        let (mut high, mut low) = (std::vec![0i32; padded], std::vec![0i32; padded]);
        for (ch, bias) in bias.iter().enumerate() {
            let half = if drop > 0 { 1 << (drop - 1) } else { 0 };
            high[ch] = bias.div_euclid(256) as i32;
            low[ch] = bias.rem_euclid(256) as i32 + half;
        }
        let dense = Dense {
            format: WeightFormat::I8,
            acc_shift: 0,
            zero_point: -3,
            weights: weights.add(&packed),
            bias: weights.add(&high),
            multipliers: weights.add(&std::vec![MULTIPLIER; padded]),
            lut: Blob::NONE,
        };
        let linear = Linear { rows: rows as u32, k: k as u32, n: n as u32, residual_shift: 2, dense };
        LinearI16 { linear, halves: Halves { drop, low_bias: weights.add(&low) } }
    }

    #[test]
    fn the_sum_of_the_halves_is_the_rounded_sum_of_the_products() {
        for (index, size) in [[1, 1, 1], [7, 35, 6], [6, 64, 33], [11, 300, 70]].into_iter().enumerate() {
            let [rows, k, n] = size;
            let mut random = Random(index as u64 + 1);
            let w: Vec<i8> = random.values(Dtype::I8, n * k).into_iter().map(|w| w as i8).collect();
            let bias: Vec<i64> = (0..n).map(|_| random.below(2_000_000) as i64 - 1_000_000).collect();
            let mut x = random.values(Dtype::I16, rows * k);
            x.iter_mut().take(k).for_each(|x| *x = -32768);
            x[k - 1] = 32767;
            let residual = random.values(Dtype::I16, rows * n);
            for drop in [0, 1, 3, 8] {
                let mut weights = Weights::default();
                let op = layer(&mut weights, size, &w, &bias, drop);
                let acc = |row: usize, ch: usize| {
                    let sum: i64 =
                        (0..k).map(|i| i64::from(x[row * k + i].min(32639)) * i64::from(w[ch * k + i])).sum();
                    let total = sum + bias[ch];
                    (if drop > 0 { (total + (1 << (drop - 1))) >> drop } else { total }) as i32
                };
                let each = |f: &dyn Fn(usize, i32) -> i32| -> Vec<i32> {
                    (0..rows * n).map(|at| f(at, acc(at / n, at % n))).collect()
                };
                let narrow = each(&|_, acc| requantize_i8(acc, 0, MULTIPLIER, -3).into());
                let wide = each(&|_, acc| sat_i16(mulhi_round(acc, MULTIPLIER)).into());
                let added =
                    each(&|at, acc| sat_i16(mulhi_round(acc, MULTIPLIER) + rshift_round(residual[at], 2)).into());
                let alone = [(Dtype::I16, &x[..])];
                let both = [(Dtype::I16, &x[..]), (Dtype::I16, &residual[..])];
                for (inputs, dtype, expected) in
                    [(&alone[..], Dtype::I8, narrow), (&alone, Dtype::I16, wide), (&both, Dtype::I16, added)]
                {
                    let (proof, y) = run(&op, &weights, inputs, (dtype, rows * n)).expect("runs");
                    assert_eq!(y, expected, "{size:?} drop {drop} {dtype:?}");
                    let y = run_with::<Native>(&op, &weights, inputs, (dtype, rows * n)).expect("runs").1;
                    assert_eq!(y, expected, "native {size:?} drop {drop} {dtype:?}");
                    for at in 0..rows * n {
                        let acc = i64::from(acc(at / n, at % n));
                        assert!((proof.acc.0..=proof.acc.1).contains(&acc), "{acc} {proof:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn long_sums_need_bits_dropped() {
        let k = 1000;
        let w = std::vec![127i8; k];
        let x = std::vec![0; k];
        for (drop, fits) in [(0, false), (1, true)] {
            let mut weights = Weights::default();
            let op = layer(&mut weights, [1, k, 1], &w, &[0], drop);
            let (proof, _) = run(&op, &weights, &[(Dtype::I16, &x)], (Dtype::I16, 1)).expect("runs");
            assert_eq!(proof.certificate().is_ok(), fits, "drop {drop}");
        }
    }
}
