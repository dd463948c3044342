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
    /// As `uname -m` says it there, but for the letter behind `armv7`.
    name: &'static str,
    /// With the C library musl, which Rust brings.
    target: &'static str,
    /// With that of the system, for where Rust's library of the other target is not to be had.
    fallback: &'static str,
    /// What runs its programs elsewhere.
    emulator: &'static str,
}

const MACHINES: [Machine; 3] = [
    Machine {
        name: "aarch64",
        target: "aarch64-unknown-linux-musl",
        fallback: "aarch64-unknown-linux-gnu",
        emulator: "qemu-aarch64",
    },
    Machine {
        name: "armv7",
        target: "armv7-unknown-linux-musleabihf",
        fallback: "armv7-unknown-linux-gnueabihf",
        emulator: "qemu-arm",
    },
    Machine {
        name: "x86_64",
        target: "x86_64-unknown-linux-musl",
        fallback: "x86_64-unknown-linux-gnu",
        emulator: "qemu-x86_64",
    },
];

/// Builds every binary, or that of one machine, and runs a conversion and a comparison of backends with those that this machine can run or emulate.
///
/// The backends `gpu` and `qemu` are left out: a static binary loads no drivers.
///
/// # Errors
/// What does not build or run, after the others are done; a machine that there is not.
pub fn run_all(only: Option<&str>) -> Result<(), Error> {
    let chosen: Vec<&Machine> =
        MACHINES.iter().filter(|machine| only.is_none_or(|name| name == machine.name)).collect();
    if chosen.is_empty() {
        let names = MACHINES.each_ref().map(|machine| machine.name).join(", ");
        return Err(Error::Usage(format!("the machines are {names}")));
    }
    let folder = root().join("target/dist");
    fs::create_dir_all(&folder).map_err(Error::io(format!("make {}", folder.display())))?;
    let mut missing = Vec::new();
    for machine in chosen {
        println!("== {}", machine.name);
        if let Err(error) = machine.dist(&folder) {
            println!("error: {error}");
            missing.push(machine.name);
        }
    }
    if missing.is_empty() { Ok(()) } else { Err(Error::Check(format!("no binary for {}", missing.join(", ")))) }
}

impl Machine {
    /// A build of a static program by the linker that comes with Rust and musl, or by GCC and the C library of the system; how
    /// it is compiled, and for which target.
    fn build(&self) -> Result<(Command, Toolchain, &'static str), Error> {
        if let Some(toolchain) = Toolchain::of_rustup(self.target)? {
            let mut build = toolchain.cargo("build", self.target, &[]);
            let variable = self.target.to_uppercase().replace('-', "_");
            build.env(format!("CARGO_TARGET_{variable}_LINKER"), "rust-lld");
            // What little assembly the packages bring is put together by GCC.
            build.env(format!("CC_{}", self.target.replace('-', "_")), format!("{}-gcc", gnu_name(self.target)));
            return Ok((build, toolchain, self.target));
        }
        println!("rustup has no {}: static with the C library of {}", self.target, self.fallback);
        let toolchain = Toolchain::ensure(self.fallback)?;
        let build = toolchain.cargo("build", self.fallback, &["-Ctarget-feature=+crt-static".to_owned()]);
        Ok((build, toolchain, self.fallback))
    }

    fn dist(&self, folder: &Path) -> Result<(), Error> {
        let (mut build, toolchain, target) = self.build()?;
        build.args(["--quiet", "--profile", "dist", "--package", "shiftformer-cli", "--no-default-features"]);
        run(build.current_dir(root()))?;
        let built = toolchain.output(target).join(target).join("dist/shiftformer");
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
