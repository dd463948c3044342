//! `cargo xtask count-arm`: executed instructions of one inference on emulated AArch64 cores, written to
//! `docs/benchmarks-arm.md`.
//!
//! The counter is a plugin of the emulator (`count.c`), the program `runtime/examples/count.rs`.

use crate::digits::shiftformer;
use crate::error::Error;
use crate::process::{root, run, shown};
use crate::setup::AARCH64;
use crate::toolchain::Toolchain;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The file the tables go to.
const REPORT: &str = "docs/benchmarks-arm.md";
/// What stands before the tables, and what is written by hand behind them.
const HEAD: &str = include_str!("head.md");
const TAIL: &str = include_str!("tail.md");

/// The option of the program that runs every operator at once for all its rows.
const WHOLE: &str = "whole";

/// An emulated core and its fastest products.
struct Core {
    name: &'static str,
    qemu: &'static str,
    products: &'static str,
}

const CORES: [Core; 3] = [
    Core { name: "max", qemu: "max,pauth-impdef=on", products: "SMMLA" },
    Core { name: "neoverse-n1", qemu: "neoverse-n1", products: "SDOT" },
    Core { name: "cortex-a53", qemu: "cortex-a53", products: "SMULL" },
];

/// A model that is counted, and what is aimed at on each core of [`CORES`], in millions.
struct Model {
    title: &'static str,
    name: &'static str,
    onnx: &'static str,
    data: &'static str,
    aims: [Option<u64>; 3],
    /// onnxruntime's int8, in millions; see the text.
    alternative: [Option<f64>; 3],
}

const MODELS: [Model; 2] = [
    Model {
        title: "DeiT-Tiny",
        name: "deit-tiny",
        onnx: "deit-tiny/deit-tiny-random.onnx",
        data: "deit-tiny/eval.npz",
        aims: [Some(90), Some(120), Some(380)],
        alternative: [Some(213.0), Some(255.0), None],
    },
    Model {
        title: "KWT-1",
        name: "kwt1",
        onnx: "kwt1/kwt1.onnx",
        data: "kwt1/eval.npz",
        aims: [Some(11), Some(13), None],
        alternative: [Some(25.5), Some(27.5), None],
    },
];

/// Counts every model on every core and writes the report. `models` is the folder of the models.
///
/// # Errors
/// [`Error::Missing`] when the models are not there, and when something does not build, convert or run.
pub fn run_all(models: &Path) -> Result<(), Error> {
    for model in &MODELS {
        if !models.join(model.onnx).is_file() {
            let what = models.join(model.onnx).display().to_string();
            return Err(Error::Missing { what, how: "name the folder of the models with --models".to_owned() });
        }
    }
    let folder = root().join("target/count-arm");
    fs::create_dir_all(&folder).map_err(Error::io(format!("make {}", folder.display())))?;
    let emulator = Emulator { plugin: plugin(&folder)?, program: program()? };
    let mut totals = String::from(
        "| model | core | products | in blocks of rows, M | whole operators, M | aim, M | | onnxruntime int8, M | fewer |\n\
         |---|---|---|---|---|---|---|---|---|\n",
    );
    let mut parts = String::new();
    for model in &MODELS {
        let file = convert(models, model, &folder)?;
        for (index, core) in CORES.iter().enumerate() {
            let [blocks, count] = [emulator.inference(core, &file, &[])?, emulator.inference(core, &file, &[WHOLE])?];
            let (aim, mark) = match model.aims[index] {
                Some(aim) => (aim.to_string(), if count <= aim * 1_000_000 { "reached" } else { "missed" }),
                None => ("-".to_owned(), ""),
            };
            let (alternative, fewer) = match model.alternative[index] {
                Some(other) => (other.to_string(), format!("{:.2} x", other * 1e6 / count as f64)),
                None => ("-".to_owned(), "-".to_owned()),
            };
            // Writing to a string does not fail.
            let _ = writeln!(
                totals,
                "| {} | {} | {} | {} | {} | {aim} | {mark} | {alternative} | {fewer} |",
                model.title,
                core.name,
                core.products,
                millions(blocks),
                millions(count),
            );
        }
        parts.push_str(&by_kind(&emulator, model, &file)?);
    }
    let report = format!(
        "{HEAD}\n{totals}\n## By kind of operator\n\nWhole operators, millions of instructions.\n{parts}\n{TAIL}"
    );
    print!("{report}");
    let path = root().join(REPORT);
    fs::write(&path, report).map_err(Error::io(format!("write {}", path.display())))
}

fn millions(count: u64) -> String {
    format!("{:.2}", count as f64 / 1e6)
}

/// Builds the plugin with the C compiler of this machine.
fn plugin(folder: &Path) -> Result<PathBuf, Error> {
    let plugin = folder.join("count.so");
    let mut compile = Command::new("cc");
    compile.args(["-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o"]).arg(&plugin);
    run(compile.arg(root().join("tools/xtask/src/arm/count.c")))?;
    Ok(plugin)
}

/// Builds the counted program.
fn program() -> Result<PathBuf, Error> {
    let toolchain = Toolchain::ensure(AARCH64)?;
    let mut build = toolchain.cargo("build", AARCH64, &[]);
    build.args(["--quiet", "--release", "--package", "shiftformer", "--features", "std", "--example", "count"]);
    run(build.current_dir(root()))?;
    Ok(toolchain.output(AARCH64).join(AARCH64).join("release/examples/count"))
}

/// Converts a model as `convert` does by itself.
fn convert(models: &Path, model: &Model, folder: &Path) -> Result<PathBuf, Error> {
    let file = folder.join(format!("{}.sfm", model.name));
    // The command runs in the root of the workspace.
    let models = fs::canonicalize(models).map_err(Error::io(format!("find {}", models.display())))?;
    let mut convert = shiftformer();
    convert.arg("convert").arg(models.join(model.onnx)).arg("--calib").arg(models.join(model.data));
    run(convert.arg("-o").arg(&file))?;
    Ok(file)
}

/// The emulator with the counter, and the program it runs.
struct Emulator {
    plugin: PathBuf,
    program: PathBuf,
}

/// What the emulator counted until each mark and the end, and what the program said.
struct Counted {
    counts: Vec<u64>,
    lines: Vec<String>,
}

impl Emulator {
    fn count(&self, core: &Core, model: &Path, arguments: &[&str]) -> Result<Counted, Error> {
        let mut command = Command::new("qemu-aarch64");
        command.args(["-cpu", core.qemu, "-L", "/usr/aarch64-linux-gnu", "-plugin"]).arg(&self.plugin);
        command.args(["-d", "plugin"]).arg(&self.program).arg(model).args(arguments);
        let output = command.output().map_err(Error::io(format!("start `{}`", shown(&command))))?;
        if !output.status.success() {
            return Err(Error::Command(shown(&command)));
        }
        let text = String::from_utf8_lossy(&output.stderr);
        let counts = text.lines().map(|line| line.trim().parse()).collect::<Result<Vec<u64>, _>>();
        let counts = counts.map_err(|_| Error::Check(format!("the counter says: {text}")))?;
        let lines = String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect();
        Ok(Counted { counts, lines })
    }

    /// Instructions of one inference: half of what three take more than one.
    fn inference(&self, core: &Core, model: &Path, options: &[&str]) -> Result<u64, Error> {
        let total = |runs: &str| {
            let counted = self.count(core, model, &[&[runs], options].concat())?;
            counted.counts.last().copied().ok_or_else(|| Error::Check("the counter says nothing".to_owned()))
        };
        let (one, three) = (total("1")?, total("3")?);
        Ok(three.saturating_sub(one) / 2)
    }

    /// Operators and instructions of the second inference, by kind.
    fn kinds(&self, core: &Core, model: &Path) -> Result<BTreeMap<String, (usize, u64)>, Error> {
        let Counted { counts, lines } = self.count(core, model, &["2", WHOLE, "ops"])?;
        // Before each inference and after each operator there is a mark, then the end of the program. Only kinds are
        // words; digests follow.
        let marks = counts.len().saturating_sub(1) / 2;
        let second = counts.get(marks..2 * marks).unwrap_or(&[]);
        let names = lines.get(marks.saturating_sub(1)..2 * marks.saturating_sub(1)).unwrap_or(&[]);
        if marks == 0 || names.len() != marks - 1 {
            return Err(Error::Check("marks and operators do not fit together".to_owned()));
        }
        let mut kinds = BTreeMap::new();
        for (name, pair) in names.iter().zip(second.windows(2)) {
            let (operators, instructions) = kinds.entry(name.clone()).or_insert((0, 0));
            *operators += 1;
            *instructions += pair[1] - pair[0];
        }
        Ok(kinds)
    }
}

/// The table of one model by kind of operator.
fn by_kind(emulator: &Emulator, model: &Model, file: &Path) -> Result<String, Error> {
    let mut rows: BTreeMap<String, (usize, Vec<u64>)> = BTreeMap::new();
    for (index, core) in CORES.iter().enumerate() {
        for (kind, (operators, instructions)) in emulator.kinds(core, file)? {
            let (count, columns) = rows.entry(kind).or_insert((operators, vec![0; CORES.len()]));
            *count = operators;
            columns[index] = instructions;
        }
    }
    let names = CORES.map(|core| core.products).join(" | ");
    let mut table = format!("\n| {} | operators | {names} |\n|---|---|---|---|---|\n", model.title);
    let mut rows: Vec<_> = rows.into_iter().collect();
    rows.sort_by_key(|(_, (_, columns))| std::cmp::Reverse(columns.clone()));
    for (kind, (operators, columns)) in rows {
        let columns: Vec<String> = columns.into_iter().map(millions).collect();
        let _ = writeln!(table, "| {kind} | {operators} | {} |", columns.join(" | "));
    }
    Ok(table)
}
