//! What backends are called.

use shiftformer_link::Machine;

/// Name of the aarch64 process among the boards.
pub(super) const LINUX: &str = "aarch64";

/// Names of all backends.
pub fn names() -> Vec<String> {
    let boards = Machine::ALL.iter().map(|machine| machine.name).chain([LINUX]);
    let boards = boards.map(|board| format!("qemu:{board}"));
    ["portable", "native", "gpu", "serial:PORT"].map(str::to_owned).into_iter().chain(boards).collect()
}
