//! The module of the model that `shiftformer codegen` wrote.

use std::path::{Path, PathBuf};
use std::{env, fs};

/// Where `cargo xtask firmware` says it put the module.
const VARIABLE: &str = "SHIFTFORMER_DIGITS";
/// Where it puts it otherwise.
const DEFAULT: &str = "../../../target/firmware/digits/model.rs";

fn main() {
    println!("cargo:rerun-if-env-changed={VARIABLE}");
    let here = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let module = env::var_os(VARIABLE).map_or_else(|| here.join(DEFAULT), PathBuf::from);
    println!("cargo:rerun-if-changed={}", module.display());
    if !module.is_file() {
        panic!("{} is missing; run `cargo xtask firmware --program digits` once", module.display());
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    let text = format!("#[path = {:?}]\n#[allow(dead_code, unused_imports)]\nmod model;\n", absolute(&module));
    fs::write(out.join("model.rs"), text).unwrap_or_else(|e| panic!("cannot write to {}: {e}", out.display()));
}

fn absolute(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|e| panic!("cannot find {}: {e}", path.display()))
}
