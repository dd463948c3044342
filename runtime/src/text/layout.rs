//! The bytes of a `Text` section: a head, then tables.

use super::Tokenizer;
use crate::format::{Blob, ReadWords, Word, WriteWords, op_params};

/// In place of an id: there is no token.
pub const NO_TOKEN: u32 = u32::MAX;
/// Bits of an entry of [`TextLayout::offsets`] that are the offset.
pub const TOKEN_OFFSET: u32 = (1 << 30) - 1;
/// Mark of a token that stands for one byte which may be a part of a character (`<0x0A>`).
pub const TOKEN_IS_BYTE: u32 = 1 << 30;
/// Mark of a special token, which is no text.
pub const TOKEN_IS_SPECIAL: u32 = 1 << 31;

/// How a text is divided into words, each of which is encoded by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Words {
    /// Not at all.
    Whole = 0,
    /// Before every space.
    Spaces = 1,
    /// As GPT-2 does: `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`.
    Gpt2 = 2,
    /// As Llama 3 does: `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|
    /// ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`.
    Llama3 = 3,
    /// As Qwen 2 does: Llama 3 with single digits.
    Qwen2 = 4,
}

/// Whether a space is put before a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Prefix {
    /// Never.
    None = 0,
    /// Before every part between added tokens.
    Always = 1,
    /// Before every part that does not begin with one.
    Missing = 2,
    /// Before the first part, where it does not begin with one.
    First = 3,
}

/// Word of an enumeration: its code.
macro_rules! code_word {
    ($type:ty: $($variant:ident)*) => {
        impl Word for $type {
            const WORDS: usize = 1;
            fn read(words: &mut ReadWords<'_>) -> Option<Self> {
                let code = words.word()?;
                [$(Self::$variant),*].into_iter().find(|variant| *variant as u32 == code)
            }
            fn write(&self, out: &mut dyn WriteWords) {
                out.word(*self as u32);
            }
        }
    };
}

code_word!(Words: Whole Spaces Gpt2 Llama3 Qwen2);
code_word!(Prefix: None Always Missing First);

op_params! {
    /// The head of a `Text` section. Blobs are ranges of the section; tables are little-endian words unless said otherwise.
    TextLayout {
        /// What one step of the logits is in `log2 / 256`, times `2^16`.
        logit_units: u32,
        /// Number of token ids.
        vocabulary: u32,
        /// Token of what the alphabet lacks, or [`NO_TOKEN`]: then such a text is refused.
        unknown: u32,
        /// Division into words.
        words: Words,
        /// Space before a text.
        prefix: Prefix,
        /// The character that stands for a space, a code point.
        space: u32,
        /// Whether the alphabet is bytes; else characters.
        bytes: bool,
        /// Whether every numeric character is divided off before the words are.
        digits: bool,
        /// Whether a row of unknown characters is one unknown token.
        fuse_unknown: bool,
        /// Whether text from U+0300 on is refused: it might change in the normalization (NFC) of the tokenizer.
        latin: bool,
        /// Whether [`merges`](Self::merges) has words of 16 bits.
        narrow: bool,
        /// Decoding puts a space between tokens.
        join: bool,
        /// Decoding leaves out a space at the start.
        strip: bool,
        /// Decoding leaves out the spaces of the first token.
        first_bare: bool,
        /// Ids before a text.
        before: Blob,
        /// Ids behind a text.
        after: Blob,
        /// Where each token's text starts in `pieces`, with marks; one entry more than tokens.
        offsets: Blob,
        /// The texts of the tokens, one after the other, bytes.
        pieces: Blob,
        /// Token of each of the 256 bytes, [`NO_TOKEN`] where there is none.
        units: Blob,
        /// Pairs of a code point and its token, by code point.
        characters: Blob,
        /// [`Merge`] records by pair.
        merges: Blob,
        /// Tokens by their text, where a word that is a token is not merged from its parts.
        order: Blob,
        /// Where letters and numbers begin and end: `code point * 4 + class`, class 0 other, 1 letter, 2 number.
        classes: Blob,
        /// Added tokens that are looked for in a text.
        added: Blob,
    }
}

/// A pair of tokens that becomes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Merge {
    /// First of the pair.
    pub left: u32,
    /// Second of the pair.
    pub right: u32,
    /// The pair with the lowest rank is merged first.
    pub rank: u32,
    /// What it becomes.
    pub into: u32,
}

impl Merge {
    /// Bytes of a record.
    pub const fn bytes(narrow: bool) -> usize {
        if narrow { 8 } else { 16 }
    }

    /// What records are ordered by.
    pub fn pair(&self) -> (u32, u32) {
        (self.left, self.right)
    }
}

impl Tokenizer<'_> {
    /// Number of pairs.
    pub(super) fn merges(&self) -> usize {
        self.bytes(self.layout.merges).len() / Merge::bytes(self.layout.narrow)
    }

    /// Pair `index` of the table.
    pub(super) fn merge(&self, index: usize) -> Option<Merge> {
        let bytes = self.bytes(self.layout.merges);
        if self.layout.narrow {
            let [left, right, rank, into] = bytes.as_chunks::<2>().0.as_chunks::<4>().0.get(index)?;
            let word = |half: &[u8; 2]| u32::from(u16::from_le_bytes(*half));
            return Some(Merge { left: word(left), right: word(right), rank: word(rank), into: word(into) });
        }
        let [left, right, rank, into] = bytes.as_chunks::<4>().0.as_chunks::<4>().0.get(index)?;
        let word = |word: &[u8; 4]| u32::from_le_bytes(*word);
        Some(Merge { left: word(left), right: word(right), rank: word(rank), into: word(into) })
    }

    /// The record of a pair.
    pub(super) fn merge_of(&self, left: u32, right: u32) -> Option<Merge> {
        let (mut from, mut to) = (0, self.merges());
        while from < to {
            let middle = from.midpoint(to);
            let merge = self.merge(middle)?;
            match merge.pair().cmp(&(left, right)) {
                core::cmp::Ordering::Less => from = middle + 1,
                core::cmp::Ordering::Equal => return Some(merge),
                core::cmp::Ordering::Greater => to = middle,
            }
        }
        None
    }

    /// The table of characters.
    pub(super) fn characters(&self) -> impl Iterator<Item = (u32, u32)> + Clone {
        let pairs = self.words(self.layout.characters).as_chunks::<2>().0;
        pairs.iter().map(|[character, token]| (u32::from_le_bytes(*character), u32::from_le_bytes(*token)))
    }

    /// Token of a character.
    pub(super) fn character(&self, character: char) -> Option<u32> {
        let pairs = self.words(self.layout.characters).as_chunks::<2>().0;
        let at = pairs.binary_search_by_key(&u32::from(character), |[code, _]| u32::from_le_bytes(*code)).ok()?;
        pairs.get(at).map(|[_, token]| u32::from_le_bytes(*token))
    }

    /// Token of a byte.
    pub(super) fn unit(&self, byte: u8) -> Option<u32> {
        let token = u32::from_le_bytes(*self.words(self.layout.units).get(usize::from(byte))?);
        (token != NO_TOKEN).then_some(token)
    }
}
