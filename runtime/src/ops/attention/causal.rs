//! Attention of the rows of a run to everything at or before them, over keys and values in the state.

use super::{AttentionInputs, AttentionParams, SCORE_WORK, Scratch, Unit};
use crate::format::{MAX_INPUTS, op_params};
use crate::kernels::{Kernels, ROW_BLOCK};
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
        for row in rows {
            let seen = pos.saturating_add(row).saturating_add(1);
            // Of what the state has room for: a session ends before.
            let p = AttentionParams { n_k: seen.min(self.attention.n_k), ..self.attention };
            for head in 0..p.heads {
                p.head_rows::<B>(&operands, memory, Unit { batch: 0, head, row }, 1)?;
            }
        }
        Ok(())
    }

    fn macs(&self) -> u64 {
        let p = &self.attention;
        p.score_len().saturating_mul(u64::from(p.head_dim) + u64::from(p.v_dim))
    }

    fn scratch_bytes(&self) -> u32 {
        Scratch::sizes(&self.attention).iter().sum::<usize>() as u32
    }

    fn piece_work(&self) -> u32 {
        let p = &self.attention;
        // The values of a head are transposed for every row.
        super::super::work(&[p.heads, p.score_work().saturating_add(p.transpose_work())])
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
