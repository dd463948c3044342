//! `cargo xtask setup`: finds or installs what the other tasks need.

use crate::boards;
use crate::debian::install;
use crate::error::Error;
use crate::process::{find, output};
use crate::toolchain::{BUILD_STD_PACKAGES, Toolchain};
use std::path::Path;
use std::process::Command;

/// Target of the runner under `qemu-aarch64`.
pub const AARCH64: &str = "aarch64-unknown-linux-gnu";
/// Target of 32-bit Arm Linux, under `qemu-arm`.
pub const ARMV7: &str = "armv7-unknown-linux-gnueabihf";

/// Something outside of Rust, and the Debian package that holds it.
struct Tool {
    package: &'static str,
    purpose: &'static str,
    present: fn() -> bool,
}

const TOOLS: [Tool; 13] = [
    Tool {
        package: "qemu-system-arm",
        purpose: "emulated microcontrollers",
        present: || find("qemu-system-arm").is_some(),
    },
    Tool { package: "qemu-system-misc", purpose: "emulated RISC-V", present: || find("qemu-system-riscv32").is_some() },
    Tool { package: "qemu-user", purpose: "emulated aarch64", present: || find("qemu-aarch64").is_some() },
    Tool {
        package: "gcc-aarch64-linux-gnu",
        purpose: "linking for aarch64",
        present: || find("aarch64-linux-gnu-gcc").is_some(),
    },
    Tool {
        package: "libc6-dev-arm64-cross",
        purpose: "linking for aarch64",
        present: || Path::new("/usr/aarch64-linux-gnu/lib/libc.so.6").exists(),
    },
    Tool {
        package: "gcc-arm-linux-gnueabihf",
        purpose: "linking for armv7",
        present: || find("arm-linux-gnueabihf-gcc").is_some(),
    },
    Tool {
        package: "libc6-dev-armhf-cross",
        purpose: "linking for armv7",
        present: || Path::new("/usr/arm-linux-gnueabihf/lib/libc.so.6").exists(),
    },
    Tool {
        package: "gcc-arm-none-eabi",
        purpose: "C and C++ on microcontrollers",
        present: || find("arm-none-eabi-gcc").is_some() && find("arm-none-eabi-g++").is_some(),
    },
    Tool { package: "mesa-vulkan-drivers", purpose: "a GPU in software", present: has_vulkan_driver },
    Tool { package: "nodejs", purpose: "WebAssembly", present: || find("node").is_some() },
    Tool { package: "npm", purpose: "emulators in JavaScript", present: || find("npm").is_some() },
    Tool { package: "python3-venv", purpose: "the Python package", present: has_venv },
    Tool { package: "libvulkan1", purpose: "GPUs", present: || library("libvulkan.so.1") },
];

/// Reports what is there and installs what is not; with `dry_run`, says what it would do.
///
/// # Errors
/// [`Error::Missing`] when something needed could not be installed.
pub fn run_setup(dry_run: bool) -> Result<(), Error> {
    let missing: Vec<&Tool> = TOOLS.iter().filter(|tool| !(tool.present)()).collect();
    for tool in &TOOLS {
        let state = if (tool.present)() { "present" } else { "missing" };
        println!("{state}: {} ({})", tool.package, tool.purpose);
    }
    let packages: Vec<&str> = missing.iter().map(|tool| tool.package).collect();
    if dry_run && !packages.is_empty() {
        println!("would install: {}", packages.join(" "));
    } else {
        install(&packages)?;
    }
    let mut targets: Vec<String> = boards::targets()?.into_iter().map(|target| target.build.target).collect();
    targets.extend([AARCH64, ARMV7].map(str::to_owned));
    targets.sort_unstable();
    targets.dedup();
    for target in targets {
        match if dry_run { Toolchain::find(&target)? } else { Some(Toolchain::ensure(&target)?) } {
            Some(Toolchain::Installed) => println!("present: target {target}"),
            Some(Toolchain::BuildStd { rustc, .. }) => {
                println!("present: target {target}, built by {}", rustc.display())
            }
            None => println!("would try: rustup target add {target}, else {}", BUILD_STD_PACKAGES.join(" ")),
        }
    }
    Ok(())
}

/// Debian has the parts of Python that make environments in a package of their own.
fn has_venv() -> bool {
    output(Command::new("python3").args(["-c", "import ensurepip, venv"])).is_some()
}

fn has_vulkan_driver() -> bool {
    let folder = Path::new("/usr/share/vulkan/icd.d");
    folder.read_dir().is_ok_and(|entries| entries.count() > 0)
}

fn library(name: &str) -> bool {
    output(Command::new("/sbin/ldconfig").arg("-p")).is_some_and(|list| list.contains(name))
}
