//! The keyword spotter: its model, and a recording that it hears over the emulated serial port.

use crate::audit::elf::Image;
use crate::boards::Program;
use crate::digits::shiftformer;
use crate::emulate::Emulator;
use crate::error::Error;
use crate::process::{root, run, shown};
use crate::size;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;

/// Name of the program.
const PROGRAM: &str = "kws";
/// The model.
const MODEL: &str = "models/kws/kws.sfm";
/// The recording: 16-bit samples of one channel behind a header.
const RECORDING: &str = "models/kws/eval.wav";
/// Bytes of its samples that are heard: six seconds. The emulated line passes some thousand bytes in a second.
const HEARD_BYTES: usize = 6 * 16_000 * size_of::<i16>();
/// Bytes of the header.
const HEADER: usize = 44;
/// Bytes of a block of samples; the program takes any up to 64 KiB.
const BLOCK_BYTES: usize = 640;
/// How the lines about what it took begin.
const COST: [&str; 2] = ["A second of sound takes ", "Memory: "];
/// A device of the size that the program is for.
pub const FLASH_BYTES: u64 = 256 * 1024;
/// See [`FLASH_BYTES`].
pub const RAM_BYTES: u64 = 64 * 1024;
/// A Cortex-M4 of this rate has to keep up with the sound, one instruction per cycle.
pub const CLOCK_HZ: u64 = 64_000_000;

/// Writes the Rust module of the model; returns its path.
///
/// # Errors
/// When a file cannot be written, or the model was converted by another version.
pub fn module() -> Result<PathBuf, Error> {
    let folder = root().join("target/firmware").join(PROGRAM);
    fs::create_dir_all(&folder).map_err(Error::io(format!("make {}", folder.display())))?;
    let module = folder.join("model.rs");
    run(shiftformer().arg("codegen").arg(root().join(MODEL)).arg("-o").arg(&module))?;
    Ok(module)
}

/// Lets the program hear the recording, and prints what it answers.
///
/// # Errors
/// [`Error::Check`] when the program fails.
pub fn listen(emulator: &Emulator) -> Result<(), Error> {
    hear(emulator, &mut |line| println!("{line}")).map(|_| ())
}

/// Compares what the program answers with `shiftformer listen` on this machine, and what it takes with a device's memory
/// and clock.
///
/// # Errors
/// [`Error::Check`] with the first line that differs, or with what is too much.
pub fn check(emulator: &Emulator) -> Result<(), Error> {
    let mut answers = Vec::new();
    let taken = hear(emulator, &mut |line| answers.push(line.to_owned()))?;
    let mut listen = shiftformer();
    listen.arg("listen").arg(root().join(MODEL));
    let expected: Vec<String> = lines(&mut listen, samples()?, &mut |_| {})?;
    let (heard, words) = (answers.len() - COST.len().min(answers.len()), expected.len());
    let differs = answers.iter().take(heard).zip(&expected).find(|(got, want)| got != want);
    if let Some((got, want)) = differs {
        return Err(Error::Check(format!("{PROGRAM} on {}: {got:?} for {want:?}", emulator.board())));
    }
    if heard != words || words == 0 {
        return Err(Error::Check(format!("{PROGRAM} on {}: {heard} answers for {words}", emulator.board())));
    }
    println!("{words} answers as on this machine. {taken}");
    taken.check(emulator)
}

/// What the program takes.
pub struct Taken {
    /// Instructions of a second of sound.
    pub instructions: u64,
    /// Bytes of code, model and what variables start as.
    pub flash_bytes: u64,
    /// Bytes of variables, arena and stack.
    pub ram_bytes: u64,
}

impl std::fmt::Display for Taken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { instructions, flash_bytes, ram_bytes } = self;
        write!(f, "A second of sound: {instructions} instructions; {flash_bytes} bytes of flash, {ram_bytes} of RAM")
    }
}

impl Taken {
    fn check(&self, emulator: &Emulator) -> Result<(), Error> {
        for (what, taken, most) in [
            ("instructions for a second of sound", self.instructions, CLOCK_HZ),
            ("bytes of flash", self.flash_bytes, FLASH_BYTES),
            ("bytes of RAM", self.ram_bytes, RAM_BYTES),
        ] {
            if taken > most {
                return Err(Error::Check(format!(
                    "{PROGRAM} on {} takes {taken} {what}, {most} at most",
                    emulator.board()
                )));
            }
        }
        Ok(())
    }
}

/// Sends the recording to the program; every line of its answer goes to `answer`.
///
/// # Errors
/// [`Error::Check`] when the program fails or does not say what it took.
pub fn hear(emulator: &Emulator, answer: &mut dyn FnMut(&str)) -> Result<Taken, Error> {
    let elf = emulator.elf(Program::Kws);
    let mut blocks = Vec::new();
    for block in samples()?.chunks(BLOCK_BYTES) {
        blocks.extend(((block.len() / size_of::<i16>()) as u16).to_le_bytes());
        blocks.extend(block);
    }
    // The end.
    blocks.extend(0u16.to_le_bytes());
    let lines = lines(&mut emulator.serial(&elf)?, blocks, answer)?;
    let numbers: Vec<u64> = lines
        .iter()
        .filter(|line| COST.iter().any(|start| line.starts_with(start)))
        .flat_map(|line| line.split(' ').filter_map(|word| word.parse().ok()))
        .collect();
    let &[instructions, _, _, arena, stack] = &numbers[..] else {
        return Err(Error::Check(format!("{PROGRAM} on {} does not say what it took", emulator.board())));
    };
    let image = Image::read(&elf)?;
    let bytes = |sections: &[&str]| sections.iter().map(|name| size::section(&image, name)).sum::<u64>();
    Ok(Taken {
        instructions,
        flash_bytes: bytes(&[".vector_table", ".text", ".rodata", ".data"]),
        ram_bytes: bytes(&[".data", ".bss", ".uninit"]) + arena + stack,
    })
}

/// The bytes of the samples of the recording.
fn samples() -> Result<Vec<u8>, Error> {
    let path = root().join(RECORDING);
    let mut bytes = fs::read(&path).map_err(Error::io(format!("read {}", path.display())))?;
    bytes.drain(..HEADER.min(bytes.len()));
    bytes.truncate(HEARD_BYTES);
    Ok(bytes)
}

/// Runs `command` with `input`; every line that it prints goes to `each` as it comes.
fn lines(command: &mut Command, input: Vec<u8>, each: &mut dyn FnMut(&str)) -> Result<Vec<String>, Error> {
    let doing = format!("run `{}`", shown(command));
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut child: Child = child.map_err(Error::io(doing.clone()))?;
    let (Some(mut to), Some(from)) = (child.stdin.take(), child.stdout.take()) else {
        return Err(Error::Command(shown(command)));
    };
    let mut lines = Vec::new();
    thread::scope(|scope| {
        // What it has no room for waits; if it ends early, its status says so.
        scope.spawn(move || to.write_all(&input));
        for line in BufReader::new(from).lines() {
            let line = line?;
            each(&line);
            lines.push(line);
        }
        Ok(())
    })
    .map_err(Error::io(doing.clone()))?;
    let status = child.wait().map_err(Error::io(doing))?;
    if status.success() { Ok(lines) } else { Err(Error::Command(shown(command))) }
}
