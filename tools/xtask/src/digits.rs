//! The bundled model, converted, as the digits demo includes it.

use crate::error::Error;
use crate::process::{root, run};
use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// How the pixels of the bundled images are normalised: `models/digits/README.md`.
const MEAN: &str = "0.3057";
const STD: &str = "0.376";

/// The `shiftformer` command, built from this workspace.
pub fn shiftformer() -> Command {
    let mut command = Command::new("cargo");
    command.args(["run", "--quiet", "--release", "--package", "shiftformer-cli", "--"]).current_dir(root());
    command
}

/// Path of the converted model.
pub fn model() -> PathBuf {
    root().join("target/firmware/digits/digits.sfm")
}

/// Converts the model and writes the Rust module of it; returns the module's path.
///
/// # Errors
/// When a file cannot be written or the conversion fails.
pub fn module() -> Result<PathBuf, Error> {
    let model = model();
    let module = model.with_file_name("model.rs");
    let folder = root().join("target/firmware/digits");
    fs::create_dir_all(&folder).map_err(Error::io(format!("make {}", folder.display())))?;
    let data = root().join("models/digits");
    let mut convert = shiftformer();
    convert.arg("convert").arg(data.join("digits-vit.onnx")).arg("-o").arg(&model);
    convert.arg("--calib").arg(data.join("calib.npz")).args(["--mean", MEAN, "--std", STD]);
    run(&mut convert)?;
    run(shiftformer().arg("codegen").arg(&model).arg("-o").arg(&module))?;
    Ok(module)
}
