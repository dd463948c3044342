//! Spots keywords in sound of 16,000 samples per second that comes over the serial line.
//!
//! Samples wait in a ring while the model runs, one bounded step after the other. The front end makes a frame of features of
//! every 10 ms, a second ring keeps those of the last second, and four times a second the model says which word it hears.
//! Lines are those of `shiftformer listen`, byte for byte.
//!
//! The line carries blocks: a count and as many samples, 16 bits each, little-endian. A count of 0 ends, and the program says
//! what a second of sound took. On a product a microphone's interrupt fills the ring instead.
#![no_std]

use core::convert::Infallible;
use core::fmt::Write as _;
use embedded_io::{Read, ReadReady, Write};
use heapless::{Deque, String};
use shiftformer::audio::{COEFFICIENTS, FrontEnd, HOP, Heard, News, SAMPLE_RATE, WINDOW, mfcc};
use shiftformer::kernels::Native;
use shiftformer::text::Logits;
use shiftformer::{Progress, Session};
use support::memory::{StackMark, mark_stack, take_arena};
use support::terminal::{Fault, Talks};
use support::{Board, counter};

include!(concat!(env!("OUT_DIR"), "/model.rs"));

/// Samples that may wait while the model runs: an eighth of a second.
const WAITING: usize = 2048;
/// Frames of a run.
const FRAMES: usize = model::MFCC_LEN / COEFFICIENTS;
/// Frames from one run to the next: as `shiftformer listen --every 0.25`.
const STRIDE: u32 = 25;
/// A class is printed from this probability on: 0.6, rounded up.
const THRESHOLD: u32 = (6 * (1 << 16)) / 10 + 1;
/// Frames of a second.
const FRAMES_PER_S: u32 = SAMPLE_RATE / HOP as u32;

/// Listens until the sound ends; ends the emulation.
pub fn main<B: Talks>() -> !
where
    B::Port: ReadReady,
{
    B::start();
    let mut line = B::port();
    let mark = mark_stack::<B>();
    match listen::<B>(&mut line, &mark) {
        Ok(()) => B::exit(true),
        Err(fault) => {
            let Ok(()) = line.write_all(fault.text().as_bytes());
            B::exit(false)
        }
    }
}

/// Answers as samples come, then says what it took.
#[inline(never)]
fn listen<B: Talks>(line: &mut B::Port, mark: &StackMark) -> Result<(), Fault>
where
    B::Port: ReadReady,
{
    let model = model::open::<Native>().map_err(|_| Fault::Model)?;
    let arena = take_arena::<B>().and_then(|memory| memory.get_mut(..model::ARENA_BYTES)).ok_or(Fault::Memory)?;
    let session = Session::new(&model, arena).map_err(|_| Fault::Memory)?;
    let mut ear = Ear::new(session);
    let (mut blocks, mut news, mut cost) = (Blocks::default(), News::new(THRESHOLD), Cost::default());
    loop {
        blocks.take(line, &mut ear.waiting);
        let start = B::ticks();
        let done = inference(&mut ear);
        let ticks = u64::from(B::ticks().wrapping_sub(start));
        match done.ok_or(Fault::Run)? {
            Done::Nothing if blocks.ended => break,
            Done::Nothing => blocks.wait(line, &mut ear.waiting),
            Done::Samples => cost.features += ticks,
            Done::Step => cost.runs += ticks,
            Done::Run(heard) => {
                cost.runs += ticks;
                cost.count += 1;
                if news.is_new(heard) {
                    let label = model.label(0, heard.class as usize).unwrap_or("?");
                    print(line, ear.frames, heard, label);
                }
            }
        }
    }
    cost.print::<B>(line, ear.frames, mark.deepest_bytes());
    Ok(())
}

/// A piece of work.
enum Done {
    /// Nothing was to be done.
    Nothing,
    /// Samples were taken, up to the end of a frame.
    Samples,
    /// A step of a run.
    Step,
    /// The last step of a run.
    Run(Heard),
}

/// What is heard, and the run that judges it.
struct Ear<'m, 'a> {
    /// Samples that the front end has not seen.
    waiting: Deque<i16, WAITING>,
    front_end: FrontEnd,
    /// The last second, in the steps of the model's input.
    window: Deque<[i16; COEFFICIENTS], FRAMES>,
    /// Frames there have been.
    frames: u32,
    session: Session<'m, 'a, Native>,
    running: bool,
}

impl<'m, 'a> Ear<'m, 'a> {
    fn new(session: Session<'m, 'a, Native>) -> Self {
        let front_end = FrontEnd::new();
        Self { waiting: Deque::new(), front_end, window: Deque::new(), frames: 0, session, running: false }
    }

    /// Feeds the front end; begins a run where one is due.
    fn take_samples(&mut self) -> Option<Done> {
        let (mut rest, _) = self.waiting.as_slices();
        let held = rest.len();
        if held == 0 {
            return Some(Done::Nothing);
        }
        let complete = self.front_end.fill(&mut rest);
        for _ in 0..held - rest.len() {
            self.waiting.pop_front();
        }
        if complete {
            let frame = mfcc(&self.front_end.log_mel()).map(|x| model::MFCC_FEATURES.quantize_i16(x));
            if self.window.is_full() {
                self.window.pop_front();
            }
            // There is room.
            let _ = self.window.push_back(frame);
            self.frames += 1;
            let beyond = self.frames.checked_sub(FRAMES as u32);
            if beyond.is_some_and(|beyond| beyond.is_multiple_of(STRIDE)) {
                let input = model::mfcc(&mut self.session)?;
                for (to, frame) in input.as_chunks_mut().0.iter_mut().zip(&self.window) {
                    *to = *frame;
                }
                self.running = true;
            }
        }
        Some(Done::Samples)
    }

    fn step(&mut self) -> Option<Done> {
        match self.session.step().ok()? {
            Progress::Running { .. } => Some(Done::Step),
            Progress::Done => {
                self.running = false;
                let zero_point = self.session.model().output(0)?.zero_point;
                let logits = Logits::i16(model::logits(&self.session)?, zero_point);
                Some(Done::Run(Heard::of(logits, model::LOGITS_UNITS)?))
            }
        }
    }
}

/// A step of a run, or a frame of features; `None` when the model fails. The audit starts here.
#[unsafe(no_mangle)]
#[inline(never)]
fn inference(ear: &mut Ear<'_, '_>) -> Option<Done> {
    if ear.running { ear.step() } else { ear.take_samples() }
}

/// The samples of a line.
#[derive(Default)]
struct Blocks {
    /// The first byte of a value whose second one has not come.
    half: Option<u8>,
    /// Samples left of the block.
    left: u16,
    ended: bool,
}

impl Blocks {
    /// Takes what has come, as far as there is room.
    fn take<P>(&mut self, line: &mut P, waiting: &mut Deque<i16, WAITING>)
    where
        P: Read<Error = Infallible> + ReadReady,
    {
        while !self.ended && !waiting.is_full() && line.read_ready() == Ok(true) {
            self.wait(line, waiting);
        }
    }

    /// Waits for a byte. There is room for a sample.
    fn wait<P>(&mut self, line: &mut P, waiting: &mut Deque<i16, WAITING>)
    where
        P: Read<Error = Infallible>,
    {
        let mut byte = [0];
        let Ok(_) = line.read(&mut byte);
        let [byte] = byte;
        let Some(first) = self.half.take() else {
            self.half = Some(byte);
            return;
        };
        let value = [first, byte];
        if let Some(left) = self.left.checked_sub(1) {
            self.left = left;
            // There is room.
            let _ = waiting.push_back(i16::from_le_bytes(value));
        } else {
            self.left = u16::from_le_bytes(value);
            self.ended = self.left == 0;
        }
    }
}

/// What the work took, in ticks.
#[derive(Default)]
struct Cost {
    features: u64,
    runs: u64,
    /// Runs there were.
    count: u32,
}

impl Cost {
    /// What one second of sound took, in instructions, and the memory.
    fn print<B: Talks>(&self, line: &mut impl Write<Error = Infallible>, frames: u32, stack: usize) {
        let start = B::ticks();
        let known = u64::from(counter::known_loop());
        let known_ticks = u64::from(B::ticks().wrapping_sub(start).max(1));
        let each = |ticks: u64, count: u32| ticks * known / known_ticks / u64::from(count.max(1));
        let (frame, run) = (each(self.features, frames), each(self.runs, self.count));
        let second = frame * u64::from(FRAMES_PER_S) + run * u64::from(FRAMES_PER_S) / u64::from(STRIDE);
        // Some compilers link the panic of an index with decimals of 64 bits.
        let [second, frame, run] = [second, frame, run].map(|count| u32::try_from(count).unwrap_or(u32::MAX));
        let mut text: String<192> = String::new();
        // The text has room for the numbers.
        let _ = write!(
            text,
            "A second of sound takes {second} instructions: {frame} for each frame, {run} for each run.\n\
             Memory: {} bytes of arena, {stack} of stack.\n",
            model::ARENA_BYTES
        );
        let Ok(()) = line.write_all(text.as_bytes());
    }
}

/// Prints an answer as `shiftformer listen` does.
fn print(line: &mut impl Write<Error = Infallible>, frames: u32, heard: Heard, label: &str) {
    // The end of the last frame's window.
    let hundredths = frames.saturating_sub(1) + (WINDOW as u32 * 100) / SAMPLE_RATE;
    let (seconds, rest, percent) = (hundredths / 100, hundredths % 100, heard.percent());
    let mut text: String<96> = String::new();
    // The text has room for labels of half its length.
    let _ = write!(text, "{seconds:>6}.{rest:02} s  {label:<16} {}.{:02}\n", percent / 100, percent % 100);
    let Ok(()) = line.write_all(text.as_bytes());
}

/// A panic ends the emulation.
pub fn panic<B: Board>() -> ! {
    B::exit(false)
}
