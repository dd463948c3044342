//! `cargo xtask web`: the module for JavaScript, built with vectors, compared and timed in Node.js.

use crate::digits;
use crate::error::Error;
use crate::process::{find, root, run};
use crate::toolchain::Toolchain;
use std::path::PathBuf;
use std::process::Command;

const TARGET: &str = "wasm32-unknown-unknown";
const PACKAGE: &str = "shiftformer-web";

/// Builds the module; returns its path.
///
/// # Errors
/// When it does not build.
pub fn build() -> Result<PathBuf, Error> {
    let flags = ["-Ctarget-feature=+simd128".to_owned(), "-Dwarnings".to_owned()];
    let toolchain = Toolchain::ensure(TARGET)?;
    let mut build = toolchain.cargo("build", TARGET, &flags);
    run(build.args(["--quiet", "--release", "--package", PACKAGE]).current_dir(root()))?;
    Ok(toolchain.output(TARGET).join(TARGET).join("release/shiftformer_web.wasm"))
}

/// Compares every kernel of the module with the portable ones, and inferences of the digits; prints the time of one.
///
/// # Errors
/// When there is no Node.js, the module does not build, or something differs.
pub fn check() -> Result<(), Error> {
    let Some(node) = find("node") else {
        let how = "install Node.js 16 or later: apt-get install nodejs".to_owned();
        return Err(Error::Missing { what: "node".to_owned(), how });
    };
    let module = build()?;
    if !digits::model().exists() {
        digits::module()?;
    }
    run(Command::new(node).arg(root().join("bindings/web/run.mjs")).arg(module).arg(digits::model()))
}
