//! Encoders of any size with random weights, as the importer and the fuser would make them.

use shiftformer_convert::graph::{Attention, Binary, Data, DataType, Graph, HeadView, Op, Reduce, TensorId, Unary};

/// Width of a head.
const HEAD: usize = 16;
/// Hidden width of the MLP, in widths.
const HIDDEN: usize = 2;
/// Outputs of the head.
const CLASSES: usize = 10;

/// Size of an encoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Tokens.
    pub seq_len: usize,
    /// Channels, a multiple of 16.
    pub width: usize,
    /// Blocks.
    pub depth: usize,
}

/// Builds a graph; the numbers come from a fixed seed.
struct Builder {
    graph: Graph,
    size: Size,
    state: u64,
}

/// An encoder over `[1, seq_len, width]`: blocks of LayerNorm, attention, LayerNorm, GELU MLP; mean over tokens; head.
pub fn encoder(size: Size) -> Graph {
    let Size { seq_len, width, depth } = size;
    let mut b = Builder { graph: Graph::default(), size, state: 1 };
    let mut x = b.graph.add_tensor("x", vec![1, seq_len, width], DataType::Float);
    b.graph.inputs = vec![x];
    for block in 0..depth {
        x = b.block(&format!("block{block}"), x);
    }
    let x = b.norm("norm", x);
    let mean = Op::Reduce { kind: Reduce::Mean, axes: vec![1], keep: false };
    let x = b.graph.add_node("mean", mean, vec![x], vec![1, width], DataType::Float);
    let y = b.linear("head", x, CLASSES);
    b.graph.outputs = vec![y];
    b.graph
}

/// `count` inputs of an encoder, in units of their standard deviation.
pub fn samples(size: Size, count: usize) -> Vec<Vec<f32>> {
    let mut b = Builder { graph: Graph::default(), size, state: 77 };
    (0..count).map(|_| b.normals(size.seq_len * size.width, 1.0)).collect()
}

impl Builder {
    fn block(&mut self, name: &str, x: TensorId) -> TensorId {
        let Size { seq_len, width, .. } = self.size;
        let y = self.norm(&format!("{name}/norm1"), x);
        let qkv = self.linear(&format!("{name}/qkv"), y, 3 * width);
        let (heads, row) = (width / HEAD, 3 * width);
        let view = |offset| HeadView { offset, batch: seq_len * row, head: HEAD, row };
        let attention = Attention {
            batch: 1,
            heads,
            kv_heads: heads,
            n_q: seq_len,
            n_k: seq_len,
            head_dim: HEAD,
            v_dim: HEAD,
            scale: (HEAD as f32).powf(-0.5),
            causal: None,
            q: view(0),
            k: view(width),
            v: view(2 * width),
            out: HeadView { offset: 0, batch: seq_len * width, head: HEAD, row: width },
        };
        let y = self.node(&format!("{name}/attention"), Op::Attention(attention), vec![qkv; 3], width);
        let y = self.linear(&format!("{name}/proj"), y, width);
        let x = self.node(&format!("{name}/add1"), Op::Binary(Binary::Add), vec![x, y], width);
        let y = self.norm(&format!("{name}/norm2"), x);
        let y = self.linear(&format!("{name}/fc1"), y, HIDDEN * width);
        let gelu = Op::Unary(Unary::Gelu { tanh: false });
        let y = self.node(&format!("{name}/gelu"), gelu, vec![y], HIDDEN * width);
        let y = self.linear(&format!("{name}/fc2"), y, width);
        self.node(&format!("{name}/add2"), Op::Binary(Binary::Add), vec![x, y], width)
    }

    /// A node over all tokens.
    fn node(&mut self, name: &str, op: Op, inputs: Vec<TensorId>, width: usize) -> TensorId {
        self.graph.add_node(name, op, inputs, vec![1, self.size.seq_len, width], DataType::Float)
    }

    fn norm(&mut self, name: &str, x: TensorId) -> TensorId {
        let n = self.size.width;
        let gamma = self.graph.add_constant(format!("{name}.gamma"), vec![n], Data::Float(vec![1.0; n]));
        let beta = self.normals(n, 0.1);
        let beta = self.graph.add_constant(format!("{name}.beta"), vec![n], Data::Float(beta));
        self.node(name, Op::LayerNorm { eps: 1e-5 }, vec![x, gamma, beta], n)
    }

    fn linear(&mut self, name: &str, x: TensorId, n: usize) -> TensorId {
        let mut shape = self.graph.shape(x).to_vec();
        let k = shape.pop().unwrap_or(1);
        shape.push(n);
        let weights = self.normals(k * n, (k as f32).powf(-0.5));
        let w = self.graph.add_constant(format!("{name}.weight"), vec![n, k], Data::Float(weights));
        let bias = self.normals(n, 0.1);
        let bias = self.graph.add_constant(format!("{name}.bias"), vec![n], Data::Float(bias));
        self.graph.add_node(name, Op::Linear, vec![x, w, bias], shape, DataType::Float)
    }

    /// About normally distributed numbers: sums of four even ones.
    fn normals(&mut self, count: usize, deviation: f32) -> Vec<f32> {
        let mut even = || {
            self.state = self.state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            (self.state >> 40) as f32 / (1 << 24) as f32 - 0.5
        };
        // Four numbers of variance 1/12.
        let scale = deviation * 3f32.sqrt();
        (0..count).map(|_| scale * (even() + even() + even() + even())).collect()
    }
}
