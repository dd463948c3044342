//! Device time per dispatch, by timestamps around every one.

use crate::error::GpuError;
use crate::executor::{GpuModel, Sample};
use std::time::Duration;

/// Device time of one dispatch.
#[derive(Clone, Debug)]
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
        let gpu = self.shared_gpu();
        if !gpu.device.features().contains(wgpu::Features::TIMESTAMP_QUERY) {
            return Err(GpuError::NoTimestamps(gpu.adapter().name.clone()));
        }
        let batch = samples.get(..self.batch().min(samples.len())).unwrap_or(samples);
        self.run(batch)?;
        let count = (2 * self.dispatches().len() as u32).min(wgpu::QUERY_SET_MAX_QUERIES);
        let (queries, resolved) = gpu.checked(|device| {
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
            (queries, resolved)
        })?;
        gpu.checked(|device| {
            let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            for index in 0..count / 2 {
                let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
                    label: None,
                    timestamp_writes: Some(wgpu::ComputePassTimestampWrites {
                        query_set: &queries,
                        beginning_of_pass_write_index: Some(2 * index),
                        end_of_pass_write_index: Some(2 * index + 1),
                    }),
                });
                self.encode(&mut pass, index as usize, batch.len());
            }
            encoder.resolve_query_set(&queries, 0..count, &resolved, 0);
            gpu.queue.submit([encoder.finish()]);
        })?;
        let stamps = self.read_back(&resolved, 0, u64::from(count) * BYTES)?;
        let stamps: Vec<u64> = stamps.as_chunks::<8>().0.iter().map(|stamp| u64::from_le_bytes(*stamp)).collect();
        let period = f64::from(gpu.queue.get_timestamp_period());
        let times = stamps.as_chunks::<2>().0.iter().zip(self.dispatches()).map(|(&[start, end], dispatch)| {
            let nanoseconds = end.saturating_sub(start) as f64 * period;
            DispatchTime { op: dispatch.op, shader: dispatch.shader, time: Duration::from_nanos(nanoseconds as u64) }
        });
        Ok(times.collect())
    }
}
