//! `cargo xtask test`: everything that must hold, cheapest first.

use crate::boards::{self, Program};
use crate::emulate::Emulator;
use crate::error::Error;
use crate::firmware;
use crate::linux::{AARCH64_CORES, ARMV7_CORES, aarch64_tests, armv7_tests};
use crate::process::{find, root, run};
use crate::setup;
use crate::toolchain::Toolchain;
use crate::{audit, c, device, digits, external, fuzz, keywords, language, size, soak, web, wheel};
use shiftformer_link::Machine;
use std::process::Command;
use std::time::Instant;

/// Test images whose every operator is compared between this machine and the boards.
const PARITY_IMAGES: &str = "16";
/// Features of the runtime, each of which must compile alone on every target without an operating system.
const FEATURES: [&str; 3] = ["", "defmt", "testing"];

/// Cores that the list of boards does not have, as target, flags and features of the runtime: without the extension that
/// their name implies, and with one that only a feature names.
const CORES: [(&str, &[&str], &str); 4] = [
    ("thumbv8m.main-none-eabihf", &["-Ctarget-cpu=cortex-m33", "-Ctarget-feature=-dsp"], ""),
    ("thumbv8m.main-none-eabihf", &["-Ctarget-cpu=cortex-m55", "-Ctarget-feature=-mve,-mve.fp"], ""),
    ("thumbv8m.main-none-eabihf", &[], "dsp"),
    ("thumbv8m.main-none-eabi", &[], ""),
];

/// Something that must hold.
struct Step {
    name: String,
    check: Box<dyn Fn() -> Result<(), Error>>,
}

fn step(name: impl Into<String>, check: impl Fn() -> Result<(), Error> + 'static) -> Step {
    Step { name: name.into(), check: Box::new(check) }
}

/// Runs all steps, also after one has failed, and closes with `N passed, N failed`.
///
/// # Errors
/// [`Error::Check`] when a step failed.
pub fn run_all() -> Result<(), Error> {
    let (mut passed, mut failed) = (0, Vec::new());
    for step in steps()? {
        let start = Instant::now();
        println!("== {}", step.name);
        let done = (step.check)();
        let seconds = start.elapsed().as_secs();
        match done {
            Ok(()) => passed += 1,
            Err(error) => {
                println!("error: {error}");
                failed.push(step.name.clone());
            }
        }
        println!("== {}: {} ({seconds} s)", step.name, if failed.last() == Some(&step.name) { "FAILED" } else { "ok" });
    }
    for name in &failed {
        println!("failed: {name}");
    }
    println!("{passed} passed, {} failed", failed.len());
    if failed.is_empty() { Ok(()) } else { Err(Error::Check("not everything holds".to_owned())) }
}

fn steps() -> Result<Vec<Step>, Error> {
    let mut steps = vec![
        step("setup", || setup::run_setup(false)),
        step("list of boards", boards::check_list),
        step("format", format),
        step("clippy", clippy),
        // The development profile checks arithmetic for overflow.
        step("runtime tests", || cargo(&["test", "--quiet", "--package", "shiftformer", "--features", "parallel"])),
        step("runtime without threads", || {
            cargo(&["check", "--quiet", "--package", "shiftformer", "--features", "std"])
        }),
        step("tools tests", tools_tests),
        step("packages", packages),
        step("fuzz targets over their corpora", fuzz::check),
        step("converter for wasm32", converter_for_the_web),
    ];
    for target in OTHER_SYSTEMS {
        steps.push(step(format!("command for {target}"), move || command_for(target)));
    }
    for target in bare_targets()? {
        steps.push(step(format!("runtime for {target}"), move || build_runtime(&target)));
    }
    steps.push(step("runtime for cores with fewer and more extensions", build_cores));
    steps.push(step("firmware", || firmware::build(None, None)));
    emulated(&mut steps, Program::KernelTests, "kernels")?;
    for core in AARCH64_CORES {
        steps.push(step(format!("kernels on aarch64 {core}"), move || aarch64_tests(core)));
    }
    for core in ARMV7_CORES {
        steps.push(step(format!("kernels on armv7 {core}"), move || armv7_tests(core)));
    }
    emulated(&mut steps, Program::Digits, "digits")?;
    emulated(&mut steps, Program::Tasks, "inference beside a task")?;
    for target in boards::targets()?.into_iter().filter(|target| target.build.programs.contains(&Program::Stream)) {
        if let Some(emulator) = Emulator::of(&target) {
            let name = format!("model in the external flash of {}", target.board);
            steps.push(step(name, move || external::check(&emulator)));
        }
    }
    steps.push(step("kernels and digits in WebAssembly", web::check));
    for program in [Program::Calculator, Program::Story] {
        conversations(&mut steps, program)?;
    }
    for target in boards::targets()?.into_iter().filter(|target| target.build.programs.contains(&Program::Device)) {
        if let Some(emulator) = Emulator::of(&target) {
            let name = format!("device on {} over its serial port", target.board);
            steps.push(step(name, move || device::check(&emulator)));
        }
    }
    for target in boards::targets()?.into_iter().filter(|target| target.build.programs.contains(&Program::Soak)) {
        if let Some(emulator) = Emulator::of(&target) {
            let name = format!("steps between interrupts on {}", target.board);
            steps.push(step(name, move || soak::run(&emulator, soak::STEPS)));
        }
    }
    for target in boards::targets()?.into_iter().filter(|target| target.build.programs.contains(&Program::Kws)) {
        if let Some(emulator) = Emulator::of(&target) {
            let name = format!("keywords on {}", target.board);
            steps.push(step(name, move || keywords::check(&emulator)));
        }
    }
    steps.push(step("digits: every operator the same on all machines", parity));
    steps.push(step("Python package", wheel::check));
    steps.push(step("C and C++", || c::run_all(false)));
    steps.push(step("audit", || audit::run(false, None)));
    steps.push(step("size", || size::run(false)));
    Ok(steps)
}

/// A program on every emulated board that has it.
fn emulated(steps: &mut Vec<Step>, program: Program, what: &str) -> Result<(), Error> {
    for target in boards::targets()?.into_iter().filter(|target| target.build.programs.contains(&program)) {
        if let Some(emulator) = Emulator::of(&target) {
            let check = move || emulator.run(&emulator.elf(program));
            steps.push(step(format!("{what} on {}", target.board), check));
        }
    }
    Ok(())
}

/// A conversation with a program on every emulated board that has it.
fn conversations(steps: &mut Vec<Step>, program: Program) -> Result<(), Error> {
    for target in boards::targets()?.into_iter().filter(|target| target.build.programs.contains(&program)) {
        if let Some(emulator) = Emulator::of(&target) {
            let check = move || language::check(program, &emulator);
            steps.push(step(format!("{} on {}", program.name(), target.board), check));
        }
    }
    Ok(())
}

fn bare_targets() -> Result<Vec<String>, Error> {
    let mut targets: Vec<String> = boards::targets()?.into_iter().map(|target| target.build.target).collect();
    targets.sort_unstable();
    targets.dedup();
    Ok(targets)
}

fn cargo(args: &[&str]) -> Result<(), Error> {
    run(Command::new("cargo").args(args).current_dir(root()))
}

fn format() -> Result<(), Error> {
    cargo(&["fmt", "--check"])?;
    run(Command::new("cargo").args(["fmt", "--check"]).current_dir(root().join("firmware")))
}

fn clippy() -> Result<(), Error> {
    cargo(&["clippy", "--quiet", "--release", "--workspace", "--all-targets", "--", "--deny", "warnings"])
}

fn tools_tests() -> Result<(), Error> {
    // The Python package has a step of its own.
    let apart = ["--exclude", "shiftformer", "--exclude", "shiftformer-python"];
    let tested = cargo(&[&["test", "--quiet", "--release", "--no-fail-fast", "--workspace"], &apart[..]].concat());
    if tested.is_ok() {
        digits::take_built();
    }
    tested
}

/// The converter where there are no threads, no files and 32-bit addresses.
fn converter_for_the_web() -> Result<(), Error> {
    const TARGET: &str = "wasm32-unknown-unknown";
    let mut check = Toolchain::ensure(TARGET)?.cargo("check", TARGET, &[]);
    check.args(["--quiet", "--release", "--package", "shiftformer-convert", "--no-default-features"]);
    run(check.current_dir(root()))
}

/// Systems for which the command is compiled without being linked. With tract it would need a C compiler for them.
const OTHER_SYSTEMS: [&str; 2] = ["x86_64-pc-windows-msvc", "aarch64-apple-darwin"];

fn command_for(target: &str) -> Result<(), Error> {
    let Some(toolchain) = Toolchain::of_rustup(target)? else {
        println!("skipped: rustup has no target {target} here");
        return Ok(());
    };
    let mut check = toolchain.cargo("check", target, &[]);
    check.args(["--quiet", "--release", "--package", "shiftformer-cli", "--no-default-features"]);
    run(check.args(["--features", "gpu,qemu,serial"]).current_dir(root()))
}

/// What would be published, with the files that the packages name.
fn packages() -> Result<(), Error> {
    let unpublished = ["xtask", "shiftformer-tests", "shiftformer-python", "shiftformer-web"];
    let unpublished: Vec<&str> = unpublished.into_iter().flat_map(|name| ["--exclude", name]).collect();
    cargo(&[&["package", "--quiet", "--workspace", "--no-verify", "--allow-dirty"], &unpublished[..]].concat())
}

fn build_runtime(target: &str) -> Result<(), Error> {
    let toolchain = Toolchain::ensure(target)?;
    // The assembler sees the kernels with the firmware and in `build_cores`.
    for feature in FEATURES {
        let mut build = toolchain.cargo("check", target, &["-Dwarnings".to_owned()]);
        build.args(["--quiet", "--release", "--package", "shiftformer", "--features", feature]);
        run(build.current_dir(root()))?;
    }
    let mut build = toolchain.cargo("check", target, &["-Dwarnings".to_owned()]);
    build.args(["--quiet", "--release", "--package", "shiftformer-slots", "--package", "shiftformer-transport"]);
    build.args(["--package", "shiftformer-wire", "--package", "shiftformer-stream"]);
    run(build.current_dir(root()))
}

/// Builds the runtime for [`CORES`]: the assembler sees every kernel.
fn build_cores() -> Result<(), Error> {
    for (target, flags, feature) in CORES {
        let flags: Vec<String> = flags.iter().map(|&flag| flag.to_owned()).collect();
        let toolchain = Toolchain::ensure(target)?;
        if toolchain.builds_std() && flags.iter().any(|flag| flag.ends_with("cortex-m55")) {
            // LLVM 22: "Do not know how to split the result of this operator".
            println!("skipped: {} cannot compile `core` itself with {}", toolchain.describe(), flags.join(" "));
            continue;
        }
        let mut build = toolchain.cargo("build", target, &flags);
        build.args(["--quiet", "--release", "--package", "shiftformer", "--features", feature]);
        run(build.current_dir(root()))?;
    }
    Ok(())
}

fn parity() -> Result<(), Error> {
    let mut backends = vec!["portable".to_owned(), "native".to_owned()];
    backends.extend(Machine::ALL.iter().map(|machine| format!("qemu:{}", machine.name)));
    if find("qemu-aarch64").is_some() {
        backends.push(format!("qemu:{}", firmware::LINUX_BOARD));
    }
    let mut parity = digits::shiftformer();
    parity.arg("parity").arg(digits::model()).arg("--data").arg(root().join("models/digits/eval.npz"));
    run(parity.args(["--backends", &backends.join(","), "--limit", PARITY_IMAGES]))
}
