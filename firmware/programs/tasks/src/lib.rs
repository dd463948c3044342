//! Reads handwritten digits in a task of embassy's executor, beside one that keeps time.
//!
//! Tasks of one executor take turns where they wait. An inference does not wait, so the task that reads yields after every
//! bounded step of it: the other one is late by two steps at most (the executor may have the next one in its list already).
#![no_std]

use core::sync::atomic::{AtomicU32, Ordering};
use embassy_executor::{Executor, SpawnError, Spawner};
use embassy_futures::yield_now;
use embassy_time::{Duration, Instant, Timer};
use embedded_hal::digital::{OutputPin, PinState};
use shiftformer::arith::digest::digest;
use shiftformer::format::Receipt;
use shiftformer::kernels::Native;
use shiftformer::{Model, Progress, RunFault, Session};
use support::Board;
use support::memory::take_arena;

include!(concat!(env!("OUT_DIR"), "/model.rs"));

/// How often the other task is due.
const PERIOD: Duration = Duration::from_millis(5);

static TURNS: AtomicU32 = AtomicU32::new(0);
/// In ticks of embassy's clock.
static LATEST: AtomicU32 = AtomicU32::new(0);

/// Why the demo stops.
#[derive(defmt::Format)]
enum Fault {
    Model,
    NoArena,
    NoInput,
    Run(RunFault),
    /// The outputs are not the receipt's.
    Outputs,
    /// The other task was late by a period or more.
    Late,
}

/// Starts the board and the tasks that `spawn` spawns.
pub fn main<B: Board>(spawn: impl FnOnce(Spawner) -> Result<(), SpawnError>) -> ! {
    B::start();
    let Some(executor) = cortex_m::singleton!(: Executor = Executor::new()) else { B::exit(false) };
    executor.run(|spawner| {
        if spawn(spawner).is_err() {
            B::exit(false);
        }
    })
}

/// Toggles the LED every [`PERIOD`], as a task would that reads a sensor, and notes how late its turns came.
pub async fn keep_time<B: Board>() {
    let mut led = B::led();
    let mut lit = false;
    let mut due = Instant::now();
    loop {
        due += PERIOD;
        Timer::at(due).await;
        let late = u32::try_from((Instant::now() - due).as_ticks()).unwrap_or(u32::MAX);
        LATEST.store(LATEST.load(Ordering::Relaxed).max(late), Ordering::Relaxed);
        TURNS.store(TURNS.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
        // An LED that cannot be lit is no reason to stop.
        lit = !lit;
        let _ = led.set_state(PinState::from(lit));
    }
}

/// Reads the image of every receipt; ends the program.
pub async fn read<B: Board>() {
    match demo::<B>().await {
        Ok(()) => B::exit(true),
        Err(fault) => {
            defmt::error!("{}", fault);
            B::exit(false)
        }
    }
}

async fn demo<B: Board>() -> Result<(), Fault> {
    let model = model::open::<Native>().map_err(|_| Fault::Model)?;
    let mut session = Session::new(&model, take_arena::<B>().ok_or(Fault::NoArena)?).map_err(|_| Fault::NoArena)?;
    // The turns that opening has held up are not counted.
    yield_now().await;
    for count in [&TURNS, &LATEST] {
        count.store(0, Ordering::Relaxed);
    }
    let (start, mut steps) = (Instant::now(), 0_u32);
    for index in 0..model.receipts().len() {
        let receipt = model.receipts().get(index).ok_or(Fault::NoInput)?;
        load(&mut session, &receipt)?;
        while inference(&mut session).map_err(Fault::Run)? != Progress::Done {
            steps = steps.wrapping_add(1);
            yield_now().await;
        }
        check(&model, &session, &receipt)?;
        defmt::info!("image {=usize}: outputs as on the host", index);
    }
    let (turns, latest) = (TURNS.load(Ordering::Relaxed), LATEST.load(Ordering::Relaxed));
    let elapsed = start.elapsed();
    let late = Duration::from_ticks(u64::from(latest));
    defmt::info!("{=u32} steps in {=u64} ms", steps, elapsed.as_millis());
    defmt::info!("{=u32} turns of the other task, the latest {=u64} us after it was due", turns, late.as_micros());
    if late < PERIOD && u64::from(turns) + 1 >= elapsed.as_ticks() / PERIOD.as_ticks() {
        Ok(())
    } else {
        Err(Fault::Late)
    }
}

/// Puts the image of a receipt into the session.
fn load(session: &mut Session<'_, '_, Native>, receipt: &Receipt<'_>) -> Result<(), Fault> {
    let input = model::image(session).ok_or(Fault::NoInput)?;
    let image = receipt.inputs(core::iter::once(input.len())).next().ok_or(Fault::NoInput)?;
    input.copy_from_slice(image);
    Ok(())
}

/// A step of the inference: the audit starts here.
#[unsafe(no_mangle)]
#[inline(never)]
fn inference(session: &mut Session<'_, '_, Native>) -> Result<Progress, RunFault> {
    session.step()
}

/// Compares what the last operator wrote with the receipt.
fn check(model: &Model<'_, Native>, session: &Session<'_, '_, Native>, receipt: &Receipt<'_>) -> Result<(), Fault> {
    let logits = session.output(0).ok_or(Fault::Outputs)?;
    let expected = model.n_ops().checked_sub(1).and_then(|last| receipt.digest(last)).ok_or(Fault::Outputs)?;
    if digest(logits) == expected { Ok(()) } else { Err(Fault::Outputs) }
}
