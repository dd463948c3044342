//! Activations of 16 bits, and scales that move between layers: where 8 bits of one tensor cost too much.

use shiftformer::kernels::{Native, Portable};
use shiftformer::ops::OpKind;
use shiftformer_convert::backend::{Backend, Host};
use shiftformer_convert::convert::{ActivationBits, ConvertOptions, Converted, Switch, convert};
use shiftformer_convert::fuse::fuse;
use shiftformer_convert::graph::exec;
use shiftformer_convert::graph::{Binary, Data, DataType, Graph, Op, TensorId, Unary, Window};
use shiftformer_convert::model_file::{ModelFile, Values};

/// Numbers between -1 and 1 that are the same in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((self.0 >> 40) as f32 / (1u64 << 23) as f32) - 1.0
    }

    fn values(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.next()).collect()
    }
}

/// What an activation function adds to a graph, and its value.
type Function<'f> = &'f dyn Fn(&mut Layers, TensorId) -> TensorId;

/// How many times the others the odd channels are.
const IMBALANCE: f32 = 100.0;

/// A graph of two layers with `between` between them, whose hidden channels differ by [`IMBALANCE`]: what the first one
/// multiplies, the second one divides.
struct Layers {
    graph: Graph,
    random: Random,
}

impl Layers {
    fn new(shape: &[usize]) -> (Self, TensorId) {
        let mut graph = Graph::default();
        let x = graph.add_tensor("x", shape.to_vec(), DataType::Float);
        graph.inputs.push(x);
        (Self { graph, random: Random(11) }, x)
    }

    fn node(&mut self, op: Op, inputs: &[TensorId], shape: &[usize]) -> TensorId {
        let name = format!("n{}", self.graph.nodes.len());
        self.graph.add_node(&name, op, inputs.to_vec(), shape.to_vec(), DataType::Float)
    }

    fn constant(&mut self, shape: &[usize], values: Vec<f32>) -> TensorId {
        let name = format!("c{}", self.graph.tensors.len());
        self.graph.add_constant(name, shape.to_vec(), Data::Float(values))
    }

    fn weights(&mut self, shape: &[usize], factor: impl Fn(usize) -> f32) -> TensorId {
        let count: usize = shape.iter().product();
        let fan_in = shape[1..].iter().product::<usize>() as f32;
        let values = self.random.values(count);
        let values = values.iter().enumerate().map(|(i, v)| v * factor(i) / fan_in.sqrt()).collect();
        self.constant(shape, values)
    }

    fn converted(mut self, output: TensorId, options: &ConvertOptions) -> (Converted, f64) {
        self.graph.outputs = vec![output];
        let len = self.graph.tensors[self.graph.inputs[0]].len();
        let samples: Vec<Vec<Values>> = (0..40).map(|_| vec![Values::Float(self.random.values(len))]).collect();
        let graph = fuse(self.graph);
        let converted = convert(&graph, &samples, options, &mut |_| {}).expect("converts");
        let kept = decibels(&graph, &converted, &samples);
        (converted, kept)
    }
}

/// What the integer program keeps of the float graph; both kernels give the same bytes.
fn decibels(graph: &Graph, converted: &Converted, samples: &[Vec<Values>]) -> f64 {
    let model = ModelFile::from_bytes(&converted.file).expect("opens");
    let encode = |sample: &Vec<Values>| sample.iter().enumerate().map(|(i, v)| model.encode(i, v).unwrap()).collect();
    let inputs: Vec<Vec<Vec<u8>>> = samples.iter().map(encode).collect();
    let traces = Host::<Native>::new("native", &model).run(&inputs).expect("runs");
    let defined = Host::<Portable>::new("portable", &model).run(&inputs).expect("runs");
    let (mut signal, mut noise) = (0.0f64, 0.0f64);
    for ((sample, trace), defined) in samples.iter().zip(&traces).zip(&defined) {
        assert_eq!(trace.outputs, defined.outputs, "kernels differ");
        let data = vec![Data::Float(sample[0].to_real(None))];
        let exact = exec::run(graph, &data, &mut |_, _| {}).expect("runs");
        for (want, got) in exact[0].to_f32().iter().zip(model.decode(0, &trace.outputs[0])) {
            signal += f64::from(*want).powi(2);
            noise += f64::from(want - got).powi(2);
        }
    }
    10.0 * (signal / noise.max(1e-30)).log10()
}

fn kinds(converted: &Converted) -> Vec<OpKind> {
    converted.program.ops.iter().map(|op| op.op.kind()).collect()
}

/// 8 bits, and scales that stay where they are.
fn plain() -> ConvertOptions {
    ConvertOptions { activations: ActivationBits::Eight, equalize: Switch::Off, ..ConvertOptions::default() }
}

/// Every third channel is out of scale.
fn odd(channel: usize) -> f32 {
    if channel.is_multiple_of(3) { IMBALANCE } else { 1.0 }
}

/// Linear, a function with `f(s x) = s f(x)`, linear.
fn dense(function: Function<'_>, odd: fn(usize) -> f32) -> (Layers, TensorId) {
    let (mut layers, x) = Layers::new(&[4, 24]);
    let first = layers.weights(&[30, 24], |i| odd(i / 24));
    let hidden = layers.node(Op::Linear, &[x, first], &[4, 30]);
    let hidden = function(&mut layers, hidden);
    let second = layers.weights(&[10, 30], |i| 1.0 / odd(i % 30));
    let y = layers.node(Op::Linear, &[hidden, second], &[4, 10]);
    (layers, y)
}

/// Convolution, ReLU, max pooling, convolution in groups.
fn images() -> (Layers, TensorId) {
    let (mut layers, x) = Layers::new(&[1, 3, 10, 10]);
    let window = |kernel: usize, stride: usize, pad: usize, groups: usize| Window {
        kernel: [kernel; 2],
        strides: [stride; 2],
        pads: [pad; 4],
        dilations: [1; 2],
        groups,
    };
    let first = layers.weights(&[12, 3, 3, 3], |i| odd(i / 27));
    let hidden = layers.node(Op::Conv2d(window(3, 1, 1, 1)), &[x, first], &[1, 12, 10, 10]);
    let hidden = layers.node(Op::Unary(Unary::Relu), &[hidden], &[1, 12, 10, 10]);
    let hidden = layers.node(Op::MaxPool(window(2, 2, 0, 1)), &[hidden], &[1, 12, 5, 5]);
    // Channel `j` of group `g` is channel `4 g + j`.
    let second = layers.weights(&[6, 4, 3, 3], |i| 1.0 / odd(i / 72 * 4 + i / 9 % 4));
    let y = layers.node(Op::Conv2d(window(3, 1, 1, 3)), &[hidden, second], &[1, 6, 5, 5]);
    (layers, y)
}

fn relu(layers: &mut Layers, x: TensorId) -> TensorId {
    layers.node(Op::Unary(Unary::Relu), &[x], &[4, 30])
}

/// No channel is.
fn even(_: usize) -> f32 {
    1.0
}

fn gelu(layers: &mut Layers, x: TensorId) -> TensorId {
    layers.node(Op::Unary(Unary::Gelu { tanh: false }), &[x], &[4, 30])
}

#[test]
fn scales_move_between_layers_through_functions_that_scale() {
    let leaky =
        |layers: &mut Layers, x: TensorId| layers.node(Op::Unary(Unary::LeakyRelu { slope: 0.1 }), &[x], &[4, 30]);
    let prelu = |layers: &mut Layers, x: TensorId| {
        let (zero, slopes) = (layers.constant(&[], vec![0.0]), layers.random.values(30));
        let slopes = layers.constant(&[30], slopes);
        let positive = layers.node(Op::Unary(Unary::Relu), &[x], &[4, 30]);
        let negative = layers.node(Op::Binary(Binary::Min), &[x, zero], &[4, 30]);
        let scaled = layers.node(Op::Binary(Binary::Mul), &[negative, slopes], &[4, 30]);
        layers.node(Op::Binary(Binary::Add), &[positive, scaled], &[4, 30])
    };
    let moving = ConvertOptions { activations: ActivationBits::Eight, ..ConvertOptions::default() };
    let functions: [(&str, Function<'_>); 3] = [("relu", &relu), ("leaky relu", &leaky), ("prelu", &prelu)];
    for (name, function) in functions {
        let (layers, y) = dense(function, odd);
        let (_, without) = layers.converted(y, &plain());
        let (layers, y) = dense(function, odd);
        let (converted, with) = layers.converted(y, &moving);
        assert!(with > without + 8.0, "{name}: {without:.1} dB, then {with:.1} dB {:?}", converted.trials);
    }
    let (layers, y) = images();
    let (_, without) = layers.converted(y, &plain());
    let (layers, y) = images();
    let (converted, with) = layers.converted(y, &moving);
    assert!(with > without + 8.0, "images: {without:.1} dB, then {with:.1} dB {:?}", converted.trials);
}

#[test]
fn models_that_are_fine_keep_their_bytes() {
    let fine = |options: &ConvertOptions| {
        let (mut layers, x) = Layers::new(&[4, 24]);
        let weights = layers.weights(&[30, 24], even);
        let y = layers.node(Op::Linear, &[x, weights], &[4, 30]);
        layers.converted(y, options).0
    };
    let auto = fine(&ConvertOptions::default());
    let eight = fine(&ConvertOptions { activations: ActivationBits::Eight, ..ConvertOptions::default() });
    assert!(auto.file == eight.file && auto.wide.is_none());
}

#[test]
fn sixteen_bits_everywhere_keep_more_and_are_reported() {
    let sixteen = ConvertOptions { activations: ActivationBits::Sixteen, ..plain() };
    let (layers, y) = dense(&gelu, even);
    let (_, eight) = layers.converted(y, &plain());
    let (layers, y) = dense(&gelu, even);
    let (converted, kept) = layers.converted(y, &sixteen);
    let found = kinds(&converted);
    assert!(kept > eight + 2.0, "{eight:.1} dB, then {kept:.1} dB");
    assert!(found.contains(&OpKind::LutI16) && !found.contains(&OpKind::Linear), "{found:?}");
    let report = converted.wide.as_ref().expect("is reported");
    assert!(!report.tensors.is_empty() && report.operators.len() >= 3, "{report:?}");
    assert!(converted.notes.iter().any(|note| note.contains("16-bit activations")), "{:?}", converted.notes);

    let (layers, y) = images();
    let (converted, _) = layers.converted(y, &sixteen);
    let found = kinds(&converted);
    assert!(found.contains(&OpKind::Conv2dI16) && !found.contains(&OpKind::Conv2d), "{found:?}");
    assert!(found.contains(&OpKind::MaxPoolI16), "{found:?}");
}

/// A layer whose first channel cancels what comes twice, by weights far beyond those of the others.
fn cancelling() -> (Layers, TensorId) {
    const HIDDEN: usize = 480;
    let (mut layers, x) = Layers::new(&[4, 24]);
    let half = layers.random.values(HIDDEN / 2 * 24);
    let twice = layers.constant(&[HIDDEN, 24], [half.clone(), half].concat());
    let hidden = layers.node(Op::Linear, &[x, twice], &[4, HIDDEN]);
    let signs = layers.random.values(8 * HIDDEN);
    let weight = |i: usize| match (i / HIDDEN, i % HIDDEN) {
        (0, 0) => 60.0,
        (0, column) if column == HIDDEN / 2 => -60.0,
        (0, _) => 0.0,
        _ => 0.01f32.copysign(signs[i]),
    };
    let second = layers.constant(&[8, HIDDEN], (0..8 * HIDDEN).map(weight).collect());
    let y = layers.node(Op::Linear, &[hidden, second], &[4, 8]);
    (layers, y)
}

#[test]
fn sums_of_sixteen_bits_fit_whatever_the_scales() {
    let sixteen = ConvertOptions { activations: ActivationBits::Sixteen, bias_correction: false, ..plain() };
    let (layers, y) = cancelling();
    let (converted, kept) = layers.converted(y, &sixteen);
    assert!(kinds(&converted).contains(&OpKind::LinearI16));
    assert!(kept > 30.0, "{kept:.1} dB");
}

/// Two 1 x 1 convolutions, their product, the product times a mean per channel, a sum, a convolution.
fn gated_images() -> (Layers, TensorId) {
    let (mut layers, x) = Layers::new(&[1, 6, 10, 12]);
    let window = |kernel: [usize; 2]| Window { kernel, strides: [1; 2], pads: [0; 4], dilations: [1; 2], groups: 1 };
    let shape = [1, 16, 10, 12];
    let conv = |layers: &mut Layers, x: TensorId, [n, c]: [usize; 2]| {
        let weights = layers.weights(&[n, c, 1, 1], |_| 1.0);
        layers.node(Op::Conv2d(window([1; 2])), &[x, weights], &[1, n, 10, 12])
    };
    let (a, b) = (conv(&mut layers, x, [16, 6]), conv(&mut layers, x, [16, 6]));
    let product = layers.node(Op::Binary(Binary::Mul), &[a, b], &shape);
    let mean = Op::AveragePool { window: window([10, 12]), count_include_pad: false };
    let mean = layers.node(mean, &[a], &[1, 16, 1, 1]);
    let gated = layers.node(Op::Binary(Binary::Mul), &[product, mean], &shape);
    let sum = layers.node(Op::Binary(Binary::Add), &[gated, a], &shape);
    let y = conv(&mut layers, sum, [5, 16]);
    (layers, y)
}

#[test]
fn products_and_sums_of_images_keep_their_channels_last() {
    for activations in [ActivationBits::Eight, ActivationBits::Sixteen] {
        let (layers, y) = gated_images();
        let (converted, kept) = layers.converted(y, &ConvertOptions { activations, ..plain() });
        let program = &converted.program;
        let elementwise = program.ops.iter().filter(|op| matches!(op.op.kind(), OpKind::Mul | OpKind::Add));
        let shapes: Vec<&[usize]> = elementwise.map(|op| &program.tensors[op.output].shape[..]).collect();
        assert_eq!(shapes, [&[1, 10, 12, 16]; 3], "{activations:?}");
        assert!(kept > 25.0, "{activations:?}: {kept:.1} dB");
    }
}
