//! Emulators in JavaScript: packages of Node.js in the folders of boards, installed into `target/node`.

use crate::boards::{BOARDS, Node};
use crate::error::Error;
use crate::process::{find, root, run};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Files of a package: what it needs, in which versions, and what it does.
const FILES: [&str; 3] = ["package.json", "package-lock.json", "run.mjs"];

/// What a machine lacks to run them.
///
/// # Errors
/// [`Error::Missing`] when there is no Node.js or no npm.
pub fn programs() -> Result<(PathBuf, PathBuf), Error> {
    let missing = |what: &str| {
        let how = format!("install Node.js 18 or later with npm: apt-get install {what}");
        Error::Missing { what: what.to_owned(), how }
    };
    let node = find("node").ok_or_else(|| missing("nodejs"))?;
    Ok((node, find("npm").ok_or_else(|| missing("npm"))?))
}

/// The command that runs `elf`, a program of `board`; `line` says where its serial port is.
///
/// # Errors
/// When there is no Node.js, or the package cannot be installed.
pub fn command(board: &str, package: &Node, elf: &Path, line: &str) -> Result<Command, Error> {
    let (node, npm) = programs()?;
    let folder = install(board, package, &npm)?;
    let mut command = Command::new(node);
    command.arg(folder.join("run.mjs")).arg(elf).arg(line);
    Ok(command)
}

/// Copies the package to where its dependencies are, which are installed anew where the list of them is another.
fn install(board: &str, package: &Node, npm: &Path) -> Result<PathBuf, Error> {
    let from = root().join(BOARDS).join(board).join(&package.folder);
    let to = root().join("target/node").join(board);
    fs::create_dir_all(&to).map_err(Error::io(format!("make {}", to.display())))?;
    let same = |name| matches!((fs::read(from.join(name)), fs::read(to.join(name))), (Ok(a), Ok(b)) if a == b);
    let installed = same("package-lock.json") && to.join("node_modules").is_dir();
    for name in FILES {
        fs::copy(from.join(name), to.join(name)).map_err(Error::io(format!("copy {name} to {}", to.display())))?;
    }
    if !installed {
        eprintln!("xtask: installing what emulates {board}");
        run(Command::new(npm).args(["ci", "--silent", "--no-audit", "--no-fund"]).current_dir(&to))?;
    }
    Ok(to)
}
