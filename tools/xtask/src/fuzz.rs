//! The fuzz targets: `fuzz/`, a workspace of its own.
//!
//! `cargo fuzz run TARGET` needs a nightly compiler. The targets are also plain programs that read files: built so, by any
//! compiler, each runs over its corpus here.

use crate::error::Error;
use crate::process::{root, run};
use std::path::PathBuf;
use std::process::Command;

/// Targets, which are also the folders of their corpora.
pub const TARGETS: [&str; 7] = ["reader", "importer", "line", "npz", "tokenizer", "image", "transport"];

/// Builds the targets as plain programs and runs each over its corpus.
///
/// # Errors
/// When one does not build or fails on a file.
pub fn check() -> Result<(), Error> {
    for target in TARGETS {
        let mut command = Command::new("cargo");
        command.args(["run", "--quiet", "--release", "--bin", target, "--target-dir"]).arg(root().join("target"));
        run(command.arg("--").args(corpus(target)?).current_dir(root().join("fuzz")))?;
    }
    Ok(())
}

/// Fuzzes `target`, or every target, for `seconds`. What it finds to be new goes into a folder beside the build, not into the corpus.
///
/// # Errors
/// When the tools are missing or a target fails on an input.
pub fn fuzz(target: Option<&str>, seconds: u32) -> Result<(), Error> {
    let found = Command::new("cargo").args(["+nightly", "fuzz", "--version"]).output();
    if !found.is_ok_and(|output| output.status.success()) {
        let install = "rustup toolchain install nightly && cargo install cargo-fuzz";
        return Err(Error::Check(format!("fuzzing needs a nightly compiler and cargo-fuzz: {install}")));
    }
    for target in TARGETS.into_iter().filter(|name| target.is_none_or(|target| target == *name)) {
        let grown = root().join("target/fuzz-corpus").join(target);
        std::fs::create_dir_all(&grown).map_err(Error::io(format!("create {}", grown.display())))?;
        let mut command = Command::new("cargo");
        command.args(["+nightly", "fuzz", "run", target]).arg(&grown).arg(root().join("fuzz/corpus").join(target));
        run(command.args(["--", &format!("-max_total_time={seconds}")]).current_dir(root()))?;
    }
    Ok(())
}

/// The files of a corpus.
fn corpus(target: &str) -> Result<Vec<PathBuf>, Error> {
    let folder = root().join("fuzz/corpus").join(target);
    let entries = folder.read_dir().and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let entries = entries.map_err(Error::io(format!("list {}", folder.display())))?;
    let mut files: Vec<PathBuf> = entries.into_iter().map(|entry| entry.path()).collect();
    files.sort();
    if files.is_empty() { Err(Error::Check(format!("{} is empty", folder.display()))) } else { Ok(files) }
}
