//! A difference as files: a model of the one operator, and its operands as an npz.

use super::side::{BackendRun, Difference, ParityError, operands};
use crate::backend::Sample;
use shiftformer::kernels::Portable;
use shiftformer::tensor::Dtype;
use shiftformer_convert::model_file::parts::ModelParts;
use shiftformer_convert::model_file::{ModelFile, ModelFileError, integers};
use shiftformer_convert::npz::NpzWriter;

/// The smallest model and data that show a difference again.
pub struct Reproducer {
    /// Bytes of the `.sfm`.
    pub model: Vec<u8>,
    /// Bytes of the `.npz` with one sample.
    pub data: Vec<u8>,
}

impl Reproducer {
    /// For `difference`, found on `sample`; operands are those of the reference.
    ///
    /// # Errors
    /// [`ParityError`] when the reference fails; `Ok(None)` when the operator cannot stand alone.
    pub fn of(
        model: &ModelFile,
        reference: &BackendRun,
        difference: &Difference,
        sample: &Sample,
    ) -> Result<Option<Self>, ParityError> {
        let opened = model.open::<Portable>().map_err(ModelFileError::from)?;
        let Some(single) = ModelParts::of(&opened, model.annotations()).single_op(difference.op) else {
            return Ok(None);
        };
        let operands = operands(model, &mut reference.open()?, sample, difference.op)?;
        let Ok(bytes) = single.write() else { return Ok(None) };
        Ok(npz(&ModelFile::from_bytes(&bytes)?, &operands).map(|data| Self { model: bytes, data }))
    }
}

/// One sample as an npz, in the integer types of the model.
fn npz(model: &ModelFile, sample: &Sample) -> Option<Vec<u8>> {
    let opened = model.open::<Portable>().ok()?;
    let mut npz = NpzWriter::new(std::io::Cursor::new(Vec::new()));
    for (index, (endpoint, bytes)) in model.inputs().iter().zip(sample).enumerate() {
        let record = opened.input(index)?;
        let shape: Vec<u64> = std::iter::once(1).chain(record.shape().iter().map(|&d| u64::from(d))).collect();
        let values = integers(bytes, record.dtype);
        let name = format!("in_{}", endpoint.name);
        match record.dtype {
            Dtype::I8 => npz.add(&name, &shape, values.iter().map(|&v| v as i8)),
            Dtype::U8 => npz.add(&name, &shape, values.iter().map(|&v| v as u8)),
            Dtype::I16 | Dtype::U16 | Dtype::I32 => npz.add(&name, &shape, values.iter().copied()),
        }
        .ok()?;
    }
    Some(npz.finish().ok()?.into_inner())
}
