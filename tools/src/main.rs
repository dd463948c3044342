//! The `shiftformer` command.
fn main() {}
