//! Reads handwritten digits, and proves operator by operator that it computes what the host does.
//!
//! The images and the expected digests are the receipts inside the model. For each the demo draws the image, runs the
//! model, compares every operator's digest and logs the class. At the end it logs what the inference took: arena, stack,
//! instructions.
#![no_std]

use embedded_hal::digital::OutputPin;
use heapless::String;
use shiftformer::format::Receipt;
use shiftformer::kernels::Native;
use shiftformer::{ArenaError, Digests, ModelError, RunFault, Session};
use support::memory::{mark_stack, take_arena};
use support::{Board, counter};

include!(concat!(env!("OUT_DIR"), "/model.rs"));

/// Pixels of a row of the images.
const COLUMNS: usize = 8;
/// Shades of a pixel, dark to bright, each twice as wide as it is high on a terminal.
const SHADES: [&str; 5] = ["  ", "..", "++", "**", "##"];
/// Bytes of a drawn row.
const ROW_BYTES: usize = COLUMNS * 2;
/// What an arena byte holds that no tensor has touched.
const PAINT: u8 = 0xa5;

/// Why the demo stops.
#[derive(defmt::Format)]
enum Fault {
    Model(ModelError),
    Arena(ArenaError),
    Run(RunFault),
    NoArena,
    NoInput,
    /// An operator's digest is not the receipt's.
    Digest {
        op: usize,
    },
}

/// What an inference took.
struct Cost {
    /// By the board's counter.
    microseconds: u64,
    /// If all took the same time, as they do in the emulator.
    instructions: u64,
    stack_bytes: usize,
}

/// Runs the demo; ends the emulation.
pub fn main<B: Board>() -> ! {
    B::start();
    defmt::info!("{=str} ({=str}), {=usize} bytes of model", B::NAME, B::CORE.name(), model::MODEL_BYTES);
    match demo::<B>() {
        Ok(images) => {
            defmt::info!("{=usize} images read", images);
            B::exit(true)
        }
        Err(fault) => {
            defmt::error!("{}", fault);
            B::exit(false)
        }
    }
}

/// Runs every receipt; returns how many there are.
fn demo<B: Board>() -> Result<usize, Fault> {
    let mut led = B::led();
    let model = model::open::<Native>().map_err(Fault::Model)?;
    let arena = take_arena::<B>().ok_or(Fault::NoArena)?;
    arena.fill(PAINT);
    let mut cost = Cost { microseconds: 0, instructions: 0, stack_bytes: 0 };
    for index in 0..model.receipts().len() {
        let receipt = model.receipts().get(index).ok_or(Fault::NoInput)?;
        let mut session = Session::new(&model, arena).map_err(Fault::Arena)?;
        draw(load(&mut session, &receipt)?);
        // An LED that cannot be lit is no reason to stop.
        let _ = led.set_high();
        cost = measure::<B>(&mut session)?;
        let _ = led.set_low();
        let class = class(&session);
        load(&mut session, &receipt)?;
        prove(&mut session, &receipt)?;
        defmt::info!("image {=usize}: class {=usize}, all operators as on the host", index, class);
    }
    let arena_bytes = arena.iter().rposition(|&byte| byte != PAINT).map_or(0, |last| last + 1);
    defmt::info!("arena: {=usize} of {=usize} bytes touched", arena_bytes, model::ARENA_BYTES);
    defmt::info!("stack of the inference: {=usize} bytes", cost.stack_bytes);
    defmt::info!("inference: {=u64} us by the counter of the board", cost.microseconds);
    defmt::info!("inference: {=u64} instructions, if all take the same time", cost.instructions);
    Ok(model.receipts().len())
}

/// Puts the image of a receipt into the session.
fn load<'r>(session: &mut Session<'_, '_, Native>, receipt: &Receipt<'r>) -> Result<&'r [u8], Fault> {
    let input = model::image(session).ok_or(Fault::NoInput)?;
    let image = receipt.inputs(core::iter::once(input.len())).next().ok_or(Fault::NoInput)?;
    input.copy_from_slice(image);
    Ok(image)
}

/// Logs the image, a line per row.
fn draw(image: &[u8]) {
    for row in image.chunks(COLUMNS) {
        let mut line: String<ROW_BYTES> = String::new();
        for &pixel in row {
            let shade = usize::from(pixel) * SHADES.len() / 256;
            // The line has room for every pixel.
            let _ = line.push_str(SHADES.get(shade).unwrap_or(&"??"));
        }
        defmt::info!("  {=str}", line.as_str());
    }
}

/// Runs the model once and measures.
fn measure<B: Board>(session: &mut Session<'_, '_, Native>) -> Result<Cost, Fault> {
    let turns = B::ticks();
    let known = counter::known_loop();
    let known_ticks = B::ticks().wrapping_sub(turns).max(1);
    let mark = mark_stack::<B>();
    let start = B::ticks();
    let done = inference(session);
    let ticks = B::ticks().wrapping_sub(start);
    let stack_bytes = mark.deepest_bytes();
    done.map_err(Fault::Run)?;
    Ok(Cost {
        microseconds: u64::from(ticks) * 1_000_000 / u64::from(B::COUNTER_HZ),
        instructions: u64::from(ticks) * u64::from(known) / u64::from(known_ticks),
        stack_bytes,
    })
}

/// The inference: the audit starts here.
#[unsafe(no_mangle)]
#[inline(never)]
fn inference(session: &mut Session<'_, '_, Native>) -> Result<(), RunFault> {
    session.run()
}

/// Runs the model once more, comparing every operator with the receipt.
fn prove(session: &mut Session<'_, '_, Native>, receipt: &Receipt<'_>) -> Result<(), Fault> {
    let mut wrong: Option<usize> = None;
    let mut check = Digests::new(|op, digest| {
        let same = receipt.digest(op) == Some(digest);
        defmt::debug!("  operator {=usize}: {=u64:016x} {=bool}", op, digest, same);
        if !same && wrong.is_none() {
            wrong = Some(op);
        }
    });
    session.run_with(&mut check).map_err(Fault::Run)?;
    wrong.map_or(Ok(()), |op| Err(Fault::Digest { op }))
}

/// The class with the largest logit.
fn class(session: &Session<'_, '_, Native>) -> usize {
    let logits = model::logits(session).map_or(&[][..], |logits| logits.as_slice());
    logits.iter().enumerate().max_by_key(|(_, logit)| **logit).map_or(0, |(class, _)| class)
}

/// Says that something panicked; ends the emulation.
pub fn panic<B: Board>() -> ! {
    defmt::error!("panic");
    B::exit(false)
}
