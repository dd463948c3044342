//! `cargo xtask firmware`: builds the programs of the boards.

use crate::error::Error;
use crate::process::{root, run};
use crate::setup::AARCH64;
use crate::toolchain::Toolchain;
use shiftformer_job::{Machine, machine};
use std::fs;
use std::path::{Path, PathBuf};

/// A program of the firmware workspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Program {
    /// Package and file name.
    pub name: &'static str,
    /// Boards it is built for.
    pub boards: &'static [Machine],
}

/// All programs.
pub const PROGRAMS: [Program; 1] = [Program { name: "runner", boards: &Machine::ALL }];

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
    let toolchain = Toolchain::ensure(machine.target)?;
    eprintln!("xtask: building {} for {} ({})", program.name, machine.name, machine.core);
    let mut cargo = toolchain.cargo("build", machine.target, &flags(machine));
    cargo.args(["--quiet", "--release", "--package", program.name]);
    cargo.arg("--features").arg(format!("board/{}", machine.name));
    if machine.name == machine::MICROBIT.name {
        // Program and model share 256 KB; counts for this core come from `m0-large`.
        cargo.env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "s");
    }
    run(cargo.current_dir(root().join("firmware")))?;
    keep(machine.target, program.name, machine.name, program.name)
}

fn build_linux_runner() -> Result<(), Error> {
    let toolchain = Toolchain::ensure(AARCH64)?;
    eprintln!("xtask: building runner for {LINUX_BOARD}");
    let mut cargo = toolchain.cargo("build", AARCH64, &[]);
    cargo.args(["--quiet", "--release", "--package", "shiftformer-job", "--example", "runner"]);
    run(cargo.current_dir(root()))?;
    keep(AARCH64, "examples/runner", LINUX_BOARD, "runner")
}

/// Compiler flags of a board.
pub fn flags(machine: &Machine) -> Vec<String> {
    let mut flags = vec![format!("-Ctarget-cpu={}", machine.cpu)];
    if machine.target.starts_with("thumbv8m.main") {
        // Optional in the architecture, so that the compiler wants it named, whatever the core.
        flags.push("-Ctarget-feature=+dsp".to_owned());
    }
    flags
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

