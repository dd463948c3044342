//! Developer tasks.

mod arm;
mod audit;
mod boards;
mod c;
mod check;
mod command;
mod count;
mod debian;
mod device;
mod digits;
mod dist;
mod emulate;
mod error;
mod external;
mod firmware;
mod fuzz;
mod gains;
mod golden;
mod growth;
mod kernels;
mod keywords;
mod language;
mod linux;
mod node;
mod process;
mod proto;
mod setup;
mod size;
mod soak;
mod toolchain;
mod web;
mod wheel;

use boards::Program;
use clap::{Parser, Subcommand};
use emulate::Emulator;
use error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

/// Developer tasks.
#[derive(Parser)]
#[command(name = "xtask", after_help = AFTER_HELP)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

const AFTER_HELP: &str = "Targets without an operating system are compiled by the default toolchain where rustup has \
them, else by a compiler that builds its own library. SHIFTFORMER_TOOLCHAIN=rustup or build-std asks for one of the two.";

#[derive(Subcommand)]
enum Task {
    /// Write the list of boards from their descriptions in firmware/boards.
    Boards,
    /// Write which kernels run what into docs/kernels.md.
    Kernels,
    /// Find or install compilers, emulators and drivers.
    Setup {
        /// Only say what would be done.
        #[arg(long)]
        dry_run: bool,
    },
    /// Build the programs of the boards into target/firmware/BOARD/.
    Firmware {
        /// One board instead of all.
        #[arg(long)]
        board: Option<String>,
        /// One program instead of all.
        #[arg(long)]
        #[arg(long, value_enum)]
        program: Option<Program>,
    },
    /// Build a demo for a board and run it in the emulator: digits, calculator and story to type at, kws that hears a recording, or
    /// device to connect to.
    Demo {
        /// Board.
        #[arg(long, default_value = "mps2-an386")]
        board: String,
        /// Demo.
        #[arg(long, value_enum, default_value = "digits")]
        program: Program,
        /// Type at calculator or story, let kws hear, or ask the device, and compare the answers with those of this machine.
        #[arg(long)]
        check: bool,
    },
    /// Run a program of the firmware in the emulator and print its log.
    Emulate {
        /// The program.
        elf: PathBuf,
        /// Board; without it, the one the program's folder names.
        #[arg(long)]
        board: Option<String>,
    },
    /// Run a model in steps on an emulated board, between a watchdog, ticks and interrupts, and compare with this machine.
    Soak {
        /// Board.
        #[arg(long, default_value = "mps2-an386")]
        board: String,
        /// Steps.
        #[arg(long, default_value_t = soak::STEPS)]
        steps: u32,
    },
    /// Look for floats, allocators and panics in the firmware and the runtime.
    Audit {
        /// One board instead of all.
        #[arg(long)]
        board: Option<String>,
        /// Audit the programs as they were built last.
        #[arg(long)]
        no_build: bool,
    },
    /// Report code size and check budgets.
    Size {
        /// Report the programs as they were built last.
        #[arg(long)]
        no_build: bool,
        /// Instead of the table, the functions that the inference of this program reaches, largest last.
        #[arg(long)]
        functions: Option<PathBuf>,
    },
    /// Build the library for C and C++ and its examples, and run them in the emulator.
    C {
        /// For every core and float ABI instead of hard-float Cortex-M4 alone.
        #[arg(long)]
        every_abi: bool,
        /// Only write the header, `firmware/c/include/shiftformer.h`.
        #[arg(long)]
        header: bool,
    },
    /// Count instructions of the public models on the emulated cores; writes BENCHMARKS.md.
    Count,
    /// Count instructions of DeiT-Tiny and KWT-1 on emulated AArch64 cores; writes docs/benchmarks-arm.md.
    CountArm {
        /// Folder that holds deit-tiny/ and kwt1/.
        #[arg(long)]
        models: PathBuf,
    },
    /// Set up, build, test and audit everything.
    Test,
    /// Build the command for aarch64 and run it on emulated cores with and without the fast instructions.
    Aarch64,
    /// Build the command for 32-bit Arm Linux, without the backend of the GPU, and run it on an emulated core.
    Armv7,
    /// Build the command as static binaries for aarch64, armv7 and x86-64 into target/dist, and run them, emulated where need
    /// be.
    Dist {
        /// One of aarch64, armv7 and x86_64 instead of all.
        #[arg(long)]
        machine: Option<String>,
    },
    /// Measure what each step of calibration is worth and write docs/calibration.md.
    Gains {
        /// Folder that holds kwt1/ and mnist-vit/.
        #[arg(long)]
        models: PathBuf,
    },
    /// Measure what an encoder costs against tokens, width and depth; writes docs/growth.md and docs/growth.svg.
    Growth,
    /// Fuzz what reads foreign bytes; needs a nightly compiler and cargo-fuzz.
    Fuzz {
        /// This target alone.
        #[arg(long, value_parser = fuzz::TARGETS)]
        target: Option<String>,
        /// Time for each target.
        #[arg(long, default_value_t = 60)]
        seconds: u32,
    },
    /// Generate the types of ONNX files from `onnx.proto` of the Python package `onnx`.
    Proto {
        /// The definition.
        definition: PathBuf,
    },
    /// Build the module for JavaScript with vectors, compare and time it in Node.js.
    Web,
    /// Build the Python package into target/wheel, install it into a fresh virtual environment and run its tests there.
    Wheel {
        /// With the backend `gpu` and tract, as it is published.
        #[arg(long)]
        full: bool,
        /// Also the tests that need PyTorch and dask, which are installed.
        #[arg(long, conflicts_with = "aarch64")]
        torch: bool,
        /// Instead, the wheel for aarch64 Linux into target/wheel-aarch64, with tests on an emulated machine.
        #[arg(long)]
        aarch64: bool,
    },
    /// Compare golden vectors (index.json and .npz files) with the integer operators.
    Golden {
        /// Folder that holds index.json.
        folder: PathBuf,
    },
}

fn run(task: Task) -> Result<ExitCode, Error> {
    match task {
        Task::Setup { dry_run } => setup::run_setup(dry_run)?,
        Task::Boards => boards::write_list()?,
        Task::Kernels => kernels::write()?,
        Task::Firmware { board, program } => firmware::build(board.as_deref(), program)?,
        Task::Demo { board, program, check } => emulate::demo(&board, program, check)?,
        Task::Emulate { elf, board } => {
            let emulator = board.map_or_else(|| Emulator::by_path(&elf), |board| Emulator::by_name(&board))?;
            emulator.run(&elf)?;
        }
        Task::Soak { board, steps } => {
            firmware::build(Some(&board), Some(Program::Soak))?;
            soak::run(&Emulator::by_name(&board)?, steps)?;
        }
        Task::Audit { no_build, board } => audit::run(!no_build, board.as_deref())?,
        Task::Size { functions: Some(elf), .. } => size::functions(&elf)?,
        Task::Size { no_build, functions: None } => size::run(!no_build)?,
        Task::C { header: true, .. } => c::write_header()?,
        Task::C { every_abi, header: false } => c::run_all(every_abi)?,
        Task::Count => count::run_all()?,
        Task::CountArm { models } => arm::run_all(&models)?,
        Task::Test => check::run_all()?,
        Task::Aarch64 => command::aarch64()?,
        Task::Armv7 => command::armv7()?,
        Task::Dist { machine } => dist::run_all(machine.as_deref())?,
        Task::Gains { models } => gains::gains(&models)?,
        Task::Growth => growth::growth()?,
        Task::Fuzz { target, seconds } => fuzz::fuzz(target.as_deref(), seconds)?,
        Task::Proto { definition } => proto::run(&definition)?,
        Task::Web => web::check()?,
        Task::Wheel { aarch64: true, .. } => wheel::aarch64()?,
        Task::Wheel { full, torch, aarch64: false } => {
            wheel::run_all(if full { wheel::Parts::Full } else { wheel::Parts::Quick }, torch)?;
        }
        Task::Golden { folder } => return golden::run(&folder),
    }
    Ok(ExitCode::SUCCESS)
}

fn main() -> ExitCode {
    run(Cli::parse().task).unwrap_or_else(|error| {
        eprintln!("error: {error}");
        error.exit_code()
    })
}
