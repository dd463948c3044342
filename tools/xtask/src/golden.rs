//! `cargo xtask golden DIR`: compares stored vectors with the published operators in integers.

use crate::error::Error;
use crate::process::root;
use std::path::Path;
use std::process::{Command, ExitCode};

/// Runs the vectors of `folder` by the program `golden` of the tests, which this crate would otherwise be built with: the
/// converter and all that it needs. The exit status is that of the program.
///
/// # Errors
/// When cargo cannot be started.
pub fn run(folder: &Path) -> Result<ExitCode, Error> {
    let mut golden = Command::new("cargo");
    golden.args(["run", "--quiet", "--release", "--package", "shiftformer-tests", "--bin", "golden", "--"]);
    let folder = std::path::absolute(folder).map_err(Error::io(format!("find {}", folder.display())))?;
    let status = golden.arg(folder).current_dir(root()).status().map_err(Error::io("run cargo".to_owned()))?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
}
