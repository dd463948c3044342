//! Runs the command and makes its inputs.

use prost::Message;
use shiftformer_convert::import::onnx::ModelProto;
use shiftformer_convert::model_file::Values;
use shiftformer_convert::npz::NpzWriter;
use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use tempfile::TempDir;

/// How a run ended.
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ended {
    /// The one JSON object on stdout.
    pub fn json(&self) -> serde_json::Value {
        assert_eq!(self.code, Some(0), "{}", self.stderr);
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e}: {}", self.stdout))
    }

    /// Asserts exit code 2, a single line on stderr that holds every one of `parts`, and nothing on stdout.
    pub fn is_refused(&self, parts: &[&str]) {
        assert_eq!(self.code, Some(2), "{}{}", self.stdout, self.stderr);
        assert_eq!(self.stderr.trim_end().lines().count(), 1, "{}", self.stderr);
        assert!(self.stderr.starts_with("error: ") && self.stdout.is_empty(), "{}{}", self.stderr, self.stdout);
        assert!(!self.stderr.contains("internal error"), "{}", self.stderr);
        for part in parts {
            assert!(self.stderr.contains(part), "`{part}` is not in: {}", self.stderr);
        }
    }
}

/// Runs the command.
pub fn shiftformer(args: &[&str]) -> Ended {
    run(args, &[])
}

/// Runs the command where the Vulkan loader finds no driver.
#[cfg(target_os = "linux")]
pub fn shiftformer_without_gpu(args: &[&str]) -> Ended {
    run(args, &[("VK_DRIVER_FILES", "/nonexistent"), ("VK_ICD_FILENAMES", "/nonexistent")])
}

/// Runs the command with `bytes` on its standard input. It may end before it has read them.
pub fn shiftformer_with_input(args: &[&str], bytes: &[u8]) -> Ended {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shiftformer"));
    let command = command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the command starts");
    let mut input = child.stdin.take().expect("its input");
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let _ = input.write_all(bytes);
        });
        ended(child.wait_with_output().expect("it ends"))
    })
}

fn run(args: &[&str], environment: &[(&str, &str)]) -> Ended {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shiftformer"));
    let output = command.args(args).envs(environment.iter().copied()).output().expect("the command starts");
    ended(output)
}

fn ended(output: Output) -> Ended {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("output is UTF-8");
    // What says the progress of a long command is no message.
    let stderr = text(output.stderr).split_inclusive('\n').filter(|line| !line.starts_with("... ")).collect();
    Ended { code: output.status.code(), stdout: text(output.stdout), stderr }
}

/// A bundled file of the digits model.
pub fn bundled(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/digits").join(name).display().to_string()
}

/// A folder for the files of one test.
pub struct Folder(TempDir);

impl Folder {
    pub fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary folder"))
    }

    pub fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    pub fn write(&self, name: &str, bytes: &[u8]) -> String {
        std::fs::write(self.0.path().join(name), bytes).expect("writable");
        self.path(name)
    }

    /// Names of the files, hidden ones too.
    pub fn files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.0.path()).expect("readable");
        let mut names: Vec<String> =
            entries.map(|e| e.expect("readable").file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }
}

/// The digits model, converted once for all tests.
pub fn digits() -> &'static Path {
    static FILE: OnceLock<(TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = FILE.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("digits.sfm");
        let (model, calib, out) = (bundled("digits-vit.onnx"), bundled("calib.npz"), path.display().to_string());
        let ended =
            shiftformer(&["convert", &model, "-o", &out, "--calib", &calib, "--mean", "0.3057", "--std", "0.376"]);
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        (folder, path)
    });
    path
}

/// [`digits`] as an argument.
pub fn digits_arg() -> String {
    digits().display().to_string()
}

/// The digits ONNX model, changed by `change`.
pub fn changed_onnx(change: impl FnOnce(&mut ModelProto)) -> Vec<u8> {
    let bytes = std::fs::read(bundled("digits-vit.onnx")).expect("bundled");
    let mut model = ModelProto::decode(bytes.as_slice()).expect("an ONNX model");
    change(&mut model);
    model.encode_to_vec()
}

/// An npz with one array.
pub fn npz<T: npyz::AutoSerialize>(name: &str, shape: &[u64], values: impl IntoIterator<Item = T>) -> Vec<u8> {
    let mut npz = NpzWriter::new(Cursor::new(Vec::new()));
    npz.add(name, shape, values).expect("values of this shape");
    npz.finish().expect("an archive").into_inner()
}

/// An array of an npz: name, shape, values.
pub type NamedArray<'a> = (&'a str, &'a [u64], Values);

/// An npz with several arrays.
pub fn npz_of(arrays: &[NamedArray<'_>]) -> Vec<u8> {
    let mut npz = NpzWriter::new(Cursor::new(Vec::new()));
    for (name, shape, values) in arrays {
        match values {
            Values::U8(values) => npz.add(name, shape, values.iter().copied()),
            Values::Int(values) => npz.add(name, shape, values.iter().copied()),
            Values::Float(values) => npz.add(name, shape, values.iter().copied()),
        }
        .expect("values of this shape");
    }
    npz.finish().expect("an archive").into_inner()
}
