//! `cargo xtask emulate` and `cargo xtask demo`: runs a program of the firmware and shows its log.

use crate::boards::Program;
use crate::error::Error;
use crate::process::{run, shown};
use crate::{debian, device, firmware, language, process};
use defmt_decoder::{DecodeError, Table};
use shiftformer_link::Machine;
use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};

/// 1 instruction takes `2^8` ns: instruction counts of the program are exact and repeatable.
const ICOUNT_SHIFT: &str = "shift=8";
/// Bytes read from the program at a time.
const CHUNK: usize = 1024;

/// Builds a demo for `board` and runs it; `check` types at those that are typed at.
///
/// # Errors
/// [`Error::Check`] when the demo finds a difference.
pub fn demo(board: &str, program: Program, check: bool) -> Result<(), Error> {
    let machine = by_name(board)?;
    firmware::build(Some(board), Some(program))?;
    match program {
        Program::Calculator | Program::Story if check => language::check(program, machine),
        Program::Calculator | Program::Story => language::talk(program, machine),
        Program::Device if check => device::check(machine),
        Program::Device => device::wait(machine),
        Program::Digits | Program::KernelTests => emulate(machine, &firmware::path(board, program.name())),
        Program::Runner | Program::Inference => {
            Err(Error::Usage(format!("{} is no demo; give digits, calculator, story or device", program.name())))
        }
    }
}

/// The machine of this name.
///
/// # Errors
/// [`Error::Usage`] when there is none.
pub fn by_name(board: &str) -> Result<&'static Machine, Error> {
    let names = || Machine::ALL.iter().map(|machine| machine.name).collect::<Vec<_>>().join(", ");
    Machine::by_name(board).ok_or_else(|| Error::Usage(format!("unknown board {board}; known: {}", names())))
}

/// The machine whose folder a program lies in.
///
/// # Errors
/// [`Error::Usage`] when the path names none.
pub fn by_path(elf: &Path) -> Result<&'static Machine, Error> {
    let folder = elf.parent().and_then(Path::file_name).and_then(|name| name.to_str());
    folder
        .and_then(Machine::by_name)
        .ok_or_else(|| Error::Usage(format!("{} is in no board's folder; give --board", elf.display())))
}

/// Runs `elf` on `machine` until it exits, printing what it logs.
///
/// # Errors
/// [`Error::Check`] when it exits with a failure.
pub fn emulate(machine: &Machine, elf: &Path) -> Result<(), Error> {
    let bytes = fs::read(elf).map_err(Error::io(format!("read {}", elf.display())))?;
    let mut command = emulator(machine, elf, "none")?;
    let table = Table::parse(&bytes).map_err(|e| Error::Usage(format!("{}: {e}", elf.display())))?;
    let Some(table) = table else { return run(&mut command) };
    let doing = format!("run `{}`", shown(&command));
    let mut child = command.stdout(Stdio::piped()).stdin(Stdio::null()).spawn().map_err(Error::io(doing.clone()))?;
    if let Some(log) = child.stdout.take() {
        print_log(&table, log).map_err(Error::io(doing.clone()))?;
    }
    let status = child.wait().map_err(Error::io(doing))?;
    if status.success() { Ok(()) } else { Err(Error::Check(format!("the program on {} failed", machine.name))) }
}

/// The command that runs `elf`, its serial port connected with standard input and output.
///
/// # Errors
/// When there is no emulator and none can be installed.
pub fn serial(machine: &Machine, elf: &Path) -> Result<Command, Error> {
    emulator(machine, elf, "stdio")
}

/// The command that runs `elf`, its serial port at the socket `path`, to which hosts connect.
///
/// # Errors
/// As [`serial`].
pub fn socket(machine: &Machine, elf: &Path, path: &Path) -> Result<Command, Error> {
    emulator(machine, elf, &format!("unix:{},server=on,wait=off", path.display()))
}

fn emulator(machine: &Machine, elf: &Path, serial: &str) -> Result<Command, Error> {
    if process::find(machine.emulator).is_none() {
        debian::install(&[debian::package_of(machine.emulator)])?;
    }
    let mut command = Command::new(machine.emulator);
    command.args(machine.arguments).args(["-display", "none", "-monitor", "none", "-serial", serial]);
    command.args(["-semihosting-config", "enable=on,target=native", "-icount", ICOUNT_SHIFT, "-kernel"]).arg(elf);
    Ok(command)
}

fn print_log(table: &Table, mut log: impl Read) -> std::io::Result<()> {
    let mut decoder = table.new_stream_decoder();
    let mut chunk = [0; CHUNK];
    loop {
        let bytes = log.read(&mut chunk)?;
        if bytes == 0 {
            return Ok(());
        }
        decoder.received(&chunk[..bytes]);
        loop {
            match decoder.decode() {
                Ok(frame) => {
                    println!("{} {}", frame.level().map_or("", |level| level.as_str()), frame.display_message())
                }
                Err(DecodeError::UnexpectedEof) => break,
                Err(DecodeError::Malformed) => println!("(an unreadable log frame)"),
            }
        }
    }
}
