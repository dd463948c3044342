//! `cargo xtask count`: instructions on the emulated cores beside those of CMSIS-NN, written to `BENCHMARKS.md`.

use crate::boards::{self, Program};
use crate::digits::{self, shiftformer};
use crate::emulate::Emulator;
use crate::error::Error;
use crate::process::{output, root, run};
use crate::toolchain::Toolchain;
use crate::{firmware, keywords};
use serde::Deserialize;
use shiftformer_link::boards::MPS2_AN386;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::env;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Variable that names the folder of public models.
const SHARED: &str = "SHIFTFORMER_SHARED";
/// The file the tables go to.
const REPORT: &str = "BENCHMARKS.md";

/// A model that is counted.
struct Model {
    name: &'static str,
    source: Source,
}

/// Where a model comes from.
#[derive(Clone, Copy)]
enum Source {
    /// Converted from the folder of public models.
    Public { onnx: &'static str, data: &'static str },
    /// Written by an example of the tools, without data: the input is made up.
    Example(&'static str),
    /// The bundled digits, as the demo has them.
    Digits,
    /// A file of the repository.
    Bundled(&'static str),
}

const fn public(name: &'static str, onnx: &'static str, data: &'static str) -> Model {
    Model { name, source: Source::Public { onnx, data } }
}

/// The public model without which nothing is counted.
const BLOCK_ONNX: &str = "models/block/block-50x64.onnx";
const BLOCK: Model = public("block", BLOCK_ONNX, "models/block/block-50x64.npz");
const KWT: Model = public("kwt1", "models/kwt1/kwt1.onnx", "models/kwt1/eval.npz");
const DEIT: Model = public("deit-tiny", "models/deit-tiny/deit-tiny-random.onnx", "models/deit-tiny/eval.npz");
const DIGITS: Model = Model { name: "digits", source: Source::Digits };
const TEXT: Model = Model { name: "text", source: Source::Bundled("models/text/text.sfm") };
const TOKEN: Model = Model { name: "token", source: Source::Example("token") };

/// What of a model is counted.
enum Part {
    /// The whole inference.
    Whole,
    /// The whole inference of one token of a decoder behind this many.
    Behind(u32),
    /// The last operator of this kind with this many multiply-accumulates; the figure is per multiply-accumulate.
    Op { kind: &'static str, macs: u64 },
    /// Bytes of stack that the whole inference needs, not its instructions.
    Stack,
    /// Opening the model as the module of `codegen` does.
    Open,
    /// The longest step.
    LongestStep,
    /// All steps, beyond a run without steps, in percent.
    Stepping,
}

/// One row of the table.
struct Row {
    work: &'static str,
    board: &'static str,
    model: &'static Model,
    part: Part,
    /// CMSIS-NN's best, as its unit wants.
    cmsis: &'static str,
    /// What is aimed at.
    target: f64,
}

/// CMSIS-NN commit 99f736a, GCC 12.2 -O3 (M55: clang 18), counted in the same emulator; the block without LayerNorm and
/// GELU, which it lacks.
const ROWS: [Row; 22] = [
    linear("M4: linear 50x64x192", &BLOCK, 50 * 64 * 192, "2.08", 0.95),
    linear("M4: linear 50x128x64", &BLOCK, 50 * 128 * 64, "1.77", 0.92),
    linear("M4: linear 197x192x576", &DEIT, 197 * 192 * 576, "1.62", 0.88),
    linear("M4: linear, one token 1x64x256", &TOKEN, 64 * 256, "2.65", 1.3),
    Row {
        part: Part::Op { kind: "attention", macs: 4 * 2 * 50 * 50 * 16 },
        ..linear("M4: attention, 4 heads 50 x 16, softmax included", &BLOCK, 0, "3.7 + 519 per score", 2.4)
    },
    whole("M4: encoder block", "mps2-an386", &BLOCK, "9.99 M", 2.6e6),
    whole("M33: encoder block", "mps2-an505", &BLOCK, "9.97 M", 2.6e6),
    whole("M55: encoder block", "mps3-an547", &BLOCK, "1.74 M", 0.6e6),
    whole("M0: encoder block", "m0-large", &BLOCK, "36.3 M", 14e6),
    whole("M4: KWT-1, one utterance", "mps2-an386", &KWT, "-", 90e6),
    stack("M4: stack of the encoder block, bytes", &BLOCK),
    stack("M4: stack of KWT-1, bytes", &KWT),
    stack("M4: stack of DeiT-Tiny, bytes", &DEIT),
    on_m4("M4: opening digits, proven by the build", &DIGITS, Part::Open, 0.25e6),
    on_m4("M4: opening KWT-1, proven by the build", &KWT, Part::Open, 3e6),
    on_m4("M4: longest step of digits", &DIGITS, Part::LongestStep, 60e3),
    on_m4("M4: longest step of KWT-1", &KWT, Part::LongestStep, 60e3),
    on_m4("M4: KWT-1 in steps, % more", &KWT, Part::Stepping, 8.0),
    token("M4: text model, one token at position 64", "mps2-an386", 0.42e6),
    token("M33: text model, one token at position 64", "mps2-an505", 0.42e6),
    token("M55: text model, one token at position 64", "mps3-an547", 0.16e6),
    token("M0: text model, one token at position 64", "m0-large", 2.2e6),
];

/// A token of the bundled text model behind 64 others.
const fn token(work: &'static str, board: &'static str, target: f64) -> Row {
    Row { part: Part::Behind(64), ..whole(work, board, &TEXT, "-", target) }
}

const fn on_m4(work: &'static str, model: &'static Model, part: Part, target: f64) -> Row {
    Row { part, ..whole(work, "mps2-an386", model, "-", target) }
}

/// Aim for the deepest path of an inference.
const STACK_BYTES: f64 = 1536.0;

const fn stack(work: &'static str, model: &'static Model) -> Row {
    Row { part: Part::Stack, ..whole(work, "mps2-an386", model, "-", STACK_BYTES) }
}

const fn linear(work: &'static str, model: &'static Model, macs: u64, cmsis: &'static str, target: f64) -> Row {
    Row { work, board: "mps2-an386", model, part: Part::Op { kind: "linear", macs }, cmsis, target }
}

const fn whole(
    work: &'static str,
    board: &'static str,
    model: &'static Model,
    cmsis: &'static str,
    target: f64,
) -> Row {
    Row { work, board, model, part: Part::Whole, cmsis, target }
}

/// What `shiftformer bench --json` prints, as far as it is needed.
#[derive(Clone, Deserialize)]
struct Bench {
    instructions: u64,
    stack_bytes: u64,
    open_proven: u64,
    longest_step: u64,
    all_steps: u64,
    ops: Vec<Op>,
}

#[derive(Clone, Deserialize)]
struct Op {
    kind: String,
    macs: u64,
    instructions: u64,
}

/// Counts every row, prints the table and writes it to `BENCHMARKS.md`.
///
/// # Errors
/// [`Error::Missing`] when the public models are not there, and when a model cannot be converted or counted.
pub fn run_all() -> Result<(), Error> {
    let shared = env::var_os(SHARED).map(PathBuf::from).unwrap_or_default();
    if !shared.join(BLOCK_ONNX).is_file() {
        let how = format!("set {SHARED} to the folder that holds {BLOCK_ONNX}");
        return Err(Error::Missing { what: "the folder of public models".to_owned(), how });
    }
    // The counts are of programs that this toolchain builds, whatever was built last.
    firmware::build(None, Some(Program::Runner))?;
    let compiler = Toolchain::ensure(&boards::target(MPS2_AN386.name)?.build.target)?.describe();
    let mut converted: HashMap<&str, PathBuf> = HashMap::new();
    let mut done: HashMap<(&str, &str), Bench> = HashMap::new();
    let mut table = format!(
        "# Instructions on emulated cores\n\nMade by `cargo xtask count` with {compiler}. Executed instructions, not cycles: QEMU with \
         `-icount`, the counter checked\nagainst a loop of known length. CMSIS-NN's figures are of its commit 99f736a \
         (M55 with clang 18, the others with\nGCC 12.2, -O3) in the same emulator; its encoder block lacks LayerNorm \
         and GELU, ours has both.\n\nOne token shares neither the loads nor the widening of weights with other rows: \
         64 panels of 4 channels take a turn\nof 298 instructions for 64 values and 19 to start, requantize and \
         store, 20,288 or 1.24 per MAC; reading the operator,\nchecking its operands and widening the token take the \
         rest.\n\n| work | CMSIS-NN best | aim | ours | |\n|---|---|---|---|---|\n",
    );
    for row in &ROWS {
        let key = (row.model.name, row.board);
        if let Entry::Vacant(place) = converted.entry(row.model.name) {
            place.insert(convert(&shared, row.model)?);
        }
        if let Entry::Vacant(place) = done.entry(key) {
            place.insert(count(&converted[row.model.name], &shared, row)?);
        }
        let ours =
            figure(&done[&key], &row.part).ok_or_else(|| Error::Check(format!("{}: no such operator", row.work)))?;
        line(&mut table, row.work, row.cmsis, row.target, ours);
    }
    keyword_rows(&mut table)?;
    print!("{table}");
    let path = root().join(REPORT);
    fs::write(&path, table).map_err(Error::io(format!("write {}", path.display())))
}

fn line(table: &mut String, work: &str, cmsis: &str, target: f64, ours: f64) {
    let mark = if ours <= target { "reached" } else { "missed" };
    // Writing to a string does not fail.
    let _ = writeln!(table, "| {work} | {cmsis} | {} | {} | {mark} |", shown(target), shown(ours));
}

/// What the keyword spotter says of itself, and what it takes of a device.
fn keyword_rows(table: &mut String) -> Result<(), Error> {
    firmware::build(Some(MPS2_AN386.name), Some(Program::Kws))?;
    let taken = keywords::hear(&Emulator::Qemu(&MPS2_AN386), &mut |_| {})?;
    for (what, most, ours) in [
        ("features and answers of a second of sound", keywords::CLOCK_HZ, taken.instructions),
        ("bytes of flash", keywords::FLASH_BYTES, taken.flash_bytes),
        ("bytes of RAM", keywords::RAM_BYTES, taken.ram_bytes),
    ] {
        line(table, &format!("M4: keyword spotter, {what}"), "-", most as f64, ours as f64);
    }
    Ok(())
}

fn convert(shared: &Path, model: &Model) -> Result<PathBuf, Error> {
    let folder = root().join("target/firmware/count");
    fs::create_dir_all(&folder).map_err(Error::io(format!("make {}", folder.display())))?;
    let file = folder.join(format!("{}.sfm", model.name));
    match model.source {
        Source::Public { onnx, data } => {
            let mut convert = shiftformer();
            convert.arg("convert").arg(shared.join(onnx)).arg("-o").arg(&file);
            // The rows of the table are whole operators.
            convert.args(["--row-blocks", "off"]);
            run(convert.arg("--calib").arg(shared.join(data)))?;
        }
        Source::Example(name) => {
            let mut example = Command::new("cargo");
            example.args(["run", "--quiet", "--release", "--package", "shiftformer-cli", "--example", name, "--"]);
            run(example.arg(&file).current_dir(root()))?;
        }
        Source::Digits => run(&mut digits::convert(shiftformer(), &file))?,
        Source::Bundled(path) => return Ok(root().join(path)),
    }
    Ok(file)
}

fn count(file: &Path, shared: &Path, row: &Row) -> Result<Bench, Error> {
    let mut bench = shiftformer();
    bench.arg("bench").arg(file).args(["--backend", &format!("qemu:{}", row.board), "--json"]);
    if let Source::Public { data, .. } = row.model.source {
        bench.arg("--data").arg(shared.join(data));
    }
    let doing = format!("count {} on {}", row.model.name, row.board);
    if let Part::Behind(position) = row.part {
        bench.args(["--position", &position.to_string()]);
    }
    let json = output(&mut bench).ok_or_else(|| Error::Command(doing.clone()))?;
    serde_json::from_str(&json).map_err(|e| Error::Check(format!("{doing}: {e}")))
}

/// Instructions of the whole, or per multiply-accumulate of a part, or bytes of stack.
fn figure(bench: &Bench, part: &Part) -> Option<f64> {
    match part {
        Part::Whole | Part::Behind(_) => Some(bench.instructions as f64),
        Part::Stack => Some(bench.stack_bytes as f64),
        Part::Open => Some(bench.open_proven as f64),
        Part::LongestStep => Some(bench.longest_step as f64),
        Part::Stepping => Some((bench.all_steps as f64 / bench.instructions as f64 - 1.0) * 100.0),
        Part::Op { kind, macs } => {
            let op = bench.ops.iter().rfind(|op| op.kind == *kind && op.macs == *macs)?;
            Some(op.instructions as f64 / op.macs as f64)
        }
    }
}

/// Millions with two digits, thousands with none, small numbers with two.
fn shown(value: f64) -> String {
    match value {
        1e5.. => format!("{:.2} M", value / 1e6),
        1e3.. => format!("{value:.0}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_the_last_operator_of_its_kind_and_size() {
        let op = |kind: &str, macs, instructions| Op { kind: kind.to_owned(), macs, instructions };
        let ops = vec![op("linear", 100, 200), op("linear", 100, 90), op("attention", 100, 300)];
        let bench =
            Bench { instructions: 700, stack_bytes: 1200, open_proven: 50, longest_step: 90, all_steps: 735, ops };
        assert_eq!(figure(&bench, &Part::Whole), Some(700.0));
        assert_eq!(figure(&bench, &Part::Stack), Some(1200.0));
        assert_eq!(figure(&bench, &Part::Open), Some(50.0));
        assert_eq!(figure(&bench, &Part::LongestStep), Some(90.0));
        assert!((figure(&bench, &Part::Stepping).unwrap() - 5.0).abs() < 1e-9);
        assert_eq!(figure(&bench, &Part::Op { kind: "linear", macs: 100 }), Some(0.9));
        assert_eq!(figure(&bench, &Part::Op { kind: "linear", macs: 7 }), None);
    }
}
