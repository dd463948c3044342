//! A linked program: its functions, its code without the data between, its read-only data.

use crate::error::Error;
use object::{Object, ObjectSection, ObjectSymbol, SectionKind, SymbolKind};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// A function of a program.
#[derive(Clone, Debug)]
pub struct Function {
    /// First byte.
    pub address: u32,
    /// Bytes.
    pub size: u32,
    /// Demangled name.
    pub name: String,
}

/// A stretch of Thumb code without literals.
#[derive(Clone, Debug)]
pub struct Code {
    /// First byte.
    pub address: u32,
    /// Half-words.
    pub halves: Vec<u16>,
}

/// What a program of a 32-bit core holds.
pub struct Image {
    /// By address.
    pub functions: BTreeMap<u32, Function>,
    /// In the order of addresses.
    pub code: Vec<Code>,
    /// Words of read-only data and of literals.
    pub words: Vec<u32>,
    /// Literals among the code, by address.
    pub literals: BTreeMap<u32, u32>,
    /// Bytes of each section that takes memory, by name.
    pub sections: Vec<(String, u64)>,
    /// Whether the code is that of Arm's microcontrollers: calls and instructions of others are not followed.
    pub thumb: bool,
    /// The Rust compiler, as the section `.comment` names it: `rustc 1.95.0`.
    pub compiler: String,
}

impl Image {
    /// Reads an ELF file.
    ///
    /// # Errors
    /// [`Error::Usage`] when it is none.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let bytes = fs::read(path).map_err(Error::io(format!("read {}", path.display())))?;
        let bad = |e| Error::Usage(format!("{} is no ELF file: {e}", path.display()));
        let file = object::File::parse(&*bytes).map_err(bad)?;
        let mut image = Self {
            functions: functions(&file),
            code: Vec::new(),
            words: Vec::new(),
            literals: BTreeMap::new(),
            sections: Vec::new(),
            thumb: file.architecture() == object::Architecture::Arm,
            compiler: compiler(&file),
        };
        let marks = marks(&file);
        for section in file.sections() {
            let (address, data) = (section.address() as u32, section.data().map_err(bad)?);
            match section.kind() {
                SectionKind::Text => image.split(address, data, &marks),
                SectionKind::ReadOnlyData
                | SectionKind::ReadOnlyString
                | SectionKind::ReadOnlyDataWithRel
                | SectionKind::Data => image.words.extend(words(data)),
                SectionKind::UninitializedData => {}
                _ => continue,
            }
            image.sections.push((section.name().unwrap_or("?").to_owned(), section.size()));
        }
        Ok(image)
    }

    /// Separates code from literals by the mapping symbols.
    fn split(&mut self, start: u32, data: &[u8], marks: &BTreeMap<u32, bool>) {
        let end = start + data.len() as u32;
        let mut inside: Vec<(u32, bool)> = marks.range(start..end).map(|(&address, &code)| (address, code)).collect();
        if inside.first().is_none_or(|&(address, _)| address != start) {
            inside.insert(0, (start, true));
        }
        let ends = inside.iter().skip(1).map(|&(address, _)| address).chain([end]);
        for (&(from, is_code), to) in inside.iter().zip(ends) {
            let part = &data[(from - start) as usize..(to - start) as usize];
            if is_code {
                let halves = part.as_chunks::<2>().0.iter().map(|half| u16::from_le_bytes(*half)).collect();
                self.code.push(Code { address: from, halves });
            } else {
                self.words.extend(words(part));
                self.literals.extend((from..).step_by(4).zip(words(part)));
            }
        }
    }

    /// The function that holds `address`.
    pub fn function_at(&self, address: u32) -> Option<&Function> {
        let (_, function) = self.functions.range(..=address).next_back()?;
        (address - function.address < function.size.max(1)).then_some(function)
    }
}

/// The first Rust compiler among the zero-terminated names that every object file brought along.
fn compiler(file: &object::File<'_>) -> String {
    let comment = file.section_by_name(".comment").and_then(|section| section.data().ok()).unwrap_or(&[]);
    let names = comment.split(|&byte| byte == 0).map(String::from_utf8_lossy);
    let rust = names.filter_map(|name| {
        let version = name.strip_prefix("rustc version ")?.split(' ').next()?;
        Some(format!("rustc {version}"))
    });
    rust.min().unwrap_or_else(|| "unknown".to_owned())
}

fn functions(file: &object::File<'_>) -> BTreeMap<u32, Function> {
    let texts = file.symbols().filter(|symbol| symbol.kind() == SymbolKind::Text && symbol.is_definition());
    let function = |symbol: object::Symbol<'_, '_>| {
        // Bit 0 says Thumb.
        let address = symbol.address() as u32 & !1;
        let name = format!("{:#}", rustc_demangle::demangle(symbol.name().unwrap_or("?")));
        (address, Function { address, size: symbol.size() as u32, name })
    };
    let mut all: BTreeMap<u32, Function> = BTreeMap::new();
    for (address, new) in texts.map(function) {
        // Aliases without a size must not hide the function itself.
        let known = all.get(&address).is_some_and(|old| old.size >= new.size);
        if !known {
            all.insert(address, new);
        }
    }
    all
}

/// Where code (`$t`) and data (`$d`) begin.
fn marks(file: &object::File<'_>) -> BTreeMap<u32, bool> {
    let mark = |symbol: object::Symbol<'_, '_>| {
        let name = symbol.name().ok()?;
        let code = match name.get(..2)? {
            "$t" => true,
            "$d" => false,
            _ => return None,
        };
        Some((symbol.address() as u32 & !1, code))
    };
    file.symbols().filter_map(mark).collect()
}

fn words(data: &[u8]) -> impl Iterator<Item = u32> {
    data.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word))
}
