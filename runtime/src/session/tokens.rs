//! Runs of models whose input are tokens: prompts in blocks, single steps, the logits of the last token.

use super::Session;
use crate::format::{ReadWords, Word};
use crate::kernels::Kernels;
use crate::ops::embedding::Embedding;
use crate::ops::gather::Gather;
use crate::ops::{OpKind, RunFault};

impl<B: Kernels> Session<'_, '_, B> {
    /// Processes `tokens` behind those in the state, in blocks of as many rows as a run has. The bytes do not depend on
    /// the blocks. On an error the position is as before.
    ///
    /// # Errors
    /// [`RunFault::Full`] when the state has no room for all of them, [`RunFault::Index`] for a token beyond the
    /// vocabulary, [`RunFault::Rows`] for a model without state.
    pub fn prefill(&mut self, tokens: &[u32]) -> Result<(), RunFault> {
        let (before, layout) = (self.position(), self.model.state());
        let room = layout.capacity.saturating_sub(before) as usize;
        if tokens.len() > room {
            return Err(RunFault::Full { capacity: layout.capacity });
        }
        let rows = layout.rows as usize;
        if rows == 0 {
            return Err(RunFault::Rows { limit: 0 });
        }
        // A run that fails is taken back; several are looked through before the first, see there.
        if tokens.len() > rows {
            self.check_tokens(tokens)?;
        }
        for block in tokens.chunks(rows) {
            let done = self.take_tokens(block).and_then(|()| self.run());
            if let Err(fault) = done {
                self.truncate(before);
                return Err(fault);
            }
        }
        Ok(())
    }

    /// Whether the tables that tokens are looked up in have them all. A ring does not get back what it has written over: a
    /// prompt that fails at its end must fail at its start.
    fn check_tokens(&self, tokens: &[u32]) -> Result<(), RunFault> {
        let limit = (0..self.model.n_ops()).filter_map(|op| self.rows_of_table(op)).min();
        let beyond = |limit: u32| tokens.iter().find(|&&token| token >= limit).map(|&token| (token, limit));
        match limit.and_then(beyond) {
            Some((token, limit)) => Err(RunFault::Index { value: i32::try_from(token).unwrap_or(i32::MAX), limit }),
            None => Ok(()),
        }
    }

    /// Rows of the table of operator `op`, where it looks input 0 up in one.
    fn rows_of_table(&self, op: usize) -> Option<u32> {
        let (record, words) = (self.model.op_record(op)?, self.model.op_params(op)?);
        let words = &mut ReadWords::new(words);
        let (ids, rows) = match OpKind::from_code(record.kind)? {
            OpKind::Gather => (1, Gather::read(words)?.rows),
            OpKind::Embedding => (0, Embedding::read(words)?.limit),
            OpKind::Linear
            | OpKind::Conv2d
            | OpKind::DepthwiseConv2d
            | OpKind::MatMul
            | OpKind::Attention
            | OpKind::AttentionScores
            | OpKind::AttentionExp
            | OpKind::AttentionValues
            | OpKind::Softmax
            | OpKind::LayerNorm
            | OpKind::Add
            | OpKind::Mul
            | OpKind::Lut
            | OpKind::Requant
            | OpKind::Copy
            | OpKind::ReduceMean
            | OpKind::Pool2d
            | OpKind::DyadicRequant
            | OpKind::Shiftmax
            | OpKind::ShiftGelu
            | OpKind::ILayerNorm
            | OpKind::KvAppend
            | OpKind::CausalAttention
            | OpKind::Rope
            | OpKind::LinearI16
            | OpKind::Conv2dI16
            | OpKind::DepthwiseConv2dI16
            | OpKind::MatMulI16
            | OpKind::LutI16
            | OpKind::MaxPoolI16
            | OpKind::Positions
            | OpKind::LmulLinear
            | OpKind::WindowedAttention
            | OpKind::LookupLinear => return None,
        };
        let ids = *record.inputs.get::<usize>(ids)?;
        (self.model.input_tensor(0) == Some(usize::from(ids))).then_some(rows)
    }

    /// Processes one token behind those in the state.
    ///
    /// # Errors
    /// As [`prefill`](Self::prefill).
    pub fn push(&mut self, token: u32) -> Result<(), RunFault> {
        self.prefill(&[token])
    }

    /// Writes `tokens`, at most the rows of a run, as the input of the next run: for [`step`](Self::step) in bounded
    /// pieces, or [`run`](Self::run).
    ///
    /// # Errors
    /// As [`feed`](Self::feed), and [`RunFault::Index`] for a token that no vocabulary has.
    pub fn take_tokens(&mut self, tokens: &[u32]) -> Result<(), RunFault> {
        let rows = u32::try_from(tokens.len()).unwrap_or(u32::MAX);
        self.feed(rows)?;
        let ids = self.input_as::<i32>(0).filter(|ids| ids.len() >= tokens.len()).ok_or(RunFault::Memory)?;
        // Rows that are not fed may run as well: they must hold a token there is.
        ids.fill(0);
        for (id, &token) in ids.iter_mut().zip(tokens) {
            // Negative ids would count from the end of the vocabulary.
            *id = i32::try_from(token).map_err(|_| RunFault::Index { value: i32::MAX, limit: i32::MAX as u32 })?;
        }
        Ok(())
    }

    /// The row of output 0 that belongs to the last token; `None` unless a run has finished since inputs were last handed
    /// out.
    pub fn logits(&self) -> Option<&[u8]> {
        self.row_of_output(self.at.rows.checked_sub(1)?)
    }

    /// [`logits`](Self::logits) as elements of `T`; `None` also when `T` has not the size of the element type.
    pub fn logits_as<T: bytemuck::Pod>(&self) -> Option<&[T]> {
        let size = self.model.output(0)?.dtype.bytes();
        if size_of::<T>() == size { bytemuck::try_cast_slice(self.logits()?).ok() } else { None }
    }

    /// The row of output 0 that belongs to token `row` of the last run.
    pub fn row_of_output(&self, row: u32) -> Option<&[u8]> {
        let output = self.output(0)?;
        let width = output.len().checked_div(self.model.state().rows as usize)?;
        let start = (row as usize).checked_mul(width)?;
        (row < self.at.rows).then_some(output.get(start..)?.get(..width)?)
    }
}
