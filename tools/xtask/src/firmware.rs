//! `cargo xtask firmware`: builds the programs of the boards.

use crate::boards::{self, Binary, Program, Target};
use crate::error::Error;
use crate::process::{root, run};
use crate::setup::AARCH64;
use crate::toolchain::{self, Toolchain};
use crate::{digits, keywords, language};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

/// Names of functions hold their type parameters: the audit and the size table tell operators apart by them. The default
/// of compilers differs.
pub const SYMBOLS: &str = "-Csymbol-mangling-version=v0";

/// The board that is no microcontroller: a Linux process on another architecture.
pub const LINUX_BOARD: &str = "aarch64";

/// Where the program of a board lies once it is built.
pub fn path(board: &str, program: &str) -> PathBuf {
    root().join("target/firmware").join(board).join(program)
}

/// Builds the programs of `board`, or of all boards.
///
/// # Errors
/// When the board is unknown or lacks the program, the target cannot be installed, or the build fails.
pub fn build(board: Option<&str>, program: Option<Program>) -> Result<(), Error> {
    boards::write_list()?;
    let targets = match board {
        None => boards::targets()?,
        Some(LINUX_BOARD) => Vec::new(),
        Some(board) => vec![boards::target(board)?],
    };
    let wanted = |p: &Program| program.is_none_or(|program| program == *p);
    let modules = Modules::of(&targets, &wanted)?;
    let build_all = |targets: Vec<&Target>| {
        let programs = targets.into_iter().flat_map(|target| target.build.programs.iter().map(move |&p| (p, target)));
        programs.filter(|(p, _)| wanted(p)).try_for_each(|(p, target)| build_program(p, target, &modules))
    };
    // The last step of a program takes one processor: those of two folders are built at once.
    let (first, second) = targets.iter().partition(|target| !toolchain::is_built_apart(&target.build.target));
    thread::scope(|scope| {
        let second = scope.spawn(|| build_all(second));
        let first = build_all(first);
        first.and(second.join().unwrap_or_else(|_| Err(Error::Check("a build thread panicked".to_owned()))))
    })?;
    let linux = board.is_none_or(|board| board == LINUX_BOARD) && wanted(&Program::Runner);
    let has = |target: &Target| target.build.programs.iter().any(wanted);
    if let (Some(board), Some(program), false) = (board, program, linux || targets.iter().any(has)) {
        return Err(Error::Usage(format!("{board} has no program {}", program.name())));
    }
    if linux { build_linux_runner() } else { Ok(()) }
}

/// The modules of models that programs are built with, each made once for all boards.
#[derive(Default)]
struct Modules {
    digits: Option<PathBuf>,
    calculator: Option<PathBuf>,
    story: Option<PathBuf>,
    kws: Option<PathBuf>,
}

impl Modules {
    fn of(targets: &[Target], wanted: &dyn Fn(&Program) -> bool) -> Result<Self, Error> {
        let needed = |p: Program| wanted(&p) && targets.iter().any(|target| target.build.programs.contains(&p));
        let language = |p: Program| needed(p).then(|| language::module(p)).transpose();
        Ok(Self {
            digits: [Program::Digits, Program::Soak, Program::Tasks, Program::Stream]
                .into_iter()
                .any(needed)
                .then(digits::module)
                .transpose()?,
            calculator: language(Program::Calculator)?,
            story: language(Program::Story)?,
            kws: needed(Program::Kws).then(keywords::module).transpose()?,
        })
    }

    /// The variable that names the module of a program, and the module.
    fn variable(&self, program: Program) -> Option<(&'static str, &Path)> {
        let (name, module) = match program {
            Program::Digits => ("SHIFTFORMER_DIGITS", &self.digits),
            Program::Soak => ("SHIFTFORMER_SOAK", &self.digits),
            Program::Tasks => ("SHIFTFORMER_TASKS", &self.digits),
            Program::Stream => ("SHIFTFORMER_STREAM", &self.digits),
            Program::Calculator => ("SHIFTFORMER_CALCULATOR", &self.calculator),
            Program::Story => ("SHIFTFORMER_STORY", &self.story),
            Program::Kws => ("SHIFTFORMER_KWS", &self.kws),
            Program::Runner | Program::Inference | Program::KernelTests | Program::Device => return None,
        };
        Some((name, module.as_deref()?))
    }
}

fn build_program(program: Program, target: &Target, modules: &Modules) -> Result<(), Error> {
    eprintln!("xtask: building {} for {}", program.name(), target.board);
    let toolchain = Toolchain::ensure(&target.build.target)?;
    let mut cargo = cargo(&toolchain, program, target);
    cargo.envs(modules.variable(program));
    run(&mut cargo)?;
    let keep = |name| keep(&toolchain, &target.build.target, name, &target.board, name);
    program.files().iter().try_for_each(|binary| keep(binary.name()))
}

/// Builds the inference for a board with a fault in it (a feature of its package); returns the ELF file.
///
/// # Errors
/// As [`build`].
pub fn build_planted(target: &Target, feature: &str) -> Result<PathBuf, Error> {
    let toolchain = Toolchain::ensure(&target.build.target)?;
    let mut cargo = cargo(&toolchain, Program::Inference, target);
    cargo.arg("--features").arg(format!("inference/{feature}"));
    run(&mut cargo)?;
    keep(&toolchain, &target.build.target, Binary::InferenceAll.name(), "planted", feature)?;
    Ok(path("planted", feature))
}

fn cargo(toolchain: &Toolchain, program: Program, target: &Target) -> Command {
    let flags: Vec<String> = target.build.flags.iter().cloned().chain([SYMBOLS.to_owned()]).collect();
    let mut cargo = toolchain.cargo("build", &target.build.target, &flags);
    cargo.args(["--quiet", "--release", "--package", &target.board, "--bins"]);
    cargo.args(["--no-default-features", "--features", program.name()]);
    cargo.current_dir(root().join("firmware"));
    cargo
}

fn build_linux_runner() -> Result<(), Error> {
    let toolchain = Toolchain::ensure(AARCH64)?;
    eprintln!("xtask: building runner for {LINUX_BOARD}");
    let mut cargo = toolchain.cargo("build", AARCH64, &[]);
    cargo.args(["--quiet", "--release", "--package", "shiftformer-link", "--example", "runner"]);
    run(cargo.current_dir(root()))?;
    keep(&toolchain, AARCH64, "examples/runner", LINUX_BOARD, "runner")
}

/// Copies a program from cargo's folder, which boards of one target share, to the board's own.
fn keep(toolchain: &Toolchain, target: &str, built: &str, board: &str, program: &str) -> Result<(), Error> {
    let from = toolchain.output(target).join(target).join("release").join(built);
    let to = path(board, program);
    let folder = to.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(Error::io(format!("make {}", folder.display())))?;
    // Renamed into place: an emulator may be reading the old one.
    let part = to.with_extension("part");
    let doing = format!("copy {} to {}", from.display(), to.display());
    fs::copy(&from, &part).and_then(|_| fs::rename(&part, &to)).map_err(Error::io(doing))
}
