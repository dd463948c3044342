//! `cargo xtask kernels`: which kernels run what, from the tables of the instruction sets, written into `docs/kernels.md`.

use crate::error::Error;
use crate::process::root;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;

/// The file the table goes to, between [`BEGIN`] and [`END`].
const REPORT: &str = "docs/kernels.md";
const BEGIN: &str = "<!-- made by `cargo xtask kernels` -->\n";
const END: &str = "<!-- end -->\n";
/// Where the tables are.
const FOLDER: &str = "runtime/src/kernels";
/// The method whose portable definition takes nothing: operators go on in blocks of rows, by the other methods.
const NOT_TAKEN: &str = "attention";

/// Rows of hosts that are as fast value by value, see the text: table and method.
const VALUE_BY_VALUE: [(&str, &str); 15] = [
    ("AVX-VNNI, AVX2", "lut_in_place"),
    ("of Armv7", "lut_in_place"),
    ("of Armv7", "lut_i16_in_place"),
    ("NEON with SMMLA", "multiply"),
    ("NEON with SMMLA", "rotate"),
    ("NEON with SMMLA", "lut_wide"),
    ("with SDOT", "multiply"),
    ("with SDOT", "rotate"),
    ("with SDOT", "lut_wide"),
    ("with SMULL", "multiply"),
    ("with SMULL", "rotate"),
    ("with SMULL", "lut_wide"),
    ("of Armv7", "multiply"),
    ("of Armv7", "rotate"),
    ("of Armv7", "lut_wide"),
];

/// A table of kernels.
struct Table {
    title: &'static str,
    file: &'static str,
    /// The type it is for.
    name: &'static str,
    /// Whether it is for processors with an operating system.
    hosts: bool,
}

const TABLES: [Table; 12] = [
    Table { title: "AVX-512", file: "x86/mod.rs", name: "Avx512", hosts: true },
    Table { title: "AVX-VNNI, AVX2", file: "x86/mod.rs", name: "$level", hosts: true },
    Table { title: "NEON with SMMLA", file: "neon/mod.rs", name: "NeonI8mm", hosts: true },
    Table { title: "with SDOT", file: "neon/mod.rs", name: "NeonDot", hosts: true },
    Table { title: "with SMULL", file: "neon/mod.rs", name: "Neon", hosts: true },
    Table { title: "of Armv7", file: "neon32/mod.rs", name: "Neon32", hosts: true },
    Table { title: "M55", file: "helium/mod.rs", name: "Helium", hosts: false },
    Table { title: "M4, M7, M33", file: "armv7em/mod.rs", name: "Armv7em", hosts: false },
    Table { title: "M3", file: "armv7m/mod.rs", name: "Armv7m", hosts: false },
    Table { title: "M0", file: "armv6m/mod.rs", name: "Armv6m", hosts: false },
    Table { title: "RV32IM", file: "riscv32/mod.rs", name: "Riscv32", hosts: false },
    Table { title: "WebAssembly", file: "wasm32/mod.rs", name: "Simd128", hosts: false },
];

/// What a row of a table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kernel {
    /// Code of its own.
    Own,
    /// The portable code, compiled with the vectors of the level.
    Compiled,
    /// The portable definition, which calls other methods.
    Composed,
    /// The portable definition.
    Portable,
}

impl Kernel {
    fn mark(self) -> &'static str {
        match self {
            Self::Own => "+",
            Self::Compiled => "c",
            Self::Composed => ".",
            Self::Portable => "p",
        }
    }
}

/// Rows of a table by the name of the method.
type Rows = BTreeMap<String, Kernel>;

/// Writes the table.
///
/// # Errors
/// When a row of a host is portable, and when a source or the file cannot be read or written.
pub fn write() -> Result<(), Error> {
    if let Some(row) = portable_on_hosts()?.first() {
        return Err(Error::Check(format!("{row} is portable")));
    }
    let path = root().join(REPORT);
    let old = fs::read_to_string(&path).map_err(Error::io(format!("read {}", path.display())))?;
    let new = with_table(&old, &table()?)?;
    fs::write(&path, new).map_err(Error::io(format!("write {}", path.display())))
}

/// `text` with `table` between the marks.
fn with_table(text: &str, table: &str) -> Result<String, Error> {
    let missing = || Error::Check(format!("{REPORT} lacks `{}` or `{}`", BEGIN.trim(), END.trim()));
    let (before, rest) = text.split_once(BEGIN).ok_or_else(missing)?;
    let (_, after) = rest.split_once(END).ok_or_else(missing)?;
    Ok(format!("{before}{BEGIN}{table}{END}{after}"))
}

fn read(file: &str) -> Result<String, Error> {
    let path = root().join(FOLDER).join(file);
    fs::read_to_string(&path).map_err(Error::io(format!("read {}", path.display())))
}

/// The table of all instruction sets.
fn table() -> Result<String, Error> {
    let (methods, columns) = (methods(&read("list.rs")?), columns()?);
    let titles: Vec<&str> = TABLES.iter().map(|table| table.title).collect();
    let mut text = format!("\n| method | {} |\n|---{}|\n", titles.join(" | "), "|---".repeat(titles.len()));
    for (method, _) in &methods {
        let marks: Vec<&str> = columns.iter().map(|rows| rows.get(method).map_or("", |kernel| kernel.mark())).collect();
        // Writing to a string does not fail.
        let _ = writeln!(text, "| `{method}` | {} |", marks.join(" | "));
    }
    Ok(text + "\n")
}

/// The rows of [`TABLES`].
fn columns() -> Result<Vec<Rows>, Error> {
    let composed = methods(&read("list.rs")?);
    TABLES.iter().map(|table| Ok(rows(&read(table.file)?, table.name, &composed))).collect()
}

/// Rows of hosts that are portable without being known to be as fast.
fn portable_on_hosts() -> Result<Vec<String>, Error> {
    let mut found = Vec::new();
    for (table, rows) in TABLES.iter().zip(columns()?).filter(|(table, _)| table.hosts) {
        let slow = |(method, kernel): &(&String, &Kernel)| {
            **kernel == Kernel::Portable && !VALUE_BY_VALUE.contains(&(table.title, method.as_str()))
        };
        found.extend(rows.iter().filter(slow).map(|(method, _)| format!("`{method}` of {}", table.title)));
    }
    Ok(found)
}

/// The methods in `list.rs` in their order, and whether their portable definition calls others.
fn methods(source: &str) -> Vec<(String, bool)> {
    let list = source.split("kernel_methods! { $").nth(1).unwrap_or("");
    let list = list.split("\n}\n").next().unwrap_or("");
    let functions = list.split("    fn ").skip(1);
    let method = |text: &str| Some((text.split('(').next()?.to_owned(), text.contains("::<Self>")));
    functions.filter_map(method).map(|(name, calls)| (name.clone(), calls || name == NOT_TAKEN)).collect()
}

/// The rows of the table for `name` in `source`; those that name another table's row are what that one is.
fn rows(source: &str, name: &str, methods: &[(String, bool)]) -> Rows {
    let Some((_, table)) = source.split_once(&format!("impl {name} {{\n")) else { return Rows::new() };
    let mut found = Rows::new();
    for line in table.lines().map(str::trim) {
        let Some((method, kernel)) = line.strip_suffix(',').and_then(|line| line.split_once(" => ")) else { continue };
        let Some((_, composed)) = methods.iter().find(|(name, _)| name == method) else { continue };
        let kernel = if kernel == "portable" {
            if *composed { Kernel::Composed } else { Kernel::Portable }
        } else if kernel.starts_with("compiled!") {
            Kernel::Compiled
        } else if kernel.starts_with("halves!") {
            Kernel::Composed
        } else {
            match kernel.split_once("::") {
                Some((table, row)) if row == method && source.contains(&format!("impl {table} {{\n")) => {
                    rows(source, table, methods).get(method).copied().unwrap_or(Kernel::Portable)
                }
                _ => Kernel::Own,
            }
        };
        found.insert(method.to_owned(), kernel);
        if found.len() == methods.len() {
            break;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> String {
        fs::read_to_string(root().join(REPORT)).unwrap()
    }

    #[test]
    fn the_table_is_that_of_the_sources() {
        assert!(report() == with_table(&report(), &table().unwrap()).unwrap(), "run `cargo xtask kernels`");
    }

    #[test]
    fn every_instruction_set_has_every_row() {
        let methods = methods(&read("list.rs").unwrap());
        assert!(methods.len() > 15);
        for (table, rows) in TABLES.iter().zip(columns().unwrap()) {
            assert_eq!(rows.len(), methods.len(), "{}", table.title);
        }
    }

    #[test]
    fn no_row_of_a_host_is_portable() {
        assert_eq!(portable_on_hosts().unwrap(), Vec::<String>::new());
        let methods = [("linear".to_owned(), false)];
        assert_eq!(rows("impl A {\n}\n    linear => portable,\n", "A", &methods)["linear"], Kernel::Portable);
    }

    #[test]
    fn choices_lead_to_methods_that_there_are() {
        let methods = methods(&read("list.rs").unwrap());
        let report = report();
        let choices = report.split("## Choices").nth(1).unwrap();
        let rows = choices.lines().filter(|line| line.starts_with("| ")).skip(1);
        let mut named = 0;
        for row in rows {
            let kernels = row.trim_end_matches(" |").rsplit(" | ").next().unwrap();
            for name in kernels.split('`').skip(1).step_by(2) {
                assert!(methods.iter().any(|(method, _)| method == name), "{name} in {row}");
                named += 1;
            }
        }
        assert!(named > 10);
    }
}
