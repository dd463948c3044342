//! Adds two numbers of up to three digits: a language model writes the sum, digit by digit.
//!
//! `12+345` becomes the prompt `$012+345=`; the model continues it with the four digits of the sum, the last one first.
#![no_std]

use shiftformer::kernels::Native;
use shiftformer::text::{Logits, Tokenizer};
use shiftformer::{RunFault, Session};
use support::memory::take_arena;
use support::terminal::{Fault, Talks, Terminal, converse};

include!(concat!(env!("OUT_DIR"), "/model.rs"));

/// Bytes of arena; the state behind it is aligned as well.
const ARENA_BYTES: usize = model::ARENA_BYTES.next_multiple_of(16);
/// Longest line.
const LINE: usize = 16;
/// Characters of `$123+456=`.
const PROMPT: usize = 9;
/// Digits of a sum.
const DIGITS: usize = 4;

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
    terminal.print("Type a sum of numbers up to 999, as 12+345. Ctrl-D ends.\n");
    while let Some(line) = terminal.line::<LINE>() {
        match prompt(&line) {
            Some(prompt) => {
                let sum = sum(&mut session, &tokenizer, &prompt)?;
                terminal.print("=");
                terminal.print(shown(&sum));
                terminal.print("\n");
            }
            None => terminal.print(" ? two numbers up to 999, as 12+345\n"),
        }
    }
    Ok(())
}

/// `$012+345=` for `12+345`; `None` for what is no such sum.
fn prompt(line: &str) -> Option<[u8; PROMPT]> {
    let (a, b) = line.split_once('+')?;
    let mut prompt = *b"$000+000=";
    for (number, last) in [(a, 3), (b, 7)] {
        let digits = number.trim().as_bytes();
        if digits.is_empty() || digits.len() > 3 || !digits.iter().all(u8::is_ascii_digit) {
            return None;
        }
        for (&digit, to) in digits.iter().rev().zip(prompt.get_mut(..=last)?.iter_mut().rev()) {
            *to = digit;
        }
    }
    Some(prompt)
}

/// The digits that the model writes behind `prompt`, the first one first.
fn sum(
    session: &mut Session<'_, '_, Native>,
    tokenizer: &Tokenizer<'_>,
    prompt: &[u8; PROMPT],
) -> Result<[u8; DIGITS], Fault> {
    let prompt = core::str::from_utf8(prompt).map_err(|_| Fault::Run)?;
    let mut ids = [0; PROMPT];
    let length = tokenizer.encode(prompt, false, &mut ids).map_err(|_| Fault::Run)?;
    session.reset();
    inference(session, ids.get(..length).ok_or(Fault::Run)?).map_err(|_| Fault::Run)?;
    let mut sum = [b'?'; DIGITS];
    for digit in sum.iter_mut().rev() {
        let token = logits(session).and_then(|logits| logits.argmax()).ok_or(Fault::Run)?;
        let mut first = |text: &str| *digit = text.bytes().next().unwrap_or(b'?');
        tokenizer.decode(&[token], false, &mut first).map_err(|_| Fault::Run)?;
        inference(session, &[token]).map_err(|_| Fault::Run)?;
    }
    Ok(sum)
}

/// The digits without zeros in front.
fn shown(sum: &[u8; DIGITS]) -> &str {
    let zeros = sum.iter().take(DIGITS - 1).take_while(|&&digit| digit == b'0').count();
    core::str::from_utf8(sum.get(zeros..).unwrap_or(sum)).unwrap_or("?")
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
