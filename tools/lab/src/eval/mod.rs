//! Accuracy of a model on a data set, and its distance from the float model.

pub mod metrics;
pub mod per_op;

use crate::backend::{Backend, BackendError, Sample};
use crate::eval::metrics::{Logits, Score};
use rayon::prelude::*;
use shiftformer_convert::convert::{ConvertError, real_inputs};
use shiftformer_convert::data::{DataError, Dataset};
use shiftformer_convert::graph::exec::{self, ExecError};
use shiftformer_convert::graph::{Data, Graph};
use shiftformer_convert::model_file::{ModelFile, ModelFileError, Values};

/// Samples handed to a backend at a time: enough to keep all cores or a GPU busy, few enough to see progress.
const BATCH: usize = 64;

/// Why an evaluation cannot be done.
#[derive(Debug, thiserror::Error)]
pub enum EvalError {
    /// The data set cannot be used.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A sample does not fit the model.
    #[error("sample {sample}: {source}")]
    Sample {
        /// Index in the data set.
        sample: usize,
        /// The cause.
        source: ModelFileError,
    },
    /// A sample does not fit the float model.
    #[error("the float model does not take sample {sample}: {source}")]
    Input {
        /// Index in the data set.
        sample: usize,
        /// The cause.
        source: Box<ConvertError>,
    },
    /// An input has no array.
    #[error("the npz has no array `in_{name}`; it has {found}")]
    MissingInput {
        /// Name of the model's input.
        name: String,
        /// Arrays that are there.
        found: String,
    },
    /// The reference has another size than the output.
    #[error(
        "the reference of output `{name}` has {given} values per sample, the model gives {expected}; use outputs of the same model"
    )]
    Reference {
        /// Name of the output.
        name: String,
        /// Elements of the model's output.
        expected: usize,
        /// Elements of the reference.
        given: usize,
    },
    /// The backend failed.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// The float model failed.
    #[error("the float model fails on sample {sample}: {source}")]
    Float {
        /// Index in the data set.
        sample: usize,
        /// The cause.
        source: ExecError,
    },
}

/// Where the float outputs come from.
pub enum Reference<'a> {
    /// Arrays `out_<name>` of the data set, as far as they are there.
    Stored,
    /// A float graph that is run on every sample.
    Graph(&'a Graph),
}

/// The values of every input for one sample.
///
/// # Errors
/// [`EvalError::MissingInput`] when the data set lacks an input.
pub fn sample_values(model: &ModelFile, data: &Dataset, sample: usize) -> Result<Vec<Values>, EvalError> {
    let values = |name: &str| {
        let found = || data.names().collect::<Vec<_>>().join(", ");
        let array =
            data.input(name).ok_or_else(|| EvalError::MissingInput { name: name.to_owned(), found: found() })?;
        Ok(array.sample(sample))
    };
    model.inputs().iter().map(|input| values(&input.name)).collect()
}

/// The bytes of every input for one sample.
///
/// # Errors
/// [`EvalError`] when the data set lacks an input or a value does not fit.
pub fn sample_bytes(model: &ModelFile, data: &Dataset, sample: usize) -> Result<Sample, EvalError> {
    encode(model, sample, &sample_values(model, data, sample)?)
}

fn encode(model: &ModelFile, sample: usize, values: &[Values]) -> Result<Sample, EvalError> {
    let encode = |(index, values)| model.encode(index, values).map_err(|source| EvalError::Sample { sample, source });
    values.iter().enumerate().map(encode).collect()
}

/// Evaluates the samples `selection` on `backend`; `progress` is called with the number of samples just done.
///
/// # Errors
/// [`EvalError`], the first met.
pub fn evaluate(
    model: &ModelFile,
    data: &Dataset,
    reference: &Reference<'_>,
    selection: &[usize],
    backend: &mut dyn Backend,
    mut progress: impl FnMut(usize),
) -> Result<Score, EvalError> {
    let mut score = Score::default();
    for batch in selection.chunks(BATCH) {
        let samples: Result<Vec<Sample>, EvalError> = batch.iter().map(|&s| sample_bytes(model, data, s)).collect();
        let traces = backend.run(&samples?)?;
        let float: Result<Vec<_>, EvalError> =
            batch.par_iter().map(|&s| float_outputs(model, data, reference, s)).collect();
        for ((&sample, trace), float) in batch.iter().zip(traces).zip(float?) {
            let ours: Vec<Vec<f32>> = trace.outputs.iter().enumerate().map(|(i, b)| model.decode(i, b)).collect();
            count(&mut score, model, &ours, float.as_deref(), &labels(data, sample))?;
        }
        progress(batch.len());
    }
    Ok(score)
}

/// The float outputs of one sample in the order of the model's outputs; `None` where there is no reference.
fn float_outputs(
    model: &ModelFile,
    data: &Dataset,
    reference: &Reference<'_>,
    sample: usize,
) -> Result<Option<Vec<Vec<f32>>>, EvalError> {
    match reference {
        Reference::Stored => {
            let stored = |name: &str| data.output(name).map(|array| array.sample(sample).to_real(None));
            Ok(model.outputs().iter().map(|output| stored(&output.name)).collect())
        }
        Reference::Graph(graph) => {
            let inputs = float_inputs(model, graph, sample, sample_values(model, data, sample)?)?;
            let outputs =
                exec::run(graph, &inputs, &mut |_, _| {}).map_err(|source| EvalError::Float { sample, source })?;
            Ok(Some(outputs.iter().map(Data::to_f32).collect()))
        }
    }
}

/// The inputs of the float graph for one sample: real numbers where it takes floats, raw pixels normalised.
fn float_inputs(model: &ModelFile, graph: &Graph, sample: usize, values: Vec<Values>) -> Result<Vec<Data>, EvalError> {
    let normalization = model.inputs().iter().find_map(|input| input.normalization);
    let inputs = real_inputs(graph, &[values], normalization);
    let mut inputs = inputs.map_err(|source| EvalError::Input { sample, source: Box::new(source) })?;
    Ok(inputs.pop().unwrap_or_default())
}

/// The labels of one sample; empty where there are none.
fn labels(data: &Dataset, sample: usize) -> Vec<i64> {
    match data.labels().map(|array| array.sample(sample)) {
        Some(Values::Int(labels)) => labels,
        Some(values) => values.to_real(None).iter().map(|&v| v as i64).collect(),
        None => Vec::new(),
    }
}

/// The label of one sample, where there is exactly one.
pub fn label(data: &Dataset, sample: usize) -> Option<i64> {
    match labels(data, sample)[..] {
        [label] => Some(label),
        _ => None,
    }
}

/// The output that is read as logits: the one named so, else the first.
pub fn logits_output(model: &ModelFile) -> usize {
    model.outputs().iter().position(|output| output.name.to_lowercase().contains("logits")).unwrap_or(0)
}

/// Rows of logits in output `index`: all dimensions but the last.
pub fn logit_rows(model: &ModelFile, index: usize) -> usize {
    let shape = model.outputs().get(index).map_or(&[][..], |output| &output.shape);
    shape.split_last().map_or(1, |(_, rows)| rows.iter().product::<usize>().max(1))
}

fn count(
    score: &mut Score,
    model: &ModelFile,
    ours: &[Vec<f32>],
    float: Option<&[Vec<f32>]>,
    labels: &[i64],
) -> Result<(), EvalError> {
    for ((output, ours), float) in model.outputs().iter().zip(ours).zip(float.unwrap_or(&[])) {
        if ours.len() != float.len() {
            let name = output.name.clone();
            return Err(EvalError::Reference { name, expected: ours.len(), given: float.len() });
        }
    }
    let (index, empty) = (logits_output(model), Vec::new());
    let rows = logit_rows(model, index);
    let logits = |outputs: &[Vec<f32>]| outputs.get(index).unwrap_or(&empty).clone();
    let (ours_logits, float_logits) = (logits(ours), float.map(logits));
    let float_logits = float_logits.as_ref().map(|values| Logits { values, rows });
    score.sample(Logits { values: &ours_logits, rows }, float_logits, labels);
    if let Some(float) = float {
        score.difference(&ours.concat(), &float.concat());
    }
    Ok(())
}
