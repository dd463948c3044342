//! Emulated machines: the boards of `firmware/boards`, and aarch64 Linux under `qemu-aarch64`.
//!
//! The firmware is the same for every model; see [`shiftformer_link`] for how model, samples and results travel.

mod firmware;
#[cfg(unix)]
mod tokens;

use super::names::{LINUX, names};
use rayon::prelude::*;
use shiftformer::arith::digest::join;
use shiftformer::kernels::Portable;
use shiftformer::ops::Op;
use shiftformer_convert::backend::{Backend, BackendError, Counts, Sample, Trace};
use shiftformer_convert::model_file::ModelFile;
use shiftformer_link::{Core, Job, Machine, Overhead, Record, Records};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Appended to a name, it selects the portable kernels.
const PORTABLE: &str = ":portable";
/// How often a running emulator is looked at.
const POLL: Duration = Duration::from_millis(5);
/// Time for start-up and for checking the model.
const START_LIMIT: Duration = Duration::from_secs(120);
/// Slowest emulation that is waited for, in multiply-accumulates a second: 20 instructions each at 2 million a second.
const SLOWEST_MACS_PER_SECOND: u64 = 100_000;
/// More instructions than one multiply-accumulate takes, everything around it included, with portable kernels.
const INSTRUCTIONS_PER_MAC: u64 = 30;
/// The same on a core that multiplies 64 bits in a subroutine.
const INSTRUCTIONS_PER_MAC_M0: u64 = 100;
/// Instruction lengths to choose from, as powers of two in ns: the longer, the finer the counter, and the sooner it wraps.
const ICOUNT_SHIFTS: [u32; 5] = [8, 6, 4, 2, 0];

/// A model on an emulated machine.
pub struct Qemu {
    name: String,
    model: ModelFile,
    place: Place,
    native: bool,
}

#[derive(Clone)]
enum Place {
    Board { machine: &'static Machine, runner: PathBuf },
    Linux { runner: PathBuf },
}

/// The outputs of a file's run, or the machine's words for why there are none.
pub type Outcome = Result<Vec<Vec<u8>>, String>;

/// What a machine answered, taken apart.
#[derive(Default)]
struct Answer {
    traces: Vec<Trace>,
    /// Per operator: ticks, and intervals they were measured in.
    op_ticks: Vec<(u32, u32)>,
    dump: Option<Vec<u8>>,
    calibration: Option<Measured>,
    inference: Option<Inference>,
    overhead: Option<Overhead>,
}

#[derive(Clone, Copy)]
struct Measured {
    instructions: u32,
    ticks: u32,
    empty_ticks: u32,
}

#[derive(Clone, Copy)]
struct Inference {
    ticks: u32,
    stack_bytes: u32,
}

impl Qemu {
    /// Opens `qemu:BOARD` or `qemu:BOARD:portable` for `model`.
    ///
    /// # Errors
    /// [`BackendError::Unavailable`] when the emulator or the firmware is not available, or the board cannot hold the model.
    pub fn open(name: &str, board: &str, model: &ModelFile) -> Result<Self, BackendError> {
        let (board, native) = board.strip_suffix(PORTABLE).map_or((board, true), |board| (board, false));
        let unavailable = |why: String| BackendError::Unavailable { backend: name.to_owned(), why };
        let machine = Machine::by_name(board);
        if machine.is_none() && board != LINUX {
            return Err(BackendError::Unknown(name.to_owned(), names().join(", ")));
        }
        if !native && machine.is_some_and(|machine| !machine.portable) {
            let same =
                Machine::ALL.iter().filter(|other| other.portable && Some(other.core) == machine.map(|m| m.core));
            let names: Vec<_> = same.map(|other| format!("qemu:{}{PORTABLE}", other.name)).collect();
            return Err(unavailable(format!(
                "its runner has no portable kernels; {} runs them on the same core",
                names.join(", ")
            )));
        }
        let emulator = machine.map_or("qemu-aarch64", |machine| machine.emulator);
        if !firmware::in_search_path(emulator) {
            return Err(unavailable(format!("{emulator} is not installed; run `cargo xtask setup`")));
        }
        let runner = firmware::runner(board).map_err(unavailable)?;
        let place = match machine {
            Some(machine) => Place::Board { machine, runner },
            None => Place::Linux { runner },
        };
        let emulated = Self { name: name.to_owned(), model: model.clone(), place, native };
        let (needed, given) = (emulated.job_bytes(), emulated.room());
        if needed > given {
            return Err(unavailable(format!(
                "the model is {} bytes too large for the {given} bytes of flash behind the program",
                needed - given
            )));
        }
        Ok(emulated)
    }

    fn job_bytes(&self) -> usize {
        Job::BYTES + self.model.bytes().len()
    }

    fn room(&self) -> usize {
        match self.place {
            Place::Board { machine, .. } => machine.job_bytes as usize,
            Place::Linux { .. } => usize::MAX,
        }
    }

    fn fault(&self, why: impl std::fmt::Display) -> BackendError {
        BackendError::Run { backend: self.name.clone(), why: why.to_string() }
    }

    /// Multiply-accumulates of one inference.
    fn macs(&self) -> Result<u64, BackendError> {
        let model = self.model.open::<Portable>()?;
        let op = |index| Some(Op::decode(model.op_kind(index)?, model.op_params(index)?)?.macs());
        Ok((0..model.n_ops()).filter_map(op).sum())
    }

    /// Executes `job` over `samples`; `icount` is the shift of the instruction clock, where instructions are counted.
    fn execute(&self, job: Job, samples: &[&Sample], icount: Option<u32>) -> Result<Answer, BackendError> {
        let (bytes, ended) = self.answer(&[&job.encode(), self.model.bytes()], samples, icount)?;
        self.read_answer(&bytes, &ended)
    }

    /// What the machine answers to a job, given in parts, and how it ended.
    fn answer(
        &self,
        job: &[&[u8]],
        samples: &[&Sample],
        icount: Option<u32>,
    ) -> Result<(Vec<u8>, String), BackendError> {
        let folder = tempfile::tempdir().map_err(|e| self.fault(format!("cannot make a temporary folder: {e}")))?;
        let write = |name: &str, parts: &mut dyn Iterator<Item = &[u8]>| {
            let bytes = parts.fold(Vec::new(), |mut all, part| {
                all.extend_from_slice(part);
                all
            });
            fs::write(folder.path().join(name), bytes).map_err(|e| self.fault(format!("cannot write {name}: {e}")))
        };
        write("job.bin", &mut job.iter().copied())?;
        write("samples.bin", &mut samples.iter().flat_map(|sample| sample.iter().map(Vec::as_slice)))?;
        let limit = START_LIMIT + Duration::from_secs(self.macs()? / SLOWEST_MACS_PER_SECOND * samples.len() as u64);
        let child =
            self.command(folder.path(), icount).spawn().map_err(|e| self.fault(format!("cannot start: {e}")))?;
        let ended = wait(child, limit).map_err(|why| self.fault(why))?;
        let bytes = fs::read(folder.path().join("answer.bin")).unwrap_or_default();
        Ok((bytes, ended))
    }

    fn command(&self, folder: &Path, icount: Option<u32>) -> Command {
        let mut command = match &self.place {
            Place::Linux { runner } => {
                let mut command = Command::new("qemu-aarch64");
                command.args(["-cpu", "max", "-L", "/usr/aarch64-linux-gnu"]).arg(runner);
                command
            }
            Place::Board { machine, runner } => {
                let mut command = Command::new(machine.emulator);
                command.args(machine.arguments).args(["-display", "none", "-monitor", "none", "-serial", "none"]);
                command.args(["-semihosting-config", "enable=on,target=native"]);
                command.args(["-device", &format!("loader,file=job.bin,addr={:#x},force-raw=on", machine.job_address)]);
                if let Some(shift) = icount {
                    command.args(["-icount", &format!("shift={shift}")]);
                }
                command.arg("-kernel").arg(runner);
                command
            }
        };
        command.current_dir(folder).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command
    }

    fn read_answer(&self, bytes: &[u8], ended: &str) -> Result<Answer, BackendError> {
        let mut answer = Answer::default();
        let mut trace = Trace { digests: Vec::new(), outputs: Vec::new() };
        for record in Records::new(bytes) {
            let record = record.map_err(|_| self.fault(format!("its answer breaks off ({ended})")))?;
            match record {
                Record::Calibration { instructions, ticks, empty_ticks } => {
                    answer.calibration = Some(Measured { instructions, ticks, empty_ticks });
                }
                Record::Inference { ticks, stack_bytes } => answer.inference = Some(Inference { ticks, stack_bytes }),
                Record::Overhead(overhead) => answer.overhead = Some(overhead),
                Record::Op { op, ticks, digest } => {
                    let op = op as usize;
                    if op > usize::from(u16::MAX) {
                        return Err(self.fault(format!("it reports an operator {op} that does not exist")));
                    }
                    trace.digests.resize(trace.digests.len().max(op + 1), 0);
                    trace.digests[op] = join(trace.digests[op], digest);
                    answer.op_ticks.resize(answer.op_ticks.len().max(op + 1), (0, 0));
                    let (sum, intervals) = &mut answer.op_ticks[op];
                    (*sum, *intervals) = (sum.wrapping_add(ticks), *intervals + 1);
                }
                Record::Dump(bytes) => answer.dump.get_or_insert_default().extend_from_slice(bytes),
                Record::Output(bytes) => trace.outputs.push(bytes.to_vec()),
                Record::SampleEnd => {
                    let next = Trace { digests: Vec::new(), outputs: Vec::new() };
                    answer.traces.push(std::mem::replace(&mut trace, next));
                }
                Record::Failed(text) | Record::Rejected(text) => return Err(self.fault(String::from_utf8_lossy(text))),
                Record::Done => return Ok(answer),
            }
        }
        Err(self.fault(format!("the machine stopped without a result ({ended})")))
    }

    fn job(&self, samples: usize) -> Job {
        Job {
            model_bytes: self.model.bytes().len() as u32,
            samples: samples as u32,
            measure: false,
            native: self.native,
            position: 0,
            tokens: false,
            dump_op: None,
            more: false,
        }
    }

    /// What becomes of any files, whether they are models or not, each run with one sample. One start of the machine serves
    /// many files.
    ///
    /// # Errors
    /// [`BackendError::Run`] when the machine does not answer for every file.
    pub fn outcomes(&self, files: &[(Vec<u8>, Sample)]) -> Result<Vec<Outcome>, BackendError> {
        let mut outcomes = Vec::new();
        let mut rest = files;
        while !rest.is_empty() {
            let mut bytes = Vec::new();
            let fits = rest.iter().take_while(|(file, _)| {
                bytes.push(Job::BYTES + file.len().next_multiple_of(16));
                bytes.iter().sum::<usize>() <= self.room()
            });
            let (now, later) = rest.split_at(fits.count().max(1));
            outcomes.extend(self.outcomes_at_once(now)?);
            rest = later;
        }
        Ok(outcomes)
    }

    fn outcomes_at_once(&self, files: &[(Vec<u8>, Sample)]) -> Result<Vec<Outcome>, BackendError> {
        let mut job = Vec::new();
        for (index, (file, _)) in files.iter().enumerate() {
            let more = index + 1 < files.len();
            let header = Job { model_bytes: file.len() as u32, more, ..self.job(1) };
            job.extend_from_slice(&header.encode());
            job.extend_from_slice(file);
            job.resize(job.len().next_multiple_of(16), 0);
        }
        let samples: Vec<&Sample> = files.iter().map(|(_, sample)| sample).collect();
        let (bytes, ended) = self.answer(&[&job], &samples, None)?;
        let mut outcomes = Vec::new();
        let mut outputs = Vec::new();
        for record in Records::new(&bytes) {
            match record.map_err(|_| self.fault(format!("its answer breaks off ({ended})")))? {
                Record::Output(bytes) => outputs.push(bytes.to_vec()),
                Record::Failed(text) => {
                    outputs.clear();
                    outcomes.push(Err(String::from_utf8_lossy(text).into_owned()));
                }
                Record::Done => outcomes.push(Ok(std::mem::take(&mut outputs))),
                Record::Calibration { .. }
                | Record::Inference { .. }
                | Record::Overhead(_)
                | Record::Op { .. }
                | Record::Dump(_)
                | Record::Rejected(_)
                | Record::SampleEnd => {}
            }
        }
        if outcomes.len() == files.len() {
            return Ok(outcomes);
        }
        Err(self.fault(format!("it answered for {} of {} files ({ended})", outcomes.len(), files.len())))
    }

    /// Counts one inference on a board.
    fn count(&self, machine: &Machine, sample: &Sample, position: u32) -> Result<Counts, BackendError> {
        let per_mac = match machine.core {
            Core::M0 | Core::M0Plus | Core::M23 => INSTRUCTIONS_PER_MAC_M0,
            Core::M3 | Core::M4 | Core::M7 | Core::M33 | Core::M55 | Core::Rv32Imc | Core::Rv32Imac => {
                INSTRUCTIONS_PER_MAC
            }
        };
        let most = self.macs()?.saturating_mul(per_mac);
        let fits = |shift: &u32| machine.instructions(u32::MAX, *shift) > most;
        let shift = ICOUNT_SHIFTS.into_iter().find(fits).unwrap_or(0);
        let job = Job { measure: true, position, ..self.job(1) };
        let answer = self.execute(job, &[sample, sample, sample], Some(shift))?;
        let (Some(clock), Some(inference), Some(overhead)) = (answer.calibration, answer.inference, answer.overhead)
        else {
            return Err(self.fault("the machine did not measure"));
        };
        let counted = machine.instructions(clock.ticks, shift);
        if counted.abs_diff(u64::from(clock.instructions)) * 1000 > u64::from(clock.instructions) {
            let expected = clock.instructions;
            return Err(self.fault(format!("the instruction counter is off: {counted} for a loop of {expected}")));
        }
        let instructions = |(ticks, intervals): (u32, u32)| {
            machine.instructions(ticks.saturating_sub(intervals.saturating_mul(clock.empty_ticks)), shift)
        };
        Ok(Counts {
            total: instructions((inference.ticks, 1)),
            ops: answer.op_ticks.into_iter().map(instructions).collect(),
            stack_bytes: inference.stack_bytes,
            open: instructions((overhead.open, 1)),
            open_proven: instructions((overhead.open_proven, 1)),
            steps: overhead.steps,
            all_steps: instructions((overhead.all_steps, overhead.steps)),
            longest_step: instructions((overhead.longest, 1)),
            longest_step_op: overhead.longest_op as usize,
        })
    }
}

impl Backend for Qemu {
    fn name(&self) -> &str {
        &self.name
    }

    fn run(&mut self, samples: &[Sample]) -> Result<Vec<Trace>, BackendError> {
        // One emulator per core.
        let chunk = samples.len().div_ceil(rayon::current_num_threads()).max(1);
        let run = |part: &[Sample]| {
            let part: Vec<&Sample> = part.iter().collect();
            self.execute(self.job(part.len()), &part, None).map(|answer| answer.traces)
        };
        let parts: Result<Vec<Vec<Trace>>, BackendError> = samples.par_chunks(chunk).map(run).collect();
        Ok(parts?.into_iter().flatten().collect())
    }

    fn op_output(&mut self, sample: &Sample, op: usize) -> Result<Vec<u8>, BackendError> {
        let dump_op = u16::try_from(op).map_err(|_| self.fault(format!("there is no operator {op}")))?;
        let answer = self.execute(Job { dump_op: Some(dump_op), ..self.job(1) }, &[sample], None)?;
        answer.dump.ok_or_else(|| self.fault(format!("there is no operator {op}")))
    }

    fn counts_at(&mut self, sample: &Sample, position: u32) -> Result<Option<Counts>, BackendError> {
        match self.place.clone() {
            Place::Board { machine, .. } => self.count(machine, sample, position).map(Some),
            Place::Linux { .. } => Ok(None),
        }
    }
}

/// Waits for an emulator; returns how it ended, for error messages.
fn wait(mut child: Child, limit: Duration) -> Result<String, String> {
    let start = Instant::now();
    while child.try_wait().map_err(|e| format!("cannot wait for the emulator: {e}"))?.is_none() {
        if start.elapsed() > limit {
            // It may have ended in this moment; both calls are then harmless.
            let _ = child.kill();
            let _ = child.wait();
            return Err(format!("the emulator did not end within {} s", limit.as_secs()));
        }
        sleep(POLL);
    }
    let output = child.wait_with_output().map_err(|e| format!("cannot wait for the emulator: {e}"))?;
    let text = String::from_utf8_lossy(&output.stderr);
    Ok(format!("{}; {}", output.status, text.lines().last().unwrap_or("no message")))
}
