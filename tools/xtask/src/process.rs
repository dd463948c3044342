//! Starting other programs.

use crate::error::Error;
use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How often a waiting task looks.
const POLL: Duration = Duration::from_millis(50);

/// The workspace this task belongs to.
pub fn root() -> PathBuf {
    // tools/xtask, two levels below the root.
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_path_buf()
}

/// The command line as one would type it.
pub fn shown(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|arg| arg.to_string_lossy().into_owned()));
    words.join(" ")
}

/// Runs a command whose output the user sees.
///
/// # Errors
/// When it cannot be started or fails.
pub fn run(command: &mut Command) -> Result<(), Error> {
    let status = command.status().map_err(Error::io(format!("start `{}`", shown(command))))?;
    if status.success() { Ok(()) } else { Err(Error::Command(shown(command))) }
}

/// Standard output of a command; `None` when it cannot be started or fails.
pub fn output(command: &mut Command) -> Option<String> {
    let output = command.stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Runs a command for at most `limit`; whether it succeeded in time.
///
/// # Errors
/// When it cannot be started.
pub fn run_within(command: &mut Command, limit: Duration) -> Result<bool, Error> {
    let doing = format!("start `{}`", shown(command));
    let mut child = command.spawn().map_err(Error::io(doing.clone()))?;
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().map_err(Error::io(doing.clone()))? {
            return Ok(status.success());
        }
        if start.elapsed() > limit {
            // It may have ended in this moment; waiting for it is right in both cases.
            let _ = child.kill();
            let _ = child.wait();
            return Ok(false);
        }
        sleep(POLL);
    }
}

/// Path of a program in the search path.
pub fn find(program: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?).map(|folder| folder.join(program)).find(|path| path.is_file())
}
