//! Text to token ids.

use super::words::Stream;
use super::{NO_TOKEN, Prefix, Tokenizer};
use core::fmt;

/// Why a text cannot be encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum EncodeError {
    /// The memory for the ids is too small.
    Room {
        /// Ids there is room for.
        given: usize,
    },
    /// The tokenizer has no token for a character, and none for what is unknown.
    Unknown {
        /// The character.
        character: char,
    },
    /// The tokenizer might change this character before it encodes it, which is not done here.
    Normalization {
        /// The character.
        character: char,
    },
}

impl fmt::Display for EncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Room { given } => write!(
                f,
                "there is room for {given} token ids, fewer than the text may need; give as many as it has bytes"
            ),
            Self::Unknown { character } => {
                write!(f, "the tokenizer has no token for {character:?}; leave it out of the text")
            }
            Self::Normalization { character } => write!(
                f,
                "{character:?} would have to be normalized (NFC) first, which is not done here; leave it out of the text"
            ),
        }
    }
}

impl core::error::Error for EncodeError {}

/// Characters below this one are the same in NFC, whatever surrounds them.
const FIRST_TO_NORMALIZE: char = '\u{300}';

/// The ids written so far.
struct Ids<'o> {
    out: &'o mut [u32],
    len: usize,
}

impl Ids<'_> {
    fn push(&mut self, id: u32) -> Result<(), EncodeError> {
        let given = self.out.len();
        *self.out.get_mut(self.len).ok_or(EncodeError::Room { given })? = id;
        self.len += 1;
        Ok(())
    }

    fn from(&self, start: usize) -> &[u32] {
        self.out.get(start..self.len).unwrap_or(&[])
    }

    /// Puts one id in place of two.
    fn join(&mut self, at: usize, id: u32) {
        if let Some(slot) = self.out.get_mut(at) {
            *slot = id;
        }
        let Some([_, rest @ ..]) = self.out.get_mut(at..self.len) else { return };
        // One to the left: `copy_within` has a panic that linkers keep.
        let mut rest = rest.iter_mut();
        let Some(mut to) = rest.next() else { return };
        for from in rest {
            *to = *from;
            to = from;
        }
        self.len -= 1;
    }
}

impl Tokenizer<'_> {
    /// Writes the token ids of `text` to the start of `ids`; how many. `special` adds what the tokenizer puts before and
    /// behind a text, such as a token for its beginning.
    ///
    /// There is room enough in as many ids as the text has bytes, and 1, and those that are put around it. The time grows
    /// with the square of the longest word, which is the whole text for a tokenizer that does not divide it.
    ///
    /// # Errors
    /// [`EncodeError`]; what is in `ids` then has no meaning.
    pub fn encode(&self, text: &str, special: bool, ids: &mut [u32]) -> Result<usize, EncodeError> {
        let mut ids = Ids { out: ids, len: 0 };
        let around = |blob, ids: &mut Ids<'_>| {
            self.words(blob).iter().filter(|_| special).try_for_each(|id| ids.push(u32::from_le_bytes(*id)))
        };
        around(self.layout.before, &mut ids)?;
        let (mut rest, mut first) = (text, true);
        while !rest.is_empty() {
            let (part, added, behind) = self.split_at_added(rest);
            self.part(part, first, &mut ids)?;
            added.map_or(Ok(()), |id| ids.push(id))?;
            (rest, first) = (behind, false);
        }
        around(self.layout.after, &mut ids)?;
        Ok(ids.len)
    }

    /// The text before the first added token, the token, and the text behind it.
    fn split_at_added<'t>(&self, text: &'t str) -> (&'t str, Option<u32>, &'t str) {
        let added = self.words(self.layout.added);
        let longest_at = |rest: &str| {
            let tokens = added.iter().map(|id| u32::from_le_bytes(*id));
            let lengths = tokens.filter_map(|id| self.piece(id).map(|(piece, _)| (piece, id)));
            let there = lengths.filter(|(piece, _)| !piece.is_empty() && rest.as_bytes().starts_with(piece));
            there.max_by_key(|(piece, _)| piece.len()).map(|(piece, id)| (piece.len(), id))
        };
        let places = text.char_indices().filter(|_| !added.is_empty());
        let mut found = places.filter_map(|(at, _)| longest_at(text.get(at..)?).map(|(length, id)| (at, length, id)));
        let Some((at, length, id)) = found.next() else { return (text, None, "") };
        (text.get(..at).unwrap_or(""), Some(id), text.get(at + length..).unwrap_or(""))
    }

    /// Encodes a text without added tokens.
    fn part(&self, text: &str, first: bool, ids: &mut Ids<'_>) -> Result<(), EncodeError> {
        if self.layout.latin
            && let Some(character) = text.chars().find(|&c| c >= FIRST_TO_NORMALIZE)
        {
            return Err(EncodeError::Normalization { character });
        }
        if !self.layout.digits {
            return self.divide(text, first, ids);
        }
        let mut rest = text;
        while let Some(head) = rest.chars().next() {
            let length =
                if head.is_numeric() { head.len_utf8() } else { rest.find(char::is_numeric).unwrap_or(rest.len()) };
            let (piece, behind) = rest.split_at_checked(length).unwrap_or((rest, ""));
            self.divide(piece, first, ids)?;
            rest = behind;
        }
        Ok(())
    }

    /// Encodes a text word by word.
    fn divide(&self, text: &str, first: bool, ids: &mut Ids<'_>) -> Result<(), EncodeError> {
        let space = char::from_u32(self.layout.space).unwrap_or(' ');
        let missing = !text.starts_with([' ', space]);
        let prefix = !text.is_empty()
            && match self.layout.prefix {
                Prefix::None => false,
                Prefix::Always => true,
                Prefix::Missing => missing,
                Prefix::First => missing && first,
            };
        let mut stream = Stream { prefix: prefix.then_some(space), text: text.chars(), space };
        loop {
            let characters = self.word(&stream);
            if characters == 0 {
                return Ok(());
            }
            self.encode_word(stream.clone().take(characters), ids)?;
            stream.nth(characters - 1);
        }
    }

    fn encode_word(&self, word: impl Iterator<Item = char> + Clone, ids: &mut Ids<'_>) -> Result<(), EncodeError> {
        if let Some(id) = self.whole(word.clone()) {
            return ids.push(id);
        }
        let start = ids.len;
        let mut was_unknown = false;
        for character in word {
            let known = self.push_character(character, ids)?;
            if !known && self.layout.unknown == NO_TOKEN {
                return Err(EncodeError::Unknown { character });
            }
            let fused = was_unknown && self.layout.fuse_unknown;
            if !known && !fused {
                ids.push(self.layout.unknown)?;
            }
            was_unknown = !known;
        }
        loop {
            let pairs = ids.from(start).array_windows().enumerate();
            let merges = pairs.filter_map(|(at, &[left, right])| {
                self.merge_of(left, right).map(|merge| (merge.rank, at, merge.into))
            });
            let Some((_, at, into)) = merges.min() else { return Ok(()) };
            ids.join(start + at, into);
        }
    }

    /// Writes the ids of a character; whether it has any.
    fn push_character(&self, character: char, ids: &mut Ids<'_>) -> Result<bool, EncodeError> {
        if !self.layout.bytes
            && let Some(id) = self.character(character)
        {
            ids.push(id)?;
            return Ok(true);
        }
        let (buffer, count) = utf8(character);
        let bytes = buffer.get(..count).unwrap_or(&[]);
        if !bytes.iter().all(|&byte| self.unit(byte).is_some()) {
            return Ok(false);
        }
        bytes.iter().filter_map(|&byte| self.unit(byte)).try_for_each(|id| ids.push(id))?;
        Ok(true)
    }

    /// The token that a word is as a whole, where the tokenizer looks for one.
    fn whole(&self, word: impl Iterator<Item = char> + Clone) -> Option<u32> {
        let order = self.words(self.layout.order);
        let bytes = word.flat_map(|character| {
            let (buffer, count) = utf8(character);
            buffer.into_iter().take(count)
        });
        let text = |id: &[u8; 4]| self.piece(u32::from_le_bytes(*id)).map_or(&[][..], |(piece, _)| piece);
        let at = order.binary_search_by(|id| text(id).iter().copied().cmp(bytes.clone())).ok()?;
        order.get(at).map(|id| u32::from_le_bytes(*id))
    }
}

/// The bytes of a character, and how many there are. [`char::encode_utf8`] has a panic that linkers keep.
fn utf8(character: char) -> ([u8; 4], usize) {
    let code = u32::from(character);
    let tail = |shift: u32| 0x80 | (code >> shift & 0x3f) as u8;
    match code {
        0..0x80 => ([code as u8, 0, 0, 0], 1),
        0x80..0x800 => ([0xc0 | (code >> 6) as u8, tail(0), 0, 0], 2),
        0x800..0x1_0000 => ([0xe0 | (code >> 12) as u8, tail(6), tail(0), 0], 3),
        0x1_0000.. => ([0xf0 | (code >> 18) as u8, tail(12), tail(6), tail(0)], 4),
    }
}

#[cfg(test)]
mod tests {
    use super::utf8;

    #[test]
    fn characters_have_the_bytes_of_the_standard_library() {
        for character in '\0'..=char::MAX {
            let (bytes, count) = utf8(character);
            assert_eq!(bytes.get(..count), Some(character.encode_utf8(&mut [0; 4]).as_bytes()));
        }
    }
}
