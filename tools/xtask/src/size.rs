//! `cargo xtask size`: what the programs take in flash.

use crate::audit::elf::Image;
use crate::audit::symbols;
use crate::boards::{self, Binary, Program};
use crate::error::Error;
use crate::firmware;
use shiftformer::ops::OpKind;
use shiftformer_link::boards::{BOARDS, MPS2_AN386};
use shiftformer_link::{Core, Machine};
use std::collections::BTreeSet;
use std::path::Path;

/// A number of bytes that must not be exceeded.
struct Budget {
    board: &'static str,
    file: Binary,
    what: What,
    bytes: u64,
}

/// What is weighed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    /// All code.
    Text,
    /// The code that the inference reaches.
    Inference,
}

/// A change that needs more says why.
const BUDGETS: [Budget; 2] = [
    Budget { board: MPS2_AN386.name, file: Binary::Digits, what: What::Text, bytes: 48 * 1024 },
    Budget { board: MPS2_AN386.name, file: Binary::InferenceVit, what: What::Inference, bytes: 24 * 1024 },
];

/// The operators of [`Binary::InferenceVit`].
const VIT: [OpKind; 9] = [
    OpKind::Linear,
    OpKind::Conv2d,
    OpKind::Attention,
    OpKind::LayerNorm,
    OpKind::Add,
    OpKind::Lut,
    OpKind::Requant,
    OpKind::Copy,
    OpKind::ReduceMean,
];

/// Prints the table and checks the budgets.
///
/// # Errors
/// [`Error::Check`] when a program is larger than its budget or links an operator that its table lacks.
pub fn run(build: bool) -> Result<(), Error> {
    if build {
        firmware::build(None, None)?;
    }
    println!("| program | board | core | compiler | .text | of it the inference | .rodata | .data + .bss |");
    println!("|---|---|---|---|---|---|---|---|");
    let (mut over, mut checked) = (Vec::new(), 0);
    let targets = boards::targets()?;
    for program in Program::ALL {
        for target in targets.iter().filter(|target| target.build.programs.contains(&program)) {
            let board = target.board.as_str();
            let emulated = Machine::by_name(board).map(|machine| machine.core);
            let core = emulated.or_else(|| BOARDS.iter().find(|row| row.key == board).map(|row| row.core));
            let core = core.map_or("-", Core::name);
            for &binary in program.files() {
                let file = binary.name();
                let image = Image::read(&firmware::path(board, file))?;
                let (text, inference) = (section(&image, ".text"), inference_bytes(&image));
                let reached = if image.thumb { inference.to_string() } else { "-".to_owned() };
                over.extend(linkage(&image, binary, board));
                println!(
                    "| {file} | {board} | {core} | {} | {text} | {reached} | {} | {} |",
                    image.compiler,
                    section(&image, ".rodata"),
                    section(&image, ".data") + section(&image, ".bss") + section(&image, ".uninit"),
                );
                for budget in BUDGETS.iter().filter(|budget| budget.board == board && budget.file == binary) {
                    checked += 1;
                    let bytes = if budget.what == What::Text { text } else { inference };
                    if bytes > budget.bytes {
                        over.push(format!("{file} on {board} takes {bytes} bytes of {}", budget.bytes));
                    }
                }
            }
        }
    }
    if checked != BUDGETS.len() {
        over.push("a budget names a program that no board has".to_owned());
    }
    if over.is_empty() { Ok(()) } else { Err(Error::Check(over.join("; "))) }
}

/// Prints the functions that the inference of an ELF file reaches, with their sizes.
///
/// # Errors
/// When the file cannot be read, and [`Error::Usage`] when it has no inference.
pub fn functions(elf: &Path) -> Result<(), Error> {
    let image = Image::read(elf)?;
    if !image.thumb {
        return Err(Error::Usage(format!("{}: calls are followed on Arm alone", elf.display())));
    }
    let none = || Error::Usage(format!("{} has no function `inference`", elf.display()));
    let reached = symbols::inference(&image).ok_or_else(none)?;
    let mut functions: Vec<_> = reached.values().map(|reached| reached.function).collect();
    functions.sort_by_key(|function| function.size);
    functions.iter().for_each(|function| println!("{:6} {}", function.size, function.name));
    println!("{:6} in all", inference_bytes(&image));
    Ok(())
}

/// Operators of a program that are linked without being in its table, or missing although they are.
fn linkage(image: &Image, binary: Binary, board: &str) -> Vec<String> {
    let linked: BTreeSet<&str> = image.functions.values().filter_map(|f| operator(&f.name)).collect();
    let file = binary.name();
    match binary {
        Binary::InferenceVit => {
            let wanted = VIT.map(|kind| format!("{kind:?}"));
            let extra = linked.iter().filter(|linked| !wanted.iter().any(|wanted| wanted == *linked));
            extra.map(|operator| format!("{file} on {board} links {operator}, which its table lacks")).collect()
        }
        // What the test above looks for is there when it is wanted.
        Binary::InferenceAll if linked.len() <= VIT.len() => {
            vec![format!("{file} on {board} links but {} operators", linked.len())]
        }
        Binary::InferenceAll
        | Binary::Runner
        | Binary::Digits
        | Binary::KernelTests
        | Binary::Calculator
        | Binary::Story
        | Binary::Device
        | Binary::Soak
        | Binary::Tasks
        | Binary::Stream
        | Binary::Kws => Vec::new(),
    }
}

/// The operator that a function runs, as [`OpKind`] names it: `Linear` of
/// `shiftformer::ops::entry::run::<.., shiftformer::ops::linear::Linear>`.
fn operator(function: &str) -> Option<&str> {
    let (_, parameters) = function.split_once("shiftformer::ops::entry::run::<")?;
    let (_, path) = parameters.rsplit_once("shiftformer::ops::")?;
    path.trim_end_matches('>').rsplit("::").next()
}

/// Bytes of the sections of this name.
pub fn section(image: &Image, name: &str) -> u64 {
    image.sections.iter().filter(|(section, _)| section == name).map(|(_, bytes)| bytes).sum()
}

/// Bytes of the functions that the inference reaches; 0 where it has no function of its own, or calls are not followed.
pub fn inference_bytes(image: &Image) -> u64 {
    if !image.thumb {
        return 0;
    }
    symbols::inference(image).map_or(0, |reached| reached.values().map(|callee| u64::from(callee.function.size)).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operators_are_known_by_their_type() {
        let name =
            "shiftformer::ops::entry::run::<shiftformer::kernels::armv7em::Armv7em, shiftformer::ops::linear::Linear>";
        assert_eq!(operator(name), Some(&*format!("{:?}", OpKind::Linear)));
        assert_eq!(operator("shiftformer::ops::entry::needs::<shiftformer::ops::linear::Linear>"), None);
    }
}
