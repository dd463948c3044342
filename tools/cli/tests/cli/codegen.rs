//! Generated sources compile and compute.

use crate::harness::{Folder, bundled, digits_arg, shiftformer};
use std::path::Path;
use std::process::Command;

const MAIN: &str = r#"
mod model;
use shiftformer::kernels::Portable;
use shiftformer::{Aligned, Session};

fn main() {
    let pixels: Vec<u8> = std::env::args().skip(1).map(|a| a.parse().unwrap()).collect();
    let opened = model::open::<Portable>().unwrap();
    let mut arena = Aligned([0u8; model::ARENA_BYTES]);
    let mut session = Session::new(&opened, &mut arena.0).unwrap();
    model::image(&mut session).unwrap().copy_from_slice(&pixels);
    session.run().unwrap();
    let logits = model::logits(&session).unwrap();
    let class = (0..model::LOGITS_LEN).max_by_key(|&i| logits[i]).unwrap();
    println!("{class} {:?} {}", model::IMAGE_SHAPE, model::LOGITS_SCALE > 0.0);
}
"#;

/// Pixels and label of one evaluation image.
fn image(index: usize) -> (Vec<String>, i64) {
    use shiftformer_convert::data::Dataset;
    use shiftformer_convert::model_file::Values;
    let data = Dataset::open(Path::new(&bundled("eval.npz"))).unwrap();
    let Values::U8(pixels) = data.input("image").unwrap().sample(index) else { panic!("pixels are u8") };
    let Values::Int(label) = data.labels().unwrap().sample(index) else { panic!("labels are integers") };
    (pixels.iter().map(u8::to_string).collect(), label[0])
}

#[test]
fn the_rust_module_compiles_and_classifies() {
    let folder = Folder::new();
    let runtime = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../runtime").canonicalize().unwrap();
    std::fs::create_dir(folder.path("src")).unwrap();
    folder.write("src/main.rs", MAIN.as_bytes());
    let manifest = format!(
        "[package]\nname = \"generated\"\nedition = \"2024\"\n[dependencies]\nshiftformer = {{ path = {:?}, features = [\"std\"] }}\n[workspace]\n",
        runtime.display().to_string()
    );
    folder.write("Cargo.toml", manifest.as_bytes());
    // The versions of the workspace, which are all here already.
    let lock = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../Cargo.lock");
    std::fs::copy(lock, folder.path("Cargo.lock")).unwrap();
    let ended = shiftformer(&["codegen", &digits_arg(), "-o", &folder.path("src/model.rs")]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let source = std::fs::read_to_string(folder.path("src/model.rs")).unwrap();
    assert!(
        source.contains("OpKind::Attention)") && !source.contains("OpKind::Gather)"),
        "only used operators are listed"
    );

    let (pixels, label) = image(3);
    let run = Command::new(env!("CARGO"))
        .args(["run", "--quiet", "--offline", "--manifest-path", &folder.path("Cargo.toml"), "--"])
        .args(&pixels)
        .env("CARGO_TARGET_DIR", folder.path("target"))
        .env("RUSTFLAGS", "-Dwarnings -Adead_code")
        .output()
        .unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    assert_eq!(stdout.trim(), format!("{label} [1, 1, 8, 8] true"), "{stderr}");
}

#[test]
fn the_c_header_compiles() {
    let folder = Folder::new();
    let ended = shiftformer(&["codegen", &digits_arg(), "--lang", "c", "-o", &folder.path("digits.h")]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let main = "#include <stdio.h>\n#include \"digits.h\"\nDIGITS_ALIGN16 static uint8_t arena[DIGITS_ARENA_BYTES];\n\
        int main(void) {\n    digits_image(arena)[0] = 1;\n\
        printf(\"%u %u %d\", DIGITS_MODEL_BYTES, DIGITS_LOGITS_LEN, digits_logits(arena)[0] == 0);\n\
        return (uintptr_t)arena % 16 != 0;\n}\n";
    let sources = [
        ("main.c", main, "cc", "-std=c99"),
        ("model.c", "#define DIGITS_IMPLEMENTATION\n#include \"digits.h\"\n", "cc", "-std=c11"),
        ("model.cpp", "#define DIGITS_IMPLEMENTATION\n#include \"digits.h\"\n", "c++", "-std=c++17"),
    ];
    let include = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../firmware/c/include");
    for (name, text, compiler, standard) in sources {
        let (source, object) = (folder.write(name, text.as_bytes()), folder.path(&format!("{name}.o")));
        let flags = ["-Wall", "-Wextra", "-Werror", "-Wpedantic", "-O1", "-c", "-o"];
        let mut compile = Command::new(compiler);
        compile.arg(standard).arg("-I").arg(&include).args(flags).args([&object, &source]);
        let Ok(compiled) = compile.output() else {
            eprintln!("SKIPPED: no compiler `{compiler}` on this machine; the header was not compiled");
            continue;
        };
        assert!(compiled.status.success(), "{name}: {}", String::from_utf8_lossy(&compiled.stderr));
    }
    if !Path::new(&folder.path("main.c.o")).is_file() {
        return;
    }
    // The library has no part in it: only constants and accessors are used.
    let program = folder.path("program");
    let linked = Command::new("cc").args(["-o", &program, &folder.path("main.c.o")]).output().unwrap();
    assert!(linked.status.success(), "{}", String::from_utf8_lossy(&linked.stderr));
    let run = Command::new(&program).output().unwrap();
    let bytes = std::fs::metadata(digits_arg()).unwrap().len();
    assert!(run.status.success());
    assert_eq!(String::from_utf8_lossy(&run.stdout), format!("{bytes} 10 1"));
}
