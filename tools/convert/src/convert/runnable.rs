//! A program that runs as it is: what trials measure, without a file, its checksums and its JSON.

use crate::backend::{BackendError, Sample, Trace, run_sample};
use crate::model_file::coding::Coding;
use crate::model_file::whole::WholeOutputs;
use crate::model_file::{ModelFileError, Values};
use crate::pack::{PackError, Records, records};
use crate::parallel;
use crate::program::Program;
use crate::program::plan::Plan;
use shiftformer::arith::digest;
use shiftformer::format::{SectionKind, Sections};
#[cfg(feature = "parallel")]
use shiftformer::kernels::Parallel;
use shiftformer::kernels::{Kernels, Native, Portable};
use shiftformer::ops::OpTable;
use shiftformer::{AlignedBytes, Model, ModelError, Observer, Part};

/// Why a program cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// An operator cannot be proven safe.
    #[error("{0}")]
    Pack(#[from] PackError),
    /// The records are not valid, or a sample does not fit.
    #[error("{0}")]
    Model(#[from] ModelFileError),
    /// A run failed.
    #[error("{0}")]
    Backend(#[from] BackendError),
}

/// A program with the records of its operators, every one proven.
pub struct Runnable<'p> {
    program: &'p Program,
    /// The records.
    pub records: Records,
    arena_bytes: usize,
    /// Aligned as kernels want weights.
    weights: AlignedBytes,
}

/// Takes no notice.
struct Unobserved;

impl Observer for Unobserved {
    fn after(&mut self, _: usize, _: Part<'_>) {}
}

/// Collects digests.
struct Digests(Vec<u64>);

impl Observer for Digests {
    fn after(&mut self, op: usize, part: Part<'_>) {
        self.0.resize(self.0.len().max(op + 1), 0);
        self.0[op] = digest::join(self.0[op], part.digest());
    }
}

impl<'p> Runnable<'p> {
    /// `program` placed by `plan`.
    ///
    /// # Errors
    /// [`PackError`] when an operator's accumulators cannot be proven to fit, naming it.
    pub fn new(program: &'p Program, plan: &Plan) -> Result<Self, PackError> {
        let records = records(program, plan)?;
        let weights = AlignedBytes::from(program.weights.bytes());
        Ok(Self { program, records, arena_bytes: plan.arena_bytes, weights })
    }

    fn open<B: Kernels>(&self) -> Result<Model<'_, B>, ModelFileError> {
        let parts = [
            (SectionKind::Ops, &self.records.ops[..]),
            (SectionKind::Tensors, &self.records.tensors),
            (SectionKind::Params, &self.records.params),
            (SectionKind::Io, &self.records.io),
            (SectionKind::Certificate, &self.records.certificate),
            (SectionKind::State, &self.records.state),
            (SectionKind::Weights, &self.weights),
        ];
        let counts = [self.program.ops.len(), self.program.tensors.len()];
        let sections = Sections::apart(self.program.profile, self.arena_bytes, counts, &parts);
        let sections = sections.ok_or(ModelError::Format(shiftformer::format::FormatError::Misaligned))?;
        Ok(Model::of_sections(sections, OpTable::<B>::ALL)?)
    }

    /// Scale of a tensor, and the value that stands for 0.
    fn units(&self, tensor: usize) -> (f64, f64) {
        self.program.tensors.get(tensor).map_or((1.0, 0.0), |t| (t.scale, t.zero))
    }

    /// The real outputs for every sample.
    ///
    /// # Errors
    /// [`RunError`] when a sample does not fit or cannot be run.
    pub fn outputs(&self, samples: &[&Vec<Values>]) -> Result<Vec<Vec<Vec<f32>>>, RunError> {
        #[cfg(feature = "parallel")]
        if samples.len() < rayon::current_num_threads() {
            let model = self.open::<Parallel<Native>>()?;
            let run = Run::of(self, &model);
            // On a thread of the pool: another one would wait for the pool at every operator.
            return rayon::scope(|_| samples.iter().map(|sample| run.outputs(sample)).collect());
        }
        let model = self.open::<Native>()?;
        let run = Run::of(self, &model);
        parallel::try_map(samples.to_vec(), |sample| run.outputs(sample))
    }

    /// Input bytes and digests of `samples` with the portable kernels.
    ///
    /// # Errors
    /// As [`outputs`](Self::outputs).
    pub fn traces(&self, samples: &[Vec<Values>]) -> Result<Vec<(Sample, Trace)>, RunError> {
        let model = self.open::<Portable>()?;
        let run = Run::of(self, &model);
        parallel::try_map(samples.iter().collect(), |sample| {
            let (inputs, mut digests) = (run.encode(sample)?, Digests(Vec::new()));
            let outputs = run.sample(&inputs, &mut digests)?;
            Ok((inputs, Trace { digests: digests.0, outputs }))
        })
    }

    /// Shows `report` the bytes of every operator's output for every sample.
    ///
    /// # Errors
    /// As [`outputs`](Self::outputs).
    pub fn watch(&self, samples: &[&Vec<Values>], mut report: impl FnMut(usize, &[u8])) -> Result<(), RunError> {
        let model = self.open::<Native>()?;
        let run = Run::of(self, &model);
        for sample in samples {
            run.sample(&run.encode(sample)?, &mut WholeOutputs::new(&mut report))?;
        }
        Ok(())
    }
}

/// An open program with the units of its ends.
struct Run<'m, B: Kernels> {
    model: &'m Model<'m, B>,
    inputs: Vec<Coding>,
    outputs: Vec<Coding>,
}

impl<'m, B: Kernels> Run<'m, B> {
    fn of(runnable: &Runnable<'_>, model: &'m Model<'m, B>) -> Self {
        let (inputs, outputs) = (&runnable.program.inputs, &runnable.program.outputs);
        let units = |tensor| runnable.units(tensor);
        Self { model, inputs: Coding::inputs(model, inputs, units), outputs: Coding::outputs(model, outputs, units) }
    }

    fn encode(&self, sample: &[Values]) -> Result<Vec<Vec<u8>>, RunError> {
        Ok(self.inputs.iter().zip(sample).map(|(input, values)| input.encode(values)).collect::<Result<_, _>>()?)
    }

    fn sample(&self, inputs: &Sample, observer: &mut impl Observer) -> Result<Vec<Vec<u8>>, RunError> {
        let fault = |why| BackendError::Run { backend: "native".to_owned(), why };
        Ok(run_sample(self.model, inputs, observer).map_err(fault)?)
    }

    fn outputs(&self, sample: &[Values]) -> Result<Vec<Vec<f32>>, RunError> {
        let outputs = self.sample(&self.encode(sample)?, &mut Unobserved)?;
        Ok(self.outputs.iter().zip(outputs).map(|(output, bytes)| output.decode(&bytes)).collect())
    }
}
