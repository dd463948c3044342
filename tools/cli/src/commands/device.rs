//! `shiftformer device`: models on a device at the end of a serial line.

use super::failure::{Failure, Verdict};
use super::inspect::read_model;
use super::steps::Steps;
use super::{data, output, run};
use serde::Serialize;
use shiftformer::kernels::Portable;
use shiftformer_convert::model_file::ModelFile;
use shiftformer_lab::backend::BackendError;
use shiftformer_lab::backend::serial::{Answer, ModelInfo, Port, Status, WireError, connect};
use shiftformer_lab::text;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::Duration;

/// Runs that `bench` times.
const RUNS: usize = 5;

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// List the serial ports of this machine.
    List(ListArgs),
    /// Show what a device is and which model it runs.
    Info(InfoArgs),
    /// Run a model on one sample.
    Run(RunArgs),
    /// Time a model by the device's own counter, operator by operator.
    Bench(BenchArgs),
    /// Send a model and prove it by its receipts: reference runs in the file, compared operator by operator.
    Upload(UploadArgs),
    /// Show the text that a device sends, until Ctrl-C.
    Monitor(MonitorArgs),
}

#[derive(clap::Args)]
struct ListArgs {
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// The line to a device.
#[derive(clap::Args)]
struct PortArg {
    /// A serial port of this machine, as PATH or PATH@BAUD (115200 where none is given), tcp:HOST:PORT, or unix:PATH.
    port: String,
}

#[derive(clap::Args)]
struct InfoArgs {
    #[command(flatten)]
    port: PortArg,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
struct RunArgs {
    #[command(flatten)]
    port: PortArg,
    #[command(flatten)]
    run: run::Args,
}

#[derive(clap::Args)]
struct BenchArgs {
    #[command(flatten)]
    port: PortArg,
    /// The model.
    file: PathBuf,
    /// Samples, as npz; without them random values.
    #[arg(long, value_name = "DATA.npz")]
    data: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
struct UploadArgs {
    #[command(flatten)]
    port: PortArg,
    /// The model.
    file: PathBuf,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
struct MonitorArgs {
    #[command(flatten)]
    port: PortArg,
}

pub fn run(args: Args) -> Result<Verdict, Failure> {
    match args.command {
        Command::List(args) => list(&args),
        Command::Info(args) => info(&args),
        Command::Run(args) => run::on(args.run, &format!("serial:{}", args.port.port)),
        Command::Bench(args) => bench(&args),
        Command::Upload(args) => upload(&args),
        Command::Monitor(args) => monitor(&args),
    }
}

fn fault(port: &PortArg) -> impl Fn(WireError) -> Failure + '_ {
    |error| BackendError::Run { backend: format!("serial:{}", port.port), why: error.to_string() }.into()
}

fn list(args: &ListArgs) -> Result<Verdict, Failure> {
    let ports = Port::all().map_err(|error| Failure::Usage(format!("cannot list the serial ports: {error}")))?;
    let ports: Vec<String> = ports.iter().map(|port| port.display().to_string()).collect();
    if args.json {
        output::json(&ports)?;
    } else if ports.is_empty() {
        output::status("no serial ports; is the board plugged in, and are you allowed to use it?");
    } else {
        output::print(&(ports.join("\n") + "\n"));
    }
    Ok(Verdict::Passed)
}

#[derive(Serialize)]
struct DeviceOutput {
    board: String,
    kernels: String,
    counter_hz: u32,
    memory_bytes: u32,
    model: Option<ModelOutput>,
    /// Why no model runs.
    #[serde(skip_serializing_if = "String::is_empty")]
    fault: String,
}

#[derive(Serialize)]
struct ModelOutput {
    id: String,
    bytes: u32,
    arena_bytes: u32,
    state_bytes: u32,
    operators: u16,
    inputs: u16,
    outputs: u16,
    receipts: u16,
}

impl DeviceOutput {
    fn of(status: Status) -> Self {
        let Status { board, kernels, counter_hz, memory_bytes, model, fault } = status;
        let of = |ModelInfo { id, bytes, arena_bytes, state_bytes, ops, inputs, outputs, receipts }| ModelOutput {
            id: format!("{id:08x}"),
            bytes,
            arena_bytes,
            state_bytes,
            operators: ops,
            inputs,
            outputs,
            receipts,
        };
        Self { board, kernels, counter_hz, memory_bytes, model: model.map(of), fault }
    }

    fn text(&self) -> String {
        let bytes = |bytes: u32| text::bytes(f64::from(bytes));
        let mut all = format!("board      {}\nkernels    {}\n", self.board, self.kernels);
        all += &format!("memory     {}, for model, state and arena\n", bytes(self.memory_bytes));
        all += &match self.counter_hz {
            0 => "counter    none\n".to_owned(),
            hz => format!("counter    {:.3} MHz\n", f64::from(hz) / 1e6),
        };
        all += &match &self.model {
            Some(model) => format!(
                "model      {}: {}, {} operators, arena {}, state {}, {} receipts\n",
                model.id,
                bytes(model.bytes),
                model.operators,
                bytes(model.arena_bytes),
                bytes(model.state_bytes),
                model.receipts
            ),
            None => format!("model      none: {}\n", self.fault),
        };
        all
    }
}

fn info(args: &InfoArgs) -> Result<Verdict, Failure> {
    let fault = fault(&args.port);
    let status = connect(&args.port.port).and_then(|mut client| client.hello()).map_err(fault)?;
    let result = DeviceOutput::of(status);
    if args.json {
        output::json(&result)?;
    } else {
        output::print(&result.text());
    }
    Ok(Verdict::Passed)
}

#[derive(Serialize)]
struct UploadOutput {
    board: String,
    bytes: usize,
    /// Receipts that were run.
    receipts: u16,
    /// The first receipt and operator that differ.
    differs: Option<(u16, String)>,
}

fn upload(args: &UploadArgs) -> Result<Verdict, Failure> {
    let fault = fault(&args.port);
    let model = read_model(&args.file)?;
    let bytes = model.bytes();
    let mut client = connect(&args.port.port).map_err(&fault)?;
    let steps = Steps::start("uploading");
    let mut tenth = 0;
    let mut progress = |done: usize| {
        let now = done * 10 / bytes.len().max(1);
        if now > tenth {
            tenth = now;
            steps.say(&format!("uploading: {} %", 10 * now));
        }
    };
    let status = client.ensure(bytes, &mut progress).map_err(&fault)?;
    let receipts = status.model.map_or(0, |model| model.receipts);
    let mut differs = None;
    for receipt in 0..receipts {
        steps.say(&format!("receipt {} of {receipts}", receipt + 1));
        let found = client.receipt(receipt).map_err(&fault)?;
        differs = differs.or(found.map(|op| (receipt, model.op_name(op.into()).to_owned())));
    }
    drop(steps);
    let result = UploadOutput { board: status.board, bytes: bytes.len(), receipts, differs };
    if args.json {
        output::json(&result)?;
    } else {
        let UploadOutput { board, receipts, differs, .. } = &result;
        output::print(&match differs {
            Some((receipt, op)) => {
                format!("{board} runs the model WRONGLY: operator {op} differs in receipt {receipt}\n")
            }
            None if *receipts == 0 => {
                format!("{board} runs the model; it has no receipts (convert --receipts N) to prove it\n")
            }
            None => format!("{board} runs the model; every operator as in its {receipts} receipts\n"),
        });
    }
    Ok(if result.differs.is_some() { Verdict::Failed } else { Verdict::Passed })
}

#[derive(Serialize)]
struct BenchOutput {
    board: String,
    kernels: String,
    runs: usize,
    counter_hz: u32,
    /// The median of the runs.
    ticks: u32,
    ms: Option<f64>,
    ops: Vec<OpOutput>,
}

#[derive(Serialize)]
struct OpOutput {
    name: String,
    kind: &'static str,
    ticks: u32,
}

fn bench(args: &BenchArgs) -> Result<Verdict, Failure> {
    let fault = fault(&args.port);
    let model = read_model(&args.file)?;
    let samples = match &args.data {
        Some(path) => {
            let data = data::open(path)?;
            data::samples(&model, &data, &data::first(&data, Some(RUNS))?)?
        }
        None => vec![data::stand_in(&model)?],
    };
    let mut client = connect(&args.port.port).map_err(&fault)?;
    let status = client.ensure(model.bytes(), &mut |_| {}).map_err(&fault)?;
    let runs = (0..RUNS).map(|run| client.infer(model.bytes(), &samples[run % samples.len()]));
    let mut runs = runs.collect::<Result<Vec<Answer>, _>>().map_err(&fault)?;
    runs.sort_by_key(|answer| answer.ticks);
    let median = runs.swap_remove(RUNS / 2);
    let result = BenchOutput {
        board: status.board,
        kernels: status.kernels,
        runs: RUNS,
        counter_hz: status.counter_hz,
        ticks: median.ticks,
        ms: (status.counter_hz > 0).then(|| f64::from(median.ticks) * 1e3 / f64::from(status.counter_hz)),
        ops: ops(&model, &median)?,
    };
    if args.json {
        output::json(&result)?;
    } else {
        output::print(&result.text());
    }
    Ok(Verdict::Passed)
}

fn ops(model: &ModelFile, answer: &Answer) -> Result<Vec<OpOutput>, Failure> {
    let opened = model.open::<Portable>().map_err(BackendError::from)?;
    let of = |(op, result): (usize, &shiftformer_wire::OpResult)| OpOutput {
        name: model.op_name(op).to_owned(),
        kind: opened.op_kind(op).map_or("", |kind| kind.name()),
        ticks: result.ticks,
    };
    Ok(answer.ops.iter().enumerate().map(of).collect())
}

impl BenchOutput {
    fn text(&self) -> String {
        let mut table = text::table(&["op>", "kind", "name", "ticks>", "share>"]);
        let total = self.ops.iter().map(|op| u64::from(op.ticks)).sum::<u64>().max(1);
        for (index, op) in self.ops.iter().enumerate() {
            let share = text::percent(Some(f64::from(op.ticks) / total as f64));
            table.add_row([index.to_string(), op.kind.to_owned(), op.name.clone(), op.ticks.to_string(), share]);
        }
        let time = self.ms.map_or_else(String::new, |ms| format!(", {}", text::milliseconds(ms)));
        let Self { board, kernels, runs, ticks, .. } = self;
        format!("{table}\n{board}, {kernels}: {ticks} ticks{time} (median of {runs} runs)\n")
    }
}

/// Text between frames; bytes that are none are left out.
fn monitor(args: &MonitorArgs) -> Result<Verdict, Failure> {
    use shiftformer_wire::Link;
    let line = |error: std::io::Error| fault(&args.port)(WireError::Line(error));
    let mut port = Port::open(&args.port.port).map_err(line)?;
    let mut bytes = [0; 256];
    loop {
        match port.receive(&mut bytes, Duration::from_millis(200)) {
            Ok(count) => output::print(&printable(&bytes[..count])),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(Verdict::Passed),
            Err(error) => return Err(line(error)),
        }
    }
}

fn printable(bytes: &[u8]) -> String {
    let shown = |&byte: &u8| byte.is_ascii_graphic() || matches!(byte, b' ' | b'\n' | b'\t');
    bytes.iter().copied().filter(|byte| shown(byte)).map(char::from).collect()
}
