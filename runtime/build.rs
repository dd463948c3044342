//! Chooses the kernels for microcontrollers: stable `cfg(target_feature)` does not show `dsp` and `mve` of Arm.
//!
//! | cfg | cores |
//! |---|---|
//! | `arm_v6m` | Cortex-M0, M0+, M1 (`thumbv6m-*`), M23 (`thumbv8m.base-*`) |
//! | `arm_v7m` | M3 (`thumbv7m-*`); `thumbv8m.main-*` not known to have the DSP extension |
//! | `arm_dsp` | M4, M7 (`thumbv7em-*`); `thumbv8m.main-*` with crate feature `dsp`, `-Ctarget-feature=+dsp` or a core that has it |
//! | `arm_mve` | `thumbv8m.main-*` with `-Ctarget-cpu=cortex-m55` or another core with Helium, or `-Ctarget-feature=+mve` |
//! | `riscv_m` | RV32 with multiplication (`riscv32im*`) |
//! | `wasm_simd` | WebAssembly with `-Ctarget-feature=+simd128` |
//!
//! `arm_v8m` stands beside the two in the middle where the assembler must be told that the core has the instructions. What
//! runs slower than it could, or portable code, is said in a warning.

use std::env::{var, var_os};

/// Cores with Helium.
const MVE_CORES: [&str; 3] = ["cortex-m52", "cortex-m55", "cortex-m85"];
/// Armv8-M cores with the DSP extension and without Helium.
const DSP_CORES: [&str; 3] = ["cortex-m33", "cortex-m35p", "star-mc1"];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    for cfg in ["arm_dsp", "arm_mve", "arm_v6m", "arm_v7m", "arm_v8m", "riscv_m", "wasm_simd"] {
        println!("cargo::rustc-check-cfg=cfg({cfg})");
    }
    let target = var("TARGET").unwrap_or_default();
    match kernels(&target) {
        // It has said so.
        Some("portable") => {}
        Some(cfg) => {
            println!("cargo::rustc-cfg={cfg}");
            if target.starts_with("thumbv8m.main") && cfg != "arm_v7m" {
                println!("cargo::rustc-cfg=arm_v8m");
            }
        }
        None if ["x86_64", "aarch64"].iter().any(|hosts| target.starts_with(hosts)) || is_arm_linux() => {}
        None => println!("cargo::warning=shiftformer has no kernels for {target}: portable code runs, which is slower"),
    }
}

/// Whether the target is 32-bit Arm Linux, where the kernels are chosen when the program runs.
fn is_arm_linux() -> bool {
    let is = |name: &str, value: &str| var(name).is_ok_and(|is| is == value);
    is("CARGO_CFG_TARGET_ARCH", "arm") && is("CARGO_CFG_TARGET_OS", "linux")
}

/// The cfg of the kernels for a microcontroller.
fn kernels(target: &str) -> Option<&'static str> {
    let flags = Flags::from_environment();
    if target.starts_with("thumbv6m") || target.starts_with("thumbv8m.base") {
        return Some("arm_v6m");
    }
    if target.starts_with("thumbv7em") {
        return Some("arm_dsp");
    }
    if target.starts_with("thumbv7m") {
        return Some("arm_v7m");
    }
    if target.starts_with("thumbv8m.main") {
        let mve = flags.feature("mve").unwrap_or_else(|| flags.core(&MVE_CORES));
        let known = flags.core(&DSP_CORES) || flags.core(&MVE_CORES) || var_os("CARGO_FEATURE_DSP").is_some();
        let dsp = flags.feature("dsp");
        if dsp.is_none() && !known && !mve {
            println!(
                "cargo::warning=shiftformer is built for a core without the DSP extension. Most Cortex-M33 have it and take \
                 half the instructions with it: enable the feature `dsp`, or compile with -Ctarget-cpu=cortex-m33. \
                 -Ctarget-feature=-dsp says that the core lacks it, and silences this"
            );
        }
        return Some(match (mve, dsp.unwrap_or(known)) {
            (true, _) => "arm_mve",
            (false, true) => "arm_dsp",
            (false, false) => "arm_v7m",
        });
    }
    let has = |feature: &str| var("CARGO_CFG_TARGET_FEATURE").is_ok_and(|all| all.split(',').any(|one| one == feature));
    if target.starts_with("wasm32") {
        if !has("simd128") {
            println!(
                "cargo::warning=shiftformer is built for WebAssembly without vectors and takes several times as long: \
                 compile with -Ctarget-feature=+simd128, which browsers have had since 2021"
            );
            return Some("portable");
        }
        return Some("wasm_simd");
    }
    (target.starts_with("riscv32") && has("m")).then_some("riscv_m")
}

/// The flags for the compiler.
struct Flags(String);

impl Flags {
    fn from_environment() -> Self {
        Self(var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default())
    }

    /// The values of `-Cname=VALUE` or `-C name=VALUE`.
    fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let flags = self.0.split('\u{1f}').map(|flag| flag.strip_prefix("-C").unwrap_or(flag));
        flags.filter_map(move |flag| flag.strip_prefix(name)?.strip_prefix('='))
    }

    /// Whether the core is one of `names`.
    fn core(&self, names: &[&str]) -> bool {
        self.values("target-cpu").last().is_some_and(|core| names.contains(&core))
    }

    /// Whether `name` is switched on or off; the last word counts.
    fn feature(&self, name: &str) -> Option<bool> {
        let words = self.values("target-feature").flat_map(|features| features.split(','));
        words
            .filter_map(|word| match word.split_at_checked(1)? {
                ("+", feature) if feature == name => Some(true),
                ("-", feature) if feature == name => Some(false),
                (_, _) => None,
            })
            .last()
    }
}
