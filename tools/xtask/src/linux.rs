//! The tests of the runtime on emulated Arm Linux.

use crate::error::Error;
use crate::process::{root, run};
use crate::setup::{AARCH64, ARMV7};
use crate::toolchain::{Toolchain, gnu_name};

/// Emulated cores: with SMMLA and SDOT, with SDOT alone, with neither. The pointer authentication of the first one takes
/// most of the emulator's time where it is the architecture's own.
pub const AARCH64_CORES: [&str; 3] = ["max,pauth-impdef=on", "neoverse-n1", "cortex-a53"];

/// The tests of the runtime on an emulated aarch64.
///
/// # Errors
/// When they do not build or one fails.
pub fn aarch64_tests(core: &str) -> Result<(), Error> {
    linux_tests(AARCH64, "qemu-aarch64", core)
}

/// Emulated 32-bit cores.
pub const ARMV7_CORES: [&str; 1] = ["cortex-a7"];

/// The same on an emulated 32-bit Arm.
///
/// # Errors
/// When they do not build or one fails.
pub fn armv7_tests(core: &str) -> Result<(), Error> {
    linux_tests(ARMV7, "qemu-arm", core)
}

/// The tests of the runtime for `target` on an emulated core.
fn linux_tests(target: &str, emulator: &str, core: &str) -> Result<(), Error> {
    let mut test = Toolchain::ensure(target)?.cargo("test", target, &[]);
    let runner = format!("CARGO_TARGET_{}_RUNNER", target.to_uppercase().replace('-', "_"));
    test.env(runner, format!("{emulator} -cpu {core} -L /usr/{}", gnu_name(target)));
    test.args(["--quiet", "--release", "--package", "shiftformer", "--lib", "--features", "parallel"]);
    run(test.current_dir(root()))
}
