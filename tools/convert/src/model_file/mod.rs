//! A `.sfm` file on the host: aligned bytes, the annotations, and the way between real values and tensor bytes.

pub mod labels;
pub mod merge_row_blocks;
pub mod parts;
pub mod whole;

use crate::files;
use crate::pack::{AnnotatedTensor, Annotations};
use crate::program::Endpoint;
use shiftformer::format::{SectionKind, TensorRecord};
use shiftformer::kernels::{Kernels, Portable};
use shiftformer::ops::{Op, OpTable};
use shiftformer::tensor::Dtype;
use shiftformer::{AlignedBytes, Model, ModelError};
use std::path::Path;

/// A checked model in memory, at an address the runtime accepts.
#[derive(Clone, Debug)]
pub struct ModelFile {
    bytes: AlignedBytes,
    annotations: Annotations,
}

/// Why a model file cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelFileError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}; check the path")]
    Read {
        /// The path.
        path: String,
        /// The cause.
        source: std::io::Error,
    },
    /// The bytes are not a valid model.
    #[error("{0}")]
    Model(#[from] ModelError),
    /// The annotations does not parse.
    #[error("the names and scales of the model do not parse ({0}); convert it again")]
    Annotations(serde_json::Error),
    /// A sample does not fit an input.
    #[error("input `{name}` needs {expected} values per sample, the data has {given}; check the shape in the npz")]
    Sample {
        /// Name of the input.
        name: String,
        /// Elements of the input.
        expected: usize,
        /// Elements given.
        given: usize,
    },
    /// An id outside the table it is looked up in.
    #[error("input `{name}` holds {value}; the table it is looked up in has {rows} rows; check the tokenizer")]
    Id {
        /// Name of the input.
        name: String,
        /// The id.
        value: i32,
        /// Rows of the table.
        rows: u32,
    },
    /// A value cannot be an input.
    #[error("input `{name}` holds {value}, which its integer type cannot hold; clean the data")]
    Value {
        /// Name of the input.
        name: String,
        /// The value met.
        value: String,
    },
}

/// The values of one input for one sample, as they come from the user.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// Raw pixels or bytes.
    U8(Vec<u8>),
    /// Ids, masks.
    Int(Vec<i64>),
    /// Real numbers in the units of the source model.
    Float(Vec<f32>),
}

impl Values {
    /// Number of values.
    pub fn len(&self) -> usize {
        match self {
            Values::U8(v) => v.len(),
            Values::Int(v) => v.len(),
            Values::Float(v) => v.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The values as real numbers; raw pixels through `normalization`, where there is one: `(x / 255 - mean) / std`.
    pub fn to_real(&self, normalization: Option<(f64, f64)>) -> Vec<f32> {
        match (self, normalization) {
            (Values::U8(v), Some((mean, std))) => {
                v.iter().map(|&x| ((f64::from(x) / 255.0 - mean) / std) as f32).collect()
            }
            (Values::U8(v), None) => v.iter().map(|&x| f32::from(x)).collect(),
            (Values::Int(v), _) => v.iter().map(|&x| x as f32).collect(),
            (Values::Float(v), _) => v.clone(),
        }
    }
}

impl ModelFile {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// [`ModelFileError`] when it cannot be read or is not a valid model.
    pub fn read(path: &Path) -> Result<Self, ModelFileError> {
        let fail = |source| ModelFileError::Read { path: path.display().to_string(), source };
        Self::from_bytes(&files::read(path).map_err(fail)?)
    }

    /// Checks a model in memory.
    ///
    /// # Errors
    /// [`ModelFileError`] when it is not a valid model.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ModelFileError> {
        let mut file = Self { bytes: AlignedBytes::from(bytes), annotations: Annotations::default() };
        let model = file.open::<Portable>()?;
        let section = model.sections().get(SectionKind::Annotations);
        let annotations = if section.is_empty() {
            nameless(&model)
        } else {
            serde_json::from_slice(section).map_err(ModelFileError::Annotations)?
        };
        file.annotations = annotations;
        Ok(file)
    }

    /// The bytes, 16-byte aligned.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Opens the model for the kernels `B`.
    ///
    /// # Errors
    /// [`ModelError`]; none once [`ModelFile::from_bytes`] has passed.
    pub fn open<B: Kernels>(&self) -> Result<Model<'_, B>, ModelError> {
        Model::open_with(self.bytes(), OpTable::<B>::ALL)
    }

    /// Names, scales and notes.
    pub fn annotations(&self) -> &Annotations {
        &self.annotations
    }

    /// The inputs in order.
    pub fn inputs(&self) -> &[Endpoint] {
        &self.annotations.inputs
    }

    /// The outputs in order.
    pub fn outputs(&self) -> &[Endpoint] {
        &self.annotations.outputs
    }

    /// Scale and zero of a tensor; 1 and 0 where the file has been stripped of them.
    pub fn units(&self, tensor: usize) -> (f64, f64) {
        self.annotations.tensors.get(tensor).map_or((1.0, 0.0), |t| (t.scale, t.zero))
    }

    /// Name of operator `op`.
    pub fn op_name(&self, op: usize) -> &str {
        self.annotations.ops.get(op).map_or("", String::as_str)
    }

    /// The bytes of input `index` for `values`.
    ///
    /// Raw `u8` values go unchanged into `u8` inputs; everything else is taken as real numbers (integers for token ids)
    /// and quantized with the scale of the input, rounded to nearest, saturated.
    ///
    /// # Errors
    /// [`ModelFileError`] when the count differs or a value is not a number.
    pub fn encode(&self, index: usize, values: &Values) -> Result<Vec<u8>, ModelFileError> {
        let model = self.open::<Portable>()?;
        let (Some(record), Some(endpoint)) = (model.input(index), self.inputs().get(index)) else {
            let name = format!("input {index}");
            return Err(ModelFileError::Sample { name, expected: 0, given: values.len() });
        };
        let name = || endpoint.name.clone();
        if values.len() != record.len() {
            return Err(ModelFileError::Sample { name: name(), expected: record.len(), given: values.len() });
        }
        if let (Values::U8(raw), Dtype::U8) = (values, record.dtype) {
            return Ok(raw.clone());
        }
        let (scale, zero) = self.units(endpoint.tensor);
        // Real numbers in 32 bits have a scale.
        if record.dtype == Dtype::I32 && scale == 1.0 {
            return encode_ids(&endpoint.name, values, id_rows(&model, endpoint.tensor));
        }
        let real = values.to_real(endpoint.normalization);
        let masked = |v: f32| endpoint.masks && v == f32::NEG_INFINITY;
        if let Some(bad) = real.iter().find(|&&v| !v.is_finite() && !masked(v)) {
            return Err(ModelFileError::Value { name: name(), value: bad.to_string() });
        }
        Ok(quantize(&real, &record, scale, zero))
    }

    /// Whether `values` are raw bytes that input `index` takes as they are, 0 to 255, and clips: a model that wants
    /// normalized pixels and was converted without their mean and deviation.
    pub fn clips_raw_bytes(&self, index: usize, values: &Values) -> bool {
        let Ok(model) = self.open::<Portable>() else { return false };
        let (Some(record), Some(endpoint)) = (model.input(index), self.inputs().get(index)) else { return false };
        let real = matches!(record.dtype, Dtype::I8 | Dtype::I16) && endpoint.normalization.is_none();
        let (scale, zero) = self.units(endpoint.tensor);
        let beyond = |&byte: &u8| (f64::from(byte) / scale + zero).round() > f64::from(record.dtype.range().1);
        matches!(values, Values::U8(bytes) if real && bytes.iter().any(beyond))
    }

    /// Element type of input `index`.
    pub fn input_dtype(&self, index: usize) -> Option<Dtype> {
        self.open::<Portable>().ok()?.input(index).map(|record| record.dtype)
    }

    /// Element type of output `index`.
    pub fn output_dtype(&self, index: usize) -> Option<Dtype> {
        self.open::<Portable>().ok()?.output(index).map(|record| record.dtype)
    }

    /// Name of class `class` of output `output`, where the file has names.
    pub fn label(&self, output: usize, class: usize) -> Option<String> {
        self.open::<Portable>().ok()?.label(output, class).map(str::to_owned)
    }

    /// The real values of output `index`.
    pub fn decode(&self, index: usize, bytes: &[u8]) -> Vec<f32> {
        let Some(endpoint) = self.outputs().get(index) else { return Vec::new() };
        let Ok(model) = self.open::<Portable>() else { return Vec::new() };
        let (scale, zero) = self.units(endpoint.tensor);
        let dtype = model.output(index).map_or(Dtype::I8, |t| t.dtype);
        dequantize(bytes, dtype, scale, zero)
    }
}

/// Rows of the smallest table that the input `tensor` is looked up in as it is.
fn id_rows(model: &Model<'_>, tensor: usize) -> Option<u32> {
    let rows = |op: usize| {
        let reads = usize::from(*model.op_record(op)?.inputs.get(1)?) == tensor;
        match Op::decode(model.op_kind(op)?, model.op_params(op)?)? {
            Op::Gather(gather) if reads => Some(gather.rows),
            _ => None,
        }
    };
    (0..model.n_ops()).filter_map(rows).min()
}

/// `rows`: of the table that the ids index; negative ones count from its end.
fn encode_ids(name: &str, values: &Values, rows: Option<u32>) -> Result<Vec<u8>, ModelFileError> {
    let fail = |value: String| ModelFileError::Value { name: name.to_owned(), value };
    let ids: Result<Vec<i32>, ModelFileError> = match values {
        Values::U8(v) => Ok(v.iter().map(|&x| i32::from(x)).collect()),
        Values::Int(v) => v.iter().map(|&x| i32::try_from(x).map_err(|_| fail(x.to_string()))).collect(),
        Values::Float(v) => v
            .iter()
            .map(|&x| if x.fract() == 0.0 && x.abs() < 1e9 { Ok(x as i32) } else { Err(fail(x.to_string())) })
            .collect(),
    };
    let ids = ids?;
    if let Some(rows) = rows
        && let Some(&value) = ids.iter().find(|&&id| !(-i64::from(rows)..i64::from(rows)).contains(&i64::from(id)))
    {
        return Err(ModelFileError::Id { name: name.to_owned(), value, rows });
    }
    Ok(ids.iter().flat_map(|id| id.to_le_bytes()).collect())
}

fn quantize(real: &[f32], record: &TensorRecord, scale: f64, zero: f64) -> Vec<u8> {
    let (low, high) = record.dtype.range();
    let steps =
        real.iter().map(|&v| (f64::from(v) / scale + zero).round().clamp(f64::from(low), f64::from(high)) as i32);
    match record.dtype {
        Dtype::I8 | Dtype::U8 => steps.map(|v| v as u8).collect(),
        Dtype::I16 | Dtype::U16 => steps.flat_map(|v| (v as u16).to_le_bytes()).collect(),
        Dtype::I32 => steps.flat_map(i32::to_le_bytes).collect(),
    }
}

/// `scale * (q - zero)` for every element of `bytes`.
pub fn dequantize(bytes: &[u8], dtype: Dtype, scale: f64, zero: f64) -> Vec<f32> {
    integers(bytes, dtype).into_iter().map(|q| ((f64::from(q) - zero) * scale) as f32).collect()
}

/// The elements of a tensor, widened.
pub fn integers(bytes: &[u8], dtype: Dtype) -> Vec<i32> {
    match dtype {
        Dtype::I8 => bytes.iter().map(|&b| i32::from(b as i8)).collect(),
        Dtype::U8 => bytes.iter().map(|&b| i32::from(b)).collect(),
        Dtype::I16 => bytes.as_chunks::<2>().0.iter().map(|b| i32::from(i16::from_le_bytes(*b))).collect(),
        Dtype::U16 => bytes.as_chunks::<2>().0.iter().map(|b| i32::from(u16::from_le_bytes(*b))).collect(),
        Dtype::I32 => bytes.as_chunks::<4>().0.iter().map(|b| i32::from_le_bytes(*b)).collect(),
    }
}

/// What can be said of a model whose annotations was stripped.
fn nameless(model: &Model<'_>) -> Annotations {
    let endpoint = |kind: &str, i: usize, tensor: Option<usize>, record: Option<TensorRecord>| Endpoint {
        name: format!("{kind}{i}"),
        tensor: tensor.unwrap_or(0),
        shape: record.map_or_else(Vec::new, |r| r.shape().iter().map(|&d| d as usize).collect()),
        normalization: None,
        masks: false,
    };
    let unit = |i: usize| AnnotatedTensor {
        name: format!("tensor{i}"),
        scale: 1.0,
        zero: 0.0,
        source: None,
        column_factors: Vec::new(),
    };
    Annotations {
        inputs: (0..model.n_inputs()).map(|i| endpoint("input", i, model.input_tensor(i), model.input(i))).collect(),
        outputs: (0..model.n_outputs())
            .map(|i| endpoint("output", i, model.output_tensor(i), model.output(i)))
            .collect(),
        tensors: (0..model.sections().n_tensors).map(unit).collect(),
        ops: (0..model.n_ops()).map(|i| format!("op{i}")).collect(),
        ..Annotations::default()
    }
}
