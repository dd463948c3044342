//! Continues a text: a language model writes on behind what was typed, as far as its context goes.
//!
//! The text is that of `shiftformer generate --temperature 0.8 --top-k 40 --seed 1`, on every board.
#![no_std]

use core::fmt::Write;
use heapless::String;
use shiftformer::kernels::Native;
use shiftformer::text::{Logits, ONE, Sampler, Sampling, Tokenizer};
use shiftformer::{RunFault, Session};
use support::counter;
use support::memory::take_arena;
use support::terminal::{Fault, Talks, Terminal, converse};

include!(concat!(env!("OUT_DIR"), "/model.rs"));

/// Bytes of arena; the state behind it is aligned as well.
const ARENA_BYTES: usize = model::ARENA_BYTES.next_multiple_of(16);
/// Longest line.
const LINE: usize = 80;
/// Tokens that are written at most.
const TOKENS: usize = 64;
const SEED: u64 = 1;
/// 0.8, rounded.
const TEMPERATURE: u32 = (ONE * 8 + 5) / 10;
const TOP_K: u32 = 40;

/// Runs the demo until the conversation ends; ends the emulation.
pub fn main<B: Talks>() -> ! {
    converse::<B>(talk::<B>)
}

/// Opens the model and answers every line.
fn talk<B: Talks>(terminal: &mut Terminal<B::Port>) -> Result<(), Fault> {
    let model = model::open::<Native>().map_err(|_| Fault::Model)?;
    let tokenizer = Tokenizer::open(model.sections()).map_err(|_| Fault::Model)?.ok_or(Fault::Model)?;
    let memory = take_arena::<B>().ok_or(Fault::Memory)?;
    let (arena, state) = memory.split_at_mut_checked(ARENA_BYTES).ok_or(Fault::Memory)?;
    let mut session = Session::with_state(&model, arena, state).map_err(|_| Fault::Memory)?;
    terminal.print("Type the beginning of a text. Ctrl-D ends.\n");
    let mut cost = Cost::default();
    while let Some(line) = terminal.line::<LINE>() {
        if write_on::<B>(terminal, &mut session, &tokenizer, &line, &mut cost)? {
            terminal.print("\n");
        } else {
            terminal.print(" ? the model has no tokens for this\n");
        }
    }
    let mut text: String<96> = String::new();
    let Cost { ticks, position } = cost;
    let per_tick = instructions_per_1000_ticks::<B>();
    let instructions = u64::from(ticks) * per_tick / 1000;
    // The text has room for the numbers.
    let _ = write!(text, "The last token, at position {position}, took {instructions} instructions.\n");
    terminal.print(&text);
    Ok(())
}

/// What the last token took.
#[derive(Default)]
struct Cost {
    ticks: u32,
    position: u32,
}

/// The rate of the counter, exact under an emulator that lets every instruction take the same time (`-icount`).
fn instructions_per_1000_ticks<B: Talks>() -> u64 {
    let start = B::ticks();
    let instructions = counter::known_loop();
    let ticks = B::ticks().wrapping_sub(start).max(1);
    u64::from(instructions) * 1000 / u64::from(ticks)
}

/// Continues `line`; whether the model could.
fn write_on<B: Talks>(
    terminal: &mut Terminal<B::Port>,
    session: &mut Session<'_, '_, Native>,
    tokenizer: &Tokenizer<'_>,
    line: &str,
    cost: &mut Cost,
) -> Result<bool, Fault> {
    let mut ids = [0; model::CONTEXT];
    // What belongs behind a whole text does not belong behind its beginning.
    let special = tokenizer.layout().after.bytes == 0;
    let Ok(length) = tokenizer.encode(line, special, &mut ids) else { return Ok(false) };
    session.reset();
    inference(session, ids.get(..length).ok_or(Fault::Run)?).map_err(|_| Fault::Run)?;
    let settings = Sampling { temperature: TEMPERATURE, top_k: TOP_K, ..Sampling::GREEDY };
    let mut sampler = Sampler::new(settings, SEED).map_err(|_| Fault::Run)?;
    let mut words = tokenizer.decoder(false);
    let mut scratch = [0; model::VOCABULARY];
    // The last token is written, not processed.
    let room = (model::CONTEXT + 1).saturating_sub(length).min(TOKENS);
    for written in 1..=room {
        let logits = logits(session).ok_or(Fault::Run)?;
        let token = sampler.next(logits, tokenizer.logit_units(), &[], &mut scratch).map_err(|_| Fault::Run)?;
        words.next(token, &mut |text| terminal.print(text)).map_err(|_| Fault::Run)?;
        if written < room {
            let start = B::ticks();
            let position = session.position();
            inference(session, &[token]).map_err(|_| Fault::Run)?;
            *cost = Cost { ticks: B::ticks().wrapping_sub(start), position };
        }
    }
    words.finish(&mut |text| terminal.print(text));
    Ok(true)
}

/// The inference: the audit starts here.
#[unsafe(no_mangle)]
#[inline(never)]
fn inference(session: &mut Session<'_, '_, Native>, tokens: &[u32]) -> Result<(), RunFault> {
    model::prefill(session, tokens)
}

/// Logits of what follows the last token.
fn logits<'s>(session: &'s Session<'_, '_, Native>) -> Option<Logits<'s>> {
    let tensor = session.model().output(0)?;
    Some(Logits::i16(model::last(session)?, tensor.zero_point))
}

/// A panic ends the emulation.
pub fn panic<B: Talks>() -> ! {
    B::exit(false)
}
