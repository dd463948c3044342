//! A model on the device: uploaded once, run over batches of samples.

use crate::digest;
use crate::error::GpuError;
use crate::gpu::{Abilities, Gpu, driver, start_map};
use crate::layout::{Layout, Operands, Region, Source, decode};
use crate::ops::{self, Builder, Following};
use crate::step::{Buffer, Step, Tensor, Work, side_by_side};
use shiftformer::format::SectionKind;
use shiftformer::ops::Op;
use shiftformer::ops::embedding::IdPart;
use shiftformer::{Model, RunFault};
use std::sync::Arc;
use std::thread::available_parallelism;

/// Bytes of a sample's inputs, in the order of the model's inputs.
pub type Sample = Vec<Vec<u8>>;

/// What one run of one sample left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// Digest of every operator's output ([`shiftformer::arith::digest`]), computed on the device.
    pub digests: Vec<u64>,
    /// Bytes of the model's outputs.
    pub outputs: Vec<Vec<u8>>,
}

/// Bytes bound for the parameters of a dispatch: the largest `Params` structure fits.
const PARAM_BYTES: u64 = 512;
/// Samples are the z dimension of a dispatch.
const MAX_BATCH: u64 = 65535;
const DIGEST_WORDS: usize = 2;
/// Bytes of inputs above which several threads copy them: starting threads takes as long as copying some 100 KB.
const PARALLEL_BYTES: usize = 4 << 20;

/// A model uploaded to a device.
pub struct GpuModel {
    gpu: Arc<Gpu>,
    layout: Layout,
    /// Samples of a full batch.
    capacity: u64,
    /// Words per sample, scratch included.
    sample_words: u64,
    weights: wgpu::Buffer,
    params: wgpu::Buffer,
    dispatches: Vec<Dispatch>,
    gathers: Vec<Option<Gather>>,
    slots: Vec<Slot>,
}

/// A step, ready to be encoded.
pub(crate) struct Dispatch {
    /// Index of the operator.
    pub op: usize,
    /// Name of the shader.
    pub shader: &'static str,
    pipeline: Arc<wgpu::ComputePipeline>,
    params_offset: u32,
    work: Work,
}

impl Dispatch {
    /// Encodes the dispatch for `samples` samples.
    fn encode(&self, pass: &mut wgpu::ComputePass<'_>, bindings: &wgpu::BindGroup, samples: usize) {
        pass.set_pipeline(&self.pipeline);
        pass.set_bind_group(0, bindings, &[self.params_offset]);
        // A step is made for a full batch: fewer samples fit as well.
        let [x, y, z] = self.work.groups(samples as u64).unwrap_or([0; 3]);
        pass.dispatch_workgroups(x, y, z);
    }
}

/// What it takes to explain an index fault.
#[derive(Clone, Copy)]
struct Gather {
    ids: Tensor,
    n: usize,
    /// The lowest index, and the first that is too high.
    limits: (i64, u32),
}

/// Memory of one batch. Two of them let one batch be prepared while the other runs.
struct Slot {
    data: wgpu::Buffer,
    /// The inputs of a batch, written in place.
    upload: wgpu::Buffer,
    readback: wgpu::Buffer,
    bindings: wgpu::BindGroup,
}

/// A batch under way.
struct Pending {
    slot: usize,
    first: usize,
    samples: usize,
    submission: wgpu::SubmissionIndex,
}

impl GpuModel {
    /// Uploads `model` for batches of up to `batch` samples; fewer where the device's memory is the limit.
    ///
    /// # Errors
    /// [`GpuError::TooLarge`] when not even one sample fits, [`GpuError::Op`], [`GpuError::Unwritten`],
    /// [`GpuError::Driver`].
    pub fn upload(gpu: &Arc<Gpu>, model: &Model<'_>, batch: usize) -> Result<Self, GpuError> {
        let layout = Layout::new(model)?;
        let (_, sample_words) = build_steps(model, &layout, 1, gpu.abilities())?;
        let limit = gpu.max_binding_bytes();
        let fits = limit / (sample_words * 4);
        if fits == 0 {
            let adapter = gpu.adapter().name.clone();
            return Err(GpuError::TooLarge { adapter, needed: sample_words * 4, limit });
        }
        let capacity = fits.min(batch.max(1) as u64).min(MAX_BATCH);
        let (mut steps, _) = build_steps(model, &layout, capacity, gpu.abilities())?;
        let mut weights = model.sections().get(SectionKind::Weights).to_vec();
        weights.resize(weights.len().next_multiple_of(16), 0);
        let table = (weights.len() / 4) as u32;
        weights.extend(digest::table(&layout, capacity).iter().flat_map(|w| w.to_le_bytes()));
        weights.resize(weights.len().next_multiple_of(16), 0);
        steps.push(digest::step(&layout, capacity, table)?);
        let mut params = Vec::with_capacity(steps.len() * PARAM_BYTES as usize);
        let mut dispatches = Vec::with_capacity(steps.len());
        for step in &steps {
            let params_offset = params.len() as u32;
            debug_assert!(step.params.len() as u64 * 4 <= PARAM_BYTES);
            dispatches.push(Dispatch {
                op: step.op,
                shader: step.shader.name,
                pipeline: gpu.pipeline(step.shader, &step.constants)?,
                params_offset,
                work: step.work,
            });
            params.extend(step.params.iter().flat_map(|w| w.to_le_bytes()));
            params.resize(params_offset as usize + PARAM_BYTES as usize, 0);
        }
        let gathers = gathers(model, &layout, capacity, gpu.abilities());
        let weights = constant_buffer(gpu, &weights)?;
        let params = constant_buffer(gpu, &params)?;
        let slots = Vec::new();
        let gpu = gpu.clone();
        Ok(Self { gpu, layout, capacity, sample_words, weights, params, dispatches, gathers, slots })
    }

    /// Samples of a full batch.
    pub fn batch(&self) -> usize {
        self.capacity as usize
    }

    /// Bytes on the device per sample of a batch.
    pub fn sample_bytes(&self) -> u64 {
        self.sample_words * 4
    }

    /// Bytes that each operator of a batch of `samples` must move: its operands and its output once, constants once for
    /// the batch; last, those of the digests, which read every output.
    pub fn traffic(&self, samples: usize) -> Vec<u64> {
        let samples = samples.min(self.batch()) as u64;
        let of = |operands: &Operands| {
            let (mut per_sample, mut once) = (operands.output.bytes as u64, 0);
            for source in operands.inputs.iter().flatten() {
                match source {
                    Source::Region(region) => per_sample += region.bytes as u64,
                    Source::Weights(record) => once += record.bytes() as u64,
                }
            }
            per_sample * samples + once + operands.packed_bytes
        };
        let outputs: u64 = self.layout.ops.iter().map(|op| op.output.bytes as u64).sum();
        self.layout.ops.iter().map(of).chain([outputs * samples]).collect()
    }

    /// The device.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// Runs `samples`, a batch at a time, one submission each; the next is prepared while one runs.
    ///
    /// # Errors
    /// [`GpuError::Input`], [`GpuError::Fault`] for the first sample at fault, [`GpuError::Driver`].
    pub fn run(&mut self, samples: &[Sample]) -> Result<Vec<Trace>, GpuError> {
        self.check_inputs(samples)?;
        let mut traces = Vec::with_capacity(samples.len());
        let mut pending: Option<Pending> = None;
        for (index, batch) in samples.chunks(self.batch()).enumerate() {
            let next = self.submit(index % 2, index * self.batch(), batch)?;
            if let Some(done) = pending.replace(next) {
                self.collect(&done, &mut traces)?;
            }
        }
        if let Some(done) = pending {
            self.collect(&done, &mut traces)?;
        }
        Ok(traces)
    }

    /// Runs one sample and fetches the output of operator `op`; nothing where a later operator completes it.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn op_output(&mut self, sample: &Sample, op: usize) -> Result<Vec<u8>, GpuError> {
        let operands = self.layout.ops.get(op).ok_or(GpuError::Op { op, reason: "there is no such operator" })?;
        if !operands.complete {
            return Ok(Vec::new());
        }
        let region = operands.output;
        self.run(std::slice::from_ref(sample))?;
        self.fetch(0, region.tensor(self.capacity), 0, region.bytes)
    }

    /// The device, shared.
    pub(crate) fn shared_gpu(&self) -> Arc<Gpu> {
        self.gpu.clone()
    }

    /// All dispatches of a batch, in order.
    pub(crate) fn dispatches(&self) -> &[Dispatch] {
        &self.dispatches
    }

    /// Encodes dispatch `index` over the memory of the last run.
    pub(crate) fn encode(&self, pass: &mut wgpu::ComputePass<'_>, index: usize, samples: usize) {
        if let (Some(dispatch), Some(slot)) = (self.dispatches.get(index), self.slots.first()) {
            dispatch.encode(pass, &slot.bindings, samples);
        }
    }

    fn check_inputs(&self, samples: &[Sample]) -> Result<(), GpuError> {
        for (sample, inputs) in samples.iter().enumerate() {
            for (input, region) in self.layout.inputs.iter().enumerate() {
                let given = inputs.get(input).map_or(0, Vec::len);
                if given != region.bytes {
                    return Err(GpuError::Input { sample, input, needed: region.bytes, given });
                }
            }
        }
        Ok(())
    }

    fn slot(&mut self, index: usize) -> Result<&Slot, GpuError> {
        while self.slots.len() <= index {
            let slot = Slot::new(self)?;
            self.slots.push(slot);
        }
        Ok(&self.slots[index])
    }

    fn submit(&mut self, slot: usize, first: usize, batch: &[Sample]) -> Result<Pending, GpuError> {
        self.slot(slot)?;
        let Slot { data, upload, readback, bindings } = &self.slots[slot];
        self.write_inputs(upload, batch)?;
        let fault = &self.layout.fault;
        let submission = self.gpu.checked(|device| {
            let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            for (region, at) in self.input_regions() {
                let bytes = region.words() * 4 * batch.len() as u64;
                encoder.copy_buffer_to_buffer(upload, at, data, region.byte_offset(self.capacity), bytes);
            }
            let bytes = fault.words() * 4 * batch.len() as u64;
            encoder.clear_buffer(data, fault.byte_offset(self.capacity), Some(bytes));
            {
                let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
                for dispatch in &self.dispatches {
                    dispatch.encode(&mut pass, bindings, batch.len());
                }
            }
            for (region, at) in self.readback_regions() {
                let bytes = region.words() * 4 * batch.len() as u64;
                encoder.copy_buffer_to_buffer(data, region.byte_offset(self.capacity), readback, at, bytes);
            }
            self.gpu.queue.submit([encoder.finish()])
        })?;
        Ok(Pending { slot, first, samples: batch.len(), submission })
    }

    /// The inputs of all samples of a batch, each padded to its region, into the mapped buffer.
    fn write_inputs(&self, upload: &wgpu::Buffer, batch: &[Sample]) -> Result<(), GpuError> {
        let ready = start_map(upload, wgpu::MapMode::Write);
        // The batch that last used the buffer has been collected: a look at the device is enough, waiting for all of its
        // work would keep the other batch from running on.
        self.gpu.device.poll(wgpu::PollType::Poll).map_err(|e| driver(&e))?;
        let mapped = match ready.try_recv() {
            Ok(mapped) => mapped,
            Err(_) => {
                self.gpu.device.poll(wgpu::PollType::wait_indefinitely()).map_err(|e| driver(&e))?;
                ready.recv().map_err(|e| driver(&e))?
            }
        };
        mapped.map_err(|e| driver(&e))?;
        for (input, (region, at)) in self.input_regions().enumerate() {
            let inputs: Vec<&[u8]> = batch.iter().map(|sample| sample[input].as_slice()).collect();
            let stride = region.words() as usize * 4;
            write_side_by_side(upload, at, stride, &inputs).map_err(|e| driver(&e))?;
        }
        upload.unmap();
        Ok(())
    }

    /// The inputs of a batch, each with its place in the upload buffer.
    fn input_regions(&self) -> impl Iterator<Item = (&Region, u64)> {
        placed(self.layout.inputs.iter(), self.capacity)
    }

    /// What comes back from every batch, each with its place in the readback buffer.
    fn readback_regions(&self) -> impl Iterator<Item = (&Region, u64)> {
        let regions = [&self.layout.fault, &self.layout.digests].into_iter().chain(&self.layout.outputs);
        placed(regions, self.capacity)
    }

    /// Bytes of the buffer that holds `regions`.
    fn bytes_of<'r>(&self, regions: impl Iterator<Item = (&'r Region, u64)>) -> u64 {
        regions.last().map_or(0, |(region, at)| at + region.words() * 4 * self.capacity)
    }

    fn collect(&self, pending: &Pending, traces: &mut Vec<Trace>) -> Result<(), GpuError> {
        let readback = &self.slots[pending.slot].readback;
        let bytes =
            self.gpu.mapped(readback, self.bytes_of(self.readback_regions()), Some(pending.submission.clone()))?;
        let of = |index: usize, sample: usize| {
            let (region, at) = self.readback_regions().nth(index)?;
            let from = at as usize + sample * region.words() as usize * 4;
            bytes.get(from..from + region.bytes)
        };
        for sample in 0..pending.samples {
            if let Some(op) = of(0, sample).map(word).and_then(|w| (w as usize).checked_sub(1)) {
                return Err(self.fault(pending, sample, op)?);
            }
            let digests = of(1, sample).unwrap_or(&[]).chunks_exact(4 * DIGEST_WORDS).map(double_word).collect();
            let outputs = (0..self.layout.outputs.len()).map(|i| of(2 + i, sample).unwrap_or(&[]).to_vec()).collect();
            traces.push(Trace { digests, outputs });
        }
        Ok(())
    }

    /// The first index of a gather that is out of range, as the runtime reports it.
    fn fault(&self, pending: &Pending, sample: usize, op: usize) -> Result<GpuError, GpuError> {
        let gather = self.gathers.get(op).copied().flatten();
        let Some(Gather { ids, n, limits: (lowest, limit) }) = gather else {
            return Ok(GpuError::Op { op, reason: "it reports a fault it cannot have" });
        };
        let (size, ids) = (ids.dtype.bytes(), self.fetch(pending.slot, ids, sample, n * ids.dtype.bytes())?);
        // Little-endian, the sign in the last byte.
        let signed = |id: &[u8]| {
            id.iter().rev().fold(None, |high: Option<i32>, &byte| {
                Some(high.map_or(i32::from(byte as i8), |high| high << 8 | i32::from(byte)))
            })
        };
        let mut ids = ids.chunks_exact(size).filter_map(signed);
        let inside = |id: i32| i64::from(id) >= lowest && i64::from(id) < i64::from(limit);
        let value = ids.find(|&id| !inside(id)).unwrap_or(0);
        let fault = RunFault::Index { value, limit };
        Ok(GpuError::Fault { sample: pending.first + sample, op, fault })
    }

    /// Bytes of a tensor of one sample, as the last run of `slot` left them.
    fn fetch(&self, slot: usize, tensor: Tensor, sample: usize, bytes: usize) -> Result<Vec<u8>, GpuError> {
        let source = if tensor.buffer == Buffer::Weights { &self.weights } else { &self.slots[slot].data };
        let at = 4 * (u64::from(tensor.base) + u64::from(tensor.stride) * sample as u64);
        let mut fetched = self.read_back(source, at, bytes.next_multiple_of(4) as u64)?;
        fetched.truncate(bytes);
        Ok(fetched)
    }

    /// `bytes` bytes of a buffer from `at`, both multiples of 4.
    pub(crate) fn read_back(&self, source: &wgpu::Buffer, at: u64, bytes: u64) -> Result<Vec<u8>, GpuError> {
        let readback = self.gpu.checked(|device| {
            let readback = readback_buffer(device, bytes);
            let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            encoder.copy_buffer_to_buffer(source, at, &readback, 0, bytes);
            self.gpu.queue.submit([encoder.finish()]);
            readback
        })?;
        self.gpu.mapped(&readback, bytes, None)
    }
}

impl Slot {
    fn new(model: &GpuModel) -> Result<Self, GpuError> {
        model.gpu.checked(|device| {
            let data = device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("activations"),
                size: model.sample_words * 4 * model.capacity,
                usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC,
                mapped_at_creation: false,
            });
            let params = wgpu::BufferBinding { buffer: &model.params, offset: 0, size: PARAM_BYTES.try_into().ok() };
            let bindings = device.create_bind_group(&wgpu::BindGroupDescriptor {
                label: None,
                layout: &model.gpu.bindings,
                entries: &[
                    wgpu::BindGroupEntry { binding: 0, resource: data.as_entire_binding() },
                    wgpu::BindGroupEntry { binding: 1, resource: model.weights.as_entire_binding() },
                    wgpu::BindGroupEntry { binding: 2, resource: wgpu::BindingResource::Buffer(params) },
                ],
            });
            let upload = device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("inputs"),
                size: model.bytes_of(model.input_regions()),
                usage: wgpu::BufferUsages::MAP_WRITE | wgpu::BufferUsages::COPY_SRC,
                mapped_at_creation: false,
            });
            let readback = readback_buffer(device, model.bytes_of(model.readback_regions()));
            Slot { data, upload, readback, bindings }
        })
    }
}

/// All dispatches of `model` but that of the digests, and the words per sample they need.
fn build_steps(
    model: &Model<'_>,
    layout: &Layout,
    capacity: u64,
    abilities: Abilities,
) -> Result<(Vec<Step>, u64), GpuError> {
    let (mut steps, mut words) = (Vec::new(), layout.words);
    let decoded =
        |index| decode(model, index).ok_or(GpuError::Op { op: index, reason: "its parameters do not decode" });
    let ops: Vec<Op> = (0..layout.ops.len()).map(decoded).collect::<Result<_, _>>()?;
    // Operators whose outputs an earlier dispatch has made.
    let mut made = vec![false; ops.len()];
    for (index, (op, operands)) in ops.iter().zip(&layout.ops).enumerate() {
        if made[index] {
            continue;
        }
        let following = following(&ops, layout, index, capacity);
        let mut build = Builder::new(index, operands, layout, capacity, abilities).followed_by(following);
        ops::add(&mut build, op)?;
        let (more, end, absorbed) = build.finish();
        steps.extend(more);
        words = words.max(end);
        absorbed.into_iter().for_each(|later| made[later] = true);
    }
    Ok((side_by_side(steps), words))
}

/// The first norm of the output of operator `op`, and a copy of what it makes: each output has memory of its own, so that
/// they can be made as soon as their input is there.
fn following(ops: &[Op], layout: &Layout, op: usize, capacity: u64) -> Option<Following> {
    let reads = |later: usize, of: usize| match layout.ops[later].inputs.first() {
        Some(Some(Source::Region(input))) => input.offset == layout.ops[of].output.offset,
        Some(Some(Source::Weights(_)) | None) | None => false,
    };
    if !layout.ops[op].complete {
        return None;
    }
    let norms = ops.iter().enumerate().skip(op + 1);
    let (index, norm) = norms.filter(|&(index, _)| reads(index, op)).find_map(|(index, op)| match op {
        Op::LayerNorm(norm) => Some((index, *norm)),
        _ => None,
    })?;
    let copies = ops.iter().enumerate().skip(index + 1);
    let copies = copies
        .filter(|&(copy, _)| reads(copy, index) && layout.ops[copy].output.bytes == layout.ops[index].output.bytes);
    let copy = copies.into_iter().find_map(|(copy, op)| match op {
        Op::Copy(copy_op) if ops::copies_all(copy_op) && layout.ops[copy].complete => Some(copy),
        _ => None,
    });
    let tensor = |op: usize| layout.ops[op].output.tensor(capacity);
    Some(Following { op: index, norm, out: tensor(index), copy, again: copy.map_or(Tensor::ABSENT, tensor) })
}

fn gathers(model: &Model<'_>, layout: &Layout, capacity: u64, abilities: Abilities) -> Vec<Option<Gather>> {
    let of = |(index, operands)| match decode(model, index) {
        Some(Op::Gather(op)) => {
            let ids = Builder::new(index, operands, layout, capacity, abilities).input(1);
            Some(Gather { ids, n: op.n as usize, limits: (-i64::from(op.rows), op.rows) })
        }
        Some(Op::Embedding(op)) => {
            let ids = Builder::new(index, operands, layout, capacity, abilities).input(0);
            let lowest = if op.part == IdPart::Whole { -i64::from(op.rows) } else { 0 };
            Some(Gather { ids, n: op.n as usize, limits: (lowest, op.limit) })
        }
        _ => None,
    };
    layout.ops.iter().enumerate().map(of).collect()
}

/// Each of `regions` with its place in a buffer that holds them for `capacity` samples, one behind the other.
fn placed<'r>(regions: impl Iterator<Item = &'r Region>, capacity: u64) -> impl Iterator<Item = (&'r Region, u64)> {
    regions.scan(0, move |next, region| {
        let at = *next;
        *next += region.words() * 4 * capacity;
        Some((region, at))
    })
}

/// Copies the bytes of every sample into the mapped buffer from byte `at`, `stride` bytes apart, on all processors where
/// they are many.
fn write_side_by_side(to: &wgpu::Buffer, at: u64, stride: usize, inputs: &[&[u8]]) -> Result<(), wgpu::MapRangeError> {
    let threads =
        if inputs.len() * stride < PARALLEL_BYTES { 1 } else { available_parallelism().map_or(1, usize::from) };
    let share = inputs.len().div_ceil(threads).max(1);
    let copy = |(index, inputs): (usize, &[&[u8]])| {
        let first = at + (index * share * stride) as u64;
        let mut view = to.get_mapped_range_mut(first..first + (inputs.len() * stride) as u64)?;
        for (index, bytes) in inputs.iter().enumerate() {
            view.slice(index * stride..index * stride + bytes.len()).copy_from_slice(bytes);
        }
        Ok(())
    };
    if threads == 1 {
        return inputs.chunks(share).enumerate().try_for_each(copy);
    }
    std::thread::scope(|scope| {
        let started: Vec<_> = inputs.chunks(share).enumerate().map(|part| scope.spawn(move || copy(part))).collect();
        // A thread that panics has met a fault of this program: it goes on.
        started
            .into_iter()
            .try_for_each(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

fn constant_buffer(gpu: &Gpu, bytes: &[u8]) -> Result<wgpu::Buffer, GpuError> {
    gpu.checked(|device| {
        let buffer = device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("constants"),
            size: bytes.len() as u64,
            usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC,
            mapped_at_creation: false,
        });
        gpu.queue.write_buffer(&buffer, 0, bytes);
        buffer
    })
}

fn readback_buffer(device: &wgpu::Device, size: u64) -> wgpu::Buffer {
    device.create_buffer(&wgpu::BufferDescriptor {
        label: Some("readback"),
        size,
        usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
        mapped_at_creation: false,
    })
}

fn word(bytes: &[u8]) -> u32 {
    bytes.first_chunk().map_or(0, |b| u32::from_le_bytes(*b))
}

fn double_word(bytes: &[u8]) -> u64 {
    bytes.first_chunk().map_or(0, |b| u64::from_le_bytes(*b))
}
