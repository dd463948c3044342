//! The bundled language models from the command line.

use crate::harness::{Folder, digits_arg, shiftformer};
use std::sync::OnceLock;

fn bundled(name: &str) -> String {
    format!("{}/../../models/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// The two models, converted once as docs/language-models.md says.
fn models() -> &'static Folder {
    static MODELS: OnceLock<Folder> = OnceLock::new();
    MODELS.get_or_init(|| {
        let folder = Folder::new();
        let convert = |model: &str, calib: &str, context: &str, tokenizer: &str, out: &str| {
            let (model, calib, out) = (bundled(model), bundled(calib), folder.path(out));
            let arguments = ["convert", &model, "--calib", &calib, "--calib-samples", "16", "--context", context];
            let ended = shiftformer(&[&arguments[..], &["--tokenizer", tokenizer, "-o", &out]].concat());
            assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        };
        let characters = "characters:0123456789+=$";
        convert("arithmetic/arithmetic.onnx", "arithmetic/calib.npz", "13", characters, "arithmetic.sfm");
        let pairs = bundled("text/tokenizer.json");
        convert("text/text.onnx", "text/calibration.npz", "128", &pairs, "text.sfm");
        folder
    })
}

#[test]
fn sums_are_continued_as_text() {
    let file = models().path("arithmetic.sfm");
    for (a, b) in [(128, 367), (0, 0), (999, 999), (5, 95), (500, 499), (901, 99), (777, 223), (64, 936)] {
        let prompt = format!("${a:03}+{b:03}=");
        let sum = shiftformer(&["generate", &file, "--prompt", &prompt, "--tokens", "5"]);
        let expected: String = format!("{:04}", a + b).chars().rev().chain(['$']).collect();
        assert_eq!((sum.code, sum.stdout.trim_end()), (Some(0), expected.as_str()), "{}", sum.stderr);
    }
    let shown = shiftformer(&["generate", &file, "--prompt", "$999+999=", "--tokens", "5", "--json"]).json();
    assert_eq!(shown["text"], "8991$");
    assert_eq!(shown["tokens"], serde_json::json!([8, 9, 9, 1, 12]));
}

#[test]
fn one_seed_gives_one_text() {
    let file = models().path("text.sfm");
    let text = |seed: &str, backend: &str| {
        let start = ["generate", &file, "--prompt", "And God said", "--tokens", "40", "--json", "--seed", seed];
        let options = ["--temperature", "0.8", "--top-k", "40", "--top-p", "0.95", "--repetition-penalty", "1.1"];
        let shown = shiftformer(&[&start[..], &options, &["--backend", backend]].concat()).json();
        shown["text"].as_str().expect("text").to_owned()
    };
    assert_eq!(text("1", "native"), text("1", "portable"));
    assert_ne!(text("1", "native"), text("2", "native"));
}

#[test]
fn prompts_and_settings_that_cannot_be() {
    let file = models().path("arithmetic.sfm");
    let refused = |more: &[&str], parts: &[&str]| {
        shiftformer(&[&["generate", &file][..], more].concat()).is_refused(parts);
    };
    refused(&["--prompt", "1 + 2"], &["' '", "leave it out"]);
    refused(&["--prompt", ""], &["no tokens"]);
    refused(&["--prompt", "1234567890123456"], &["16 tokens", "13"]);
    refused(&["--prompt", "1+", "--temperature=1000"], &["temperature"]);
    refused(&["--prompt", "1+", "--temperature", "1", "--top-p", "0"], &["top-p"]);
    refused(&["--prompt", "1+", "--repetition-penalty", "0.5"], &["repetition penalty"]);
    shiftformer(&["generate", &digits_arg(), "--prompt", "1+"]).is_refused(&["--context"]);
}

#[test]
fn tokenizers_are_stored_and_shown() {
    let shown = shiftformer(&["inspect", &models().path("arithmetic.sfm"), "--json"]).json();
    assert_eq!((&shown["tokenizer"]["tokens"], &shown["tokenizer"]["valid"]), (&13.into(), &true.into()));
    let folder = Folder::new();
    let refused = |tokenizer: &str, parts: &[&str]| {
        let (model, calib) = (bundled("arithmetic/arithmetic.onnx"), bundled("arithmetic/calib.npz"));
        let out = folder.path("out.sfm");
        let arguments = ["convert", &model, "--calib", &calib, "--context", "13", "--calib-samples", "16", "-o", &out];
        shiftformer(&[&arguments[..], &["--tokenizer", tokenizer]].concat()).is_refused(parts);
    };
    refused("bytes", &["256 tokens", "13"]);
    refused("no-such-tokenizer.json", &["no-such-tokenizer.json"]);
    refused(&folder.write("other.json", br#"{"model": {"type": "Unigram", "vocab": []}}"#), &["Unigram", "byte-pair"]);
    refused(&folder.write("damaged.json", b"{"), &["damaged.json"]);
    assert!(!folder.files().contains(&"out.sfm".to_owned()));
}
