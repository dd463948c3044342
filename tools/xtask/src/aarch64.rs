//! `cargo xtask aarch64`: the command on an emulated aarch64, with and without the instructions for dot products and
//! matrix products. Not part of `cargo xtask test`, which runs the tests of the runtime there: building the command for
//! another architecture takes minutes.

use crate::digits;
use crate::error::Error;
use crate::linux::{AARCH64_CORES, aarch64_tests};
use crate::process::{output, root, run};
use crate::setup::AARCH64;
use crate::toolchain::Toolchain;
use std::path::Path;
use std::process::Command;

/// Images whose results are compared with those of this machine.
const IMAGES: [&str; 3] = ["0", "7", "359"];

/// A command that runs `program` on `core`.
fn emulated(core: &str, program: &Path) -> Command {
    let mut command = Command::new("qemu-aarch64");
    command.args(["-cpu", core, "-L", "/usr/aarch64-linux-gnu"]).arg(program).current_dir(root());
    command
}

/// Builds the command, then on every core: the tests of the runtime, the demo, `inspect`, `parity`, `eval`, and `run` with
/// the answers of this machine.
///
/// # Errors
/// When something does not build, fails or answers differently.
pub fn run_all() -> Result<(), Error> {
    let toolchain = Toolchain::ensure(AARCH64)?;
    let mut build = toolchain.cargo("build", AARCH64, &[]);
    build.args(["--quiet", "--release", "--package", "shiftformer-cli"]);
    run(build.current_dir(root()))?;
    let program = toolchain.output().join(AARCH64).join("release/shiftformer");
    digits::module()?;
    for core in AARCH64_CORES {
        println!("== aarch64 {core}");
        aarch64_tests(core)?;
        on(core, &program)?;
    }
    println!("aarch64: all cores passed");
    Ok(())
}

/// The command on one core.
fn on(core: &str, program: &Path) -> Result<(), Error> {
    let (model, data) = (digits::model(), root().join("models/digits/eval.npz"));
    run(emulated(core, program).arg("demo"))?;
    run(emulated(core, program).arg("inspect").arg(&model))?;
    let with_data = |task: &str| {
        let mut command = emulated(core, program);
        command.arg(task).arg(&model).arg("--data").arg(&data);
        command
    };
    run(with_data("eval").args(["--backend", "native"]))?;
    run(with_data("parity").args(["--backends", "portable,native"]))?;
    for image in IMAGES {
        same_answer(with_data("run"), &model, &data, image)?;
    }
    Ok(())
}

/// The emulated command and that of this machine print the same of one image.
fn same_answer(mut emulated: Command, model: &Path, data: &Path, image: &str) -> Result<(), Error> {
    let here =
        output(digits::shiftformer().arg("run").arg(model).arg("--data").arg(data).args(["--index", image, "--json"]));
    let there = output(emulated.args(["--index", image, "--json"]));
    match (here, there) {
        (Some(here), Some(there)) if here == there => Ok(()),
        (here, there) => {
            let [here, there] = [here, there].map(|text| text.unwrap_or_else(|| "no answer".to_owned()));
            Err(Error::Check(format!("image {image}: this machine says {here}, the emulated one {there}")))
        }
    }
}
