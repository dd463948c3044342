//! `cargo xtask golden DIR`: compares stored vectors with the published operators in integers.

use shiftformer_tests::golden;
use std::path::Path;
use std::process::ExitCode;

/// Runs the vectors of `folder`, prints every failure and closes with `N passed, N failed`.
///
/// Exit status 0 when all pass, 1 when one does not, 2 when there is nothing to run.
pub fn run(folder: &Path) -> ExitCode {
    let summary = golden::run(folder, |name, result| {
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
