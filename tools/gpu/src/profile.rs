//! Device time per dispatch, by timestamps around every one.

use crate::error::GpuError;
use crate::executor::{GpuModel, Sample};
use std::ops::Range;
use std::time::Duration;

/// Device time of one dispatch.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DispatchTime {
    /// Index of the operator; the number of operators for the digests.
    pub op: usize,
    /// Name of the shader.
    pub shader: &'static str,
    /// Time between its start and its end on the device.
    pub time: Duration,
}

/// Bytes of a timestamp.
const BYTES: u64 = wgpu::QUERY_SIZE as u64;

impl GpuModel {
    /// Runs one batch with a compute pass for every dispatch and reads the time of each.
    ///
    /// The batch is cut to [`batch`](Self::batch) samples. Passes of their own cost something: the sum is an upper bound
    /// of what [`run`](Self::run) takes on the device. Of a model with more than 2048 dispatches the first are timed.
    ///
    /// # Errors
    /// [`GpuError::NoTimestamps`] on an adapter without them, else as [`run`](Self::run).
    pub fn profile(&mut self, samples: &[Sample]) -> Result<Vec<DispatchTime>, GpuError> {
        let count = self.dispatches().len().min(wgpu::QUERY_SET_MAX_QUERIES as usize / 2);
        let times = self.timed(samples, (0..count).map(|index| index..index + 1).collect())?;
        let named = times.into_iter().zip(self.dispatches());
        Ok(named.map(|(time, dispatch)| DispatchTime { op: dispatch.op, shader: dispatch.shader, time }).collect())
    }

    /// Runs one batch, cut to [`batch`](Self::batch) samples, and reads how long its dispatches take on the device, from
    /// inputs that lie there to the digests and outputs.
    ///
    /// # Errors
    /// As [`profile`](Self::profile).
    pub fn device_time(&mut self, samples: &[Sample]) -> Result<Duration, GpuError> {
        let all = 0..self.dispatches().len();
        Ok(self.timed(samples, vec![all])?.into_iter().sum())
    }

    /// The device time of each of `passes`, ranges of dispatches, after a run that warms up.
    fn timed(&mut self, samples: &[Sample], passes: Vec<Range<usize>>) -> Result<Vec<Duration>, GpuError> {
        let gpu = self.shared_gpu();
        if !gpu.device.features().contains(wgpu::Features::TIMESTAMP_QUERY) {
            return Err(GpuError::NoTimestamps(gpu.adapter().name.clone()));
        }
        let batch = samples.get(..self.batch().min(samples.len())).unwrap_or(samples);
        self.run(batch)?;
        let count = 2 * passes.len() as u32;
        let resolved = gpu.checked(|device| {
            let queries = device.create_query_set(&wgpu::QuerySetDescriptor {
                label: None,
                ty: wgpu::QueryType::Timestamp,
                count,
            });
            let resolved = device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("timestamps"),
                size: u64::from(count) * BYTES,
                usage: wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC,
                mapped_at_creation: false,
            });
            let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            for (index, dispatches) in passes.into_iter().enumerate() {
                let index = index as u32;
                let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
                    label: None,
                    timestamp_writes: Some(wgpu::ComputePassTimestampWrites {
                        query_set: &queries,
                        beginning_of_pass_write_index: Some(2 * index),
                        end_of_pass_write_index: Some(2 * index + 1),
                    }),
                });
                for dispatch in dispatches {
                    self.encode(&mut pass, dispatch, batch.len());
                }
            }
            encoder.resolve_query_set(&queries, 0..count, &resolved, 0);
            gpu.queue.submit([encoder.finish()]);
            resolved
        })?;
        let stamps = self.read_back(&resolved, 0, u64::from(count) * BYTES)?;
        let stamps: Vec<u64> = stamps.as_chunks::<8>().0.iter().map(|stamp| u64::from_le_bytes(*stamp)).collect();
        let period = f64::from(gpu.queue.get_timestamp_period());
        let time = |&[start, end]: &[u64; 2]| Duration::from_nanos((end.saturating_sub(start) as f64 * period) as u64);
        Ok(stamps.as_chunks::<2>().0.iter().map(time).collect())
    }
}
