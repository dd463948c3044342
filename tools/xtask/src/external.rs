//! `cargo xtask demo --program stream`: the bundled model in the external flash of an emulated board.

use crate::boards::Program;
use crate::digits;
use crate::emulate::Emulator;
use crate::error::Error;
use crate::process::run;

/// RAM for each of the two buffers: a seventh of the model.
const BUFFER: &str = "8K";

/// Splits the model, and runs it from the flash.
///
/// # Errors
/// [`Error::Check`] when an output is not that of the host, or the board has no such flash.
pub fn check(emulator: &Emulator) -> Result<(), Error> {
    let image = digits::model().with_extension("sfi");
    run(digits::shiftformer().arg("split").arg(digits::model()).args(["--buffer", BUFFER, "-o"]).arg(&image))?;
    emulator.run_with_flash(&emulator.elf(Program::Stream), &image)
}
