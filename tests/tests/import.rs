//! Imported models, executed in floats, give the reference outputs of their data sets.

use shiftformer_tools::data::Dataset;
use shiftformer_tools::float_exec;
use shiftformer_tools::graph::{Data, Graph, Op};
use shiftformer_tools::import::{ImportOptions, import};
use shiftformer_tools::model_file::Values;
use std::path::{Path, PathBuf};

/// Samples that are compared; the float executor is no fast one.
const SAMPLES: usize = 8;

fn digits(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/digits").join(name)
}

/// A file of the shared folder; `None`, said aloud, where it is missing.
fn shared(name: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("SHIFTFORMER_SHARED").map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared"), PathBuf::from);
    let path = folder.join("models").join(name);
    if !path.exists() {
        eprintln!("SKIPPED: {} is missing; set SHIFTFORMER_SHARED", path.display());
        return None;
    }
    Some(path)
}

fn real(values: Values, normalization: Option<(f32, f32)>) -> Data {
    match (values, normalization) {
        (Values::U8(v), Some((mean, std))) => Data::Float(v.iter().map(|&x| (f32::from(x) / 255.0 - mean) / std).collect()),
        (Values::U8(v), None) => Data::Float(v.into_iter().map(f32::from).collect()),
        (Values::Int(v), _) => Data::Int(v),
        (Values::Float(v), _) => Data::Float(v),
    }
}

/// The greatest difference to the reference outputs, relative to the greatest reference output.
fn error(graph: &Graph, data: &Path, normalization: Option<(f32, f32)>) -> f32 {
    let data = Dataset::open(data).unwrap();
    let (mut difference, mut size) = (0.0f32, 0.0f32);
    for sample in 0..data.samples().min(SAMPLES) {
        let input = |&id: &usize| real(data.input(&graph.tensors[id].name).unwrap().sample(sample), normalization);
        let inputs: Vec<Data> = graph.inputs.iter().map(input).collect();
        let outputs = float_exec::run(graph, &inputs, &mut |_, _| ()).unwrap();
        for (&id, output) in graph.outputs.iter().zip(&outputs) {
            let expected = real(data.output(&graph.tensors[id].name).unwrap().sample(sample), None).to_f32();
            let output = output.to_f32();
            assert_eq!(output.len(), expected.len());
            for (a, b) in output.iter().zip(&expected) {
                difference = difference.max((a - b).abs());
                size = size.max(b.abs());
            }
        }
    }
    difference / size
}

fn check(model: &Path, data: &Path, normalization: Option<(f32, f32)>, tolerance: f32) -> Graph {
    let graph = import(model, &ImportOptions::default()).unwrap_or_else(|e| panic!("{}: {e}", model.display()));
    let error = error(&graph, data, normalization);
    eprintln!("{}: {} nodes, relative error {error:.1e}", model.file_name().unwrap().display(), graph.nodes.len());
    assert!(error < tolerance, "{}: {error}", model.display());
    graph
}

/// Rounding of `f32` in another order of summation, over a few dozen layers.
const FLOAT: f32 = 1e-4;
const DIGITS: Option<(f32, f32)> = Some((0.3057, 0.376));

#[test]
fn digits_gives_the_reference_logits() {
    check(&digits("digits-vit.onnx"), &digits("eval.npz"), DIGITS, FLOAT);
}

#[test]
fn quantized_digits_keep_their_scales() {
    for name in ["digits-vit-qdq", "digits-vit-qdq-u8"] {
        // A value on the border of two steps may fall to either side.
        let graph = check(&digits(&format!("{name}.onnx")), &digits(&format!("{name}.npz")), DIGITS, 0.05);
        let fixed = |id: usize| graph.nodes.iter().any(|n| n.output == id && matches!(n.op, Op::FakeQuant(_)));
        let linear: Vec<_> = graph.nodes.iter().filter(|n| n.op == Op::Linear).collect();
        assert_eq!(linear.len(), 17);
        assert!(linear.iter().all(|n| fixed(n.inputs[0]) && fixed(n.inputs[1])));
    }
}

#[test]
fn shared_models_give_their_reference_outputs() {
    let models = [
        ("block/block-50x64.onnx", "block/block-50x64.npz"),
        ("kwt1/kwt1.onnx", "kwt1/eval.npz"),
        ("deit-tiny/deit-tiny-random.onnx", "deit-tiny/eval.npz"),
        ("zoo/vit_timm.onnx", "zoo/vit_timm.npz"),
        ("zoo/swin_timm.onnx", "zoo/swin_timm.npz"),
        ("zoo/bert_hf.onnx", "zoo/bert_hf.npz"),
    ];
    for (model, data) in models {
        let (Some(model), Some(data)) = (shared(model), shared(data)) else { continue };
        check(&model, &data, None, FLOAT);
    }
    if let (Some(model), Some(data)) = (shared("mnist-vit/mnist-vit.onnx"), shared("mnist-vit/eval.npz")) {
        let graph = import(&model, &ImportOptions::default()).unwrap();
        let labelled = Dataset::open(&data).unwrap();
        if labelled.output(&graph.tensors[graph.outputs[0]].name).is_some() {
            check(&model, &data, Some((0.1307, 0.3081)), FLOAT);
        }
    }
}
