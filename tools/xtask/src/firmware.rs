//! `cargo xtask firmware`: builds the programs of the boards.

use crate::digits;
use crate::error::Error;
use crate::process::{root, run};
use crate::setup::AARCH64;
use crate::toolchain::Toolchain;
use shiftformer_link::{Machine, machine};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A package of the firmware workspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Program {
    /// Package.
    pub name: &'static str,
    /// Files it is built into.
    pub files: &'static [&'static str],
    /// Boards it is built for.
    pub boards: &'static [Machine],
    /// Nothing but the inference: no panic machinery may be linked at all.
    pub only_inference: bool,
}

/// All programs.
pub const PROGRAMS: [Program; 4] = [
    Program { name: "runner", files: &["runner"], boards: &Machine::ALL, only_inference: false },
    Program {
        name: "inference",
        files: &["inference-all", "inference-vit"],
        boards: &Machine::ALL,
        only_inference: true,
    },
    Program {
        name: "digits",
        files: &["digits"],
        boards: &[machine::MPS2_AN386, machine::MICROBIT],
        only_inference: false,
    },
    Program { name: "kernel-tests", files: &["kernel-tests"], boards: &LARGE_BOARDS, only_inference: false },
];

/// Boards with memory for models of any size.
pub const LARGE_BOARDS: [Machine; 5] =
    [machine::MPS2_AN386, machine::MPS2_AN500, machine::MPS2_AN505, machine::MPS3_AN547, machine::M0_LARGE];

/// Place of the inference in [`PROGRAMS`].
pub const INFERENCE: usize = 1;

/// The board that is no microcontroller: a Linux process on another architecture.
pub const LINUX_BOARD: &str = "aarch64";

/// Where the program of a board lies once it is built.
pub fn path(board: &str, program: &str) -> PathBuf {
    root().join("target/firmware").join(board).join(program)
}

/// Builds the programs of `board`, or of all boards.
///
/// # Errors
/// When the board is unknown, the target cannot be had, or the build fails.
pub fn build(board: Option<&str>, program: Option<&str>) -> Result<(), Error> {
    let wanted = |p: &&Program| program.is_none_or(|name| name == p.name);
    let known = |name: &str| name == LINUX_BOARD || Machine::by_name(name).is_some();
    if let Some(name) = board.filter(|name| !known(name)) {
        let names: Vec<&str> = Machine::ALL.iter().map(|machine| machine.name).collect();
        return Err(Error::Usage(format!("unknown board {name}; known: {}, {LINUX_BOARD}", names.join(", "))));
    }
    if PROGRAMS.iter().filter(wanted).count() == 0 {
        let names = PROGRAMS.map(|p| p.name).join(", ");
        return Err(Error::Usage(format!("unknown program {}; known: {names}", program.unwrap_or(""))));
    }
    for p in PROGRAMS.iter().filter(wanted) {
        for machine in p.boards.iter().filter(|machine| board.is_none_or(|name| name == machine.name)) {
            build_program(p, machine)?;
        }
    }
    if board.is_none_or(|name| name == LINUX_BOARD) && program.is_none_or(|name| name == "runner") {
        build_linux_runner()?;
    }
    Ok(())
}

fn build_program(program: &Program, machine: &Machine) -> Result<(), Error> {
    eprintln!("xtask: building {} for {} ({})", program.name, machine.name, machine.core);
    let mut cargo = cargo(program, machine)?;
    if program.name == "digits" {
        cargo.env("SHIFTFORMER_DIGITS", digits::module()?);
    }
    run(&mut cargo)?;
    program.files.iter().try_for_each(|file| keep(machine.target, file, machine.name, file))
}

/// Builds the inference for `machine` with a fault in it (a feature of its package); returns the ELF file.
///
/// # Errors
/// As [`build`].
pub fn build_planted(machine: &Machine, feature: &str) -> Result<PathBuf, Error> {
    let program = &PROGRAMS[INFERENCE];
    let mut cargo = cargo(program, machine)?;
    cargo.arg("--features").arg(feature);
    run(&mut cargo)?;
    let file = program.files[0];
    keep(machine.target, file, "planted", feature)?;
    Ok(path("planted", feature))
}

fn cargo(program: &Program, machine: &Machine) -> Result<Command, Error> {
    let mut cargo = Toolchain::ensure(machine.target)?.cargo("build", machine.target, &flags(machine));
    cargo.args(["--quiet", "--release", "--package", program.name]);
    cargo.arg("--features").arg(format!("board/{}", machine.name));
    cargo.current_dir(root().join("firmware"));
    Ok(cargo)
}

fn build_linux_runner() -> Result<(), Error> {
    let toolchain = Toolchain::ensure(AARCH64)?;
    eprintln!("xtask: building runner for {LINUX_BOARD}");
    let mut cargo = toolchain.cargo("build", AARCH64, &[]);
    cargo.args(["--quiet", "--release", "--package", "shiftformer-link", "--example", "runner"]);
    run(cargo.current_dir(root()))?;
    keep(AARCH64, "examples/runner", LINUX_BOARD, "runner")
}

/// Compiler flags of a board.
pub fn flags(machine: &Machine) -> Vec<String> {
    if machine.cpu == machine::MPS2_AN505.cpu {
        // Naming the core does not let the assembler have its DSP instructions, naming the feature does.
        return vec!["-Ctarget-feature=+dsp".to_owned()];
    }
    vec![format!("-Ctarget-cpu={}", machine.cpu)]
}

/// Copies a program from cargo's folder, which boards of one target share, to the board's own.
fn keep(target: &str, built: &str, board: &str, program: &str) -> Result<(), Error> {
    let from = root().join("target/cross").join(target).join("release").join(built);
    let to = path(board, program);
    let folder = to.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(Error::io(format!("make {}", folder.display())))?;
    // Renamed into place: an emulator may be reading the old one.
    let part = to.with_extension("part");
    let doing = format!("copy {} to {}", from.display(), to.display());
    fs::copy(&from, &part).and_then(|_| fs::rename(&part, &to)).map_err(Error::io(doing))
}
