//! Text to ids and back as the `tokenizers` crate does it, for every kind of tokenizer that is not refused.

use serde_json::{Value, json};
use shiftformer::text::{EncodeError, Tokenizer};
use shiftformer_convert::tokenizer::{Source, TokenizerError, encode};
use std::fmt::Write as _;

const TEXT_MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/text/tokenizer.json");
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n as u64) as usize
    }
}

/// The tokenizer of the text model.
fn base() -> Value {
    serde_json::from_slice(&std::fs::read(TEXT_MODEL).unwrap()).unwrap()
}

/// Its tokens of ASCII as Llama has them: unknown, start, end, 256 bytes, then characters with `▁` for a space.
fn llama() -> Value {
    let mut file = base();
    let renamed = |token: &str| token.replace('Ġ', "▁").replace('Ċ', "\n");
    let plain = |token: &str| token.chars().all(|c| c.is_ascii() || "▁".contains(c));
    let mut names: Vec<String> = ["<unk>", "<s>", "</s>"].map(String::from).to_vec();
    names.extend((0..256).map(|byte| format!("<0x{byte:02X}>")));
    let mut old: Vec<(u64, String)> =
        file["model"]["vocab"].as_object().unwrap().iter().map(|(t, id)| (id.as_u64().unwrap(), renamed(t))).collect();
    old.sort();
    names.extend(old.into_iter().map(|(_, token)| token).filter(|token| plain(token)));
    // Characters beyond ASCII too, composed or not.
    names.extend(["é", "ß", "漢", "\u{301}"].map(String::from));
    let vocab: serde_json::Map<String, Value> =
        names.iter().enumerate().map(|(id, t)| (t.clone(), json!(id))).collect();
    let merges: Vec<Value> = file["model"]["merges"]
        .as_array()
        .unwrap()
        .iter()
        .map(|pair| [0, 1].map(|i| renamed(pair[i].as_str().unwrap())))
        .filter(|[left, right]| vocab.contains_key(&format!("{left}{right}")) && plain(left) && plain(right))
        .map(|pair| json!(pair))
        .collect();
    file["model"]["vocab"] = Value::Object(vocab);
    file["model"]["merges"] = json!(merges);
    file["model"]["byte_fallback"] = json!(true);
    file["model"]["fuse_unk"] = json!(true);
    file["model"]["unk_token"] = json!("<unk>");
    let token = |id: usize, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false, "special": true})
    };
    file["added_tokens"] = json!([token(0, "<unk>"), token(1, "<s>"), token(2, "</s>")]);
    file["normalizer"] = json!({"type": "Sequence", "normalizers": [
        {"type": "Prepend", "prepend": "▁"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]});
    file["pre_tokenizer"] = Value::Null;
    file["post_processor"] = json!({"type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}});
    file["decoder"] = json!({"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0}]});
    file
}

/// The base with special tokens, as chat models have them.
fn with_added(mut file: Value) -> Value {
    let first = file["model"]["vocab"].as_object().unwrap().len();
    let names = ["<|end|>", "<|end|>>", "<tool>", "  "];
    let token = |(i, content): (usize, &&str)| {
        json!({"id": first + i, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false, "special": i < 2})
    };
    file["added_tokens"] = json!(names.iter().enumerate().map(token).collect::<Vec<_>>());
    file
}

fn byte_level(prefix: bool, regex: bool) -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": true, "use_regex": regex})
}

fn split(regex: &str) -> Value {
    let split = json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false});
    json!({"type": "Sequence", "pretokenizers": [split, byte_level(false, false)]})
}

fn metaspace(scheme: &str, split: bool) -> Value {
    json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": split})
}

/// Every kind of tokenizer that is not refused.
fn kinds() -> Vec<(String, Value)> {
    let change = |mut file: Value, key: &str, value: Value| {
        file[key] = value;
        file
    };
    let mut kinds = vec![
        ("text model".to_owned(), base()),
        ("prefix".to_owned(), change(base(), "pre_tokenizer", byte_level(true, true))),
        ("no expression".to_owned(), change(base(), "pre_tokenizer", byte_level(false, false))),
        ("added".to_owned(), with_added(base())),
        ("added, prefix".to_owned(), with_added(change(base(), "pre_tokenizer", byte_level(true, true)))),
        ("qwen 2".to_owned(), with_added(change(base(), "pre_tokenizer", split(QWEN2)))),
        ("llama 2".to_owned(), llama()),
        ("no decoder".to_owned(), change(llama(), "decoder", Value::Null)),
    ];
    let mut whole_words = change(base(), "pre_tokenizer", split(LLAMA3));
    whole_words["model"]["ignore_merges"] = json!(true);
    // A token that merges do not reach.
    whole_words["model"]["vocab"]["Ġzq"] = json!(512);
    kinds.push(("llama 3".to_owned(), with_added(whole_words)));
    let digits = json!({"type": "Digits", "individual_digits": true});
    let sequence = json!({"type": "Sequence", "pretokenizers": [digits, byte_level(false, true)]});
    kinds.push(("digits".to_owned(), change(base(), "pre_tokenizer", sequence)));
    for scheme in ["always", "first", "never"] {
        for split in [true, false] {
            let mut file = change(llama(), "normalizer", Value::Null);
            file["pre_tokenizer"] = metaspace(scheme, split);
            file["decoder"] = metaspace(scheme, split);
            file["model"]["byte_fallback"] = json!(false);
            file["model"]["fuse_unk"] = json!(split);
            kinds.push((format!("metaspace {scheme} {split}"), file));
        }
    }
    kinds
}

fn string(random: &mut Random) -> String {
    const PARTS: [&str; 62] = [
        "the",
        "And",
        "LORD",
        "saying",
        "a",
        "b",
        "zq",
        "x",
        "I",
        "'s",
        "'S",
        "'ll",
        "'LL",
        "'ſ",
        "'re",
        "'",
        "’s",
        " ",
        " ",
        " ",
        "  ",
        "   ",
        "\n",
        "\n\n",
        "\r\n",
        "\t",
        "\u{a0}",
        "\u{3000}",
        "\u{2028}",
        "0",
        "1",
        "42",
        "1234567",
        "٣",
        "½",
        "Ⅷ",
        ".",
        ",",
        "...",
        "!?",
        "-",
        "_",
        "$",
        "é",
        "e\u{301}",
        "ß",
        "ſ",
        "İ",
        "漢字",
        "한국",
        "😀",
        "👩\u{200d}🚀",
        "\u{0}",
        "\u{7f}",
        "\u{feff}",
        "\u{fffd}",
        "\u{10ffff}",
        "▁",
        "<|end|>",
        "<|end|>>",
        "</s>",
        "<0x41>",
    ];
    let mut text = String::new();
    for _ in 0..random.below(14) {
        match random.below(12) {
            0 => text.extend(char::from_u32(random.below(0x11_0000) as u32)),
            1 => text.extend(char::from_u32(random.below(0x250) as u32)),
            _ => text.push_str(PARTS[random.below(PARTS.len())]),
        }
    }
    text
}

/// The tokenizer as it is stored in a model.
fn section(file: &Value) -> Result<Vec<u8>, TokenizerError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    std::fs::write(&path, file.to_string()).unwrap();
    let source = Source::parse(path.to_str().unwrap());
    // The exact number of tokens is one of these.
    let highest =
        |tokens: &Value| tokens.as_array().unwrap().iter().filter_map(|t| t["id"].as_u64()).max().unwrap_or(0);
    let vocab =
        file["model"]["vocab"].as_object().map_or(0, |v| v.values().filter_map(Value::as_u64).max().unwrap_or(0));
    source.section(vocab.max(highest(&file["added_tokens"])) as u32 + 1, 0.1)
}

fn decode(tokenizer: &Tokenizer<'_>, ids: &[u32], special: bool) -> String {
    let mut text = String::new();
    tokenizer.decode(ids, special, &mut |part| text.push_str(part)).unwrap();
    text
}

#[test]
fn text_becomes_the_ids_of_the_tokenizers_crate_and_back() {
    for (name, file) in kinds() {
        let judge = tokenizers::Tokenizer::from_bytes(file.to_string()).unwrap();
        let section = section(&file).unwrap_or_else(|fault| panic!("{name}: {fault}"));
        let ours = Tokenizer::read(&section).unwrap();
        let mut random = Random(name.len() as u64);
        for round in 0..10_000 {
            let text = string(&mut random);
            let special = round % 2 == 0;
            let expected = judge.encode(text.as_str(), special).unwrap();
            let ids = encode(&ours, &text, special).unwrap_or_else(|fault| panic!("{name}, {text:?}: {fault}"));
            assert_eq!(ids, expected.get_ids(), "{name}, {text:?}: {:?}", expected.get_tokens());
            assert_eq!(
                decode(&ours, &ids, special),
                judge.decode(&ids, !special).unwrap(),
                "{name}, {text:?}, {ids:?}"
            );
            let ids: Vec<u32> = (0..random.below(9)).map(|_| random.below(ours.vocabulary() as usize) as u32).collect();
            // Gaps in the numbering are no tokens.
            let ids: Vec<u32> = ids.into_iter().filter(|&id| judge.id_to_token(id).is_some()).collect();
            assert_eq!(decode(&ours, &ids, special), judge.decode(&ids, !special).unwrap(), "{name}, {ids:?}");
        }
    }
}

#[test]
fn long_text_of_the_documents_becomes_the_same_ids() {
    let mut text = String::new();
    for name in ["README.md", "ARCHITECTURE.md", "CHANGELOG.md"] {
        let path = format!("{}/../../{name}", env!("CARGO_MANIFEST_DIR"));
        write!(text, "{}", std::fs::read_to_string(path).unwrap()).unwrap();
    }
    for (name, file) in [("text model", base()), ("llama 3", with_added(base()))] {
        let mut file = file;
        if name == "llama 3" {
            file["pre_tokenizer"] = split(LLAMA3);
        }
        let judge = tokenizers::Tokenizer::from_bytes(file.to_string()).unwrap();
        let section = section(&file).unwrap();
        let ids = encode(&Tokenizer::read(&section).unwrap(), &text, false).unwrap();
        assert!(ids == judge.encode(text.as_str(), false).unwrap().get_ids(), "{name}");
    }
}

#[test]
fn text_that_would_have_to_be_normalized_is_refused() {
    let mut file = base();
    file["normalizer"] = json!({"type": "NFC"});
    let judge = tokenizers::Tokenizer::from_bytes(file.to_string()).unwrap();
    let section = section(&file).unwrap();
    let ours = Tokenizer::read(&section).unwrap();
    let mut random = Random(1);
    let (mut refused, mut equal) = (0, 0);
    for _ in 0..3000 {
        let text = string(&mut random);
        match encode(&ours, &text, false) {
            Err(EncodeError::Normalization { character }) => {
                assert!(character >= '\u{300}' && text.contains(character));
                refused += 1;
            }
            ids => {
                assert_eq!(ids.as_deref(), Ok(judge.encode(text.as_str(), false).unwrap().get_ids()), "{text:?}");
                equal += 1;
            }
        }
    }
    assert!(refused > 300 && equal > 300, "{refused} {equal}");
}

#[test]
fn characters_without_a_token_are_refused() {
    let section = Source::parse("characters:0123456789+=$").section(13, 0.1).unwrap();
    let tokenizer = Tokenizer::read(&section).unwrap();
    assert_eq!(encode(&tokenizer, "$128+367=", true), Ok(vec![12, 1, 2, 8, 10, 3, 6, 7, 11]));
    assert_eq!(decode(&tokenizer, &[5, 9, 4, 0, 12], true), "5940$");
    assert_eq!(encode(&tokenizer, "1 + 2", true), Err(EncodeError::Unknown { character: ' ' }));
    assert_eq!(tokenizer.encode("12345", true, &mut [0; 4]), Err(EncodeError::Room { given: 4 }));
    let fault = tokenizer.decode(&[13], true, &mut |_| ()).unwrap_err();
    assert_eq!((fault.id, fault.vocabulary), (13, 13));
    let section = Source::Bytes.section(256, 0.1).unwrap();
    let tokenizer = Tokenizer::read(&section).unwrap();
    assert_eq!(encode(&tokenizer, "é\n", true), Ok(vec![0xc3, 0xa9, 10]));
    assert_eq!(decode(&tokenizer, &[0x61, 0xc3, 0x62, 0xe6, 0xbc], true), "a\u{fffd}b\u{fffd}");
}

#[test]
fn what_cannot_be_the_same_is_refused_by_its_name() {
    let refused = |key: &str, value: Value, named: &str| {
        let mut file = base();
        let mut at = &mut file;
        for part in key.split('/') {
            at = &mut at[part];
        }
        *at = value;
        let fault = section(&file).expect_err(key).to_string();
        assert!(fault.contains(named) && !fault.contains('\n'), "{key}: {fault}");
    };
    refused("model/type", json!("Unigram"), "Unigram");
    refused("model/dropout", json!(0.1), "dropout");
    refused("model/end_of_word_suffix", json!("</w>"), "suffix");
    refused("model/unk_token", json!("<none>"), "<none>");
    refused("model/merges", json!(["a b c"]), "a b c");
    refused("model/merges", json!([["zz", "y"]]), "zz");
    refused("model/vocab/a", json!(3), "two tokens");
    refused("truncation", json!({"max_length": 8}), "truncation");
    refused("normalizer", json!({"type": "Lowercase"}), "Lowercase");
    refused("normalizer", json!({"type": "Prepend", "prepend": "▁"}), "▁");
    refused("pre_tokenizer", json!({"type": "BertPreTokenizer"}), "BertPreTokenizer");
    refused("pre_tokenizer", split(r"\p{L}+"), r"\p{L}+");
    refused("pre_tokenizer", metaspace("always", true), "ByteLevel");
    refused("pre_tokenizer", json!({"type": "Digits", "individual_digits": true}), "Digits");
    refused("pre_tokenizer", json!({"type": "Digits", "individual_digits": false}), "Digits");
    refused("decoder", json!({"type": "WordPiece", "prefix": "##", "cleanup": true}), "WordPiece");
    refused("decoder", Value::Null, "ByteLevel");
    refused("post_processor", json!({"type": "Whatever"}), "Whatever");
    let token = |flag: &str| {
        let mut token = json!({"id": 512, "content": "<m>", "single_word": false, "lstrip": false, "rstrip": false,
                               "normalized": false, "special": true});
        token[flag] = json!(true);
        json!([token])
    };
    refused("added_tokens", token("lstrip"), "<m>");
    refused("added_tokens", token("single_word"), "<m>");
    let mut renumbered = token("special");
    renumbered[0]["id"] = json!(600);
    refused("added_tokens", renumbered, "<m>");
    let fault = Source::parse(TEXT_MODEL).section(600, 0.1).unwrap_err();
    assert!(matches!(fault, TokenizerError::Vocabulary { tokenizer: 512, model: 600 }), "{fault}");
    let fault = Source::parse("no such file").section(512, 0.1).unwrap_err();
    assert!(fault.to_string().contains("no such file"), "{fault}");
}

#[test]
fn damaged_sections_are_errors() {
    let section = section(&with_added(llama())).unwrap();
    let mut random = Random(5);
    for _ in 0..3000 {
        let mut bytes = section.clone();
        if random.below(4) == 0 {
            bytes.truncate(random.below(bytes.len()));
        }
        for _ in 0..1 + random.below(4) {
            let at = if random.below(2) == 0 { random.below(200) } else { random.below(bytes.len().max(1)) };
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << random.below(8);
            }
        }
        // What is accepted must run without a panic.
        if let Some(tokenizer) = Tokenizer::read(&bytes) {
            let text = string(&mut random);
            let _ = tokenizer.encode(&text, true, &mut [0; 200]);
            let ids: Vec<u32> = (0..8).map(|_| random.below(600) as u32).collect();
            let _ = tokenizer.decode(&ids, false, &mut |_| ());
        }
    }
}
