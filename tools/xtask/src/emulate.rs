//! `cargo xtask emulate` and `cargo xtask demo`: runs a program of the firmware and shows its log.

use crate::boards::{self, Node, Program, Target};
use crate::error::Error;
use crate::process::{run, shown};
use crate::{debian, device, external, firmware, keywords, language, node, process, soak};
use defmt_decoder::{DecodeError, Table};
use shiftformer_link::Machine;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
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
    let emulator = Emulator::by_name(board)?;
    firmware::build(Some(board), Some(program))?;
    match program {
        Program::Calculator | Program::Story if check => language::check(program, &emulator),
        Program::Calculator | Program::Story => language::talk(program, &emulator),
        Program::Device if check => device::check(&emulator),
        Program::Device => device::wait(&emulator),
        Program::Digits | Program::KernelTests | Program::Tasks => emulator.run(&emulator.elf(program)),
        Program::Soak => soak::run(&emulator, soak::STEPS),
        Program::Stream => external::check(&emulator),
        Program::Kws if check => keywords::check(&emulator),
        Program::Kws => keywords::listen(&emulator),
        Program::Runner | Program::Inference => Err(Error::Usage(format!(
            "{} is no demo; give digits, calculator, story, kws, tasks, stream or device",
            program.name()
        ))),
    }
}

/// What runs the programs of a board on this machine.
#[derive(Clone, Debug)]
pub enum Emulator {
    /// QEMU.
    Qemu(&'static Machine),
    /// A script of the board.
    Node {
        /// Name of the board.
        board: String,
        /// The script.
        package: Node,
    },
}

/// Where a serial port is.
enum Serial<'s> {
    Nowhere,
    Stdio,
    Socket(&'s Path),
}

impl Emulator {
    /// That of a board, if it has one.
    pub fn of(target: &Target) -> Option<Self> {
        let Target { board, node, .. } = target;
        let node = || Some(Self::Node { board: board.clone(), package: node.clone()? });
        Machine::by_name(board).map(Self::Qemu).or_else(node)
    }

    /// That of the board of this name.
    ///
    /// # Errors
    /// [`Error::Usage`] when there is none.
    pub fn by_name(board: &str) -> Result<Self, Error> {
        let target = boards::target(board)?;
        Self::of(&target).ok_or_else(|| Error::Usage(format!("nothing emulates {board}; see docs/boards.md")))
    }

    /// That of the board whose folder a program lies in.
    ///
    /// # Errors
    /// [`Error::Usage`] when the path names none.
    pub fn by_path(elf: &Path) -> Result<Self, Error> {
        let folder = elf.parent().and_then(Path::file_name).and_then(|name| name.to_str());
        let unknown = || Error::Usage(format!("{} is in no board's folder; give --board", elf.display()));
        folder.and_then(|board| Self::by_name(board).ok()).ok_or_else(unknown)
    }

    /// Name of the board.
    pub fn board(&self) -> &str {
        match self {
            Self::Qemu(machine) => machine.name,
            Self::Node { board, .. } => board,
        }
    }

    /// Where the board's build of a program lies.
    pub fn elf(&self, program: Program) -> PathBuf {
        firmware::path(self.board(), program.name())
    }

    /// Runs `elf` until it exits, printing what it logs.
    ///
    /// # Errors
    /// [`Error::Check`] when it exits with a failure.
    pub fn run(&self, elf: &Path) -> Result<(), Error> {
        self.run_command(self.quiet(elf)?, elf)
    }

    /// [`run`](Self::run) with `flash` as the content of the board's external flash.
    ///
    /// # Errors
    /// As [`run`](Self::run), and [`Error::Usage`] for an emulator without such a flash.
    pub fn run_with_flash(&self, elf: &Path, flash: &Path) -> Result<(), Error> {
        match self {
            Self::Qemu(machine) => Err(Error::Usage(format!("QEMU's {} has no external flash", machine.name))),
            Self::Node { .. } => {
                let mut command = self.quiet(elf)?;
                command.arg(flash);
                self.run_command(command, elf)
            }
        }
    }

    fn run_command(&self, mut command: Command, elf: &Path) -> Result<(), Error> {
        let bytes = fs::read(elf).map_err(Error::io(format!("read {}", elf.display())))?;
        let table = Table::parse(&bytes).map_err(|e| Error::Usage(format!("{}: {e}", elf.display())))?;
        let Some(table) = table else { return run(&mut command) };
        let doing = format!("run `{}`", shown(&command));
        let mut child =
            command.stdout(Stdio::piped()).stdin(Stdio::null()).spawn().map_err(Error::io(doing.clone()))?;
        if let Some(log) = child.stdout.take() {
            print_log(&table, log).map_err(Error::io(doing.clone()))?;
        }
        let status = child.wait().map_err(Error::io(doing))?;
        if status.success() { Ok(()) } else { Err(Error::Check(format!("the program on {} failed", self.board()))) }
    }

    /// The command that runs `elf`, without its serial port.
    ///
    /// # Errors
    /// When there is no emulator and none can be installed.
    pub fn quiet(&self, elf: &Path) -> Result<Command, Error> {
        self.command(elf, Serial::Nowhere)
    }

    /// The command that runs `elf`, its serial port connected with standard input and output.
    ///
    /// # Errors
    /// As [`quiet`](Self::quiet).
    pub fn serial(&self, elf: &Path) -> Result<Command, Error> {
        self.command(elf, Serial::Stdio)
    }

    /// The command that runs `elf`, its serial port at the socket `path`, to which hosts connect.
    ///
    /// # Errors
    /// As [`quiet`](Self::quiet).
    pub fn socket(&self, elf: &Path, path: &Path) -> Result<Command, Error> {
        self.command(elf, Serial::Socket(path))
    }

    fn command(&self, elf: &Path, serial: Serial<'_>) -> Result<Command, Error> {
        let machine = match self {
            Self::Qemu(machine) => machine,
            Self::Node { board, package } => {
                let line = match serial {
                    Serial::Nowhere => "none".to_owned(),
                    Serial::Stdio => "stdio".to_owned(),
                    Serial::Socket(path) => format!("unix:{}", path.display()),
                };
                return node::command(board, package, elf, &line);
            }
        };
        if process::find(machine.emulator).is_none() {
            debian::install(&[debian::package_of(machine.emulator)])?;
        }
        let serial = match serial {
            Serial::Nowhere => "none".to_owned(),
            Serial::Stdio => "stdio".to_owned(),
            Serial::Socket(path) => format!("unix:{},server=on,wait=off", path.display()),
        };
        let mut command = Command::new(machine.emulator);
        command.args(machine.arguments).args(["-display", "none", "-monitor", "none", "-serial", &serial]);
        command.args(["-semihosting-config", "enable=on,target=native", "-icount", ICOUNT_SHIFT, "-kernel"]).arg(elf);
        Ok(command)
    }
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
