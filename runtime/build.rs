//! Names the instruction sets of Arm microcontrollers: stable `cfg(target_feature)` does not show `dsp` and `mve`.
//!
//! - `arm_dsp`: Cortex-M4, M7 (`thumbv7em-*`), or M33 with `-Ctarget-feature=+dsp` or `-Ctarget-cpu=cortex-m33`;
//! - `arm_mve`: `-Ctarget-cpu=cortex-m55` or another core with Helium, or `-Ctarget-feature=+mve`;
//! - `arm_v6m`: Cortex-M0, M0+, M1 (`thumbv6m-*`);
//! - `arm_v8m`: Armv8-M with one of the first two.

use std::env::var;

/// Cores with Helium.
const MVE_CORES: [&str; 3] = ["cortex-m52", "cortex-m55", "cortex-m85"];
/// Armv8-M cores with the DSP extension and without Helium.
const DSP_CORES: [&str; 3] = ["cortex-m33", "cortex-m35p", "star-mc1"];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    for cfg in ["arm_dsp", "arm_mve", "arm_v6m", "arm_v8m"] {
        println!("cargo::rustc-check-cfg=cfg({cfg})");
    }
    let target = var("TARGET").unwrap_or_default();
    let flags = var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    let core = |names: &[&str]| names.iter().any(|core| flags.contains(&format!("target-cpu={core}")));
    let feature = |name: &str| flags.contains(&format!("+{name}"));
    let v8m = target.starts_with("thumbv8m.main");
    let cfg = if v8m && (feature("mve") || core(&MVE_CORES)) {
        "arm_mve"
    } else if target.starts_with("thumbv7em") || v8m && (feature("dsp") || core(&DSP_CORES)) {
        "arm_dsp"
    } else if target.starts_with("thumbv6m") {
        "arm_v6m"
    } else {
        return;
    };
    println!("cargo::rustc-cfg={cfg}");
    if v8m {
        println!("cargo::rustc-cfg=arm_v8m");
    }
}
