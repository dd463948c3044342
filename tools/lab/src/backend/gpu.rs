//! A GPU, by the shaders of `shiftformer-gpu`.

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

impl Backend for Gpu {
    fn name(&self) -> &str {
        &self.name
    }

    fn device(&self) -> Option<String> {
        Some(self.device.adapter().to_string())
    }

    fn run(&mut self, samples: &[Sample]) -> Result<Vec<Trace>, BackendError> {
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
        self.model(1)?.op_output(sample, op).map_err(|e| self.fault(&e))
    }
}
