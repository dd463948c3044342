//! The published I-ViT operators equal the stored vectors, value by value.

use shiftformer_tests::golden;
use std::path::Path;

fn all_pass(folder: &Path) -> usize {
    let mut failures = Vec::new();
    let summary = golden::run(folder, |name, result| {
        if let Err(failure) = result {
            failures.push(format!("{name}: {failure}"));
        }
    });
    let summary = summary.unwrap_or_else(|error| panic!("{error}"));
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    summary.passed
}

#[test]
fn own_vectors_are_reproduced() {
    assert_eq!(all_pass(&Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors/ivit")), 20);
}

#[test]
fn shared_vectors_are_reproduced() {
    let Some(shared) = shiftformer_tests::shared() else { return };
    let folder = shared.join("golden/ivit");
    if !folder.is_dir() {
        eprintln!("SKIPPED: {} is not there; set SHIFTFORMER_SHARED", folder.display());
        return;
    }
    assert!(all_pass(&folder) > 0);
}

#[test]
fn a_wrong_value_is_found() {
    let folder = std::env::temp_dir().join(format!("shiftformer-golden-{}", std::process::id()));
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors/ivit");
    std::fs::create_dir_all(&folder).unwrap();
    // The 16-bit file under the constants of the 8-bit one.
    std::fs::copy(own.join("shiftmax_16_0.npz"), folder.join("shiftmax_8_0.npz")).unwrap();
    let index = r#"[{"name": "shiftmax_8_0", "op": "shiftmax", "in_scale": 0.3, "n": 15, "out_bits": 8}, {"name": "no", "op": "shiftmax"}]"#;
    std::fs::write(folder.join("index.json"), index).unwrap();
    let mut texts = Vec::new();
    let summary = golden::run(&folder, |_, result| texts.push(result.as_ref().unwrap_err().to_string())).unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
    assert_eq!(summary, golden::Summary { passed: 0, failed: 2 });
    assert!(texts[0].contains("values differ") && texts[1].contains("cannot be read"), "{texts:?}");
}
