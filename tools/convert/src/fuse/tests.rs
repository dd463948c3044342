//! Hand-built graphs in the arrangements that exporters write, checked against themselves unfused.

use super::fuse;
use crate::graph::exec::run;
use crate::graph::{Attention, Binary, Data, DataType, FakeQuant, Graph, Node, Op, Reduce, TensorId, Unary, Window};

/// Builds a graph node by node; weights and inputs come from one sequence of pseudo-random numbers.
struct Builder {
    graph: Graph,
    state: u32,
}

impl Builder {
    fn new() -> Self {
        Self { graph: Graph::default(), state: 1 }
    }

    /// `-1.0 .. 1.0`.
    fn random(&mut self) -> f32 {
        self.state = self.state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (self.state >> 8) as f32 / (1 << 23) as f32 - 1.0
    }

    fn randoms(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.random()).collect()
    }

    fn input(&mut self, shape: &[usize]) -> TensorId {
        self.typed_input(shape, DataType::Float)
    }

    fn typed_input(&mut self, shape: &[usize], dtype: DataType) -> TensorId {
        let name = format!("input{}", self.graph.inputs.len());
        let id = self.graph.add_tensor(name, shape.to_vec(), dtype);
        self.graph.inputs.push(id);
        id
    }

    fn weight(&mut self, shape: &[usize]) -> TensorId {
        let values = self.randoms(shape.iter().product());
        self.constant(shape, values)
    }

    fn constant(&mut self, shape: &[usize], values: Vec<f32>) -> TensorId {
        self.graph.add_constant("constant", shape.to_vec(), Data::Float(values))
    }

    fn scalar(&mut self, value: f32) -> TensorId {
        self.constant(&[], vec![value])
    }

    fn shape(&self, id: TensorId) -> Vec<usize> {
        self.graph.shape(id).to_vec()
    }

    fn node(&mut self, op: Op, inputs: &[TensorId], shape: &[usize]) -> TensorId {
        let name = format!("{op}{}", self.graph.nodes.len());
        let dtype = match op {
            Op::Unary(Unary::IsNaN | Unary::Not) => DataType::Bool,
            _ => DataType::Float,
        };
        self.graph.add_node(&name, op, inputs.to_vec(), shape.to_vec(), dtype)
    }

    fn unary(&mut self, kind: Unary, x: TensorId) -> TensorId {
        let shape = self.shape(x);
        self.node(Op::Unary(kind), &[x], &shape)
    }

    fn binary(&mut self, kind: Binary, a: TensorId, b: TensorId) -> TensorId {
        let shape = super::axes::broadcast(&self.shape(a), &self.shape(b)).unwrap();
        self.node(Op::Binary(kind), &[a, b], &shape)
    }

    /// The operands in the given order or the other one.
    fn either(&mut self, kind: Binary, a: TensorId, b: TensorId, swap: bool) -> TensorId {
        if swap { self.binary(kind, b, a) } else { self.binary(kind, a, b) }
    }

    fn with_scalar(&mut self, kind: Binary, x: TensorId, value: f32) -> TensorId {
        let value = self.scalar(value);
        self.binary(kind, x, value)
    }

    fn reshape(&mut self, x: TensorId, shape: &[usize]) -> TensorId {
        self.node(Op::Reshape, &[x], shape)
    }

    fn transpose(&mut self, x: TensorId, perm: &[usize]) -> TensorId {
        let shape = super::axes::permuted(&self.shape(x), perm);
        self.node(Op::Transpose { perm: perm.to_vec() }, &[x], &shape)
    }

    fn slice(&mut self, x: TensorId, axis: usize, start: usize, len: usize) -> TensorId {
        let mut shape = self.shape(x);
        let (mut starts, steps) = (vec![0; shape.len()], vec![1; shape.len()]);
        starts[axis] = start;
        shape[axis] = len;
        self.node(Op::Slice { starts, steps }, &[x], &shape)
    }

    fn reduce(&mut self, kind: Reduce, x: TensorId, axes: &[usize]) -> TensorId {
        let mut shape = self.shape(x);
        axes.iter().for_each(|&axis| shape[axis] = 1);
        self.node(Op::Reduce { kind, axes: axes.to_vec(), keep: true }, &[x], &shape)
    }

    fn matmul(&mut self, a: TensorId, b: TensorId) -> TensorId {
        let (a_shape, b_shape) = (self.shape(a), self.shape(b));
        let lead = super::axes::broadcast(&a_shape[..a_shape.len() - 2], &b_shape[..b_shape.len() - 2]).unwrap();
        let shape: Vec<usize> =
            lead.into_iter().chain([a_shape[a_shape.len() - 2], b_shape[b_shape.len() - 1]]).collect();
        self.node(Op::MatMul { transpose_b: false }, &[a, b], &shape)
    }

    fn linear(&mut self, x: TensorId, n: usize) -> TensorId {
        let k = *self.shape(x).last().unwrap();
        let (w, b) = (self.weight(&[k, n]), self.weight(&[n]));
        let y = self.matmul(x, w);
        self.binary(Binary::Add, y, b)
    }

    fn softmax(&mut self, x: TensorId) -> TensorId {
        let shape = self.shape(x);
        self.node(Op::Softmax, &[x], &shape)
    }

    fn fake_quant(&mut self, x: TensorId, scale: f32) -> TensorId {
        let shape = self.shape(x);
        let quant = FakeQuant { scale: vec![scale], zero_point: vec![0], axis: 0, range: (-128, 127) };
        self.node(Op::FakeQuant(quant), &[x], &shape)
    }

    /// Random values for every input: floats, even flags, small ids.
    fn samples(&mut self) -> Vec<Data> {
        let inputs: Vec<(usize, DataType)> =
            self.graph.inputs.iter().map(|&id| (self.graph.tensors[id].len(), self.graph.tensors[id].dtype)).collect();
        let sample = |(len, dtype)| {
            let values = self.randoms(len);
            match dtype {
                DataType::Float => Data::Float(values.iter().map(|v| v * 2.0).collect()),
                DataType::Int => Data::Int(values.iter().map(|v| (v.abs() * 4.0) as i64).collect()),
                // The first of each row stays, so that no row is masked out everywhere.
                DataType::Bool => Data::Bool(values.iter().enumerate().map(|(i, &v)| i == 0 || v > -0.3).collect()),
            }
        };
        inputs.into_iter().map(sample).collect()
    }

    /// The fused graph, after checking that it computes what the graph as built does.
    fn fused(mut self, outputs: &[TensorId]) -> Graph {
        self.graph.outputs = outputs.to_vec();
        let fused = fuse(self.graph.clone());
        for _ in 0..3 {
            let samples = self.samples();
            assert_same_outputs(&self.graph, &fused, &samples);
        }
        let shapes = |graph: &Graph| graph.outputs.iter().map(|&id| graph.shape(id).to_vec()).collect::<Vec<_>>();
        assert_eq!(shapes(&self.graph), shapes(&fused));
        fused
    }

    /// Names of the operations of the fused graph.
    fn ops(self, outputs: &[TensorId]) -> Vec<String> {
        names(&self.fused(outputs))
    }
}

fn names(graph: &Graph) -> Vec<String> {
    graph.nodes.iter().map(|node| node.op.to_string()).collect()
}

fn assert_same_outputs(before: &Graph, after: &Graph, samples: &[Data]) {
    let outputs = |graph| run(graph, samples, &mut |_, _| {}).unwrap();
    for (expected, given) in outputs(before).iter().zip(outputs(after)) {
        let (expected, given) = (expected.to_f32(), given.to_f32());
        assert_eq!(expected.len(), given.len());
        let top = expected.iter().fold(1.0f32, |m, v| m.max(v.abs()));
        for (i, (e, g)) in expected.iter().zip(&given).enumerate() {
            assert!((e - g).abs() <= 2e-5 * top, "element {i}: {e} became {g}; {:?}", names(after));
        }
    }
}

fn attention_of(graph: &Graph) -> (&Node, &Attention) {
    let mut found = graph.nodes.iter().filter_map(|node| match &node.op {
        Op::Attention(attention) => Some((node, attention)),
        _ => None,
    });
    let first = found.next().unwrap_or_else(|| panic!("no attention in {:?}", names(graph)));
    assert!(found.next().is_none());
    first
}

mod layers {
    use super::*;

    #[test]
    fn products_with_constants_and_sums_behind_them_are_linear_layers() {
        for swap in [false, true] {
            let mut b = Builder::new();
            let (x, w, c) = (b.input(&[1, 3, 4]), b.weight(&[4, 5]), b.weight(&[5]));
            let y = b.matmul(x, w);
            let y = b.either(Binary::Add, y, c, swap);
            assert_eq!(b.ops(&[y]), ["Linear"]);
        }
    }

    #[test]
    fn a_constant_left_of_a_product_is_a_linear_layer_between_transposes() {
        let mut b = Builder::new();
        let (x, w) = (b.input(&[2, 4, 3]), b.weight(&[5, 4]));
        let y = b.matmul(w, x);
        assert_eq!(b.ops(&[y]), ["Transpose", "Linear", "Transpose"]);
    }

    #[test]
    fn factors_and_constants_around_a_linear_layer_go_into_it() {
        let mut b = Builder::new();
        let (x, w) = (b.input(&[1, 3, 4]), b.weight(&[4, 5]));
        let (before, mean, scale, shift) = (b.weight(&[4]), b.weight(&[4]), b.weight(&[5]), b.weight(&[1, 1, 5]));
        let y = b.binary(Binary::Sub, x, mean);
        let y = b.binary(Binary::Mul, before, y);
        let y = b.matmul(y, w);
        let y = b.binary(Binary::Sub, shift, y);
        let y = b.binary(Binary::Mul, y, scale);
        let y = b.with_scalar(Binary::Div, y, 3.0);
        assert_eq!(b.ops(&[y]), ["Linear"]);
    }

    #[test]
    fn a_constant_behind_a_movement_reaches_the_linear_layer() {
        let mut b = Builder::new();
        let x = b.input(&[1, 6, 4]);
        let y = b.linear(x, 5);
        let y = b.reshape(y, &[6, 5]);
        let (scale, shift) = (b.weight(&[5]), b.weight(&[5]));
        let y = b.binary(Binary::Mul, y, scale);
        let y = b.binary(Binary::Add, y, shift);
        let y = b.reshape(y, &[1, 2, 3, 5]);
        let y = b.transpose(y, &[0, 3, 1, 2]);
        let channel = b.weight(&[5, 1, 1]);
        let y = b.binary(Binary::Mul, y, channel);
        assert_eq!(b.ops(&[y]), ["Linear", "Reshape", "Transpose"]);
    }

    #[test]
    fn a_linear_layer_needs_no_reshapes_around_it() {
        let mut b = Builder::new();
        let (x, residual) = (b.input(&[1, 6, 4]), b.input(&[1, 6, 5]));
        let y = b.reshape(x, &[6, 4]);
        let y = b.linear(y, 5);
        let y = b.reshape(y, &[1, 6, 5]);
        let y = b.binary(Binary::Add, residual, y);
        assert_eq!(b.ops(&[y]), ["Linear", "Binary"]);
    }

    #[test]
    fn a_bias_behind_the_residual_reaches_the_linear_layer() {
        let mut b = Builder::new();
        let (x, residual) = (b.input(&[1, 3, 4]), b.input(&[1, 3, 5]));
        let y = b.linear(x, 5);
        let (y, bias) = (b.binary(Binary::Add, residual, y), b.weight(&[5]));
        let y = b.binary(Binary::Add, y, bias);
        assert_eq!(b.ops(&[y]), ["Linear", "Binary"]);
    }

    #[test]
    fn a_position_table_stays_a_sum() {
        let mut b = Builder::new();
        let x = b.input(&[1, 3, 4]);
        let y = b.linear(x, 5);
        let positions = b.weight(&[1, 3, 5]);
        let y = b.binary(Binary::Add, y, positions);
        assert_eq!(b.ops(&[y]), ["Linear", "Binary"]);
    }

    #[test]
    fn quantized_weights_keep_their_quantization() {
        let mut b = Builder::new();
        let (x, w, c) = (b.input(&[1, 3, 4]), b.weight(&[4, 2]), b.weight(&[2]));
        let quant = FakeQuant { scale: vec![0.01, 0.02], zero_point: vec![0, 0], axis: 1, range: (-128, 127) };
        let w = b.node(Op::FakeQuant(quant), &[w], &[4, 2]);
        let y = b.matmul(x, w);
        let y = b.fake_quant(y, 1e-5);
        let y = b.binary(Binary::Add, y, c);
        let y = b.with_scalar(Binary::Mul, y, 2.0);
        let graph = {
            b.graph.outputs = vec![y];
            fuse(b.graph)
        };
        assert_eq!(names(&graph), ["FakeQuant", "Linear", "Binary"]);
        let Op::FakeQuant(quant) = &graph.nodes[0].op else { panic!("no weights") };
        assert_eq!((quant.axis, graph.shape(graph.nodes[0].output)), (0, &[2, 4][..]));
        assert_eq!(graph.nodes[1].inputs.len(), 3);
    }

    #[test]
    fn batch_normalization_goes_into_the_convolution_behind_which_it_stands() {
        let mut b = Builder::new();
        let (x, w) = (b.input(&[1, 4, 5, 5]), b.weight(&[6, 2, 3, 3]));
        let window = Window { kernel: [3, 3], strides: [2, 2], pads: [1, 1, 1, 1], dilations: [1, 1], groups: 2 };
        let y = b.node(Op::Conv2d(window), &[x, w], &[1, 6, 3, 3]);
        let (mean, scale, shift) = (b.weight(&[1, 6, 1, 1]), b.weight(&[6, 1, 1]), b.weight(&[1, 6, 1, 1]));
        let y = b.binary(Binary::Sub, y, mean);
        let y = b.binary(Binary::Mul, y, scale);
        let y = b.binary(Binary::Add, shift, y);
        assert_eq!(b.ops(&[y]), ["Conv2d"]);
    }

    #[test]
    fn a_normalized_image_is_a_matter_of_the_convolution_without_padding() {
        for (padding, expected) in [(0, &["Conv2d"][..]), (1, &["Binary", "Conv2d"])] {
            let mut b = Builder::new();
            let (x, w) = (b.input(&[1, 4, 4, 4]), b.weight(&[6, 2, 2, 2]));
            let (mean, scale) = (b.weight(&[1, 4, 1, 1]), b.weight(&[1, 4, 1, 1]));
            let y = b.binary(Binary::Sub, x, mean);
            let y = b.binary(Binary::Mul, y, scale);
            let window = Window { kernel: [2, 2], strides: [2, 2], pads: [padding; 4], dilations: [1, 1], groups: 2 };
            let size = 2 + padding;
            let y = b.node(Op::Conv2d(window), &[y, w], &[1, 6, size, size]);
            assert_eq!(b.ops(&[y]), expected);
        }
    }
}

mod normalization {
    use super::*;

    /// How the parts of a LayerNorm are written.
    #[derive(Clone, Copy)]
    enum Root {
        Divide,
        Reciprocal,
        OneOver,
        Power,
        HalfPower,
    }

    fn divided(b: &mut Builder, d: TensorId, variance: TensorId, root: Root, swap: bool) -> TensorId {
        match root {
            Root::Divide => {
                let s = b.unary(Unary::Sqrt, variance);
                b.binary(Binary::Div, d, s)
            }
            Root::HalfPower => {
                let s = b.with_scalar(Binary::Pow, variance, 0.5);
                b.binary(Binary::Div, d, s)
            }
            Root::Reciprocal => {
                let s = b.unary(Unary::Sqrt, variance);
                let s = b.unary(Unary::Reciprocal, s);
                b.either(Binary::Mul, d, s, swap)
            }
            Root::OneOver => {
                let (one, s) = (b.scalar(1.0), b.unary(Unary::Sqrt, variance));
                let s = b.binary(Binary::Div, one, s);
                b.either(Binary::Mul, d, s, swap)
            }
            Root::Power => {
                let s = b.with_scalar(Binary::Pow, variance, -0.5);
                b.either(Binary::Mul, d, s, swap)
            }
        }
    }

    const ROOTS: [Root; 5] = [Root::Divide, Root::Reciprocal, Root::OneOver, Root::Power, Root::HalfPower];

    #[test]
    fn layer_norm_is_found_in_every_arrangement() {
        for root in ROOTS {
            for variant in 0..16 {
                let (swap, square, twice, axis) =
                    (variant & 1 != 0, variant & 2 != 0, variant & 4 != 0, 2 - (variant >> 3));
                let mut b = Builder::new();
                let x = b.input(&[1, 6, 6]);
                let mean = b.reduce(Reduce::Mean, x, &[axis]);
                let d = b.binary(Binary::Sub, x, mean);
                // Old exporters subtract twice.
                let d2 = if twice { b.binary(Binary::Sub, x, mean) } else { d };
                let square = if square { b.binary(Binary::Mul, d2, d2) } else { b.with_scalar(Binary::Pow, d2, 2.0) };
                let variance = b.reduce(Reduce::Mean, square, &[axis]);
                let eps = b.scalar(1e-5);
                let variance = b.either(Binary::Add, variance, eps, swap);
                let y = divided(&mut b, d, variance, root, swap);
                let shape: &[usize] = if axis == 2 { &[6] } else { &[6, 1] };
                let (gamma, beta) = (b.weight(shape), b.weight(shape));
                let y = b.either(Binary::Mul, y, gamma, swap);
                let y = b.either(Binary::Add, y, beta, !swap);
                let expected: &[&str] =
                    if axis == 2 { &["LayerNorm"] } else { &["Transpose", "LayerNorm", "Transpose"] };
                let graph = b.fused(&[y]);
                assert_eq!(names(&graph), expected);
                let norm = graph.nodes.iter().find(|node| matches!(node.op, Op::LayerNorm { .. })).unwrap();
                assert_eq!(norm.inputs.len(), 3);
                assert!(norm.inputs[1..].iter().all(|&id| graph.shape(id) == [6]));
            }
        }
    }

    #[test]
    fn rms_norm_is_found_in_every_arrangement() {
        for root in ROOTS {
            let mut b = Builder::new();
            let x = b.input(&[1, 3, 8]);
            let square = b.with_scalar(Binary::Pow, x, 2.0);
            let mean = b.reduce(Reduce::Mean, square, &[2]);
            let mean = b.with_scalar(Binary::Add, mean, 1e-6);
            let y = divided(&mut b, x, mean, root, true);
            let gamma = b.weight(&[8]);
            let y = b.binary(Binary::Mul, gamma, y);
            assert_eq!(b.ops(&[y]), ["RmsNorm"]);
        }
    }

    #[test]
    fn unit_vectors_are_rms_norms() {
        let mut b = Builder::new();
        let x = b.input(&[1, 3, 8]);
        let square = b.binary(Binary::Mul, x, x);
        let sum = b.reduce(Reduce::Sum, square, &[2]);
        let norm = b.unary(Unary::Sqrt, sum);
        let norm = b.unary(Unary::Clip { low: 1e-12, high: f32::INFINITY }, norm);
        let norm = b.node(Op::Expand, &[norm], &[1, 3, 8]);
        let y = b.binary(Binary::Div, x, norm);
        assert_eq!(b.ops(&[y]), ["RmsNorm"]);
    }

    /// `mean`, `variance + eps` by the squares of the differences or by the difference of squares.
    fn statistics(b: &mut Builder, x: TensorId, fast: bool) -> (TensorId, TensorId) {
        let mean = b.reduce(Reduce::Mean, x, &[2]);
        let variance = if fast {
            let squares = b.binary(Binary::Mul, x, x);
            let (squares, square) = (b.reduce(Reduce::Mean, squares, &[2]), b.binary(Binary::Mul, mean, mean));
            let variance = b.binary(Binary::Sub, squares, square);
            b.with_scalar(Binary::Max, variance, 0.0)
        } else {
            let d = b.binary(Binary::Sub, x, mean);
            let squares = b.binary(Binary::Mul, d, d);
            b.reduce(Reduce::Mean, squares, &[2])
        };
        (mean, b.with_scalar(Binary::Add, variance, 1e-3))
    }

    #[test]
    fn layer_norm_in_the_form_of_a_batch_norm_is_found() {
        for scaled in [false, true] {
            let mut b = Builder::new();
            let (x, gamma, beta) = (b.input(&[1, 3, 8]), b.weight(&[8]), b.weight(&[8]));
            let (mean, variance) = statistics(&mut b, x, false);
            let root = b.unary(Unary::Sqrt, variance);
            let mut f = b.unary(Unary::Reciprocal, root);
            if scaled {
                f = b.binary(Binary::Mul, f, gamma);
            }
            let shift = b.binary(Binary::Mul, mean, f);
            let shift = b.binary(Binary::Sub, beta, shift);
            let y = b.binary(Binary::Mul, x, f);
            let y = b.binary(Binary::Add, y, shift);
            assert_eq!(b.ops(&[y]), ["LayerNorm"]);
        }
    }

    #[test]
    fn layer_norm_with_a_fast_variance_is_found() {
        let mut b = Builder::new();
        let (x, gamma, beta) = (b.input(&[1, 3, 8]), b.weight(&[8]), b.weight(&[8]));
        let (mean, variance) = statistics(&mut b, x, true);
        let d = b.binary(Binary::Sub, x, mean);
        let f = b.with_scalar(Binary::Pow, variance, -0.5);
        let f = b.binary(Binary::Mul, f, gamma);
        let y = b.binary(Binary::Mul, d, f);
        let y = b.binary(Binary::Add, y, beta);
        assert_eq!(b.ops(&[y]), ["LayerNorm"]);
    }

    #[test]
    fn layer_norm_over_several_dimensions_is_one_over_their_product() {
        let mut b = Builder::new();
        let x = b.input(&[2, 3, 4]);
        let mean = b.reduce(Reduce::Mean, x, &[1, 2]);
        let d = b.binary(Binary::Sub, x, mean);
        let square = b.binary(Binary::Mul, d, d);
        let variance = b.reduce(Reduce::Mean, square, &[1, 2]);
        let variance = b.with_scalar(Binary::Add, variance, 1e-5);
        let y = divided(&mut b, d, variance, Root::Divide, false);
        assert_eq!(b.ops(&[y]), ["Reshape", "LayerNorm", "Reshape"]);
    }

    #[test]
    fn affine_nodes_behind_a_layer_norm_go_into_it() {
        let mut b = Builder::new();
        let (x, gamma) = (b.input(&[1, 3, 8]), b.weight(&[8]));
        let y = b.node(Op::LayerNorm { eps: 1e-5 }, &[x, gamma], &[1, 3, 8]);
        let (beta, scale) = (b.weight(&[8]), b.weight(&[1, 1, 8]));
        let y = b.binary(Binary::Add, y, beta);
        let y = b.binary(Binary::Mul, y, scale);
        assert_eq!(b.ops(&[y]), ["LayerNorm"]);
    }

    #[test]
    fn inner_fake_quantizations_do_not_hide_a_layer_norm() {
        let mut b = Builder::new();
        let x = b.input(&[1, 3, 8]);
        let x = b.fake_quant(x, 1e-5);
        let mean = b.reduce(Reduce::Mean, x, &[2]);
        let mean = b.fake_quant(mean, 1e-5);
        let d = b.binary(Binary::Sub, x, mean);
        let d = b.fake_quant(d, 1e-5);
        let square = b.with_scalar(Binary::Pow, d, 2.0);
        let variance = b.reduce(Reduce::Mean, square, &[2]);
        let variance = b.with_scalar(Binary::Add, variance, 1e-5);
        let root = b.unary(Unary::Sqrt, variance);
        let root = b.fake_quant(root, 1e-5);
        let y = b.binary(Binary::Div, d, root);
        let y = b.fake_quant(y, 1e-5);
        b.graph.outputs = vec![y];
        assert_eq!(names(&fuse(b.graph)), ["FakeQuant", "LayerNorm", "FakeQuant"]);
    }
}

mod activations {
    use super::*;

    fn only_activation(b: Builder, y: TensorId) -> Unary {
        let graph = b.fused(&[y]);
        match &graph.nodes[..] {
            [Node { op: Op::Unary(kind), .. }] => *kind,
            _ => panic!("{:?}", names(&graph)),
        }
    }

    #[test]
    fn gelu_is_found_in_every_order_of_its_factors() {
        for variant in 0..12 {
            let (order, divide, swap) = (variant % 3, variant / 3 % 2 == 0, variant / 6 == 0);
            let mut b = Builder::new();
            let x = b.input(&[1, 3, 4]);
            let u = if divide {
                b.with_scalar(Binary::Div, x, std::f32::consts::SQRT_2)
            } else {
                b.with_scalar(Binary::Mul, x, std::f32::consts::FRAC_1_SQRT_2)
            };
            let erf = b.unary(Unary::Erf, u);
            let one = b.scalar(1.0);
            let gate = b.either(Binary::Add, erf, one, swap);
            let y = match order {
                0 => {
                    let y = b.either(Binary::Mul, x, gate, swap);
                    b.with_scalar(Binary::Mul, y, 0.5)
                }
                1 => {
                    let half = b.with_scalar(Binary::Mul, gate, 0.5);
                    b.either(Binary::Mul, x, half, swap)
                }
                _ => {
                    let half = b.with_scalar(Binary::Div, x, 2.0);
                    b.either(Binary::Mul, half, gate, swap)
                }
            };
            assert_eq!(only_activation(b, y), Unary::Gelu { tanh: false });
        }
    }

    #[test]
    fn tanh_gelu_is_told_from_the_other_one() {
        for cube_by_product in [false, true] {
            let mut b = Builder::new();
            let x = b.input(&[1, 3, 4]);
            let cube = if cube_by_product {
                let square = b.binary(Binary::Mul, x, x);
                b.binary(Binary::Mul, square, x)
            } else {
                b.with_scalar(Binary::Pow, x, 3.0)
            };
            let u = b.with_scalar(Binary::Mul, cube, 0.044715);
            let u = b.binary(Binary::Add, x, u);
            let u = b.with_scalar(Binary::Mul, u, 0.797_884_6);
            let u = b.unary(Unary::Tanh, u);
            let u = b.with_scalar(Binary::Add, u, 1.0);
            let half = b.with_scalar(Binary::Mul, x, 0.5);
            let y = b.binary(Binary::Mul, half, u);
            assert_eq!(only_activation(b, y), Unary::Gelu { tanh: true });
        }
    }

    #[test]
    fn gates_of_sigmoids_and_clips_are_named() {
        let mut b = Builder::new();
        let x = b.input(&[4]);
        let u = b.with_scalar(Binary::Mul, x, 1.702);
        let u = b.unary(Unary::Sigmoid, u);
        let y = b.binary(Binary::Mul, u, x);
        assert_eq!(only_activation(b, y), Unary::QuickGelu);

        let mut b = Builder::new();
        let x = b.input(&[4]);
        let u = b.unary(Unary::Sigmoid, x);
        let y = b.binary(Binary::Mul, x, u);
        assert_eq!(only_activation(b, y), Unary::Silu);

        let mut b = Builder::new();
        let x = b.input(&[4]);
        let u = b.with_scalar(Binary::Add, x, 3.0);
        let u = b.unary(Unary::Clip { low: 0.0, high: 6.0 }, u);
        let u = b.binary(Binary::Mul, x, u);
        let y = b.with_scalar(Binary::Div, u, 6.0);
        assert_eq!(only_activation(b, y), Unary::HardSwish);

        let mut b = Builder::new();
        let x = b.input(&[4]);
        let u = b.unary(Unary::Exp, x);
        let u = b.with_scalar(Binary::Add, u, 1.0);
        let u = b.unary(Unary::Log, u);
        let u = b.unary(Unary::Tanh, u);
        let y = b.binary(Binary::Mul, x, u);
        assert_eq!(only_activation(b, y), Unary::Mish);
    }

    #[test]
    fn fake_quantizations_stay_around_an_activation() {
        let mut b = Builder::new();
        let x = b.input(&[4]);
        let x = b.fake_quant(x, 0.1);
        let u = b.unary(Unary::Sigmoid, x);
        let u = b.fake_quant(u, 0.01);
        let y = b.binary(Binary::Mul, x, u);
        let y = b.fake_quant(y, 0.1);
        b.graph.outputs = vec![y];
        assert_eq!(names(&fuse(b.graph)), ["FakeQuant", "Unary", "FakeQuant"]);
    }

    #[test]
    fn a_gelu_that_somebody_looks_into_stays_in_parts() {
        let mut b = Builder::new();
        let x = b.input(&[4]);
        let u = b.with_scalar(Binary::Div, x, std::f32::consts::SQRT_2);
        let erf = b.unary(Unary::Erf, u);
        let gate = b.with_scalar(Binary::Add, erf, 1.0);
        let y = b.binary(Binary::Mul, x, gate);
        let y = b.with_scalar(Binary::Mul, y, 0.5);
        assert_eq!(b.ops(&[y, erf]).len(), 5);
    }
}

mod softmax {
    use super::*;

    #[test]
    fn softmax_is_found_along_any_dimension_with_or_without_its_shift() {
        for axis in [1, 2] {
            for shift in [false, true] {
                for product in [false, true] {
                    let mut b = Builder::new();
                    let x = b.input(&[1, 3, 4]);
                    let z = if shift {
                        let max = b.reduce(Reduce::Max, x, &[axis]);
                        b.binary(Binary::Sub, x, max)
                    } else {
                        x
                    };
                    let e = b.unary(Unary::Exp, z);
                    let sum = b.reduce(Reduce::Sum, e, &[axis]);
                    let y = if product {
                        let factor = b.unary(Unary::Reciprocal, sum);
                        b.binary(Binary::Mul, factor, e)
                    } else {
                        b.binary(Binary::Div, e, sum)
                    };
                    let expected: &[&str] =
                        if axis == 2 { &["Softmax"] } else { &["Transpose", "Softmax", "Transpose"] };
                    assert_eq!(b.ops(&[y]), expected);
                }
            }
        }
    }

    #[test]
    fn guards_against_masked_rows_are_dropped() {
        let mut b = Builder::new();
        let x = b.input(&[1, 3, 4]);
        let p = b.softmax(x);
        let (test, zero) = (b.unary(Unary::IsNaN, p), b.scalar(0.0));
        let y = b.node(Op::Where, &[test, zero, p], &[1, 3, 4]);
        assert_eq!(b.ops(&[y]), ["Softmax"]);
    }
}

mod cleanup {
    use super::*;

    #[test]
    fn identities_disappear_and_outputs_keep_their_names() {
        let mut b = Builder::new();
        let x = b.input(&[2, 3]);
        let y = b.unary(Unary::Relu, x);
        let y = b.with_scalar(Binary::Mul, y, 1.0);
        let zero = b.scalar(0.0);
        let y = b.binary(Binary::Add, zero, y);
        let y = b.transpose(y, &[1, 0]);
        let y = b.transpose(y, &[1, 0]);
        let y = b.reshape(y, &[6]);
        let y = b.reshape(y, &[2, 3]);
        let name = b.graph.tensors[y].name.clone();
        let graph = b.fused(&[y]);
        assert_eq!(names(&graph), ["Unary"]);
        assert_eq!(graph.tensors[graph.outputs[0]].name, name);
    }

    #[test]
    fn an_input_that_is_an_output_keeps_a_node_between() {
        let mut b = Builder::new();
        let x = b.input(&[2, 3]);
        let y = b.reshape(x, &[2, 3]);
        assert_eq!(b.ops(&[y]), ["Reshape"]);
    }

    #[test]
    fn computed_constants_are_constants() {
        let mut b = Builder::new();
        let (x, w) = (b.input(&[1, 3]), b.weight(&[3, 1]));
        let w = b.transpose(w, &[1, 0]);
        let w = b.unary(Unary::Exp, w);
        let y = b.binary(Binary::Sub, x, w);
        assert_eq!(b.ops(&[y]), ["Binary"]);
    }

    #[test]
    fn neutral_constants_leave_a_broadcast_at_most() {
        let mut b = Builder::new();
        let (x, mask) = (b.input(&[1, 4, 4]), b.typed_input(&[1, 1, 4], DataType::Bool));
        let all = b.graph.add_constant("all", vec![4, 1], Data::Bool(vec![true; 4]));
        let mask = b.graph.add_node("and", Op::Binary(Binary::And), vec![mask, all], vec![1, 4, 4], DataType::Bool);
        let (zero, small) = (b.scalar(0.0), b.scalar(-9.0));
        let bias = b.node(Op::Where, &[mask, zero, small], &[1, 4, 4]);
        let y = b.binary(Binary::Add, x, bias);
        let graph = b.fused(&[y]);
        assert_eq!(names(&graph), ["Where", "Binary"]);
        assert_eq!(graph.shape(graph.nodes[0].output), [1, 1, 4]);
    }

    #[test]
    fn constants_added_one_after_the_other_are_one() {
        let mut b = Builder::new();
        let x = b.input(&[1, 3, 4]);
        let (positions, kind) = (b.weight(&[1, 3, 4]), b.weight(&[4]));
        let y = b.binary(Binary::Add, positions, x);
        let y = b.binary(Binary::Add, y, kind);
        assert_eq!(b.ops(&[y]), ["Binary"]);
    }

    #[test]
    fn equal_nodes_are_computed_once() {
        let mut b = Builder::new();
        let x = b.input(&[1, 3]);
        let (u, v) = (b.unary(Unary::Exp, x), b.unary(Unary::Exp, x));
        let (u, v) = (b.with_scalar(Binary::Add, u, 2.0), b.with_scalar(Binary::Add, v, 2.0));
        let y = b.binary(Binary::Mul, u, v);
        assert_eq!(b.ops(&[y]).len(), 3);
    }

    #[test]
    fn elementwise_functions_come_before_broadcasting() {
        let mut b = Builder::new();
        let (x, m) = (b.input(&[1, 4, 4]), b.input(&[1, 1, 4]));
        let m = b.node(Op::Expand, &[m], &[1, 4, 4]);
        let m = b.with_scalar(Binary::Mul, m, 3.0);
        let y = b.binary(Binary::Add, x, m);
        let graph = b.fused(&[y]);
        assert_eq!(names(&graph), ["Binary", "Binary"]);
        assert_eq!(graph.shape(graph.nodes[0].output), [1, 1, 4]);
    }

    #[test]
    fn regular_gathers_are_slices() {
        let mut b = Builder::new();
        let x = b.input(&[2, 5, 3]);
        let index = b.graph.add_constant("index", vec![], Data::Int(vec![-1]));
        let y = b.node(Op::Gather { axis: 1 }, &[x, index], &[2, 3]);
        assert_eq!(b.ops(&[y]), ["Slice", "Reshape"]);
    }
}

mod attention {
    use super::*;

    /// Where the factor `1 / sqrt(d)` of the scores is applied.
    #[derive(Clone, Copy, Debug)]
    enum Scale {
        OnQuery,
        OnKey,
        OnScores,
        RootOnBoth,
    }

    const SCALES: [Scale; 4] = [Scale::OnQuery, Scale::OnKey, Scale::OnScores, Scale::RootOnBoth];

    /// softmax(scale q k^T + bias) v for q, k, v of `[.., rows, d]`.
    fn products(
        b: &mut Builder,
        [q, k, v]: [TensorId; 3],
        scale: Scale,
        bias: &dyn Fn(&mut Builder, TensorId) -> TensorId,
    ) -> TensorId {
        let rank = b.shape(k).len();
        let d = b.shape(q)[rank - 1] as f32;
        let mut perm: Vec<usize> = (0..rank).collect();
        perm.swap(rank - 1, rank - 2);
        let (mut q, mut k) = (q, b.transpose(k, &perm));
        match scale {
            Scale::OnQuery => q = b.with_scalar(Binary::Mul, q, d.powf(-0.5)),
            Scale::OnKey => k = b.with_scalar(Binary::Div, k, d.sqrt()),
            Scale::RootOnBoth => {
                q = b.with_scalar(Binary::Mul, q, d.powf(-0.25));
                k = b.with_scalar(Binary::Mul, k, d.powf(-0.25));
            }
            Scale::OnScores => {}
        }
        let mut s = b.matmul(q, k);
        if matches!(scale, Scale::OnScores) {
            s = b.with_scalar(Binary::Div, s, d.sqrt());
        }
        let s = bias(b, s);
        let p = b.softmax(s);
        b.matmul(p, v)
    }

    /// `[1, n, c]` to `[1, heads, n, c / heads]`.
    fn to_heads(b: &mut Builder, x: TensorId, heads: usize) -> TensorId {
        let shape = b.shape(x);
        let x = b.reshape(x, &[shape[0], shape[1], heads, shape[2] / heads]);
        b.transpose(x, &[0, 2, 1, 3])
    }

    fn from_heads(b: &mut Builder, x: TensorId) -> TensorId {
        let shape = b.shape(x);
        let x = b.transpose(x, &[0, 2, 1, 3]);
        b.reshape(x, &[shape[0], shape[2], shape[1] * shape[3]])
    }

    #[test]
    fn a_fused_projection_feeds_three_views() {
        for scale in SCALES {
            let mut b = Builder::new();
            let x = b.input(&[1, 5, 6]);
            let qkv = b.linear(x, 3 * 2 * 4);
            let qkv = b.reshape(qkv, &[1, 5, 3, 2, 4]);
            let qkv = b.transpose(qkv, &[2, 0, 3, 1, 4]);
            let parts = [0, 1, 2].map(|i| {
                let part = b.slice(qkv, 0, i, 1);
                b.reshape(part, &[1, 2, 5, 4])
            });
            let y = products(&mut b, parts, scale, &|_, s| s);
            let y = from_heads(&mut b, y);
            let y = b.linear(y, 6);
            let graph = b.fused(&[y]);
            assert_eq!(names(&graph), ["Linear", "Attention", "Linear"], "{scale:?}");
            let (node, a) = attention_of(&graph);
            assert_eq!((a.batch, a.heads, a.kv_heads, a.n_q, a.n_k, a.head_dim, a.v_dim), (1, 2, 2, 5, 5, 4, 4));
            assert!((a.scale - 0.5).abs() < 1e-6);
            assert!(node.inputs.iter().all(|&id| id == node.inputs[0]));
            assert_eq!((a.k.offset, a.k.head, a.k.row), (8, 4, 24));
        }
    }

    #[test]
    fn separate_projections_and_split_ones_need_no_movement() {
        for split in [false, true] {
            let mut b = Builder::new();
            let x = b.input(&[1, 5, 6]);
            let parts = if split {
                let qkv = b.linear(x, 24);
                [0, 8, 16].map(|start| b.slice(qkv, 2, start, 8))
            } else {
                [0, 1, 2].map(|_| b.linear(x, 8))
            };
            let parts = parts.map(|part| to_heads(&mut b, part, 2));
            let y = products(&mut b, parts, Scale::OnScores, &|_, s| s);
            let y = from_heads(&mut b, y);
            let ops = b.ops(&[y]);
            assert_eq!(ops.iter().filter(|op| *op != "Linear").collect::<Vec<_>>(), ["Attention"]);
        }
    }

    #[test]
    fn one_head_needs_no_transposes() {
        let mut b = Builder::new();
        let x = b.input(&[1, 5, 6]);
        let parts = [4, 4, 3].map(|width| b.linear(x, width));
        let y = products(&mut b, parts, Scale::OnScores, &|_, s| s);
        let graph = b.fused(&[y]);
        let (_, a) = attention_of(&graph);
        assert_eq!((a.heads, a.head_dim, a.v_dim), (1, 4, 3));
        assert_eq!(graph.nodes.len(), 4);
    }

    #[test]
    fn cross_attention_has_other_keys() {
        let mut b = Builder::new();
        let (x, z) = (b.input(&[1, 5, 6]), b.input(&[1, 7, 3]));
        let parts = [b.linear(x, 8), b.linear(z, 8), b.linear(z, 12)].map(|part| to_heads(&mut b, part, 2));
        let y = products(&mut b, parts, Scale::OnQuery, &|_, s| s);
        let y = from_heads(&mut b, y);
        let graph = b.fused(&[y]);
        let (_, a) = attention_of(&graph);
        assert_eq!((a.n_q, a.n_k, a.head_dim, a.v_dim), (5, 7, 4, 6));
        assert_eq!(graph.nodes.len(), 4);
    }

    #[test]
    fn heads_merged_into_the_batch_are_views_too() {
        let mut b = Builder::new();
        let x = b.input(&[5, 1, 6]);
        let parts = [0, 1, 2].map(|_| {
            let part = b.linear(x, 8);
            let part = b.reshape(part, &[5, 2, 4]);
            b.transpose(part, &[1, 0, 2])
        });
        let y = products(&mut b, parts, Scale::OnQuery, &|_, s| s);
        let y = b.transpose(y, &[1, 0, 2]);
        let y = b.reshape(y, &[5, 1, 8]);
        assert_eq!(b.ops(&[y]), ["Linear", "Linear", "Linear", "Attention"]);
    }

    #[test]
    fn reshapes_around_an_attention_disappear() {
        let mut b = Builder::new();
        let x = b.input(&[1, 5, 6]);
        let parts = [0, 1, 2].map(|_| b.linear(x, 8)).map(|part| b.reshape(part, &[5, 8])).map(|part| {
            let part = b.reshape(part, &[5, 2, 4]);
            b.transpose(part, &[1, 0, 2])
        });
        let y = products(&mut b, parts, Scale::OnQuery, &|_, s| s);
        let y = b.transpose(y, &[1, 0, 2]);
        let y = b.reshape(y, &[5, 8]);
        let y = b.linear(y, 6);
        let y = b.reshape(y, &[1, 5, 6]);
        let y = b.binary(Binary::Add, x, y);
        assert_eq!(b.ops(&[y]), ["Linear", "Linear", "Linear", "Attention", "Linear", "Binary"]);
    }

    #[test]
    fn shared_key_heads_are_not_repeated() {
        let mut b = Builder::new();
        let x = b.input(&[1, 5, 6]);
        let q = b.linear(x, 4 * 4);
        let q = to_heads(&mut b, q, 4);
        let [k, v] = [0, 1].map(|_| {
            let part = b.linear(x, 2 * 4);
            let part = to_heads(&mut b, part, 2);
            let part = b.reshape(part, &[1, 2, 1, 5, 4]);
            let part = b.node(Op::Expand, &[part], &[1, 2, 2, 5, 4]);
            b.reshape(part, &[1, 4, 5, 4])
        });
        let y = products(&mut b, [q, k, v], Scale::OnScores, &|_, s| s);
        let y = from_heads(&mut b, y);
        let graph = b.fused(&[y]);
        let (_, a) = attention_of(&graph);
        assert_eq!((a.heads, a.kv_heads), (4, 2));
        assert_eq!(graph.nodes.len(), 4);
    }

    #[test]
    fn additive_masks_and_tables_are_biases() {
        let mut b = Builder::new();
        let (x, mask) = (b.input(&[1, 5, 6]), b.input(&[1, 1, 1, 5]));
        let (table, other) = (b.weight(&[1, 2, 5, 5]), b.weight(&[2, 5, 5]));
        let parts = [0, 1, 2].map(|_| b.linear(x, 8)).map(|part| to_heads(&mut b, part, 2));
        let y = products(&mut b, parts, Scale::OnScores, &|b, s| {
            let s = b.binary(Binary::Add, table, s);
            let s = b.binary(Binary::Add, s, other);
            let s = b.with_scalar(Binary::Add, s, 7.0);
            b.binary(Binary::Add, s, mask)
        });
        let y = from_heads(&mut b, y);
        let graph = b.fused(&[y]);
        let (node, _) = attention_of(&graph);
        assert_eq!(node.inputs.len(), 5);
        assert_eq!(graph.nodes.len(), 4);
    }

    #[test]
    fn scores_scaled_behind_a_bias_scale_the_bias() {
        let mut b = Builder::new();
        let (x, mask) = (b.input(&[1, 5, 6]), b.input(&[1, 1, 1, 5]));
        let parts = [0, 1, 2].map(|_| b.linear(x, 8)).map(|part| to_heads(&mut b, part, 2));
        let y = products(&mut b, parts, Scale::OnQuery, &|b, s| {
            let s = b.binary(Binary::Add, s, mask);
            b.with_scalar(Binary::Mul, s, 3.0)
        });
        let graph = b.fused(&[y]);
        attention_of(&graph);
    }

    #[test]
    fn a_factor_per_head_is_applied_to_the_queries() {
        let mut b = Builder::new();
        let x = b.input(&[1, 5, 6]);
        let factors = b.weight(&[2, 1, 1]);
        let parts = [0, 1, 2].map(|_| b.linear(x, 8)).map(|part| to_heads(&mut b, part, 2));
        let y = products(&mut b, parts, Scale::OnScores, &|b, s| b.binary(Binary::Mul, factors, s));
        let graph = b.fused(&[y]);
        attention_of(&graph);
        assert_eq!(names(&graph).iter().filter(|op| *op == "Binary").count(), 1);
    }

    #[test]
    fn boolean_masks_are_biases() {
        for swap in [false, true] {
            let mut b = Builder::new();
            let (x, mask) = (b.input(&[1, 5, 6]), b.typed_input(&[1, 1, 1, 5], DataType::Bool));
            let parts = [0, 1, 2].map(|_| b.linear(x, 8)).map(|part| to_heads(&mut b, part, 2));
            let y = products(&mut b, parts, Scale::OnScores, &|b, s| {
                let (small, shape) = (b.scalar(-3.4e38), b.shape(s));
                if swap {
                    let mask = b.unary(Unary::Not, mask);
                    b.node(Op::Where, &[mask, small, s], &shape)
                } else {
                    b.node(Op::Where, &[mask, s, small], &shape)
                }
            });
            let y = from_heads(&mut b, y);
            let graph = b.fused(&[y]);
            let (node, _) = attention_of(&graph);
            assert_eq!((node.inputs.len(), graph.shape(node.inputs[3])), (4, &[1, 1, 1, 5][..]));
        }
    }

    #[test]
    fn shifted_windows_carry_a_table_and_a_mask() {
        // Two images' worth of two windows, two heads: [4, 2, n, n] + table, regrouped to add the mask per window.
        let (images, windows, heads, n, d) = (2, 2, 2, 4, 3);
        let mut b = Builder::new();
        let x = b.input(&[images * windows, n, 6]);
        let qkv = b.linear(x, 3 * heads * d);
        let qkv = b.reshape(qkv, &[images * windows, n, 3, heads, d]);
        let qkv = b.transpose(qkv, &[2, 0, 3, 1, 4]);
        let parts = [0, 1, 2].map(|i| {
            let part = b.slice(qkv, 0, i, 1);
            b.reshape(part, &[images * windows, heads, n, d])
        });
        let (table, mask) = (b.weight(&[1, heads, n, n]), b.weight(&[1, windows, 1, n, n]));
        let y = products(&mut b, parts, Scale::OnQuery, &|b, s| {
            let s = b.binary(Binary::Add, s, table);
            let s = b.reshape(s, &[images, windows, heads, n, n]);
            let s = b.binary(Binary::Add, s, mask);
            b.reshape(s, &[images * windows, heads, n, n])
        });
        let y = from_heads(&mut b, y);
        let graph = b.fused(&[y]);
        let (node, a) = attention_of(&graph);
        assert_eq!((a.batch, a.heads), (4, 2));
        let shapes: Vec<&[usize]> = node.inputs[3..].iter().map(|&id| graph.shape(id)).collect();
        assert!(shapes.contains(&&[1, 2, 4, 4][..]) && shapes.contains(&&[4, 1, 4, 4][..]), "{shapes:?}");
        assert_eq!(graph.nodes.len(), 2);
    }

    #[test]
    fn keys_that_lie_in_columns_are_transposed_first() {
        // A convolution's [1, c, n] as keys: rows of a key do not lie in a piece.
        let mut b = Builder::new();
        let (q, k, v) = (b.input(&[1, 5, 4]), b.input(&[1, 4, 6]), b.input(&[1, 6, 4]));
        let s = b.matmul(q, k);
        let p = b.softmax(s);
        let y = b.matmul(p, v);
        assert_eq!(b.ops(&[y]), ["Transpose", "Attention"]);
    }

    #[test]
    fn probabilities_that_are_an_output_keep_the_parts() {
        let mut b = Builder::new();
        let (q, k, v) = (b.input(&[1, 5, 4]), b.input(&[1, 4, 6]), b.input(&[1, 6, 4]));
        let s = b.matmul(q, k);
        let p = b.softmax(s);
        let y = b.matmul(p, v);
        assert_eq!(b.ops(&[y, p]), ["MatMul", "Softmax", "MatMul"]);
    }

    #[test]
    fn fake_quantizations_stay_at_operands_and_result() {
        let mut b = Builder::new();
        let x = b.input(&[1, 5, 6]);
        let qkv = b.linear(x, 24);
        let qkv = b.fake_quant(qkv, 0.1);
        let parts = [0, 8, 16].map(|start| b.slice(qkv, 2, start, 8)).map(|part| {
            let part = to_heads(&mut b, part, 2);
            b.fake_quant(part, 0.1)
        });
        let y = products(&mut b, parts, Scale::OnScores, &|b, s| b.fake_quant(s, 0.01));
        let y = b.fake_quant(y, 0.02);
        let y = b.transpose(y, &[0, 2, 1, 3]);
        let y = b.reshape(y, &[1, 5, 8]);
        let y = b.fake_quant(y, 0.02);
        let y = b.linear(y, 6);
        b.graph.outputs = vec![y];
        let graph = fuse(b.graph);
        assert_eq!(names(&graph), ["Linear", "FakeQuant", "Attention", "FakeQuant", "Linear"]);
    }
}
