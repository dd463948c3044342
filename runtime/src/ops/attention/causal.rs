//! Attention of the rows of a run to everything at or before them, over keys and values in the state.

use super::{AttentionInputs, AttentionParams, OutRows, SCORE_WORK, ScoreRows, Unit, exp_row};
use crate::format::{MAX_INPUTS, op_params};
use crate::kernels::{Kernels, ROW_BLOCK, linear_scratch_bytes};
use crate::ops::memory::{cast, cast_mut};
use crate::ops::{Division, Memory, OpFault, Operands, Operator, Proof, RowAccess, RowRead, RunFault, require};
use crate::stepwise::stepwise;
use core::ops::Range;

op_params! {
    /// [`Attention`](super::Attention) of query row `i` to the keys `0 ..= pos + i`, where `pos` is the position of the run.
    ///
    /// Inputs: 0 `q` `[n_q, ..]`, 1 `k` and 2 `v`, each `[n_k, ..]` with a row per position; `n_k` is the capacity of the
    /// state, `n_q` the rows of a run at most. No biases. Heads may share keys and values (`kv_group`). Every row is
    /// computed by itself, so that the bytes do not depend on how positions are divided among runs; the proof is that of
    /// `n_k` keys and covers fewer.
    CausalAttention {
        /// The parameters; one batch.
        attention: AttentionParams,
    }
}

impl Operator for CausalAttention {
    fn check(&self, io: &Operands<'_>) -> Result<Proof, OpFault> {
        let p = &self.attention;
        p.check()?;
        require(p.batch == 1 && p.n_q <= p.n_k, OpFault::Range)?;
        require(io.input(3).is_none() && io.input(4).is_none(), OpFault::Operand)?;
        require(p.q.is_rows(p, p.head_dim) && p.out.is_rows(p, p.v_dim), OpFault::Range)?;
        p.check_qk(io)?;
        p.check_v(io)?;
        Ok(p.prove_dots().and(p.prove_values()))
    }

    fn run<B: Kernels>(&self, memory: &mut Memory<'_>, rows: Range<u32>) -> Result<(), RunFault> {
        let operands = AttentionInputs { v: memory.inputs.get(2)?, ..self.attention.score_operands(&memory.inputs)? };
        let pos = memory.inputs.step().pos;
        for row in rows {
            let seen = pos.saturating_add(row).saturating_add(1);
            // Of what the state has room for: a session ends before.
            let p = AttentionParams { n_k: seen.min(self.attention.n_k), ..self.attention };
            for head in 0..p.heads {
                row_of_head::<B>(&p, &operands, memory, Unit { batch: 0, head, row })?;
            }
        }
        Ok(())
    }

    fn macs(&self) -> u64 {
        let p = &self.attention;
        p.score_len().saturating_mul(u64::from(p.head_dim) + u64::from(p.v_dim))
    }

    fn scratch_bytes(&self) -> u32 {
        RowScratch::sizes(&self.attention).iter().sum::<usize>() as u32
    }

    fn piece_work(&self) -> u32 {
        let p = &self.attention;
        // The values of a head are transposed for every row.
        p.heads.saturating_mul(p.score_work().saturating_add(p.transpose_work()))
    }

    fn pieces(&self) -> u32 {
        self.attention.n_q
    }

    fn block(&self) -> u32 {
        ROW_BLOCK as u32
    }

    fn division(&self) -> Option<Division> {
        let p = &self.attention;
        let score = u64::from(p.head_dim) + u64::from(p.v_dim) + SCORE_WORK;
        Some(Division::rows(p.out.row, u64::from(p.heads) * u64::from(p.n_k) * score))
    }

    fn row_access(&self) -> Option<RowAccess> {
        let p = &self.attention;
        let mut inputs = [RowRead::Whole; MAX_INPUTS];
        if let Some(q) = inputs.first_mut() {
            *q = RowRead::Row(p.q.row);
        }
        Some(RowAccess::rows(inputs, p.out.row))
    }
}

/// One query row of one head.
fn row_of_head<B: Kernels>(
    p: &AttentionParams,
    operands: &AttentionInputs<'_>,
    memory: &mut Memory<'_>,
    unit: Unit,
) -> Result<(), RunFault> {
    let (window, skipped) = (memory.output.window, memory.skipped());
    let to = OutRows { bytes: &mut *memory.out, window, skipped };
    if B::ATTENDS && p.attend::<B>(operands, to, unit, 1)? {
        return Ok(());
    }
    let RowScratch { scores, exps, acc } = RowScratch::split(p, memory.scratch)?;
    let to = ScoreRows { scores: &mut *scores, stride: p.padded_keys(), scratch: &mut *acc };
    p.scores::<B>(operands, unit, 1, to)?;
    let keys = p.n_k as usize;
    let sum = exp_row::<B>(p.wide_exp, scores.get(..keys).unwrap_or(&[]), exps)?;
    let acc = cast_mut::<i32>(acc)?.get_mut(..p.v_dim as usize).ok_or(RunFault::Memory)?;
    acc.fill(0);
    let values = p.head_values(operands.v, unit)?;
    let rows = stepwise(values.chunks((p.v.row as usize).max(1)));
    if p.wide_exp {
        rows.zip(cast::<u16>(exps)?).take(keys).for_each(|(row, &e)| add_weighted(acc, row, i32::from(e)));
    } else {
        rows.zip(&*exps).take(keys).for_each(|(row, &e)| add_weighted(acc, row, i32::from(e)));
    }
    p.values::<B>(acc, &[sum], unit, OutRows { bytes: &mut *memory.out, window, skipped })
}

/// `acc += weight * row`: a row of values as it lies in the cache, which the next run would have to transpose again.
fn add_weighted(acc: &mut [i32], row: &[i8], weight: i32) {
    acc.iter_mut().zip(row).for_each(|(acc, &value)| *acc = acc.wrapping_add(weight.wrapping_mul(i32::from(value))));
}

/// The scratch areas of one row: its scores, its exponentials, the sums of its values.
///
/// The last one serves the dot products of the scores before.
struct RowScratch<'s> {
    scores: &'s mut [i32],
    exps: &'s mut [u8],
    acc: &'s mut [u8],
}

impl<'s> RowScratch<'s> {
    fn sizes(p: &AttentionParams) -> [usize; 3] {
        let acc = (p.v_dim as usize * size_of::<i32>()).next_multiple_of(16);
        [
            p.padded_keys() * size_of::<i32>(),
            p.exp_bytes().next_multiple_of(16),
            acc.max(linear_scratch_bytes(p.head_dim as usize)),
        ]
    }

    fn split(p: &AttentionParams, bytes: &'s mut [u8]) -> Result<Self, RunFault> {
        let [scores, exps, acc] = Self::sizes(p);
        let (scores, rest) = bytes.split_at_mut_checked(scores).ok_or(RunFault::Memory)?;
        let (exps, rest) = rest.split_at_mut_checked(exps).ok_or(RunFault::Memory)?;
        Ok(Self { scores: cast_mut(scores)?, exps, acc: rest.get_mut(..acc).ok_or(RunFault::Memory)? })
    }
}
