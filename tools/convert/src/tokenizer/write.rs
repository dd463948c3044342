//! The tables of a tokenizer, and their bytes.

use super::{TokenizerError, logit_units};
use shiftformer::format::{Blob, Word};
use shiftformer::text::{
    Merge, NO_TOKEN, Prefix, TOKEN_IS_BYTE, TOKEN_IS_SPECIAL, TOKEN_OFFSET, TextLayout, Tokenizer, Words,
};
use std::collections::BTreeMap;

/// A token as it is decoded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Piece {
    pub text: Vec<u8>,
    pub is_byte: bool,
    pub is_special: bool,
}

/// What a `Text` section says; the fields are those of [`TextLayout`].
#[derive(Clone, Debug)]
pub(super) struct Tables {
    pub unknown: Option<u32>,
    pub words: Words,
    pub prefix: Prefix,
    pub space: char,
    pub bytes: bool,
    pub digits: bool,
    pub fuse_unknown: bool,
    pub latin: bool,
    pub join: bool,
    pub strip: bool,
    pub first_bare: bool,
    pub before: Vec<u32>,
    pub after: Vec<u32>,
    pub pieces: BTreeMap<u32, Piece>,
    /// Tokens of the 256 bytes, or empty.
    pub units: Vec<Option<u32>>,
    pub characters: BTreeMap<char, u32>,
    /// By pair: rank and token.
    pub merges: BTreeMap<(u32, u32), (u32, u32)>,
    /// Tokens that words are looked up in before they are merged.
    pub whole: Vec<u32>,
    pub added: Vec<u32>,
}

impl Default for Tables {
    fn default() -> Self {
        Self {
            unknown: None,
            words: Words::Whole,
            prefix: Prefix::None,
            space: ' ',
            bytes: false,
            digits: false,
            fuse_unknown: false,
            latin: false,
            join: false,
            strip: false,
            first_bare: false,
            before: Vec::new(),
            after: Vec::new(),
            pieces: BTreeMap::new(),
            units: Vec::new(),
            characters: BTreeMap::new(),
            merges: BTreeMap::new(),
            whole: Vec::new(),
            added: Vec::new(),
        }
    }
}

/// Every byte a token.
pub(super) fn bytes() -> Tables {
    let piece = |byte: u8| (u32::from(byte), Piece { text: vec![byte], ..Piece::default() });
    let units = (0..256).map(Some).collect();
    Tables { bytes: true, units, pieces: (0..=u8::MAX).map(piece).collect(), ..Tables::default() }
}

/// Every one of `characters` a token.
pub(super) fn characters(characters: &str) -> Result<Tables, TokenizerError> {
    let ids: BTreeMap<char, u32> = characters.chars().zip(0..).collect();
    if ids.len() != characters.chars().count() || ids.is_empty() {
        let fault = format!("`{characters}` must name at least one character, and each of them once");
        return Err(TokenizerError::Inconsistent(fault));
    }
    let piece = |(c, &id): (&char, &u32)| (id, Piece { text: c.to_string().into_bytes(), ..Piece::default() });
    Ok(Tables { pieces: ids.iter().map(piece).collect(), characters: ids, ..Tables::default() })
}

/// The head and the tables behind it.
struct Section {
    bytes: Vec<u8>,
}

impl Section {
    fn blob(&mut self, bytes: &[u8]) -> Blob {
        if bytes.is_empty() {
            return Blob::NONE;
        }
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        let blob = Blob { offset: self.bytes.len() as u32, bytes: bytes.len() as u32 };
        self.bytes.extend_from_slice(bytes);
        blob
    }

    fn words(&mut self, words: impl IntoIterator<Item = u32>) -> Blob {
        let bytes: Vec<u8> = words.into_iter().flat_map(u32::to_le_bytes).collect();
        self.blob(&bytes)
    }
}

impl Tables {
    /// Number of ids in use: one more than the highest.
    fn tokens(&self) -> u32 {
        self.pieces.keys().next_back().map_or(0, |id| id + 1)
    }

    pub(super) fn section(&self, vocabulary: u32, logit_scale: f64) -> Result<Vec<u8>, TokenizerError> {
        let tokens = self.tokens();
        // Embeddings are padded to round numbers, by fewer than a sixteenth in models that are around.
        if tokens > vocabulary || tokens < vocabulary - vocabulary / 16 {
            return Err(TokenizerError::Vocabulary { tokenizer: tokens, model: vocabulary });
        }
        let logit_units = logit_units(logit_scale)?;
        let mut section = Section { bytes: vec![0; TextLayout::WORDS * 4] };
        let mut pieces = Vec::new();
        let mut offsets = Vec::new();
        let none = Piece::default();
        for id in 0..=vocabulary {
            let piece = self.pieces.get(&id).unwrap_or(&none);
            let marks =
                if piece.is_byte { TOKEN_IS_BYTE } else { 0 } | if piece.is_special { TOKEN_IS_SPECIAL } else { 0 };
            offsets.push(pieces.len() as u32 | marks);
            pieces.extend_from_slice(&piece.text);
        }
        if pieces.len() > TOKEN_OFFSET as usize {
            return Err(TokenizerError::Inconsistent("its tokens have more than a gigabyte".to_owned()));
        }
        let narrow = vocabulary <= 1 << 16 && self.merges.values().all(|&(rank, _)| rank < 1 << 16);
        let merges = self.merges.iter().flat_map(|(&(left, right), &(rank, into))| {
            let merge = Merge { left, right, rank, into };
            let words = [merge.left, merge.right, merge.rank, merge.into];
            words.into_iter().flat_map(move |word| word.to_le_bytes().into_iter().take(if narrow { 2 } else { 4 }))
        });
        let merges: Vec<u8> = merges.collect();
        let text = |id: &u32| self.pieces.get(id).map(|piece| piece.text.clone());
        let mut whole = self.whole.clone();
        whole.sort_by_cached_key(text);
        let classes = match self.words {
            Words::Gpt2 | Words::Llama3 | Words::Qwen2 => classes(),
            Words::Whole | Words::Spaces => Vec::new(),
        };
        let characters = self.characters.iter().flat_map(|(&c, &id)| [u32::from(c), id]);
        let layout = TextLayout {
            logit_units,
            vocabulary,
            unknown: self.unknown.unwrap_or(NO_TOKEN),
            words: self.words,
            prefix: self.prefix,
            space: u32::from(self.space),
            bytes: self.bytes,
            digits: self.digits,
            fuse_unknown: self.fuse_unknown,
            latin: self.latin,
            narrow,
            join: self.join,
            strip: self.strip,
            first_bare: self.first_bare,
            before: section.words(self.before.iter().copied()),
            after: section.words(self.after.iter().copied()),
            offsets: section.words(offsets),
            pieces: section.blob(&pieces),
            units: section.words(self.units.iter().map(|unit| unit.unwrap_or(NO_TOKEN))),
            characters: section.words(characters),
            merges: section.blob(&merges),
            order: section.words(whole),
            classes: section.words(classes),
            added: section.words(self.added.iter().copied()),
        };
        let mut head = Vec::new();
        layout.write(&mut |word: u32| head.extend_from_slice(&word.to_le_bytes()));
        section.bytes[..head.len()].copy_from_slice(&head);
        if Tokenizer::read(&section.bytes).is_none() {
            return Err(TokenizerError::Inconsistent("a token has an id beyond the vocabulary".to_owned()));
        }
        Ok(section.bytes)
    }
}

/// Where letters (`\p{L}`) and numbers (`\p{N}`) begin and end, as [`TextLayout::classes`] has it.
fn classes() -> Vec<u32> {
    let mut changes = BTreeMap::new();
    for (class, pattern) in [(1, r"\p{L}"), (2, r"\p{N}")] {
        for (start, end) in ranges(pattern) {
            changes.insert(start, class);
            // The end of a range is not one where the next begins.
            changes.entry(end + 1).or_insert(0);
        }
    }
    changes.into_iter().map(|(start, class)| start << 2 | class).collect()
}

/// First and last code points of the ranges of a class.
fn ranges(pattern: &str) -> Vec<(u32, u32)> {
    use regex_syntax::hir::{Class, HirKind};
    let class = regex_syntax::parse(pattern).map(|hir| hir.into_kind());
    match class {
        Ok(HirKind::Class(Class::Unicode(class))) => {
            class.ranges().iter().map(|range| (u32::from(range.start()), u32::from(range.end()))).collect()
        }
        _ => unreachable!("{pattern} is a class of Unicode"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_those_of_unicode() {
        let classes = classes();
        assert!(classes.is_sorted_by(|a, b| a >> 2 < b >> 2));
        let class = |c: char| {
            let at = classes.partition_point(|word| word >> 2 <= u32::from(c));
            at.checked_sub(1).map_or(0, |at| classes[at] & 3)
        };
        for (c, expected) in [('a', 1), ('é', 1), ('½', 2), ('٣', 2), ('€', 0), ('\u{301}', 0), ('漢', 1), ('😀', 0)]
        {
            assert_eq!(class(c), expected, "{c}");
        }
        // Where a range of letters meets one of numbers, none of them is lost.
        for (pattern, expected) in [(r"\p{L}", 1), (r"\p{N}", 2)] {
            for (start, end) in ranges(pattern) {
                let (first, last) = (char::from_u32(start).unwrap(), char::from_u32(end).unwrap());
                assert_eq!((class(first), class(last)), (expected, expected), "{start:x}..{end:x}");
            }
        }
    }

    #[test]
    fn characters_must_be_distinct() {
        assert!(matches!(characters("abca"), Err(TokenizerError::Inconsistent(_))));
        assert!(matches!(characters(""), Err(TokenizerError::Inconsistent(_))));
    }

    #[test]
    fn a_vocabulary_of_another_size_is_refused() {
        let tables = characters("0123456789+=$").unwrap();
        for vocabulary in [12, 14, 512] {
            let fault = tables.section(vocabulary, 0.1).unwrap_err();
            assert!(matches!(fault, TokenizerError::Vocabulary { tokenizer: 13, .. }), "{vocabulary}: {fault}");
        }
        assert!(tables.section(13, 0.1).is_ok());
        // Padded to a round number.
        assert!(bytes().section(272, 0.1).is_ok());
        for scale in [0.0, f64::NAN, 1e9] {
            assert!(matches!(tables.section(13, scale), Err(TokenizerError::Scale(_))));
        }
    }
}
