//! Post-training accuracy: the integer model against its float model, no fine-tuning.

use shiftformer_convert::convert::{
    ActivationBits, ConvertError, ConvertOptions, Converted, Switch, WeightBits, convert,
};
use shiftformer_convert::data::Dataset;
use shiftformer_convert::fuse::fuse;
use shiftformer_convert::graph::Graph;
use shiftformer_convert::import::{ImportOptions, import};
use shiftformer_convert::model_file::{ModelFile, Values};
use shiftformer_convert::quantize::range::RangeMethod;
use shiftformer_lab::backend;
use shiftformer_lab::eval::metrics::Figures;
use shiftformer_lab::eval::{Reference, evaluate};
use std::path::{Path, PathBuf};

/// Normalisation of the digits: `(x / 255 - mean) / std`.
const DIGITS: (f64, f64) = (0.3057, 0.376);
/// Normalisation of MNIST.
const MNIST: (f64, f64) = (0.1307, 0.3081);
/// Calibration samples, as the command takes by default where there is no calibration set.
const SAMPLES: usize = 64;

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// A model of the shared folder; `None`, said aloud, where it is missing.
fn shared(path: &str) -> Option<PathBuf> {
    let path = shiftformer_tests::shared()?.join("models").join(path);
    if !path.exists() {
        eprintln!("SKIPPED: {} is not here; set SHIFTFORMER_SHARED", path.display());
        return None;
    }
    Some(path)
}

fn graph(path: &Path) -> Graph {
    fuse(import(path, &ImportOptions::default()).unwrap_or_else(|e| panic!("{}: {e}", path.display())))
}

fn samples(graph: &Graph, data: &Dataset, count: usize) -> Vec<Vec<Values>> {
    let sample =
        |s: usize| graph.inputs.iter().map(|&id| data.input(&graph.tensors[id].name).unwrap().sample(s)).collect();
    (0..count.min(data.samples())).map(sample).collect()
}

fn figures(converted: &Converted, data: &Dataset) -> Figures {
    let model = ModelFile::from_bytes(&converted.file).unwrap();
    let mut native = backend::open("native", &model).unwrap();
    let all: Vec<usize> = (0..data.samples()).collect();
    evaluate(&model, data, &Reference::Stored, &all, &mut *native, |_| {}).unwrap().figures()
}

/// Converts `model` on `calibration`, evaluates it on `data`.
fn measure(model: &Path, calibration: &Path, data: &Path, options: &ConvertOptions) -> Figures {
    let graph = graph(model);
    let samples = samples(&graph, &Dataset::open(calibration).unwrap(), SAMPLES);
    let converted =
        convert(&graph, &samples, options, &mut |_| {}).unwrap_or_else(|e| panic!("{}: {e}", model.display()));
    let figures = figures(&converted, &Dataset::open(data).unwrap());
    eprintln!("{} {:?}: {figures:?}", model.display(), options.weights);
    figures
}

/// Accuracy in samples not below float less `lost`, agreement and SQNR at least as stated.
fn require(figures: &Figures, lost: f64, agreement: f64, sqnr: f64) {
    let (accuracy, float) = (figures.accuracy.unwrap(), figures.float_accuracy.unwrap());
    assert!(accuracy >= float - lost - 1e-9, "accuracy {accuracy}, float {float}");
    assert!(figures.agreement.unwrap() >= agreement, "agreement {:?}", figures.agreement);
    assert!(figures.sqnr_db.unwrap() >= sqnr, "SQNR {:?}", figures.sqnr_db);
}

fn normalized(normalization: Option<(f64, f64)>, weights: WeightBits) -> ConvertOptions {
    ConvertOptions { normalization, weights, ..ConvertOptions::default() }
}

fn digits(model: &str, data: &str, options: &ConvertOptions) -> Figures {
    let path = |name: &str| root("models/digits").join(name);
    measure(&path(model), &path("calib.npz"), &path(data), options)
}

#[test]
fn digits_lose_nothing() {
    let figures = digits("digits-vit.onnx", "eval.npz", &normalized(Some(DIGITS), WeightBits::Eight));
    require(&figures, 0.0, 0.997, 36.0);
}

#[test]
fn digits_with_4_bit_weights_keep_24_db() {
    let figures = digits("digits-vit.onnx", "eval.npz", &normalized(Some(DIGITS), WeightBits::Four));
    require(&figures, 0.01, 0.99, 24.0);
}

/// Without training for it: what is left is measured, and the command refuses less than 12 dB.
#[test]
fn digits_with_3_and_2_bit_weights_are_smaller_and_lose() {
    let (mut bytes, mut before) = (usize::MAX, f64::INFINITY);
    for (weights, least) in [(WeightBits::Four, 24.0), (WeightBits::Three, 15.0), (WeightBits::Two, 3.0)] {
        let options = ConvertOptions { range: RangeMethod::Minmax, ..normalized(Some(DIGITS), weights) };
        let path = |name: &str| root("models/digits").join(name);
        let graph = graph(&path("digits-vit.onnx"));
        let samples = samples(&graph, &Dataset::open(&path("calib.npz")).unwrap(), SAMPLES);
        let converted = convert(&graph, &samples, &options, &mut |_| {}).unwrap();
        let figures = figures(&converted, &Dataset::open(&path("eval.npz")).unwrap());
        eprintln!("{weights:?}: {} bytes, {figures:?}", converted.file.len());
        let sqnr = figures.sqnr_db.unwrap();
        assert!(sqnr >= least && sqnr < before && converted.file.len() < bytes, "{weights:?}: {figures:?}");
        (bytes, before) = (converted.file.len(), sqnr);
    }
}

#[test]
fn quantized_models_keep_their_scales_and_need_no_data() {
    let path = |name: &str| root("models/digits").join(name);
    for name in ["digits-vit-qdq", "digits-vit-qdq-u8"] {
        let graph = graph(&path(&format!("{name}.onnx")));
        let options = normalized(Some(DIGITS), WeightBits::Eight);
        let converted = convert(&graph, &[], &options, &mut |_| {}).unwrap_or_else(|e| panic!("{name}: {e}"));
        let data = Dataset::open(&path(&format!("{name}.npz"))).unwrap();
        // Against the outputs of the quantized model itself.
        require(&figures(&converted, &data), 0.0, 0.997, 28.0);
    }
}

#[test]
fn a_model_without_scales_needs_data() {
    let graph = graph(&root("models/digits/digits-vit.onnx"));
    let error = convert(&graph, &[], &ConvertOptions::default(), &mut |_| {}).unwrap_err();
    assert!(error.to_string().contains("--calib"), "{error}");
}

#[test]
fn kwt1_keeps_32_db() {
    let (Some(model), Some(data)) = (shared("kwt1/kwt1.onnx"), shared("kwt1/eval.npz")) else { return };
    require(&measure(&model, &data, &data, &normalized(None, WeightBits::Eight)), 0.0, 0.995, 32.0);
}

#[test]
fn kwt1_with_4_bit_weights_keeps_24_db() {
    let (Some(model), Some(data)) = (shared("kwt1/kwt1.onnx"), shared("kwt1/eval.npz")) else { return };
    let options = ConvertOptions { range: RangeMethod::Minmax, ..normalized(None, WeightBits::Four) };
    let figures = measure(&model, &data, &data, &options);
    assert!(figures.sqnr_db.unwrap() >= 24.0, "{figures:?}");
}

#[test]
fn mnist_keeps_34_db() {
    let path = |name: &str| shared(&format!("mnist-vit/{name}"));
    let (Some(model), Some(calib), Some(data)) = (path("mnist-vit.onnx"), path("calib.npz"), path("eval.npz")) else {
        return;
    };
    require(&measure(&model, &calib, &data, &normalized(Some(MNIST), WeightBits::Eight)), 0.001, 0.997, 34.0);
}

#[test]
fn random_models_of_the_zoo_reach_22_db() {
    for name in ["vit_timm", "swin_timm", "bert_hf"] {
        let path = |ending: &str| shared(&format!("zoo/{name}.{ending}"));
        let (Some(model), Some(data)) = (path("onnx"), path("npz")) else { return };
        let figures = measure(&model, &data, &data, &ConvertOptions::default());
        assert!(figures.sqnr_db.unwrap() >= 22.0, "{name}: {figures:?}");
    }
}

#[test]
fn mixed_bits_fit_the_budget_or_name_the_minimum() {
    let graph = graph(&root("models/digits/digits-vit.onnx"));
    let samples = samples(&graph, &Dataset::open(&root("models/digits/calib.npz")).unwrap(), SAMPLES);
    let with = |flash_budget: usize| ConvertOptions {
        receipts: 0,
        range: RangeMethod::Mse,
        equalize: Switch::Off,
        ..normalized(Some(DIGITS), WeightBits::Mixed { flash_budget })
    };
    let fitting = convert(&graph, &samples, &with(48_000), &mut |_| {}).unwrap();
    assert!(fitting.file.len() <= 48_000, "{}", fitting.file.len());
    assert!(fitting.curve.iter().filter(|point| point.kept).count() == 1);
    let sizes: Vec<usize> = fitting.curve.iter().map(|point| point.file_bytes).collect();
    assert!(sizes.is_sorted_by(|a, b| a >= b), "{sizes:?}");
    let error = convert(&graph, &samples, &with(1000), &mut |_| {}).unwrap_err();
    assert!(matches!(error, ConvertError::Budget { min, budget: 1000 } if min > 1000), "{error}");
}

/// Data that says little or nothing: a model all the same, finite scales, a remark where a tensor was never seen alive.
#[test]
fn poor_calibration_data_never_breaks_a_conversion() {
    let graph = graph(&root("models/digits/digits-vit.onnx"));
    let options =
        ConvertOptions { range: RangeMethod::Mse, equalize: Switch::On, ..normalized(None, WeightBits::Eight) };
    let constant = |v: f32| vec![vec![Values::Float(vec![v; 64])]; 2];
    let spike =
        |v: f32, rest: f32| vec![vec![Values::Float((0..64).map(|i| if i == 7 { v } else { rest }).collect())]; 2];
    for samples in
        [constant(0.0), constant(1.0), constant(1e-30), spike(1e4, 0.01), vec![vec![Values::U8(vec![9; 64])]]]
    {
        let converted = convert(&graph, &samples, &options, &mut |_| {}).unwrap();
        for tensor in &converted.program.tensors {
            assert!(tensor.scale.is_finite() && tensor.scale > 0.0 && tensor.zero.is_finite(), "{}", tensor.name);
        }
    }
    let zeros = convert(&graph, &constant(0.0), &options, &mut |_| {}).unwrap();
    assert!(zeros.notes.iter().any(|note| note.contains("`image`")), "{:?}", zeros.notes);
    // Far below the largest value, yet not so far that they fall together with 0.
    let options = ConvertOptions { activations: ActivationBits::Eight, ..options };
    let outliers = convert(&graph, &spike(1e4, 6.7), &options, &mut |_| {}).unwrap();
    assert!(outliers.notes.iter().any(|note| note.contains("outliers")), "{:?}", outliers.notes);
}

#[test]
fn calibration_values_must_be_numbers() {
    let graph = graph(&root("models/digits/digits-vit.onnx"));
    for bad in [f32::NAN, f32::INFINITY] {
        let samples = [vec![Values::Float(vec![bad; 64])]];
        let error = convert(&graph, &samples, &ConvertOptions::default(), &mut |_| {}).unwrap_err();
        assert!(matches!(error, ConvertError::NotFinite { sample: 0, .. }), "{error}");
    }
    let error = convert(&graph, &[vec![Values::U8(vec![0; 63])]], &ConvertOptions::default(), &mut |_| {}).unwrap_err();
    assert!(matches!(error, ConvertError::Sample { expected: 64, given: 63, .. }), "{error}");
}

/// Fused attention is an optimisation: the same outputs as with the score matrix, in less memory.
#[test]
fn fused_attention_gives_the_bytes_of_the_unfused_form() {
    let graph = graph(&root("models/digits/digits-vit.onnx"));
    let samples = samples(&graph, &Dataset::open(&root("models/digits/calib.npz")).unwrap(), 16);
    let forms = [false, true].map(|unfused_attention| {
        let options = ConvertOptions {
            unfused_attention,
            range: RangeMethod::Mse,
            equalize: Switch::Off,
            ..normalized(Some(DIGITS), WeightBits::Eight)
        };
        convert(&graph, &samples, &options, &mut |_| {}).unwrap()
    });
    let outputs = forms.each_ref().map(|converted| {
        let model = ModelFile::from_bytes(&converted.file).unwrap();
        let inputs: Vec<_> = samples.iter().map(|s| vec![model.encode(0, &s[0]).unwrap()]).collect();
        let traces = backend::open("portable", &model).unwrap().run(&inputs).unwrap();
        traces.into_iter().map(|trace| trace.outputs).collect::<Vec<_>>()
    });
    assert_eq!(outputs[0], outputs[1]);
    assert!(forms[0].plan.arena_bytes < forms[1].plan.arena_bytes);
}
