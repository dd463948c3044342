//! Long work with the interpreter released: on a pool of threads, with progress, ended by Ctrl-C.

use crate::errors::{exception, raised};
use pyo3::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};
use shiftformer_cli::Failure;
use std::any::Any;
use std::panic::{self, AssertUnwindSafe};
use std::process;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// How often Ctrl-C is looked for while nothing is reported.
const POLL: Duration = Duration::from_millis(50);
/// More than most machines have; far fewer than a system refuses to start.
const MAX_THREADS: usize = 1024;
/// Of a thread, in bytes: what the main thread of a program has.
const STACK_BYTES: usize = 8 << 20;

/// What work says while it runs.
enum Event {
    /// The step that begins.
    Step(String),
    /// Samples done, of so many.
    Done(usize, usize),
    /// It has ended.
    End,
}

/// How work reports, and how it is stopped: in the middle of any report.
pub struct Reporter<'a> {
    sender: Mutex<Sender<Event>>,
    cancelled: &'a AtomicBool,
}

/// What unwinds work that is to stop.
struct Cancelled;

impl Reporter<'_> {
    fn send(&self, event: Event) {
        if self.cancelled.load(Ordering::Relaxed) {
            // No panic: the hook that prints is not called.
            panic::resume_unwind(Box::new(Cancelled));
        }
        // Nobody listens once the work is given up.
        let _ = self.sender.lock().unwrap_or_else(PoisonError::into_inner).send(event);
    }

    /// The step `what` begins.
    pub fn step(&self, what: &str) {
        self.send(Event::Step(what.to_owned()));
    }

    /// `done` of `total` samples are done.
    pub fn done(&self, done: usize, total: usize) {
        self.send(Event::Done(done, total));
    }
}

/// The pools of this process. A child that was forked has none of the threads of its parent, so it starts its own; those of
/// the parent are never waited for.
static POOLS: Mutex<Vec<(u32, usize, &'static ThreadPool)>> = Mutex::new(Vec::new());

fn pool(threads: Option<usize>) -> Result<&'static ThreadPool, Failure> {
    if let Some(count) = threads.filter(|count| !(1..=MAX_THREADS).contains(count)) {
        return Err(Failure::Usage(format!("threads={count} is not a number from 1 to {MAX_THREADS}")));
    }
    // 0: as many as there are cores.
    let (pid, count) = (process::id(), threads.unwrap_or(0));
    let mut pools = POOLS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((.., pool)) = pools.iter().find(|(owner, size, _)| (*owner, *size) == (pid, count)) {
        return Ok(pool);
    }
    let builder = ThreadPoolBuilder::new().num_threads(count).stack_size(STACK_BYTES);
    let made = builder.build();
    let made = made.map_err(|e| Failure::Usage(format!("cannot start {count} threads: {e}; ask for fewer")))?;
    let pool: &'static ThreadPool = Box::leak(Box::new(made));
    pools.push((pid, count, pool));
    Ok(pool)
}

/// Threads that work started with `threads` has.
pub fn threads() -> usize {
    rayon::current_num_threads()
}

/// Runs `work` on a pool of `threads`, by default one per core, with the interpreter released. `progress` is called as
/// `progress(step, done, total)` in this thread: with a step, or with `None` and counts.
///
/// # Errors
/// The exception of the failure, of `progress`, or `KeyboardInterrupt`; `InternalError` for a panic.
pub fn run<T: Send>(
    py: Python<'_>,
    threads: Option<usize>,
    progress: Option<&Bound<'_, PyAny>>,
    work: impl FnOnce(&Reporter<'_>) -> Result<T, Failure> + Send,
) -> PyResult<T> {
    let pool = pool(threads).map_err(|failure| exception(&failure))?;
    let cancelled = AtomicBool::new(false);
    let (sender, receiver) = channel();
    let (receiver, end) = (Mutex::new(receiver), sender.clone());
    let reporter = Reporter { sender: Mutex::new(sender), cancelled: &cancelled };
    let result = Mutex::new(None);
    let mut interrupted = None;
    pool.in_place_scope(|scope| {
        scope.spawn(|_| {
            let done = panic::catch_unwind(AssertUnwindSafe(|| work(&reporter)));
            *result.lock().unwrap_or_else(PoisonError::into_inner) = Some(done);
            let _ = end.send(Event::End);
        });
        loop {
            let event = py.detach(|| next(&receiver));
            if matches!(event, Some(Event::End)) {
                break;
            }
            if interrupted.is_some() {
                continue;
            }
            let told = match (&event, progress) {
                (Some(Event::Step(what)), Some(call)) => call.call1((what, 0, 0)).map(drop),
                (Some(Event::Done(done, total)), Some(call)) => call.call1((py.None(), *done, *total)).map(drop),
                (Some(Event::Step(_) | Event::Done(..) | Event::End) | None, _) => Ok(()),
            };
            if let Err(error) = told.and_then(|()| py.check_signals()) {
                cancelled.store(true, Ordering::Relaxed);
                interrupted = Some(error);
            }
        }
    });
    if let Some(error) = interrupted {
        return Err(error);
    }
    let done = result.into_inner().unwrap_or_else(PoisonError::into_inner);
    match done {
        Some(Ok(done)) => done.map_err(|failure| exception(&failure)),
        Some(Err(payload)) => Err(internal(payload.as_ref())),
        None => Err(raised("InternalError", "internal error: the work ended without a result; please report it")),
    }
}

fn next(receiver: &Mutex<Receiver<Event>>) -> Option<Event> {
    receiver.lock().unwrap_or_else(PoisonError::into_inner).recv_timeout(POLL).ok()
}

/// Runs short `work` in this thread; a panic becomes an `InternalError`.
///
/// # Errors
/// The exception of the failure.
pub fn guarded<T>(work: impl FnOnce() -> Result<T, Failure>) -> PyResult<T> {
    match panic::catch_unwind(AssertUnwindSafe(work)) {
        Ok(done) => done.map_err(|failure| exception(&failure)),
        Err(payload) => Err(internal(payload.as_ref())),
    }
}

fn internal(payload: &(dyn Any + Send)) -> PyErr {
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("unknown cause");
    raised("InternalError", &format!("internal error: {}; please report it", shiftformer_cli::one_line(text)))
}
