//! A GPU, by the shaders of `shiftformer-gpu`.

use crate::sequence::{Decoder, SequenceRunError};
use shiftformer::RunFault;
use shiftformer::kernels::Portable;
use shiftformer_convert::backend::{Backend, BackendError, DeviceOpTime, DeviceTimes, Sample, Trace};
use shiftformer_convert::model_file::ModelFile;
use shiftformer_gpu::{Gpu as Device, GpuError, GpuModel, Selection};
use std::sync::Arc;

/// Most samples of a batch unless another number is set; the device's memory may allow fewer.
const MAX_BATCH: usize = 256;

/// Batches of which the device's median time is taken.
const TIMED_BATCHES: usize = 7;

/// Runs a model on a GPU, a batch of samples in each submission.
pub struct Gpu {
    name: String,
    device: Arc<Device>,
    model: ModelFile,
    max_batch: usize,
    /// The uploaded model with the batch that was asked for.
    uploaded: Option<(usize, GpuModel)>,
}

impl Gpu {
    /// For `model` on the adapter `adapter`: an index or part of a name as `shiftformer adapters` lists them, or the best.
    ///
    /// # Errors
    /// [`BackendError::Unavailable`] where there is no such adapter: never another one instead.
    pub fn open(name: &str, adapter: Option<&str>, model: &ModelFile) -> Result<Self, BackendError> {
        let selection = adapter.map_or(Selection::Best, Selection::parse);
        let unavailable = |e: GpuError| BackendError::Unavailable { backend: name.to_owned(), why: e.to_string() };
        let device = Arc::new(Device::new(&selection).map_err(unavailable)?);
        Ok(Self::on(device, name, model))
    }

    /// For `model` on a device that is open.
    pub fn on(device: Arc<Device>, name: &str, model: &ModelFile) -> Self {
        Self { name: name.to_owned(), device, model: model.clone(), max_batch: MAX_BATCH, uploaded: None }
    }

    /// The model, uploaded for at least `samples` at a time where the device can.
    fn model(&mut self, samples: usize) -> Result<&mut GpuModel, BackendError> {
        let batch = samples.clamp(1, self.max_batch);
        if self.uploaded.as_ref().is_none_or(|(has, _)| *has < batch) {
            // The old buffers go first: both may not fit.
            self.uploaded = None;
            let model = self.model.open::<Portable>()?;
            let uploaded = GpuModel::upload(&self.device, &model, batch).map_err(|e| self.fault(&e))?;
            self.uploaded = Some((batch, uploaded));
        }
        let missing = || BackendError::Run { backend: self.name.clone(), why: "the model is gone".into() };
        self.uploaded.as_mut().map(|(_, model)| model).ok_or_else(missing)
    }

    fn fault(&self, error: &GpuError) -> BackendError {
        BackendError::Run { backend: self.name.clone(), why: error.to_string() }
    }
}

impl Gpu {
    /// The model as a decoder at position 0; its state lies on the device.
    ///
    /// # Errors
    /// [`BackendError`] where the model cannot be uploaded.
    pub fn tokens(mut self) -> Result<Tokens, BackendError> {
        self.model(1)?;
        Ok(Tokens { gpu: self, position: 0 })
    }

    /// `samples`, with position 0 and all rows where the model has state.
    fn samples(&self, samples: &[Sample]) -> Result<Vec<Sample>, BackendError> {
        let rows = self.model.open::<Portable>()?.state().rows;
        let step = (rows > 0).then(|| step(0, rows));
        Ok(samples.iter().map(|sample| sample.iter().cloned().chain(step.clone()).collect()).collect())
    }
}

/// The input that says where a run stands.
fn step(position: u32, rows: u32) -> Vec<u8> {
    [position, rows].iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// A decoder whose state lies on a GPU.
pub struct Tokens {
    gpu: Gpu,
    position: u32,
}

impl Tokens {
    /// Runs one block of tokens, at most the rows of a run, at `position`.
    fn block(
        &mut self,
        tokens: &[u32],
        [position, rows]: [u32; 2],
        row: &mut dyn FnMut(&[u8]),
    ) -> Result<(), SequenceRunError> {
        let id = |&token: &u32| {
            let none = RunFault::Index { value: i32::MAX, limit: i32::MAX as u32 };
            i32::try_from(token).map_err(|_| SequenceRunError::Run(none))
        };
        let mut ids = tokens.iter().map(id).collect::<Result<Vec<i32>, _>>()?;
        ids.resize(rows as usize, 0);
        let ids = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
        let traces = self.gpu.model(1)?.run(&[vec![ids, step(position, tokens.len() as u32)]]);
        let traces = traces.map_err(|error| match error {
            GpuError::Fault { fault, .. } => SequenceRunError::Run(fault),
            error => self.gpu.fault(&error).into(),
        })?;
        let output = traces.first().and_then(|trace| trace.outputs.first());
        let output = output.ok_or(SequenceRunError::Run(RunFault::Memory))?;
        output.chunks_exact((output.len() / rows as usize).max(1)).take(tokens.len()).for_each(row);
        Ok(())
    }
}

impl Decoder for Tokens {
    fn feed(&mut self, tokens: &[u32], row: &mut dyn FnMut(&[u8])) -> Result<(), SequenceRunError> {
        let state = self.gpu.model.open::<Portable>().map_err(BackendError::from)?.state();
        let room = state.capacity.saturating_sub(self.position) as usize;
        if tokens.len() > room {
            return Err(SequenceRunError::Run(RunFault::Full { capacity: state.capacity }));
        }
        let mut position = self.position;
        for block in tokens.chunks((state.rows as usize).max(1)) {
            self.block(block, [position, state.rows], row)?;
            position += block.len() as u32;
        }
        self.position = position;
        Ok(())
    }

    fn position(&self) -> u32 {
        self.position
    }

    fn reset(&mut self) -> Result<(), SequenceRunError> {
        self.position = 0;
        Ok(())
    }
}

impl Backend for Gpu {
    fn name(&self) -> &str {
        &self.name
    }

    fn device(&self) -> Option<String> {
        Some(self.device.adapter().to_string())
    }

    fn run(&mut self, samples: &[Sample]) -> Result<Vec<Trace>, BackendError> {
        let samples = &self.samples(samples)?;
        let traces = self.model(samples.len())?.run(samples).map_err(|e| self.fault(&e))?;
        Ok(traces.into_iter().map(|t| Trace { digests: t.digests, outputs: t.outputs }).collect())
    }

    fn set_batch(&mut self, samples: usize) -> Result<usize, BackendError> {
        self.max_batch = samples.max(1);
        self.uploaded = None;
        Ok(self.model(samples)?.batch())
    }

    fn device_times(&mut self, samples: &[Sample]) -> Result<Option<DeviceTimes>, BackendError> {
        if !self.device.adapter().timestamps {
            return Ok(None);
        }
        let samples = &self.samples(samples)?;
        let name = self.name.clone();
        let fault = |e: GpuError| BackendError::Run { backend: name.clone(), why: e.to_string() };
        let model = self.model(samples.len())?;
        let mut batches = Vec::with_capacity(TIMED_BATCHES);
        for _ in 0..TIMED_BATCHES {
            batches.push(model.device_time(samples).map_err(&fault)?);
        }
        batches.sort_unstable();
        let mut ops: Vec<DeviceOpTime> = model
            .traffic(samples.len())
            .into_iter()
            .map(|bytes| DeviceOpTime { bytes, ..Default::default() })
            .collect();
        for dispatch in model.profile(samples).map_err(&fault)? {
            if let Some(op) = ops.get_mut(dispatch.op) {
                op.time += dispatch.time;
                op.shaders.push(dispatch.shader);
            }
        }
        Ok(Some(DeviceTimes { batch: batches[TIMED_BATCHES / 2], ops }))
    }

    fn op_output(&mut self, sample: &Sample, op: usize) -> Result<Vec<u8>, BackendError> {
        let samples = self.samples(std::slice::from_ref(sample))?;
        let sample = samples.first().unwrap_or(sample);
        self.model(1)?.op_output(sample, op).map_err(|e| self.fault(&e))
    }
}
