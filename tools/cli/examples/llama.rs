//! Writes a decoder of the shape of a Llama with 110 M parameters (dimension 768, 12 layers, 12 heads, hidden 2048, vocabulary
//! 32000) and weights without meaning, for measuring a token: `cargo run --release -p shiftformer-cli --example llama --
//! OUT.sfm [4|8]`, then `shiftformer bench OUT.sfm`. The embedding has the rows of 512 tokens: of all it has, a run reads one.

use shiftformer::format::{Blob, Profile};
use shiftformer::ops::attention::causal::CausalAttention;
use shiftformer::ops::attention::{AttentionParams, BiasView, HeadView};
use shiftformer::ops::gather::Gather;
use shiftformer::ops::kv_append::KvAppend;
use shiftformer::ops::layer_norm::LayerNorm;
use shiftformer::ops::linear::{Dense, Linear};
use shiftformer::ops::lut::Lut;
use shiftformer::ops::mul::Mul;
use shiftformer::ops::rope::Rope;
use shiftformer::ops::{Extent, Op};
use shiftformer::tensor::Dtype;
use shiftformer::weights::{PANEL, PackedWeights, WeightFormat};
use shiftformer_convert::pack::{Annotations, pack};
use shiftformer_convert::program::plan::plan_quickly;
use shiftformer_convert::program::{Endpoint, Program, QOp, QTensor, State, TensorIndex};
use std::error::Error;
use std::{env, fs};

const WIDTH: usize = 768;
const LAYERS: usize = 12;
const HEADS: usize = 12;
const HEAD_DIM: usize = WIDTH / HEADS;
const HIDDEN: usize = 2048;
const VOCABULARY: usize = 32_000;
const TABLE_ROWS: usize = 512;
/// Positions, and rows of a run.
const CONTEXT: usize = 256;
const ROWS: usize = 16;

fn main() -> Result<(), Box<dyn Error>> {
    let usage = "usage: llama OUT.sfm [4|8]";
    let mut args = env::args().skip(1);
    let path = args.next().ok_or(usage)?;
    let format = match args.next().as_deref() {
        None | Some("8") => WeightFormat::I8,
        Some("4") => WeightFormat::I4,
        Some(_) => return Err(usage.into()),
    };
    let program = Llama { program: Program::new(Profile::Shift), format, seed: 0 }.build();
    let annotations =
        Annotations { inputs: program.inputs.clone(), outputs: program.outputs.clone(), ..Annotations::default() };
    fs::write(path, pack(&program, &plan_quickly(&program), &annotations, &[])?)?;
    Ok(())
}

struct Llama {
    program: Program,
    format: WeightFormat,
    seed: u64,
}

impl Llama {
    fn build(mut self) -> Program {
        self.program.state = Some(State { capacity: CONTEXT, rows: ROWS });
        let ids = self.tensor("ids", Dtype::I32, vec![1, ROWS]);
        self.program.inputs.push(endpoint("ids", ids, vec![1, ROWS]));
        let bytes = self.noise(2 * TABLE_ROWS * WIDTH);
        let table = self.program.weights.add(&bytes);
        let table = self
            .program
            .add_tensor(QTensor { constant: Some(table), ..tensor("table", Dtype::I16, vec![TABLE_ROWS, WIDTH]) });
        let gather = Gather { rows: TABLE_ROWS as u32, width: WIDTH as u32, n: ROWS as u32 };
        let mut x = self.op("embedding", Op::Gather(gather), &[table, ids], Dtype::I16, WIDTH);
        for layer in 0..LAYERS {
            x = self.layer(layer, x);
        }
        let x = self.norm("norm", x);
        let logits = self.linear("head", &[x], WIDTH, VOCABULARY, Dtype::I16);
        self.program.outputs.push(endpoint("logits", logits, vec![1, ROWS, VOCABULARY]));
        self.program
    }

    fn layer(&mut self, layer: usize, x: TensorIndex) -> TensorIndex {
        let name = |part: &str| format!("layers.{layer}.{part}");
        let normed = self.norm(&name("norm1"), x);
        let q = self.linear(&name("q"), &[normed], WIDTH, WIDTH, Dtype::I16);
        let k = self.linear(&name("k"), &[normed], WIDTH, WIDTH, Dtype::I16);
        let v = self.linear(&name("v"), &[normed], WIDTH, WIDTH, Dtype::I8);
        let (q, k) = (self.rotated(&name("q.rotated"), q), self.rotated(&name("k.rotated"), k));
        let (k, v) = (self.kept(&name("keys"), k), self.kept(&name("values"), v));
        let attended = self.op(&name("attention"), attention(), &[q, k, v], Dtype::I8, WIDTH);
        let x = self.linear(&name("out"), &[attended, x], WIDTH, WIDTH, Dtype::I16);
        let normed = self.norm(&name("norm2"), x);
        let gate = self.linear(&name("gate"), &[normed], WIDTH, HIDDEN, Dtype::I8);
        let table: Vec<i16> = (0..256).map(|i| (i - 128) * 40).collect();
        let lut = Lut { len: (ROWS * HIDDEN) as u32, table: self.program.weights.add_i16(&table) };
        let gate = self.op(&name("silu"), Op::Lut(lut), &[gate], Dtype::I16, HIDDEN);
        let up = self.linear(&name("up"), &[normed], WIDTH, HIDDEN, Dtype::I16);
        let dims = [1, 1, 1, 1, 1, (ROWS * HIDDEN) as u32];
        let (a, b) = (Extent::contiguous(dims), Extent::contiguous(dims));
        let mul = Mul { dims, a, b, zero_a: 0, zero_b: 0, acc_shift: 0, multiplier: 3000, zero_point: 0 };
        let gated = self.op(&name("gated"), Op::Mul(mul), &[gate, up], Dtype::I8, HIDDEN);
        self.linear(&name("down"), &[gated, x], HIDDEN, WIDTH, Dtype::I16)
    }

    fn norm(&mut self, name: &str, x: TensorIndex) -> TensorIndex {
        let gamma = self.program.weights.add_i32(&[40 << 19; WIDTH]);
        let beta = self.program.weights.add_i32(&[1 << 7; WIDTH]);
        let norm = LayerNorm { rows: ROWS as u32, n: WIDTH as u32, rms: true, eps: 1, gamma, beta };
        self.op(name, Op::LayerNorm(norm), &[x], Dtype::I8, WIDTH)
    }

    /// A layer, with a residual where there are two inputs.
    fn linear(&mut self, name: &str, inputs: &[TensorIndex], k: usize, n: usize, out: Dtype) -> TensorIndex {
        let weights = self.noise(PackedWeights::bytes_for(n, k, self.format));
        // Steps of the output spread over its range for such inputs and weights.
        let multiplier = if out == Dtype::I8 { 1 << 22 } else { 1 << 29 };
        let channels = n.next_multiple_of(PANEL);
        let dense = Dense {
            format: self.format,
            acc_shift: 0,
            zero_point: 0,
            weights: self.program.weights.add(&weights),
            bias: self.program.weights.add_i32(&vec![0; channels]),
            multipliers: self.program.weights.add_i32(&vec![multiplier; channels]),
            lut: Blob::NONE,
        };
        let residual_shift = u32::from(inputs.len() > 1);
        let op = Linear { rows: ROWS as u32, k: k as u32, n: n as u32, residual_shift, dense };
        self.op(name, Op::Linear(op), inputs, out, n)
    }

    fn rotated(&mut self, name: &str, x: TensorIndex) -> TensorIndex {
        let angle = |i: usize| [32_767, (i % 1000) as i16];
        let table: Vec<i16> = (0..CONTEXT * HEAD_DIM / 2).flat_map(angle).collect();
        let rope = Rope {
            rows: ROWS as u32,
            heads: HEADS as u32,
            head_dim: HEAD_DIM as u32,
            rotary: HEAD_DIM as u32,
            interleaved: false,
            capacity: CONTEXT as u32,
            acc_shift: 0,
            multiplier: 1 << 9,
            table: self.program.weights.add_i16(&table),
        };
        self.op(name, Op::Rope(rope), &[x], Dtype::I8, WIDTH)
    }

    fn kept(&mut self, name: &str, x: TensorIndex) -> TensorIndex {
        let state = tensor(name, Dtype::I8, vec![CONTEXT, WIDTH]);
        let state = self.program.add_tensor(QTensor { in_state: true, ..state });
        let op = Op::KvAppend(KvAppend { rows: ROWS as u32, width: WIDTH as u32, capacity: CONTEXT as u32 });
        let (name, inputs) = (name.to_owned(), vec![Some(x)]);
        self.program.ops.push(QOp { name, op, inputs, output: state, chained: false });
        state
    }

    fn op(&mut self, name: &str, op: Op, inputs: &[TensorIndex], dtype: Dtype, width: usize) -> TensorIndex {
        let output = self.tensor(name, dtype, vec![1, ROWS, width]);
        let inputs = inputs.iter().map(|&input| Some(input)).collect();
        self.program.ops.push(QOp { name: name.to_owned(), op, inputs, output, chained: false });
        output
    }

    fn tensor(&mut self, name: &str, dtype: Dtype, shape: Vec<usize>) -> TensorIndex {
        self.program.add_tensor(tensor(name, dtype, shape))
    }

    /// Bytes without pattern (splitmix64).
    fn noise(&mut self, bytes: usize) -> Vec<u8> {
        let mut next = || {
            self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let z = (self.seed ^ (self.seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            (z ^ (z >> 27)).to_le_bytes()
        };
        let mut noise: Vec<u8> = (0..bytes.div_ceil(8)).flat_map(|_| next()).collect();
        noise.truncate(bytes);
        noise
    }
}

fn attention() -> Op {
    let view = HeadView { offset: 0, batch: 0, head: HEAD_DIM as u32, row: WIDTH as u32 };
    Op::CausalAttention(CausalAttention {
        attention: AttentionParams {
            batch: 1,
            heads: HEADS as u32,
            kv_group: 1,
            n_q: ROWS as u32,
            n_k: CONTEXT as u32,
            head_dim: HEAD_DIM as u32,
            v_dim: HEAD_DIM as u32,
            wide_exp: false,
            acc_shift: 0,
            score_multiplier: 1 << 23,
            ratio_m: 24_000,
            ratio_shift: 14,
            zero_point: 0,
            q: view,
            k: view,
            v: view,
            out: view,
            bias0: BiasView::NONE,
            bias1: BiasView::NONE,
        },
    })
}

fn tensor(name: &str, dtype: Dtype, shape: Vec<usize>) -> QTensor {
    let (name, scale, zero) = (name.to_owned(), 1.0, 0.0);
    QTensor { name, dtype, shape, scale, zero, constant: None, source: None, window: 0, in_state: false }
}

fn endpoint(name: &str, tensor: TensorIndex, shape: Vec<usize>) -> Endpoint {
    Endpoint { name: name.to_owned(), tensor, shape, normalization: None, masks: false }
}
