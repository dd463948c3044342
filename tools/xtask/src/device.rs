//! The program `device` on an emulated board, and the command at the other end of its serial port.

use crate::boards::Program;
use crate::digits;
use crate::emulate::Emulator;
use crate::error::Error;
use crate::process::{root, run, shown};
use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long an emulator may take to open its socket.
const START: Duration = Duration::from_secs(20);
/// Images that are run on the device.
const IMAGES: &str = "3";

/// An emulated device at a socket.
struct Running {
    child: Child,
    port: String,
    folder: TempDir,
}

impl Running {
    fn start(emulator: &Emulator) -> Result<Self, Error> {
        let folder = tempfile::tempdir().map_err(Error::io("make a temporary folder"))?;
        let socket = folder.path().join("uart");
        let mut command = emulator.socket(&emulator.elf(Program::Device), &socket)?;
        let doing = format!("run `{}`", shown(&command));
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().map_err(Error::io(doing))?;
        let port = format!("unix:{}", socket.display());
        let mut running = Self { child, port, folder };
        let started = Instant::now();
        while !socket.exists() {
            let gone = running.child.try_wait().map_err(Error::io("wait for the emulator"))?;
            if gone.is_some() || started.elapsed() > START {
                return Err(Error::Check(format!("the emulator of {} does not start", emulator.board())));
            }
            sleep(Duration::from_millis(20));
        }
        Ok(running)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It serves for ever; nothing is left to be done where it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts the device and says how to reach it, until Ctrl-C.
///
/// # Errors
/// When the emulator does not start or ends.
pub fn wait(emulator: &Emulator) -> Result<(), Error> {
    let mut running = Running::start(emulator)?;
    println!("{} listens; try `shiftformer device info {}`", emulator.board(), running.port);
    let status = running.child.wait().map_err(Error::io("wait for the emulator"))?;
    if status.success() { Ok(()) } else { Err(Error::Check(format!("the emulator of {} failed", emulator.board()))) }
}

/// Uploads the digits model, proves it by its receipts, and compares every operator with this machine.
///
/// # Errors
/// [`Error::Check`] or [`Error::Command`] at the first thing that fails.
pub fn check(emulator: &Emulator) -> Result<(), Error> {
    let running = Running::start(emulator)?;
    let model = running.folder.path().join("digits.sfm");
    run(&mut digits::convert(digits::shiftformer(), &model))?;
    let device = |command: &str| {
        let mut asked = digits::shiftformer();
        asked.args(["device", command, &running.port]);
        asked
    };
    run(&mut device("info"))?;
    run(device("upload").arg(&model))?;
    run(device("bench").arg(&model))?;
    let mut parity = digits::shiftformer();
    parity.arg("parity").arg(&model).arg("--data").arg(root().join("models/digits/eval.npz"));
    run(parity.args(["--backends", &format!("portable,serial:{}", running.port), "--limit", IMAGES]))
}
