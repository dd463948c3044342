//! Accuracy of a model on a data set, and its distance from the float model.

pub mod metrics;
pub mod per_op;

use crate::backend::{Backend, BackendError, Sample};
use crate::eval::metrics::{Logits, Score};
use rayon::prelude::*;
use shiftformer::tensor::Dtype;
use shiftformer_convert::convert::{ConvertError, real_inputs};
use shiftformer_convert::data::{DataError, Dataset};
use shiftformer_convert::graph::exec::{self, ExecError};
use shiftformer_convert::graph::{Data, Graph};
use shiftformer_convert::model_file::{ModelFile, ModelFileError, Values};

/// Samples handed to a backend at a time: enough to keep all cores or a GPU busy, few enough to see progress.
const BATCH: usize = 64;

/// Why an evaluation cannot be done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
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
    /// An array has its axes in another order than the input.
    #[error(
        "`in_{name}` has samples of shape {given:?}, the model takes {expected:?}; transpose the array (dimensions of size 1 \
         may be missing)"
    )]
    Shape {
        /// Name of the input.
        name: String,
        /// Shape of the input.
        expected: Vec<usize>,
        /// Shape of a sample of the array.
        given: Vec<usize>,
    },
    /// No reference belongs to an output.
    #[error("the npz has references for {given}, the model has the outputs {expected}; name the arrays `out_<output>`")]
    NoOutput {
        /// References that are there.
        given: String,
        /// Outputs of the model.
        expected: String,
    },
    /// Labels that are no classes.
    #[error("sample {sample}: {why}")]
    Label {
        /// Index in the data set.
        sample: usize,
        /// What is wrong with it.
        why: String,
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
    check_names(model, data, reference)?;
    let mut score = Score::default();
    let ends: Vec<Option<[f32; 2]>> = (0..model.outputs().len()).map(|output| ends(model, output)).collect();
    for batch in selection.chunks(BATCH) {
        let samples: Result<Vec<Sample>, EvalError> = batch.iter().map(|&s| sample_bytes(model, data, s)).collect();
        let traces = backend.run(&samples?)?;
        let float: Result<Vec<_>, EvalError> =
            batch.par_iter().map(|&s| float_outputs(model, data, reference, s)).collect();
        for ((&sample, trace), float) in batch.iter().zip(traces).zip(float?) {
            let ours: Vec<Vec<f32>> = trace.outputs.iter().enumerate().map(|(i, b)| model.decode(i, b)).collect();
            for (output, (values, ends)) in ours.iter().zip(&ends).enumerate() {
                let Some([low, high]) = ends else { continue };
                score.edge(output, values.iter().any(|v| v >= high || v <= low));
            }
            count(&mut score, model, &ours, float.as_deref(), &classes(model, data, sample)?)?;
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

/// Labels of one sample as classes of the logits' rows; one-hot rows count as the class they mark.
fn classes(model: &ModelFile, data: &Dataset, sample: usize) -> Result<Vec<i64>, EvalError> {
    let fail = |why: String| Err(EvalError::Label { sample, why });
    let Some(array) = data.labels() else { return Ok(Vec::new()) };
    let real = array.sample(sample).to_real(None);
    if let Some(value) = real.iter().find(|v| v.fract() != 0.0) {
        return fail(format!("the label {value} is not a class; give whole numbers"));
    }
    let index = logits_output(model);
    let rows = logit_rows(model, index);
    let width = model.outputs().get(index).and_then(|o| o.shape.last().copied()).unwrap_or(1);
    // One value decides between two classes.
    let classes = width.max(2);
    let one_hot =
        |row: &[f32]| row.iter().filter(|&&v| v == 1.0).count() == 1 && row.iter().all(|&v| v == 0.0 || v == 1.0);
    if width > 1 && real.len() == rows * width && real.chunks_exact(width).all(one_hot) {
        return Ok(real.chunks_exact(width).map(|row| metrics::argmax(row) as i64).collect());
    }
    if real.len() != rows {
        return fail(format!(
            "`label` has {} values, the output `{}` has {rows} rows of {width}; give one class a row, or one-hot rows",
            real.len(),
            model.outputs().get(index).map_or("", |o| o.name.as_str())
        ));
    }
    if let Some(value) = real.iter().find(|&&v| v < 0.0 || v >= classes as f32) {
        return fail(format!("the label {value} is not among the {classes} classes"));
    }
    Ok(real.iter().map(|&v| v as i64).collect())
}

/// References that belong to no output are an error where there are no others.
fn check_names(model: &ModelFile, data: &Dataset, reference: &Reference<'_>) -> Result<(), EvalError> {
    for input in model.inputs() {
        if let Some(array) = data.input(&input.name)
            && array.sample_len() == input.shape.iter().product::<usize>()
            && !array.fits(&input.shape)
        {
            let (name, expected) = (input.name.clone(), input.shape.clone());
            return Err(EvalError::Shape { name, expected, given: array.shape[1..].to_vec() });
        }
    }
    let known = |name: &&str| model.outputs().iter().any(|output| output.name == **name);
    let given: Vec<&str> = data.output_names().collect();
    if matches!(reference, Reference::Stored) && !given.is_empty() && !given.iter().any(known) {
        let expected: Vec<String> = model.outputs().iter().map(|output| format!("`{}`", output.name)).collect();
        let given: Vec<String> = given.iter().map(|name| format!("`out_{name}`")).collect();
        return Err(EvalError::NoOutput { given: given.join(", "), expected: expected.join(", ") });
    }
    Ok(())
}

/// What of `data` an evaluation does not use, and what it can therefore not say.
pub fn unused(model: &ModelFile, data: &Dataset, reference: &Reference<'_>) -> Vec<String> {
    let mut warnings = Vec::new();
    let known = |name: &str| model.outputs().iter().any(|output| output.name == name);
    for name in data.output_names().filter(|name| matches!(reference, Reference::Stored) && !known(name)) {
        warnings.push(format!("`out_{name}` belongs to no output of the model and is not compared"));
    }
    let named_otherwise = |name: &str| {
        let name = name.to_lowercase();
        ["label", "labels", "y", "y_true", "target", "targets", "class", "classes"].contains(&name.as_str())
    };
    if data.labels().is_none() {
        for name in data.unread().filter(|name| named_otherwise(name)) {
            warnings.push(format!("the array `{name}` is not read; labels are called `label`"));
        }
    }
    let compared = model.outputs().iter().all(|output| data.output(&output.name).is_some());
    if matches!(reference, Reference::Stored) && !compared {
        let missing = model.outputs().iter().filter(|output| data.output(&output.name).is_none());
        let names: Vec<String> = missing.map(|output| format!("`out_{}`", output.name)).collect();
        warnings.push(format!(
            "the npz has no {}: without a reference for every output, or --float MODEL.onnx, nothing is compared",
            names.join(", ")
        ));
    }
    warnings
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

/// From where on an output of one value means "yes": 0.5 for a probability, which no larger value can be, else 0.
fn threshold(model: &ModelFile, index: usize) -> f32 {
    let endpoint = model.outputs().get(index);
    let (scale, zero) = endpoint.map_or((1.0, 0.0), |output| model.units(output.tensor));
    let high = model.output_dtype(index).map_or(127, |dtype| dtype.range().1);
    let most = (f64::from(high) - zero) * scale;
    if most <= 1.001 { 0.5 } else { 0.0 }
}

/// The ends of the range of a 16-bit output, where values beyond would be cut off: `None` for whole numbers, and for
/// scores and probabilities, which end at 1 by themselves.
fn ends(model: &ModelFile, index: usize) -> Option<[f32; 2]> {
    let (scale, zero) = model.units(model.outputs().get(index)?.tensor);
    let dtype = model.output_dtype(index).filter(|&dtype| dtype == Dtype::I16 && zero == 0.0)?;
    let ends = [dtype.range().0, dtype.range().1].map(|end| (f64::from(end) * scale) as f32);
    (scale != 1.0 && ends[1] > 1.001).then_some(ends)
}

/// Warnings about outputs that reach the ends of their ranges.
pub fn edges(model: &ModelFile, score: &Score) -> Vec<String> {
    let warning = |(index, &reached): (usize, &u64)| {
        let ends = ends(model, index).filter(|_| reached > 0)?;
        let name = &model.outputs().get(index)?.name;
        Some(format!(
            "`{name}` reaches the end of its range ({:.4} to {:.4}) in {reached} of {} samples: values beyond are cut off; \
             convert with calibration samples that show them",
            ends[0], ends[1], score.samples
        ))
    };
    score.at_the_edge.iter().enumerate().filter_map(warning).collect()
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
    let threshold = threshold(model, index);
    let float_logits = float_logits.as_ref().map(|values| Logits { values, rows, threshold });
    score.sample(Logits { values: &ours_logits, rows, threshold }, float_logits, labels);
    if let Some(float) = float {
        score.difference(&ours.concat(), &float.concat());
    }
    Ok(())
}
