//! Kinds of ONNX graphs that exporters write, each with its right value: computed here, without the library.
//!
//! A case is imported, fused and run in floats, which must give the right value; then it is converted, and the integer
//! program must stay near the float graph.

use prost::Message;
use shiftformer::arith::lmul::FloatFormat;
use shiftformer::format::Profile;
use shiftformer::ops;
use shiftformer::ops::embedding::{Embedding, IdPart, TableFormat};
use shiftformer::weights::WeightFormat;
use shiftformer_convert::convert::{ConvertOptions, Converted, WeightBits, convert};
use shiftformer_convert::fuse::fuse;
use shiftformer_convert::graph::{Data, Graph, Op, exec};
use shiftformer_convert::import::onnx::attribute_proto::AttributeType;
use shiftformer_convert::import::onnx::tensor_proto::DataType as Elem;
use shiftformer_convert::import::onnx::tensor_shape_proto::{Dimension, dimension};
use shiftformer_convert::import::onnx::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TensorShapeProto, TypeProto,
    ValueInfoProto, type_proto,
};
use shiftformer_convert::import::{ImportError, ImportOptions, import_bytes};
use shiftformer_convert::lower::lmul::Lmul;
use shiftformer_convert::model_file::Values;
use shiftformer_convert::quantize::tables::Embeddings;

/// An ONNX model under construction; the last node gives the outputs.
struct Model {
    opset: i64,
    graph: GraphProto,
}

fn attribute(name: &str, r#type: AttributeType) -> AttributeProto {
    AttributeProto { name: name.into(), r#type: r#type as i32, ..AttributeProto::default() }
}

fn int(name: &str, i: i64) -> AttributeProto {
    AttributeProto { i, ..attribute(name, AttributeType::Int) }
}

fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto { ints: values.to_vec(), ..attribute(name, AttributeType::Ints) }
}

fn float(name: &str, f: f32) -> AttributeProto {
    AttributeProto { f, ..attribute(name, AttributeType::Float) }
}

fn text(name: &str, s: &str) -> AttributeProto {
    AttributeProto { s: s.as_bytes().to_vec(), ..attribute(name, AttributeType::String) }
}

impl Model {
    fn new(opset: i64) -> Self {
        Self { opset, graph: GraphProto::default() }
    }

    fn input(mut self, name: &str, elem: Elem, shape: &[i64]) -> Self {
        let dim = |&size: &i64| Dimension { value: Some(dimension::Value::DimValue(size)), ..Dimension::default() };
        let shape = Some(TensorShapeProto { dim: shape.iter().map(dim).collect() });
        let tensor = type_proto::Tensor { elem_type: elem as i32, shape };
        let r#type = Some(TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..TypeProto::default() });
        self.graph.input.push(ValueInfoProto { name: name.into(), r#type, ..ValueInfoProto::default() });
        self
    }

    fn stored(mut self, tensor: TensorProto, name: &str, shape: &[i64]) -> Self {
        self.graph.initializer.push(TensorProto { name: name.into(), dims: shape.to_vec(), ..tensor });
        self
    }

    fn floats(self, name: &str, shape: &[i64], values: &[f32]) -> Self {
        let data_type = Elem::Float as i32;
        self.stored(TensorProto { data_type, float_data: values.to_vec(), ..TensorProto::default() }, name, shape)
    }

    fn ints(self, name: &str, shape: &[i64], values: &[i64]) -> Self {
        let data_type = Elem::Int64 as i32;
        self.stored(TensorProto { data_type, int64_data: values.to_vec(), ..TensorProto::default() }, name, shape)
    }

    fn node(self, op: &str, inputs: &[&str], output: &str, attributes: &[AttributeProto]) -> Self {
        self.node_of("", op, inputs, &[output], attributes)
    }

    fn node_of(
        mut self,
        domain: &str,
        op: &str,
        inputs: &[&str],
        outputs: &[&str],
        attributes: &[AttributeProto],
    ) -> Self {
        let names = |list: &[&str]| list.iter().map(|&name| name.to_owned()).collect();
        self.graph.node.push(NodeProto {
            op_type: op.into(),
            domain: domain.into(),
            name: format!("node_{}", outputs[0]),
            input: names(inputs),
            output: names(outputs),
            attribute: attributes.to_vec(),
            ..NodeProto::default()
        });
        self
    }

    fn read(self) -> Result<Graph, ImportError> {
        let mut graph = self.graph;
        if graph.output.is_empty() {
            let outputs = graph.node.last().unwrap().output.clone();
            graph.output = outputs.into_iter().map(|name| ValueInfoProto { name, ..Default::default() }).collect();
        }
        let opset = |domain: &str, version| OperatorSetIdProto { domain: domain.into(), version };
        let opset_import = vec![opset("", self.opset), opset("com.microsoft", 1), opset("shiftformer", 1)];
        let model = ModelProto { ir_version: 8, graph: Some(graph), opset_import, ..ModelProto::default() };
        import_bytes(&model.encode_to_vec(), None, &ImportOptions::default())
    }
}

/// The same numbers every time, from -1 to 1.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as f64 / (1u64 << 30) as f64 - 1.0) as f32
    }

    fn take(&mut self, count: usize, size: f32, centre: f32) -> Vec<f32> {
        (0..count).map(|_| centre + size * self.next()).collect()
    }

    fn below(&mut self, count: usize, limit: i64) -> Vec<i64> {
        (0..count).map(|_| ((f64::from(self.next()) + 1.0) / 2.0 * limit as f64) as i64 % limit).collect()
    }
}

const SAMPLES: usize = 24;

/// One sample: a value for every input.
type Sample = Vec<Data>;

fn values(data: &Data) -> Values {
    match data {
        Data::Float(v) => Values::Float(v.clone()),
        Data::Int(v) => Values::Int(v.clone()),
        Data::Bool(v) => Values::Int(v.iter().map(|&b| i64::from(b)).collect()),
    }
}

/// Runs the case in floats against `right`, which gives the first output of a sample, and converts it.
#[track_caller]
fn check(model: Model, samples: &[Sample], min_db: f64, right: impl Fn(&Sample) -> Vec<f32>) -> (Graph, Converted) {
    let graph = fuse(model.read().unwrap_or_else(|error| panic!("{error}")));
    for (index, sample) in samples.iter().enumerate() {
        let outputs = exec::run(&graph, sample, &mut |_, _| ()).unwrap_or_else(|error| panic!("{error}"));
        let (found, right) = (outputs[0].to_f32(), right(sample));
        assert_eq!(found.len(), right.len());
        let size = right.iter().fold(1e-3f32, |m, v| m.max(v.abs()));
        for (place, (a, b)) in found.iter().zip(&right).enumerate() {
            assert!((a - b).abs() <= 2e-3 * size, "sample {index}, element {place}: {a} for {b}");
        }
    }
    let given: Vec<Vec<Values>> = samples.iter().map(|sample| sample.iter().map(values).collect()).collect();
    let converted = convert(&graph, &given, &ConvertOptions::default(), &mut |_| {});
    let converted = converted.unwrap_or_else(|error| panic!("{error}"));
    let db = converted.sqnr_db.unwrap();
    assert!(db >= min_db, "{db} dB: {:?}", graph.nodes.iter().map(|n| n.op.to_string()).collect::<Vec<_>>());
    (graph, converted)
}

fn has(graph: &Graph, test: impl Fn(&Op) -> bool) -> bool {
    graph.nodes.iter().any(|node| test(&node.op))
}

fn softmax(scores: &[f32]) -> Vec<f32> {
    let most = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if most == f32::NEG_INFINITY {
        return vec![0.0; scores.len()];
    }
    let exps: Vec<f32> = scores.iter().map(|s| (s - most).exp()).collect();
    let sum: f32 = exps.iter().sum();
    exps.iter().map(|e| e / sum).collect()
}

/// One head: `q [n, d]`, `k [t, d]`, `v [t, d]`, `bias [n, t]`; rows of -infinity are zeros.
fn attend(q: &[f32], k: &[f32], v: &[f32], d: usize, bias: impl Fn(usize, usize) -> f32) -> Vec<f32> {
    let (n, t) = (q.len() / d, k.len() / d);
    let mut out = vec![0.0; n * d];
    for i in 0..n {
        let score =
            |j: usize| (0..d).map(|c| q[i * d + c] * k[j * d + c]).sum::<f32>() / (d as f32).sqrt() + bias(i, j);
        let p = softmax(&(0..t).map(score).collect::<Vec<_>>());
        for c in 0..d {
            out[i * d + c] = (0..t).map(|j| p[j] * v[j * d + c]).sum();
        }
    }
    out
}

fn floats(data: &Data) -> &[f32] {
    data.floats().unwrap()
}

const N: usize = 6;
const D: usize = 8;

/// Inputs `q`, `k`, `v` of one head.
fn qkv(opset: i64) -> Model {
    let shape = [1, 1, N as i64, D as i64];
    Model::new(opset).input("q", Elem::Float, &shape).input("k", Elem::Float, &shape).input("v", Elem::Float, &shape)
}

fn qkv_samples(seed: u64) -> Vec<Sample> {
    let mut numbers = Numbers(seed);
    (0..SAMPLES).map(|_| (0..3).map(|_| Data::Float(numbers.take(N * D, 1.5, 0.0))).collect()).collect()
}

/// With one more input: flags `[n, n]`, row 2 of which hides every key.
fn with_flags(mut samples: Vec<Sample>) -> Vec<Sample> {
    let mut numbers = Numbers(77);
    for sample in &mut samples {
        sample.push(Data::Bool((0..N * N).map(|i| numbers.next() > -0.2 && i / N != 2).collect()));
    }
    samples
}

fn flag(sample: &Sample, i: usize, j: usize) -> bool {
    let Data::Bool(flags) = &sample[3] else { panic!("flags") };
    flags[i * N + j]
}

fn hidden(shown: bool) -> f32 {
    if shown { 0.0 } else { f32::NEG_INFINITY }
}

/// The scores of one head, scaled: `s`.
fn scores(model: Model) -> Model {
    model
        .floats("root", &[], &[1.0 / (D as f32).sqrt()])
        .node("Transpose", &["k"], "kt", &[ints("perm", &[0, 1, 3, 2])])
        .node("MatMul", &["q", "kt"], "products", &[])
        .node("Mul", &["products", "root"], "s", &[])
}

#[test]
fn causal_attention_adds_a_bias_that_is_an_input() {
    let bias_shape = [N as i64, N as i64];
    let causal = |i: usize, j: usize| hidden(j <= i);
    let mut samples = qkv_samples(1);
    let mut numbers = Numbers(2);
    samples.iter_mut().for_each(|sample| sample.push(Data::Float(numbers.take(N * N, 3.0, 0.0))));
    let right = |s: &Sample| {
        let bias = |i: usize, j: usize| floats(&s[3])[i * N + j] + causal(i, j);
        attend(floats(&s[0]), floats(&s[1]), floats(&s[2]), D, bias)
    };
    let model = qkv(23).input("bias", Elem::Float, &bias_shape).node(
        "Attention",
        &["q", "k", "v", "bias"],
        "y",
        &[int("is_causal", 1)],
    );
    let (graph, _) = check(model, &samples, 30.0, right);
    assert!(has(&graph, |op| matches!(op, Op::Attention(_))));
    // The same from nodes: the floor keeps the sum of two masks finite.
    let future: Vec<f32> = (0..N * N).map(|i| if i % N > i / N { f32::MIN } else { 0.0 }).collect();
    let model = scores(qkv(17).input("bias", Elem::Float, &bias_shape))
        .floats("future", &bias_shape, &future)
        .floats("lowest", &[], &[f32::MIN])
        .node("Add", &["bias", "future"], "sum", &[])
        .node("Max", &["sum", "lowest"], "mask", &[])
        .node("Add", &["s", "mask"], "masked", &[])
        .node("Softmax", &["masked"], "p", &[int("axis", -1)])
        .node("MatMul", &["p", "v"], "y", &[]);
    check(model, &samples, 30.0, right);
}

#[test]
fn onnxruntimes_attention_adds_a_bias_to_the_causal_mask() {
    let width = D as i64;
    let rows = [1, N as i64, width];
    let mut numbers = Numbers(3);
    let samples: Vec<Sample> = (0..SAMPLES)
        .map(|_| {
            let mut sample: Sample = (0..3).map(|_| Data::Float(numbers.take(N * D, 1.5, 0.0))).collect();
            sample.push(Data::Float(numbers.take(N * N, 3.0, 0.0)));
            sample
        })
        .collect();
    let model = Model::new(17)
        .input("q", Elem::Float, &rows)
        .input("k", Elem::Float, &rows)
        .input("v", Elem::Float, &rows)
        .input("bias", Elem::Float, &[1, 1, N as i64, N as i64])
        .node_of(
            "com.microsoft",
            "MultiHeadAttention",
            &["q", "k", "v", "", "", "bias"],
            &["y"],
            &[int("num_heads", 1), int("unidirectional", 1)],
        );
    check(model, &samples, 30.0, |s| {
        let bias = |i: usize, j: usize| floats(&s[3])[i * N + j] + hidden(j <= i);
        attend(floats(&s[0]), floats(&s[1]), floats(&s[2]), D, bias)
    });
}

#[test]
fn rows_of_attention_that_see_no_key_are_zeros() {
    let shape = [N as i64, N as i64];
    let samples = with_flags(qkv_samples(4));
    let right = |s: &Sample| attend(floats(&s[0]), floats(&s[1]), floats(&s[2]), D, |i, j| hidden(flag(s, i, j)));
    let attention = |model: Model| model.node("Attention", &["q", "k", "v", "m"], "y", &[]);
    check(attention(qkv(24).input("m", Elem::Bool, &shape)), &samples, 30.0, right);
    // A constant mask, as floats.
    let constant: Vec<f32> = (0..N * N).map(|i| hidden(i / N != 2 && i % 3 != 1)).collect();
    let model = attention(qkv(24).floats("m", &shape, &constant));
    let right = |s: &Sample| attend(floats(&s[0]), floats(&s[1]), floats(&s[2]), D, |i, j| constant[i * N + j]);
    check(model, &qkv_samples(5), 30.0, right);
}

#[test]
fn masks_shorter_than_the_keys_hide_the_rest() {
    for keys in [1, 4] {
        let mut samples = qkv_samples(6);
        let mut numbers = Numbers(7);
        samples.iter_mut().for_each(|s| s.push(Data::Float(numbers.take(N * keys, 1.0, 0.0))));
        let model = qkv(24).input("m", Elem::Float, &[N as i64, keys as i64]);
        let model = model.node("Attention", &["q", "k", "v", "m"], "y", &[]);
        check(model, &samples, 30.0, |s| {
            let bias = |i: usize, j: usize| if j < keys { floats(&s[3])[i * keys + j] } else { f32::NEG_INFINITY };
            attend(floats(&s[0]), floats(&s[1]), floats(&s[2]), D, bias)
        });
    }
    // Opset 23 broadcasts where opset 24 pads.
    let model = qkv(23).input("m", Elem::Float, &[N as i64, 1]).node("Attention", &["q", "k", "v", "m"], "y", &[]);
    let message = model.read().unwrap_err().to_string();
    assert!(message.contains("Attention") && message.contains("expand the mask"), "{message}");
}

#[test]
fn guards_behind_a_softmax_give_zeros_for_hidden_rows() {
    let samples = with_flags(qkv_samples(8));
    let masked = || {
        scores(qkv(17).input("m", Elem::Bool, &[N as i64, N as i64]))
            .floats("zero", &[], &[0.0])
            .floats("lowest", &[], &[f32::NEG_INFINITY])
            .node("Where", &["m", "zero", "lowest"], "bias", &[])
            .node("Add", &["s", "bias"], "masked", &[])
            .node("Softmax", &["masked"], "p", &[int("axis", -1)])
    };
    let nan = masked().node("IsNaN", &["p"], "nan", &[]).node("Where", &["nan", "zero", "p"], "safe", &[]);
    let no_nan = masked().node("IsNaN", &["p"], "nan", &[]).node("Not", &["nan"], "number", &[]).node(
        "Where",
        &["number", "p", "zero"],
        "safe",
        &[],
    );
    // All scores of a row are -infinity.
    let all = masked()
        .node("Equal", &["masked", "lowest"], "equal", &[])
        .node("Cast", &["equal"], "flags", &[int("to", Elem::Int32 as i64)])
        .node("ReduceMin", &["flags"], "all", &[ints("axes", &[-1])])
        .node("Cast", &["all"], "row", &[int("to", Elem::Bool as i64)])
        .node("Where", &["row", "zero", "p"], "safe", &[]);
    // The maximum of the bias is -infinity.
    let maximum = masked()
        .node("ReduceMax", &["bias"], "most", &[ints("axes", &[-1])])
        .node("IsInf", &["most"], "row", &[int("detect_positive", 0)])
        .node("Where", &["row", "zero", "p"], "safe", &[]);
    for model in [nan, no_nan, all, maximum] {
        let (graph, _) = check(model.node("MatMul", &["safe", "v"], "y", &[]), &samples, 28.0, |s| {
            attend(floats(&s[0]), floats(&s[1]), floats(&s[2]), D, |i, j| hidden(flag(s, i, j)))
        });
        assert!(has(&graph, |op| matches!(op, Op::Attention(_))));
    }
}

#[test]
fn casts_truncate_and_tell_what_is_not_zero() {
    let mut numbers = Numbers(9);
    let samples: Vec<Sample> = (0..SAMPLES).map(|_| vec![Data::Float(numbers.take(64, 4.0, 0.0))]).collect();
    let cast = |to: Elem| {
        Model::new(17)
            .input("x", Elem::Float, &[1, 64])
            .node("Relu", &["x"], "r", &[])
            .node("Cast", &[if to == Elem::Bool { "r" } else { "x" }], "c", &[int("to", to as i64)])
            .node("Cast", &["c"], "y", &[int("to", Elem::Float as i64)])
    };
    check(cast(Elem::Int32), &samples, 20.0, |s| floats(&s[0]).iter().map(|v| v.trunc()).collect());
    check(cast(Elem::Bool), &samples, 20.0, |s| floats(&s[0]).iter().map(|&v| f32::from(u8::from(v > 0.0))).collect());
    let counts: Vec<Sample> = (0..SAMPLES).map(|_| vec![Data::Int(numbers.below(16, 4))]).collect();
    let model = Model::new(17)
        .input("x", Elem::Int64, &[1, 16])
        .node("Cast", &["x"], "c", &[int("to", Elem::Bool as i64)])
        .node("Cast", &["c"], "y", &[int("to", Elem::Float as i64)]);
    check(model, &counts, 60.0, |s| s[0].ints().unwrap().iter().map(|&v| f32::from(u8::from(v != 0))).collect());
}

const WIDTH: usize = 12;

fn layer_norm(x: &[f32], eps: f32, gamma: &[f32], beta: &[f32]) -> Vec<f32> {
    let row = |row: &[f32]| {
        let mean = row.iter().sum::<f32>() / row.len() as f32;
        let variance = row.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / row.len() as f32;
        let factor = 1.0 / (variance + eps).sqrt();
        row.iter().zip(gamma.iter().zip(beta)).map(|(v, (g, b))| (v - mean) * factor * g + b).collect::<Vec<_>>()
    };
    x.chunks(gamma.len()).flat_map(row).collect()
}

/// Rows `x [1, 5, 12]` and the constants of a normalization.
fn rows() -> (Model, Vec<Sample>, Vec<f32>, Vec<f32>) {
    let mut numbers = Numbers(10);
    let (gamma, beta) = (numbers.take(WIDTH, 0.4, 1.0), numbers.take(WIDTH, 0.5, 0.0));
    let samples = (0..SAMPLES).map(|_| vec![Data::Float(numbers.take(5 * WIDTH, 2.0, 0.3))]).collect();
    let width = WIDTH as i64;
    let model = Model::new(17)
        .input("x", Elem::Float, &[1, 5, width])
        .floats("gamma", &[width], &gamma)
        .floats("beta", &[width], &beta)
        .floats("part", &[], &[1.0 / WIDTH as f32])
        .floats("count", &[], &[WIDTH as f32])
        .floats("eps", &[], &[1e-5])
        .floats("one", &[], &[1.0])
        .floats("two", &[], &[2.0])
        .floats("zero", &[], &[0.0])
        .floats("minus_half", &[], &[-0.5])
        .ints("last", &[1], &[-1])
        .ints("column", &[3], &[1, 5, 1]);
    (model, samples, gamma, beta)
}

#[test]
fn layer_norm_is_recognised_however_it_is_written() {
    // Flax: sums times 1 / n, E[x^2] - E[x]^2 kept from being negative, dimensions dropped and restored.
    let flax = |model: Model| {
        let drop = int("keepdims", 0);
        model
            .node("ReduceSum", &["x", "last"], "sum", std::slice::from_ref(&drop))
            .node("Mul", &["sum", "part"], "mean0", &[])
            .node("Reshape", &["mean0", "column"], "mean", &[])
            .node("Mul", &["x", "x"], "square", &[])
            .node("ReduceSum", &["square", "last"], "squares", &[drop])
            .node("Mul", &["squares", "part"], "power0", &[])
            .node("Reshape", &["power0", "column"], "power", &[])
            .node("Mul", &["mean", "mean"], "mean_square", &[])
            .node("Sub", &["power", "mean_square"], "difference", &[])
            .node("Max", &["zero", "difference"], "variance", &[])
            .node("Add", &["variance", "eps"], "guarded", &[])
            .node("Sqrt", &["guarded"], "deviation", &[])
            .node("Reciprocal", &["deviation"], "inverse", &[])
            .node("Mul", &["inverse", "gamma"], "factor", &[])
            .node("Sub", &["x", "mean"], "d", &[])
            .node("Mul", &["d", "factor"], "scaled", &[])
            .node("Add", &["scaled", "beta"], "y", &[])
    };
    // Keras: x * f + (beta - mean * f).
    let keras = |model: Model| {
        model
            .node("ReduceSum", &["x", "last"], "sum", &[])
            .node("Div", &["sum", "count"], "mean", &[])
            .node("Sub", &["x", "mean"], "d", &[])
            .node("Mul", &["d", "d"], "square", &[])
            .node("ReduceSum", &["square", "last"], "squares", &[])
            .node("Div", &["squares", "count"], "variance", &[])
            .node("Add", &["variance", "eps"], "guarded", &[])
            .node("Pow", &["guarded", "minus_half"], "inverse", &[])
            .node("Mul", &["inverse", "gamma"], "f", &[])
            .node("Mul", &["x", "f"], "scaled", &[])
            .node("Mul", &["mean", "f"], "moved", &[])
            .node("Sub", &["beta", "moved"], "shift", &[])
            .node("Add", &["scaled", "shift"], "y", &[])
    };
    // PyTorch, but with the deviation inverted and gamma left of it.
    let torch = |model: Model| {
        let axes = ints("axes", &[2]);
        model
            .node("ReduceMean", &["x"], "mean", std::slice::from_ref(&axes))
            .node("Sub", &["x", "mean"], "d", &[])
            .node("Pow", &["d", "two"], "square", &[])
            .node("ReduceMean", &["square"], "variance", &[axes])
            .node("Add", &["eps", "variance"], "guarded", &[])
            .node("Sqrt", &["guarded"], "deviation", &[])
            .node("Div", &["one", "deviation"], "inverse", &[])
            .node("Mul", &["d", "inverse"], "normal", &[])
            .node("Mul", &["gamma", "normal"], "scaled", &[])
            .node("Add", &["beta", "scaled"], "y", &[])
    };
    // TensorFlow: BatchNormalization in training mode over rows as channels.
    let tensorflow = |model: Model| {
        model
            .ints("image", &[4], &[1, 5, 12, 1])
            .ints("rows", &[3], &[1, 5, 12])
            .floats("ones", &[5], &[1.0; 5])
            .floats("zeros", &[5], &[0.0; 5])
            .node("Reshape", &["x", "image"], "xi", &[])
            .node_of(
                "",
                "BatchNormalization",
                &["xi", "ones", "zeros", "zeros", "ones"],
                &["yi", "mean", "variance"],
                &[int("training_mode", 1), float("epsilon", 1e-5)],
            )
            .node("Reshape", &["yi", "rows"], "normal", &[])
            .node("Mul", &["normal", "gamma"], "scaled", &[])
            .node("Add", &["scaled", "beta"], "y", &[])
    };
    let forms: [&dyn Fn(Model) -> Model; 4] = [&flax, &keras, &torch, &tensorflow];
    for form in forms {
        let (model, samples, gamma, beta) = rows();
        let (graph, _) = check(form(model), &samples, 60.0, |s| layer_norm(floats(&s[0]), 1e-5, &gamma, &beta));
        let norms = graph.nodes.iter().filter(|n| matches!(n.op, Op::LayerNorm { eps } if (eps - 1e-5).abs() < 1e-6));
        assert_eq!(norms.count(), 1);
        assert!(!has(&graph, |op| matches!(op, Op::Reduce { .. } | Op::Unary(_))), "{:?}", graph.nodes);
    }
}

#[test]
fn rms_norm_is_recognised_however_it_is_written() {
    let flax = |model: Model| {
        model
            .node("Mul", &["x", "x"], "square", &[])
            .node("ReduceSum", &["square", "last"], "squares", &[int("keepdims", 0)])
            .node("Mul", &["squares", "part"], "power0", &[])
            .node("Reshape", &["power0", "column"], "power", &[])
            .node("Add", &["power", "eps"], "guarded", &[])
            .node("Sqrt", &["guarded"], "root", &[])
            .node("Reciprocal", &["root"], "inverse", &[])
            .node("Mul", &["inverse", "gamma"], "factor", &[])
            .node("Mul", &["x", "factor"], "y", &[])
    };
    let sum_square = |model: Model| {
        model
            .node("ReduceSumSquare", &["x"], "squares", &[ints("axes", &[-1])])
            .node("Div", &["squares", "count"], "power", &[])
            .node("Add", &["power", "eps"], "guarded", &[])
            .node("Pow", &["guarded", "minus_half"], "inverse", &[])
            .node("Mul", &["x", "inverse"], "normal", &[])
            .node("Mul", &["normal", "gamma"], "y", &[])
    };
    let forms: [&dyn Fn(Model) -> Model; 2] = [&flax, &sum_square];
    for form in forms {
        let (model, samples, gamma, _) = rows();
        let (graph, _) = check(form(model), &samples, 60.0, |s| {
            let row = |row: &[f32]| {
                let power = row.iter().map(|v| v * v).sum::<f32>() / WIDTH as f32;
                row.iter().zip(&gamma).map(|(v, g)| v / (power + 1e-5).sqrt() * g).collect::<Vec<_>>()
            };
            floats(&s[0]).chunks(WIDTH).flat_map(row).collect()
        });
        assert!(has(&graph, |op| matches!(op, Op::RmsNorm { .. })));
        assert!(!has(&graph, |op| matches!(op, Op::Reduce { .. } | Op::Unary(_))));
    }
}

#[test]
fn a_product_with_one_hot_rows_is_a_lookup() {
    let (vocabulary, width, n) = (20, 8, 6);
    let mut numbers = Numbers(11);
    let table = numbers.take(vocabulary * width, 1.0, 0.0);
    let samples: Vec<Sample> = (0..SAMPLES).map(|_| vec![Data::Int(numbers.below(n, vocabulary as i64))]).collect();
    let base = || {
        Model::new(17).input("ids", Elem::Int64, &[1, n as i64]).floats(
            "table",
            &[vocabulary as i64, width as i64],
            &table,
        )
    };
    let equal = base()
        .ints("axis", &[1], &[-1])
        .ints("places", &[vocabulary as i64], &(0..vocabulary as i64).collect::<Vec<_>>())
        .node("Unsqueeze", &["ids", "axis"], "column", &[])
        .node("Equal", &["column", "places"], "equal", &[])
        .node("Cast", &["equal"], "hot", &[int("to", Elem::Float as i64)])
        .node("MatMul", &["hot", "table"], "y", &[]);
    let one_hot = base()
        .ints("depth", &[], &[vocabulary as i64])
        .floats("values", &[2], &[0.0, 1.0])
        .node("OneHot", &["ids", "depth", "values"], "hot", &[])
        .node("MatMul", &["hot", "table"], "y", &[]);
    for model in [equal, one_hot] {
        let (graph, _) = check(model, &samples, 35.0, |s| {
            let row = |&id: &i64| table[id as usize * width..][..width].to_vec();
            s[0].ints().unwrap().iter().flat_map(row).collect()
        });
        assert_eq!(graph.nodes.iter().map(|n| n.op.clone()).collect::<Vec<_>>(), [Op::Gather { axis: 0 }]);
    }
}

#[test]
fn negative_ids_count_from_the_end() {
    let mut numbers = Numbers(12);
    let table = numbers.take(40, 1.0, 0.0);
    let ids = |numbers: &mut Numbers| numbers.below(6, 20).into_iter().map(|id| id - 10).collect();
    let samples: Vec<Sample> = (0..SAMPLES).map(|_| vec![Data::Int(ids(&mut numbers))]).collect();
    let model = Model::new(17).input("ids", Elem::Int64, &[6]).floats("table", &[10, 4], &table).node(
        "Gather",
        &["table", "ids"],
        "y",
        &[],
    );
    check(model, &samples, 35.0, |s| {
        let row = |&id: &i64| table[id.rem_euclid(10) as usize * 4..][..4].to_vec();
        s[0].ints().unwrap().iter().flat_map(row).collect()
    });
}

#[test]
fn a_resized_constant_is_a_constant() {
    let mut numbers = Numbers(13);
    let embedding = numbers.take(2 * 3 * 3, 1.0, 0.0);
    let samples: Vec<Sample> = (0..SAMPLES).map(|_| vec![Data::Float(numbers.take(2 * 5 * 5, 1.0, 0.0))]).collect();
    let model = Model::new(17)
        .input("x", Elem::Float, &[1, 2, 5, 5])
        .floats("embedding", &[1, 2, 3, 3], &embedding)
        .ints("size", &[4], &[1, 2, 5, 5])
        .node("Resize", &["embedding", "", "", "size"], "positions", &[text("mode", "cubic")])
        .node("Add", &["x", "positions"], "y", &[]);
    // Rows of weights of the cubic kernel with a = -0.75, half-pixel coordinates, edges repeated.
    let kernel = |t: f64| match t.abs() {
        t if t <= 1.0 => (1.25 * t - 2.25) * t * t + 1.0,
        t if t < 2.0 => ((-0.75 * t + 3.75) * t - 6.0) * t + 3.0,
        _ => 0.0,
    };
    let weights = |i: usize| -> [f64; 3] {
        let x = (i as f64 + 0.5) * 0.6 - 0.5;
        let mut row = [0.0; 3];
        (-2..6).for_each(|j: i32| row[j.clamp(0, 2) as usize] += kernel(x - f64::from(j)));
        row
    };
    let (graph, _) = check(model, &samples, 60.0, |s| {
        let at = |c: usize, i: usize, j: usize| -> f32 {
            let (rows, columns) = (weights(i), weights(j));
            let sum = |a: usize, b: usize| rows[a] * columns[b] * f64::from(embedding[c * 9 + a * 3 + b]);
            (0..9).map(|place| sum(place / 3, place % 3)).sum::<f64>() as f32
        };
        floats(&s[0]).iter().enumerate().map(|(p, x)| x + at(p / 25, p / 5 % 5, p % 5)).collect()
    });
    assert_eq!(graph.nodes.len(), 1);
}

#[test]
fn images_grow_by_resize_and_transposed_convolutions() {
    let mut numbers = Numbers(14);
    let samples: Vec<Sample> = (0..SAMPLES).map(|_| vec![Data::Float(numbers.take(2 * 4 * 4, 1.0, 0.0))]).collect();
    let image = || Model::new(17).input("x", Elem::Float, &[1, 2, 4, 4]);
    // Every element twice along rows and columns.
    let model = image().floats("factors", &[4], &[1.0, 1.0, 2.0, 2.0]).node(
        "Resize",
        &["x", "", "factors"],
        "y",
        &[text("mode", "nearest"), text("coordinate_transformation_mode", "asymmetric"), text("nearest_mode", "floor")],
    );
    check(model, &samples, 40.0, |s| {
        (0..2 * 64).map(|p| floats(&s[0])[p / 64 * 16 + p % 64 / 8 / 2 * 4 + p % 8 / 2]).collect()
    });
    // Linear, half-pixel.
    let model = image().floats("factors", &[4], &[1.0, 1.0, 2.0, 2.0]).node(
        "Resize",
        &["x", "", "factors"],
        "y",
        &[text("mode", "linear")],
    );
    check(model, &samples, 35.0, |s| {
        let line = |i: usize| {
            let x = (i as f32 + 0.5) / 2.0 - 0.5;
            let (low, part) = (x.floor(), x - x.floor());
            [(low.clamp(0.0, 3.0) as usize, 1.0 - part), ((low + 1.0).clamp(0.0, 3.0) as usize, part)]
        };
        let value = |p: usize| {
            let (c, i, j) = (p / 64, p % 64 / 8, p % 8);
            let terms = line(i).into_iter().flat_map(|(a, wa)| line(j).map(|(b, wb)| (a, b, wa * wb)));
            terms.map(|(a, b, w)| w * floats(&s[0])[c * 16 + a * 4 + b]).sum()
        };
        (0..2 * 64).map(value).collect()
    });
    // Kernels that lie side by side, and kernels that overlap.
    for (kernel, pad) in [(2usize, 0usize), (3, 1)] {
        let weights = numbers.take(2 * 3 * kernel * kernel, 0.5, 0.0);
        let bias = [0.5, -0.25, 0.1];
        let (k, p) = (kernel as i64, pad as i64);
        let model = image().floats("w", &[2, 3, k, k], &weights).floats("b", &[3], &bias).node(
            "ConvTranspose",
            &["x", "w", "b"],
            "y",
            &[ints("strides", &[2, 2]), ints("pads", &[p, p, p, p])],
        );
        let size = 2 * 3 + kernel - 2 * pad;
        check(model, &samples, 33.0, |s| {
            let mut y: Vec<f32> = (0..3 * size * size).map(|i| bias[i / (size * size)]).collect();
            for (source, x) in floats(&s[0]).iter().enumerate() {
                let (c, i, j) = (source / 16, source / 4 % 4, source % 4);
                for (target, w) in weights[c * 3 * kernel * kernel..][..3 * kernel * kernel].iter().enumerate() {
                    let (n, a, b) = (target / (kernel * kernel), target / kernel % kernel, target % kernel);
                    let place = |at: usize, offset: usize| (2 * at + offset).checked_sub(pad).filter(|&p| p < size);
                    if let (Some(row), Some(column)) = (place(i, a), place(j, b)) {
                        y[(n * size + row) * size + column] += x * w;
                    }
                }
            }
            y
        });
    }
}

#[test]
fn dynamic_quantization_is_taken_for_the_float_layer() {
    let mut numbers = Numbers(15);
    let samples: Vec<Sample> = (0..SAMPLES).map(|_| vec![Data::Float(numbers.take(4 * 16, 2.0, 0.1))]).collect();
    let weights: Vec<i32> = numbers.below(16 * 8, 255).into_iter().map(|w| w as i32 - 127).collect();
    let stored = TensorProto { data_type: Elem::Int8 as i32, int32_data: weights.clone(), ..TensorProto::default() };
    let zero = TensorProto { data_type: Elem::Int8 as i32, int32_data: vec![0], ..TensorProto::default() };
    let model = Model::new(13)
        .input("x", Elem::Float, &[4, 16])
        .stored(stored, "w", &[16, 8])
        .stored(zero, "w_zero", &[])
        .floats("w_scale", &[], &[0.01])
        .node_of("", "DynamicQuantizeLinear", &["x"], &["xq", "x_scale", "x_zero"], &[])
        .node("MatMulInteger", &["xq", "w", "x_zero", "w_zero"], "sums", &[])
        .node("Cast", &["sums"], "reals", &[int("to", Elem::Float as i64)])
        .node("Mul", &["x_scale", "w_scale"], "scale", &[])
        .node("Mul", &["reals", "scale"], "y", &[]);
    let (graph, _) = check(model, &samples, 35.0, |s| {
        let at = |i: usize| {
            let row = &floats(&s[0])[i / 8 * 16..][..16];
            row.iter().enumerate().map(|(k, x)| x * weights[k * 8 + i % 8] as f32 * 0.01).sum()
        };
        (0..32).map(at).collect()
    });
    assert_eq!(graph.nodes.iter().map(|n| n.op.clone()).collect::<Vec<_>>(), [Op::Linear]);
    // The integers themselves are nothing that a calibrated model has.
    let model = Model::new(13).input("x", Elem::Float, &[4, 16]).node_of(
        "",
        "DynamicQuantizeLinear",
        &["x"],
        &["y", "scale", "zero"],
        &[],
    );
    let message = model.read().unwrap_err().to_string();
    assert!(message.contains("DynamicQuantizeLinear"), "{message}");
}

/// Model whose weights `[16, 8]` come quantized, channel by channel.
fn quantized_layer(weights: &[i32]) -> Model {
    let stored = TensorProto { data_type: Elem::Int8 as i32, int32_data: weights.to_vec(), ..TensorProto::default() };
    let zeros = TensorProto { data_type: Elem::Int8 as i32, int32_data: vec![0; 8], ..TensorProto::default() };
    let scales: Vec<f32> = (0..8).map(|c| 0.013 + c as f32 * 0.007).collect();
    Model::new(21)
        .input("x", Elem::Float, &[4, 16])
        .stored(stored, "w_steps", &[16, 8])
        .stored(zeros, "w_zeros", &[8])
        .floats("w_scales", &[8], &scales)
        .node("DequantizeLinear", &["w_steps", "w_scales", "w_zeros"], "w", &[int("axis", 1)])
        .node("MatMul", &["x", "w"], "y", &[])
}

#[test]
fn weights_that_come_quantized_keep_their_integers_in_the_smallest_format() {
    let mut numbers = Numbers(41);
    let samples: Vec<Sample> = (0..SAMPLES).map(|_| vec![Data::Float(numbers.take(4 * 16, 2.0, 0.1))]).collect();
    let given: Vec<Vec<Values>> = samples.iter().map(|sample| sample.iter().map(values).collect()).collect();
    // All integers of 4 bits; one beyond them.
    let four: Vec<i32> = (0..128).map(|i| i * 7 % 16 - 8).collect();
    let mut eight = four.clone();
    eight[5] = 9;
    for (steps, asked, kept) in [
        (&four, WeightBits::Eight, Some(WeightFormat::I4)),
        (&four, WeightBits::Four, Some(WeightFormat::I4)),
        (&eight, WeightBits::Eight, Some(WeightFormat::I8)),
        (&eight, WeightBits::Four, None),
    ] {
        let graph = fuse(quantized_layer(steps).read().unwrap());
        let options = ConvertOptions { weights: asked, ..ConvertOptions::default() };
        let converted = convert(&graph, &given, &options, &mut |_| {}).unwrap();
        let (format, values) = dense_weights(&converted, 8, 16);
        assert_eq!(format, kept.unwrap_or(WeightFormat::I4), "{asked:?}");
        let own: Vec<i8> = (0..8).flat_map(|c| (0..16).map(move |k| steps[k * 8 + c] as i8)).collect();
        assert_eq!(values == own, kept.is_some(), "{asked:?}");
    }
}

#[test]
fn a_shared_weight_counts_once() {
    // 24 layers on one weight of 2^23 elements: transposed for each it would be beyond every limit.
    let width = 1 << 11;
    let mut model = Model::new(17).input("x", Elem::Float, &[1, width]).stored(
        TensorProto {
            data_type: Elem::Float as i32,
            raw_data: vec![0; (width * width * 4 * 2) as usize],
            ..TensorProto::default()
        },
        "w",
        &[width, 2 * width],
    );
    let mut x = "x".to_owned();
    for layer in 0..24 {
        let (product, half) = (format!("p{layer}"), format!("h{layer}"));
        model = model.node("MatMul", &[&x, "w"], &product, &[]).node_of(
            "",
            "Split",
            &[&product],
            &[&half, &format!("rest{layer}")],
            &[int("axis", -1)],
        );
        x = half;
    }
    let graph = model.node("Relu", &[&x], "y", &[]).read().unwrap();
    let weights: Vec<usize> = graph.nodes.iter().filter(|n| n.op == Op::Linear).map(|n| n.inputs[1]).collect();
    assert_eq!(weights.len(), 24);
    assert!(weights.iter().all(|&w| w == weights[0]));
}

#[test]
fn extremes_tell_where_they_are() {
    let mut numbers = Numbers(16);
    let (rows, n) = (4, 11);
    let samples: Vec<Sample> = (0..SAMPLES).map(|_| vec![Data::Float(numbers.take(rows * n, 3.0, 0.0))]).collect();
    let input = || Model::new(13).input("x", Elem::Float, &[rows as i64, n as i64]);
    let order = |s: &Sample, row: usize| -> Vec<usize> {
        let x = &floats(&s[0])[row * n..][..n];
        let mut places: Vec<usize> = (0..n).collect();
        places.sort_by(|&a, &b| x[b].total_cmp(&x[a]));
        places
    };
    let most = input().node("ArgMax", &["x"], "y", &[int("axis", -1), int("keepdims", 0)]);
    check(most, &samples, 60.0, |s| (0..rows).map(|row| order(s, row)[0] as f32).collect());
    let min = input().node("ArgMin", &["x"], "y", &[int("axis", 1)]);
    check(min, &samples, 60.0, |s| (0..rows).map(|row| order(s, row)[n - 1] as f32).collect());
    let best = |outputs: [&'static str; 2]| {
        input().ints("three", &[1], &[3]).node_of("", "TopK", &["x", "three"], &outputs, &[])
    };
    check(best(["y", "places"]), &samples, 40.0, |s| {
        let values = |row: usize| order(s, row)[..3].iter().map(|&i| floats(&s[0])[row * n + i]).collect::<Vec<_>>();
        (0..rows).flat_map(values).collect()
    });
}

#[test]
fn positions_counted_at_run_time_index_their_table() {
    // RoBERTa: positions count the tokens that are no padding.
    let (n, width) = (8, 4);
    let mut numbers = Numbers(17);
    let (words, places) = (numbers.take(20 * width, 1.0, 0.0), numbers.take(12 * width, 1.0, 0.0));
    let samples: Vec<Sample> = (0..SAMPLES)
        .map(|sample| {
            let shown = n - sample % 5;
            let ids = numbers.below(n, 18).into_iter().enumerate();
            vec![Data::Int(ids.map(|(i, id)| if i < shown { id + 2 } else { 1 }).collect())]
        })
        .collect();
    let model = Model::new(17)
        .input("ids", Elem::Int64, &[1, n as i64])
        .floats("words", &[20, width as i64], &words)
        .floats("places", &[12, width as i64], &places)
        .ints("padding", &[], &[1])
        .ints("axis", &[], &[1])
        .node("Equal", &["ids", "padding"], "padded", &[])
        .node("Not", &["padded"], "shown", &[])
        .node("Cast", &["shown"], "flags", &[int("to", Elem::Int32 as i64)])
        .node("CumSum", &["flags", "axis"], "counts", &[])
        .node("Mul", &["counts", "flags"], "counted", &[])
        .node("Cast", &["counted"], "wide", &[int("to", Elem::Int64 as i64)])
        .node("Add", &["wide", "padding"], "positions", &[])
        .node("Gather", &["words", "ids"], "a", &[])
        .node("Gather", &["places", "positions"], "b", &[])
        .node("Add", &["a", "b"], "y", &[]);
    check(model, &samples, 35.0, |s| {
        let mut count = 0;
        let mut out = Vec::new();
        for &id in s[0].ints().unwrap() {
            count += usize::from(id != 1);
            let position = if id == 1 { 1 } else { count + 1 };
            out.extend((0..width).map(|c| words[id as usize * width + c] + places[position * width + c]));
        }
        out
    });
}

#[test]
fn means_over_the_tokens_of_a_mask() {
    let (n, width) = (6, 8);
    let mut numbers = Numbers(18);
    let samples: Vec<Sample> = (0..SAMPLES)
        .map(|_| {
            let x = Data::Float(numbers.take(n * width, 1.0, 0.2));
            vec![
                x,
                Data::Int(numbers.below(n, 2).into_iter().enumerate().map(|(i, m)| m.max(i64::from(i == 0))).collect()),
            ]
        })
        .collect();
    let model = Model::new(17)
        .input("x", Elem::Float, &[1, n as i64, width as i64])
        .input("mask", Elem::Int64, &[1, n as i64])
        .ints("last", &[1], &[-1])
        .ints("tokens", &[1], &[1])
        .ints("shape", &[3], &[1, n as i64, width as i64])
        .floats("floor", &[], &[1e-9])
        .node("Unsqueeze", &["mask", "last"], "column", &[])
        .node("Expand", &["column", "shape"], "wide", &[])
        .node("Cast", &["wide"], "m", &[int("to", Elem::Float as i64)])
        .node("Mul", &["x", "m"], "shown", &[])
        .node("ReduceSum", &["shown", "tokens"], "sum", &[int("keepdims", 0)])
        .node("ReduceSum", &["m", "tokens"], "count", &[int("keepdims", 0)])
        .node("Clip", &["count", "floor"], "divisor", &[])
        .node("Div", &["sum", "divisor"], "y", &[]);
    check(model, &samples, 30.0, |s| {
        let mask = s[1].ints().unwrap();
        let count = mask.iter().sum::<i64>() as f32;
        let sum = |c: usize| (0..n).map(|i| floats(&s[0])[i * width + c] * mask[i] as f32).sum::<f32>();
        (0..width).map(|c| sum(c) / count).collect()
    });
}

#[test]
fn several_dimensions_without_a_size_are_given_by_position() {
    let any = |name: &str| Dimension {
        value: (!name.is_empty()).then(|| dimension::Value::DimParam(name.into())),
        ..Dimension::default()
    };
    let mut model = Model::new(17).input("x", Elem::Float, &[1, 1, 1]).node("Relu", &["x"], "y", &[]);
    let Some(TypeProto { value: Some(type_proto::Value::TensorType(tensor)), .. }) = &mut model.graph.input[0].r#type
    else {
        panic!("a tensor")
    };
    // Two dimensions of one name that are not the same, and a batch.
    tensor.shape = Some(TensorShapeProto { dim: vec![any(""), any("unknown"), any("unknown")] });
    let graph = model.graph.clone();
    let read = |dims: &[(&str, usize)]| {
        let opset_import = vec![OperatorSetIdProto { domain: String::new(), version: 17 }];
        let mut graph = graph.clone();
        graph.output = vec![ValueInfoProto { name: "y".into(), ..ValueInfoProto::default() }];
        let model = ModelProto { ir_version: 8, graph: Some(graph), opset_import, ..ModelProto::default() };
        let dims = dims.iter().map(|&(name, size)| (name.to_owned(), size)).collect();
        import_bytes(&model.encode_to_vec(), None, &ImportOptions { dims })
    };
    let graph = read(&[("x.1", 7), ("x.2", 9)]).unwrap();
    assert_eq!(graph.shape(graph.inputs[0]), [1, 7, 9]);
    let graph = read(&[("x.0", 2), ("unknown", 5), ("x.2", 9)]).unwrap();
    assert_eq!(graph.shape(graph.inputs[0]), [2, 5, 9]);
    assert!(read(&[("x.1", 7)]).unwrap_err().to_string().contains("--dim unknown=VALUE"));
    assert!(read(&[("x.7", 7)]).is_err());
}

/// The norm of a row of zeros is 0, by which nothing is divided.
#[test]
fn lp_normalization_keeps_rows_of_zeros() {
    for (p, right) in [(1, [3.0 / 7.0, -4.0 / 7.0]), (2, [0.6, -0.8])] {
        let attributes = [int("axis", -1), int("p", p)];
        let model = Model::new(22).input("x", Elem::Float, &[2, 4]).node("LpNormalization", &["x"], "y", &attributes);
        let imported = model.read().unwrap();
        let x = [Data::Float(vec![3.0, -4.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0])];
        for graph in [fuse(imported.clone()), imported] {
            let y = exec::run(&graph, &x, &mut |_, _| ()).unwrap()[0].to_f32();
            let error = y.iter().zip(right.iter().chain(&[0.0; 6])).map(|(y, right): (&f32, &f32)| (y - right).abs());
            assert!(error.fold(0.0, f32::max) < 1e-6, "order {p}: {y:?}");
        }
    }
}

/// A lookup of 6 ids in a table of `rows` rows, and samples of it.
fn lookup(rows: usize, width: usize) -> (impl Fn() -> Model, Vec<f32>, Vec<Sample>) {
    let mut numbers = Numbers(31);
    // Rows of unlike lengths, and few unlike directions: what rows with a scale and codebooks are for.
    let table: Vec<f32> = (0..rows * width)
        .map(|i| (1 + i / width % 9) as f32 / 9.0 * ((i / width % 50 * 11 + i % width * i % width) as f32).sin())
        .collect();
    let samples = (0..SAMPLES).map(|_| vec![Data::Int(numbers.below(6, rows as i64))]).collect();
    let stored = table.clone();
    let model = move || {
        Model::new(17)
            .input("ids", Elem::Int64, &[6])
            .floats("table", &[rows as i64, width as i64], &stored)
            .node("Gather", &["table", "ids"], "x", &[])
            .node("Softmax", &["x"], "y", &[int("axis", -1)])
    };
    (model, table, samples)
}

fn given(samples: &[Sample]) -> Vec<Vec<Values>> {
    samples.iter().map(|sample| sample.iter().map(values).collect()).collect()
}

fn embeddings(converted: &Converted) -> Vec<Embedding> {
    let of = |op: &ops::Op| if let ops::Op::Embedding(op) = op { Some(*op) } else { None };
    converted.program.ops.iter().filter_map(|op| of(&op.op)).collect()
}

#[test]
fn tables_are_stored_as_asked() {
    let (rows, width) = (900, 32);
    let (model, _, samples) = lookup(rows, width);
    let graph = fuse(model().read().unwrap());
    for (text, format, bytes, min_db) in [
        ("int8", TableFormat::I8, rows * (width + 2), 40.0),
        ("int4", TableFormat::I4, rows * (width / 2 + 2), 22.0),
        ("pq:8", TableFormat::Product, rows * 8 + 256 * width, 22.0),
    ] {
        let options = ConvertOptions { embeddings: text.parse().unwrap(), ..ConvertOptions::default() };
        let converted = convert(&graph, &given(&samples), &options, &mut |_| {}).unwrap();
        let db = converted.sqnr_db.unwrap();
        assert!(db > min_db, "{text}: {db} dB");
        let [op] = embeddings(&converted)[..] else { panic!("one table") };
        assert_eq!((op.format, op.part), (format, IdPart::Whole));
        assert_eq!(op.codes.bytes + op.books.bytes + op.scales.bytes, bytes as u32);
        let again = convert(&graph, &given(&samples), &options, &mut |_| {}).unwrap();
        assert!(converted.file == again.file, "{text}: another file");
    }
    for (text, message) in [
        ("pq:7", "`--embeddings pq:7`: no table becomes smaller by it; M has to divide the width"),
        ("qr", "no table is looked up by the quotient or the remainder of ids"),
    ] {
        let options = ConvertOptions { embeddings: text.parse().unwrap(), ..ConvertOptions::default() };
        let error = convert(&graph, &given(&samples), &options, &mut |_| {}).unwrap_err().to_string();
        assert!(error.contains(message) && error.contains("`table` (900 x 32)"), "{error}");
    }
}

/// arXiv 1909.02107: a table of quotients and one of remainders of ids, joined by products.
#[test]
fn tables_of_quotients_and_remainders() {
    let (width, divisor, rows) = (12, 7, 9);
    let mut numbers = Numbers(32);
    let (high, low) = (numbers.take(rows * width, 1.0, 0.0), numbers.take(divisor * width, 1.0, 0.0));
    let ids = |numbers: &mut Numbers| numbers.below(5, (rows * divisor) as i64);
    let samples: Vec<Sample> = (0..SAMPLES).map(|_| vec![Data::Int(ids(&mut numbers))]).collect();
    let base = || {
        Model::new(17)
            .input("ids", Elem::Int64, &[1, 5])
            .floats("high", &[rows as i64, width as i64], &high)
            .floats("low", &[divisor as i64, width as i64], &low)
            .ints("divisor", &[], &[divisor as i64])
    };
    let joined =
        |model: Model, join: &str| {
            model
                .node("Gather", &["high", "quotients"], "a", &[])
                .node("Gather", &["low", "remainders"], "b", &[])
                .node(join, &["a", "b"], "y", &[])
        };
    let plain =
        base().node("Div", &["ids", "divisor"], "quotients", &[]).node("Mod", &["ids", "divisor"], "remainders", &[]);
    // As PyTorch exports `ids // n` and `ids - n * (ids // n)`.
    let floats = base()
        .floats("real", &[], &[divisor as f32])
        .node("Cast", &["ids"], "numbers", &[int("to", Elem::Float as i64)])
        .node("Div", &["numbers", "real"], "shares", &[])
        .node("Floor", &["shares"], "floors", &[])
        .node("Cast", &["floors"], "quotients", &[int("to", Elem::Int64 as i64)])
        .node("Mul", &["quotients", "divisor"], "multiples", &[])
        .node("Sub", &["ids", "multiples"], "remainders", &[]);
    for (model, join) in [(plain, "Mul"), (floats, "Add")] {
        let model = joined(model, join);
        let (graph, converted) = check(model, &samples, 40.0, |s| {
            let element = |id: i64, c: usize| {
                let (a, b) = (high[id as usize / divisor * width + c], low[id as usize % divisor * width + c]);
                if join == "Mul" { a * b } else { a + b }
            };
            s[0].ints().unwrap().iter().flat_map(|&id| (0..width).map(move |c| element(id, c))).collect()
        });
        let parts: Vec<_> = embeddings(&converted).iter().map(|op| (op.part, op.divisor, op.rows)).collect();
        let (d, rows) = (divisor as u32, rows as u32);
        assert_eq!(parts, [(IdPart::Quotient, d, rows), (IdPart::Remainder, d, d)]);
        assert_eq!(converted.program.ops.len(), 3, "nothing computes the parts");
        let options = ConvertOptions { embeddings: Embeddings::QuotientRemainder, ..ConvertOptions::default() };
        assert!(convert(&graph, &given(&samples), &options, &mut |_| {}).unwrap().file == converted.file);
    }
}

/// arXiv 2410.00907: dense layers whose products are additions, in every format, and one layer alone.
#[test]
fn dense_layers_multiply_by_addition() {
    let mut numbers = Numbers(41);
    let (rows, k, hidden, n) = (3, 24, 40, 10);
    let first = numbers.take(k * hidden, 0.4, 0.0);
    let bias = numbers.take(hidden, 0.3, 0.1);
    let second = numbers.take(hidden * n, 0.3, 0.0);
    let samples: Vec<Sample> = (0..SAMPLES).map(|_| vec![Data::Float(numbers.take(rows * k, 2.0, 0.3))]).collect();
    let model = Model::new(17)
        .input("x", Elem::Float, &[rows as i64, k as i64])
        .floats("w1", &[k as i64, hidden as i64], &first)
        .floats("b1", &[hidden as i64], &bias)
        .floats("w2", &[hidden as i64, n as i64], &second)
        .node("MatMul", &["x", "w1"], "products", &[])
        .node("Add", &["products", "b1"], "sums", &[])
        .node("Relu", &["sums"], "active", &[])
        .node("MatMul", &["active", "w2"], "y", &[]);
    let graph = fuse(model.read().unwrap());
    let names: Vec<String> =
        graph.nodes.iter().filter(|node| node.op == Op::Linear).map(|node| node.name.clone()).collect();
    assert_eq!(names.len(), 2);
    let of = |lmul: Lmul| {
        let options = ConvertOptions { profile: Profile::Lmul, lmul, ..ConvertOptions::default() };
        convert(&graph, &given(&samples), &options, &mut |_| {})
    };
    let layers = |converted: &Converted| -> Vec<String> {
        let lmul = converted.program.ops.iter().filter(|op| matches!(op.op, ops::Op::LmulLinear(_)));
        lmul.map(|op| op.name.clone()).collect()
    };
    for (format, min_db) in [(FloatFormat::E4m3, 18.0), (FloatFormat::E5m2, 12.0), (FloatFormat::Bf16, 22.0)] {
        let converted = of(Lmul { format, ..Lmul::default() }).unwrap();
        let db = converted.sqnr_db.unwrap();
        assert!(db > min_db, "{}: {db} dB", format.name());
        assert_eq!(layers(&converted), names);
    }
    let one = of(Lmul { layers: [names[1].clone()].into(), ..Lmul::default() }).unwrap();
    assert_eq!(layers(&one), names[1..]);
    assert!(one.program.ops.iter().any(|op| matches!(op.op, ops::Op::Linear(_))));
    let error = of(Lmul { layers: ["third".to_owned()].into(), ..Lmul::default() }).unwrap_err().to_string();
    assert!(error.contains("no dense layer is called `third`") && error.contains(&names[0]), "{error}");
}

/// The weights of the only dense layer of a program, `[n, k]`, and its format.
fn dense_weights(converted: &Converted, n: usize, k: usize) -> (WeightFormat, Vec<i8>) {
    let dense = converted.program.ops.iter().find_map(|op| match &op.op {
        ops::Op::Linear(linear) => Some(linear.dense),
        ops::Op::LinearI16(op) => Some(op.linear.dense),
        _ => None,
    });
    let dense = dense.unwrap();
    let bytes = dense.weights.of(converted.program.weights.bytes()).unwrap();
    let mut values = vec![0; n * k];
    for (panel, bytes) in bytes.chunks(dense.format.panel_bytes(k)).enumerate() {
        let mut wide = vec![0; WeightFormat::I8.panel_bytes(k)];
        dense.format.unpack(bytes, &mut wide);
        for (at, &w) in wide.iter().enumerate() {
            let (channel, column) = (panel * 4 + at / 16 % 4, at / 64 * 16 + at % 16);
            if channel < n && column < k {
                values[channel * k + column] = w as i8;
            }
        }
    }
    (dense.format, values)
}

#[test]
fn weights_that_come_quantized_keep_their_grid() {
    let (k, n) = (24usize, 6usize);
    for (bits, format) in [
        (WeightBits::Four, WeightFormat::I4),
        (WeightBits::Three, WeightFormat::I3),
        (WeightBits::Two, WeightFormat::I2),
    ] {
        let (low, high) = format.limits();
        let mut numbers = Numbers(11);
        // Both ends are there, whatever the converter itself would round to.
        let integers: Vec<i64> = (0..n * k)
            .map(|at| match at {
                0 => i64::from(low),
                1 => i64::from(high),
                _ => i64::from(low) + numbers.below(1, i64::from(high - low + 1))[0],
            })
            .collect();
        let scales = numbers.take(n, 0.02, 0.05);
        let samples: Vec<Sample> = (0..SAMPLES).map(|_| vec![Data::Float(numbers.take(4 * k, 1.0, 0.0))]).collect();
        let data = |elem: Elem, integers: &[i64]| match elem {
            Elem::Int2 => {
                let raw =
                    integers.chunks(4).map(|four| four.iter().rev().fold(0, |byte, &w| byte << 2 | (w as u8 & 3)));
                TensorProto { data_type: elem as i32, raw_data: raw.collect(), ..TensorProto::default() }
            }
            _ => {
                let int32_data = integers.iter().map(|&w| w as i32).collect();
                TensorProto { data_type: elem as i32, int32_data, ..TensorProto::default() }
            }
        };
        let elems = if format == WeightFormat::I2 { vec![Elem::Int8, Elem::Int2] } else { vec![Elem::Int8] };
        for elem in elems {
            // A matrix `[k, n]` with a scale per column, as MatMul has it, and one `[n, k]` as Gemm has it.
            for transposed in [false, true] {
                let by_column: Vec<i64> = (0..k * n).map(|at| integers[at % n * k + at / n]).collect();
                let (shape, stored, axis) = if transposed { ([n, k], &integers, 0) } else { ([k, n], &by_column, 1) };
                let model = Model::new(25)
                    .input("x", Elem::Float, &[4, k as i64])
                    .stored(data(elem, stored), "w", &shape.map(|d| d as i64))
                    .floats("scale", &[n as i64], &scales)
                    .node("DequantizeLinear", &["w", "scale"], "real", &[int("axis", axis)]);
                let model = match transposed {
                    true => model.node("Gemm", &["x", "real"], "y", &[int("transB", 1)]),
                    false => model.node("MatMul", &["x", "real"], "y", &[]),
                };
                let graph = fuse(model.read().unwrap());
                let options = ConvertOptions { weights: bits, ..ConvertOptions::default() };
                let converted = convert(&graph, &given(&samples), &options, &mut |_| {}).unwrap();
                let (found, values) = dense_weights(&converted, n, k);
                assert_eq!(found, format);
                assert_eq!(values.into_iter().map(i64::from).collect::<Vec<_>>(), integers, "{format:?} {elem:?}");
                assert!(converted.sqnr_db.unwrap() > 35.0, "{format:?}: {:?}", converted.sqnr_db);
            }
        }
        // One step beyond the format: rounded anew, and the samples show it.
        let mut beyond = integers.clone();
        beyond[5] = i64::from(high) + 1;
        let model = Model::new(25)
            .input("x", Elem::Float, &[4, k as i64])
            .stored(data(Elem::Int8, &beyond), "w", &[n as i64, k as i64])
            .floats("scale", &[n as i64], &scales)
            .node("DequantizeLinear", &["w", "scale"], "real", &[int("axis", 0)])
            .node("Gemm", &["x", "real"], "y", &[int("transB", 1)]);
        let graph = fuse(model.read().unwrap());
        let options = ConvertOptions { weights: bits, ..ConvertOptions::default() };
        let converted = convert(&graph, &given(&samples), &options, &mut |_| {}).unwrap();
        let (found, values) = dense_weights(&converted, n, k);
        let (least, most) = format.range();
        assert!(found == format && values.iter().all(|&w| (least..=most).contains(&i32::from(w))), "{values:?}");
    }
}

#[test]
fn layers_of_look_ups() {
    let (rows, chunks, chunk, n, temperature) = (5usize, 6usize, 4usize, 10usize, 0.7f32);
    let mut numbers = Numbers(21);
    let tables = numbers.take((chunks * n) << chunk, 0.5, 0.1);
    let bias = numbers.take(n, 1.0, 0.0);
    let k = chunks * chunk;
    let samples: Vec<Sample> = (0..SAMPLES).map(|_| vec![Data::Float(numbers.take(rows * k, 1.0, 0.0))]).collect();
    let model = |chunk: i64, temperature: f32| {
        let attributes = [int("chunk", chunk), float("temperature", temperature)];
        Model::new(17)
            .input("x", Elem::Float, &[rows as i64, k as i64])
            .floats("tables", &[chunks as i64, 16, n as i64], &tables)
            .floats("bias", &[n as i64], &bias)
            .node_of("shiftformer", "LookupLinear", &["x", "tables", "bias"], &["y"], &attributes)
    };
    let right = |sample: &Sample| -> Vec<f32> {
        let mut out = Vec::new();
        for row in floats(&sample[0]).chunks(k) {
            for channel in 0..n {
                let mut y = f64::from(bias[channel]);
                for (index, z) in row.chunks(chunk).enumerate() {
                    let mut code = 0;
                    let mut weight = 1.0f64;
                    for (i, &z) in z.iter().enumerate() {
                        code += if z < 0.0 { 0 } else { 1 << i };
                        weight /= 1.0 + (-2.0 * f64::from(z.abs() / temperature)).exp();
                    }
                    y += weight * f64::from(tables[(index * 16 + code) * n + channel]);
                }
                out.push(y as f32);
            }
        }
        out
    };
    // Elements near zero are rounded to it and count as positive.
    let (graph, converted) = check(model(4, temperature), &samples, 22.0, right);
    assert!(has(&graph, |op| matches!(op, Op::Lookup(_))));
    let layers: Vec<_> = converted.program.ops.iter().filter(|op| matches!(op.op, ops::Op::LookupLinear(_))).collect();
    assert_eq!(layers.len(), 1);
    for (chunk, temperature, message) in [
        (3, 1.0, "[5, 24] in chunks of 3 does not fit tables of [6, 16, 10]"),
        (9, 1.0, "chunks have 1 to 8 elements, not 9"),
        (4, 0.0, "the temperature 0 is not above 0"),
    ] {
        let error = model(chunk, temperature).read().unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    }
}
