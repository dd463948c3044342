//! Runners of stored vectors, shared by the tests and `cargo xtask`.

pub mod golden;
