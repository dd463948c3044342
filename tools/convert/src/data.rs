//! Data sets: npz files whose arrays have the sample as their first axis.
//!
//! `in_<input name>` is required per input, `out_<output name>` and `label` are optional.

use crate::files;
use crate::model_file::Values;
use crate::npz::NpzReader;
use half::f16;
use npyz::{NpyFile, Order};
use std::io::{Cursor, Read};
use std::path::Path;

/// The arrays of one npz file.
#[derive(Clone, Debug)]
pub struct Dataset {
    arrays: Vec<(String, Array)>,
    samples: usize,
    /// Names of arrays that follow no convention.
    unread: Vec<String>,
}

/// An array, row major, sample first.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    /// Dimensions; the first counts samples.
    pub shape: Vec<usize>,
    /// All values: `u8` as they are, integers and booleans as `i64`, floats as `f32`.
    pub values: Values,
}

/// Why a data set cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}; check the path")]
    Read {
        /// The path.
        path: String,
        /// The cause.
        source: std::io::Error,
    },
    /// The file is no npz.
    #[error("{path} is not an npz file ({why}); write one with numpy.savez")]
    NotNpz {
        /// The path.
        path: String,
        /// What the reader says.
        why: String,
    },
    /// No array is named by the convention.
    #[error("{path} has no arrays `in_<input name>` (it has: {found}); name the arrays so")]
    NoInputs {
        /// The path.
        path: String,
        /// Names that are there.
        found: String,
    },
    /// There is not a single sample.
    #[error("{0} holds no samples; give at least one")]
    Empty(String),
    /// Arrays differ in their first dimension.
    #[error("{path}: `{name}` has {given} samples, `{first}` has {expected}; all arrays need the same first dimension")]
    SampleCount {
        /// The path.
        path: String,
        /// First array.
        first: String,
        /// Its samples.
        expected: usize,
        /// The other array.
        name: String,
        /// Its samples.
        given: usize,
    },
    /// The element type is not supported.
    #[error("{path}: `{name}` has element type {dtype}; use u8, i8, i16, i32, i64, f16, f32, f64 or bool")]
    Dtype {
        /// The path.
        path: String,
        /// The array.
        name: String,
        /// Its type.
        dtype: String,
    },
}

impl Array {
    /// Elements of one sample.
    pub fn sample_len(&self) -> usize {
        self.shape.iter().skip(1).product()
    }

    /// Whether the samples can be of `shape`: the same dimensions after those of size 1 are removed, neighbours merged at
    /// most. Axes in another order do not fit, though their number of values does.
    pub fn fits(&self, shape: &[usize]) -> bool {
        let ends = |dims: &[usize]| -> Vec<usize> {
            let mut product = 1;
            let ends = dims.iter().filter(|&&d| d != 1).map(|&d| {
                product *= d;
                product
            });
            ends.collect()
        };
        let (own, other) = (ends(self.shape.get(1..).unwrap_or(&[])), ends(shape));
        let within = |few: &[usize], many: &[usize]| few.iter().all(|end| many.contains(end));
        own.last() == other.last() && (within(&own, &other) || within(&other, &own))
    }

    /// The values of sample `index`; none when there is no such sample.
    pub fn sample(&self, index: usize) -> Values {
        let len = self.sample_len();
        fn part<T: Clone>(values: &[T], index: usize, len: usize) -> Vec<T> {
            values.get(index * len..(index + 1) * len).map_or_else(Vec::new, <[T]>::to_vec)
        }
        match &self.values {
            Values::U8(v) => Values::U8(part(v, index, len)),
            Values::Int(v) => Values::Int(part(v, index, len)),
            Values::Float(v) => Values::Float(part(v, index, len)),
        }
    }
}

impl Dataset {
    /// Reads the arrays `in_*`, `out_*` and `label` of a file; others are ignored.
    ///
    /// # Errors
    /// [`DataError`]; each says what to change.
    pub fn open(path: &Path) -> Result<Self, DataError> {
        let name = path.display().to_string();
        let bytes = files::read(path).map_err(|source| DataError::Read { path: name.clone(), source })?;
        Self::from_bytes(bytes, &name)
    }

    /// [`open`](Self::open) for the contents of a file; `path` names it in errors.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn from_bytes(bytes: Vec<u8>, path: &str) -> Result<Self, DataError> {
        let broken = |why: &dyn std::fmt::Display| DataError::NotNpz { path: path.to_owned(), why: why.to_string() };
        let mut npz = NpzReader::new(Cursor::new(bytes)).map_err(|e| broken(&e))?;
        let mut names: Vec<String> = npz.names().map(str::to_owned).collect();
        names.sort();
        let known = |name: &&String| name.starts_with("in_") || name.starts_with("out_") || *name == "label";
        let mut arrays = Vec::new();
        for name in names.iter().filter(known) {
            let file = npz.array(name).map_err(|e| broken(&e))?.ok_or_else(|| broken(&"an entry is missing"))?;
            let dtype = file.dtype().descr();
            let array = read_array(file).map_err(|e| broken(&format!("`{name}`: {e}")))?;
            let array = array.ok_or_else(|| DataError::Dtype { path: path.to_owned(), name: name.clone(), dtype })?;
            arrays.push((name.clone(), array));
        }
        let unread = names.into_iter().filter(|name| !known(&name)).collect();
        Self::of_known(arrays, unread, path)
    }

    /// The arrays `in_*`, `out_*` and `label` of those in memory; `origin` names them in errors.
    ///
    /// # Errors
    /// [`DataError`]; each says what to change.
    pub fn from_arrays(arrays: Vec<(String, Array)>, origin: &str) -> Result<Self, DataError> {
        let known = |name: &str| name.starts_with("in_") || name.starts_with("out_") || name == "label";
        let (arrays, others): (Vec<_>, Vec<_>) = arrays.into_iter().partition(|(name, _)| known(name));
        Self::of_known(arrays, others.into_iter().map(|(name, _)| name).collect(), origin)
    }

    fn of_known(arrays: Vec<(String, Array)>, unread: Vec<String>, path: &str) -> Result<Self, DataError> {
        if !arrays.iter().any(|(name, _)| name.starts_with("in_")) {
            let names = arrays.iter().map(|(name, _)| name).chain(&unread);
            let found = names.cloned().collect::<Vec<_>>().join(", ");
            return Err(DataError::NoInputs { path: path.to_owned(), found });
        }
        let count = |array: &Array| array.shape.first().copied().unwrap_or(0);
        let (first, expected) = (arrays[0].0.clone(), count(&arrays[0].1));
        if let Some((name, array)) = arrays.iter().find(|(_, a)| count(a) != expected) {
            let (path, name) = (path.to_owned(), name.clone());
            return Err(DataError::SampleCount { path, first, expected, name, given: count(array) });
        }
        if expected == 0 {
            return Err(DataError::Empty(path.to_owned()));
        }
        Ok(Self { arrays, samples: expected, unread })
    }

    /// Number of samples, at least 1.
    pub fn samples(&self) -> usize {
        self.samples
    }

    /// Names of all arrays that were read.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.arrays.iter().map(|(name, _)| name.as_str())
    }

    /// Names of arrays that were not read, since they are named otherwise.
    pub fn unread(&self) -> impl Iterator<Item = &str> {
        self.unread.iter().map(String::as_str)
    }

    /// Names of the arrays `out_<name>`, without the prefix.
    pub fn output_names(&self) -> impl Iterator<Item = &str> {
        self.names().filter_map(|name| name.strip_prefix("out_"))
    }

    /// The array `in_<name>`.
    pub fn input(&self, name: &str) -> Option<&Array> {
        self.array(&format!("in_{name}"))
    }

    /// The array `out_<name>`.
    pub fn output(&self, name: &str) -> Option<&Array> {
        self.array(&format!("out_{name}"))
    }

    /// The array `label`.
    pub fn labels(&self) -> Option<&Array> {
        self.array("label")
    }

    fn array(&self, name: &str) -> Option<&Array> {
        self.arrays.iter().find(|(n, _)| n == name).map(|(_, array)| array)
    }
}

/// The arrays of the npz file at `path` whose names are `wanted`.
///
/// # Errors
/// [`DataError`]; each says what to change.
pub fn read_arrays(path: &Path, wanted: &dyn Fn(&str) -> bool) -> Result<Vec<(String, Array)>, DataError> {
    let name = path.display().to_string();
    let bytes = files::read(path).map_err(|source| DataError::Read { path: name.clone(), source })?;
    let broken = |why: &dyn std::fmt::Display| DataError::NotNpz { path: name.clone(), why: why.to_string() };
    let mut npz = NpzReader::new(Cursor::new(bytes)).map_err(|e| broken(&e))?;
    let mut names: Vec<String> = npz.names().map(str::to_owned).collect();
    names.sort();
    let mut arrays = Vec::new();
    for array_name in names.into_iter().filter(|array| wanted(array)) {
        let file = npz.array(&array_name).map_err(|e| broken(&e))?.ok_or_else(|| broken(&"an entry is missing"))?;
        let dtype = file.dtype().descr();
        let array = read_array(file).map_err(|e| broken(&format!("`{array_name}`: {e}")))?;
        let array = array.ok_or_else(|| DataError::Dtype { path: name.clone(), name: array_name.clone(), dtype })?;
        arrays.push((array_name, array));
    }
    Ok(arrays)
}

/// Reads one array; `None` for an element type that is not supported.
fn read_array<R: Read>(file: NpyFile<R>) -> std::io::Result<Option<Array>> {
    let invalid = || std::io::Error::from(std::io::ErrorKind::InvalidData);
    let shape: Option<Vec<usize>> = file.shape().iter().map(|&d| usize::try_from(d).ok()).collect();
    let shape = shape.ok_or_else(invalid)?;
    let fortran = file.order() == Order::Fortran;
    let descr = file.dtype().descr();
    let ints = |values: Vec<i64>| Some(Values::Int(values));
    let values = match descr.trim_matches('\'').trim_start_matches(['<', '|', '=']) {
        "u1" => Some(Values::U8(file.into_vec()?)),
        "b1" => ints(file.into_vec::<bool>()?.into_iter().map(i64::from).collect()),
        "i1" => ints(file.into_vec::<i8>()?.into_iter().map(i64::from).collect()),
        "i2" => ints(file.into_vec::<i16>()?.into_iter().map(i64::from).collect()),
        "i4" => ints(file.into_vec::<i32>()?.into_iter().map(i64::from).collect()),
        "i8" => ints(file.into_vec()?),
        "f2" => Some(Values::Float(file.into_vec::<f16>()?.into_iter().map(f32::from).collect())),
        "f4" => Some(Values::Float(file.into_vec()?)),
        "f8" => Some(Values::Float(file.into_vec::<f64>()?.into_iter().map(|v| v as f32).collect())),
        _ => None,
    };
    let Some(values) = values else { return Ok(None) };
    let elements = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
    if elements != Some(values.len()) {
        return Err(invalid());
    }
    let values = match values {
        Values::U8(v) if fortran => Values::U8(row_major(&v, &shape)),
        Values::Int(v) if fortran => Values::Int(row_major(&v, &shape)),
        Values::Float(v) if fortran => Values::Float(row_major(&v, &shape)),
        values => values,
    };
    Ok(Some(Array { shape, values }))
}

/// Values stored with the first dimension fastest, reordered to have the last fastest.
fn row_major<T: Copy>(values: &[T], shape: &[usize]) -> Vec<T> {
    let position = |mut index: usize| {
        let (mut offset, mut total) = (0, values.len());
        for &dim in shape.iter().rev() {
            total /= dim.max(1);
            offset += index % dim.max(1) * total;
            index /= dim.max(1);
        }
        offset
    };
    (0..values.len()).filter_map(|i| values.get(position(i)).copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::npz::NpzWriter;

    fn npz(arrays: &[(&str, &[u64], Order, &[f32])]) -> Vec<u8> {
        let mut npz = NpzWriter::new(Cursor::new(Vec::new()));
        for (name, shape, order, values) in arrays {
            npz.add_in_order(name, shape, *order, values.iter().copied()).unwrap();
        }
        npz.finish().unwrap().into_inner()
    }

    #[test]
    fn fortran_order_becomes_row_major() {
        let values = [1.0, 4.0, 2.0, 5.0, 3.0, 6.0];
        let data = Dataset::from_bytes(npz(&[("in_x", &[2, 3], Order::Fortran, &values)]), "t").unwrap();
        assert_eq!(data.input("x").unwrap().sample(1), Values::Float(vec![4.0, 5.0, 6.0]));
    }

    #[test]
    fn axes_in_another_order_do_not_fit() {
        let array = |dims: &[usize]| Array { shape: [&[3], dims].concat(), values: Values::U8(Vec::new()) };
        for same in [&[16, 32][..], &[1, 16, 32], &[512], &[16, 4, 8]] {
            assert!(array(same).fits(&[1, 16, 32]), "{same:?}");
        }
        for other in [&[32, 16][..], &[1, 32, 16], &[16, 31], &[8, 64, 1], &[]] {
            assert!(!array(other).fits(&[1, 16, 32]), "{other:?}");
        }
        assert!(array(&[]).fits(&[1]) && array(&[1]).fits(&[]));
    }

    #[test]
    fn faults_are_named() {
        let message = |bytes: Vec<u8>| Dataset::from_bytes(bytes, "t.npz").unwrap_err().to_string();
        assert!(message(b"no zip".to_vec()).contains("not an npz file"));
        assert!(message(npz(&[("x", &[1], Order::C, &[0.0])])).contains("(it has: x)"));
        assert!(message(npz(&[("in_x", &[0, 3], Order::C, &[])])).contains("no samples"));
        let uneven = npz(&[("in_x", &[2], Order::C, &[0.0; 2]), ("out_y", &[3], Order::C, &[0.0; 3])]);
        assert!(message(uneven).contains("`out_y` has 3 samples, `in_x` has 2"));
    }

    #[test]
    fn the_bundled_digits_open() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/digits/eval.npz");
        let data = Dataset::open(&path).unwrap();
        assert_eq!((data.samples(), data.labels().unwrap().sample_len()), (360, 1));
        assert!(matches!(data.input("image").unwrap().sample(359), Values::U8(v) if v.len() == 64));
    }
}
