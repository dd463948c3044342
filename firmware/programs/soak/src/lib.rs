//! Steps of a model in a bare loop, with what surrounds them in a product: a tick of 1 kHz that must not be missed, a watchdog
//! that the loop feeds, and interrupts at random moments. Runs are cancelled at random.
//!
//! The host says how many steps in the file `steps`, and compares what is printed: outputs do not depend on interrupts.
#![no_std]

use core::sync::atomic::{AtomicU32, Ordering};
use cortex_m::Peripherals;
use cortex_m::peripheral::syst::SystClkSource;
use semihosting::fs::File;
use semihosting::io::{Read, Write, stdout};
use shiftformer::Session;
use shiftformer::kernels::Native;
use shiftformer_link::soak;
use support::Interrupted;
use support::memory::take_arena;

include!(concat!(env!("OUT_DIR"), "/model.rs"));

/// Ticks in a second.
const TICK_HZ: u32 = 1000;
/// Feedings of the watchdog in a second at least: a step is shorter, at 256 ns an instruction.
const WATCHDOG_HZ: u32 = 25;
/// The next interrupt comes within so many ticks of the board's counter: a few thousand instructions.
const INTERRUPT_WITHIN: u32 = 1 << 15;

static TICKS: AtomicU32 = AtomicU32::new(0);
static INTERRUPTS: AtomicU32 = AtomicU32::new(0);
static LAST: AtomicU32 = AtomicU32::new(0);
static LONGEST: AtomicU32 = AtomicU32::new(0);

/// Reads how many steps, does them, and prints what came out.
pub fn main<B: Interrupted>() -> ! {
    B::start();
    B::exit(run::<B>().is_some())
}

fn run<B: Interrupted>() -> Option<()> {
    let mut steps = [0; size_of::<u32>()];
    File::open(c"steps").ok()?.read_exact(&mut steps).ok()?;
    let model = model::open::<Native>().ok()?;
    let mut session = Session::new(&model, take_arena::<B>()?).ok()?;

    let mut systick = Peripherals::take()?.SYST;
    systick.set_clock_source(SystClkSource::Core);
    systick.set_reload(B::CORE_HZ / TICK_HZ - 1);
    systick.clear_current();
    LAST.store(B::ticks(), Ordering::Relaxed);
    systick.enable_interrupt();
    systick.enable_counter();
    B::watch(B::CORE_HZ / WATCHDOG_HZ);

    let start = B::ticks();
    let done = soak(&mut session, u32::from_le_bytes(steps), |random| {
        B::feed();
        B::interrupt_in(random % INTERRUPT_WITHIN);
    });
    let elapsed = B::ticks().wrapping_sub(start);
    systick.disable_interrupt();
    let done = done.ok()?;

    let period = B::COUNTER_HZ / TICK_HZ;
    let [ticks, interrupts, longest] = [&TICKS, &INTERRUPTS, &LONGEST].map(|count| count.load(Ordering::Relaxed));
    let mut out = stdout().ok()?;
    writeln!(out, "runs {} cancels {} digest {:016x}", done.runs, done.cancels, done.digest).ok()?;
    writeln!(out, "{ticks} ticks, at most {longest} of {period} counts apart; {interrupts} interrupts").ok()?;
    // The counter wraps around in long runs: what it shows is compared modulo its range.
    let missed = elapsed.wrapping_sub(ticks.wrapping_mul(period)).cast_signed().unsigned_abs() > 2 * period;
    (!missed && longest < 2 * period && interrupts > 0).then_some(())
}

/// Of every tick.
pub fn tick<B: Interrupted>() {
    let now = B::ticks();
    let apart = now.wrapping_sub(LAST.load(Ordering::Relaxed));
    LAST.store(now, Ordering::Relaxed);
    LONGEST.store(LONGEST.load(Ordering::Relaxed).max(apart), Ordering::Relaxed);
    TICKS.store(TICKS.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
}

/// Of every other interrupt.
pub fn interrupt<B: Interrupted>() {
    B::clear_interrupt();
    INTERRUPTS.store(INTERRUPTS.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
}

/// Of the watchdog, when the loop has not fed it in time.
pub fn starved<B: Interrupted>() -> ! {
    if let Ok(mut out) = stdout() {
        // The exit status says it too.
        let _ = writeln!(out, "the watchdog was not fed");
    }
    B::exit(false)
}
