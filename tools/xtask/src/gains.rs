//! `cargo xtask gains`: what each step of post-training quantization is worth, on two trained models.

use crate::digits::shiftformer;
use crate::error::Error;
use crate::process::{root, run, shown};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

/// A trained model with its data.
struct Subject {
    name: &'static str,
    model: &'static str,
    calibration: &'static str,
    data: &'static str,
    /// Normalisation of raw pixels.
    extra: &'static [&'static str],
}

const SUBJECTS: [Subject; 2] = [
    Subject { name: "KWT-1", model: "kwt1/kwt1.onnx", calibration: "kwt1/eval.npz", data: "kwt1/eval.npz", extra: &[] },
    Subject {
        name: "MNIST ViT",
        model: "mnist-vit/mnist-vit.onnx",
        calibration: "mnist-vit/calib.npz",
        data: "mnist-vit/eval.npz",
        extra: &["--mean", "0.1307", "--std", "0.3081"],
    },
];

/// Samples a conversion sees.
const SAMPLES: &str = "64";
const PLAIN: [&str; 7] = ["--range", "minmax", "--equalize", "off", "--wide-exp", "off", "--no-bias-correction"];
const CORRECTED: [&str; 6] = ["--range", "minmax", "--equalize", "off", "--wide-exp", "off"];

/// What is varied: a label and the options of `shiftformer convert`.
fn variants() -> Vec<(&'static str, Vec<&'static str>)> {
    let with_range = |range: &'static str| vec!["--range", range, "--equalize", "off", "--wide-exp", "off"];
    vec![
        ("min-max ranges, nothing else", PLAIN.to_vec()),
        ("+ bias correction", CORRECTED.to_vec()),
        ("+ bias correction, percentile ranges", with_range("percentile")),
        ("+ bias correction, MSE ranges", with_range("mse")),
        ("+ bias correction, entropy ranges", with_range("entropy")),
        ("+ bias correction, automatic ranges", with_range("auto")),
        ("+ scale migration (automatic)", vec!["--wide-exp", "off"]),
        ("+ width of exponentials (automatic): the default", vec![]),
        ("profile lut", vec!["--profile", "lut"]),
        ("profile ivit", vec!["--profile", "ivit"]),
        ("4-bit weights, error-compensated, no bias correction", vec!["--weights", "4", "--no-bias-correction"]),
        ("4-bit weights, error-compensated", vec!["--weights", "4"]),
    ]
}

/// Where the table is kept.
fn table() -> PathBuf {
    root().join("docs/calibration.md")
}

/// Converts and evaluates every variant; writes the table. `models` is the folder that holds the subjects.
///
/// # Errors
/// When a conversion fails, a file is missing or the table cannot be written.
pub fn gains(models: &Path) -> Result<(), Error> {
    let mut text = String::from(HEAD);
    for subject in &SUBJECTS {
        let needed = models.join(subject.model);
        if !needed.exists() {
            let how = "name the folder that holds the models with --models DIR".to_owned();
            return Err(Error::Missing { what: needed.display().to_string(), how });
        }
        let _ = writeln!(text, "\n## {}\n\n| variant | options | accuracy (float) | agreement | SQNR |", subject.name);
        text.push_str("|---|---|---|---|---|\n");
        for (label, options) in variants() {
            let row = measure(models, subject, &options)?;
            println!("{}: {label}: {row}", subject.name);
            let shown = if options.is_empty() { String::new() } else { format!("`{}`", options.join(" ")) };
            let _ = writeln!(text, "| {label} | {shown} | {row} |");
        }
    }
    let path = table();
    fs::create_dir_all(root().join("docs")).map_err(Error::io("make docs"))?;
    fs::write(&path, text).map_err(Error::io(format!("write {}", path.display())))
}

const HEAD: &str = "# What calibration is worth

Post-training quantization without fine-tuning, 64 calibration samples, against the float model. Written by

    cargo xtask gains --models DIR

where `DIR` holds `kwt1/` and `mnist-vit/` (model, calibration and evaluation data). KWT-1 is calibrated on the first 64 of
its 224 utterances. \"Automatic\" picks by the SQNR of the integer model, calibrated on one half of the samples, on the
other half; ranges other than the minimum and maximum value seen must win by 0.3 dB.
";

fn measure(models: &Path, subject: &Subject, options: &[&str]) -> Result<String, Error> {
    let file = root().join("target/gains.sfm");
    let mut convert = shiftformer();
    convert.arg("convert").arg(models.join(subject.model)).arg("-o").arg(&file);
    convert.arg("--calib").arg(models.join(subject.calibration)).args(["--calib-samples", SAMPLES]);
    convert.args(subject.extra).args(options).stdout(Stdio::null());
    run(&mut convert)?;
    let mut eval = shiftformer();
    eval.arg("eval").arg(&file).arg("--data").arg(models.join(subject.data)).arg("--json").stderr(Stdio::null());
    let output = eval.output().map_err(Error::io(format!("start `{}`", shown(&eval))))?;
    let figures: serde_json::Value =
        serde_json::from_slice(&output.stdout).map_err(|_| Error::Command(shown(&eval)))?;
    let figure = |key: &str| figures.get(key).and_then(serde_json::Value::as_f64).unwrap_or(f64::NAN);
    let percent = |key: &str| format!("{:.2} %", 100.0 * figure(key));
    let accuracy = format!("{} ({})", percent("accuracy"), percent("float_accuracy"));
    Ok(format!("{accuracy} | {} | {:.1} dB", percent("agreement"), figure("sqnr_db")))
}
