//! The same bytes everywhere: backends are compared operator by operator over samples.

mod accumulator;
mod reproducer;

use crate::backend::{self, Backend, BackendError, Sample, Trace};
use serde::Serialize;
use shiftformer::format::Place;
use shiftformer::kernels::Portable;
use shiftformer::tensor::Dtype;
use shiftformer_convert::model_file::parts::ModelParts;
use shiftformer_convert::model_file::{ModelFile, ModelFileError, integers};
use shiftformer_convert::pack::PackError;

pub use reproducer::Reproducer;

/// Why backends cannot be compared.
#[derive(Debug, thiserror::Error)]
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

    fn open(&self) -> Result<Box<dyn Backend>, BackendError> {
        (self.open)(&self.model)
    }

    /// Operator `op` as a model of its own, with the damage of this one.
    fn single_op(&self, op: usize) -> Result<Option<ModelParts>, ParityError> {
        let opened = self.model.open::<Portable>().map_err(ModelFileError::from)?;
        Ok(ModelParts::of(&opened, self.model.annotations()).single_op(op))
    }

    /// The first output of another model on the same backend, in elements of `dtype`; none where the model cannot be
    /// proven safe, as it is not run then.
    fn result(&self, model: &ModelParts, sample: &Sample, dtype: Dtype) -> Result<Vec<i32>, ParityError> {
        let Ok(bytes) = model.write() else { return Ok(Vec::new()) };
        let mut backend = (self.open)(&ModelFile::from_bytes(&bytes)?)?;
        let traces = backend.run(std::slice::from_ref(sample))?;
        Ok(traces.first().and_then(|t| t.outputs.first()).map_or_else(Vec::new, |bytes| integers(bytes, dtype)))
    }
}

/// The result of a comparison.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// Whether all bytes were equal.
    pub equal: bool,
    /// Samples compared.
    pub samples: usize,
    /// Operators whose digests were compared for every sample.
    pub ops: usize,
    /// The reference, then the others.
    pub backends: Vec<String>,
    /// The first difference of each backend that differs.
    pub differences: Vec<Difference>,
    /// Digest of every operator's output, by backend, sample and operator.
    #[serde(skip)]
    pub digests: Vec<Vec<Vec<u64>>>,
}

/// The first difference between two backends.
#[derive(Clone, Debug, Serialize)]
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

/// Compares the first of `contestants` with each of the others over `samples`.
///
/// # Errors
/// [`ParityError`] when a backend is missing or fails: never a comparison with fewer backends than asked for.
pub fn compare(
    model: &ModelFile,
    contestants: &[BackendRun],
    samples: &[Sample],
    mut progress: impl FnMut(&str),
) -> Result<Comparison, ParityError> {
    let mut all = Vec::new();
    // Open every backend before the first run: a missing one should not cost the time of the others.
    for contestant in contestants {
        all.push((contestant, contestant.open()?));
    }
    let mut traces: Vec<Vec<Trace>> = Vec::new();
    for (contestant, backend) in &mut all {
        progress(contestant.name());
        traces.push(backend.run(samples)?);
    }
    let ops = model.open::<Portable>().map_err(ModelFileError::from)?.n_ops();
    let mut differences = Vec::new();
    if let Some((reference, others)) = traces.split_first() {
        for (position, other) in others.iter().enumerate() {
            if let Some(found) = first_difference(reference, other) {
                let (head, tail) = all.split_at_mut(position + 1);
                differences.push(examine(model, &mut head[0], &mut tail[0], samples, &found)?);
            }
        }
    }
    Ok(Comparison {
        equal: differences.is_empty(),
        samples: samples.len(),
        ops,
        backends: contestants.iter().map(|c| c.name.clone()).collect(),
        differences,
        digests: traces.into_iter().map(|all| all.into_iter().map(|trace| trace.digests).collect()).collect(),
    })
}

struct Found {
    op: usize,
    sample: usize,
    samples_that_differ: usize,
}

/// The earliest operator that differs on any sample, and the first such sample.
fn first_difference(reference: &[Trace], other: &[Trace]) -> Option<Found> {
    let first_op = |a: &Trace, b: &Trace| {
        let ops = a.digests.len().max(b.digests.len());
        let differs = (0..ops).find(|&op| a.digests.get(op) != b.digests.get(op));
        // Equal digests with unequal outputs would be a fault of the digests: blame the last operator.
        differs.or_else(|| (a.outputs != b.outputs).then_some(ops.saturating_sub(1)))
    };
    let differing: Vec<(usize, usize)> = reference
        .iter()
        .zip(other)
        .enumerate()
        .filter_map(|(sample, (a, b))| Some((first_op(a, b)?, sample)))
        .collect();
    let &(op, sample) = differing.iter().min()?;
    Some(Found { op, sample, samples_that_differ: differing.len() })
}

type Opened<'a> = (&'a BackendRun, Box<dyn Backend>);

fn examine(
    model: &ModelFile,
    reference: &mut Opened<'_>,
    other: &mut Opened<'_>,
    samples: &[Sample],
    found: &Found,
) -> Result<Difference, ParityError> {
    let opened = model.open::<Portable>().map_err(ModelFileError::from)?;
    let sample = &samples[found.sample];
    let record = opened.op_record(found.op);
    let tensor = record.and_then(|r| opened.tensor(usize::from(r.output)));
    let result = |side: &mut Opened<'_>| -> Result<Vec<i32>, ParityError> {
        let bytes = side.1.op_output(sample, found.op)?;
        Ok(tensor.map_or_else(Vec::new, |t| integers(&bytes, t.dtype)))
    };
    let (ours, theirs) = (result(reference)?, result(other)?);
    let differs = |i: &usize| ours.get(*i) != theirs.get(*i);
    let length = ours.len().max(theirs.len());
    let element = (0..length).find(differs);
    let mut difference = Difference {
        backend: other.0.name.clone(),
        op: found.op,
        name: model.op_name(found.op).to_owned(),
        kind: opened.op_kind(found.op).map_or("", |k| k.name()),
        sample: found.sample,
        samples_that_differ: found.samples_that_differ,
        element,
        index: tensor.map_or_else(Vec::new, |t| position(element.unwrap_or(0), t.shape())),
        elements_that_differ: (0..length).filter(differs).count(),
        reference_value: element.and_then(|i| ours.get(i).copied()),
        value: element.and_then(|i| theirs.get(i).copied()),
        reference_accumulator: None,
        accumulator: None,
        accumulator_is: None,
    };
    if let Some(element) = element {
        let operands = operands(model, &mut reference.1, sample, found.op)?;
        let ours = accumulator::read(reference.0, found.op, &operands, element)?;
        let theirs = accumulator::read(other.0, found.op, &operands, element)?;
        difference.accumulator_is = ours.as_ref().or(theirs.as_ref()).map(|a| a.meaning);
        difference.reference_accumulator = ours.map(|a| a.value);
        difference.accumulator = theirs.map(|a| a.value);
    }
    Ok(difference)
}

/// `element` as an index of `shape`, row major.
fn position(element: usize, shape: &[u32]) -> Vec<usize> {
    let mut rest = element;
    let mut index: Vec<usize> = shape
        .iter()
        .rev()
        .map(|&d| {
            let i = rest % (d as usize).max(1);
            rest /= (d as usize).max(1);
            i
        })
        .collect();
    index.reverse();
    index
}

/// The bytes of the arena operands of operator `op`, each once, as `backend` computes them.
fn operands(
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

/// Whether the digests stored in the model as receipts are those of `backend`; the index of the first that is not, with
/// the operator.
///
/// # Errors
/// [`BackendError`] when the backend fails.
pub fn check_receipts(model: &ModelFile, backend: &mut dyn Backend) -> Result<Option<(usize, usize)>, BackendError> {
    let opened = model.open::<Portable>()?;
    let receipts = opened.receipts();
    for index in 0..receipts.len() {
        let Some(receipt) = receipts.get(index) else { continue };
        let sizes = (0..opened.n_inputs()).filter_map(|i| opened.input(i).map(|t| t.bytes()));
        let sample: Sample = receipt.inputs(sizes).map(<[u8]>::to_vec).collect();
        for trace in backend.run(&[sample])? {
            if let Some(op) = trace.digests.iter().enumerate().position(|(op, d)| receipt.digest(op) != Some(*d)) {
                return Ok(Some((index, op)));
            }
        }
    }
    Ok(None)
}
