//! Golden vectors of the published I-ViT operators: a folder of `.npz` arrays with an `index.json`.
//!
//! Each entry of the index has a `name` (of its file), an `op` and the operator's constants:
//!
//! | `op` | constants | arrays |
//! |---|---|---|
//! | `shiftmax` | `in_scale`, `n`, `out_bits` | `x`, `y`: `[.., n]` |
//! | `shiftgelu` | `in_scale`, `n`, `sigmoid_bits` | `x`, `y`: `[.., n]` |
//! | `ilayernorm` | none | `x`, `y`: `[.., n]`; `bias_int`: `[n]` |
//! | `requantize` | `out_bits` | `acc`, `y`: any shape; `mult`, `shift`: broadcast to it; with a residual branch also `identity`, `identity_mult`, `identity_shift`, `y_with_identity` |

use serde::Deserialize;
use shiftformer::arith::ivit;
use shiftformer_convert::npz::NpzReader;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

/// How many vectors agreed and how many did not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Vectors whose every value is equal.
    pub passed: usize,
    /// The others.
    pub failed: usize,
}

/// Why a folder cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum GoldenError {
    /// The index is missing or unreadable.
    #[error("{}: {source}; give the folder that holds index.json", path.display())]
    Open {
        /// What was opened.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The index is not of this form.
    #[error("{}: {source}", path.display())]
    Index {
        /// The index.
        path: PathBuf,
        /// Where it departs from the form.
        source: serde_json::Error,
    },
}

/// Why one vector did not pass.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// A value differs.
    #[error("`{array}` at {position:?}: stored {stored}, computed {computed} ({count} of {len} values differ)")]
    Value {
        /// Which array.
        array: &'static str,
        /// Position of the first difference.
        position: Vec<usize>,
        /// Value in the file.
        stored: i64,
        /// Value of this implementation.
        computed: i64,
        /// Differing values.
        count: usize,
        /// All values.
        len: usize,
    },
    /// The file cannot be read.
    #[error("cannot be read: {0}")]
    Read(#[from] std::io::Error),
    /// An array or a constant is missing.
    #[error("`{0}` is missing")]
    Missing(&'static str),
    /// An array has another type or shape, or a value out of the operator's range.
    #[error("`{0}` has a type, shape or value this operator does not take")]
    Form(&'static str),
    /// The operator is not known.
    #[error("operator `{0}` is not one of shiftmax, shiftgelu, ilayernorm, requantize")]
    Operator(String),
}

/// One entry of the index.
#[derive(Debug, Deserialize)]
struct Entry {
    name: String,
    op: String,
    in_scale: Option<f64>,
    n: Option<u32>,
    out_bits: Option<u32>,
    sigmoid_bits: Option<u32>,
}

/// Runs every vector of `folder`; `report` hears of each, in the order of the index.
///
/// # Errors
/// [`GoldenError`] when there is no index to run. A vector that cannot be read counts as failed.
pub fn run(folder: &Path, mut report: impl FnMut(&str, &Result<(), Failure>)) -> Result<Summary, GoldenError> {
    let path = folder.join("index.json");
    let file = File::open(&path).map_err(|source| GoldenError::Open { path: path.clone(), source })?;
    let entries: Vec<Entry> =
        serde_json::from_reader(BufReader::new(file)).map_err(|source| GoldenError::Index { path, source })?;
    let mut summary = Summary::default();
    for entry in &entries {
        let result = run_entry(folder, entry);
        report(&entry.name, &result);
        if result.is_ok() { summary.passed += 1 } else { summary.failed += 1 }
    }
    Ok(summary)
}

fn run_entry(folder: &Path, entry: &Entry) -> Result<(), Failure> {
    let file = BufReader::new(File::open(folder.join(format!("{}.npz", entry.name)))?);
    let mut arrays = Arrays(NpzReader::new(file)?);
    match entry.op.as_str() {
        "shiftmax" => shiftmax(entry, &mut arrays),
        "shiftgelu" => shiftgelu(entry, &mut arrays),
        "ilayernorm" => ilayernorm(&mut arrays),
        "requantize" => requantize(entry, &mut arrays),
        other => Err(Failure::Operator(other.to_owned())),
    }
}

/// `-floor(-1 / scale)` and `n` as the exponential of [`ivit`]; `factor` is what the operator multiplies the scale with.
fn shift_exp(entry: &Entry, factor: f64) -> Result<ivit::ShiftExp, Failure> {
    let scale = entry.in_scale.ok_or(Failure::Missing("in_scale"))? * factor;
    let period = -(-1.0 / scale).floor();
    if !(1.0..=f64::from(u32::MAX)).contains(&period) {
        return Err(Failure::Form("in_scale"));
    }
    ivit::ShiftExp::new(period as u32, entry.n.ok_or(Failure::Missing("n"))?).ok_or(Failure::Form("in_scale"))
}

fn shiftmax(entry: &Entry, arrays: &mut Arrays) -> Result<(), Failure> {
    let exp = shift_exp(entry, 1.0)?;
    let bits = entry.out_bits.ok_or(Failure::Missing("out_bits"))?;
    let (x, y) = (arrays.get("x")?, arrays.get("y")?);
    let mut computed = Vec::new();
    for row in x.rows()? {
        let statistics = ivit::ShiftmaxRow::new(exp, bits, row.iter().copied());
        computed.extend(row.iter().map(|&x| statistics.probability(x)));
    }
    y.compare("y", &computed)
}

/// Factor of the sigmoid that approximates GELU.
const GELU_FACTOR: f64 = 1.702;

fn shiftgelu(entry: &Entry, arrays: &mut Arrays) -> Result<(), Failure> {
    let exp = shift_exp(entry, GELU_FACTOR)?;
    let bits = entry.sigmoid_bits.ok_or(Failure::Missing("sigmoid_bits"))?;
    let (x, y) = (arrays.get("x")?, arrays.get("y")?);
    let mut computed = Vec::new();
    for row in x.rows()? {
        let statistics = ivit::ShiftGeluRow::new(exp, bits, row.iter().copied());
        computed.extend(row.iter().map(|&x| statistics.gelu(x)));
    }
    y.compare("y", &computed)
}

fn ilayernorm(arrays: &mut Arrays) -> Result<(), Failure> {
    let (x, bias, y) = (arrays.get("x")?, arrays.get("bias_int")?, arrays.get("y")?);
    if bias.values.len() != x.width() {
        return Err(Failure::Form("bias_int"));
    }
    let mut computed = Vec::new();
    for row in x.rows()? {
        let statistics = ivit::ILayerNormRow::new(row.iter().copied());
        computed.extend(row.iter().zip(&bias.values).map(|(&x, &bias)| statistics.normalize(x, bias)));
    }
    y.compare("y", &computed)
}

fn requantize(entry: &Entry, arrays: &mut Arrays) -> Result<(), Failure> {
    let bits = entry.out_bits.filter(|bits| (1..=32).contains(bits)).ok_or(Failure::Missing("out_bits"))?;
    let (acc, y) = (arrays.get("acc")?, arrays.get("y")?);
    let ratios = arrays.ratios(["mult", "shift"], &acc.shape)?;
    let acc = acc.narrow("acc")?;
    let computed: Vec<i64> =
        acc.iter().zip(&ratios).map(|(&acc, &ratio)| i64::from(ivit::requantize(acc, ratio, bits))).collect();
    y.compare("y", &computed)?;
    if !arrays.has("identity") {
        return Ok(());
    }
    let (identity, y) = (arrays.get("identity")?, arrays.get("y_with_identity")?);
    let identity_ratios = arrays.ratios(["identity_mult", "identity_shift"], &identity.shape)?;
    let identity = identity.narrow("identity")?;
    let branches = acc.iter().zip(&ratios).zip(identity.iter().zip(&identity_ratios));
    let computed: Vec<i64> = branches
        .map(|((&acc, &ratio), (&identity, &own))| i64::from(ivit::requantize_add(acc, ratio, identity, own, bits)))
        .collect();
    y.compare("y_with_identity", &computed)
}

/// Integers, row major.
struct Array {
    name: &'static str,
    shape: Vec<usize>,
    values: Vec<i64>,
}

impl Array {
    fn width(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    fn narrow(&self, name: &'static str) -> Result<Vec<i32>, Failure> {
        self.values.iter().map(|&v| i32::try_from(v).map_err(|_| Failure::Form(name))).collect()
    }

    /// Rows of the last dimension.
    fn rows(&self) -> Result<Vec<Vec<i32>>, Failure> {
        let values = self.narrow(self.name)?;
        Ok(values.chunks(self.width().max(1)).map(<[i32]>::to_vec).collect())
    }

    fn compare(&self, array: &'static str, computed: &[i64]) -> Result<(), Failure> {
        if self.values.len() != computed.len() {
            return Err(Failure::Form(array));
        }
        let differs = |i: &usize| self.values[*i] != computed[*i];
        let Some(first) = (0..computed.len()).find(differs) else { return Ok(()) };
        let mut rest = first;
        let mut position: Vec<usize> = Vec::new();
        for &dim in self.shape.iter().rev() {
            position.insert(0, rest % dim);
            rest /= dim;
        }
        Err(Failure::Value {
            array,
            position,
            stored: self.values[first],
            computed: computed[first],
            count: (0..computed.len()).filter(differs).count(),
            len: computed.len(),
        })
    }

    /// The values repeated along missing and unit dimensions, as numpy broadcasts.
    fn broadcast(&self, shape: &[usize]) -> Result<Vec<i64>, Failure> {
        let missing = shape.len().checked_sub(self.shape.len()).ok_or(Failure::Form(self.name))?;
        let fits = self.shape.iter().zip(&shape[missing..]).all(|(&own, &dim)| own == dim || own == 1);
        if !fits {
            return Err(Failure::Form(self.name));
        }
        let len: usize = shape.iter().product();
        let index = |flat: usize| {
            let (mut rest, mut stride, mut at) = (flat, 1, 0);
            for (axis, &dim) in shape.iter().enumerate().rev() {
                let own = if axis < missing { 1 } else { self.shape[axis - missing] };
                if own != 1 {
                    at += rest % dim * stride;
                }
                stride *= own;
                rest /= dim;
            }
            at
        };
        Ok((0..len).map(|flat| self.values[index(flat)]).collect())
    }
}

/// The arrays of one file.
struct Arrays(NpzReader<BufReader<File>>);

impl Arrays {
    fn has(&self, name: &str) -> bool {
        self.0.names().any(|n| n == name)
    }

    fn get(&mut self, name: &'static str) -> Result<Array, Failure> {
        let file = self.0.array(name)?.ok_or(Failure::Missing(name))?;
        let shape: Vec<usize> = file.shape().iter().map(|&d| d as usize).collect();
        let order = file.order();
        let values = integers(file, name)?;
        let values = if order == npyz::Order::Fortran { row_major(&shape, &values) } else { values };
        Ok(Array { name, shape, values })
    }

    /// Multipliers and shifts, broadcast to `shape`.
    fn ratios(&mut self, names: [&'static str; 2], shape: &[usize]) -> Result<Vec<ivit::Dyadic>, Failure> {
        let [multipliers, shifts] = [self.get(names[0])?.broadcast(shape)?, self.get(names[1])?.broadcast(shape)?];
        let ratio = |(&multiplier, &shift): (&i64, &i64)| {
            if multiplier.unsigned_abs() > ivit::MAX_MULTIPLIER as u64 {
                return Err(Failure::Form(names[0]));
            }
            let shift = u32::try_from(shift).map_err(|_| Failure::Form(names[1]))?;
            Ok(ivit::Dyadic { multiplier, shift })
        };
        multipliers.iter().zip(&shifts).map(ratio).collect()
    }
}

/// The elements of an integer array of any width, or of a float array of whole numbers.
fn integers<R: Read>(file: npyz::NpyFile<R>, name: &'static str) -> Result<Vec<i64>, Failure> {
    fn all<T: npyz::Deserialize, R: Read>(file: npyz::NpyFile<R>) -> Result<Result<Vec<T>, npyz::NpyFile<R>>, Failure> {
        match file.try_data::<T>() {
            Ok(data) => Ok(Ok(data.collect::<Result<_, _>>()?)),
            Err(file) => Ok(Err(file)),
        }
    }
    macro_rules! try_types {
        ($file:ident, $($ty:ty),*) => { $(
            let $file = match all::<$ty, R>($file)? {
                Ok(values) => return Ok(values.into_iter().map(i64::from).collect()),
                Err(file) => file,
            };
        )* };
    }
    try_types!(file, i32, i64, i16, i8, u8, u16, u32);
    let values = all::<f64, R>(file)?.map_err(|_| Failure::Form(name))?;
    let whole = |v: f64| (v.fract() == 0.0 && v.abs() < 2f64.powi(53)).then_some(v as i64).ok_or(Failure::Form(name));
    values.into_iter().map(whole).collect()
}

/// Column-major `values` of this shape in row-major order.
fn row_major(shape: &[usize], values: &[i64]) -> Vec<i64> {
    let index = |flat: usize| {
        let (mut rest, mut at) = (flat, 0);
        for (axis, &dim) in shape.iter().enumerate().rev() {
            at += rest % dim * shape[..axis].iter().product::<usize>();
            rest /= dim;
        }
        at
    };
    (0..values.len()).map(|flat| values[index(flat)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn array(shape: &[usize], values: &[i64]) -> Array {
        Array { name: "test", shape: shape.to_vec(), values: values.to_vec() }
    }

    #[test]
    fn arrays_broadcast_as_in_numpy() {
        assert_eq!(array(&[3], &[1, 2, 3]).broadcast(&[2, 3]).unwrap(), [1, 2, 3, 1, 2, 3]);
        assert_eq!(array(&[2, 1], &[1, 2]).broadcast(&[2, 3]).unwrap(), [1, 1, 1, 2, 2, 2]);
        assert_eq!(array(&[1], &[7]).broadcast(&[2, 1]).unwrap(), [7, 7]);
        assert!(array(&[2], &[1, 2]).broadcast(&[2, 3]).is_err());
    }

    #[test]
    fn column_major_arrays_are_reordered() {
        assert_eq!(row_major(&[2, 3], &[1, 4, 2, 5, 3, 6]), [1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn the_first_difference_is_named() {
        let failure = array(&[2, 3], &[0, 0, 0, 0, 5, 6]).compare("y", &[0; 6]).unwrap_err();
        let text = failure.to_string();
        assert_eq!(text, "`y` at [1, 1]: stored 5, computed 0 (2 of 6 values differ)");
    }
}
