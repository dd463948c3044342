//! One encoder block under every numeric profile.

use shiftformer::format::Profile;
use shiftformer::ops::{Op, OpKind};
use shiftformer_tools::backend::{Backend, Host};
use shiftformer_tools::convert::{ConvertOptions, Converted, Switch, convert};
use shiftformer_tools::graph::{Attention, Binary, Data, DataType, Graph, HeadView, Op as Node, TensorId, Unary};
use shiftformer_tools::model_file::{ModelFile, Values};
use shiftformer_tools::quantize::range::RangeMethod;

const N: usize = 12;
const D: usize = 16;
const HEADS: usize = 2;

/// Uniform in -1 .. 1, the same on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    fn floats(&mut self, len: usize, scale: f32) -> Vec<f32> {
        (0..len).map(|_| self.next() * scale).collect()
    }
}

struct Builder {
    graph: Graph,
    random: Random,
}

impl Builder {
    fn constant(&mut self, name: &str, shape: &[usize], scale: f32, shift: f32) -> TensorId {
        let values = self.random.floats(shape.iter().product(), scale).into_iter().map(|v| v + shift).collect();
        self.graph.add_constant(name, shape.to_vec(), Data::Float(values))
    }

    fn node(&mut self, name: &str, op: Node, inputs: Vec<TensorId>, width: usize) -> TensorId {
        self.graph.add_node(name, op, inputs, vec![1, N, width], DataType::Float)
    }

    fn linear(&mut self, name: &str, x: TensorId, k: usize, n: usize) -> TensorId {
        let w = self.constant(&format!("{name}.w"), &[n, k], 1.7 / (k as f32).sqrt(), 0.0);
        let b = self.constant(&format!("{name}.b"), &[n], 0.2, 0.0);
        self.node(name, Node::Linear, vec![x, w, b], n)
    }

    fn norm(&mut self, name: &str, x: TensorId, sign: f32) -> TensorId {
        let gamma = self.constant(&format!("{name}.gamma"), &[D], 0.3, sign);
        let beta = self.constant(&format!("{name}.beta"), &[D], 0.3, 0.0);
        self.node(name, Node::LayerNorm { eps: 1e-6 }, vec![x, gamma, beta], D)
    }
}

/// Pre-norm encoder block with positions, attention and a GELU MLP, then a head.
fn block() -> Graph {
    let mut b = Builder { graph: Graph::default(), random: Random(7) };
    let x = b.graph.add_tensor("x", vec![1, N, D], DataType::Float);
    b.graph.inputs = vec![x];
    let embedded = b.linear("embed", x, D, D);
    let positions = b.constant("positions", &[1, N, D], 0.5, 0.0);
    let stream = b.node("position", Node::Binary(Binary::Add), vec![embedded, positions], D);
    // A negative gamma makes negative multipliers.
    let normed = b.norm("norm1", stream, -1.0);
    let qkv = b.linear("qkv", normed, D, 3 * D);
    let head_dim = D / HEADS;
    let view = |part: usize| HeadView { offset: part * D, batch: N * 3 * D, head: head_dim, row: 3 * D };
    let attention = Attention {
        batch: 1,
        heads: HEADS,
        kv_heads: HEADS,
        n_q: N,
        n_k: N,
        head_dim,
        v_dim: head_dim,
        scale: 1.0 / (head_dim as f32).sqrt(),
        q: view(0),
        k: view(1),
        v: view(2),
        out: HeadView { offset: 0, batch: N * D, head: head_dim, row: D },
    };
    let attended = b.node("attention", Node::Attention(attention), vec![qkv, qkv, qkv], D);
    let projected = b.linear("proj", attended, D, D);
    let stream = b.node("residual1", Node::Binary(Binary::Add), vec![stream, projected], D);
    let normed = b.norm("norm2", stream, 1.0);
    let hidden = b.linear("fc1", normed, D, 2 * D);
    let active = b.node("gelu", Node::Unary(Unary::Gelu { tanh: false }), vec![hidden], 2 * D);
    let out = b.linear("fc2", active, 2 * D, D);
    let stream = b.node("residual2", Node::Binary(Binary::Add), vec![stream, out], D);
    let normed = b.norm("norm", stream, 1.0);
    let logits = b.linear("head", normed, D, 4);
    b.graph.outputs = vec![logits];
    b.graph
}

fn samples(scale: f32) -> Vec<Vec<Values>> {
    let mut random = Random(99);
    (0..8).map(|_| vec![Values::Float(random.floats(N * D, scale))]).collect()
}

fn converted(profile: Profile, wide_exp: Switch, samples: &[Vec<Values>]) -> Converted {
    let options =
        ConvertOptions { profile, wide_exp, range: RangeMethod::Minmax, equalize: Switch::Off, ..ConvertOptions::default() };
    convert(&block(), samples, &options, &mut |_| {}).unwrap()
}

fn kinds(converted: &Converted) -> Vec<OpKind> {
    converted.program.ops.iter().map(|op| op.op.kind()).collect()
}

#[test]
fn every_profile_follows_the_float_model() {
    let samples = samples(1.0);
    for (profile, wide_exp, least) in [
        (Profile::Shift, Switch::Off, 32.0),
        (Profile::Shift, Switch::On, 32.0),
        (Profile::Lut, Switch::Off, 32.0),
        (Profile::Ivit, Switch::On, 20.0),
        (Profile::Ivit, Switch::Off, 15.0),
    ] {
        let sqnr = converted(profile, wide_exp, &samples).sqnr_db.unwrap();
        println!("{profile:?} {wide_exp:?}: {sqnr:.1} dB");
        assert!(sqnr >= least, "{profile:?} {wide_exp:?}: {sqnr} dB");
    }
}

#[test]
fn the_published_profile_uses_published_operators_only() {
    let converted = converted(Profile::Ivit, Switch::On, &samples(1.0));
    let allowed = [
        OpKind::Linear,
        OpKind::MatMul,
        OpKind::Copy,
        OpKind::DyadicRequant,
        OpKind::Shiftmax,
        OpKind::ShiftGelu,
        OpKind::ILayerNorm,
    ];
    let kinds = kinds(&converted);
    assert!(kinds.iter().all(|kind| allowed.contains(kind)), "{kinds:?}");
    assert_eq!(kinds.iter().filter(|&&kind| kind == OpKind::Shiftmax).count(), 1);
    assert_eq!(kinds.iter().filter(|&&kind| kind == OpKind::ILayerNorm).count(), 3);
}

#[test]
fn limits_of_the_published_form_are_counted() {
    // Inputs far beyond the calibrated range: rows of GELU arguments more than 9.4 below their maximum.
    let mut graph = Graph::default();
    let x = graph.add_tensor("x", vec![1, 4, 8], DataType::Float);
    graph.inputs = vec![x];
    let mut values = vec![0.0f32; 64];
    (0..8).for_each(|i| values[i * 9] = 1.0);
    let identity = graph.add_constant("w", vec![8, 8], Data::Float(values));
    let y = graph.add_node("fc", Node::Linear, vec![x, identity], vec![1, 4, 8], DataType::Float);
    let y = graph.add_node("gelu", Node::Unary(Unary::Gelu { tanh: false }), vec![y], vec![1, 4, 8], DataType::Float);
    graph.outputs = vec![y];
    let sample: Vec<f32> = (0..32).map(|i| if i % 8 == 0 { 14.0 } else { 2.0 }).collect();
    let options = ConvertOptions { profile: Profile::Ivit, range: RangeMethod::Minmax, ..ConvertOptions::default() };
    let converted = convert(&graph, &[vec![Values::Float(sample)]], &options, &mut |_| {}).unwrap();
    let note = converted.notes.iter().find(|note| note.contains("gelu") && note.contains("28 of 32")).cloned();
    assert!(note.is_some(), "{:?}", converted.notes);
}

#[test]
fn certified_bounds_hold_for_extreme_inputs() {
    for (profile, wide_exp) in [(Profile::Shift, Switch::Off), (Profile::Shift, Switch::On), (Profile::Ivit, Switch::On)] {
        let converted = converted(profile, wide_exp, &samples(1.0));
        let model = ModelFile::from_bytes(&converted.file).unwrap();
        let extremes: [fn(usize) -> u8; 4] = [|_| 0x80, |_| 0x7f, |i| if i % 2 == 0 { 0x80 } else { 0x7f }, |i| (i * 151) as u8];
        let inputs: Vec<Vec<Vec<u8>>> = extremes.iter().map(|f| vec![(0..N * D).map(f).collect()]).collect();
        let opened = model.open::<shiftformer::kernels::Portable>().unwrap();
        let mut host = Host::<shiftformer::kernels::Portable>::new("portable", &model);
        for (index, op) in converted.program.ops.iter().enumerate() {
            let cert = opened.certificate(index).unwrap();
            // Operators whose output is the accumulator itself.
            let raw = converted.program.tensors[op.output].dtype == shiftformer::tensor::Dtype::I32;
            if !raw || matches!(op.op, Op::Copy(_)) {
                continue;
            }
            for input in &inputs {
                let bytes = host.op_output(input, index).unwrap();
                let values = shiftformer_tools::model_file::integers(&bytes, shiftformer::tensor::Dtype::I32);
                assert!(values.iter().all(|v| (cert.acc_min..=cert.acc_max).contains(v)), "{}", op.name);
            }
        }
    }
}

#[test]
fn a_model_built_to_overflow_is_refused_by_name() {
    // A sum over 2^18 products of 127 * 127 does not fit 32 bits.
    let k = 1 << 18;
    let mut graph = Graph::default();
    let x = graph.add_tensor("x", vec![1, k], DataType::Float);
    graph.inputs = vec![x];
    let w = graph.add_constant("w", vec![1, k], Data::Float(vec![1.0; k]));
    let y = graph.add_node("endless_sum", Node::Linear, vec![x, w], vec![1, 1], DataType::Float);
    graph.outputs = vec![y];
    let samples = vec![vec![Values::Float(vec![1.0; k])]];
    for profile in [Profile::Shift, Profile::Ivit] {
        let options = ConvertOptions { profile, range: RangeMethod::Minmax, ..ConvertOptions::default() };
        let error = convert(&graph, &samples, &options, &mut |_| {}).unwrap_err().to_string();
        assert!(error.contains("endless_sum"), "{error}");
        assert!(error.contains("overflow"), "{error}");
    }
}
