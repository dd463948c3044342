//! Packages of Debian, installed where that is allowed.

use crate::error::Error;
use crate::process::{find, output, run};
use std::process::Command;

/// The Debian package that holds an emulator of the boards.
pub fn package_of(emulator: &str) -> &'static str {
    if emulator.starts_with("qemu-system-riscv") { "qemu-system-misc" } else { "qemu-system-arm" }
}

/// Installs Debian packages; does nothing for an empty list.
///
/// # Errors
/// [`Error::Missing`] when there is no `apt-get` or no right to use it.
pub fn install(packages: &[&str]) -> Result<(), Error> {
    if packages.is_empty() {
        return Ok(());
    }
    let missing = || Error::Missing {
        what: packages.join(" "),
        how: format!("install it (on Debian: `apt-get install {}`)", packages.join(" ")),
    };
    let root = output(Command::new("id").arg("-u")).is_some_and(|id| id == "0");
    if find("apt-get").is_none() || !(root || find("sudo").is_some()) {
        return Err(missing());
    }
    let apt = |args: &[&str]| {
        let mut command = if root { Command::new("apt-get") } else { Command::new("sudo") };
        if !root {
            // No password prompt in the middle of a build.
            command.args(["-n", "apt-get"]);
        }
        run(command.args(["-qq", "-y"]).args(args).env("DEBIAN_FRONTEND", "noninteractive"))
    };
    eprintln!("xtask: installing {}", packages.join(" "));
    apt(&["update"]).map_err(|_| missing())?;
    apt(&[&["install", "--no-install-recommends"], packages].concat()).map_err(|_| missing())
}
