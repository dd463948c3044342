//! `cargo xtask soak`: a model in steps on an emulated board, between interrupts, compared with this machine.

use crate::boards::Program;
use crate::digits;
use crate::emulate::Emulator;
use crate::error::Error;
use crate::process::shown;
use shiftformer::kernels::Native;
use shiftformer::ops::OpTable;
use shiftformer::{AlignedBytes, Model, Session};
use std::fs;

/// Steps in the suite.
pub const STEPS: u32 = 20_000;

/// Does `steps` steps there and here.
///
/// # Errors
/// [`Error::Check`] when something comes out differently, or the program has missed a tick or starved its watchdog.
pub fn run(emulator: &Emulator, steps: u32) -> Result<(), Error> {
    let expected = here(steps)?;
    let folder = tempfile::tempdir().map_err(Error::io("make a temporary folder"))?;
    fs::write(folder.path().join("steps"), steps.to_le_bytes()).map_err(Error::io("write the number of steps"))?;
    let mut command = emulator.quiet(&emulator.elf(Program::Soak))?;
    let doing = format!("run `{}`", shown(&command));
    let ran = command.current_dir(folder.path()).output().map_err(Error::io(doing))?;
    let said = String::from_utf8_lossy(&ran.stdout);
    print!("{said}");
    if !ran.status.success() {
        return Err(Error::Check(format!("the soak on {} failed", emulator.board())));
    }
    match said.lines().next() {
        Some(line) if line == expected => Ok(()),
        Some(_) | None => Err(Error::Check(format!("this machine has {expected}"))),
    }
}

/// What the program prints of its runs.
fn here(steps: u32) -> Result<String, Error> {
    let path = digits::model();
    let invalid = |what: &str| Error::Check(format!("{}: {what}", path.display()));
    let bytes = fs::read(&path).map_err(Error::io(format!("read {}", path.display())))?;
    let file = AlignedBytes::from(&bytes[..]);
    let model = Model::open_with(&file, OpTable::<Native>::ALL).map_err(|error| invalid(&error.to_string()))?;
    let mut arena = AlignedBytes::zeroed(model.arena_bytes());
    let mut session = Session::new(&model, &mut arena).map_err(|error| invalid(&error.to_string()))?;
    let done = shiftformer_link::soak(&mut session, steps, |_| ()).map_err(|error| invalid(&error.to_string()))?;
    Ok(format!("runs {} cancels {} digest {:016x}", done.runs, done.cancels, done.digest))
}
