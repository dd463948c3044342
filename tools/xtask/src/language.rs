//! The demos of language models: their models, and conversations with them over the emulated serial port.

use crate::boards::Program;
use crate::digits::shiftformer;
use crate::emulate::Emulator;
use crate::error::Error;
use crate::process::{root, run, shown};
use shiftformer::kernels::Native;
use shiftformer::ops::OpTable;
use shiftformer::text::{Logits, Tokenizer};
use shiftformer::{AlignedBytes, Model, Session};
use std::fs;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::Stdio;

/// Sums that are typed at the calculator.
const SUMS: u32 = 200;
/// Beginnings of texts that are typed at the story demo.
const PROMPTS: [&str; 2] = ["And the LORD said unto", "In the beginning"];
/// How the story demo chooses tokens.
const SAMPLING: [&str; 8] = ["--tokens", "64", "--temperature", "0.8", "--top-k", "40", "--seed", "1"];
/// What ends a conversation: Ctrl-D.
const END: &str = "\u{4}";
/// How the last line of the story demo begins.
const COST: &str = "The last token";

/// What is typed, and the conversation that the model on this machine gives.
type Conversation = fn() -> Result<(String, String), Error>;

/// The bundled model that a program talks with, and what is said.
fn demo(program: Program) -> Result<(&'static str, Conversation), Error> {
    match program {
        Program::Calculator => Ok(("arithmetic", sums)),
        Program::Story => Ok(("text", stories)),
        Program::Runner
        | Program::Inference
        | Program::Digits
        | Program::KernelTests
        | Program::Device
        | Program::Soak
        | Program::Tasks
        | Program::Stream
        | Program::Kws => Err(Error::Usage(format!("{} has no language model", program.name()))),
    }
}

/// The file of that model.
fn model(program: Program) -> Result<PathBuf, Error> {
    let (name, _) = demo(program)?;
    Ok(root().join("models").join(name).join(name).with_extension("sfm"))
}

/// Writes the Rust module of the model; returns its path.
///
/// # Errors
/// When a file cannot be written, or the model was converted by another version.
pub fn module(program: Program) -> Result<PathBuf, Error> {
    let folder = root().join("target/firmware").join(program.name());
    fs::create_dir_all(&folder).map_err(Error::io(format!("make {}", folder.display())))?;
    let module = folder.join("model.rs");
    run(shiftformer().arg("codegen").arg(model(program)?).arg("-o").arg(&module))?;
    Ok(module)
}

/// Connects the terminal with the program.
///
/// # Errors
/// [`Error::Check`] when the program fails.
pub fn talk(program: Program, emulator: &Emulator) -> Result<(), Error> {
    run(&mut emulator.serial(&emulator.elf(program))?)
}

/// Types at the program, and compares what it answers with the same model on this machine.
///
/// # Errors
/// [`Error::Check`] with the first line that differs.
pub fn check(program: Program, emulator: &Emulator) -> Result<(), Error> {
    let (_, conversation) = demo(program)?;
    let (typed, expected) = conversation()?;
    let mut command = emulator.serial(&emulator.elf(program))?;
    let doing = format!("run `{}`", shown(&command));
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut child = child.map_err(Error::io(doing.clone()))?;
    let mut answer = Vec::new();
    if let (Some(mut to), Some(mut from)) = (child.stdin.take(), child.stdout.take()) {
        // What the emulator has no room for waits in the pipe, which holds more than is typed.
        to.write_all(format!("{typed}{END}").as_bytes()).map_err(Error::io(doing.clone()))?;
        from.read_to_end(&mut answer).map_err(Error::io(doing.clone()))?;
    }
    let status = child.wait().map_err(Error::io(doing))?;
    let answer = String::from_utf8_lossy(&answer).replace('\r', "");
    // The first line says what to type.
    let answer = answer.split_once('\n').map_or("", |(_, answer)| answer);
    let (answer, cost) = answer.split_at(answer.rfind(COST).unwrap_or(answer.len()));
    let differs = answer.lines().zip(expected.lines()).find(|(got, want)| got != want);
    if let Some((got, want)) = differs {
        return Err(Error::Check(format!("{} on {}: {got:?} for {want:?}", program.name(), emulator.board())));
    }
    if answer != expected || !status.success() {
        let bytes = (answer.len(), expected.len());
        return Err(Error::Check(format!("{} on {}: ends after {bytes:?} bytes", program.name(), emulator.board())));
    }
    println!("{} lines as on this machine. {cost}", expected.lines().count());
    Ok(())
}

/// Sums to type, and the conversation that the model on this machine gives.
fn sums() -> Result<(String, String), Error> {
    let path = model(Program::Calculator)?;
    let invalid = |what: &str| Error::Check(format!("{}: {what}", path.display()));
    let bytes = fs::read(&path).map_err(Error::io(format!("read {}", path.display())))?;
    let file = AlignedBytes::from(&bytes[..]);
    let model = Model::open_with(&file, OpTable::<Native>::ALL).map_err(|error| invalid(&error.to_string()))?;
    let tokenizer = Tokenizer::open(model.sections()).ok().flatten().ok_or_else(|| invalid("no tokenizer"))?;
    let mut arena = AlignedBytes::from(&vec![0; model.arena_bytes()][..]);
    let mut state = AlignedBytes::from(&vec![0; model.state_bytes()][..]);
    let session = Session::with_state(&model, &mut arena, &mut state);
    let mut session = session.map_err(|error| invalid(&error.to_string()))?;
    let (mut typed, mut expected) = (String::new(), String::new());
    for index in 0..SUMS {
        let (a, b) = (index * 7919 % 1000, index * 104_729 / 7 % 1000);
        let mut ids = [0; 16];
        let prompt = format!("${a:03}+{b:03}=");
        let length = tokenizer.encode(&prompt, false, &mut ids).map_err(|error| invalid(&error.to_string()))?;
        session.reset();
        session.prefill(&ids[..length]).map_err(|error| invalid(&error.to_string()))?;
        let mut sum = String::new();
        for _ in 0..4 {
            let logits = session.logits_as::<i16>().zip(model.output(0));
            let logits = logits.map(|(values, tensor)| Logits::i16(values, tensor.zero_point));
            let token = logits.and_then(|logits| logits.argmax()).ok_or_else(|| invalid("no logits"))?;
            let decoded = tokenizer.decode(&[token], false, &mut |digit| sum.insert_str(0, digit));
            decoded.map_err(|error| invalid(&error.to_string()))?;
            session.push(token).map_err(|error| invalid(&error.to_string()))?;
        }
        let zeros = sum.bytes().take(3).take_while(|&digit| digit == b'0').count();
        typed += &format!("{a}+{b}\n");
        expected += &format!("{a}+{b}={}\n", &sum[zeros..]);
    }
    Ok((typed, expected))
}

/// Beginnings to type, and the texts that the model on this machine makes of them.
fn stories() -> Result<(String, String), Error> {
    let (mut typed, mut expected) = (String::new(), String::new());
    for prompt in PROMPTS {
        let mut generate = shiftformer();
        generate.arg("generate").arg(model(Program::Story)?).args(["--prompt", prompt]).args(SAMPLING);
        typed += &format!("{prompt}\n");
        let made = generate.stderr(Stdio::null()).output();
        let made = made.map_err(Error::io(format!("start `{}`", shown(&generate))))?;
        if !made.status.success() {
            return Err(Error::Command(shown(&generate)));
        }
        // The command ends its text with a line as well.
        expected += &format!("{prompt}{}", String::from_utf8_lossy(&made.stdout));
    }
    Ok((typed, expected))
}
