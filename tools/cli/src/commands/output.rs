//! Where results go: stdout, stderr, whole files.

use super::failure::Failure;
use serde::Serialize;
use std::io::Write;
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// Writes to stdout. A reader that went away (`| head`) is no error.
pub fn print(text: &str) {
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
}

/// One JSON object on stdout.
pub fn json(value: &impl Serialize) -> Result<(), Failure> {
    print(&(serde_json::to_string_pretty(value)? + "\n"));
    Ok(())
}

/// One line on stderr.
pub fn status(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// A file that appears whole or not at all: written beside its place, then renamed.
pub struct OutputFile {
    temporary: NamedTempFile,
    path: PathBuf,
}

impl OutputFile {
    /// Checks, before any work is done, that `path` can be written.
    pub fn create(path: &Path) -> Result<Self, Failure> {
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let fail = |source| Failure::Write { path: path.to_owned(), source };
        if path.is_dir() {
            return Err(fail(std::io::ErrorKind::IsADirectory.into()));
        }
        let mut builder = tempfile::Builder::new();
        builder.prefix(".shiftformer-");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            // As for any new file; the umask of the user takes from it.
            builder.permissions(std::fs::Permissions::from_mode(0o666));
        }
        Ok(Self { temporary: builder.tempfile_in(folder).map_err(|e| fail(e.kind().into()))?, path: path.to_owned() })
    }

    /// Writes `bytes` and puts the file in its place.
    pub fn finish(mut self, bytes: &[u8]) -> Result<(), Failure> {
        let fail = |source| Failure::Write { path: self.path.clone(), source };
        self.temporary.write_all(bytes).map_err(fail)?;
        self.temporary.persist(&self.path).map_err(|e| fail(e.error))?;
        Ok(())
    }
}
