//! `shiftformer bench`.

use super::failure::{Failure, Verdict};
use super::inspect::read_model;
use super::{data, output};
use rayon::prelude::*;
use serde::Serialize;
use shiftformer::format::SectionKind;
use shiftformer::kernels::{Kernels, Native, Parallel, Portable};
use shiftformer::{AlignedBytes, Model, Observer, Part, RunFault, Session};
use shiftformer_convert::model_file::ModelFile;
use shiftformer_lab::backend::{self, Backend, BackendError, Sample};
use shiftformer_lab::clock;
use shiftformer_lab::summary::{OpSummary, summarize};
use shiftformer_lab::text;
use std::path::PathBuf;
use std::time::{Duration, Instant};

#[derive(clap::Args)]
pub struct Args {
    /// The model.
    file: PathBuf,
    /// Where to run: native, portable, gpu, qemu:BOARD.
    #[arg(long, default_value = "native")]
    backend: String,
    /// Samples to run, as npz; by default those stored in the model.
    #[arg(long)]
    data: Option<PathBuf>,
    /// Also measure N threads: samples per second with one sample per thread, and the latency of one sample on all. Other figures
    /// are of one thread.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = super::threads::parse)]
    threads: usize,
    /// Run in blocks of rows, as a device does. By default this machine and a GPU run whole operators, which is faster.
    #[arg(long)]
    row_blocks: bool,
    /// Count one token of a decoder behind N others (qemu:BOARD).
    #[arg(long, value_name = "N", default_value_t = 0)]
    position: u32,
    /// Samples per batch on a GPU.
    #[arg(long, default_value_t = 64)]
    batch: usize,
    /// Device time of each operator on a GPU, beside its bytes and operations.
    #[arg(long)]
    per_op: bool,
    /// Peak memory bandwidth of the card, in GB/s: with --peak-tops, operators show their share of the roofline.
    #[arg(long, value_name = "GB/S", requires = "per_op")]
    peak_gbs: Option<f64>,
    /// Peak integer throughput of the card, in 10^12 operations per second.
    #[arg(long, value_name = "TOPS", requires = "per_op")]
    peak_tops: Option<f64>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Minimum time spent on each measurement.
const TIME: Duration = Duration::from_secs(1);
/// Minimum and maximum number of runs of each measurement.
const RUNS: (usize, usize) = (11, 2000);

/// Batches of a stream.
const STREAM: usize = 4;

#[derive(Serialize)]
struct HostOutput {
    backend: String,
    threads: usize,
    /// What `least_ms` and `median_ms` are times of.
    clock: &'static str,
    runs: usize,
    least_ms: f64,
    median_ms: f64,
    samples_per_s: f64,
    /// One sample on all threads.
    one_sample: OneSample,
    macs: u64,
    gmacs_per_s: f64,
    /// Of a model that keeps keys and values.
    #[serde(skip_serializing_if = "Option::is_none")]
    decoder: Option<DecoderTimes>,
    ops: Vec<HostOp>,
}

/// Times of prompts and of single tokens, on one thread.
#[derive(Serialize)]
struct DecoderTimes {
    /// Tokens of the prompt: half of the context.
    prompt: usize,
    prefill_ms: f64,
    prefill_tokens_per_s: f64,
    /// One token behind the prompt.
    decode_ms: f64,
    decode_tokens_per_s: f64,
    /// At most what one token reads: all weights, and the keys and values before it.
    bytes_per_token: usize,
    gb_per_s: f64,
    /// A plain loop that reads as many bytes of the weights, on the same thread: what the memory can deliver.
    read_gb_per_s: f64,
}

/// Times of one sample on several threads.
#[derive(Serialize)]
struct OneSample {
    threads: usize,
    /// What the times are times of: processor time would count one of the threads.
    clock: &'static str,
    runs: usize,
    least_ms: f64,
    median_ms: f64,
}

#[derive(Serialize)]
struct HostOp {
    name: String,
    kind: &'static str,
    macs: u64,
    median_us: f64,
    ps_per_mac: Option<f64>,
}

#[derive(Serialize)]
struct CountOutput {
    backend: String,
    instructions: u64,
    macs: u64,
    instructions_per_mac: f64,
    stack_bytes: u32,
    /// Opening the model with every check, and as the module of `codegen` does.
    open: u64,
    open_proven: u64,
    /// The inference in steps: how many, all of them, the longest and its operator.
    steps: u32,
    all_steps: u64,
    longest_step: u64,
    longest_step_op: usize,
    ops: Vec<CountOp>,
}

#[derive(Serialize)]
struct CountOp {
    name: String,
    kind: &'static str,
    macs: u64,
    instructions: u64,
    instructions_per_mac: Option<f64>,
}

#[derive(Serialize)]
struct BatchOutput {
    backend: String,
    adapter: String,
    /// Samples of a batch: as asked for, or what the memory of the device holds.
    batch: usize,
    runs: usize,
    median_ms: f64,
    /// One batch after the other, each from the upload of its inputs to its digests and outputs.
    samples_per_s: f64,
    /// The next batch is uploaded while one runs, as in `eval` and `parity`.
    streamed_samples_per_s: f64,
    /// By the device's own clock: inputs lie on the device, digests are made, outputs stay there.
    #[serde(skip_serializing_if = "Option::is_none")]
    device_samples_per_s: Option<f64>,
    macs: u64,
    /// Two operations per multiplication with accumulation, at `samples_per_s`.
    integer_tops: f64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ops: Vec<DeviceOp>,
}

/// An operator of a batch, or the digests of all.
#[derive(Serialize)]
struct DeviceOp {
    name: String,
    kind: &'static str,
    shaders: Vec<&'static str>,
    microseconds: f64,
    bytes: u64,
    operations: u64,
    /// Time at the peaks of --peak-gbs and --peak-tops over the time it took.
    #[serde(skip_serializing_if = "Option::is_none")]
    roofline: Option<f64>,
}

pub fn run(args: &Args) -> Result<Verdict, Failure> {
    if args.batch == 0 {
        return Err(Failure::Usage("--batch must be at least 1".to_owned()));
    }
    if args.position > 0 && !args.backend.starts_with("qemu:") {
        return Err(Failure::Usage("--position counts instructions: use it with --backend qemu:BOARD".to_owned()));
    }
    if let Some(port) = args.backend.strip_prefix("serial:") {
        let file = args.file.display();
        return Err(Failure::Usage(format!(
            "a device has a counter of its own: `shiftformer device bench {port} {file}`"
        )));
    }
    let model = read_model(&args.file)?;
    let samples = match &args.data {
        Some(path) => {
            let data = data::open(path)?;
            data::samples(&model, &data, &data::first(&data, Some(args.batch.max(16)))?)?
        }
        None => vec![data::stand_in(&model)?],
    };
    match args.backend.as_str() {
        "native" if args.row_blocks => host::<Native>(args, &model, &samples),
        "native" => host::<Native>(args, &backend::in_whole_operators("native", &model)?, &samples),
        "portable" => host::<Portable>(args, &model, &samples),
        name => {
            // Blocks of rows save memory that a GPU has.
            let on_gpu = name == "gpu" || name.starts_with("gpu:");
            let whole = on_gpu && !args.row_blocks;
            let model = if whole { backend::in_whole_operators(name, &model)? } else { model };
            let mut backend = backend::open(name, &model)?;
            match backend.counts_at(&samples[0], args.position)? {
                Some(counts) => counted(args, &model, &counts),
                None => batches(args, &model, backend.as_mut(), &samples),
            }
        }
    }
}

fn summaries(model: &ModelFile) -> Result<Vec<OpSummary>, Failure> {
    let opened = model.open::<Portable>().map_err(|e| Failure::Backend(e.into()))?;
    Ok(summarize(&opened, model.annotations()).ops)
}

fn host<B: Kernels + Sync + Send>(args: &Args, file: &ModelFile, samples: &[Sample]) -> Result<Verdict, Failure> {
    let model = file.open::<B>().map_err(|e| Failure::Backend(e.into()))?;
    let fault = |why: RunFault| BackendError::Run { backend: args.backend.clone(), why: why.to_string() };
    let ops = summaries(file)?;
    let macs: u64 = ops.iter().map(|op| op.macs).sum();
    let mut bench = Bench::new(&model);
    let latencies = repeat(|run| bench.run(&samples[run % samples.len()], &mut ())).map_err(fault)?;
    let mut watch = OpTimes { started: Instant::now(), open: vec![0.0; ops.len()], times: vec![Vec::new(); ops.len()] };
    repeat(|run| bench.run(&samples[run % samples.len()], &mut watch)).map_err(fault)?;
    let median_ms = median(&latencies) * 1e3;
    let pool = rayon::ThreadPoolBuilder::new().num_threads(args.threads).build();
    let pool = pool.map_err(|e| BackendError::Run { backend: args.backend.clone(), why: e.to_string() })?;
    let one_sample = pool.install(|| one_sample::<B>(args, file, samples))?;
    let samples_per_s =
        if args.threads == 1 { 1e3 / median_ms } else { throughput::<B>(args, file, samples, median_ms, &pool)? };
    let ops = ops.iter().zip(&watch.times).map(|(op, times)| HostOp {
        name: op.name.clone(),
        kind: op.kind,
        macs: op.macs,
        median_us: median(times) * 1e6,
        ps_per_mac: (op.macs > 0).then(|| median(times) * 1e12 / op.macs as f64),
    });
    let decoder = decoder_times(&model).transpose().map_err(fault)?;
    let result = HostOutput {
        backend: args.backend.clone(),
        threads: args.threads,
        clock: clock::WHAT,
        runs: latencies.len(),
        least_ms: min(&latencies) * 1e3,
        median_ms,
        samples_per_s,
        one_sample,
        macs,
        gmacs_per_s: macs as f64 / median_ms / 1e6,
        decoder,
        ops: ops.collect(),
    };
    if args.json {
        output::json(&result)?
    } else {
        output::print(&result.text(B::NAME))
    }
    Ok(Verdict::Passed)
}

/// Times of a decoder; `None` for other models.
fn decoder_times<B: Kernels>(model: &Model<'_, B>) -> Option<Result<DecoderTimes, RunFault>> {
    let state = model.state();
    if state.rows == 0 || model.n_inputs() != 1 {
        return None;
    }
    let prompt = (state.capacity / 2).max(1);
    let weights = model.sections().get(SectionKind::Weights).len();
    let held = prompt.min(model.window());
    let kept = model.state_bytes() / model.window().max(1) as usize * held as usize;
    Some(times_of_tokens(model, prompt, weights + kept))
}

fn times_of_tokens<B: Kernels>(
    model: &Model<'_, B>,
    prompt: u32,
    bytes_per_token: usize,
) -> Result<DecoderTimes, RunFault> {
    let [mut arena, mut state] = [model.arena_bytes(), model.state_bytes()].map(AlignedBytes::zeroed);
    let mut session = Session::with_state(model, &mut arena, &mut state).map_err(|_| RunFault::Memory)?;
    // Which tokens they are makes no difference to the work, and every vocabulary has the first.
    let tokens = vec![0; prompt as usize];
    let prefill = repeat(|_| {
        session.reset();
        let started = clock::now();
        session.prefill(&tokens)?;
        Ok(clock::now() - started)
    })?;
    let decode = repeat(|_| {
        session.truncate(prompt);
        let started = clock::now();
        session.push(0)?;
        Ok(clock::now() - started)
    })?;
    let weights = model.sections().get(SectionKind::Weights);
    let read = repeat(|_| {
        let started = clock::now();
        std::hint::black_box(sum_of_words(std::hint::black_box(weights)));
        Ok::<f64, RunFault>(clock::now() - started)
    })?;
    let read_gb_per_s = weights.len() as f64 / median(&read).max(1e-9) / 1e9;
    let (prefill, decode) = (median(&prefill).max(1e-9), median(&decode).max(1e-9));
    Ok(DecoderTimes {
        prompt: prompt as usize,
        prefill_ms: prefill * 1e3,
        prefill_tokens_per_s: f64::from(prompt) / prefill,
        decode_ms: decode * 1e3,
        decode_tokens_per_s: 1.0 / decode,
        bytes_per_token,
        gb_per_s: bytes_per_token as f64 / decode / 1e9,
        read_gb_per_s,
    })
}

/// A loop that does nothing but read: sums of words side by side, as wide as the processor's registers.
fn sum_of_words(bytes: &[u8]) -> u64 {
    const SUMS: usize = 32;
    let mut sums = [0u64; SUMS];
    for block in bytes.as_chunks::<{ 8 * SUMS }>().0 {
        for (sum, word) in sums.iter_mut().zip(block.as_chunks::<8>().0) {
            *sum = sum.wrapping_add(u64::from_le_bytes(*word));
        }
    }
    sums.iter().fold(0, |all, &sum| all.wrapping_add(sum))
}

/// One session's memory.
struct Bench<'m, B: Kernels> {
    model: &'m Model<'m, B>,
    arena: AlignedBytes,
    state: AlignedBytes,
}

impl<'m, B: Kernels> Bench<'m, B> {
    fn new(model: &'m Model<'m, B>) -> Self {
        let [arena, state] = [model.arena_bytes(), model.state_bytes()].map(AlignedBytes::zeroed);
        Self { model, arena, state }
    }

    /// Processor time of one inference, input copied in, in seconds.
    fn run(&mut self, sample: &Sample, observer: &mut impl Observer) -> Result<f64, RunFault> {
        let started = clock::now();
        let mut session =
            Session::with_state(self.model, &mut self.arena, &mut self.state).map_err(|_| RunFault::Memory)?;
        for (index, bytes) in sample.iter().enumerate() {
            let input = session.input_mut(index).filter(|input| input.len() == bytes.len());
            input.ok_or(RunFault::Memory)?.copy_from_slice(bytes);
        }
        session.run_with(observer)?;
        Ok(clock::now() - started)
    }
}

struct OpTimes {
    started: Instant,
    /// Of the blocks so far of operators whose run is not complete.
    open: Vec<f64>,
    times: Vec<Vec<f64>>,
}

impl Observer for OpTimes {
    fn before(&mut self, _op: usize) {
        self.started = Instant::now();
    }
    fn ran(&mut self, op: usize) {
        if let Some(open) = self.open.get_mut(op) {
            *open += self.started.elapsed().as_secs_f64();
        }
    }
    fn after(&mut self, op: usize, part: Part<'_>) {
        if let (Some(times), Some(open), true) = (self.times.get_mut(op), self.open.get_mut(op), part.is_last) {
            times.push(std::mem::take(open));
        }
    }
}

/// Times of runs, after one that warms the caches.
fn repeat<E>(mut run: impl FnMut(usize) -> Result<f64, E>) -> Result<Vec<f64>, E> {
    run(0)?;
    let (started, mut times) = (Instant::now(), Vec::new());
    while times.len() < RUNS.0 || (started.elapsed() < TIME && times.len() < RUNS.1) {
        times.push(run(times.len())?);
    }
    Ok(times)
}

fn min(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::INFINITY, f64::min)
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
}

/// Times of one sample on all threads of the pool this runs in.
fn one_sample<B: Kernels>(args: &Args, file: &ModelFile, samples: &[Sample]) -> Result<OneSample, Failure> {
    let model = file.open::<Parallel<B>>().map_err(|e| Failure::Backend(e.into()))?;
    let mut bench = Bench::new(&model);
    let times = repeat(|run| {
        let started = Instant::now();
        bench.run(&samples[run % samples.len()], &mut ())?;
        Ok(started.elapsed().as_secs_f64())
    });
    let fault = |why: RunFault| BackendError::Run { backend: args.backend.clone(), why: why.to_string() };
    let times = times.map_err(fault)?;
    Ok(OneSample {
        threads: args.threads,
        clock: "wall time",
        runs: times.len(),
        least_ms: min(&times) * 1e3,
        median_ms: median(&times) * 1e3,
    })
}

/// Samples per second of several threads, each with a session of its own.
fn throughput<B: Kernels + Sync + Send>(
    args: &Args,
    file: &ModelFile,
    samples: &[Sample],
    median_ms: f64,
    pool: &rayon::ThreadPool,
) -> Result<f64, Failure> {
    let run_failed = |why: String| BackendError::Run { backend: args.backend.clone(), why };
    let per_thread = ((1e3 / median_ms.max(1e-3)) as usize).clamp(RUNS.0, RUNS.1);
    let started = Instant::now();
    let work = |_thread: usize| -> Result<(), RunFault> {
        let model = file.open::<B>().map_err(|_| RunFault::Memory)?;
        let mut bench = Bench::new(&model);
        (0..per_thread).try_for_each(|run| bench.run(&samples[run % samples.len()], &mut ()).map(|_| ()))
    };
    pool.install(|| (0..args.threads).into_par_iter().try_for_each(work)).map_err(|e| run_failed(e.to_string()))?;
    Ok((per_thread * args.threads) as f64 / started.elapsed().as_secs_f64())
}

fn counted(args: &Args, file: &ModelFile, counts: &backend::Counts) -> Result<Verdict, Failure> {
    let ops = summaries(file)?;
    let macs: u64 = ops.iter().map(|op| op.macs).sum();
    let ratio = |instructions: u64, macs: u64| (macs > 0).then(|| instructions as f64 / macs as f64);
    let ops = ops.iter().zip(&counts.ops).map(|(op, &instructions)| CountOp {
        name: op.name.clone(),
        kind: op.kind,
        macs: op.macs,
        instructions,
        instructions_per_mac: ratio(instructions, op.macs),
    });
    let result = CountOutput {
        backend: args.backend.clone(),
        instructions: counts.total,
        macs,
        instructions_per_mac: ratio(counts.total, macs).unwrap_or(0.0),
        stack_bytes: counts.stack_bytes,
        open: counts.open,
        open_proven: counts.open_proven,
        steps: counts.steps,
        all_steps: counts.all_steps,
        longest_step: counts.longest_step,
        longest_step_op: counts.longest_step_op,
        ops: ops.collect(),
    };
    if args.json {
        output::json(&result)?
    } else {
        output::print(&result.text())
    }
    Ok(Verdict::Passed)
}

fn batches(args: &Args, file: &ModelFile, backend: &mut dyn Backend, samples: &[Sample]) -> Result<Verdict, Failure> {
    let batch = backend.set_batch(args.batch)?;
    let inputs: Vec<Sample> = (0..batch * STREAM).map(|i| samples[i % samples.len()].clone()).collect();
    let mut time = |inputs: &[Sample]| -> Result<f64, BackendError> {
        let started = Instant::now();
        backend.run(inputs)?;
        Ok(started.elapsed().as_secs_f64())
    };
    let times = repeat(|_| time(&inputs[..batch]))?;
    let (runs, samples_per_s) = (times.len(), batch as f64 / median(&times));
    let streams = [time(&inputs)?, time(&inputs)?, time(&inputs)?];
    let streamed_samples_per_s = inputs.len() as f64 / median(&streams);
    let summaries = summaries(file)?;
    let macs: u64 = summaries.iter().map(|op| op.macs).sum();
    let times = backend.device_times(&inputs[..batch])?;
    if args.per_op && times.is_none() {
        return Err(Failure::Usage(format!("--per-op: {} has no clock of its own", args.backend)));
    }
    let ops = match &times {
        Some(times) if args.per_op => device_ops(args, &summaries, times, batch as u64),
        _ => Vec::new(),
    };
    let result = BatchOutput {
        backend: args.backend.clone(),
        adapter: backend.device().unwrap_or_default(),
        batch,
        runs,
        median_ms: 1e3 / samples_per_s,
        samples_per_s,
        streamed_samples_per_s,
        device_samples_per_s: times.map(|times| batch as f64 / times.batch.as_secs_f64().max(1e-9)),
        macs,
        integer_tops: samples_per_s * macs as f64 * 2.0 / 1e12,
        ops,
    };
    if args.json {
        output::json(&result)?;
    } else {
        output::print(&result.text());
    }
    Ok(Verdict::Passed)
}

/// What is known of each operator of a batch, and of the digests behind them.
fn device_ops(args: &Args, summaries: &[OpSummary], times: &backend::DeviceTimes, batch: u64) -> Vec<DeviceOp> {
    let peaks = args.peak_gbs.zip(args.peak_tops);
    let row = |(index, op): (usize, &backend::DeviceOpTime)| {
        let summary = summaries.get(index);
        let operations = summary.map_or(0, |s| 2 * s.macs * batch);
        let seconds = op.time.as_secs_f64();
        let at_peak = |(gbs, tops): (f64, f64)| (op.bytes as f64 / gbs / 1e9).max(operations as f64 / tops / 1e12);
        DeviceOp {
            name: summary.map_or_else(|| "digests".to_owned(), |s| s.name.clone()),
            kind: summary.map_or("digests", |s| s.kind),
            shaders: op.shaders.clone(),
            microseconds: seconds * 1e6,
            bytes: op.bytes,
            operations,
            roofline: peaks.map(|peaks| at_peak(peaks) / seconds.max(1e-9)),
        }
    };
    times.ops.iter().enumerate().map(row).collect()
}

impl BatchOutput {
    fn text(&self) -> String {
        let mut text = String::new();
        if !self.ops.is_empty() {
            let mut table =
                text::table(&["op>", "kind", "name", "shaders", "time us>", "bytes>", "GB/s>", "TOPS>", "roofline>"]);
            for (index, op) in self.ops.iter().enumerate() {
                let per_s = |n: u64, unit: f64| n as f64 / unit / (op.microseconds / 1e6).max(1e-12);
                table.add_row([
                    index.to_string(),
                    op.kind.to_owned(),
                    text::tail(&op.name, 32),
                    op.shaders.join(", "),
                    format!("{:.1}", op.microseconds),
                    text::bytes(op.bytes as f64),
                    format!("{:.0}", per_s(op.bytes, 1e9)),
                    format!("{:.2}", per_s(op.operations, 1e12)),
                    op.roofline.map_or_else(|| "-".to_owned(), |share| format!("{:.0} %", share * 100.0)),
                ]);
            }
            text = format!("{table}\n\n");
        }
        let device = self
            .device_samples_per_s
            .map_or_else(String::new, |rate| format!("; {rate:.1} samples/s on the device alone"));
        format!(
            "{text}{} ({}): {:.1} samples/s in batches of {}, {:.4} integer TOPS; {:.1} samples/s in a stream of batches{device}\n",
            self.backend, self.adapter, self.samples_per_s, self.batch, self.integer_tops, self.streamed_samples_per_s
        )
    }
}

impl HostOutput {
    fn text(&self, kernels: &str) -> String {
        let mut table = text::table(&["op>", "kind", "name", "MACs>", "time>", "share>", "ps/MAC>"]);
        let total: f64 = self.ops.iter().map(|op| op.median_us).sum();
        for (index, op) in self.ops.iter().enumerate() {
            table.add_row([
                index.to_string(),
                op.kind.to_owned(),
                text::tail(&op.name, 44),
                text::count(op.macs as f64),
                text::milliseconds(op.median_us / 1e3),
                format!("{:.1} %", op.median_us / total.max(1e-9) * 100.0),
                op.ps_per_mac.map_or_else(|| "-".to_owned(), |ps| format!("{ps:.0}")),
            ]);
        }
        format!(
            "{table}\n\n{} ({kernels}), {}: median {}, min {} of {} runs, {:.1} GMAC/s; {:.1} samples/s with {} thread(s)\n{}\n{}",
            self.backend,
            self.clock,
            text::milliseconds(self.median_ms),
            text::milliseconds(self.least_ms),
            self.runs,
            self.gmacs_per_s,
            self.samples_per_s,
            self.threads,
            self.one_sample.text(),
            self.decoder.as_ref().map_or_else(String::new, DecoderTimes::text)
        )
    }
}

impl DecoderTimes {
    fn text(&self) -> String {
        format!(
            "prefill of {} tokens: {}, {:.1} tokens/s\none token behind them: {}, {:.1} tokens/s; at most {} read, {:.2} GB/s; a plain loop reads {:.2} GB/s\n",
            self.prompt,
            text::milliseconds(self.prefill_ms),
            self.prefill_tokens_per_s,
            text::milliseconds(self.decode_ms),
            self.decode_tokens_per_s,
            text::bytes(self.bytes_per_token as f64),
            self.gb_per_s,
            self.read_gb_per_s
        )
    }
}

impl OneSample {
    fn text(&self) -> String {
        let [median, min] = [self.median_ms, self.least_ms].map(text::milliseconds);
        let Self { threads, clock, runs, .. } = self;
        format!("one sample on {threads} thread(s), {clock}: median {median}, min {min} of {runs} runs")
    }
}

impl CountOutput {
    fn text(&self) -> String {
        let mut table = text::table(&["op>", "kind", "name", "MACs>", "instructions>", "per MAC>"]);
        for (index, op) in self.ops.iter().enumerate() {
            table.add_row([
                index.to_string(),
                op.kind.to_owned(),
                text::tail(&op.name, 44),
                op.macs.to_string(),
                op.instructions.to_string(),
                op.instructions_per_mac.map_or_else(|| "-".to_owned(), |n| format!("{n:.2}")),
            ]);
        }
        format!(
            "{table}\n\n{}: {} instructions, {:.2} per MAC; {} bytes of stack\n\
             in {} steps: {} instructions, the longest {} (operator {})\n\
             opening: {} instructions, {} where the model was proven when the firmware was built\n",
            self.backend,
            self.instructions,
            self.instructions_per_mac,
            self.stack_bytes,
            self.steps,
            self.all_steps,
            self.longest_step,
            self.longest_step_op,
            self.open,
            self.open_proven
        )
    }
}
