//! One encoder block under every numeric profile.

use shiftformer::format::Profile;
use shiftformer::kernels::Portable;
use shiftformer::ops::{Op, OpKind};
use shiftformer::tensor::Dtype;
use shiftformer_convert::convert::{ConvertOptions, Converted, Switch, convert};
use shiftformer_convert::graph::exec::eval_scalar;
use shiftformer_convert::graph::{Attention, Binary, Data, DataType, Graph, HeadView, Op as Node, TensorId, Unary};
use shiftformer_convert::model_file::{ModelFile, Values, integers};
use shiftformer_convert::quantize::range::RangeMethod;
use shiftformer_lab::backend::{Backend, Host};

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
        causal: None,
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
    let options = ConvertOptions {
        profile,
        wide_exp,
        range: RangeMethod::Minmax,
        equalize: Switch::Off,
        ..ConvertOptions::default()
    };
    convert(&block(), samples, &options, &mut |_| {}).unwrap()
}

fn kinds(converted: &Converted) -> Vec<OpKind> {
    converted.program.ops.iter().map(|op| op.op.kind()).collect()
}

#[test]
fn every_profile_follows_the_float_model() {
    let samples = samples(1.0);
    for (profile, wide_exp, min) in [
        (Profile::Shift, Switch::Off, 32.0),
        (Profile::Shift, Switch::On, 32.0),
        (Profile::Lut, Switch::Off, 32.0),
        (Profile::Ivit, Switch::On, 20.0),
        (Profile::Ivit, Switch::Off, 15.0),
    ] {
        let converted = converted(profile, wide_exp, &samples);
        let bits = if wide_exp == Switch::On { "uses 16-bit exponentials" } else { "uses 8-bit exponentials" };
        assert_eq!(converted.notes.iter().any(|note| note.contains(bits)), profile != Profile::Ivit);
        let sqnr = converted.sqnr_db.unwrap();
        println!("{profile:?} {wide_exp:?}: {sqnr:.1} dB");
        assert!(sqnr >= min, "{profile:?} {wide_exp:?}: {sqnr} dB");
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

/// The published formulas on floats that hold integers, as the paper's code computes them.
mod published {
    const CLAMP: f64 = 2147483647.0;

    fn exp_shift(x: f64, scale: f64, n: i32) -> f64 {
        let x = x + (x / 2.0).floor() - (x / 16.0).floor();
        let x0 = (-1.0 / scale).floor();
        let x = x.max(f64::from(n) * x0);
        let q = (x / x0).floor();
        let r = x - x0 * q;
        ((r / 2.0 - x0) * 2f64.powf(f64::from(n) - q)).floor().max(0.0)
    }

    pub fn shiftmax(row: &[f64], scale: f64, bits: i32) -> Vec<f64> {
        let max = row.iter().copied().fold(f64::MIN, f64::max);
        let e: Vec<f64> = row.iter().map(|x| exp_shift(x - max, scale, 15)).collect();
        let factor = (CLAMP / e.iter().sum::<f64>().min(CLAMP)).floor();
        e.iter().map(|e| (e * factor / 2f64.powi(32 - bits)).floor()).collect()
    }

    pub fn shiftgelu(row: &[f64], scale: f64) -> Vec<f64> {
        let (max, scale) = (row.iter().copied().fold(f64::MIN, f64::max), scale * 1.702);
        let at_zero = exp_shift(-max, scale, 23);
        let gelu = |&x: &f64| {
            let e = exp_shift(x - max, scale, 23);
            let factor = (CLAMP / (e + at_zero).min(CLAMP)).floor();
            x * (e * factor / 2f64.powi(24)).floor()
        };
        row.iter().map(gelu).collect()
    }

    pub fn i_layer_norm(row: &[f64], gamma: &[f64], beta: &[f64]) -> Vec<f64> {
        let n = row.len() as f64;
        let mean = (row.iter().sum::<f64>() / n).round_ties_even();
        let var: f64 = row.iter().map(|x| (x - mean).powi(2)).sum();
        let std = (0..10).fold(65536.0, |k: f64, _| ((k + (var / k).floor()) / 2.0).floor());
        let factor = (CLAMP / std).floor();
        let unit = n.sqrt() / 2f64.powi(30);
        let normalize =
            |(x, (g, b)): (&f64, (&f64, &f64))| ((x - mean) * factor / 2.0).floor() + (b / g / unit).floor();
        row.iter().zip(gamma.iter().zip(beta)).map(normalize).collect()
    }

    /// `x` times the ratio of scales, by the 31-bit mantissa of the published code, over the exact product.
    pub fn dyadic(x: f64, ratio: f64) -> i128 {
        let exponent = ratio.abs().log2().floor() as i32 + 1;
        let m = (ratio * 2f64.powi(31 - exponent)).abs().round() as i128 * if ratio < 0.0 { -1 } else { 1 };
        let (product, shift) = (x as i128 * m, 31 - exponent);
        let floor = product >> shift;
        let rest = 2 * (product - (floor << shift));
        floor + i128::from(rest > 1 << shift || rest == 1 << shift && floor & 1 == 1)
    }
}

/// Values of every operand and result of operator `index` for `sample`.
fn values_of(converted: &Converted, host: &mut Host<Portable>, sample: &Vec<Vec<u8>>, index: usize) -> Vec<Vec<f64>> {
    let program = &converted.program;
    let op = &program.ops[index];
    let operands = op.inputs.iter().flatten().copied().chain([op.output]);
    let read = |tensor: usize| {
        let bytes = match program.tensors[tensor].constant {
            Some(blob) => blob.of(program.weights.bytes()).unwrap().to_vec(),
            None => {
                let producer = (0..=index).rev().find(|&i| program.ops[i].output == tensor).unwrap();
                host.op_output(sample, producer).unwrap()
            }
        };
        integers(&bytes, program.tensors[tensor].dtype).into_iter().map(f64::from).collect()
    };
    operands.map(read).collect()
}

#[test]
fn every_operator_of_a_converted_model_equals_the_published_formulas() {
    let samples = samples(1.0);
    for wide_exp in [Switch::On, Switch::Off] {
        let converted = converted(Profile::Ivit, wide_exp, &samples);
        let model = ModelFile::from_bytes(&converted.file).unwrap();
        let mut host = Host::<Portable>::new("portable", &model);
        let sample = vec![model.encode(0, &samples[3][0]).unwrap()];
        let scale_of = |tensor: usize| converted.program.tensors[tensor].scale;
        let floats = |name: &str| -> Vec<f64> {
            let tensor = converted.graph.tensors.iter().find(|t| t.name == name).unwrap();
            tensor.value.as_ref().unwrap().to_f32().iter().map(|&v| f64::from(v)).collect()
        };
        for (index, op) in converted.program.ops.iter().enumerate() {
            if !matches!(op.op, Op::Shiftmax(_) | Op::ShiftGelu(_) | Op::ILayerNorm(_) | Op::DyadicRequant(_)) {
                continue;
            }
            let values = values_of(&converted, &mut host, &sample, index);
            let (x, y) = (&values[0], values.last().unwrap());
            let input = op.inputs[0].unwrap();
            match op.op {
                Op::Shiftmax(params) => {
                    let bits = if wide_exp == Switch::On { 16 } else { 8 };
                    // The factor of attention is part of the scale.
                    let scale = scale_of(input) * f64::from(1.0 / ((D / HEADS) as f32).sqrt());
                    let rows = x.chunks(params.n as usize).flat_map(|row| published::shiftmax(row, scale, bits));
                    assert_eq!(rows.collect::<Vec<_>>(), *y, "{}", op.name);
                }
                Op::ShiftGelu(params) => {
                    let rows = x.chunks(params.n as usize).flat_map(|row| published::shiftgelu(row, scale_of(input)));
                    assert_eq!(rows.collect::<Vec<_>>(), *y, "{}", op.name);
                }
                Op::ILayerNorm(params) => {
                    let (gamma, beta) = (floats(&format!("{}.gamma", op.name)), floats(&format!("{}.beta", op.name)));
                    let unit = f64::from(params.n).sqrt() / 2f64.powi(30);
                    let (low, high) = converted.program.tensors[op.output].dtype.range();
                    let expected = x.chunks(params.n as usize).flat_map(|row| {
                        let row = published::i_layer_norm(row, &gamma, &beta);
                        let scaled: Vec<f64> = row
                            .iter()
                            .zip(&gamma)
                            .map(|(&y, g)| published::dyadic(y, g * unit / scale_of(op.output)))
                            .map(|y| y.clamp(i128::from(low), i128::from(high)) as f64)
                            .collect();
                        scaled
                    });
                    assert_eq!(expected.collect::<Vec<_>>(), *y, "{}", op.name);
                }
                Op::DyadicRequant(params) if values.len() == 3 && params.ratios.bytes == 8 => {
                    // The sum with the positions: both scales are known.
                    let ratios = [input, op.inputs[1].unwrap()].map(|tensor| scale_of(tensor) / scale_of(op.output));
                    let (low, high) = converted.program.tensors[op.output].dtype.range();
                    let sum =
                        |(&a, &b): (&f64, &f64)| published::dyadic(a, ratios[0]) + published::dyadic(b, ratios[1]);
                    let expected =
                        x.iter().zip(&values[1]).map(sum).map(|y| y.clamp(i128::from(low), i128::from(high)) as f64);
                    assert_eq!(expected.collect::<Vec<_>>(), *y, "{}", op.name);
                }
                _ => {}
            }
        }
    }
}

/// The one table of `x -> activation -> linear`, with the scales and zero points on both sides.
fn activation_table(kind: Unary, profile: Profile, reach: f32) -> (Vec<i8>, [f64; 4]) {
    let mut b = Builder { graph: Graph::default(), random: Random(5) };
    let x = b.graph.add_tensor("x", vec![1, N, D], DataType::Float);
    b.graph.inputs = vec![x];
    let y = b.node("activation", Node::Unary(kind), vec![x], D);
    let out = b.linear("fc", y, D, 4);
    b.graph.outputs = vec![out];
    let options = ConvertOptions { profile, range: RangeMethod::Minmax, ..ConvertOptions::default() };
    let converted = convert(&b.graph, &samples(reach), &options, &mut |_| {}).unwrap();
    let program = &converted.program;
    let lut = program.ops.iter().find_map(|op| match op.op {
        Op::Lut(params) => Some((op, params)),
        _ => None,
    });
    let (op, params) = lut.unwrap();
    let [input, output] = [op.inputs[0].unwrap(), op.output].map(|tensor| &program.tensors[tensor]);
    let table = params.table.of(program.weights.bytes()).unwrap().iter().map(|&b| b as i8).collect();
    (table, [input.scale, input.zero, output.scale, output.zero])
}

#[test]
fn activations_are_exact_as_tables_and_within_one_step_by_shifts() {
    let kinds = [Unary::Gelu { tanh: false }, Unary::Gelu { tanh: true }, Unary::Silu, Unary::Sigmoid, Unary::Tanh];
    // Scales from 2^-8 to 2^-1: the samples reach 127.5 steps.
    for exponent in (-16..=-2).map(|i| f64::from(i) / 2.0) {
        let reach = (127.5 * exponent.exp2()) as f32;
        for kind in kinds {
            for (profile, allowed) in [(Profile::Lut, 0.0), (Profile::Shift, 1.0)] {
                let (table, [scale, zero, out_scale, out_zero]) = activation_table(kind, profile, reach);
                assert!((scale / exponent.exp2() - 1.0).abs() < 0.1, "{scale} {exponent}");
                for (q, &y) in (-128..128).zip(&table) {
                    let exact = eval_scalar(&Node::Unary(kind), &[(f64::from(q) - zero) * scale]);
                    let exact = (exact / out_scale + out_zero).round().clamp(-128.0, 127.0);
                    let error = (f64::from(y) - exact).abs();
                    assert!(error <= allowed, "{kind:?} {profile:?} scale {scale} q {q}: {y}, exactly {exact}");
                }
            }
        }
    }
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
    for (profile, wide_exp) in
        [(Profile::Shift, Switch::Off), (Profile::Shift, Switch::On), (Profile::Ivit, Switch::On)]
    {
        let converted = converted(profile, wide_exp, &samples(1.0));
        let model = ModelFile::from_bytes(&converted.file).unwrap();
        let extremes: [fn(usize) -> u8; 4] =
            [|_| 0x80, |_| 0x7f, |i| if i % 2 == 0 { 0x80 } else { 0x7f }, |i| (i * 151) as u8];
        let inputs: Vec<Vec<Vec<u8>>> = extremes.iter().map(|f| vec![(0..N * D).map(f).collect()]).collect();
        let opened = model.open::<Portable>().unwrap();
        let mut host = Host::<Portable>::new("portable", &model);
        for (index, op) in converted.program.ops.iter().enumerate() {
            let cert = opened.certificate(index).unwrap();
            // Operators whose output is the accumulator itself.
            let raw = converted.program.tensors[op.output].dtype == Dtype::I32;
            if !raw || matches!(op.op, Op::Copy(_)) {
                continue;
            }
            for input in &inputs {
                let bytes = host.op_output(input, index).unwrap();
                let values = integers(&bytes, Dtype::I32);
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
