//! `cargo xtask audit`: what is linked into the firmware holds to what the runtime promises.
//!
//! In the release ELF of every program and board: no floating-point instruction, no soft-float routine, no allocator; in
//! what the inference can reach, no panic machinery; the programs that are nothing but the inference have none at all.
//! In `runtime/src`: no float outside of tests.

pub mod elf;
mod float;
mod source;
pub mod symbols;
mod thumb;

use crate::boards::{self, Program};
use crate::error::Error;
use crate::firmware;
use crate::process::root;
use elf::Image;
use shiftformer_link::{Core, Machine, boards as list};
use std::path::Path;

/// Feature that plants something, and the words of the finding that must follow.
const PLANTED: [(&str, &str); 3] =
    [("plant-float", "floating-point instruction"), ("plant-soft-float", "soft-float"), ("plant-panic", "panic")];

/// Audits the programs of `board`, or of all boards, and the sources, and checks that the audit finds what is planted.
///
/// # Errors
/// [`Error::Check`] with the number of findings, which are printed.
pub fn run(build: bool, board: Option<&str>) -> Result<(), Error> {
    if build {
        firmware::build(board, None)?;
    }
    let mut findings = source::floats(&root().join("runtime/src"))?;
    for target in boards::targets()?.iter().filter(|target| board.is_none_or(|name| name == target.board)) {
        for &program in &target.build.programs {
            let rule = match program {
                Program::Inference | Program::Kws => Panics::NoneLinked,
                Program::Runner
                | Program::Digits
                | Program::Calculator
                | Program::Story
                | Program::Device
                | Program::Soak
                | Program::Tasks
                | Program::Stream => Panics::NoneReached,
                // Tests may format and panic.
                Program::KernelTests => continue,
            };
            for file in program.files().iter().map(|binary| binary.name()) {
                let found = audit_file(&firmware::path(&target.board, file), &target.board, rule)?;
                println!("{}: {file} on {}: {} findings", mark(found.is_empty()), target.board, found.len());
                findings.extend(found);
            }
        }
    }
    for finding in &findings {
        println!("  {finding}");
    }
    self_test()?;
    if findings.is_empty() { Ok(()) } else { Err(Error::Check(format!("the audit has {} findings", findings.len()))) }
}

fn mark(good: bool) -> &'static str {
    if good { "ok" } else { "FAILED" }
}

/// Where a program may hold the panic machinery.
#[derive(Clone, Copy)]
enum Panics {
    /// Nowhere: the program is nothing but the inference.
    NoneLinked,
    /// Where the inference cannot reach it.
    NoneReached,
}

/// Everything wrong with one ELF file.
fn audit_file(path: &Path, board: &str, rule: Panics) -> Result<Vec<String>, Error> {
    let image = Image::read(path)?;
    let mut findings = symbols::forbidden(&image);
    let helium = Machine::by_name(board).is_some_and(|machine| machine.core == Core::M55);
    findings.extend(float::instructions(&image, helium));
    findings.extend(match rule {
        Panics::NoneLinked => symbols::panics(&image),
        Panics::NoneReached if image.thumb => symbols::reachable_panics(&image),
        // Calls are not followed there; the program that is nothing but the inference stands for this one.
        Panics::NoneReached => Vec::new(),
    });
    let place = format!("{} on {board}", path.file_name().unwrap_or_default().to_string_lossy());
    Ok(findings.into_iter().map(|finding| format!("{place}: {finding}")).collect())
}

/// Builds the inference with a fault planted in it, and expects the audit to find it.
fn self_test() -> Result<(), Error> {
    for (feature, words) in PLANTED {
        // Floats are instructions on a core that has them, and routines on one that has not.
        let board = if feature == "plant-soft-float" { list::M0_LARGE } else { list::MPS2_AN386 };
        let elf = firmware::build_planted(&boards::target(board.name)?, feature)?;
        let findings = audit_file(&elf, board.name, Panics::NoneLinked)?;
        if !findings.iter().any(|finding| finding.contains(words)) {
            return Err(Error::Check(format!("the audit does not see `{feature}`; it found {findings:?}")));
        }
        println!("ok: the audit sees {feature}");
    }
    Ok(())
}
