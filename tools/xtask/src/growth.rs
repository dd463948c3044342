//! `cargo xtask growth`: what an encoder costs as it grows, written to `docs/growth.md` and `docs/growth.svg`.

use crate::error::Error;
use crate::process::{root, run};
use std::process::Command;

/// Builds encoders of many sizes, counts their instructions in the emulator, writes tables and pictures.
///
/// # Errors
/// When the program does not build, or an encoder cannot be converted or counted.
pub fn growth() -> Result<(), Error> {
    let mut command = Command::new("cargo");
    command.args(["run", "--quiet", "--release", "--package", "shiftformer-tests", "--example", "growth", "--"]);
    run(command.arg(root().join("docs")).current_dir(root()))
}
