//! The way between the real values of a model's inputs and outputs and their bytes.

use super::error::ModelFileError;
use super::values::Values;
use crate::program::Endpoint;
use shiftformer::Model;
use shiftformer::format::TensorRecord;
use shiftformer::kernels::Kernels;
use shiftformer::ops::Op;
use shiftformer::tensor::Dtype;

/// An input or output with the element type and the units of its tensor.
#[derive(Clone, Debug)]
pub struct Coding {
    endpoint: Endpoint,
    record: TensorRecord,
    /// Real units of one step, and the value that stands for 0.
    units: (f64, f64),
    /// Rows of the smallest table that the tensor is looked up in as it is.
    id_rows: Option<u32>,
}

impl Coding {
    /// The inputs of a model with these endpoints; `units` are those of a tensor: scale, and the value that stands for 0.
    pub fn inputs<B: Kernels>(
        model: &Model<'_, B>,
        endpoints: &[Endpoint],
        units: impl Fn(usize) -> (f64, f64),
    ) -> Vec<Self> {
        let coding = |(index, endpoint): (usize, &Endpoint)| {
            let (record, id_rows) = (model.input(index)?, id_rows(model, endpoint.tensor));
            Some(Self { endpoint: endpoint.clone(), record, units: units(endpoint.tensor), id_rows })
        };
        endpoints.iter().enumerate().map_while(coding).collect()
    }

    /// The outputs of a model, as [`inputs`](Self::inputs).
    pub fn outputs<B: Kernels>(
        model: &Model<'_, B>,
        endpoints: &[Endpoint],
        units: impl Fn(usize) -> (f64, f64),
    ) -> Vec<Self> {
        let coding = |(index, endpoint): (usize, &Endpoint)| {
            let record = model.output(index)?;
            Some(Self { endpoint: endpoint.clone(), record, units: units(endpoint.tensor), id_rows: None })
        };
        endpoints.iter().enumerate().map_while(coding).collect()
    }

    /// Element type.
    pub fn dtype(&self) -> Dtype {
        self.record.dtype
    }

    /// The bytes of `values`.
    ///
    /// Raw `u8` values go unchanged into `u8` inputs; everything else is taken as real numbers (integers for token ids)
    /// and quantized with the scale of the input, rounded to nearest, saturated.
    ///
    /// # Errors
    /// [`ModelFileError`] when the count differs or a value is not a number.
    pub fn encode(&self, values: &Values) -> Result<Vec<u8>, ModelFileError> {
        let name = || self.endpoint.name.clone();
        if values.len() != self.record.len() {
            return Err(ModelFileError::Sample { name: name(), expected: self.record.len(), given: values.len() });
        }
        if let (Values::U8(raw), Dtype::U8) = (values, self.record.dtype) {
            return Ok(raw.clone());
        }
        let (scale, zero) = self.units;
        // Real numbers in 32 bits have a scale.
        if self.record.dtype == Dtype::I32 && scale == 1.0 {
            return encode_ids(&self.endpoint.name, values, self.id_rows);
        }
        let real = values.to_real(self.endpoint.normalization);
        let masked = |v: f32| self.endpoint.masks && v == f32::NEG_INFINITY;
        if let Some(bad) = real.iter().find(|&&v| !v.is_finite() && !masked(v)) {
            return Err(ModelFileError::Value { name: name(), value: bad.to_string() });
        }
        Ok(quantize(&real, &self.record, scale, zero))
    }

    /// Whether `values` are raw bytes that the input takes as they are, 0 to 255, and clips: a model that wants normalized
    /// pixels and was converted without their mean and deviation.
    pub fn clips_raw_bytes(&self, values: &Values) -> bool {
        let real = matches!(self.record.dtype, Dtype::I8 | Dtype::I16) && self.endpoint.normalization.is_none();
        let (scale, zero) = self.units;
        let beyond = |&byte: &u8| (f64::from(byte) / scale + zero).round() > f64::from(self.record.dtype.range().1);
        matches!(values, Values::U8(bytes) if real && bytes.iter().any(beyond))
    }

    /// The real values of `bytes`.
    pub fn decode(&self, bytes: &[u8]) -> Vec<f32> {
        dequantize(bytes, self.record.dtype, self.units.0, self.units.1)
    }
}

/// Rows of the smallest table that the input `tensor` is looked up in as it is.
fn id_rows<B: Kernels>(model: &Model<'_, B>, tensor: usize) -> Option<u32> {
    let rows = |op: usize| {
        let reads = |input: usize| Some(usize::from(*model.op_record(op)?.inputs.get(input)?) == tensor);
        match Op::decode(model.op_kind(op)?, model.op_params(op)?)? {
            Op::Gather(gather) => reads(1)?.then_some(gather.rows),
            Op::Embedding(embedding) => reads(0)?.then_some(embedding.limit),
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
