//! `cargo xtask c`: the static library for C and C++, its header, and its examples in the emulator.

use crate::audit::elf::Image;
use crate::boards::Program;
use crate::error::Error;
use crate::process::{find, root, run, shown};
use crate::toolchain::Toolchain;
use crate::{debian, digits, firmware, size};
use shiftformer_link::boards::MPS2_AN386;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The package of the library.
const SOURCES: &str = "firmware/c/src";
/// What `cbindgen` is told.
const CONFIGURATION: &str = "firmware/c/cbindgen.toml";
/// The header it writes.
const HEADER: &str = "firmware/c/include/shiftformer.h";
/// Programs that use the library.
const EXAMPLES: &str = "firmware/c/examples";
/// The file that cargo makes of the package.
const BUILT: &str = "libshiftformer_c.a";
/// The library as C links it.
const LIBRARY: &str = "libshiftformer.a";
/// The cross compilers, of one Debian package.
const GCC: &str = "arm-none-eabi-gcc";
const GXX: &str = "arm-none-eabi-g++";
const PACKAGE: &str = "gcc-arm-none-eabi";
/// What the inference may take from C, in percent of what it takes from Rust.
const CODE_PERCENT: u64 = 106;

/// One library: a core and how floats are passed, which a linker compares although nothing here has floats.
struct Abi {
    target: &'static str,
    rust: &'static [&'static str],
    gcc: &'static [&'static str],
    /// Whether the emulated Cortex-M4 runs its code.
    on_m4: bool,
}

const HARD_FLOAT_M4: Abi = Abi {
    target: "thumbv7em-none-eabihf",
    rust: &["-Ctarget-cpu=cortex-m4"],
    gcc: &["-mcpu=cortex-m4", "-mfpu=fpv4-sp-d16", "-mfloat-abi=hard"],
    on_m4: true,
};

const ABIS: [Abi; 6] = [
    HARD_FLOAT_M4,
    Abi {
        target: "thumbv7em-none-eabi",
        rust: &["-Ctarget-cpu=cortex-m4"],
        gcc: &["-mcpu=cortex-m4", "-mfloat-abi=soft"],
        on_m4: true,
    },
    Abi { target: "thumbv7m-none-eabi", rust: &[], gcc: &["-mcpu=cortex-m3"], on_m4: true },
    Abi { target: "thumbv6m-none-eabi", rust: &[], gcc: &["-mcpu=cortex-m0"], on_m4: true },
    Abi {
        target: "thumbv8m.main-none-eabihf",
        rust: &["-Ctarget-cpu=cortex-m33"],
        gcc: &["-mcpu=cortex-m33", "-mfloat-abi=hard"],
        on_m4: false,
    },
    Abi {
        target: "thumbv8m.main-none-eabi",
        rust: &["-Ctarget-cpu=cortex-m33"],
        gcc: &["-mcpu=cortex-m33", "-mfloat-abi=soft"],
        on_m4: false,
    },
];

/// A program, with the compiler and the language of its source.
const PROGRAMS: [(&str, &str, &[&str]); 3] = [
    ("digits.c", GCC, &["-std=c11"]),
    ("refusals.c", GCC, &["-std=c99"]),
    ("digits.cpp", GXX, &["-std=c++17", "-fno-exceptions", "-fno-rtti", "-fno-threadsafe-statics"]),
];
/// The one whose inference is weighed.
const WEIGHED: &str = "digits.c";

/// Builds the library for hard-float Cortex-M4, or for every ABI, then the examples, and runs those that the emulated
/// Cortex-M4 can run.
///
/// # Errors
/// When something does not build or run, or what C links is larger than [`CODE_PERCENT`] says or can panic.
pub fn run_all(every_abi: bool) -> Result<(), Error> {
    if find(GCC).is_none() || find(GXX).is_none() {
        debian::install(&[PACKAGE])?;
    }
    let abis: &[Abi] = if every_abi { &ABIS } else { &[HARD_FLOAT_M4] };
    abis.iter().try_for_each(examples)
}

/// Writes the header.
///
/// # Errors
/// When the sources cannot be read.
pub fn write_header() -> Result<(), Error> {
    fs::write(root().join(HEADER), header()?).map_err(Error::io(format!("write {HEADER}")))
}

/// The header of the library.
fn header() -> Result<Vec<u8>, Error> {
    let fault = |e: &dyn std::fmt::Display| Error::Check(format!("cbindgen: {e}"));
    let config = cbindgen::Config::from_file(root().join(CONFIGURATION)).map_err(|e| fault(&e))?;
    let mut builder = cbindgen::Builder::new().with_config(config);
    for file in ["status.rs", "operators.rs", "lib.rs"] {
        builder = builder.with_src(root().join(SOURCES).join(file));
    }
    let mut text = Vec::new();
    builder.generate().map_err(|e| fault(&e))?.write(&mut text);
    Ok(text)
}

fn examples(abi: &Abi) -> Result<(), Error> {
    let folder = root().join("target/c").join(abi.target);
    fs::create_dir_all(&folder).map_err(Error::io(format!("make {}", folder.display())))?;
    library(abi, &folder.join(LIBRARY))?;
    let model = digits::model();
    if !model.is_file() {
        digits::module()?;
    }
    run(digits::shiftformer().arg("codegen").arg(&model).arg("-o").arg(folder.join("digits.h")))?;
    for (source, compiler, language) in PROGRAMS {
        let elf = folder.join(source).with_extension(format!("{}.elf", source.replace('.', "-")));
        compile(abi, &folder, (source, compiler, language), &elf)?;
        let image = Image::read(&elf)?;
        let panics = image.functions.values().find(|f| f.name.contains("rust_begin_unwind"));
        if panics.is_some() {
            return Err(Error::Check(format!("{source}: what is linked can panic")));
        }
        if abi.on_m4 {
            emulate(&elf)?;
        }
        if source == WEIGHED && abi.target == HARD_FLOAT_M4.target {
            weigh(&image)?;
        }
    }
    Ok(())
}

fn library(abi: &Abi, to: &Path) -> Result<(), Error> {
    let toolchain = Toolchain::ensure(abi.target)?;
    let flags: Vec<String> = abi.rust.iter().chain([&firmware::SYMBOLS]).map(|&flag| flag.to_owned()).collect();
    let mut cargo = toolchain.cargo("build", abi.target, &flags);
    cargo.args(["--quiet", "--release", "--package", "shiftformer-c"]).current_dir(root().join("firmware"));
    run(&mut cargo)?;
    let from = toolchain.output(abi.target).join(abi.target).join("release").join(BUILT);
    fs::copy(&from, to).map(|_| ()).map_err(Error::io(format!("copy {} to {}", from.display(), to.display())))
}

fn compile(
    abi: &Abi,
    folder: &Path,
    (source, compiler, language): (&str, &str, &[&str]),
    elf: &Path,
) -> Result<(), Error> {
    let examples = root().join(EXAMPLES);
    let object = |name: &str| folder.join(format!("{}.o", name.replace('.', "-")));
    let each = |file: &str, compiler: &str, language: &[&str]| {
        let mut gcc = Command::new(compiler);
        gcc.args(abi.gcc).args(["-mthumb", "-Os", "-ffreestanding", "-ffunction-sections", "-fdata-sections"]);
        gcc.args(["-Wall", "-Wextra", "-Werror", "-Wpedantic", "-c"]).args(language);
        gcc.arg("-I").arg(folder).arg("-I").arg(root().join(HEADER).parent().unwrap_or(Path::new(".")));
        run(gcc.arg(examples.join(file)).arg("-o").arg(object(file)))
    };
    each("start.c", GCC, &["-std=gnu11"])?;
    each(source, compiler, language)?;
    let mut link = Command::new(compiler);
    link.args(abi.gcc).args([
        "-mthumb",
        "-nostdlib",
        "-Wl,--gc-sections",
        "-Wl,--no-warn-rwx-segments",
        "-Wl,-znoexecstack",
        "-T",
    ]);
    link.arg(examples.join("mps2.ld")).arg(object("start.c")).arg(object(source)).arg("-L").arg(folder);
    run(link.args(["-lshiftformer", "-lgcc", "-o"]).arg(elf))
}

/// Runs an example on the emulated Cortex-M4.
fn emulate(elf: &Path) -> Result<(), Error> {
    let mut qemu = Command::new(MPS2_AN386.emulator);
    qemu.args(MPS2_AN386.arguments).args(["-display", "none", "-monitor", "none", "-serial", "none"]);
    qemu.args(["-semihosting-config", "enable=on,target=native", "-kernel"]).arg(elf).stdin(Stdio::null());
    let doing = shown(&qemu);
    let status = qemu.status().map_err(Error::io(format!("start `{doing}`")))?;
    if status.success() { Ok(()) } else { Err(Error::Check(format!("{} failed", elf.display()))) }
}

/// Compares what the inference reaches with what it reaches in the demo of the same model in Rust.
fn weigh(image: &Image) -> Result<(), Error> {
    let demo: PathBuf = firmware::path(MPS2_AN386.name, Program::Digits.name());
    if !demo.is_file() {
        firmware::build(Some(MPS2_AN386.name), Some(Program::Digits))?;
    }
    let (c, rust) = (size::inference_bytes(image), size::inference_bytes(&Image::read(&demo)?));
    println!("inference of digits: {c} bytes from C, {rust} from Rust");
    if c > 0 && rust > 0 && c * 100 <= rust * CODE_PERCENT {
        return Ok(());
    }
    Err(Error::Check(format!("the inference takes {c} bytes from C, more than {CODE_PERCENT} % of {rust} from Rust")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_is_that_of_the_sources() {
        let written = fs::read_to_string(root().join(HEADER)).unwrap_or_default();
        assert!(
            String::from_utf8(header().unwrap()).unwrap() == written,
            "{HEADER} is not up to date: run `cargo xtask c --header`"
        );
    }
}
