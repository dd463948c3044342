//! A checked model: what the sections of its file say. Only [`open`](mod@open) makes one.

mod chain;
mod flow;
mod labels;
mod open;
mod proven;
mod whole;

use crate::format::{
    CertRecord, OpRecord, Place, Profile, ReadWords, Receipts, SectionKind, Sections, StateLayout, TensorRecord,
    TensorSlot, Word,
};
use crate::kernels::{Kernels, Portable};
use crate::ops::{Entry, OpKind, Parts, Requirements};
use core::ops::Range;

pub use chain::{Chain, MAX_CHAIN};
pub use open::{ModelError, SectionName};
pub use proven::Proven;

/// A checked model, borrowed from the bytes of a `.sfm` file.
///
/// `B` are the kernels its operators run with.
pub struct Model<'m, B: Kernels = Portable> {
    sections: Sections<'m>,
    receipts: Receipts<'m>,
    n_inputs: usize,
    state: StateLayout,
    table: &'static [Entry<B>],
}

impl<B: Kernels> Clone for Model<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<B: Kernels> Copy for Model<'_, B> {}

impl<'m, B: Kernels> Model<'m, B> {
    /// Whether operator `op` runs together with the one before.
    pub(crate) fn is_chained(&self, op: usize) -> bool {
        self.op_bytes(op).is_some_and(OpRecord::is_chained)
    }

    /// Parameter words and table entry of an operator.
    pub(crate) fn op_code(&self, record: &OpRecord) -> Option<(&'m [u8], &'static Entry<B>)> {
        // The table of all kinds is in the order of their codes, which start at 1; one of some kinds is searched.
        let is_it = |entry: &&Entry<B>| entry.kind as u16 == record.kind;
        let at = usize::from(record.kind).wrapping_sub(1);
        let entry = self.table.get(at).filter(is_it).or_else(|| self.table.iter().find(is_it))?;
        let from = (record.params_offset as usize).checked_mul(4)?;
        let bytes = (record.params_words as usize).checked_mul(4)?;
        Some((self.sections.get(SectionKind::Params).get(from..)?.get(..bytes)?, entry))
    }

    /// What an operator asks of the engine.
    pub(crate) fn needs(&self, record: &OpRecord) -> Option<Requirements> {
        let (words, entry) = self.op_code(record)?;
        entry.needs(words)
    }

    /// Bytes of arena a session needs.
    pub fn arena_bytes(&self) -> usize {
        self.sections.arena_bytes
    }

    /// Work of the longest step, in multiplications with accumulation of a dense layer: a
    /// [`step`](crate::Session::step) takes no longer than a dense layer with as many. Most models have less than
    /// [`STEP_WORK`](crate::ops::STEP_WORK); more where a single block of rows has.
    pub fn step_macs(&self) -> u64 {
        let of = |op: usize| {
            let record = self.op_record(op)?;
            let needs = self.needs(&record)?;
            let pieces = (needs.step(), needs.piece_work);
            let (step, work) = self.parts(op, &record).map_or(pieces, |parts| (parts.step(), parts.work));
            Some(u64::from(step) * u64::from(work))
        };
        (0..self.n_ops()).filter_map(of).max().unwrap_or(0)
    }

    /// The parts that steps divide operator `op` into: where it has some, is alone, and runs with all of its rows.
    pub(crate) fn parts(&self, op: usize, record: &OpRecord) -> Option<Parts> {
        if self.state.rows > 0 || self.is_chained(op) || self.is_chained(op + 1) {
            return None;
        }
        let (words, entry) = self.op_code(record)?;
        entry.parts(words)
    }

    /// Bytes of state a session needs besides; 0 for most models.
    pub fn state_bytes(&self) -> usize {
        self.state.bytes as usize
    }

    /// What is kept from one run to the next; all zero for a model without state.
    pub fn state(&self) -> StateLayout {
        self.state
    }

    /// The tensors in the state.
    pub(crate) fn state_tensors(&self) -> impl Iterator<Item = TensorRecord> + use<'m, B> {
        let model = *self;
        let tensors = (0..self.sections.n_tensors).filter_map(move |index| model.tensor(index));
        tensors.filter(|tensor| tensor.place == Place::State)
    }

    /// Positions that every tensor in the state holds: as many as [`StateLayout::capacity`], or the fewest rows of a ring.
    pub fn window(&self) -> u32 {
        let rows = self.state_tensors().filter_map(|tensor| tensor.shape().first().copied());
        rows.fold(self.state.capacity, u32::min)
    }

    /// Bytes of the file: what it takes in flash.
    pub fn file_bytes(&self) -> usize {
        self.sections.file.len()
    }

    /// The numeric profile.
    pub fn profile(&self) -> Profile {
        self.sections.profile
    }

    /// The sections, for tools.
    pub fn sections(&self) -> &Sections<'m> {
        &self.sections
    }

    /// Number of operators.
    pub fn n_ops(&self) -> usize {
        self.sections.n_ops
    }

    fn op_bytes(&self, op: usize) -> Option<&'m [u8; OpRecord::BYTES]> {
        self.sections.get(SectionKind::Ops).as_chunks().0.get(op)
    }

    /// Record of operator `op`.
    pub fn op_record(&self, op: usize) -> Option<OpRecord> {
        OpRecord::decode(self.op_bytes(op)?)
    }

    /// Kind of operator `op`.
    pub fn op_kind(&self, op: usize) -> Option<OpKind> {
        OpKind::from_code(self.op_record(op)?.kind)
    }

    /// Parameter words of operator `op`, little endian.
    pub fn op_params(&self, op: usize) -> Option<&'m [u8]> {
        let record = self.op_record(op)?;
        let from = (record.params_offset as usize).checked_mul(4)?;
        self.sections.get(SectionKind::Params).get(from..)?.get(..(record.params_words as usize).checked_mul(4)?)
    }

    /// What is proven about operator `op`.
    pub fn certificate(&self, op: usize) -> Option<CertRecord> {
        let bytes = self.sections.get(SectionKind::Certificate).chunks_exact(CertRecord::BYTES).nth(op)?;
        CertRecord::read(&mut ReadWords::new(bytes))
    }

    /// Record of tensor `index`.
    pub fn tensor(&self, index: usize) -> Option<TensorRecord> {
        TensorRecord::decode(self.sections.get(SectionKind::Tensors).chunks_exact(TensorRecord::BYTES).nth(index)?)
    }

    /// What a run needs of the record of tensor `index`, which was checked before.
    fn slot(&self, index: u16) -> Option<TensorSlot> {
        TensorSlot::read(self.sections.get(SectionKind::Tensors).get(usize::from(index) * TensorRecord::BYTES..)?)
    }

    /// Tensor index of endpoint `index`: inputs, then outputs.
    fn endpoint_tensor(&self, index: usize) -> Option<usize> {
        let bytes = self.sections.get(SectionKind::Io).chunks_exact(2).nth(index + 2)?;
        Some(usize::from(u16::from_le_bytes(bytes.try_into().ok()?)))
    }

    fn endpoint(&self, index: usize) -> Option<TensorRecord> {
        self.tensor(self.endpoint_tensor(index)?)
    }

    /// Number of inputs.
    pub fn n_inputs(&self) -> usize {
        self.n_inputs
    }

    /// Number of outputs.
    pub fn n_outputs(&self) -> usize {
        (self.sections.get(SectionKind::Io).len() / 2).saturating_sub(2 + self.n_inputs)
    }

    /// Record of input `index`.
    pub fn input(&self, index: usize) -> Option<TensorRecord> {
        if index < self.n_inputs { self.endpoint(index) } else { None }
    }

    /// Record of output `index`.
    pub fn output(&self, index: usize) -> Option<TensorRecord> {
        self.endpoint(self.n_inputs + index)
    }

    /// Tensor index of input `index`.
    pub fn input_tensor(&self, index: usize) -> Option<usize> {
        if index < self.n_inputs { self.endpoint_tensor(index) } else { None }
    }

    /// Tensor index of output `index`.
    pub fn output_tensor(&self, index: usize) -> Option<usize> {
        self.endpoint_tensor(self.n_inputs + index)
    }

    /// The reference runs stored in the file.
    pub fn receipts(&self) -> &Receipts<'m> {
        &self.receipts
    }
}

fn arena_range(tensor: &TensorRecord) -> Range<usize> {
    let from = tensor.offset as usize;
    from..from.saturating_add(tensor.held_bytes())
}

fn overlap(a: &Range<usize>, b: &Range<usize>) -> bool {
    !a.is_empty() && !b.is_empty() && a.start < b.end && b.start < a.end
}
