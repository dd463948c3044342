//! A side of a comparison, and what is said of the first difference.

use crate::backend::{self, Backend, BackendError, Sample};
use serde::Serialize;
use shiftformer::format::Place;
use shiftformer::kernels::Portable;
use shiftformer::tensor::Dtype;
use shiftformer_convert::model_file::parts::ModelParts;
use shiftformer_convert::model_file::{ModelFile, ModelFileError, integers};
use shiftformer_convert::pack::PackError;

/// Why backends cannot be compared.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ParityError {
    /// A backend failed.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// A model made for the comparison cannot be written.
    #[error("cannot make a model for the comparison: {0}")]
    Pack(#[from] PackError),
    /// A model made for the comparison cannot be opened.
    #[error("cannot open a model made for the comparison: {0}")]
    Model(#[from] ModelFileError),
    /// The name of a backend carries an instruction that is not known.
    #[error(
        "`{0}` is not a backend: behind `@` only `corrupt-weight:OFFSET` is known, with an offset inside the weights"
    )]
    Modifier(String),
}

/// Opens a backend for a model.
type Open = dyn Fn(&ModelFile) -> Result<Box<dyn Backend>, BackendError>;

/// A backend and the model it runs: the user's, or a copy damaged on purpose.
pub struct BackendRun {
    /// Name as given.
    name: String,
    open: Box<Open>,
    model: ModelFile,
}

impl BackendRun {
    /// `open` gives the backend, for `model` and for the small models a difference is examined with.
    pub fn new(
        name: &str,
        model: &ModelFile,
        open: impl Fn(&ModelFile) -> Result<Box<dyn Backend>, BackendError> + 'static,
    ) -> Self {
        Self { name: name.to_owned(), open: Box::new(open), model: model.clone() }
    }

    /// Parses `BACKEND` or `BACKEND@corrupt-weight:OFFSET`.
    ///
    /// The second form runs a copy of the model whose byte `OFFSET` of the weights has its lowest bit flipped: a check
    /// that differences are found.
    ///
    /// # Errors
    /// [`ParityError::Modifier`] for anything else behind the `@`.
    pub fn parse(name: &str, model: &ModelFile) -> Result<Self, ParityError> {
        let by_name = |backend: &str, model: &ModelFile| {
            let backend = backend.to_owned();
            Self::new(name, model, move |model| backend::open(&backend, model))
        };
        let Some((backend, modifier)) = name.split_once('@') else { return Ok(by_name(name, model)) };
        let wrong = || ParityError::Modifier(name.to_owned());
        let offset =
            modifier.strip_prefix("corrupt-weight:").and_then(|n| n.parse::<usize>().ok()).ok_or_else(wrong)?;
        let opened = model.open::<Portable>().map_err(ModelFileError::from)?;
        let mut parts = ModelParts::of(&opened, model.annotations());
        *parts.weights.get_mut(offset).ok_or_else(wrong)? ^= 1;
        Ok(by_name(backend, &ModelFile::from_bytes(&parts.write()?)?))
    }

    /// Name as given.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn open(&self) -> Result<Box<dyn Backend>, BackendError> {
        (self.open)(&self.model)
    }

    /// Operator `op` as a model of its own, with the damage of this one.
    pub(super) fn single_op(&self, op: usize) -> Result<Option<ModelParts>, ParityError> {
        let opened = self.model.open::<Portable>().map_err(ModelFileError::from)?;
        Ok(ModelParts::of(&opened, self.model.annotations()).single_op(op))
    }

    /// The first output of another model on the same backend, in elements of `dtype`; none where the model cannot be
    /// proven safe, as it is not run then.
    pub(super) fn result(&self, model: &ModelParts, sample: &Sample, dtype: Dtype) -> Result<Vec<i32>, ParityError> {
        let Ok(bytes) = model.write() else { return Ok(Vec::new()) };
        let mut backend = (self.open)(&ModelFile::from_bytes(&bytes)?)?;
        let traces = backend.run(std::slice::from_ref(sample))?;
        Ok(traces.first().and_then(|t| t.outputs.first()).map_or_else(Vec::new, |bytes| integers(bytes, dtype)))
    }
}

/// The first difference between two backends.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Difference {
    /// The backend that differs from the reference.
    pub backend: String,
    /// Index of the first operator, in the order of execution, whose result differs on any sample.
    pub op: usize,
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: &'static str,
    /// First sample on which it differs.
    pub sample: usize,
    /// Samples on which any operator differs.
    pub samples_that_differ: usize,
    /// First element that differs; `None` when the results are equal if the operator is asked for them alone.
    pub element: Option<usize>,
    /// The element as an index of the result's shape.
    pub index: Vec<usize>,
    /// Elements that differ.
    pub elements_that_differ: usize,
    /// The element on the reference.
    pub reference_value: Option<i32>,
    /// The element on the other backend.
    pub value: Option<i32>,
    /// What the operator holds before requantization on the reference, read through the reference itself.
    pub reference_accumulator: Option<i64>,
    /// The same on the other backend, read through that backend.
    pub accumulator: Option<i64>,
    /// What the accumulators are; `None` where the operator holds nothing of the kind.
    pub accumulator_is: Option<&'static str>,
}

/// The bytes of the arena operands of operator `op`, each once, as `backend` computes them.
pub(super) fn operands(
    model: &ModelFile,
    backend: &mut Box<dyn Backend>,
    sample: &Sample,
    op: usize,
) -> Result<Sample, ParityError> {
    let opened = model.open::<Portable>().map_err(ModelFileError::from)?;
    let Some(record) = opened.op_record(op) else { return Ok(Vec::new()) };
    let (mut seen, mut operands) = (Vec::new(), Vec::new());
    for tensor in record.inputs {
        let arena = opened.tensor(usize::from(tensor)).is_some_and(|t| t.place == Place::Arena);
        if !arena || seen.contains(&tensor) {
            continue;
        }
        seen.push(tensor);
        let writer = (0..op).rev().find(|&o| opened.op_record(o).is_some_and(|r| r.output == tensor));
        let input = (0..opened.n_inputs()).find(|&i| opened.input_tensor(i) == Some(usize::from(tensor)));
        operands.push(match (writer, input) {
            (Some(writer), _) => backend.op_output(sample, writer)?,
            (None, Some(input)) => sample[input].clone(),
            (None, None) => Vec::new(),
        });
    }
    Ok(operands)
}
