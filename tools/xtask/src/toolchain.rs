//! Compiling for targets that this machine's Rust may not have.
//!
//! Two ways lead there: a target that `rustup` has installed, or a Rust with its library sources, which then builds
//! `core` itself (`-Zbuild-std`). Distributions ship the latter as packages. [`CHOICE`] asks for one of them; without it,
//! the first is taken where it is there, else the second.

use crate::debian::install;
use crate::error::Error;
use crate::process::{find, output, root, run_within};
use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Patience with `rustup target add`: a machine without network should not hang.
const RUSTUP_LIMIT: Duration = Duration::from_secs(120);
/// Oldest compiler that can build the workspace: `rust-version` in Cargo.toml.
const OLDEST_MINOR: u32 = 95;
/// Variable that chooses between the two ways: [`RUSTUP`] or [`BUILD_STD`].
pub const CHOICE: &str = "SHIFTFORMER_TOOLCHAIN";
/// Value of [`CHOICE`]: the default toolchain and its installed targets.
const RUSTUP: &str = "rustup";
/// Value of [`CHOICE`]: a compiler that builds `core` itself.
const BUILD_STD: &str = "build-std";
/// Packages with a Rust that can build `core`.
pub const BUILD_STD_PACKAGES: [&str; 3] = ["rustc-web", "cargo-web", "rust-web-src"];

/// Which ways to compile may be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Choice {
    Either,
    Rustup,
    BuildStd,
}

impl Choice {
    /// What [`CHOICE`] asks for.
    ///
    /// # Errors
    /// [`Error::Usage`] when it is set to something else.
    fn from_environment() -> Result<Self, Error> {
        let Some(value) = env::var_os(CHOICE) else { return Ok(Self::Either) };
        match value.to_str() {
            Some(RUSTUP) => Ok(Self::Rustup),
            Some(BUILD_STD) => Ok(Self::BuildStd),
            Some(_) | None => {
                Err(Error::Usage(format!("{CHOICE} is {value:?}; it may be {RUSTUP}, {BUILD_STD}, or not set")))
            }
        }
    }
}

/// A way to compile for a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Toolchain {
    /// The default toolchain has the target.
    Installed,
    /// A compiler with its library sources.
    BuildStd {
        /// Compiler.
        rustc: PathBuf,
        /// Cargo of the same version.
        cargo: PathBuf,
        /// Linker for targets without an operating system.
        linker: PathBuf,
    },
}

/// Whether `target` has the second of two folders: cargo builds one thing at a time in each.
pub fn is_built_apart(target: &str) -> bool {
    ["thumbv7em-none-eabihf", "thumbv8m.main-none-eabihf", "thumbv8m.base-none-eabi"].contains(&target)
}

impl Toolchain {
    /// The way to compile for `target` that this machine has.
    ///
    /// # Errors
    /// [`Error::Usage`] when [`CHOICE`] is set to something unknown.
    pub fn find(target: &str) -> Result<Option<Self>, Error> {
        Ok(match Choice::from_environment()? {
            Choice::Either => Self::installed(target).or_else(Self::build_std),
            Choice::Rustup => Self::installed(target),
            Choice::BuildStd => Self::build_std(),
        })
    }

    fn installed(target: &str) -> Option<Self> {
        let folder = output(Command::new("rustc").args(["--print", "target-libdir", "--target", target]))?;
        Path::new(&folder).is_dir().then_some(Self::Installed)
    }

    fn build_std() -> Option<Self> {
        let linker = bare_metal_linker()?;
        let pairs = [(find("rustc")?, find("cargo")?), ("/usr/bin/rustc".into(), "/usr/bin/cargo".into())];
        let (rustc, cargo) = pairs.into_iter().find(|(rustc, cargo)| cargo.is_file() && has_library_sources(rustc))?;
        Some(Self::BuildStd { rustc, cargo, linker })
    }

    /// Whether it compiles the library of the target itself.
    pub fn builds_std(&self) -> bool {
        matches!(self, Self::BuildStd { .. })
    }

    /// The compiler, as figures name it: `rustc 1.95.0`, with `core` rebuilt where it is.
    pub fn describe(&self) -> String {
        let (rustc, core) = match self {
            Self::Installed => (Path::new("rustc"), ""),
            Self::BuildStd { rustc, .. } => (rustc.as_path(), " (core built from source)"),
        };
        let version = output(Command::new(rustc).arg("-V")).unwrap_or_default();
        let words: Vec<&str> = version.split(' ').take(2).collect();
        format!("{}{core}", words.join(" "))
    }

    /// The way to compile for `target`, after trying to install one.
    ///
    /// # Errors
    /// [`Error::Missing`] with what to install.
    pub fn ensure(target: &str) -> Result<Self, Error> {
        if let Some(toolchain) = Self::find(target)? {
            return Ok(toolchain);
        }
        let choice = Choice::from_environment()?;
        if choice != Choice::BuildStd {
            add(target)?;
        }
        if choice != Choice::Rustup && Self::find(target)?.is_none() {
            install(&BUILD_STD_PACKAGES)?;
        }
        Self::find(target)?.ok_or_else(|| Error::Missing {
            what: format!("Rust target {target}"),
            how: format!("run `rustup target add {target}`, or install the packages {}", BUILD_STD_PACKAGES.join(" ")),
        })
    }

    /// The default toolchain, where rustup has or can add `target`.
    ///
    /// # Errors
    /// When rustup cannot be run.
    pub fn of_rustup(target: &str) -> Result<Option<Self>, Error> {
        if Self::installed(target).is_none() {
            add(target)?;
        }
        Ok(Self::installed(target))
    }

    /// The folder that [`cargo`](Self::cargo) builds `target` into: of its own for each way, so that neither rebuilds what the
    /// other built.
    pub fn output(&self, target: &str) -> PathBuf {
        root().join(match (self, is_built_apart(target)) {
            (Self::Installed, false) => "target/cross",
            (Self::Installed, true) => "target/cross-2",
            (Self::BuildStd { .. }, false) => "target/cross-build-std",
            (Self::BuildStd { .. }, true) => "target/cross-build-std-2",
        })
    }

    /// A cargo command for `target`, with `flags` for the compiler and its output in [`output`](Self::output).
    ///
    /// `subcommand` is one that takes `--target`, such as `build`.
    pub fn cargo(&self, subcommand: &str, target: &str, flags: &[String]) -> Command {
        let variable = target.to_uppercase().replace(['-', '.'], "_");
        let hosted = !target.contains("-none-");
        // Modules of WebAssembly are linked as bare machines are: rustup's compiler brings the linker.
        let gnu = hosted && !target.starts_with("wasm32");
        let mut command = match self {
            Self::Installed => {
                let mut command = Command::new("cargo");
                command.args([subcommand, "--target", target]);
                command
            }
            Self::BuildStd { rustc, cargo, linker } => {
                let mut command = Command::new(cargo);
                let crates = match (hosted, subcommand) {
                    (true, "test") => "std,test,panic_unwind,panic_abort",
                    (true, _) => "std,panic_abort",
                    (false, _) => "core",
                };
                command.args([subcommand, "--target", target, &format!("-Zbuild-std={crates}")]);
                command.env("RUSTC", rustc).env("RUSTC_BOOTSTRAP", "1");
                if !gnu {
                    command.env(format!("CARGO_TARGET_{variable}_LINKER"), linker);
                }
                command
            }
        };
        if gnu {
            command.env(format!("CARGO_TARGET_{variable}_LINKER"), format!("{}-gcc", gnu_name(target)));
        }
        command.arg("--target-dir").arg(self.output(target));
        command.env(format!("CARGO_TARGET_{variable}_RUSTFLAGS"), flags.join(" "));
        command.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS").env_remove("CARGO_TARGET_DIR");
        command
    }
}

/// Has rustup add `target`; afterwards it may be there.
fn add(target: &str) -> Result<(), Error> {
    if find("rustup").is_some() {
        eprintln!("xtask: rustup target add {target}");
        run_within(Command::new("rustup").args(["target", "add", target]), RUSTUP_LIMIT)?;
    }
    Ok(())
}

/// What GCC and the folder of the C library call a target with an operating system.
pub fn gnu_name(target: &str) -> String {
    let architecture = target.split('-').next().unwrap_or(target);
    if architecture == "armv7" { "arm-linux-gnueabihf".to_owned() } else { format!("{architecture}-linux-gnu") }
}

fn sysroot(rustc: &Path) -> Option<PathBuf> {
    output(Command::new(rustc).args(["--print", "sysroot"])).map(PathBuf::from)
}

/// Whether `rustc` is new enough and can rebuild its own library.
fn has_library_sources(rustc: &Path) -> bool {
    let Some(version) = output(Command::new(rustc).arg("-V")) else { return false };
    let minor = version.split('.').nth(1).and_then(|minor| minor.parse().ok());
    let sources = sysroot(rustc).map(|root| root.join("lib/rustlib/src/rust/library/Cargo.lock"));
    minor.is_some_and(|minor: u32| minor >= OLDEST_MINOR) && sources.is_some_and(|path| path.is_file())
}

/// A linker for ELF files of other architectures: the one beside the compiler, or a system-wide LLD.
fn bare_metal_linker() -> Option<PathBuf> {
    let host = output(Command::new("rustc").arg("-vV"))?;
    let host = host.lines().find_map(|line| line.strip_prefix("host: "))?.to_owned();
    let bundled = sysroot(Path::new("rustc"))?.join("lib/rustlib").join(host).join("bin/rust-lld");
    if bundled.is_file() { Some(bundled) } else { find("rust-lld").or_else(|| find("ld.lld")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn build_std_builds_core_alone_for_bare_metal() {
        let toolchain = Toolchain::BuildStd { rustc: "/r".into(), cargo: "/c".into(), linker: "/l".into() };
        let command = toolchain.cargo("build", "thumbv8m.main-none-eabihf", &["-Ctarget-cpu=cortex-m33".into()]);
        let args: Vec<_> = command.get_args().map(|arg| arg.to_string_lossy()).collect();
        assert!(args.contains(&"-Zbuild-std=core".into()), "{args:?}");
        let linker = command.get_envs().find(|(name, _)| *name == "CARGO_TARGET_THUMBV8M_MAIN_NONE_EABIHF_LINKER");
        assert_eq!(linker.and_then(|(_, value)| value), Some("/l".as_ref()));
    }

    #[test]
    fn hosted_targets_link_with_their_c_compiler() {
        let command = Toolchain::Installed.cargo("test", "aarch64-unknown-linux-gnu", &[]);
        let linker = command.get_envs().find(|(name, _)| *name == "CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER");
        assert_eq!(linker.and_then(|(_, value)| value), Some("aarch64-linux-gnu-gcc".as_ref()));
        assert_eq!(gnu_name("armv7-unknown-linux-gnueabihf"), "arm-linux-gnueabihf");
    }
}
