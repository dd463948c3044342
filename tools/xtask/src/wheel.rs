//! `cargo xtask wheel`: the Python package, built, installed into a fresh virtual environment, and tested there.

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
/// What the tests marked `torch` need.
const TORCH_PACKAGES: [&str; 4] = ["torch", "onnxscript", "distributed", "tqdm"];
/// Where pip finds builds of torch for processors alone, a tenth of the others' size.
const TORCH_INDEX: &str = "https://download.pytorch.org/whl/cpu";

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
#[expect(dead_code)]
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
    // The command that the package is compared with.
    let mut command = Command::new("cargo");
    command.args(["build", "--quiet", "--release", "--package", "shiftformer-cli"]).args(parts.arguments());
    run(command.current_dir(root()))?;
    let python = environment("fresh")?;
    pip(&python, &[&[&*wheel.to_string_lossy()], &TEST_PACKAGES[..]].concat())?;
    if torch {
        pip(&python, &[&["--extra-index-url", TORCH_INDEX], &TORCH_PACKAGES[..]].concat())?;
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
    tests.env("SHIFTFORMER_COMMAND", root().join("target/release/shiftformer"));
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

/// The wheel for aarch64, checked by the parts of the C library that it needs.
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
    Ok(())
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
    run(Command::new(maturin).args(["sdist", "--quiet", "--out"]).arg(folder).current_dir(package()))?;
    let archive = only(folder, "gz")?;
    let unpacked = empty("target/python/sdist")?;
    run(Command::new("tar").args(["-xzf"]).arg(&archive).arg("-C").arg(&unpacked).arg("--strip-components=1"))?;
    let mut metadata = Command::new("cargo");
    metadata.args(["metadata", "--quiet", "--locked", "--format-version", "1"]).current_dir(&unpacked);
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
