//! Runners of stored vectors, shared by the tests and `cargo xtask`.

pub mod golden;

/// The folder of public models and vectors that `SHIFTFORMER_SHARED` names; `None`, said aloud, where it names none.
pub fn shared() -> Option<std::path::PathBuf> {
    let folder = std::env::var_os("SHIFTFORMER_SHARED").map(std::path::PathBuf::from);
    if folder.is_none() {
        eprintln!("SKIPPED: SHIFTFORMER_SHARED names no folder of public models");
    }
    folder
}
