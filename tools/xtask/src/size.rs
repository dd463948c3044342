//! `cargo xtask size`: what the programs take in flash.

use crate::audit::elf::Image;
use crate::audit::symbols;
use crate::boards::{self, Program};
use crate::error::Error;
use crate::firmware;
use shiftformer_link::boards::MPS2_AN386;
use shiftformer_link::{Core, Machine};
use std::collections::BTreeSet;
use std::path::Path;

/// A number of bytes that must not be exceeded.
struct Budget {
    board: &'static str,
    file: &'static str,
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
    Budget { board: MPS2_AN386.name, file: "digits", what: What::Text, bytes: 48 * 1024 },
    Budget { board: MPS2_AN386.name, file: "inference-vit", what: What::Inference, bytes: 24 * 1024 },
];

/// The program with every operator, and that with those of a vision transformer: modules of its operators.
const ALL: &str = "inference-all";
const SOME: (&str, [&str; 9]) =
    ("inference-vit", ["linear", "conv2d", "attention", "layer_norm", "add", "lut", "requant", "copy", "reduce_mean"]);

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
            let core = Machine::by_name(board).map_or("-", |machine| Core::name(machine.core));
            for file in program.files() {
                let image = Image::read(&firmware::path(board, file))?;
                let (text, inference) = (section(&image, ".text"), inference_bytes(&image));
                let reached = if image.thumb { inference.to_string() } else { "-".to_owned() };
                over.extend(linkage(&image, file, board));
                println!(
                    "| {file} | {board} | {core} | {} | {text} | {reached} | {} | {} |",
                    image.compiler,
                    section(&image, ".rodata"),
                    section(&image, ".data") + section(&image, ".bss") + section(&image, ".uninit"),
                );
                for budget in BUDGETS.iter().filter(|budget| budget.board == board && budget.file == *file) {
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
fn linkage(image: &Image, file: &str, board: &str) -> Vec<String> {
    let linked: BTreeSet<&str> = image.functions.values().filter_map(|f| operator(&f.name)).collect();
    let (some, wanted) = SOME;
    if file == some {
        let extra = linked.iter().filter(|module| !wanted.contains(module));
        return extra.map(|module| format!("{file} on {board} links {module}, which its table lacks")).collect();
    }
    // What the test above looks for is there when it is wanted.
    if file == ALL && linked.len() <= wanted.len() {
        return vec![format!("{file} on {board} links but {} operators", linked.len())];
    }
    Vec::new()
}

/// Module of the operator that a function runs: `attention` of `shiftformer::ops::entry::run::<.., ..attention::Attention>`.
fn operator(function: &str) -> Option<&str> {
    let (_, parameters) = function.split_once("shiftformer::ops::entry::run::<")?;
    let (_, path) = parameters.rsplit_once("shiftformer::ops::")?;
    path.split("::").next()
}

fn section(image: &Image, name: &str) -> u64 {
    image.sections.iter().filter(|(section, _)| section == name).map(|(_, bytes)| bytes).sum()
}

/// Bytes of the functions that the inference reaches; 0 where it has no function of its own, or calls are not followed.
fn inference_bytes(image: &Image) -> u64 {
    if !image.thumb {
        return 0;
    }
    symbols::inference(image).map_or(0, |reached| reached.values().map(|callee| u64::from(callee.function.size)).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operators_are_known_by_their_module() {
        let name =
            "shiftformer::ops::entry::run::<shiftformer::kernels::armv7em::Armv7em, shiftformer::ops::linear::Linear>";
        assert_eq!(operator(name), Some("linear"));
        assert_eq!(operator("shiftformer::ops::entry::needs::<shiftformer::ops::linear::Linear>"), None);
    }
}
