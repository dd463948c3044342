//! `cargo xtask proto FILE`: the types of ONNX files, from ONNX's own definition.

use crate::error::Error;
use std::path::Path;

/// Where the types go.
#[cfg(feature = "proto")]
const TYPES: &str = "tools/convert/src/import/onnx.rs";
/// What stands above them.
#[cfg(feature = "proto")]
const HEADER: &str = "//! The messages of an ONNX file.
//!
//! Written by `cargo xtask proto` from `onnx/onnx.proto` of the Python package `onnx` 1.23.2 (Apache-2.0): not to be edited.

";

/// Generates the types from `definition`, the `onnx.proto` of the Python package `onnx`.
///
/// # Errors
/// [`Error::Usage`] when the file is not such a definition.
#[cfg(feature = "proto")]
pub fn run(definition: &Path) -> Result<(), Error> {
    use crate::process::root;
    use std::fs;

    let usage = |why: &dyn std::fmt::Display| Error::Usage(format!("{}: {why}", definition.display()));
    let text = fs::read_to_string(definition).map_err(|why| usage(&why))?;
    // ONNX makes its proto3 definition from the other by the same two steps. The bytes on the wire are the same, and fields
    // that a file leaves out have their defaults.
    let text = text.replace("syntax = \"proto2\"", "syntax = \"proto3\"").replace("optional ", "");
    let folder = root().join("target/proto");
    fs::create_dir_all(&folder).map_err(Error::io("make target/proto"))?;
    fs::write(folder.join("onnx.proto"), text).map_err(Error::io("write target/proto/onnx.proto"))?;
    let set = protox::compile(["onnx.proto"], [&folder]).map_err(|why| usage(&why))?;
    let mut config = prost_build::Config::new();
    // The definition says it better than a copy that nobody updates.
    config.disable_comments(["."]).out_dir(&folder).compile_fds(set).map_err(|why| usage(&why))?;
    let types = fs::read_to_string(folder.join("onnx.rs")).map_err(Error::io("read target/proto/onnx.rs"))?;
    let (_, types) = types.split_once('\n').unwrap_or_default();
    let path = root().join(TYPES);
    fs::write(&path, format!("{HEADER}{types}")).map_err(Error::io(format!("write {TYPES}")))?;
    crate::process::run(
        std::process::Command::new("rustfmt").args(["--edition", "2024"]).arg(&path).current_dir(root()),
    )
}

/// The same with feature `proto`, whose compiler of definitions no other task needs.
///
/// # Errors
/// When it does not build or run.
#[cfg(not(feature = "proto"))]
pub fn run(definition: &Path) -> Result<(), Error> {
    let mut again = std::process::Command::new("cargo");
    again.args(["run", "--quiet", "--release", "--package", "xtask", "--features", "proto", "--", "proto"]);
    crate::process::run(again.arg(definition))
}
