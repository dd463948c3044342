//! What generated code has besides for models that keep state: sizes, prompts and steps.

use crate::summary::{StateSummary, Summary};
use std::fmt::Write;

/// Sizes of the state; nothing for a model without.
pub fn rust_constants(out: &mut String, summary: &Summary) {
    let Some(StateSummary { bytes, positions, rows }) = summary.state else { return };
    let _ = write!(
        out,
        "/// Bytes that live from one run to the next; declare them as `Aligned<[u8; STATE_BYTES]>`.
pub const STATE_BYTES: usize = {bytes};

/// Tokens that the state has room for.
pub const CONTEXT: usize = {positions};

/// Tokens of one run at most.
pub const PREFILL_ROWS: usize = {rows};

"
    );
}

/// Prompts, steps and the logits of the last token; nothing for a model without state.
pub fn rust_functions(out: &mut String, summary: &Summary) {
    let (Some(state), Some(output)) = (summary.state, summary.outputs.first()) else { return };
    let dtype = output.dtype;
    let vocabulary = output.shape.iter().product::<usize>() / state.rows.max(1);
    let _ = write!(
        out,
        "
/// Tokens of the vocabulary.
pub const VOCABULARY: usize = {vocabulary};

/// A session over arena and state that starts at position 0.
///
/// # Errors
/// [`shiftformer::ArenaError`] when one of them is too small or misaligned.
pub fn session<'a, B: Kernels>(
    model: &Model<'static, B>,
    arena: &'a mut Aligned<[u8; ARENA_BYTES]>,
    state: &'a mut Aligned<[u8; STATE_BYTES]>,
) -> Result<Session<'static, 'a, B>, shiftformer::ArenaError> {{
    Session::with_state(model, &mut arena.0, &mut state.0)
}}

/// Processes a prompt behind what the state holds.
///
/// # Errors
/// [`ops::RunFault`] for a token beyond the vocabulary and where positions are missing; the position is then as before.
pub fn prefill<B: Kernels>(session: &mut Session<'_, '_, B>, tokens: &[u32]) -> Result<(), ops::RunFault> {{
    session.prefill(tokens)
}}

/// Processes one token; the logits of what follows it.
///
/// # Errors
/// As [`prefill`].
pub fn step<'s, B: Kernels>(
    session: &'s mut Session<'_, '_, B>,
    token: u32,
) -> Result<&'s [{dtype}; VOCABULARY], ops::RunFault> {{
    session.push(token)?;
    last(session).ok_or(ops::RunFault::Memory)
}}

/// Logits of what follows the last token.
///
/// `None` when `session` runs another model, or nothing has run.
pub fn last<'s, B: Kernels>(session: &'s Session<'_, '_, B>) -> Option<&'s [{dtype}; VOCABULARY]> {{
    session.logits_as::<{dtype}>()?.first_chunk()
}}
"
    );
}

/// Sizes of the state for C; nothing for a model without.
pub fn c_constants(out: &mut String, summary: &Summary, upper: &str) {
    let Some(StateSummary { bytes, positions, rows }) = summary.state else { return };
    let _ = write!(
        out,
        "
/* Bytes that live from one run to the next, aligned to 16. */
#define {upper}_STATE_BYTES {bytes}u
/* Tokens that the state has room for. */
#define {upper}_CONTEXT {positions}u
/* Tokens of one run at most. */
#define {upper}_PREFILL_ROWS {rows}u
"
    );
}
