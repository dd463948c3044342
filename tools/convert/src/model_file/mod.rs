//! A `.sfm` file on the host: aligned bytes, the annotations, and the way between real values and tensor bytes.

pub mod coding;
mod error;
pub mod labels;
pub mod merge_row_blocks;
pub mod parts;
pub mod segments;
mod values;
pub mod whole;

use crate::files;
use crate::pack::{AnnotatedTensor, Annotations};
use crate::program::Endpoint;
use coding::Coding;
pub use coding::{dequantize, integers};
pub use error::ModelFileError;
use shiftformer::format::{SectionKind, TensorRecord};
use shiftformer::kernels::{Kernels, Portable};
use shiftformer::ops::OpTable;
use shiftformer::tensor::Dtype;
use shiftformer::{AlignedBytes, Model, ModelError};
use std::path::Path;
pub use values::Values;

/// A checked model in memory, at an address the runtime accepts.
#[derive(Clone, Debug)]
pub struct ModelFile {
    bytes: AlignedBytes,
    annotations: Annotations,
    input_codings: Vec<Coding>,
    output_codings: Vec<Coding>,
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
        let (input_codings, output_codings) = (Vec::new(), Vec::new());
        let (bytes, annotations) = (AlignedBytes::from(bytes), Annotations::default());
        let mut file = Self { bytes, annotations, input_codings, output_codings };
        let model = file.open::<Portable>()?;
        let section = model.sections().get(SectionKind::Annotations);
        let annotations = if section.is_empty() {
            nameless(&model)
        } else {
            serde_json::from_slice(section).map_err(ModelFileError::Annotations)?
        };
        let unit = |tensor| units(&annotations, tensor);
        let inputs = Coding::inputs(&model, &annotations.inputs, unit);
        let outputs = Coding::outputs(&model, &annotations.outputs, unit);
        (file.annotations, file.input_codings, file.output_codings) = (annotations, inputs, outputs);
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
        units(&self.annotations, tensor)
    }

    /// Name of operator `op`.
    pub fn op_name(&self, op: usize) -> &str {
        self.annotations.ops.get(op).map_or("", String::as_str)
    }

    /// The bytes of input `index` for `values`, see [`Coding::encode`].
    ///
    /// # Errors
    /// [`ModelFileError`] when the count differs or a value is not a number.
    pub fn encode(&self, index: usize, values: &Values) -> Result<Vec<u8>, ModelFileError> {
        let Some(input) = self.input_codings.get(index) else {
            let name = format!("input {index}");
            return Err(ModelFileError::Sample { name, expected: 0, given: values.len() });
        };
        input.encode(values)
    }

    /// Whether input `index` clips `values`, see [`Coding::clips_raw_bytes`].
    pub fn clips_raw_bytes(&self, index: usize, values: &Values) -> bool {
        self.input_codings.get(index).is_some_and(|input| input.clips_raw_bytes(values))
    }

    /// Element type of input `index`.
    pub fn input_dtype(&self, index: usize) -> Option<Dtype> {
        self.input_codings.get(index).map(Coding::dtype)
    }

    /// Element type of output `index`.
    pub fn output_dtype(&self, index: usize) -> Option<Dtype> {
        self.output_codings.get(index).map(Coding::dtype)
    }

    /// Name of class `class` of output `output`, where the file has names.
    pub fn label(&self, output: usize, class: usize) -> Option<String> {
        self.open::<Portable>().ok()?.label(output, class).map(str::to_owned)
    }

    /// The real values of output `index`.
    pub fn decode(&self, index: usize, bytes: &[u8]) -> Vec<f32> {
        self.output_codings.get(index).map_or_else(Vec::new, |output| output.decode(bytes))
    }
}

fn units(annotations: &Annotations, tensor: usize) -> (f64, f64) {
    annotations.tensors.get(tensor).map_or((1.0, 0.0), |t| (t.scale, t.zero))
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
