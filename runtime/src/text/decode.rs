//! Token ids to text.

use super::Tokenizer;
use super::layout::{TOKEN_IS_BYTE, TOKEN_IS_SPECIAL};
use core::fmt;

/// An id beyond the vocabulary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct DecodeError {
    /// The id.
    pub id: u32,
    /// Number of ids there are.
    pub vocabulary: u32,
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "token {} is beyond the vocabulary of {}; this tokenizer is of another model",
            self.id, self.vocabulary
        )
    }
}

impl core::error::Error for DecodeError {}

/// In place of bytes that are no character.
const REPLACEMENT: &str = "\u{fffd}";

/// The text of tokens as they come: whole characters, as soon as their last byte is there.
///
/// The same text as [`Tokenizer::decode`] gives for all of them, except that of a row of byte tokens (`<0xE2>`) with a
/// fault all bytes are replaced there, as the `tokenizers` crate does, and only those at fault here.
#[derive(Clone, Copy, Debug)]
pub struct Decoder<'m> {
    tokenizer: Tokenizer<'m>,
    /// Bytes of a character that is not complete.
    pending: [u8; 4],
    held: usize,
    /// Whether special tokens are text.
    special: bool,
    /// Tokens that were text.
    tokens: usize,
    /// Replacements so far.
    faults: usize,
    /// Whether a space at the start is still to be left out.
    strip: bool,
}

impl<'m> Tokenizer<'m> {
    /// A decoder at the start of a text; `special` keeps special tokens.
    pub fn decoder(&self, special: bool) -> Decoder<'m> {
        let strip = self.layout.strip;
        Decoder { tokenizer: *self, pending: [0; 4], held: 0, special, tokens: 0, faults: 0, strip }
    }

    /// Gives the text of `ids` to `write`, in parts; `special` keeps special tokens. Bytes that are no UTF-8 become U+FFFD.
    ///
    /// # Errors
    /// [`DecodeError`] at the first id beyond the vocabulary; `write` has then had the text before it.
    pub fn decode(&self, ids: &[u32], special: bool, write: &mut dyn FnMut(&str)) -> Result<(), DecodeError> {
        let mut decoder = self.decoder(special);
        let mut rest = ids;
        while let Some((&id, behind)) = rest.split_first() {
            let run = self.byte_run(rest, special);
            if run > 0 && !self.is_text(rest, run) {
                let (bytes, behind) = rest.split_at_checked(run).unwrap_or((rest, &[]));
                for &id in bytes.iter().filter(|&&id| !self.is_skipped(id, special)) {
                    decoder.begin(id)?;
                    decoder.replace(write);
                }
                rest = behind;
                continue;
            }
            for &id in rest.get(..run).unwrap_or(&[]) {
                decoder.next(id, write)?;
            }
            if run > 0 {
                rest = rest.get(run..).unwrap_or(&[]);
                continue;
            }
            decoder.next(id, write)?;
            rest = behind;
        }
        decoder.finish(write);
        Ok(())
    }

    fn is_skipped(&self, id: u32, special: bool) -> bool {
        !special && self.piece(id).is_some_and(|(_, marks)| marks & TOKEN_IS_SPECIAL != 0)
    }

    /// Tokens at the start that are byte tokens, or left out.
    fn byte_run(&self, ids: &[u32], special: bool) -> usize {
        let byte = |id: u32| self.piece(id).is_some_and(|(_, marks)| marks & TOKEN_IS_BYTE != 0);
        ids.iter().take_while(|&&id| byte(id) || self.is_skipped(id, special)).count()
    }

    /// Whether the bytes of a run of byte tokens are UTF-8.
    fn is_text(&self, ids: &[u32], run: usize) -> bool {
        let mut decoder = Decoder { strip: false, ..self.decoder(false) };
        for &id in ids.iter().take(run) {
            if let Some((&[byte], marks)) = self.piece(id)
                && marks & TOKEN_IS_BYTE != 0
            {
                decoder.byte(byte, &mut |_| ());
            }
        }
        decoder.finish(&mut |_| ());
        decoder.faults == 0
    }
}

impl<'m> Decoder<'m> {
    /// Gives the characters that token `id` completes to `write`.
    ///
    /// # Errors
    /// [`DecodeError`] for an id beyond the vocabulary.
    pub fn next(&mut self, id: u32, write: &mut dyn FnMut(&str)) -> Result<(), DecodeError> {
        if self.tokenizer.is_skipped(id, self.special) {
            return Ok(());
        }
        let layout = self.tokenizer.layout;
        let (piece, marks) = self.begin(id)?;
        if layout.join && self.tokens > 1 {
            self.put(" ", write);
        }
        if layout.bytes || marks & TOKEN_IS_BYTE != 0 {
            piece.iter().for_each(|&byte| self.byte(byte, write));
            return Ok(());
        }
        self.finish(write);
        let text = core::str::from_utf8(piece).unwrap_or(REPLACEMENT);
        if layout.first_bare && self.tokens == 1 {
            text.split(' ').for_each(|part| self.put(part, write));
        } else {
            self.put(text, write);
        }
        Ok(())
    }

    /// Ends the text: a character that is not complete becomes U+FFFD.
    pub fn finish(&mut self, write: &mut dyn FnMut(&str)) {
        if core::mem::take(&mut self.held) > 0 {
            self.replace(write);
        }
    }

    fn begin(&mut self, id: u32) -> Result<(&'m [u8], u32), DecodeError> {
        let vocabulary = self.tokenizer.layout.vocabulary;
        let piece = self.tokenizer.piece(id).ok_or(DecodeError { id, vocabulary })?;
        self.tokens = self.tokens.saturating_add(1);
        Ok(piece)
    }

    /// Writes U+FFFD in place of bytes that are no character.
    fn replace(&mut self, write: &mut dyn FnMut(&str)) {
        self.faults = self.faults.saturating_add(1);
        self.put(REPLACEMENT, write);
    }

    fn put(&mut self, text: &str, write: &mut dyn FnMut(&str)) {
        if text.is_empty() {
            return;
        }
        let strip = core::mem::take(&mut self.strip);
        write(text.strip_prefix(' ').filter(|_| strip).unwrap_or(text));
    }

    fn byte(&mut self, byte: u8, write: &mut dyn FnMut(&str)) {
        if let Some(slot) = self.pending.get_mut(self.held) {
            *slot = byte;
            self.held += 1;
        }
        loop {
            let pending = self.pending;
            let bytes = pending.get(..self.held).unwrap_or(&[]);
            match core::str::from_utf8(bytes) {
                Ok(text) => {
                    self.held = 0;
                    return self.put(text, write);
                }
                Err(fault) => {
                    // The bytes may still become a character.
                    let Some(bad) = fault.error_len() else { return };
                    self.replace(write);
                    let rest = pending.get(bad..).unwrap_or(&[]);
                    self.pending.iter_mut().zip(rest).for_each(|(slot, &byte)| *slot = byte);
                    self.held = self.held.saturating_sub(bad);
                }
            }
        }
    }
}
