//! Attention of the rows of a run to everything at or before them, or to the last of it, over keys and values in the state.

use super::{AttentionInputs, AttentionParams, HeadView, OutRows, SCORE_WORK, ScoreRows, Unit, exp_row};
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

op_params! {
    /// [`CausalAttention`] to the last keys only: query row `i` sees the keys of the positions `p - window < q <= p`, where
    /// `p = pos + i`.
    ///
    /// The keys of position `q` are row `q mod n_k` of the state: where a session has more positions than `n_k` the state is
    /// a ring, runs have one row, and from position `n_k` on a row sees all of it. So a ring has `n_k = window`.
    WindowedAttention {
        /// The parameters; one batch.
        attention: AttentionParams,
        /// Keys that a row sees, itself included: at most `n_k`.
        window: u32,
    }
}

impl AttentionParams {
    fn check_causal(&self, io: &Operands<'_>) -> Result<Proof, OpFault> {
        self.check()?;
        require(self.batch == 1 && self.n_q <= self.n_k, OpFault::Range)?;
        require(io.input(3).is_none() && io.input(4).is_none(), OpFault::Operand)?;
        require(self.q.is_rows(self, self.head_dim) && self.out.is_rows(self, self.v_dim), OpFault::Range)?;
        self.check_qk(io)?;
        self.check_v(io)?;
        Ok(self.prove_dots().and(self.prove_values()))
    }

    /// Rows of the state that the query at position `at` sees.
    fn seen(&self, at: u32, window: u32) -> Range<u32> {
        let end = at.saturating_add(1);
        let first = if end <= self.n_k { end.saturating_sub(window) } else { 0 };
        first..end.min(self.n_k)
    }

    fn run_causal<B: Kernels>(&self, memory: &mut Memory<'_>, rows: Range<u32>, keys: u32) -> Result<(), RunFault> {
        let operands = AttentionInputs { v: memory.inputs.get(2)?, ..self.score_operands(&memory.inputs)? };
        let pos = memory.inputs.step().pos;
        for row in rows {
            let seen = self.seen(pos.saturating_add(row), keys);
            let from = |view: HeadView| HeadView {
                offset: view.offset.saturating_add(view.row.saturating_mul(seen.start)),
                ..view
            };
            let p = AttentionParams { n_k: seen.end - seen.start, k: from(self.k), v: from(self.v), ..*self };
            for head in 0..p.heads {
                row_of_head::<B>(&p, &operands, memory, Unit { batch: 0, head, row })?;
            }
        }
        Ok(())
    }

    fn causal_scratch_bytes(&self) -> u32 {
        RowScratch::sizes(self).iter().sum::<usize>() as u32
    }

    fn causal_work(&self) -> u32 {
        // The values of a head are transposed for every row.
        self.heads.saturating_mul(self.score_work().saturating_add(self.transpose_work()))
    }

    fn causal_division(&self) -> Division {
        let score = u64::from(self.head_dim) + u64::from(self.v_dim) + SCORE_WORK;
        Division::rows(self.out.row, u64::from(self.heads) * u64::from(self.n_k) * score)
    }

    fn causal_row_access(&self) -> RowAccess {
        let mut inputs = [RowRead::Whole; MAX_INPUTS];
        if let Some(q) = inputs.first_mut() {
            *q = RowRead::Row(self.q.row);
        }
        RowAccess::rows(inputs, self.out.row)
    }
}

impl Operator for CausalAttention {
    fn check(&self, io: &Operands<'_>) -> Result<Proof, OpFault> {
        self.attention.check_causal(io)
    }

    fn run<B: Kernels>(&self, memory: &mut Memory<'_>, rows: Range<u32>) -> Result<(), RunFault> {
        self.attention.run_causal::<B>(memory, rows, self.attention.n_k)
    }

    fn macs(&self) -> u64 {
        let p = &self.attention;
        p.score_len().saturating_mul(u64::from(p.head_dim) + u64::from(p.v_dim))
    }

    fn scratch_bytes(&self) -> u32 {
        self.attention.causal_scratch_bytes()
    }

    fn piece_work(&self) -> u32 {
        self.attention.causal_work()
    }

    fn pieces(&self) -> u32 {
        self.attention.n_q
    }

    fn block(&self) -> u32 {
        ROW_BLOCK as u32
    }

    fn division(&self) -> Option<Division> {
        Some(self.attention.causal_division())
    }

    fn row_access(&self) -> Option<RowAccess> {
        Some(self.attention.causal_row_access())
    }
}

impl Operator for WindowedAttention {
    fn check(&self, io: &Operands<'_>) -> Result<Proof, OpFault> {
        require(self.window > 0 && self.window <= self.attention.n_k, OpFault::Range)?;
        self.attention.check_causal(io)
    }

    fn run<B: Kernels>(&self, memory: &mut Memory<'_>, rows: Range<u32>) -> Result<(), RunFault> {
        self.attention.run_causal::<B>(memory, rows, self.window)
    }

    fn macs(&self) -> u64 {
        let p = &self.attention;
        let scores = u64::from(p.heads).saturating_mul(u64::from(p.n_q)).saturating_mul(u64::from(self.window));
        scores.saturating_mul(u64::from(p.head_dim) + u64::from(p.v_dim))
    }

    fn scratch_bytes(&self) -> u32 {
        self.attention.causal_scratch_bytes()
    }

    fn piece_work(&self) -> u32 {
        self.attention.causal_work()
    }

    fn pieces(&self) -> u32 {
        self.attention.n_q
    }

    fn block(&self) -> u32 {
        ROW_BLOCK as u32
    }

    fn division(&self) -> Option<Division> {
        Some(self.attention.causal_division())
    }

    fn row_access(&self) -> Option<RowAccess> {
        Some(self.attention.causal_row_access())
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
