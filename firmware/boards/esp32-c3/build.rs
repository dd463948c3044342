//! Names the linker scripts, which the HAL brings with its memory map.

use std::env;

fn main() {
    println!("cargo:rustc-link-arg-bins=-Tlinkall.x");
    // The arena begins behind the word that the HAL watches, 60 bytes from the end of what it takes for the stack.
    println!("cargo:rustc-link-arg-bins=--defsym=__sheap=_stack_end+64");
    if env::var_os("CARGO_FEATURE_DIGITS").is_some() {
        println!("cargo:rustc-link-arg-bin=digits=-Tdefmt.x");
    }
}
