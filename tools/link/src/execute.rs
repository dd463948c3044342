//! Running a job.

use crate::{Job, Overhead, Record};
use core::fmt::{self, Write};
use shiftformer::format::SECTION_ALIGN;
use shiftformer::kernels::Kernels;
use shiftformer::ops::OpTable;
use shiftformer::{Model, ModelError, Observer, Part, Progress, Proven, RunFault, Session};

/// The connection to the host could not carry on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostError;

/// What a machine gives to a job.
pub trait Host {
    /// Fills `buffer` with the next bytes of the samples.
    ///
    /// # Errors
    /// [`HostError`] when fewer bytes are left.
    fn read(&mut self, buffer: &mut [u8]) -> Result<(), HostError>;

    /// Appends to the answer.
    ///
    /// # Errors
    /// [`HostError`] when the host does not take them.
    fn write(&mut self, bytes: &[u8]) -> Result<(), HostError>;

    /// A counter that rises in step with executed instructions and wraps around; always 0 where there is none.
    fn ticks(&mut self) -> u32;

    /// Executes a known number of instructions, and returns that number. 0 where there is no counter.
    fn known_loop(&mut self) -> u32;

    /// Marks the free stack, so that [`stack_bytes`](Self::stack_bytes) can tell what has been written since.
    fn mark_stack(&mut self);

    /// Bytes of stack, counted from where [`mark_stack`](Self::mark_stack) was called, that have been in use since.
    fn stack_bytes(&mut self) -> u32;
}

/// Why a job failed; its text goes to the host.
enum Fault {
    Text(heapless::String<192>),
    Host(HostError),
}

impl Fault {
    fn of(what: &dyn fmt::Display) -> Self {
        let mut text = heapless::String::new();
        // A text that does not fit is cut: the host still sees its beginning.
        let _ = write!(text, "{what}");
        Self::Text(text)
    }
}

impl From<HostError> for Fault {
    fn from(error: HostError) -> Self {
        Self::Host(error)
    }
}

/// Executes the job at the start of `bytes` (header, model), and those behind it, over `arena`, with the kernels `N` where a
/// job asks for native ones, else `P`, which only a machine that has them runs. A failure is reported to the host like a
/// result.
///
/// # Errors
/// [`HostError`] when the host itself failed.
#[inline(always)]
pub fn execute<P: Kernels, N: Kernels>(
    bytes: &[u8],
    arena: &mut [u8],
    host: &mut impl Host,
    has_portable: bool,
) -> Result<(), HostError> {
    let mut rest = bytes;
    loop {
        let job = Job::decode(rest);
        let done = match &job {
            Some(job) if job.native => run::<N>(job, rest, arena, host),
            Some(job) if has_portable => run::<P>(job, rest, arena, host),
            Some(_) => Err(Fault::of(&"the runner of this machine has no portable kernels")),
            None => Err(Fault::of(&"no job where the machine looks for it")),
        };
        match done {
            Ok(()) => put(host, Record::Done),
            Err(Fault::Text(text)) => put(host, Record::Failed(text.as_bytes())),
            Err(Fault::Host(error)) => Err(error),
        }?;
        match job.filter(|job| job.more) {
            Some(job) => rest = rest.get(job.bytes()..).unwrap_or(&[]),
            None => return Ok(()),
        }
    }
}

#[expect(clippy::result_large_err, reason = "there is no heap to put the text of a fault in")]
fn run<B: Kernels>(job: &Job, bytes: &[u8], arena: &mut [u8], host: &mut impl Host) -> Result<(), Fault> {
    let calibration = calibrate(host);
    put(host, calibration)?;
    let file = bytes.get(Job::BYTES..).and_then(|rest| rest.get(..job.model_bytes as usize));
    let file = file.ok_or_else(|| Fault::of(&"the job is shorter than its model"))?;
    let model = Model::open_with(file, OpTable::<B>::ALL).map_err(|e| Fault::of(&e))?;
    // What the model keeps lies before the arena; every sample starts anew at position 0.
    let kept = arena.split_at_mut_checked(model.state_bytes().next_multiple_of(SECTION_ALIGN));
    let (state, arena) =
        kept.ok_or_else(|| Fault::of(&"the machine has too little memory for the state of the model"))?;
    let mut session = Session::with_state(&model, arena, state).map_err(|e| Fault::of(&e))?;
    if job.tokens {
        return blocks_of_tokens(&mut session, host);
    }
    if job.measure {
        read_inputs(job, &mut session, host)?;
        let record = measure(&mut session, host)?;
        put(host, record)?;
        read_inputs(job, &mut session, host)?;
        let record = overhead(file, &mut session, host)?;
        put(host, record)?;
    }
    for _ in 0..job.samples {
        read_inputs(job, &mut session, host)?;
        let mut reporter =
            Reporter { host, dump_op: job.dump_op.map(usize::from), started: 0, ticks: 0, broken: Ok(()) };
        session.run_with(&mut reporter).map_err(|e| Fault::of(&e))?;
        reporter.broken?;
        for index in 0..model.n_outputs() {
            put(host, Record::Output(session.output(index).unwrap_or(&[])))?;
        }
        put(host, Record::SampleEnd)?;
    }
    Ok(())
}

fn put(host: &mut impl Host, record: Record<'_>) -> Result<(), HostError> {
    record.write(|part| host.write(part))
}

fn calibrate(host: &mut impl Host) -> Record<'static> {
    let empty = interval(host, |_| ()).0;
    let (ticks, instructions) = interval(host, Host::known_loop);
    Record::Calibration { instructions, ticks: ticks.wrapping_sub(empty), empty_ticks: empty }
}

#[inline(always)]
fn interval<H: Host, R>(host: &mut H, work: impl FnOnce(&mut H) -> R) -> (u32, R) {
    let from = host.ticks();
    let result = work(host);
    (host.ticks().wrapping_sub(from), result)
}

/// Tokens of a run at most: a model with more rows runs with fewer.
const TOKENS: usize = 64;

/// Blocks of tokens until an empty one, see [`Job::RESET`].
#[expect(clippy::result_large_err, reason = "there is no heap to put the text of a fault in")]
fn blocks_of_tokens<B: Kernels>(session: &mut Session<'_, '_, B>, host: &mut impl Host) -> Result<(), Fault> {
    let state = session.model().state();
    loop {
        let count = read_word(host)?;
        match count {
            0 => return Ok(()),
            Job::RESET => session.reset(),
            count => {
                let before = session.position();
                let mut left = count as usize;
                let mut fault = (u64::from(before) + u64::from(count) > u64::from(state.capacity))
                    .then_some(RunFault::Full { capacity: state.capacity });
                while left > 0 {
                    // All tokens are read, whatever becomes of those before.
                    let mut tokens = [0; TOKENS];
                    let rows = (state.rows as usize).clamp(1, TOKENS).min(left);
                    let block = tokens.get_mut(..rows).unwrap_or(&mut []);
                    for token in &mut *block {
                        *token = read_word(host)?;
                    }
                    left -= rows;
                    if fault.is_some() {
                        continue;
                    }
                    fault = session.prefill(block).err();
                    for row in 0..rows as u32 {
                        if fault.is_none() {
                            put(host, Record::Output(session.row_of_output(row).unwrap_or(&[])))?;
                        }
                    }
                }
                match fault.map(|fault| Fault::of(&fault)) {
                    None => put(host, Record::SampleEnd)?,
                    Some(Fault::Text(text)) => {
                        session.truncate(before);
                        put(host, Record::Rejected(text.as_bytes()))?;
                    }
                    Some(fault @ Fault::Host(_)) => return Err(fault),
                }
            }
        }
    }
}

fn read_word(host: &mut impl Host) -> Result<u32, HostError> {
    let mut word = [0; size_of::<u32>()];
    host.read(&mut word)?;
    Ok(u32::from_le_bytes(word))
}

#[expect(clippy::result_large_err, reason = "there is no heap to put the text of a fault in")]
fn read_inputs<B: Kernels>(job: &Job, session: &mut Session<'_, '_, B>, host: &mut impl Host) -> Result<(), Fault> {
    session.reset();
    for _ in 0..job.position {
        session.push(0).map_err(|e| Fault::of(&e))?;
    }
    if job.position > 0 {
        session.feed(1).map_err(|e| Fault::of(&e))?;
    }
    let mut index = 0;
    while let Some(input) = session.input_mut(index) {
        host.read(input)?;
        index += 1;
    }
    Ok(())
}

#[expect(clippy::result_large_err, reason = "there is no heap to put the text of a fault in")]
fn measure<B: Kernels>(session: &mut Session<'_, '_, B>, host: &mut impl Host) -> Result<Record<'static>, Fault> {
    host.mark_stack();
    let (ticks, done) = interval(host, |_| inference(session));
    let stack_bytes = host.stack_bytes();
    done.map_err(|e| Fault::of(&e))?;
    Ok(Record::Inference { ticks, stack_bytes })
}

#[expect(clippy::result_large_err, reason = "there is no heap to put the text of a fault in")]
fn overhead<B: Kernels>(
    file: &[u8],
    session: &mut Session<'_, '_, B>,
    host: &mut impl Host,
) -> Result<Record<'static>, Fault> {
    let mut all = Overhead { open: 0, open_proven: 0, steps: 0, all_steps: 0, longest: 0, longest_op: 0 };
    let mut op = 0;
    loop {
        let (ticks, progress) = interval(host, |_| session.step());
        (all.steps, all.all_steps) = (all.steps.wrapping_add(1), all.all_steps.wrapping_add(ticks));
        if ticks > all.longest {
            (all.longest, all.longest_op) = (ticks, op);
        }
        match progress.map_err(|e| Fault::of(&e))? {
            Progress::Running { op: next } => op = next as u32,
            Progress::Done => break,
        }
    }
    let proven = Proven::new(file, Proven::checksum(file)).ok_or_else(|| Fault::of(&"the model changes"))?;
    let (ticks, opened) = interval(host, |_| open(|| Model::<B>::open_proven(&proven, OpTable::<B>::ALL)));
    opened.map_err(|e| Fault::of(&e))?;
    all.open_proven = ticks;
    let (ticks, opened) = interval(host, |_| open(|| Model::<B>::open_with(file, OpTable::<B>::ALL)));
    opened.map_err(|e| Fault::of(&e))?;
    all.open = ticks;
    Ok(Record::Overhead(all))
}

/// A call of its own: the compiler must not merge what is measured with what is not.
#[inline(never)]
fn open<'m, B: Kernels>(open: impl FnOnce() -> Result<Model<'m, B>, ModelError>) -> Result<(), ModelError> {
    open().map(|model| {
        core::hint::black_box(&model);
    })
}

/// A call of its own, so that the stack is counted from a known place.
#[inline(never)]
fn inference<B: Kernels>(session: &mut Session<'_, '_, B>) -> Result<(), shiftformer::RunFault> {
    session.run()
}

/// Reports every operator to the host; its own work falls between the measured intervals.
struct Reporter<'h, H: Host> {
    host: &'h mut H,
    dump_op: Option<usize>,
    started: u32,
    ticks: u32,
    broken: Result<(), HostError>,
}

impl<H: Host> Reporter<'_, H> {
    fn report(&mut self, op: usize, part: Part<'_>) -> Result<(), HostError> {
        put(self.host, Record::Op { op: op as u32, ticks: self.ticks, digest: part.digest() })?;
        if self.dump_op == Some(op) { put(self.host, Record::Dump(part.bytes)) } else { Ok(()) }
    }
}

impl<H: Host> Observer for Reporter<'_, H> {
    fn before(&mut self, _op: usize) {
        self.started = self.host.ticks();
    }

    fn ran(&mut self, _op: usize) {
        self.ticks = self.host.ticks().wrapping_sub(self.started);
    }

    fn after(&mut self, op: usize, part: Part<'_>) {
        if self.broken.is_ok() {
            self.broken = self.report(op, part);
        }
    }
}
