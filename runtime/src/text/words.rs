//! Where words end: the expressions that tokenizers divide a text with, by hand.

use super::{Tokenizer, Words};
use core::str::Chars;

/// The characters of a part of a text, with the space before it and the character that stands for spaces.
#[derive(Clone)]
pub(super) struct Stream<'t> {
    pub prefix: Option<char>,
    pub text: Chars<'t>,
    pub space: char,
}

impl Iterator for Stream<'_> {
    type Item = char;

    fn next(&mut self) -> Option<char> {
        let mapped = |c| if c == ' ' { self.space } else { c };
        self.prefix.take().or_else(|| self.text.next().map(mapped))
    }
}

/// What the expressions tell apart.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Letter,
    Number,
    Space,
    Other,
}

impl Tokenizer<'_> {
    fn class(&self, character: char) -> Class {
        if character.is_ascii_alphabetic() {
            return Class::Letter;
        }
        if character.is_ascii_digit() {
            return Class::Number;
        }
        if character.is_whitespace() {
            return Class::Space;
        }
        let classes = self.words(self.layout.classes);
        let start = |word: &[u8; 4]| u32::from_le_bytes(*word) >> 2;
        let before = classes.partition_point(|word| start(word) <= u32::from(character));
        let word = before.checked_sub(1).and_then(|at| classes.get(at));
        match word.map_or(0, |word| u32::from_le_bytes(*word) & 3) {
            1 => Class::Letter,
            2 => Class::Number,
            _ => Class::Other,
        }
    }

    /// Characters of the next word; 0 at the end.
    pub(super) fn word(&self, stream: &Stream<'_>) -> usize {
        match self.layout.words {
            Words::Whole => stream.clone().count(),
            Words::Spaces => {
                let mut rest = stream.clone();
                let first = usize::from(rest.next().is_some());
                first + rest.take_while(|&c| c != stream.space).count()
            }
            Words::Gpt2 => self.gpt2(stream),
            Words::Llama3 => self.llama3(stream, 3),
            Words::Qwen2 => self.llama3(stream, 1),
        }
    }

    /// Characters of `class` at the start.
    fn run(&self, stream: &Stream<'_>, class: Class) -> usize {
        stream.clone().take_while(|&c| self.class(c) == class).count()
    }

    /// `\s+(?!\S)|\s+`, behind what matches whitespace in other ways.
    fn whitespace(&self, stream: &Stream<'_>) -> usize {
        let run = self.run(stream, Class::Space);
        let to_the_end = stream.clone().nth(run).is_none();
        if to_the_end || run < 2 { run } else { run - 1 }
    }

    fn gpt2(&self, stream: &Stream<'_>) -> usize {
        let mut rest = stream.clone();
        let Some(first) = rest.next() else { return 0 };
        if first == '\''
            && let Some(length) = contraction(rest.clone(), false)
        {
            return 1 + length;
        }
        let (space, run) = if first == ' ' { (1, rest) } else { (0, stream.clone()) };
        match run.clone().next().map(|c| self.class(c)) {
            None | Some(Class::Space) => self.whitespace(stream),
            Some(class @ (Class::Letter | Class::Number | Class::Other)) => space + self.run(&run, class),
        }
    }

    fn llama3(&self, stream: &Stream<'_>, digits: usize) -> usize {
        let mut rest = stream.clone();
        let Some(first) = rest.next() else { return 0 };
        if first == '\''
            && let Some(length) = contraction(rest.clone(), true)
        {
            return 1 + length;
        }
        let line_end = |c: char| c == '\r' || c == '\n';
        let class = self.class(first);
        if class == Class::Letter {
            return self.run(stream, Class::Letter);
        }
        if class == Class::Number {
            return self.run(stream, Class::Number).min(digits);
        }
        // Any one character but a line end may lead a word.
        let letters = self.run(&rest, Class::Letter);
        if letters > 0 && !line_end(first) {
            return 1 + letters;
        }
        let (space, run) = if first == ' ' { (1, rest) } else { (0, stream.clone()) };
        let others = self.run(&run, Class::Other);
        if others > 0 {
            let behind = run.skip(others).take_while(|&c| line_end(c)).count();
            return space + others + behind;
        }
        // `\s*[\r\n]+`: up to the last line end of the whitespace.
        let spaces = self.run(stream, Class::Space);
        let last = stream.clone().take(spaces).enumerate().filter(|&(_, c)| line_end(c)).last();
        last.map_or_else(|| self.whitespace(stream), |(at, _)| at + 1)
    }
}

/// Characters of `s|t|re|ve|m|ll|d` at the start, of any case where `fold`.
fn contraction(mut rest: Stream<'_>, fold: bool) -> Option<usize> {
    // The long s is the one character beyond ASCII that folds to one of these.
    let folded = |c: char| {
        if !fold {
            c
        } else if c == '\u{17f}' {
            's'
        } else {
            c.to_ascii_lowercase()
        }
    };
    let first = rest.next().map(folded)?;
    let pair = |second: char| (rest.clone().next().map(folded) == Some(second)).then_some(2);
    match first {
        's' | 't' | 'm' | 'd' => Some(1),
        'r' | 'v' => pair('e'),
        'l' => pair('l'),
        _ => None,
    }
}
