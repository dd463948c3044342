//! Puts the memory map of the chosen board where the linker finds it.

use std::path::PathBuf;
use std::{env, fs};

const BOARDS: [&str; 6] = ["mps2-an386", "mps2-an500", "mps2-an505", "mps3-an547", "microbit", "m0-large"];

fn main() {
    let chosen = |board: &&str| {
        let variable = format!("CARGO_FEATURE_{}", board.to_uppercase().replace('-', "_"));
        env::var_os(variable).is_some()
    };
    let boards: Vec<&str> = BOARDS.into_iter().filter(chosen).collect();
    let [board] = boards[..] else {
        panic!("choose one board: --features board/NAME with NAME one of {BOARDS:?} (chosen: {boards:?})");
    };
    let map = format!("memory/{board}.x");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    fs::copy(&map, out.join("memory.x")).unwrap_or_else(|e| panic!("cannot copy {map}: {e}"));
    println!("cargo:rustc-link-search={}", out.display());
    println!("cargo:rerun-if-changed={map}");
}
