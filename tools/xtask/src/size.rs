//! `cargo xtask size`: what the programs take in flash.

use crate::audit::elf::Image;
use crate::audit::symbols;
use crate::error::Error;
use crate::firmware::{self, PROGRAMS};
use shiftformer_job::machine;
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

/// A change that needs more says why. The inference of the ViT set is weighed as it is counted, with every loop unrolled
/// for speed; the part of it in the demo, which is built for size, has 30 KB. The aim is 24 KB.
const BUDGETS: [Budget; 2] = [
    Budget { board: machine::MPS2_AN386.name, file: "digits", what: What::Text, bytes: 48 * 1024 },
    Budget { board: machine::MPS2_AN386.name, file: "inference-vit", what: What::Inference, bytes: 68 * 1024 },
];

/// Prints the table and checks the budgets.
///
/// # Errors
/// [`Error::Check`] when a program is larger than its budget.
pub fn run(build: bool) -> Result<(), Error> {
    if build {
        firmware::build(None, None)?;
    }
    println!("| program | board | core | .text | of it the inference | .rodata | .data + .bss |");
    println!("|---|---|---|---|---|---|---|");
    let mut over = Vec::new();
    for program in &PROGRAMS {
        for machine in program.boards {
            for file in program.files {
                let image = Image::read(&firmware::path(machine.name, file))?;
                let (text, inference) = (section(&image, ".text"), inference_bytes(&image));
                println!(
                    "| {file} | {} | {} | {text} | {inference} | {} | {} |",
                    machine.name,
                    machine.core,
                    section(&image, ".rodata"),
                    section(&image, ".data") + section(&image, ".bss") + section(&image, ".uninit"),
                );
                let here = BUDGETS.iter().filter(|budget| budget.board == machine.name && budget.file == *file);
                for budget in here {
                    let bytes = if budget.what == What::Text { text } else { inference };
                    if bytes > budget.bytes {
                        over.push(format!("{file} on {} takes {bytes} bytes of {}", machine.name, budget.bytes));
                    }
                }
            }
        }
    }
    if over.is_empty() { Ok(()) } else { Err(Error::Check(over.join("; "))) }
}

/// Prints the functions that the inference of an ELF file reaches, with their sizes.
///
/// # Errors
/// When the file cannot be read, and [`Error::Usage`] when it has no inference.
pub fn functions(elf: &Path) -> Result<(), Error> {
    let image = Image::read(elf)?;
    let none = || Error::Usage(format!("{} has no function `inference`", elf.display()));
    let reached = symbols::inference(&image).ok_or_else(none)?;
    let mut functions: Vec<_> = reached.values().map(|reached| reached.function).collect();
    functions.sort_by_key(|function| function.size);
    functions.iter().for_each(|function| println!("{:6} {}", function.size, function.name));
    println!("{:6} in all", inference_bytes(&image));
    Ok(())
}

fn section(image: &Image, name: &str) -> u64 {
    image.sections.iter().filter(|(section, _)| section == name).map(|(_, bytes)| bytes).sum()
}

/// Bytes of the functions that the inference reaches; 0 where it has no function of its own.
fn inference_bytes(image: &Image) -> u64 {
    symbols::inference(image).map_or(0, |reached| reached.values().map(|callee| u64::from(callee.function.size)).sum())
}
