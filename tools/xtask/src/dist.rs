//! `cargo xtask dist`: the command as static binaries, in `target/dist`.

use crate::digits;
use crate::error::Error;
use crate::process::{find, root, run};
use crate::toolchain::{Toolchain, gnu_name};
use std::fs;
use std::path::Path;
use std::process::Command;

/// A machine that a binary is made for.
struct Machine {
    name: &'static str,
    target: &'static str,
    /// What runs its programs elsewhere.
    emulator: &'static str,
}

const MACHINES: [Machine; 3] = [
    Machine { name: "aarch64", target: "aarch64-unknown-linux-musl", emulator: "qemu-aarch64" },
    Machine { name: "armv7", target: "armv7-unknown-linux-musleabihf", emulator: "qemu-arm" },
    Machine { name: "x86_64", target: "x86_64-unknown-linux-musl", emulator: "qemu-x86_64" },
];

/// Builds every binary, and runs a conversion and a comparison of backends with those that this machine can run or emulate.
///
/// The backends `gpu` and `qemu` are left out: a static binary loads no drivers.
///
/// # Errors
/// What does not build or run, after the others are done.
pub fn run_all() -> Result<(), Error> {
    let folder = root().join("target/dist");
    fs::create_dir_all(&folder).map_err(Error::io(format!("make {}", folder.display())))?;
    let mut missing = Vec::new();
    for machine in &MACHINES {
        println!("== {}", machine.name);
        if let Err(error) = machine.dist(&folder) {
            println!("error: {error}");
            missing.push(machine.name);
        }
    }
    if missing.is_empty() { Ok(()) } else { Err(Error::Check(format!("no binary for {}", missing.join(", ")))) }
}

impl Machine {
    fn dist(&self, folder: &Path) -> Result<(), Error> {
        let toolchain = Toolchain::ensure(self.target)?;
        let mut build = toolchain.cargo("build", self.target, &[]);
        // The linker that comes with Rust, and the C library of the target. What little assembly the packages bring is put
        // together by GCC.
        let variable = self.target.to_uppercase().replace('-', "_");
        build.env(format!("CARGO_TARGET_{variable}_LINKER"), "rust-lld");
        build.env(format!("CC_{}", self.target.replace('-', "_")), format!("{}-gcc", gnu_name(self.target)));
        build.args(["--quiet", "--profile", "dist", "--package", "shiftformer-cli", "--no-default-features"]);
        run(build.current_dir(root()))?;
        let built = toolchain.output().join(self.target).join("dist/shiftformer");
        let program = folder.join(format!("shiftformer-{}", self.name));
        fs::copy(&built, &program).map_err(Error::io(format!("copy {}", built.display())))?;
        let bytes = fs::metadata(&program).map_err(Error::io(format!("read {}", program.display())))?.len();
        println!("{}: {:.1} MB", program.display(), bytes as f64 / 1e6);
        self.check(&program)
    }

    /// Converts the digits model with the binary and compares the kernels of this machine with the portable ones.
    fn check(&self, program: &Path) -> Result<(), Error> {
        let native = self.target.starts_with(std::env::consts::ARCH);
        if !native && find(self.emulator).is_none() {
            println!("not run: there is no {}", self.emulator);
            return Ok(());
        }
        let command = || {
            let mut command = Command::new(if native { program.as_os_str() } else { self.emulator.as_ref() });
            if !native {
                command.arg(program);
            }
            command
        };
        let model = program.with_extension("sfm");
        run(digits::convert(command(), &model).current_dir(root()))?;
        let mut parity = command();
        parity.arg("parity").arg(&model).arg("--data").arg(root().join("models/digits/eval.npz"));
        run(parity.args(["--backends", "portable,native", "--limit", "16"]).current_dir(root()))
    }
}
