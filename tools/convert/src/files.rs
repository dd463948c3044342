//! Reading the files that users name.

use std::io::{Error, ErrorKind, Result};
use std::path::Path;

/// All bytes of a file.
///
/// # Errors
/// As `std::fs::read`; and for pipes and devices, which may have no end.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    if !std::fs::metadata(path)?.is_file() {
        return Err(Error::new(ErrorKind::InvalidInput, "it is no file"));
    }
    std::fs::read(path)
}
