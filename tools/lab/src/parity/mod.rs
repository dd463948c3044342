//! The same bytes everywhere: backends are compared operator by operator over samples.

mod accumulator;
mod reproducer;
mod side;

use crate::backend::{Backend, BackendError, Sample, Trace};
use serde::Serialize;
use shiftformer::kernels::Portable;
use shiftformer_convert::model_file::{ModelFile, ModelFileError, integers};
use std::time::Instant;

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
    /// Time that each backend took over all samples, in seconds.
    pub seconds: Vec<f64>,
    /// Digest of every operator's output, by backend, sample and operator; nothing of samples that are repeated.
    #[serde(skip)]
    pub digests: Vec<Vec<Vec<u64>>>,
}

/// Bytes of the inputs that are held at a time where samples are repeated, and the most samples.
const CHUNK_BYTES: usize = 64 << 20;
const CHUNK_SAMPLES: usize = 8192;

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
    let mut all = open_all(contestants)?;
    let mut tally = Tally::new(all.len());
    let traces = tally.run(&mut all, samples, &mut |name, _| progress(name))?;
    let digests = traces.into_iter().map(|all| all.into_iter().map(|trace| trace.digests).collect()).collect();
    tally.finish(model, &mut all, samples, digests)
}

/// [`compare`] over `total` samples: those of `samples` again and again. Inputs and results are held for a part of them at
/// a time. `progress` is told the backend at work and how many samples are done.
///
/// # Errors
/// As [`compare`].
pub fn compare_repeated(
    model: &ModelFile,
    contestants: &[BackendRun],
    samples: &[Sample],
    total: usize,
    mut progress: impl FnMut(&str, usize),
) -> Result<Comparison, ParityError> {
    let mut all = open_all(contestants)?;
    let mut tally = Tally::new(all.len());
    let sample_bytes: usize = samples.first().map_or(0, |sample| sample.iter().map(Vec::len).sum());
    let chunk = (CHUNK_BYTES / sample_bytes.max(1)).clamp(1, CHUNK_SAMPLES);
    for first in (0..total).step_by(chunk) {
        let part: Vec<Sample> =
            samples.iter().cycle().skip(first % samples.len().max(1)).take(chunk.min(total - first)).cloned().collect();
        tally.run(&mut all, &part, &mut progress)?;
    }
    tally.finish(model, &mut all, samples, Vec::new())
}

/// Every backend, opened before the first run: a missing one should not cost the time of the others.
fn open_all(contestants: &[BackendRun]) -> Result<Vec<Opened<'_>>, ParityError> {
    contestants.iter().map(|contestant| Ok((contestant, contestant.open()?))).collect()
}

/// What a comparison has seen so far.
struct Tally {
    samples: usize,
    seconds: Vec<f64>,
    /// For each backend but the reference.
    found: Vec<Option<Found>>,
}

impl Tally {
    fn new(backends: usize) -> Self {
        let found = (1..backends).map(|_| None).collect();
        Self { samples: 0, seconds: vec![0.0; backends], found }
    }

    /// Runs more samples on every backend.
    fn run(
        &mut self,
        all: &mut [Opened<'_>],
        samples: &[Sample],
        progress: &mut dyn FnMut(&str, usize),
    ) -> Result<Vec<Vec<Trace>>, ParityError> {
        let mut traces: Vec<Vec<Trace>> = Vec::new();
        for ((contestant, backend), seconds) in all.iter_mut().zip(&mut self.seconds) {
            progress(contestant.name(), self.samples);
            let started = Instant::now();
            traces.push(backend.run(samples)?);
            *seconds += started.elapsed().as_secs_f64();
        }
        if let Some((reference, others)) = traces.split_first() {
            for (other, known) in others.iter().zip(&mut self.found) {
                let Some(mut more) = first_difference(reference, other) else { continue };
                more.sample += self.samples;
                *known = Some(match known.take() {
                    Some(known) => known.and(more),
                    None => more,
                });
            }
        }
        self.samples += samples.len();
        Ok(traces)
    }

    fn finish(
        self,
        model: &ModelFile,
        all: &mut [Opened<'_>],
        samples: &[Sample],
        digests: Vec<Vec<Vec<u64>>>,
    ) -> Result<Comparison, ParityError> {
        let mut differences = Vec::new();
        for (position, found) in self.found.iter().enumerate() {
            if let Some(found) = found {
                let (head, tail) = all.split_at_mut(position + 1);
                let found = Found { sample: found.sample % samples.len().max(1), ..*found };
                differences.push(examine(model, &mut head[0], &mut tail[0], samples, &found)?);
            }
        }
        Ok(Comparison {
            equal: differences.is_empty(),
            samples: self.samples,
            ops: model.open::<Portable>().map_err(ModelFileError::from)?.n_ops(),
            backends: all.iter().map(|(contestant, _)| contestant.name().to_owned()).collect(),
            differences,
            seconds: self.seconds,
            digests,
        })
    }
}

struct Found {
    op: usize,
    sample: usize,
    samples_that_differ: usize,
}

impl Found {
    /// With what later samples showed.
    fn and(self, more: Self) -> Self {
        let (op, sample) = (self.op, self.sample).min((more.op, more.sample));
        Self { op, sample, samples_that_differ: self.samples_that_differ + more.samples_that_differ }
    }
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
