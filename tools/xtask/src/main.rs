//! Developer tasks.

mod golden;

use clap::{Parser, Subcommand};
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
    /// Compare golden vectors (index.json and .npz files) with the integer operators.
    Golden {
        /// Folder that holds index.json.
        folder: PathBuf,
    },
}

fn main() -> ExitCode {
    match Cli::parse().task {
        Task::Golden { folder } => golden::run(&folder),
    }
}
