//! Developer tasks.

mod error;
mod firmware;
mod golden;
mod process;
mod setup;
mod toolchain;

use clap::{Parser, Subcommand};
use error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

/// Developer tasks.
#[derive(Parser)]
#[command(name = "xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
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
        program: Option<String>,
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
        Task::Firmware { board, program } => firmware::build(board.as_deref(), program.as_deref())?,
        Task::Golden { folder } => return Ok(golden::run(&folder)),
    }
    Ok(ExitCode::SUCCESS)
}

fn main() -> ExitCode {
    run(Cli::parse().task).unwrap_or_else(|error| {
        eprintln!("error: {error}");
        error.exit_code()
    })
}
