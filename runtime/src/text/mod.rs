//! From text to token ids and back, and the choice of the next token: all on the device.
//!
//! `shiftformer convert --tokenizer` turns a Hugging Face `tokenizer.json` into the `Text` section of a model, which
//! [`Tokenizer::open`] checks once and reads in place. Text becomes the ids that the `tokenizers` crate gives, ids become
//! its text; what cannot be the same is refused at conversion, or where it depends on the text, by [`EncodeError`].
//!
//! 1. Added tokens (`<|endoftext|>`) are found in the text, the leftmost first, of those the longest.
//! 2. What lies between them is divided into words ([`Words`]).
//! 3. A word is a row of bytes or characters ([`TextLayout::bytes`]), each with an id; the pair with the lowest rank, of
//!    several the leftmost, becomes one token, until no pair of the table is left (byte-pair encoding).
//!
//! [`Sampler`] chooses the next token from integer logits.

mod decode;
mod encode;
mod layout;
mod random;
mod sample;
mod words;

pub use decode::{DecodeError, Decoder};
pub use encode::EncodeError;
pub use layout::{Merge, NO_TOKEN, Prefix, TOKEN_IS_BYTE, TOKEN_IS_SPECIAL, TOKEN_OFFSET, TextLayout, Words};
pub use random::Pcg32;
pub use sample::{Logits, ONE, SampleError, Sampler, Sampling, SamplingError};

use crate::format::{Blob, ReadWords, SectionKind, Sections, Word};
use core::fmt;

/// The tokenizer of a model, every table checked.
#[derive(Clone, Copy, Debug)]
pub struct Tokenizer<'m> {
    layout: TextLayout,
    section: &'m [u8],
}

/// The `Text` section is not one that `convert` writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct TextError;

impl fmt::Display for TextError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the text section is invalid; convert the model again")
    }
}

impl core::error::Error for TextError {}

impl<'m> Tokenizer<'m> {
    /// The tokenizer in these sections; `None` where the model has none.
    ///
    /// # Errors
    /// [`TextError`] when a table is out of range, out of order, or names ids beyond the vocabulary.
    pub fn open(sections: &Sections<'m>) -> Result<Option<Self>, TextError> {
        let section = sections.get(SectionKind::Text);
        if section.is_empty() {
            return Ok(None);
        }
        Self::read(section).map(Some).ok_or(TextError)
    }

    /// The tokenizer in the bytes of a `Text` section; `None` when they are not valid.
    pub fn read(section: &'m [u8]) -> Option<Self> {
        let layout = TextLayout::read(&mut ReadWords::new(section))?;
        let tokenizer = Self { layout, section };
        tokenizer.check().then_some(tokenizer)
    }

    /// Number of token ids: all ids are below it.
    pub fn vocabulary(&self) -> u32 {
        self.layout.vocabulary
    }

    /// What one step of the logits is in units of [`Sampler::next`].
    pub fn logit_units(&self) -> u32 {
        self.layout.logit_units
    }

    /// The head of the section.
    pub fn layout(&self) -> &TextLayout {
        &self.layout
    }

    fn bytes(&self, blob: Blob) -> &'m [u8] {
        blob.of(self.section).unwrap_or(&[])
    }

    /// Words of a table.
    fn words(&self, blob: Blob) -> &'m [[u8; 4]] {
        self.bytes(blob).as_chunks().0
    }

    /// The text of a token, and its [marks](TOKEN_IS_SPECIAL); `None` for an id beyond the vocabulary. An id that no token
    /// has is an empty text.
    fn piece(&self, id: u32) -> Option<(&'m [u8], u32)> {
        let offsets = self.words(self.layout.offsets);
        let from = u32::from_le_bytes(*offsets.get(id as usize)?);
        let to = u32::from_le_bytes(*offsets.get(id as usize + 1)?);
        let range = (from & TOKEN_OFFSET) as usize..(to & TOKEN_OFFSET) as usize;
        Some((self.bytes(self.layout.pieces).get(range)?, from & !TOKEN_OFFSET))
    }

    /// Whether every table is in the section and in order, with ids of the vocabulary.
    fn check(&self) -> bool {
        let layout = &self.layout;
        let blobs = [
            (layout.before, 4),
            (layout.after, 4),
            (layout.offsets, 4),
            (layout.pieces, 1),
            (layout.units, 4),
            (layout.characters, 8),
            (layout.merges, Merge::bytes(layout.narrow)),
            (layout.order, 4),
            (layout.classes, 4),
            (layout.added, 4),
        ];
        let placed = |(blob, size): (Blob, usize)| {
            blob.of(self.section).is_some_and(|bytes| bytes.len().is_multiple_of(size)) && blob.offset.is_multiple_of(4)
        };
        if !blobs.into_iter().all(placed) || layout.vocabulary > TOKEN_OFFSET {
            return false;
        }
        let id = |id: u32| id < layout.vocabulary;
        let id_or_none = |token: u32| token == NO_TOKEN || id(token);
        let ids = |blob| self.words(blob).iter().all(|word| id(u32::from_le_bytes(*word)));
        let units = self.words(layout.units);
        let offsets = self.words(layout.offsets);
        let pieces = (0..layout.vocabulary).all(|id| self.piece(id).is_some());
        let all_units = units.iter().all(|word| id_or_none(u32::from_le_bytes(*word)));
        let alphabet = units.len() == 256 || units.is_empty() && !layout.bytes;
        let ordered = self.words(layout.classes).is_sorted_by(|a, b| u32::from_le_bytes(*a) < u32::from_le_bytes(*b));
        let characters = self.characters().map(|(character, token)| (character, id(token)));
        offsets.len() == layout.vocabulary as usize + 1
            && pieces
            && all_units
            && alphabet
            && ordered
            && characters.clone().all(|(_, known)| known)
            && characters.map(|(character, _)| character).is_sorted_by(|a, b| a < b)
            && (0..self.merges()).all(|i| self.merge(i).is_some_and(|merge| id(merge.into) && id(merge.left)))
            && (0..self.merges()).filter_map(|i| self.merge(i)).is_sorted_by(|a, b| a.pair() < b.pair())
            && id_or_none(layout.unknown)
            && [layout.before, layout.after, layout.order, layout.added].into_iter().all(ids)
            && char::from_u32(layout.space).is_some()
    }
}
