//! Imported models, executed in floats, give the reference outputs of their data sets.

use shiftformer_convert::data::Dataset;
use shiftformer_convert::graph::exec;
use shiftformer_convert::graph::{Data, DataType, Graph, Op};
use shiftformer_convert::import::{ImportError, ImportOptions, import, import_bytes};
use shiftformer_convert::model_file::Values;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Samples that are compared; the float executor is no fast one.
const SAMPLES: usize = 8;

fn digits(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/digits").join(name)
}

/// A file of the shared folder; `None`, said aloud, where it is missing.
fn shared(name: &str) -> Option<PathBuf> {
    let path = shiftformer_tests::shared()?.join("models").join(name);
    if !path.exists() {
        eprintln!("SKIPPED: {} is missing; set SHIFTFORMER_SHARED", path.display());
        return None;
    }
    Some(path)
}

fn real(values: Values, normalization: Option<(f32, f32)>) -> Data {
    match (values, normalization) {
        (Values::U8(v), Some((mean, std))) => {
            Data::Float(v.iter().map(|&x| (f32::from(x) / 255.0 - mean) / std).collect())
        }
        (Values::U8(v), None) => Data::Float(v.into_iter().map(f32::from).collect()),
        (Values::Int(v), _) => Data::Int(v),
        (Values::Float(v), _) => Data::Float(v),
    }
}

/// The largest difference to the reference outputs, relative to the largest reference output.
fn error(graph: &Graph, data: &Path, normalization: Option<(f32, f32)>) -> f32 {
    let data = Dataset::open(data).unwrap();
    let (mut difference, mut size) = (0.0f32, 0.0f32);
    for sample in 0..data.samples().min(SAMPLES) {
        let input = |&id: &usize| real(data.input(&graph.tensors[id].name).unwrap().sample(sample), normalization);
        let inputs: Vec<Data> = graph.inputs.iter().map(input).collect();
        let outputs = exec::run(graph, &inputs, &mut |_, _| ()).unwrap();
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

/// The data of an export: `vit.npz` belongs to `vit.onnx` and `vit-opset17.onnx`.
fn data_of(model: &Path) -> Option<PathBuf> {
    let stem = model.file_stem()?.to_str()?;
    let cuts = stem.rmatch_indices('-').map(|(at, _)| &stem[..at]);
    std::iter::once(stem).chain(cuts).map(|name| model.with_file_name(format!("{name}.npz"))).find(|path| path.exists())
}

/// Models written by `scripts/export_zoo.py`.
#[test]
fn exports_of_public_tools_give_their_reference_outputs() {
    let Some(folder) = std::env::var_os("SHIFTFORMER_ZOO") else {
        eprintln!("SKIPPED: set SHIFTFORMER_ZOO to a folder written by scripts/export_zoo.py");
        return;
    };
    let mut models: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    models.retain(|path| path.extension().is_some_and(|e| e == "onnx"));
    models.sort();
    let mut faults = Vec::new();
    for model in &models {
        let name = model.file_name().unwrap().display();
        let Some(data) = data_of(model) else { panic!("{name}: no data") };
        match import(model, &ImportOptions::default()) {
            Err(reason) => faults.push(format!("{name}: {reason}")),
            Ok(graph) => match error(&graph, &data, None) {
                e if e < FLOAT => {}
                e => faults.push(format!("{name}: relative error {e}")),
            },
        }
    }
    eprintln!("{} of {} exports are right", models.len() - faults.len(), models.len());
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// Cases whose results differ on purpose.
const DIFFERENT: [&str; 9] = [
    // A vector of zeros has no direction.
    "test_l2normalization_axis_0",
    // Division by infinity.
    "test_mod_float_edge_cases_fmod_0_float16",
    "test_mod_float_edge_cases_fmod_0_float32",
    "test_mod_float_edge_cases_fmod_0_float64",
    // Inputs without elements: their size 0 reads as a dynamic dimension.
    "test_split_zero_size_splits_opset13",
    "test_split_zero_size_splits_opset18",
    "test_triu_zero",
    "test_reshape_allowzero_reordered",
    // An index outside a table is an error.
    "test_onehot_out_of_range_indices",
];

/// Whether two values agree to `f32` rounding; infinities and NaN must be the same.
fn close(a: f32, b: f32) -> bool {
    a == b || a.is_nan() && b.is_nan() || (a - b).abs() <= 1e-3 * b.abs().max(1.0)
}

/// `None` where the importer refuses the case, else what is wrong with it.
fn node_case(model: &Path) -> Option<Result<(), String>> {
    let graph = match import(model, &ImportOptions::default()) {
        Ok(graph) => graph,
        Err(
            ImportError::Unsupported(_)
            | ImportError::Opset(_)
            | ImportError::Tensor { .. }
            | ImportError::DynamicDims(_),
        ) => return None,
        Err(error) => return Some(Err(error.to_string())),
    };
    let data = match Dataset::open(&model.with_extension("npz")) {
        Ok(data) => data,
        // Element types that a data set does not hold.
        Err(_) => return None,
    };
    let inputs = graph.inputs.iter().map(|&id| {
        let values = real(data.input(&graph.tensors[id].name)?.sample(0), None);
        Some(match (graph.tensors[id].dtype, values) {
            (DataType::Bool, values) => Data::Bool(values.to_f32().iter().map(|&v| v != 0.0).collect()),
            (_, values) => values,
        })
    });
    let Some(inputs) = inputs.collect::<Option<Vec<_>>>() else { return Some(Err("an input is missing".into())) };
    let outputs = match exec::run(&graph, &inputs, &mut |_, _| ()) {
        Ok(outputs) => outputs,
        Err(error) => return Some(Err(error.to_string())),
    };
    for (&id, output) in graph.outputs.iter().zip(outputs) {
        let Some(expected) = data.output(&graph.tensors[id].name) else { return Some(Err("no such output".into())) };
        let (output, shape) = (output.to_f32(), &expected.shape[1..]);
        let expected = real(expected.sample(0), None).to_f32();
        if graph.shape(id) != shape || !output.iter().zip(&expected).all(|(&a, &b)| close(a, b)) {
            return Some(Err(format!(
                "{:?} {:?} instead of {shape:?} {:?}",
                graph.shape(id),
                &output[..output.len().min(6)],
                &expected[..expected.len().min(6)]
            )));
        }
    }
    Some(Ok(()))
}

/// The single-node cases of the ONNX standard, written by `scripts/export_onnx_nodes.py`.
#[test]
fn onnx_node_cases_give_the_results_of_the_standard() {
    let Some(folder) = std::env::var_os("SHIFTFORMER_ONNX_NODES") else {
        eprintln!("SKIPPED: set SHIFTFORMER_ONNX_NODES to a folder written by scripts/export_onnx_nodes.py");
        return;
    };
    let mut models: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    models.retain(|path| path.extension().is_some_and(|e| e == "onnx"));
    models.sort();
    let (mut right, mut refused, mut wrong) = (0, Vec::new(), Vec::new());
    for model in &models {
        let name = model.file_stem().unwrap().display().to_string();
        match node_case(model) {
            None => refused.push(name),
            Some(Ok(())) => right += 1,
            Some(Err(reason)) => wrong.push(format!("{name}: {reason}")),
        }
    }
    wrong.retain(|case| !DIFFERENT.iter().any(|name| case.starts_with(&format!("{name}:"))));
    eprintln!("{right} right, {} refused: {}", refused.len(), refused.join(" "));
    assert!(wrong.is_empty(), "{} of {} cases are wrong:\n{}", wrong.len(), models.len(), wrong.join("\n"));
}

/// A small generator of repeatable mutations (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit.max(1) as u64) as usize
    }

    /// Changed, removed, repeated or cut bytes.
    fn mutate(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len());
            let run = self.below(64).min(bytes.len() - at);
            match self.below(8) {
                0 => drop(bytes.drain(at..at + run)),
                1 => {
                    let copy = bytes[at..at + run].to_vec();
                    bytes.splice(at..at, copy).for_each(drop);
                }
                2 if self.below(8) == 0 => bytes.truncate(at.max(1)),
                3 => bytes[at] = 0xff,
                4 => bytes[at] = 0,
                _ => bytes[at] ^= 1 << self.below(8),
            }
            if bytes.is_empty() {
                bytes.push(0);
            }
        }
    }
}

/// The graph structure of a model, where a random byte rarely hits: everything but long runs of weights.
fn without_weights(bytes: &[u8]) -> Vec<usize> {
    (0..bytes.len())
        .filter(|&i| {
            bytes[i.saturating_sub(6)..(i + 6).min(bytes.len())].iter().filter(|b| b.is_ascii_graphic()).count() >= 7
        })
        .collect()
}

/// Imports mutations of `model`; each must end soon, with a graph that can be executed or an error.
fn mutations_end(model: &Path, rounds: usize, seed: u64) {
    let original = std::fs::read(model).unwrap();
    let structure = without_weights(&original);
    let mut random = Random(seed);
    let (mut graphs, mut slowest) = (0, Duration::ZERO);
    for round in 0..rounds {
        let mut bytes = original.clone();
        if round % 2 == 0 {
            let at = structure[random.below(structure.len())];
            bytes[at] = random.below(256) as u8;
        } else {
            random.mutate(&mut bytes);
        }
        let start = Instant::now();
        match import_bytes(&bytes, None, &ImportOptions::default()) {
            Ok(graph) => {
                graphs += 1;
                assert!(graph.nodes.iter().all(|n| n.inputs.iter().all(|&id| id < graph.tensors.len())));
            }
            Err(error) => assert!(!matches!(error, ImportError::Internal(_)), "round {round}: {error}"),
        }
        slowest = slowest.max(start.elapsed());
    }
    eprintln!(
        "{}: {graphs} of {rounds} mutations still give a graph, slowest {slowest:.1?}",
        model.file_name().unwrap().display()
    );
    assert!(slowest < Duration::from_secs(20), "{slowest:?}");
}

/// `SHIFTFORMER_MUTATIONS` asks for more than the few hundred rounds of each model that every run makes.
#[test]
fn mutated_models_end_with_a_graph_or_an_error() {
    let rounds = std::env::var("SHIFTFORMER_MUTATIONS").ok().map_or(200, |rounds| rounds.parse().unwrap());
    mutations_end(&digits("digits-vit.onnx"), rounds, 0x5eed);
    mutations_end(&digits("digits-vit-qdq.onnx"), rounds, 0x5eee);
    for name in ["zoo/vit_timm.onnx", "zoo/swin_timm.onnx", "zoo/bert_hf.onnx"] {
        if let Some(model) = shared(name) {
            mutations_end(&model, rounds, 0x5eef);
        }
    }
}
