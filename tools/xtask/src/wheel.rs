//! `cargo xtask wheel`: the Python package, built, installed into a fresh virtual environment, and tested there.

use crate::digits;
use crate::error::Error;
use crate::process::{find, root, run};
use crate::setup::AARCH64;
use crate::toolchain::{Toolchain, gnu_name};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What builds wheels.
const MATURIN: &str = "maturin>=1.9,<2";
/// What the tests and the type checks need besides the wheel. The package itself needs numpy alone.
const TEST_PACKAGES: [&str; 3] = ["onnx", "pytest", "mypy"];
/// What the tests marked `torch` need. With `PIP_EXTRA_INDEX_URL` naming PyTorch's index of builds for processors alone, torch
/// is a tenth as large.
const TORCH_PACKAGES: [&str; 4] = ["torch", "onnxscript", "distributed", "tqdm"];

/// Whether the wheel has what takes minutes to build: the backend `gpu`, and tract.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Parts {
    /// All, as it is published.
    Full,
    /// What the tests need.
    Quick,
}

impl Parts {
    /// As arguments of a build.
    fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Full => &[],
            Self::Quick => &["--no-default-features", "--features", "qemu"],
        }
    }
}

/// The step of `cargo xtask test`.
///
/// # Errors
/// As [`run_all`].
pub fn check() -> Result<(), Error> {
    run_all(Parts::Quick, false)
}

/// Builds the wheel and the source distribution into `target/wheel`, and runs tests and type checks in a fresh environment;
/// with `torch` those that need PyTorch and dask too.
///
/// # Errors
/// What does not build or hold.
pub fn run_all(parts: Parts, torch: bool) -> Result<(), Error> {
    let maturin = maturin()?;
    let folder = empty("target/wheel")?;
    let mut build = Command::new(&maturin);
    build.args(["build", "--quiet", "--release", "--out"]).arg(&folder).args(parts.arguments());
    run(build.current_dir(package()))?;
    let wheel = only(&folder, "whl")?;
    println!("{}: {:.1} MB", wheel.display(), bytes(&wheel)? as f64 / 1e6);
    source_distribution(&maturin, &folder)?;
    command(parts)?;
    let python = environment("fresh")?;
    pip(&python, &[&[&*wheel.to_string_lossy()], &TEST_PACKAGES[..]].concat())?;
    if torch {
        pip(&python, &TORCH_PACKAGES)?;
    }
    let mut tests = Command::new(&python);
    tests.args([
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "-m",
        if torch { "torch or not torch" } else { "not torch" },
    ]);
    tests.env("SHIFTFORMER_COMMAND", digits::command_path());
    tests.env("PYTHONDONTWRITEBYTECODE", "1");
    run(tests.current_dir(package()))?;
    let cache = root().join("target/python/mypy");
    let mypy = |arguments: &[&str]| {
        let mut command = Command::new(&python);
        command.args(["-m"]).args(arguments).env("MYPY_CACHE_DIR", &cache).current_dir(package());
        run(&mut command)
    };
    mypy(&["mypy"])?;
    mypy(&["mypy.stubtest", "--concise", "shiftformer._native"])
}

/// Packages of Debian with a Python for aarch64.
const EMULATED_PYTHON: [&str; 11] = [
    "python3.11-minimal",
    "libpython3.11-minimal",
    "libpython3.11-stdlib",
    "libc6",
    "libgcc-s1",
    "libstdc++6",
    "libexpat1",
    "zlib1g",
    "libssl3",
    "libffi8",
    "libuuid1",
];
/// Version of that Python.
const EMULATED_VERSION: &str = "3.11";
/// Tests that are run there: those of runs, figures and tokens. They compare with the command of this machine.
const EMULATED_TESTS: &str =
    "runs_are_those or raw_integers or evaluation_is_that or generation_is_that or saved_model";

/// The wheel for aarch64, with tests on an emulated machine whose Python comes from Debian.
///
/// # Errors
/// What does not build or hold.
pub fn aarch64() -> Result<(), Error> {
    // Installs the target where it is missing.
    Toolchain::ensure(AARCH64)?;
    let folder = empty("target/wheel-aarch64")?;
    let mut build = Command::new(maturin()?);
    build.args(["build", "--quiet", "--release", "--target", AARCH64, "--out"]).arg(&folder);
    build.args(Parts::Quick.arguments()).arg("--target-dir").arg(root().join("target/cross"));
    build.env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", format!("{}-gcc", gnu_name(AARCH64)));
    run(build.current_dir(package()))?;
    let wheel = only(&folder, "whl")?;
    println!("{}: {:.1} MB", wheel.display(), bytes(&wheel)? as f64 / 1e6);
    command(Parts::Quick)?;
    let machine = emulated_python()?;
    let site = empty("target/python/aarch64-site")?;
    let mut install = Command::new(environment("fresh")?);
    install.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--only-binary",
        ":all:",
        "--target",
    ]);
    install.arg(&site).args(["--python-version", EMULATED_VERSION, "--implementation", "cp"]);
    for platform in ["manylinux2014", "manylinux_2_28", "manylinux_2_34"] {
        install.args(["--platform", &format!("{platform}_aarch64")]);
    }
    run(install.args(["numpy", "pytest"]))?;
    // The tag of the wheel names the C library that it was linked with, which may be newer than any platform above.
    run(Command::new("unzip").args(["-q", "-o"]).arg(&wheel).arg("-d").arg(&site))?;
    let mut tests = Command::new("qemu-aarch64");
    tests.arg("-L").arg(&machine).arg(machine.join("usr/bin/python3.11"));
    tests.args(["-m", "pytest", "-p", "no:cacheprovider", "tests/test_model.py", "-k", EMULATED_TESTS]);
    tests.env("PYTHONPATH", &site).env("PYTHONDONTWRITEBYTECODE", "1");
    tests.env("SHIFTFORMER_COMMAND", digits::command_path());
    run(tests.current_dir(package()))
}

/// A folder with the Python of another architecture, fetched once and unpacked; nothing is installed on this machine.
fn emulated_python() -> Result<PathBuf, Error> {
    let machine = root().join("target/python/aarch64");
    if machine.join("usr/bin/python3.11").exists() {
        return Ok(machine);
    }
    let state = empty("target/python/apt")?;
    for folder in ["state/lists/partial", "cache/archives/partial", "packages"] {
        let folder = state.join(folder);
        fs::create_dir_all(&folder).map_err(Error::io(format!("make {}", folder.display())))?;
    }
    fs::write(state.join("status"), "").map_err(Error::io(format!("write to {}", state.display())))?;
    let apt = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        for option in ["APT::Architecture=arm64", "APT::Architectures::=arm64", "APT::Sandbox::User=root"] {
            command.args(["-o", option]);
        }
        for (option, path) in [("Dir::State", "state"), ("Dir::State::status", "status"), ("Dir::Cache", "cache")] {
            command.args(["-o", &format!("{option}={}", state.join(path).display())]);
        }
        run(command.args(arguments).current_dir(state.join("packages")))
    };
    apt(&["-qq", "update"])?;
    apt(&[&["-qq", "download"], &EMULATED_PYTHON[..]].concat())?;
    let packages = state.join("packages");
    let entries = fs::read_dir(&packages).map_err(Error::io(format!("read {}", packages.display())))?;
    for package in entries.flatten() {
        run(Command::new("dpkg-deb").arg("-x").arg(package.path()).arg(&machine))?;
    }
    Ok(machine)
}

/// Builds the command that the package is compared with.
fn command(parts: Parts) -> Result<(), Error> {
    if digits::is_built() {
        return Ok(());
    }
    let mut command = Command::new("cargo");
    command.args(["build", "--quiet", "--release", "--package", "shiftformer-cli"]).args(parts.arguments());
    run(command.current_dir(root()))
}

fn package() -> PathBuf {
    root().join("bindings/python")
}

/// An environment anew, with its pip; the path of its Python.
fn environment(name: &str) -> Result<PathBuf, Error> {
    let Some(python) = find("python3") else {
        let how = "install Python 3.9 or later with its venv: apt-get install python3-venv".to_owned();
        return Err(Error::Missing { what: "python3".to_owned(), how });
    };
    let folder = root().join("target/python").join(name);
    run(Command::new(python).args(["-m", "venv", "--clear"]).arg(&folder))?;
    Ok(folder.join(if cfg!(windows) { "Scripts/python.exe" } else { "bin/python" }))
}

fn pip(python: &Path, packages: &[&str]) -> Result<(), Error> {
    let mut install = Command::new(python);
    install.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
    run(install.args(packages))
}

/// The builder of wheels, in an environment that is kept.
fn maturin() -> Result<PathBuf, Error> {
    let program =
        root().join("target/python/build").join(if cfg!(windows) { "Scripts/maturin.exe" } else { "bin/maturin" });
    if !program.is_file() {
        pip(&environment("build")?, &[MATURIN])?;
    }
    Ok(program)
}

/// The sources as a package that builds without this repository: its lists of files and crates are complete.
fn source_distribution(maturin: &Path, folder: &Path) -> Result<(), Error> {
    run(Command::new(maturin).args(["sdist", "--out"]).arg(folder).current_dir(package()))?;
    let archive = only(folder, "gz")?;
    let unpacked = empty("target/python/sdist")?;
    run(Command::new("tar").args(["-xzf"]).arg(&archive).arg("-C").arg(&unpacked).arg("--strip-components=1"))?;
    let mut metadata = Command::new("cargo");
    // The lock file names packages of this repository that are left out: it may shrink, not reach for others.
    metadata.args(["metadata", "--quiet", "--offline", "--format-version", "1"]).current_dir(&unpacked);
    run(metadata.stdout(std::process::Stdio::null()))
}

/// A folder of this workspace with nothing in it.
fn empty(name: &str) -> Result<PathBuf, Error> {
    let folder = root().join(name);
    if folder.exists() {
        fs::remove_dir_all(&folder).map_err(Error::io(format!("empty {}", folder.display())))?;
    }
    fs::create_dir_all(&folder).map_err(Error::io(format!("make {}", folder.display())))?;
    Ok(folder)
}

/// The file with this ending in `folder`.
fn only(folder: &Path, ending: &str) -> Result<PathBuf, Error> {
    let entries = fs::read_dir(folder).map_err(Error::io(format!("read {}", folder.display())))?;
    let mut files = entries.flatten().map(|entry| entry.path());
    let found = files.find(|path| path.extension().is_some_and(|e| e == ending));
    found.ok_or_else(|| Error::Check(format!("no .{ending} in {}", folder.display())))
}

fn bytes(path: &Path) -> Result<u64, Error> {
    Ok(fs::metadata(path).map_err(Error::io(format!("read {}", path.display())))?.len())
}
