//! Floats in source text.

use crate::error::Error;
use std::fs;
use std::path::Path;

/// Every `f32`, `f64` or float literal in the Rust files under `folder`, outside of comments, text and tests.
///
/// # Errors
/// When a file cannot be read.
pub fn floats(folder: &Path) -> Result<Vec<String>, Error> {
    let mut findings = Vec::new();
    let mut entries: Vec<_> = fs::read_dir(folder)
        .and_then(Iterator::collect)
        .map_err(Error::io(format!("read {}", folder.display())))
        .map(|entries: Vec<fs::DirEntry>| entries.into_iter().map(|entry| entry.path()).collect())?;
    entries.sort();
    for path in entries {
        if path.is_dir() {
            findings.extend(floats(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).map_err(Error::io(format!("read {}", path.display())))?;
            let found = floats_in(&text).into_iter();
            findings.extend(found.map(|(line, word)| format!("{}:{line}: `{word}`", path.display())));
        }
    }
    Ok(findings)
}

/// Line numbers and words of the floats in `text`.
fn floats_in(text: &str) -> Vec<(usize, String)> {
    let code = without_tests(&without_comments(text));
    let mut found = Vec::new();
    for (number, line) in code.lines().enumerate() {
        let words = line.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == '.'));
        found.extend(words.filter(|word| is_float(word)).map(|word| (number + 1, word.to_owned())));
    }
    found
}

fn is_float(word: &str) -> bool {
    if word.split('.').any(|part| part == "f32" || part == "f64") {
        return true;
    }
    let starts_with_digit = word.starts_with(|c: char| c.is_ascii_digit());
    let typed = (word.ends_with("f32") || word.ends_with("f64")) && !word.starts_with("0x");
    // `1.5`, but neither `0..2` nor `x.0.1` nor `1.max(2)`.
    let literal = word.split_once('.').is_some_and(|(whole, rest)| {
        let digits = |text: &str| text.chars().all(|c| c.is_ascii_digit() || c == '_');
        digits(whole) && rest.chars().next().is_none_or(|c| c.is_ascii_digit())
    });
    starts_with_digit && (typed || literal)
}

/// `text` with comments, strings and characters blanked; lines stay where they are.
fn without_comments(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let taken = match first {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => rest.find("*/").map_or(rest.len(), |end| end + 2),
            '"' => string_end(rest),
            '\'' => character_end(rest),
            _ => 0,
        };
        if taken == 0 {
            out.push(first);
            rest = &rest[first.len_utf8()..];
        } else {
            out.extend(rest[..taken].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
            rest = &rest[taken..];
        }
    }
    out
}

/// Bytes of the string literal at the start of `text`.
fn string_end(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            '"' if !escaped => return at + 1,
            '\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    text.len()
}

/// Bytes of the character literal at the start of `text`; 0 when it is a lifetime.
fn character_end(text: &str) -> usize {
    let inner = &text[1..];
    let Some(first) = inner.chars().next() else { return 0 };
    let body = if first == '\\' { 2 } else { first.len_utf8() };
    let close = inner.get(body..).and_then(|tail| tail.find('\'').filter(|&at| first == '\\' && at < 8 || at == 0));
    close.map_or(0, |at| 1 + body + at + 1)
}

/// `code` without the items that follow `#[cfg(test)]`.
fn without_tests(code: &str) -> String {
    const MARK: &str = "#[cfg(test)]";
    let mut out = String::with_capacity(code.len());
    let mut rest = code;
    while let Some(at) = rest.find(MARK) {
        out.push_str(&rest[..at]);
        let item = &rest[at..];
        let end = item_end(item);
        out.extend(item[..end].chars().filter(|&c| c == '\n'));
        rest = &item[end..];
    }
    out.push_str(rest);
    out
}

/// Bytes of the item at the start of `code`: up to its `;`, or to the brace that closes its first one.
fn item_end(code: &str) -> usize {
    let mut depth = 0usize;
    for (at, c) in code.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 1 => return at + 1,
            '}' => depth = depth.saturating_sub(1),
            ';' if depth == 0 => return at + 1,
            _ => {}
        }
    }
    code.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_in_code_are_found() {
        let text = "fn a() -> i32 { 1 }\nfn b(x: f32) {}\nlet y = 1.5;\nlet z = x as f64;\nlet w = 2f32;\n";
        let lines: Vec<usize> = floats_in(text).iter().map(|(line, _)| *line).collect();
        assert_eq!(lines, [2, 3, 4, 5]);
    }

    #[test]
    fn floats_in_comments_text_and_tests_are_not() {
        let text = "// f32 1.5\nlet a = \"f64 \\\" 2.5\"; let b = '\\''; let c: &'a str = x.0;\n/* f32 */ let r = 0..2;\n\
            #[cfg(test)]\nmod tests { fn f() -> f64 { 1.5 } }\nlet h = 0xf32;\n";
        assert_eq!(floats_in(text), []);
        assert_eq!(floats_in("#[cfg(test)]\nuse x;\nlet a: f32 = b;"), [(3, "f32".to_owned())]);
    }
}
