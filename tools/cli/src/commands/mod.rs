//! The command line: one file per command; this one holds what they share.
//!
//! A command prints its result on stdout (one JSON object under `--json`), everything else on stderr. Exit codes: 0 ok,
//! 1 a check failed, 2 bad usage or input, with one line on stderr that says what to do.

mod adapters;
mod bench;
pub mod codegen;
pub mod convert;
pub mod data;
mod demo;
#[cfg(feature = "serial")]
mod device;
pub mod eval;
pub mod failure;
pub mod fit;
pub mod generate;
mod inspect;
mod listen;
mod merge;
mod output;
mod parity;
mod picture;
mod run;
pub mod source;
mod split;
mod steps;
mod threads;
mod transport;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};
use failure::{Failure, Verdict};
use std::ffi::OsString;
use std::process::ExitCode;

/// Integer-only transformers: convert ONNX models to .sfm files, check them, measure them.
#[derive(Parser)]
#[command(name = "shiftformer", version, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Quantize an ONNX model into a .sfm file.
    Convert(convert::Args),
    /// Show what a .sfm file holds: sizes, operators, proven bounds, the arena over time.
    Inspect(inspect::Args),
    /// Run a model on one sample.
    Run(run::Args),
    /// Run a keyword spotter on a stream of sound: 16-bit samples at 16 kHz from standard input.
    Listen(listen::Args),
    /// Measure accuracy and error against the float model.
    Eval(eval::Args),
    /// Join the results of `eval --shard`.
    Merge(merge::Args),
    /// Continue a prompt with a decoder, token by token.
    Generate(generate::Args),
    /// Measure speed on this machine, or count instructions on an emulated board.
    Bench(bench::Args),
    /// Talk with a board on a serial line: upload models, run, time and prove them.
    #[cfg(feature = "serial")]
    Device(device::Args),
    /// Run the whole workflow on the bundled digits model.
    Demo(demo::Args),
    /// Compare the bytes of every operator between backends.
    Parity(parity::Args),
    /// List the GPUs and software adapters.
    Adapters(adapters::Args),
    /// List the boards a model fits, with its estimated latency on each.
    Fit(fit::Args),
    /// Generate a Rust module or a C header for firmware.
    Codegen(codegen::Args),
    /// Make a model smaller for its way to a device: entropy-coded, or as a change to the model that is there.
    Pack(transport::PackArgs),
    /// Make a packed model a .sfm file again.
    Unpack(transport::UnpackArgs),
    /// Cut a model into parts that a device reads from an external flash while it runs.
    Split(split::Args),
}

/// Runs the command in the arguments of the process.
pub fn main() -> ExitCode {
    report_panics_in_one_line();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    match dispatch(cli.command) {
        Ok(Verdict::Passed) => ExitCode::SUCCESS,
        Ok(Verdict::Failed) => ExitCode::from(1),
        Err(failure) => {
            output::status(&format!("error: {}", one_line(&failure.to_string())));
            ExitCode::from(2)
        }
    }
}

fn dispatch(command: Command) -> Result<Verdict, Failure> {
    match command {
        Command::Convert(args) => convert::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Run(args) => run::run(&args),
        Command::Listen(args) => listen::run(&args),
        Command::Eval(args) => eval::run(&args),
        Command::Generate(args) => generate::run(&args),
        Command::Merge(args) => merge::run(&args),
        Command::Bench(args) => bench::run(&args),
        #[cfg(feature = "serial")]
        Command::Device(args) => device::run(args),
        Command::Demo(args) => demo::run(&args),
        Command::Parity(args) => parity::run(&args),
        Command::Adapters(args) => adapters::run(&args),
        Command::Fit(args) => fit::run(&args),
        Command::Codegen(args) => codegen::run(&args),
        Command::Pack(args) => transport::pack(&args),
        Command::Unpack(args) => transport::unpack(&args),
        Command::Split(args) => split::run(&args),
    }
}

/// Help and version go to stdout; what is wrong with the arguments goes to stderr in one line.
fn usage(error: &clap::Error) -> ExitCode {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        output::print(&error.to_string());
        return ExitCode::SUCCESS;
    }
    output::status(&cause(error));
    ExitCode::from(2)
}

/// What is wrong with the arguments, in one line.
fn cause(error: &clap::Error) -> String {
    let text = error.to_string();
    let cause = text.split("\n\nUsage:").next().unwrap_or(&text).split("\n\nFor more").next().unwrap_or(&text);
    format!("{}; see `shiftformer --help`", cause.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// The arguments of one command, without its name.
#[derive(Parser)]
#[command(no_binary_name = true)]
struct Arguments<A: clap::Args> {
    #[command(flatten)]
    arguments: A,
}

/// The arguments of a command from their texts, without the name of the command.
///
/// # Errors
/// [`Failure::Usage`] with the text that the command ends with.
pub fn parse<A: clap::Args>(texts: &[OsString]) -> Result<A, Failure> {
    let fail = |error: &clap::Error| Failure::Usage(cause(error).trim_start_matches("error: ").to_owned());
    Ok(Arguments::try_parse_from(texts).map_err(|error| fail(&error))?.arguments)
}

/// The long names of the options of a command.
pub fn option_names<A: clap::Args>() -> Vec<String> {
    let command = A::augment_args(clap::Command::new("command"));
    command.get_arguments().filter_map(|argument| argument.get_long().map(str::to_owned)).collect()
}

/// `text` without line breaks; what stood on lines of its own is separated by semicolons.
pub fn one_line(text: &str) -> String {
    let text = text.trim().replace(":\n", ": ").replace('\n', "; ");
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A panic is a bug of this program: say so in one line and end with the code for bad input.
fn report_panics_in_one_line() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map_or_else(String::new, |l| format!(" at {}:{}", l.file(), l.line()));
        let message = panic.payload_as_str().unwrap_or("unknown cause");
        output::status(&format!("error: internal error{place}: {}; please report it", one_line(message)));
        std::process::exit(2);
    }));
}
