//! The command on emulated Arm machines with Linux.
//!
//! `cargo xtask armv7` runs it on the 32-bit one, `cargo xtask aarch64` on the 64-bit ones, with and without the instructions for
//! dot products and matrix products. Not part of `cargo xtask test`, which runs the tests of the runtime there: building the
//! command for another architecture takes minutes.

use crate::digits;
use crate::error::Error;
use crate::linux::{AARCH64_CORES, ARMV7_CORES, aarch64_tests};
use crate::process::{output, root, run};
use crate::setup::{AARCH64, ARMV7};
use crate::toolchain::{Toolchain, gnu_name};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Images whose results are compared with those of this machine.
const IMAGES: [&str; 3] = ["0", "7", "359"];

/// The command for a target, and what runs it.
struct Emulated {
    target: &'static str,
    emulator: &'static str,
    program: PathBuf,
}

/// The tests of the runtime and the command on the 64-bit cores.
///
/// # Errors
/// When something does not build, fails or answers differently.
pub fn aarch64() -> Result<(), Error> {
    for core in AARCH64_CORES {
        println!("== aarch64 {core}");
        aarch64_tests(core)?;
    }
    let command = Emulated::build(AARCH64, "qemu-aarch64", &[])?;
    AARCH64_CORES.iter().try_for_each(|core| command.tests(core))?;
    println!("aarch64: all cores passed");
    Ok(())
}

/// The command, without the backend `gpu`, on the 32-bit cores.
///
/// # Errors
/// As [`aarch64`].
pub fn armv7() -> Result<(), Error> {
    let command = Emulated::build(ARMV7, "qemu-arm", &["--no-default-features"])?;
    ARMV7_CORES.iter().try_for_each(|core| command.tests(core))?;
    println!("armv7: all cores passed");
    Ok(())
}

impl Emulated {
    fn build(target: &'static str, emulator: &'static str, features: &[&str]) -> Result<Self, Error> {
        let toolchain = Toolchain::ensure(target)?;
        let mut build = toolchain.cargo("build", target, &[]);
        build.args(["--quiet", "--release", "--package", "shiftformer-cli"]).args(features);
        run(build.current_dir(root()))?;
        let program = toolchain.output(target).join(target).join("release/shiftformer");
        Ok(Self { target, emulator, program })
    }

    /// The command on `core`.
    fn on(&self, core: &str) -> Command {
        let mut command = Command::new(self.emulator);
        command.args(["-cpu", core, "-L"]).arg(Path::new("/usr").join(gnu_name(self.target)));
        command.arg(&self.program).current_dir(root());
        command
    }

    /// The demo, a conversion and what it gives compared between backends, then with the model of this machine `inspect`,
    /// `eval`, `parity`, and `run` with the answers of this machine.
    fn tests(&self, core: &str) -> Result<(), Error> {
        digits::module()?;
        let (model, data) = (digits::model(), root().join("models/digits/eval.npz"));
        run(self.on(core).arg("demo"))?;
        let converted = model.with_file_name(format!("digits-{}.sfm", self.target));
        run(&mut digits::convert(self.on(core), &converted))?;
        run(self
            .on(core)
            .arg("parity")
            .arg(&converted)
            .arg("--data")
            .arg(&data)
            .args(["--backends", "portable,native"]))?;
        run(self.on(core).arg("inspect").arg(&model))?;
        let with_data = |task: &str| {
            let mut command = self.on(core);
            command.arg(task).arg(&model).arg("--data").arg(&data);
            command
        };
        run(with_data("eval").args(["--backend", "native"]))?;
        run(with_data("parity").args(["--backends", "portable,native"]))?;
        IMAGES.iter().try_for_each(|image| same_answer(with_data("run"), &model, &data, image))
    }
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
