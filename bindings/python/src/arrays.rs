//! Arrays as Python hands them over: contiguous, row major, little endian.

use pyo3::prelude::*;
use pyo3::types::PyBytes;
use shiftformer_cli::Failure;
use shiftformer_convert::data::{Array, Dataset};
use shiftformer_convert::model_file::Values;

/// Name, kind (`u1`, `i8`, `f4` as numpy calls them), shape, bytes.
pub type Given<'py> = (String, String, Vec<usize>, Bound<'py, PyBytes>);

/// The arrays, values as the files of the command have them.
///
/// # Errors
/// [`Failure::Usage`] for a kind that the Python half never sends.
pub fn arrays(given: &[Given<'_>]) -> Result<Vec<(String, Array)>, Failure> {
    let array = |(name, kind, shape, bytes): &Given<'_>| {
        let bytes = bytes.as_bytes();
        let values = match kind.as_str() {
            "u1" => Values::U8(bytes.to_vec()),
            "i8" => Values::Int(bytes.as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b)).collect()),
            "f4" => Values::Float(bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()),
            other => return Err(Failure::Usage(format!("array `{name}` of kind {other}; use u1, i8 or f4"))),
        };
        if shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d)) != Some(values.len()) {
            return Err(Failure::Usage(format!("array `{name}` has {} values for shape {shape:?}", values.len())));
        }
        Ok((name.clone(), Array { shape: shape.clone(), values }))
    };
    given.iter().map(array).collect()
}

/// A data set of arrays named `in_*`, `out_*` and `label`.
///
/// # Errors
/// [`Failure`]; each says what to change.
pub fn dataset(given: &[Given<'_>], origin: &str) -> Result<Dataset, Failure> {
    Ok(Dataset::from_arrays(arrays(given)?, origin).map_err(shiftformer_lab::eval::EvalError::from)?)
}
