//! The runtime on this machine.

use super::contract::{Backend, BackendError, Sample, Trace};
use crate::model_file::ModelFile;
use crate::model_file::whole::WholeOutputs;
use crate::parallel;
use shiftformer::arith::digest;
use shiftformer::kernels::Kernels;
#[cfg(feature = "parallel")]
use shiftformer::kernels::Parallel;
use shiftformer::{AlignedBytes, Model, Observer, Part, RunFault, Session};
use std::marker::PhantomData;

/// Runs a model with the kernels `B` on the threads of the rayon pool it is called in: samples in parallel, or the rows of
/// each sample where there are fewer samples than threads.
pub struct Host<B: Kernels> {
    name: String,
    model: ModelFile,
    kernels: PhantomData<B>,
}

/// Collects digests.
struct Collect(Vec<u64>);

impl Observer for Collect {
    fn after(&mut self, op: usize, part: Part<'_>) {
        self.0.resize(self.0.len().max(op + 1), 0);
        self.0[op] = digest::join(self.0[op], part.digest());
    }
}

/// Runs one sample under `observer`; returns the bytes of the outputs.
///
/// # Errors
/// What went wrong.
pub fn run_sample<K: Kernels>(
    model: &Model<'_, K>,
    sample: &Sample,
    observer: &mut impl Observer,
) -> Result<Vec<Vec<u8>>, String> {
    let [mut arena, mut state] = [model.arena_bytes(), model.state_bytes()].map(AlignedBytes::zeroed);
    let mut session = Session::with_state(model, &mut arena, &mut state).map_err(|e| e.to_string())?;
    for (index, bytes) in sample.iter().enumerate() {
        let input = session.input_mut(index).filter(|input| input.len() == bytes.len());
        input.ok_or_else(|| RunFault::Memory.to_string())?.copy_from_slice(bytes);
    }
    session.run_with(observer).map_err(|e| e.to_string())?;
    Ok((0..model.n_outputs()).map(|i| session.output(i).unwrap_or(&[]).to_vec()).collect())
}

impl<B: Kernels> Host<B> {
    /// For `model`, under the given name.
    pub fn new(name: &str, model: &ModelFile) -> Self {
        Self { name: name.to_owned(), model: model.clone(), kernels: PhantomData }
    }

    fn fault(&self, fault: impl std::fmt::Display) -> BackendError {
        BackendError::Run { backend: self.name.clone(), why: fault.to_string() }
    }

    /// Runs one sample under `observer`; returns the outputs.
    ///
    /// # Errors
    /// As [`Backend::run`].
    pub fn observe(&self, sample: &Sample, observer: &mut impl Observer) -> Result<Vec<Vec<u8>>, BackendError> {
        self.observe_in(&self.model.open::<B>()?, sample, observer)
    }

    /// [`observe`](Self::observe) in a model that is open: opening one proves every operator anew.
    fn observe_in<K: Kernels>(
        &self,
        model: &Model<'_, K>,
        sample: &Sample,
        observer: &mut impl Observer,
    ) -> Result<Vec<Vec<u8>>, BackendError> {
        run_sample(model, sample, observer).map_err(|fault| self.fault(fault))
    }
}

impl<B: Kernels> Host<B> {
    /// Outputs and digests of one sample.
    fn trace<K: Kernels>(&self, model: &Model<'_, K>, sample: &Sample) -> Result<Trace, BackendError> {
        let mut collect = Collect(Vec::new());
        let outputs = self.observe_in(model, sample, &mut collect)?;
        Ok(Trace { digests: collect.0, outputs })
    }
}

impl<B: Kernels + Sync + Send> Backend for Host<B> {
    fn name(&self) -> &str {
        &self.name
    }

    fn run(&mut self, samples: &[Sample]) -> Result<Vec<Trace>, BackendError> {
        #[cfg(feature = "parallel")]
        if samples.len() < rayon::current_num_threads() {
            let model = self.model.open::<Parallel<B>>()?;
            // On a thread of the pool: another one would wait for the pool at every operator.
            return rayon::scope(|_| samples.iter().map(|sample| self.trace(&model, sample)).collect());
        }
        let model = self.model.open::<B>()?;
        parallel::try_map(samples.iter().collect(), |sample| self.trace(&model, sample))
    }

    fn op_output(&mut self, sample: &Sample, op: usize) -> Result<Vec<u8>, BackendError> {
        let mut kept = Vec::new();
        let keep = |index: usize, bytes: &[u8]| {
            if index == op {
                kept = bytes.to_vec();
            }
        };
        self.observe(sample, &mut WholeOutputs::new(keep))?;
        Ok(kept)
    }
}
