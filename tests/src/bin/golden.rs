//! `golden DIR`: compares stored vectors with the published operators in integers. `cargo xtask golden DIR` runs it.

use shiftformer_tests::golden;
use std::path::Path;
use std::process::ExitCode;

/// Runs the vectors of the folder, prints every failure and closes with `N passed, N failed`.
///
/// Exit status 0 when all pass, 1 when one does not, 2 when there is nothing to run.
fn main() -> ExitCode {
    let Some(folder) = std::env::args_os().nth(1) else {
        eprintln!("usage: golden DIR");
        return ExitCode::from(2);
    };
    let summary = golden::run(Path::new(&folder), |name, result| {
        if let Err(failure) = result {
            println!("FAILED {name}: {failure}");
        }
    });
    match summary {
        Ok(summary) => {
            println!("{} passed, {} failed", summary.passed, summary.failed);
            ExitCode::from(u8::from(summary.failed > 0))
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}
