//! `tokenizer.json` of the `tokenizers` library.

use super::TokenizerError;
use super::write::{Piece, Tables};
use serde::Deserialize;
use serde_json::Value;
use shiftformer::text::{Prefix, Words};
use std::collections::BTreeMap;

/// The parts of the file that decide what text becomes.
#[derive(Deserialize)]
struct File {
    #[serde(default)]
    truncation: Option<Value>,
    #[serde(default)]
    padding: Option<Value>,
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
    #[serde(default)]
    normalizer: Option<Value>,
    #[serde(default)]
    pre_tokenizer: Option<Value>,
    #[serde(default)]
    post_processor: Option<Value>,
    #[serde(default)]
    decoder: Option<Value>,
    model: Value,
}

#[derive(Deserialize)]
struct AddedToken {
    id: u32,
    content: String,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    #[serde(default)]
    normalized: bool,
    #[serde(default)]
    special: bool,
}

#[derive(Deserialize)]
struct Bpe {
    #[serde(default)]
    dropout: Option<f64>,
    #[serde(default)]
    unk_token: Option<String>,
    #[serde(default)]
    continuing_subword_prefix: Option<String>,
    #[serde(default)]
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    fuse_unk: bool,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    ignore_merges: bool,
    vocab: BTreeMap<String, u32>,
    merges: Vec<MergePair>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum MergePair {
    Text(String),
    Pair(String, String),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Pattern {
    String {
        #[serde(rename = "String")]
        string: String,
    },
    Regex {
        #[serde(rename = "Regex")]
        regex: String,
    },
}

#[derive(Deserialize)]
#[serde(tag = "type")]
enum Normalizer {
    Prepend {
        prepend: String,
    },
    Replace {
        pattern: Pattern,
        content: String,
    },
    #[serde(rename = "NFC")]
    Nfc,
}

#[derive(Deserialize)]
#[serde(tag = "type")]
enum PreTokenizer {
    ByteLevel {
        #[serde(default = "yes")]
        add_prefix_space: bool,
        #[serde(default = "yes")]
        use_regex: bool,
    },
    Digits {
        #[serde(default)]
        individual_digits: bool,
    },
    Split {
        pattern: Pattern,
        behavior: String,
        #[serde(default)]
        invert: bool,
    },
    Metaspace(Metaspace),
}

#[derive(Deserialize)]
struct Metaspace {
    replacement: char,
    #[serde(default)]
    add_prefix_space: Option<bool>,
    #[serde(default)]
    prepend_scheme: Option<Scheme>,
    #[serde(default = "yes")]
    split: bool,
}

#[derive(Clone, Copy, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Scheme {
    Always,
    First,
    Never,
}

#[derive(Deserialize)]
#[serde(tag = "type")]
enum PostProcessor {
    ByteLevel {},
    TemplateProcessing { single: Vec<TemplatePart>, special_tokens: BTreeMap<String, TemplateToken> },
    RobertaProcessing { sep: (String, u32), cls: (String, u32) },
    BertProcessing { sep: (String, u32), cls: (String, u32) },
}

#[derive(Deserialize)]
enum TemplatePart {
    SpecialToken { id: String },
    Sequence {},
}

#[derive(Deserialize)]
struct TemplateToken {
    ids: Vec<u32>,
}

#[derive(Deserialize)]
#[serde(tag = "type")]
enum Decoder {
    ByteLevel {},
    Metaspace(Metaspace),
    Replace { pattern: Pattern, content: String },
    ByteFallback {},
    Fuse {},
    Strip { content: char, start: usize, stop: usize },
}

fn yes() -> bool {
    true
}

impl Metaspace {
    fn scheme(&self) -> Scheme {
        self.prepend_scheme.unwrap_or(if self.add_prefix_space == Some(false) { Scheme::Never } else { Scheme::Always })
    }
}

const MODELS: &str = "byte-pair encoding (BPE) without dropout, prefix or suffix of subwords";
const NORMALIZERS: &str = "none, Prepend and Replace of a space, NFC";
const PRE_TOKENIZERS: &str =
    "ByteLevel, Digits (individual) and Split (the expressions of GPT-2, Llama 3, Qwen 2) before it, Metaspace, none";
const POST_PROCESSORS: &str = "TemplateProcessing, ByteLevel, RobertaProcessing, BertProcessing, none";
const DECODERS: &str =
    "ByteLevel, Metaspace, Replace, ByteFallback, Fuse and Strip (one space at the start) as Llama has them";

/// Expressions of `Split`, as the files write them.
const EXPRESSIONS: [(&str, Words); 3] = [
    (r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+", Words::Gpt2),
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        Words::Llama3,
    ),
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        Words::Qwen2,
    ),
];

fn unsupported(what: impl Into<String>, supported: &'static str) -> TokenizerError {
    TokenizerError::Unsupported { what: what.into(), supported }
}

/// A part of the file, by its `type`.
fn typed<'de, T: Deserialize<'de>>(
    kind: &str,
    value: &'de Value,
    supported: &'static str,
) -> Result<T, TokenizerError> {
    T::deserialize(value).map_err(|fault| {
        let name = value.get("type").and_then(Value::as_str).unwrap_or("of no type");
        unsupported(format!("the {kind} {name} ({fault})"), supported)
    })
}

/// The parts of a sequence, sequences in it taken apart; none where there is nothing.
fn parts<'v>(value: Option<&'v Value>, list: &str) -> Vec<&'v Value> {
    let Some(value) = value else { return Vec::new() };
    match value.get(list).and_then(Value::as_array).filter(|_| value.get("type").is_some_and(|kind| kind == "Sequence"))
    {
        Some(inner) => inner.iter().flat_map(|value| parts(Some(value), list)).collect(),
        None => vec![value],
    }
}

/// The byte that a character of the byte-level alphabet stands for: printable bytes stand for themselves, the others are
/// numbered from U+0100 on.
fn alphabet() -> BTreeMap<char, u8> {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let mut next = 0x100;
    let mut map = BTreeMap::new();
    for byte in 0..=u8::MAX {
        let code = if printable(byte) { u32::from(byte) } else { next };
        next += u32::from(!printable(byte));
        map.insert(char::from_u32(code).unwrap_or_default(), byte);
    }
    map
}

/// The tables of the tokenizer in `json`.
pub(super) fn read(json: &str, path: &str) -> Result<Tables, TokenizerError> {
    let malformed = |why: serde_json::Error| TokenizerError::Malformed { path: path.to_owned(), why: why.to_string() };
    let file: File = serde_json::from_str(json).map_err(malformed)?;
    if let Some(kind) = file.model.get("type").and_then(Value::as_str).filter(|&kind| kind != "BPE") {
        return Err(unsupported(format!("a model of type {kind}"), MODELS));
    }
    let model = Bpe::deserialize(&file.model).map_err(malformed)?;
    if file.truncation.is_some() || file.padding.is_some() {
        return Err(unsupported("truncation or padding", "tokenizers without; call no_truncation() and no_padding()"));
    }
    let mut tables = Tables::default();
    tables.normalizer(file.normalizer.as_ref())?;
    tables.pre_tokenizer(file.pre_tokenizer.as_ref())?;
    tables.model(&model)?;
    let text = tables.decoder(file.decoder.as_ref())?;
    tables.pieces(&model, &file.added_tokens, &text)?;
    tables.added(&file)?;
    tables.post_processor(file.post_processor.as_ref())?;
    Ok(tables)
}

/// How a token is decoded.
struct PieceText {
    byte_level: Option<BTreeMap<char, u8>>,
    /// A character and what replaces it.
    replace: Option<(char, char)>,
    byte_fallback: bool,
}

impl PieceText {
    fn piece(&self, token: &str) -> Piece {
        if let Some(alphabet) = &self.byte_level {
            let bytes: Option<Vec<u8>> = token.chars().map(|c| alphabet.get(&c).copied()).collect();
            return Piece { text: bytes.unwrap_or_else(|| token.as_bytes().to_vec()), ..Piece::default() };
        }
        let hex = token.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>')).filter(|hex| hex.len() == 2);
        if let Some(byte) = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()).filter(|_| self.byte_fallback) {
            return Piece { text: vec![byte], is_byte: true, is_special: false };
        }
        let replaced = |c| self.replace.filter(|&(from, _)| from == c).map_or(c, |(_, to)| to);
        Piece { text: token.chars().map(replaced).collect::<String>().into_bytes(), ..Piece::default() }
    }
}

/// The one character of a text.
fn single(text: &str) -> Option<char> {
    let mut characters = text.chars();
    characters.next().filter(|_| characters.next().is_none())
}

impl Tables {
    fn normalizer(&mut self, value: Option<&Value>) -> Result<(), TokenizerError> {
        let mut prepend = None;
        for part in parts(value, "normalizers") {
            match typed("normalizer", part, NORMALIZERS)? {
                Normalizer::Nfc => self.latin = true,
                Normalizer::Prepend { prepend: text } => prepend = Some(text),
                Normalizer::Replace { pattern: Pattern::String { string }, content } => {
                    let space = single(&content).filter(|_| string == " ");
                    let what =
                        || unsupported(format!("a normalizer that replaces `{string}` by `{content}`"), NORMALIZERS);
                    self.space = space.ok_or_else(what)?;
                }
                Normalizer::Replace { pattern: Pattern::Regex { regex }, .. } => {
                    return Err(unsupported(format!("a normalizer that replaces `{regex}`"), NORMALIZERS));
                }
            }
        }
        if let Some(text) = prepend {
            if single(&text) != Some(self.space) {
                return Err(unsupported(format!("a normalizer that puts `{text}` before a text"), NORMALIZERS));
            }
            self.prefix = Prefix::Always;
        }
        Ok(())
    }

    fn pre_tokenizer(&mut self, value: Option<&Value>) -> Result<(), TokenizerError> {
        let normalizes = self.prefix != Prefix::None || self.space != ' ';
        let mut split = None;
        let mut done = false;
        for part in parts(value, "pretokenizers") {
            let name = part.get("type").and_then(Value::as_str).unwrap_or_default();
            let out_of_place = || unsupported(format!("the pre-tokenizer {name} in this place"), PRE_TOKENIZERS);
            if done {
                return Err(out_of_place());
            }
            match typed("pre-tokenizer", part, PRE_TOKENIZERS)? {
                PreTokenizer::ByteLevel { add_prefix_space, use_regex } => {
                    if normalizes
                        || use_regex && split.is_some()
                        || add_prefix_space && (split.is_some() || self.digits)
                    {
                        return Err(out_of_place());
                    }
                    self.bytes = true;
                    self.prefix = if add_prefix_space { Prefix::Missing } else { Prefix::None };
                    self.words = if use_regex { Words::Gpt2 } else { split.unwrap_or(Words::Whole) };
                    done = true;
                }
                PreTokenizer::Digits { individual_digits: true } if split.is_none() => self.digits = true,
                PreTokenizer::Digits { .. } => return Err(out_of_place()),
                PreTokenizer::Split { pattern: Pattern::Regex { regex }, behavior, invert } => {
                    let known = EXPRESSIONS.iter().find(|(expression, _)| *expression == regex);
                    let what = || unsupported(format!("a pre-tokenizer that splits by `{regex}`"), PRE_TOKENIZERS);
                    let (_, words) = known.ok_or_else(what)?;
                    if behavior != "Isolated" || invert || split.replace(*words).is_some() {
                        return Err(out_of_place());
                    }
                }
                PreTokenizer::Split { pattern: Pattern::String { string }, .. } => {
                    return Err(unsupported(format!("a pre-tokenizer that splits by `{string}`"), PRE_TOKENIZERS));
                }
                PreTokenizer::Metaspace(meta) => {
                    if normalizes || split.is_some() || self.digits {
                        return Err(out_of_place());
                    }
                    self.space = meta.replacement;
                    self.words = if meta.split { Words::Spaces } else { Words::Whole };
                    self.prefix = match meta.scheme() {
                        Scheme::Always => Prefix::Missing,
                        Scheme::First => Prefix::First,
                        Scheme::Never => Prefix::None,
                    };
                    done = true;
                }
            }
        }
        if !done && (self.digits || split.is_some()) {
            return Err(unsupported("a pre-tokenizer that does not end in ByteLevel", PRE_TOKENIZERS));
        }
        Ok(())
    }

    fn model(&mut self, model: &Bpe) -> Result<(), TokenizerError> {
        let some = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
        if model.dropout.is_some_and(|share| share != 0.0)
            || some(&model.continuing_subword_prefix)
            || some(&model.end_of_word_suffix)
        {
            return Err(unsupported("dropout, or a prefix or suffix of subwords", MODELS));
        }
        let id = |token: &str| {
            let missing = || TokenizerError::Inconsistent(format!("`{token}` is not in the vocabulary"));
            model.vocab.get(token).copied().ok_or_else(missing)
        };
        self.unknown = model.unk_token.as_deref().map(id).transpose()?;
        self.fuse_unknown = model.fuse_unk;
        if self.bytes {
            let alphabet: BTreeMap<u8, char> = alphabet().into_iter().map(|(c, byte)| (byte, c)).collect();
            let unit = |byte: u8| model.vocab.get(&alphabet.get(&byte)?.to_string()).copied();
            self.units = (0..=u8::MAX).map(unit).collect();
            // Bytes that UTF-8 never has.
            let never = |byte: usize| matches!(byte, 0xc0 | 0xc1 | 0xf5..);
            let lacks = self.units.iter().enumerate().any(|(byte, unit)| unit.is_none() && !never(byte));
            if lacks && self.unknown.is_some() {
                let what = "an unknown token for bytes that are not in its vocabulary";
                return Err(unsupported(what, "byte-level vocabularies with all bytes"));
            }
        } else {
            self.characters = model.vocab.iter().filter_map(|(token, &id)| single(token).map(|c| (c, id))).collect();
            if model.byte_fallback {
                self.units = (0..=u8::MAX).map(|byte| model.vocab.get(&format!("<0x{byte:02X}>")).copied()).collect();
            }
        }
        if model.ignore_merges {
            if !self.bytes {
                return Err(unsupported("ignore_merges without ByteLevel", MODELS));
            }
            let alphabet = alphabet();
            let whole = model.vocab.iter().filter(|(token, _)| token.chars().all(|c| alphabet.contains_key(&c)));
            self.whole = whole.map(|(_, &id)| id).collect();
        }
        for (pair, rank) in model.merges.iter().zip(0..) {
            let (left, right) = match pair {
                MergePair::Pair(left, right) => (left.as_str(), right.as_str()),
                MergePair::Text(text) => text
                    .split_once(' ')
                    .filter(|(_, right)| !right.contains(' '))
                    .ok_or_else(|| TokenizerError::Inconsistent(format!("`{text}` is not a pair of tokens")))?,
            };
            // Of a pair that comes twice the later rank counts, as in the library.
            self.merges.insert((id(left)?, id(right)?), (rank, id(&format!("{left}{right}"))?));
        }
        Ok(())
    }

    fn decoder(&mut self, value: Option<&Value>) -> Result<PieceText, TokenizerError> {
        let mut text = PieceText { byte_level: None, replace: None, byte_fallback: false };
        let mut fused = false;
        let found = parts(value, "decoders");
        self.join = found.is_empty();
        for part in found {
            let name = part.get("type").and_then(Value::as_str).unwrap_or_default();
            let out_of_place = || unsupported(format!("the decoder {name} in this place"), DECODERS);
            let decoder = typed("decoder", part, DECODERS)?;
            if text.byte_level.is_some() || fused && !matches!(decoder, Decoder::Strip { .. }) {
                return Err(out_of_place());
            }
            match decoder {
                Decoder::ByteLevel {} if text.replace.is_none() && !text.byte_fallback => {
                    text.byte_level = Some(alphabet());
                }
                Decoder::ByteLevel {} => return Err(out_of_place()),
                Decoder::Metaspace(meta) => {
                    text.replace = Some((meta.replacement, ' '));
                    self.first_bare = meta.scheme() != Scheme::Never;
                }
                Decoder::Replace { pattern: Pattern::String { string }, content } => {
                    let (Some(from), Some(to), false) = (single(&string), single(&content), text.byte_fallback) else {
                        return Err(unsupported(
                            format!("a decoder that replaces `{string}` by `{content}`"),
                            DECODERS,
                        ));
                    };
                    if text.replace.replace((from, to)).is_some() {
                        return Err(out_of_place());
                    }
                }
                Decoder::Replace { pattern: Pattern::Regex { regex }, .. } => {
                    return Err(unsupported(format!("a decoder that replaces `{regex}`"), DECODERS));
                }
                Decoder::ByteFallback {} => text.byte_fallback = true,
                Decoder::Fuse {} => fused = true,
                Decoder::Strip { content, start, stop } => {
                    if !fused || content != ' ' || start > 1 || stop > 0 || self.strip {
                        return Err(out_of_place());
                    }
                    self.strip = start == 1;
                }
            }
        }
        if text.byte_level.is_some() != self.bytes {
            return Err(unsupported("ByteLevel as pre-tokenizer or decoder alone", "both or none"));
        }
        Ok(text)
    }

    fn pieces(&mut self, model: &Bpe, added: &[AddedToken], text: &PieceText) -> Result<(), TokenizerError> {
        self.pieces = model.vocab.iter().map(|(token, &id)| (id, text.piece(token))).collect();
        if self.pieces.len() != model.vocab.len() {
            return Err(TokenizerError::Inconsistent("two tokens have one id".to_owned()));
        }
        if self.first_bare && model.vocab.keys().any(|token| token.contains(' ')) {
            return Err(unsupported("tokens with spaces beside Metaspace", DECODERS));
        }
        // The library numbers added tokens by itself when it reads the file.
        let mut next = model.vocab.len() as u32;
        for token in added {
            let id = model.vocab.get(&token.content).copied().unwrap_or(next);
            next = next.max(id.saturating_add(1));
            if id != token.id {
                let fault = format!("the added token `{}` has id {}, where it must be {id}", token.content, token.id);
                return Err(TokenizerError::Inconsistent(fault));
            }
            let piece = Piece { is_special: token.special, ..text.piece(&token.content) };
            self.pieces.insert(token.id, piece);
        }
        Ok(())
    }

    fn added(&mut self, file: &File) -> Result<(), TokenizerError> {
        const PLAIN: &str =
            "added tokens that are looked for as they are: not normalized, without lstrip, rstrip, single_word";
        let named = |token: &AddedToken| format!("the added token `{}` with other settings", token.content);
        for token in file.added_tokens.iter().filter(|token| !token.content.is_empty()) {
            let literal = self.pieces.get(&token.id).is_some_and(|piece| piece.text == token.content.as_bytes());
            let normalized = token.normalized && file.normalizer.is_some();
            if token.single_word || token.lstrip || token.rstrip || normalized || !literal {
                return Err(unsupported(named(token), PLAIN));
            }
            // Those that are not normalized are found first, wherever they are: that is the same unless two overlap.
            let other =
                |other: &&AddedToken| other.normalized != token.normalized && overlap(&token.content, &other.content);
            if let Some(other) = file.added_tokens.iter().find(other) {
                return Err(unsupported(format!("{} that overlaps `{}`", named(token), other.content), PLAIN));
            }
            self.added.push(token.id);
        }
        Ok(())
    }

    fn post_processor(&mut self, value: Option<&Value>) -> Result<(), TokenizerError> {
        for part in parts(value, "processors") {
            let (before, after) = match typed("post-processor", part, POST_PROCESSORS)? {
                PostProcessor::ByteLevel {} => continue,
                PostProcessor::RobertaProcessing { sep, cls } | PostProcessor::BertProcessing { sep, cls } => {
                    (vec![cls.1], vec![sep.1])
                }
                PostProcessor::TemplateProcessing { single, special_tokens } => template(&single, &special_tokens)?,
            };
            if !self.before.is_empty() || !self.after.is_empty() {
                return Err(unsupported("two post-processors that add tokens", POST_PROCESSORS));
            }
            (self.before, self.after) = (before, after);
        }
        Ok(())
    }
}

/// The tokens before and behind a text by a template.
fn template(
    single: &[TemplatePart],
    tokens: &BTreeMap<String, TemplateToken>,
) -> Result<(Vec<u32>, Vec<u32>), TokenizerError> {
    let (mut before, mut after, mut texts) = (Vec::new(), Vec::new(), 0);
    for part in single {
        match part {
            TemplatePart::Sequence { .. } => texts += 1,
            TemplatePart::SpecialToken { id } => {
                let missing =
                    || TokenizerError::Inconsistent(format!("its template names `{id}`, which it does not have"));
                let ids = &tokens.get(id).ok_or_else(missing)?.ids;
                if texts == 0 { &mut before } else { &mut after }.extend(ids);
            }
        }
    }
    if texts != 1 {
        return Err(unsupported("a template without the text, or with it twice", POST_PROCESSORS));
    }
    Ok((before, after))
}

/// Whether the end of one text is the start of the other, or one holds the other.
fn overlap(a: &str, b: &str) -> bool {
    let ends = |a: &str, b: &str| (1..=a.len().min(b.len())).any(|n| a.as_bytes().ends_with(&b.as_bytes()[..n]));
    a.contains(b) || b.contains(a) || ends(a, b) || ends(b, a)
}
