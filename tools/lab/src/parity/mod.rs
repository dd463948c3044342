//! The same bytes everywhere: backends are compared operator by operator over samples.

mod accumulator;
mod reproducer;
mod side;

use crate::backend::{Backend, BackendError, Sample, Trace};
use serde::Serialize;
use shiftformer::kernels::Portable;
use shiftformer_convert::model_file::{ModelFile, ModelFileError, integers};

pub use reproducer::Reproducer;
use side::operands;
pub use side::{BackendRun, Difference, ParityError};

/// The result of a comparison.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
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
        backends: contestants.iter().map(|c| c.name().to_owned()).collect(),
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
        backend: other.0.name().to_owned(),
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
