//! Of every board: puts its memory map where the linker finds it, and names the linker scripts.

use std::path::PathBuf;
use std::{env, fs};

const MAP: &str = "memory.x";

fn main() {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    fs::copy(MAP, out.join(MAP)).unwrap_or_else(|e| panic!("cannot copy {MAP}: {e}"));
    println!("cargo:rustc-link-search={}", out.display());
    println!("cargo:rerun-if-changed={MAP}");
    println!("cargo:rustc-link-arg-bins=-Tlink.x");
    println!("cargo:rustc-link-arg-bins=--nmagic");
    for logging in ["digits", "stream", "tasks"] {
        if env::var_os(format!("CARGO_FEATURE_{}", logging.to_uppercase())).is_some() {
            println!("cargo:rustc-link-arg-bin={logging}=-Tdefmt.x");
        }
    }
}
