//! Models in whole operators, for machines with the memory that blocks of rows save.

use super::open::Trust;
use super::{Model, ModelError};
use crate::format::{OpRecord, SECTION_ALIGN, SectionKind, TensorRecord};
use crate::kernels::Kernels;

impl<'m, B: Kernels> Model<'m, B> {
    /// Bytes of memory that [`whole`](Self::whole) needs: 0 where the model has no blocks of rows.
    pub fn whole_tables_bytes(&self) -> usize {
        if !(0..self.n_ops()).any(|op| self.is_chained(op)) {
            return 0;
        }
        self.sections.get(SectionKind::Ops).len() + self.sections.get(SectionKind::Tensors).len()
    }

    /// The model with each operator run at once for all its rows, instead of in [blocks](super::Chain) of them: faster,
    /// in more memory. Operators, tensors and the bytes of every output are the same, the arena is larger:
    /// see [`arena_bytes`](Self::arena_bytes) of the new model. A model without blocks is returned as it is.
    ///
    /// `tables`, of [`whole_tables_bytes`](Self::whole_tables_bytes) bytes, receives the operators and tensors; all else
    /// stays in the file. Tensors that had a window of rows get memory behind the arena, which every chain uses anew; the
    /// others stay where they are. The result is checked like a file.
    ///
    /// ```
    /// # #[cfg(feature = "alloc")]
    /// # fn main() {
    /// use shiftformer::{AlignedBytes, Model, Session};
    ///
    /// /// The first output, computed by whole operators.
    /// fn infer(file: &[u8], input: &[u8]) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
    ///     let model = Model::open(file)?;
    ///     let mut tables = vec![0; model.whole_tables_bytes()];
    ///     let model = model.whole(&mut tables)?;
    ///     let mut arena = AlignedBytes::zeroed(model.arena_bytes());
    ///     let mut session = Session::new(&model, &mut arena)?;
    ///     session.input_mut(0).ok_or("no input")?.copy_from_slice(input);
    ///     session.run()?;
    ///     Ok(session.output(0).ok_or("no output")?.to_vec())
    /// }
    /// assert!(infer(b"not a model", &[0; 64]).is_err());
    /// # }
    /// # #[cfg(not(feature = "alloc"))]
    /// # fn main() {}
    /// ```
    ///
    /// # Errors
    /// [`ModelError::Tables`] when `tables` is too small, and what opening finds where the larger arena has more than
    /// 2^32 bytes.
    pub fn whole(&self, tables: &'m mut [u8]) -> Result<Self, ModelError> {
        let (needed, given) = (self.whole_tables_bytes(), tables.len());
        if needed == 0 {
            return Ok(*self);
        }
        let old = [SectionKind::Ops, SectionKind::Tensors].map(|kind| self.sections.get(kind));
        let [old_ops, old_tensors] = old;
        let too_small = ModelError::Tables { needed, given };
        let (ops, rest) = tables.split_at_mut_checked(old_ops.len()).ok_or(too_small)?;
        let tensors = rest.get_mut(..old_tensors.len()).ok_or(too_small)?;
        ops.copy_from_slice(old_ops);
        tensors.copy_from_slice(old_tensors);
        ops.as_chunks_mut().0.iter_mut().for_each(OpRecord::leave_chain);
        let behind = self.arena_bytes().checked_next_multiple_of(SECTION_ALIGN).unwrap_or(usize::MAX);
        let (mut next, mut arena_bytes) = (behind, self.arena_bytes());
        for op in 0..self.n_ops() {
            if !self.is_chained(op) {
                next = behind;
            }
            let Some(index) = self.op_record(op).map(|record| usize::from(record.output)) else { continue };
            let record = tensors.as_chunks_mut::<{ TensorRecord::BYTES }>().0.get_mut(index);
            let Some((record, tensor)) = record.and_then(|bytes| TensorRecord::decode(bytes).map(|t| (bytes, t)))
            else {
                continue;
            };
            if tensor.window > 0 {
                TensorRecord::make_whole(record, u32::try_from(next).unwrap_or(u32::MAX));
                // What does not fit is found by the check.
                let end = next.saturating_add(tensor.bytes()).checked_next_multiple_of(SECTION_ALIGN);
                next = end.unwrap_or(usize::MAX);
                arena_bytes = arena_bytes.max(next);
            }
        }
        let mut sections = self.sections.with(SectionKind::Ops, ops).with(SectionKind::Tensors, tensors);
        sections.arena_bytes = arena_bytes;
        Self::checked(sections, self.table, Trust::Nothing)
    }
}
