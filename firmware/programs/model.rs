//! Of every program with a model: includes the module that `shiftformer codegen` wrote.

use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() {
    let program = env::var("CARGO_PKG_NAME").expect("cargo sets it");
    // Where `cargo xtask firmware` says it put the module.
    let variable = format!("SHIFTFORMER_{}", program.to_uppercase());
    println!("cargo:rerun-if-env-changed={variable}");
    let here = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let default = here.join(format!("../../../target/firmware/{program}/model.rs"));
    let module = env::var_os(&variable).map_or(default, PathBuf::from);
    println!("cargo:rerun-if-changed={}", module.display());
    if !module.is_file() {
        panic!("{} is missing; run `cargo xtask firmware --board BOARD --program {program}` once", module.display());
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    let text = format!("#[path = {:?}]\n#[allow(dead_code, unused_imports)]\nmod model;\n", absolute(&module));
    fs::write(out.join("model.rs"), text).unwrap_or_else(|e| panic!("cannot write to {}: {e}", out.display()));
}

fn absolute(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|e| panic!("cannot find {}: {e}", path.display()))
}
