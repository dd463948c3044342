//! Whole models on a GPU: the digest of every operator and the bytes of every output equal the portable runtime's.
//!
//! `shiftformer parity MODEL.sfm --data DATA.npz --backends portable,gpu` says the same of a whole data set.

use shiftformer::format::Profile;
use shiftformer_convert::convert::{ConvertOptions, Switch, WeightBits, convert};
use shiftformer_convert::data::Dataset;
use shiftformer_convert::fuse::fuse;
use shiftformer_convert::import::{ImportOptions, import};
use shiftformer_convert::model_file::{ModelFile, Values};
use shiftformer_convert::quantize::range::RangeMethod;
use shiftformer_lab::backend::{self, Sample};
use shiftformer_lab::eval::sample_bytes;
use std::path::{Path, PathBuf};

/// Samples that calibrate: what they choose does not matter here.
const CALIBRATION: usize = 4;

/// A model with its data.
struct Case {
    model: PathBuf,
    calibration: PathBuf,
    data: PathBuf,
    normalization: Option<(f64, f64)>,
    /// Samples compared.
    samples: usize,
    /// Only the profiles, not their variants: a large model takes its time in software.
    profiles_only: bool,
}

/// Every form an operator takes under some profile.
fn variants() -> [(&'static str, ConvertOptions); 8] {
    let base = ConvertOptions {
        range: RangeMethod::Minmax,
        equalize: Switch::Off,
        wide_exp: Switch::Off,
        receipts: 0,
        ..ConvertOptions::default()
    };
    let wide = ConvertOptions { weights: WeightBits::Four, wide_exp: Switch::On, ..base.clone() };
    [
        ("profile shift", base.clone()),
        ("16-bit exponentials and 4-bit weights", wide),
        ("3-bit weights", ConvertOptions { weights: WeightBits::Three, ..base.clone() }),
        ("2-bit weights", ConvertOptions { weights: WeightBits::Two, ..base.clone() }),
        ("blocks of rows", ConvertOptions { row_blocks: Switch::On, ..base.clone() }),
        ("unfused attention", ConvertOptions { unfused_attention: true, ..base.clone() }),
        ("profile lut", ConvertOptions { profile: Profile::Lut, ..base.clone() }),
        ("profile ivit", ConvertOptions { profile: Profile::Ivit, ..base }),
    ]
}

fn digits(model: &str, data: &str, samples: usize) -> Case {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/digits");
    let normalization = Some((0.3057, 0.376));
    Case {
        model: folder.join(model),
        calibration: folder.join("calib.npz"),
        data: folder.join(data),
        normalization,
        samples,
        profiles_only: false,
    }
}

/// A model of the shared folder; `None`, said aloud, where it is missing.
fn shared(model: &str, data: &str, normalization: Option<(f64, f64)>, samples: usize) -> Option<Case> {
    let folder = shiftformer_tests::shared()?.join("models");
    let (model, data) = (folder.join(model), folder.join(data));
    if !model.exists() {
        eprintln!("SKIPPED: {} is missing; set SHIFTFORMER_SHARED", model.display());
        return None;
    }
    Some(Case { model, calibration: data.clone(), data, normalization, samples, profiles_only: false })
}

fn compare(model: &ModelFile, samples: &[Sample], what: &str) {
    let open =
        |name| backend::open(name, model).unwrap_or_else(|e| panic!("{e}; SHIFTFORMER_NO_GPU=1 skips these tests"));
    let (mut portable, mut gpu) = (open("portable"), open("gpu"));
    let expected = portable.run(samples).unwrap();
    let found = gpu.run(samples).unwrap();
    assert_eq!(expected.len(), found.len());
    for (sample, (expected, found)) in expected.iter().zip(&found).enumerate() {
        assert_eq!(expected.digests.len(), found.digests.len());
        if let Some(op) = expected.digests.iter().zip(&found.digests).position(|(a, b)| a != b) {
            let a = portable.op_output(&samples[sample], op).unwrap();
            let b = gpu.op_output(&samples[sample], op).unwrap();
            let at = a.iter().zip(&b).position(|(a, b)| a != b);
            panic!("{what}: sample {sample}, operator {op} `{}`: first difference at byte {at:?}", model.op_name(op));
        }
        assert_eq!(expected.outputs, found.outputs, "{what}: sample {sample}");
    }
}

fn check(case: Case) {
    if std::env::var("SHIFTFORMER_NO_GPU").is_ok_and(|v| v == "1") {
        eprintln!("SKIPPED: SHIFTFORMER_NO_GPU=1");
        return;
    }
    let graph = fuse(import(&case.model, &ImportOptions::default()).unwrap());
    let calibration = Dataset::open(&case.calibration).unwrap();
    let values = |sample: usize| -> Vec<Values> {
        graph.inputs.iter().map(|&id| calibration.input(&graph.tensors[id].name).unwrap().sample(sample)).collect()
    };
    let calibrating: Vec<_> = (0..calibration.samples().min(CALIBRATION)).map(values).collect();
    let data = Dataset::open(&case.data).unwrap();
    let chosen = |name: &str| !case.profiles_only || name.starts_with("profile");
    for (name, options) in variants().into_iter().filter(|(name, _)| chosen(name)) {
        let what = format!("{}, {name}", case.model.display());
        let options = ConvertOptions { normalization: case.normalization, ..options };
        let converted = convert(&graph, &calibrating, &options, &mut |_| ());
        let converted = converted.unwrap_or_else(|refused| panic!("{what}: {refused}"));
        let model = ModelFile::from_bytes(&converted.file).unwrap();
        let samples: Vec<_> =
            (0..data.samples().min(case.samples)).map(|i| sample_bytes(&model, &data, i).unwrap()).collect();
        compare(&model, &samples, &what);
    }
}

#[test]
fn digits_vit_is_equal_on_all_samples() {
    check(digits("digits-vit.onnx", "eval.npz", usize::MAX));
}

#[test]
fn digits_with_imported_scales_are_equal() {
    check(digits("digits-vit-qdq.onnx", "digits-vit-qdq.npz", 16));
    check(digits("digits-vit-qdq-u8.onnx", "digits-vit-qdq-u8.npz", 16));
}

#[test]
fn mnist_vit_is_equal() {
    shared("mnist-vit/mnist-vit.onnx", "mnist-vit/eval.npz", Some((0.1307, 0.3081)), 256).into_iter().for_each(check);
}

#[test]
fn kwt1_is_equal() {
    shared("kwt1/kwt1.onnx", "kwt1/eval.npz", None, 64).into_iter().for_each(check);
}

#[test]
fn encoder_block_is_equal() {
    shared("block/block-50x64.onnx", "block/block-50x64.npz", None, 32).into_iter().for_each(check);
}

#[test]
fn bert_with_a_mask_is_equal() {
    shared("zoo/bert_hf.onnx", "zoo/bert_hf.npz", None, 16).into_iter().for_each(check);
}

#[test]
fn swin_is_equal() {
    shared("zoo/swin_timm.onnx", "zoo/swin_timm.npz", None, 16).into_iter().for_each(check);
}

#[test]
fn timm_vit_is_equal() {
    shared("zoo/vit_timm.onnx", "zoo/vit_timm.npz", None, 16).into_iter().for_each(check);
}

#[test]
fn deit_tiny_is_equal() {
    let case = shared("deit-tiny/deit-tiny-random.onnx", "deit-tiny/eval.npz", None, 4);
    case.into_iter().for_each(|case| check(Case { profiles_only: true, ..case }));
}
