//! Attention of the rows of a run to everything at or before them, or to the last of it, over keys and values in the state.

use super::{AttentionInputs, AttentionParams, OutRows, SCORE_WORK, Unit};
use crate::format::{MAX_INPUTS, Word, op_params};
use crate::kernels::{AttentionJob, Kernels, ROW_BLOCK, attend_scratch_bytes};
use crate::ops::{Division, Memory, OpFault, Operands, Operator, Proof, RowAccess, RowRead, RunFault, require};
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
    fn seen(&self, at: u32, window: u32) -> Range<usize> {
        let end = at.saturating_add(1);
        let first = if end <= self.n_k { end.saturating_sub(window) } else { 0 };
        first as usize..end.min(self.n_k) as usize
    }

    fn run_causal<B: Kernels>(&self, memory: &mut Memory<'_>, rows: Range<u32>, keys: u32) -> Result<(), RunFault> {
        let operands = AttentionInputs { v: memory.inputs.get(2)?, ..self.score_operands(&memory.inputs)? };
        let pos = memory.inputs.step().pos;
        let (window, skipped) = (memory.output.window, memory.skipped());
        // Heads that share keys and values and lie apart are the rows of one job.
        let apart = self.q.head >= self.head_dim && self.out.head >= self.v_dim && self.kv_group > 0;
        let (group, [q_stride, out_stride]) =
            if apart { (self.kv_group, [self.q.head, self.out.head]) } else { (1, [self.q.row, self.out.row]) };
        for row in rows {
            let seen = self.seen(pos.saturating_add(row), keys);
            for head in (0..self.heads).step_by(group as usize) {
                let first = Unit { batch: 0, head, row };
                let all = self.job(&operands, first, group as usize)?;
                let job = &AttentionJob {
                    k: all.k.get(seen.start * all.k_stride..).ok_or(RunFault::Memory)?,
                    v: all.v.get(seen.start * all.v_stride..).ok_or(RunFault::Memory)?,
                    n_k: seen.len(),
                    q_stride: q_stride as usize,
                    out_stride: out_stride as usize,
                    ..all
                };
                let out = self.out_from(first, OutRows { bytes: &mut *memory.out, window, skipped })?;
                if !(B::ATTENDS && B::attention(job, out)) {
                    B::attend(job, out, memory.scratch);
                }
            }
        }
        Ok(())
    }

    fn causal_scratch_bytes(&self) -> u32 {
        attend_scratch_bytes(self.n_k as usize, self.head_dim as usize, self.v_dim as usize, self.wide_exp) as u32
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

/// The operators of this file: what differs between them.
pub(crate) trait Causal: Word + Sync {
    /// The parameters.
    fn attention(&self) -> &AttentionParams;

    /// Keys that a row sees at most, itself included.
    fn keys(&self) -> u32;
}

impl Causal for CausalAttention {
    fn attention(&self) -> &AttentionParams {
        &self.attention
    }

    fn keys(&self) -> u32 {
        self.attention.n_k
    }
}

impl Causal for WindowedAttention {
    fn attention(&self) -> &AttentionParams {
        &self.attention
    }

    fn keys(&self) -> u32 {
        self.window
    }
}

impl<C: Causal> Operator for C {
    fn check(&self, io: &Operands<'_>) -> Result<Proof, OpFault> {
        require(self.keys() > 0 && self.keys() <= self.attention().n_k, OpFault::Range)?;
        self.attention().check_causal(io)
    }

    fn run<B: Kernels>(&self, memory: &mut Memory<'_>, rows: Range<u32>) -> Result<(), RunFault> {
        self.attention().run_causal::<B>(memory, rows, self.keys())
    }

    fn macs(&self) -> u64 {
        let p = self.attention();
        let scores = u64::from(p.heads).saturating_mul(u64::from(p.n_q)).saturating_mul(u64::from(self.keys()));
        scores.saturating_mul(u64::from(p.head_dim) + u64::from(p.v_dim))
    }

    fn scratch_bytes(&self) -> u32 {
        self.attention().causal_scratch_bytes()
    }

    fn piece_work(&self) -> u32 {
        let p = self.attention();
        p.heads.saturating_mul(p.score_work())
    }

    fn pieces(&self) -> u32 {
        self.attention().n_q
    }

    fn block(&self) -> u32 {
        ROW_BLOCK as u32
    }

    fn division(&self) -> Option<Division> {
        Some(self.attention().causal_division())
    }

    fn row_access(&self) -> Option<RowAccess> {
        Some(self.attention().causal_row_access())
    }
}
