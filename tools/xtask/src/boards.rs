//! The boards: what `firmware/boards/*/board.toml` says of them, and the list that other crates have of it.
//!
//! A file describes one board. Boards without programs have one in `firmware/catalog` instead of a folder. `[fit]` makes it a row of `shiftformer fit`, `[build]` says how its package is compiled
//! and which programs it has, `[emulator]` makes it a machine and a backend `qemu:NAME`, `[node]` names an emulator of
//! its own, in JavaScript.

use crate::error::Error;
use crate::process::{root, run};
use serde::Deserialize;
use shiftformer_link::Core;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Folders of boards with programs.
pub const BOARDS: &str = "firmware/boards";
/// Descriptions of boards without programs.
const CATALOG: &str = "firmware/catalog";
/// What describes a board in its folder.
const FILE: &str = "board.toml";
/// The list that [`write_list`] writes.
const LIST: &str = "tools/link/src/boards.rs";

/// What a folder says of its board.
#[derive(Debug)]
pub struct Description {
    /// Name of the folder and of its package, or of the file in the catalog.
    pub name: String,
    /// A row of `fit`.
    fit: Option<Fit>,
    /// How programs are built.
    build: Option<Build>,
    /// The machine of QEMU that they run on.
    emulator: Option<Emulator>,
    /// The script that runs them.
    node: Option<Node>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    fit: Option<Fit>,
    build: Option<Build>,
    emulator: Option<Emulator>,
    node: Option<Node>,
}

/// A package of Node.js that runs programs.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// Its folder in that of the board, with `package.json` and `run.mjs`.
    pub folder: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Fit {
    name: String,
    chip: String,
    core: Core,
    clock_mhz: u32,
    flash_kib: u32,
    ram_kib: u32,
    source: String,
}

/// How the programs of a board are built.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Build {
    /// Rust target.
    pub target: String,
    /// Flags for the compiler.
    pub flags: Vec<String>,
    /// Programs, each a feature of the board's package.
    pub programs: Vec<Program>,
}

/// A program: a package in `firmware/programs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Program {
    /// Executes jobs of the host.
    Runner,
    /// The inference alone.
    Inference,
    /// The digits demo.
    Digits,
    /// The case table of the kernels.
    KernelTests,
    /// The calculator demo.
    Calculator,
    /// The story demo.
    Story,
    /// The other end of `shiftformer device`.
    Device,
    /// Steps between interrupts.
    Soak,
    /// The keyword spotter.
    Kws,
    /// Inference beside another task.
    Tasks,
    /// The digits by a model in external flash.
    Stream,
}

impl Program {
    /// All programs, in the order they are built and listed in.
    pub const ALL: [Self; 11] = [
        Self::Runner,
        Self::Inference,
        Self::Digits,
        Self::KernelTests,
        Self::Calculator,
        Self::Story,
        Self::Device,
        Self::Soak,
        Self::Kws,
        Self::Tasks,
        Self::Stream,
    ];

    /// Name of the package.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Runner => "runner",
            Self::Inference => "inference",
            Self::Digits => "digits",
            Self::KernelTests => "kernel-tests",
            Self::Calculator => "calculator",
            Self::Story => "story",
            Self::Device => "device",
            Self::Soak => "soak",
            Self::Kws => "kws",
            Self::Tasks => "tasks",
            Self::Stream => "stream",
        }
    }

    /// Files it is built into.
    pub const fn files(self) -> &'static [Binary] {
        match self {
            Self::Runner => &[Binary::Runner],
            Self::Inference => &[Binary::InferenceAll, Binary::InferenceVit],
            Self::Digits => &[Binary::Digits],
            Self::KernelTests => &[Binary::KernelTests],
            Self::Calculator => &[Binary::Calculator],
            Self::Story => &[Binary::Story],
            Self::Device => &[Binary::Device],
            Self::Soak => &[Binary::Soak],
            Self::Kws => &[Binary::Kws],
            Self::Tasks => &[Binary::Tasks],
            Self::Stream => &[Binary::Stream],
        }
    }
}

/// A file that a program is built into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binary {
    /// Of [`Program::Runner`].
    Runner,
    /// The inference with every operator.
    InferenceAll,
    /// The inference with the operators of a vision transformer.
    InferenceVit,
    /// Of [`Program::Digits`].
    Digits,
    /// Of [`Program::KernelTests`].
    KernelTests,
    /// Of [`Program::Calculator`].
    Calculator,
    /// Of [`Program::Story`].
    Story,
    /// Of [`Program::Device`].
    Device,
    /// Of [`Program::Soak`].
    Soak,
    /// Of [`Program::Kws`].
    Kws,
    /// Of [`Program::Tasks`].
    Tasks,
    /// Of [`Program::Stream`].
    Stream,
}

impl Binary {
    /// Name of the file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Runner => "runner",
            Self::InferenceAll => "inference-all",
            Self::InferenceVit => "inference-vit",
            Self::Digits => "digits",
            Self::KernelTests => "kernel-tests",
            Self::Calculator => "calculator",
            Self::Story => "story",
            Self::Device => "device",
            Self::Soak => "soak",
            Self::Kws => "kws",
            Self::Tasks => "tasks",
            Self::Stream => "stream",
        }
    }
}

/// Where the programs of a board run.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Emulator {
    program: String,
    arguments: Vec<String>,
    core: Core,
    counts: Vec<Core>,
    #[serde(default = "both")]
    portable: bool,
    job_address: u32,
    job_bytes: u32,
    counter_hz: u32,
}

/// Where nothing is said a runner holds the portable kernels too.
fn both() -> bool {
    true
}

/// A board with programs.
#[derive(Clone, Debug)]
pub struct Target {
    /// Name of the board.
    pub board: String,
    /// How they are built.
    pub build: Build,
    /// The script that runs them.
    pub node: Option<Node>,
}

/// All descriptions, by name.
///
/// # Errors
/// When a file cannot be read or says something unknown.
pub fn descriptions() -> Result<Vec<Description>, Error> {
    let mut all: Vec<Description> = Vec::new();
    for path in entries(BOARDS)?.into_iter().map(|folder| folder.join(FILE)).filter(|path| path.is_file()) {
        all.push(description(path.parent(), &path)?);
    }
    for path in entries(CATALOG)? {
        let described = description(Some(&path.with_extension("")), &path)?;
        if described.build.is_some() || described.emulator.is_some() || described.node.is_some() {
            return Err(Error::Usage(format!("{}: a board with programs has a folder in {BOARDS}", path.display())));
        }
        all.push(described);
    }
    all.sort_by(|a, b| a.name.cmp(&b.name));
    let twice = all.iter().zip(all.iter().skip(1)).find(|(a, b)| a.name == b.name);
    if let Some((board, _)) = twice {
        return Err(Error::Usage(format!("there are two boards {}", board.name)));
    }
    Ok(all)
}

/// What a folder of the repository holds.
fn entries(folder: &str) -> Result<Vec<PathBuf>, Error> {
    let entries = root().join(folder).read_dir().and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let entries = entries.map_err(Error::io(format!("list {folder}")))?;
    Ok(entries.into_iter().map(|entry| entry.path()).collect())
}

/// What the file at `path` says of the board that `named` ends in.
fn description(named: Option<&Path>, path: &Path) -> Result<Description, Error> {
    let text = fs::read_to_string(path).map_err(Error::io(format!("read {}", path.display())))?;
    let File { fit, build, emulator, node } =
        toml::from_str(&text).map_err(|e| Error::Usage(format!("{}: {e}", path.display())))?;
    let name = named.and_then(Path::file_name).unwrap_or_default().to_string_lossy().into_owned();
    Ok(Description { name, fit, build, emulator, node })
}

/// The boards with programs, by name.
///
/// # Errors
/// As [`descriptions`].
pub fn targets() -> Result<Vec<Target>, Error> {
    let target = |Description { name, build, node, .. }: Description| Some(Target { board: name, build: build?, node });
    Ok(descriptions()?.into_iter().filter_map(target).collect())
}

/// The board of this name, which has programs.
///
/// # Errors
/// [`Error::Usage`] when there is none.
pub fn target(board: &str) -> Result<Target, Error> {
    let all = targets()?;
    let names = || all.iter().map(|target| target.board.as_str()).collect::<Vec<_>>().join(", ");
    let unknown = || Error::Usage(format!("unknown board {board}; known: {}", names()));
    all.iter().find(|target| target.board == board).cloned().ok_or_else(unknown)
}

/// Writes the list anew where it is not what the descriptions say.
///
/// # Errors
/// As [`descriptions`], and when the file cannot be written.
pub fn write_list() -> Result<(), Error> {
    let (path, list) = (root().join(LIST), list(descriptions()?)?);
    if fs::read_to_string(&path).is_ok_and(|old| old == list) {
        return Ok(());
    }
    eprintln!("xtask: writing {LIST}");
    fs::write(&path, list).map_err(Error::io(format!("write {}", path.display())))
}

/// Checks that the list is what the descriptions say, and that cargo compiles in a board's folder as tasks do.
///
/// # Errors
/// [`Error::Check`] when it is not.
pub fn check_list() -> Result<(), Error> {
    targets()?.iter().try_for_each(check_settings)?;
    let path = root().join(LIST);
    let old = fs::read_to_string(&path).map_err(Error::io(format!("read {}", path.display())))?;
    if old == list(descriptions()?)? {
        return Ok(());
    }
    Err(Error::Check(format!("{LIST} is not what the boards' descriptions say; run `cargo xtask boards`")))
}

/// Compares the settings of cargo in a board's folder, if it has any, with its description.
fn check_settings(target: &Target) -> Result<(), Error> {
    #[derive(Deserialize)]
    struct Settings {
        build: BuildSettings,
        target: BTreeMap<String, TargetSettings>,
    }
    #[derive(Deserialize)]
    struct BuildSettings {
        target: String,
    }
    #[derive(Deserialize)]
    struct TargetSettings {
        rustflags: Vec<String>,
        runner: String,
    }
    let Target { board, build, .. } = target;
    let path = root().join(BOARDS).join(board).join(".cargo/config.toml");
    if !path.is_file() {
        return Ok(());
    }
    let wrong = |what: &str| Error::Check(format!("{}: {what}", path.display()));
    let text = fs::read_to_string(&path).map_err(Error::io(format!("read {}", path.display())))?;
    let settings: Settings = toml::from_str(&text).map_err(|error| wrong(&error.to_string()))?;
    match settings.target.get(&build.target) {
        Some(own)
            if own.rustflags == build.flags && !own.runner.is_empty() && settings.build.target == build.target =>
        {
            Ok(())
        }
        Some(_) | None => Err(wrong(&format!("target or flags are not those of {FILE}"))),
    }
}

/// The source text of the list, formatted.
fn list(descriptions: Vec<Description>) -> Result<String, Error> {
    let mut text = String::from(
        "//! The boards, from `firmware/boards/*/board.toml` and `firmware/catalog` by `cargo xtask boards`: edit\n//! those.\n\nuse crate::{Board, Core, \
         Machine};\n",
    );
    let emulated: Vec<_> =
        descriptions.iter().filter_map(|board| Some((&board.name, board.emulator.as_ref()?))).collect();
    for (name, emulator) in &emulated {
        // Writing to a string does not fail.
        let _ = writeln!(text, "\n/// `{name}`.\npub const {}: Machine = {};", constant(name), machine(name, emulator));
    }
    let names: Vec<String> = emulated.iter().map(|(name, _)| constant(name)).collect();
    let _ = writeln!(
        text,
        "\n/// The emulated machines, by name.\npub const MACHINES: [Machine; {}] = [{}];",
        names.len(),
        names.join(", ")
    );
    let mut rows: Vec<_> = descriptions.iter().filter_map(|board| Some((&board.name, board.fit.as_ref()?))).collect();
    rows.sort_by_key(|(name, fit)| (fit.core, fit.ram_kib, fit.flash_kib, *name));
    let _ = writeln!(
        text,
        "\n/// The boards that `shiftformer fit` knows, by core, then RAM, then flash.\npub const BOARDS: [Board; {}] = [{}];",
        rows.len(),
        rows.iter().map(|(name, fit)| board(name, fit)).collect::<String>()
    );
    formatted(&text)
}

fn constant(name: &str) -> String {
    name.to_uppercase().replace(['-', '.'], "_")
}

fn core(core: Core) -> String {
    format!("Core::{}", core.variant())
}

/// `0x2100_0000`.
fn hexadecimal(value: u32) -> String {
    format!("{:#06x}_{:04x}", value >> 16, value & 0xffff)
}

/// `25_000_000`.
fn thousands(value: u32) -> String {
    if value < 1000 { value.to_string() } else { format!("{}_{:03}", thousands(value / 1000), value % 1000) }
}

fn machine(name: &str, emulator: &Emulator) -> String {
    let Emulator { program, arguments, core: own, counts, portable, job_address, job_bytes, counter_hz } = emulator;
    let counts: Vec<String> = counts.iter().copied().map(core).collect();
    format!(
        "Machine {{ name: {name:?}, emulator: {program:?}, arguments: &{arguments:?}, core: {}, counts: &[{}], \
         portable: {portable}, job_address: {}, job_bytes: {}, counter_hz: {} }}",
        core(*own),
        counts.join(", "),
        hexadecimal(*job_address),
        hexadecimal(*job_bytes),
        thousands(*counter_hz)
    )
}

fn board(key: &str, fit: &Fit) -> String {
    let Fit { name, chip, core: own, clock_mhz, flash_kib, ram_kib, source } = fit;
    format!(
        "Board {{ key: {key:?}, name: {name:?}, chip: {chip:?}, core: {}, clock_mhz: {clock_mhz}, \
         flash_kib: {flash_kib}, ram_kib: {ram_kib}, source: {source:?} }},",
        core(*own)
    )
}

/// `text` as rustfmt writes it.
fn formatted(text: &str) -> Result<String, Error> {
    let path = root().join("target/boards.rs");
    let doing = format!("write {}", path.display());
    fs::create_dir_all(root().join("target")).and_then(|()| fs::write(&path, text)).map_err(Error::io(doing))?;
    run(Command::new("rustfmt").args(["--edition", "2024"]).arg(&path).current_dir(root()))?;
    fs::read_to_string(&path).map_err(Error::io(format!("read {}", path.display())))
}
