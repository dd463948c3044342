//! Fused graphs of real exports: the same outputs, and nothing left in parts that has a fused form.

use shiftformer_convert::data::Dataset;
use shiftformer_convert::fuse::fuse;
use shiftformer_convert::graph::exec;
use shiftformer_convert::graph::{Binary, Data, Graph, Op, Reduce, Unary};
use shiftformer_convert::import::{ImportOptions, import};
use shiftformer_convert::model_file::Values;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Samples that are compared; the float executor is no fast one.
const SAMPLES: usize = 2;
/// Rounding of sums in another order, relative to the largest output.
const TOLERANCE: f32 = 2e-5;

/// The folder that an environment variable names; `None`, said aloud, where it is missing.
fn folder(variable: &str, default: Option<&str>) -> Option<PathBuf> {
    let default = default.map(|path| Path::new(env!("CARGO_MANIFEST_DIR")).join(path));
    let path = std::env::var_os(variable).map(PathBuf::from).or(default).filter(|path| path.exists());
    if path.is_none() {
        eprintln!("SKIPPED: set {variable}");
    }
    path
}

/// Inputs of one sample; raw pixels become numbers around 0.
fn inputs(graph: &Graph, data: &Dataset, sample: usize) -> Vec<Data> {
    let real = |&id: &usize| match data.input(&graph.tensors[id].name).unwrap().sample(sample) {
        Values::U8(v) => Data::Float(v.iter().map(|&x| f32::from(x) / 127.5 - 1.0).collect()),
        Values::Int(v) => Data::Int(v),
        Values::Float(v) => Data::Float(v),
    };
    graph.inputs.iter().map(real).collect()
}

/// Maximum difference of the outputs of two graphs, relative to the largest output.
fn difference(a: &Graph, b: &Graph, data: &Dataset) -> f32 {
    let (mut difference, mut size) = (0.0f32, 0.0f32);
    for sample in 0..data.samples().min(SAMPLES) {
        let run = |graph| exec::run(graph, &inputs(graph, data, sample), &mut |_, _| ()).unwrap();
        for (x, y) in run(a).iter().zip(run(b)) {
            for (x, y) in x.to_f32().iter().zip(y.to_f32()) {
                difference = difference.max((x - y).abs());
                size = size.max(x.abs());
            }
        }
    }
    difference / size
}

fn counts(graph: &Graph) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for node in &graph.nodes {
        let name = match &node.op {
            Op::Unary(kind) => format!("{kind:?}").split([' ', '{']).next().unwrap_or_default().to_owned(),
            Op::Binary(kind) => format!("{kind:?}"),
            op => op.to_string(),
        };
        *counts.entry(name).or_insert(0) += 1;
    }
    counts
}

/// Nodes that only occur inside of what has a fused form; a `Tanh` is also a pooler's activation.
fn in_parts(graph: &Graph) -> Vec<String> {
    let part = |op: &Op| match op {
        Op::Unary(kind) => matches!(kind, Unary::Erf | Unary::Exp | Unary::Sqrt | Unary::Reciprocal | Unary::IsNaN),
        Op::Binary(kind) => matches!(kind, Binary::Pow),
        Op::Reduce { kind, .. } => !matches!(kind, Reduce::Mean),
        _ => false,
    };
    graph.nodes.iter().filter(|node| part(&node.op)).map(|node| format!("{} `{}`", node.op, node.name)).collect()
}

/// Imports, fuses and compares; returns the fused graph.
fn check(model: &Path, data: &Path) -> Graph {
    let graph = import(model, &ImportOptions::default()).unwrap_or_else(|e| panic!("{}: {e}", model.display()));
    let fused = fuse(graph.clone());
    let error = difference(&graph, &fused, &Dataset::open(data).unwrap());
    let name = model.file_name().unwrap_or_default().to_string_lossy();
    eprintln!(
        "{name}: {} -> {} nodes, differs by {error:.1e}; {:?}",
        graph.nodes.len(),
        fused.nodes.len(),
        counts(&fused)
    );
    assert!(error <= TOLERANCE, "{name}: outputs differ by {error}");
    fused
}

/// The QDQ versions have fake quantizations between all nodes. Those inside of a fused node are dropped, which
/// changes the outputs by less than a step of the coarsest of them.
#[test]
fn digits_and_its_quantized_versions_fuse_alike() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/digits");
    let float = check(&folder.join("digits-vit.onnx"), &folder.join("eval.npz"));
    assert_eq!(in_parts(&float), Vec::<String>::new());
    let mut expected = counts(&float);
    for name in ["digits-vit-qdq", "digits-vit-qdq-u8"] {
        let graph = import(&folder.join(format!("{name}.onnx")), &ImportOptions::default()).unwrap();
        let fused = fuse(graph.clone());
        let mut found = counts(&fused);
        found.remove("FakeQuant");
        expected.remove("FakeQuant");
        assert_eq!(found, expected, "{name}");
        let error = difference(&graph, &fused, &Dataset::open(&folder.join(format!("{name}.npz"))).unwrap());
        eprintln!("{name}: differs by {error}");
        assert!(error < 0.03, "{name}: {error}");
    }
}

#[test]
fn shared_models_lose_their_parts() {
    let Some(folder) = shiftformer_tests::shared() else { return };
    let cases = [
        ("kwt1/kwt1.onnx", "kwt1/eval.npz", 12),
        ("mnist-vit/mnist-vit.onnx", "mnist-vit/eval.npz", 4),
        ("block/block-50x64.onnx", "block/block-50x64.npz", 1),
        ("deit-tiny/deit-tiny-random.onnx", "deit-tiny/eval.npz", 12),
        ("zoo/bert_hf.onnx", "zoo/bert_hf.npz", 2),
        ("zoo/swin_timm.onnx", "zoo/swin_timm.npz", 4),
        ("zoo/vit_timm.onnx", "zoo/vit_timm.npz", 2),
    ];
    for (model, data, attentions) in cases {
        let fused = check(&folder.join("models").join(model), &folder.join("models").join(data));
        let counts = counts(&fused);
        assert_eq!(counts.get("Attention"), Some(&attentions), "{model}");
        assert_eq!((counts.get("MatMul"), counts.get("Softmax")), (None, None), "{model}");
        assert_eq!(in_parts(&fused), Vec::<String>::new(), "{model}");
    }
}

/// Models written by `scripts/export_zoo.py` into the folder `SHIFTFORMER_ZOO`. Beside `vit-ts17.onnx` lies `vit.npz`.
#[test]
fn models_of_public_exporters_lose_their_parts() {
    let Some(folder) = folder("SHIFTFORMER_ZOO", None) else { return };
    let mut models: Vec<PathBuf> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    models.retain(|path| path.extension().is_some_and(|extension| extension == "onnx"));
    models.sort();
    for model in models {
        let stem = model.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let data = stem.match_indices('-').rev().map(|(end, _)| folder.join(format!("{}.npz", &stem[..end])));
        let data =
            data.into_iter().find(|path: &PathBuf| path.exists()).unwrap_or_else(|| panic!("{stem} has no samples"));
        let fused = check(&model, &data);
        assert!(counts(&fused).contains_key("Attention"), "{stem}");
        assert_eq!(in_parts(&fused), Vec::<String>::new(), "{stem}");
    }
}
