//! Attention of the rows of a run to everything at or before them, over keys and values in the state.

use super::{AttentionInputs, AttentionParams, OutRows, SCORE_WORK, Unit};
use crate::format::{MAX_INPUTS, op_params};
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
        let (p, (window, skipped)) = (&self.attention, (memory.output.window, memory.skipped()));
        // Heads that share keys and values and lie apart are the rows of one job.
        let apart = p.q.head >= p.head_dim && p.out.head >= p.v_dim && p.kv_group > 0;
        let (group, [q_stride, out_stride]) =
            if apart { (p.kv_group, [p.q.head, p.out.head]) } else { (1, [p.q.row, p.out.row]) };
        for row in rows {
            let seen = pos.saturating_add(row).saturating_add(1);
            for head in (0..p.heads).step_by(group as usize) {
                let first = Unit { batch: 0, head, row };
                let job = &AttentionJob {
                    // Of what the state has room for: a session ends before.
                    n_k: seen.min(p.n_k) as usize,
                    q_stride: q_stride as usize,
                    out_stride: out_stride as usize,
                    ..p.job(&operands, first, group as usize)?
                };
                let out = p.out_from(first, OutRows { bytes: &mut *memory.out, window, skipped })?;
                if !(B::ATTENDS && B::attention(job, out)) {
                    B::attend(job, out, memory.scratch);
                }
            }
        }
        Ok(())
    }

    fn macs(&self) -> u64 {
        let p = &self.attention;
        p.score_len().saturating_mul(u64::from(p.head_dim) + u64::from(p.v_dim))
    }

    fn scratch_bytes(&self) -> u32 {
        let p = &self.attention;
        attend_scratch_bytes(p.n_k as usize, p.head_dim as usize, p.v_dim as usize, p.wide_exp) as u32
    }

    fn piece_work(&self) -> u32 {
        let p = &self.attention;
        p.heads.saturating_mul(p.score_work())
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
