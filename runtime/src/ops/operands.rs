//! The operands of an operator as its check sees them.

use super::{OpFault, require};
use crate::format::{Blob, OpRecord, Place, TensorRecord};
use crate::tensor::Dtype;

/// Record, tensors and weights of one operator.
pub struct Operands<'m> {
    /// Operator record.
    pub record: OpRecord,
    /// All tensor records, encoded.
    pub tensors: &'m [u8],
    /// The `Weights` section.
    pub weights: &'m [u8],
    /// The values of weights and tables were proven when the firmware was built: no look at them is needed, and the bounds
    /// of the certificate are theirs.
    pub proven: bool,
}

impl<'m> Operands<'m> {
    /// The record of tensor `index`.
    pub fn tensor(tensors: &[u8], index: u16) -> Option<TensorRecord> {
        TensorRecord::decode(tensors.chunks_exact(TensorRecord::BYTES).nth(usize::from(index))?)
    }

    /// Input `index`, where there is one.
    pub fn input(&self, index: usize) -> Option<TensorRecord> {
        Self::tensor(self.tensors, *self.record.inputs.get(index)?)
    }

    /// The output.
    ///
    /// # Errors
    /// [`OpFault::Operand`] when it is missing.
    pub fn output(&self) -> Result<TensorRecord, OpFault> {
        Self::tensor(self.tensors, self.record.output).ok_or(OpFault::Operand)
    }

    /// Input `index` with at least `len` elements of one of the types `dtypes`.
    ///
    /// # Errors
    /// [`OpFault::Operand`] otherwise.
    pub fn need_input(&self, index: usize, dtypes: &[Dtype], len: u64) -> Result<TensorRecord, OpFault> {
        let tensor = self.input(index).ok_or(OpFault::Operand)?;
        require(dtypes.contains(&tensor.dtype) && tensor.len() as u64 >= len, OpFault::Operand)?;
        Ok(tensor)
    }

    /// The output with `len` elements, no more and no fewer, of one of the types `dtypes`.
    ///
    /// # Errors
    /// [`OpFault::Operand`] otherwise.
    pub fn need_output(&self, dtypes: &[Dtype], len: u64) -> Result<TensorRecord, OpFault> {
        let tensor = self.need_room(dtypes, len)?;
        require(tensor.len() as u64 == len, OpFault::Operand)?;
        Ok(tensor)
    }

    /// The output with at least `len` elements of one of the types `dtypes`, where other operators write the rest.
    ///
    /// # Errors
    /// [`OpFault::Operand`] otherwise.
    pub(super) fn need_room(&self, dtypes: &[Dtype], len: u64) -> Result<TensorRecord, OpFault> {
        let tensor = self.output()?;
        let fits = dtypes.contains(&tensor.dtype) && tensor.len() as u64 >= len && tensor.place == Place::Arena;
        require(fits, OpFault::Operand)?;
        Ok(tensor)
    }

    /// A blob of exactly `bytes` bytes, 16-byte aligned.
    ///
    /// # Errors
    /// [`OpFault::Blob`] otherwise.
    pub fn need_blob(&self, blob: Blob, bytes: u64) -> Result<&'m [u8], OpFault> {
        let whole = u64::from(blob.bytes) == bytes && blob.offset.is_multiple_of(16);
        require(whole, OpFault::Blob)?;
        blob.of(self.weights).ok_or(OpFault::Blob)
    }
}
