//! The bundled model, converted, as the digits demo includes it.

use crate::error::Error;
use crate::process::{root, run};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

/// How the pixels of the bundled images are normalised: `models/digits/README.md`.
const MEAN: &str = "0.3057";
const STD: &str = "0.376";

/// Whether the tests have built the command.
static BUILT: AtomicBool = AtomicBool::new(false);

/// From now on the command is the one that the tests of the tools have built: none is built beside it.
pub fn take_built() {
    BUILT.store(true, Ordering::Relaxed);
}

/// Where builds of this workspace put the command.
pub fn command_path() -> PathBuf {
    root().join("target/release").join("shiftformer").with_extension(std::env::consts::EXE_EXTENSION)
}

/// Whether [`take_built`] was called and the command is there.
pub fn is_built() -> bool {
    BUILT.load(Ordering::Relaxed) && command_path().is_file()
}

/// The `shiftformer` command, built from this workspace. Without a GPU and tract, whose builds take minutes, where it is not
/// [there](take_built).
pub fn shiftformer() -> Command {
    if is_built() {
        let mut command = Command::new(command_path());
        command.current_dir(root());
        return command;
    }
    let mut command = Command::new("cargo");
    command.args(["run", "--quiet", "--release", "--package", "shiftformer-cli", "--no-default-features"]);
    command.args(["--features", "qemu,serial", "--"]).current_dir(root());
    command
}

/// Path of the converted model.
pub fn model() -> PathBuf {
    root().join("target/firmware/digits/digits.sfm")
}

/// The arguments with which `command` converts the model to `out`.
pub fn convert(mut command: Command, out: &Path) -> Command {
    let data = root().join("models/digits");
    command.arg("convert").arg(data.join("digits-vit.onnx")).arg("-o").arg(out);
    command.arg("--calib").arg(data.join("calib.npz")).args(["--mean", MEAN, "--std", STD]);
    command
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
    run(&mut convert(shiftformer(), &model))?;
    run(shiftformer().arg("codegen").arg(&model).arg("-o").arg(&module))?;
    Ok(module)
}
