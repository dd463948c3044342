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

use crate::error::Error;
use crate::firmware::{self, PROGRAMS, Program};
use crate::process::root;
use elf::Image;
use shiftformer_link::{Machine, machine};
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
    // The kernel tests are tests: they may format and panic.
    for program in PROGRAMS.iter().filter(|program| program.name != "kernel-tests") {
        for machine in program.boards.iter().filter(|machine| board.is_none_or(|name| name == machine.name)) {
            for file in program.files {
                let found = audit_file(&firmware::path(machine.name, file), machine, program)?;
                println!("{}: {file} on {}: {} findings", mark(found.is_empty()), machine.name, found.len());
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

/// Everything wrong with one ELF file.
fn audit_file(path: &Path, machine: &Machine, program: &Program) -> Result<Vec<String>, Error> {
    let image = Image::read(path)?;
    let mut findings = symbols::forbidden(&image);
    let helium = machine.cpu == machine::MPS3_AN547.cpu;
    findings.extend(float::instructions(&image, helium));
    findings.extend(if program.only_inference { symbols::panics(&image) } else { symbols::reachable_panics(&image) });
    let place = format!("{} on {}", path.file_name().unwrap_or_default().to_string_lossy(), machine.name);
    Ok(findings.into_iter().map(|finding| format!("{place}: {finding}")).collect())
}

/// Builds the inference with a fault planted in it, and expects the audit to find it.
fn self_test() -> Result<(), Error> {
    for (feature, words) in PLANTED {
        // Floats are instructions on a core that has them, and routines on one that has not.
        let board = if feature == "plant-soft-float" { &machine::M0_LARGE } else { &machine::MPS2_AN386 };
        let program = &PROGRAMS[firmware::INFERENCE];
        let elf = firmware::build_planted(board, feature)?;
        let findings = audit_file(&elf, board, program)?;
        if !findings.iter().any(|finding| finding.contains(words)) {
            return Err(Error::Check(format!("the audit does not see `{feature}`; it found {findings:?}")));
        }
        println!("ok: the audit sees {feature}");
    }
    Ok(())
}
