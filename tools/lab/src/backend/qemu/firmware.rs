//! Finding, and inside the repository building, the program of a board.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

/// A folder of programs to use instead of the repository's: `$SHIFTFORMER_FIRMWARE/BOARD/runner`.
const OVERRIDE: &str = "SHIFTFORMER_FIRMWARE";
/// What the program is made of, from the root of the repository.
const SOURCES: [&str; 5] =
    ["runtime/src", "tools/link", "firmware/boards", "firmware/support", "firmware/programs/runner"];
/// Locked while a program is built: backends may be opened from several threads.
static BUILDING: Mutex<()> = Mutex::new(());

/// Whether a program is in the search path.
pub fn in_search_path(program: &str) -> bool {
    env::var_os("PATH").is_some_and(|path| env::split_paths(&path).any(|folder| folder.join(program).is_file()))
}

/// Path of the runner of `board`. Inside the repository it is built when it is missing or older than its sources.
pub fn runner(board: &str) -> Result<PathBuf, String> {
    let file = Path::new(board).join("runner");
    if let Some(folder) = env::var_os(OVERRIDE) {
        let path = Path::new(&folder).join(&file);
        return if path.is_file() { Ok(path) } else { Err(format!("{OVERRIDE} has no {}", file.display())) };
    }
    let command = format!("cargo xtask firmware --board {board} --program runner");
    let root = repository().ok_or_else(|| format!("no firmware found; run `{command}` in the repository"))?;
    let path = root.join("target/firmware").join(&file);
    let _guard = BUILDING.lock().unwrap_or_else(PoisonError::into_inner);
    let built = modified(&path);
    if built.is_none_or(|built| SOURCES.iter().any(|folder| newest(&root.join(folder)) > Some(built))) {
        let words = command.split(' ').skip(1);
        // The command's own output is for results alone.
        let status = Command::new("cargo").args(words).current_dir(&root).stdout(Stdio::null()).status();
        let done = status.is_ok_and(|status| status.success());
        done.then_some(()).ok_or_else(|| format!("its firmware does not build; run `{command}` to see why"))?;
    }
    Ok(path)
}

/// The repository around the current folder, else around this program.
fn repository() -> Option<PathBuf> {
    let starts = [env::current_dir().ok(), env::current_exe().ok()];
    let is_root = |folder: &&Path| folder.join("tools/xtask/Cargo.toml").is_file();
    starts.into_iter().flatten().find_map(|start| start.ancestors().find(is_root).map(Path::to_path_buf))
}

fn modified(path: &Path) -> Option<SystemTime> {
    path.metadata().ok()?.modified().ok()
}

/// Time of the newest file under `folder`.
fn newest(folder: &Path) -> Option<SystemTime> {
    let entries = folder.read_dir().ok()?.filter_map(Result::ok).map(|entry| entry.path());
    entries.filter_map(|path| if path.is_dir() { newest(&path) } else { modified(&path) }).max()
}
