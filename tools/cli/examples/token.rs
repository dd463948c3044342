//! Writes a model of one dense layer over one token, 64 to 256 values of 8 bits, for counting its instructions:
//! `cargo run --release -p shiftformer-cli --example token -- OUT.sfm`.

use shiftformer::format::{Blob, Profile};
use shiftformer::ops::Op;
use shiftformer::ops::linear::{Dense, Linear};
use shiftformer::tensor::Dtype;
use shiftformer::weights::{PackedWeights, WeightFormat};
use shiftformer_convert::pack::{Annotations, pack};
use shiftformer_convert::program::plan::plan;
use shiftformer_convert::program::{Endpoint, Program, QOp, QTensor};
use std::error::Error;
use std::{env, fs};

/// Input and output width.
const WIDTHS: (usize, usize) = (64, 256);
/// Steps of the output spread over its range for random inputs and weights.
const MULTIPLIER: i32 = 6_000_000;

fn main() -> Result<(), Box<dyn Error>> {
    let path = env::args().nth(1).ok_or("usage: token OUT.sfm")?;
    let program = layer();
    let annotations =
        Annotations { inputs: program.inputs.clone(), outputs: program.outputs.clone(), ..Annotations::default() };
    fs::write(path, pack(&program, &plan(&program), &annotations, &[])?)?;
    Ok(())
}

fn layer() -> Program {
    let (k, n) = WIDTHS;
    let mut program = Program::new(Profile::Shift);
    let weights: Vec<i8> = (0..PackedWeights::bytes_for(n, k, WeightFormat::I8) as u32).map(noise).collect();
    let bias: Vec<i32> = (0..n as u32).map(|channel| i32::from(noise(channel)) * 100).collect();
    let dense = Dense {
        format: WeightFormat::I8,
        acc_shift: 0,
        zero_point: 3,
        weights: program.weights.add_i8(&weights),
        bias: program.weights.add_i32(&bias),
        multipliers: program.weights.add_i32(&vec![MULTIPLIER; n]),
        lut: Blob::NONE,
    };
    let [x, y] = [("x", k), ("y", n)].map(|(name, width)| endpoint(&mut program, name, width));
    let linear = Linear { rows: 1, k: k as u32, n: n as u32, residual_shift: 0, dense };
    let op = QOp {
        name: "token".to_owned(),
        op: Op::Linear(linear),
        inputs: vec![Some(x.tensor)],
        output: y.tensor,
        chained: false,
    };
    program.ops.push(op);
    program.inputs.push(x);
    program.outputs.push(y);
    program
}

fn endpoint(program: &mut Program, name: &str, width: usize) -> Endpoint {
    let name = name.to_owned();
    let shape = vec![1, width];
    let (dtype, scale, zero) = (Dtype::I8, 1.0, 0.0);
    let tensor = QTensor {
        name: name.clone(),
        dtype,
        shape: shape.clone(),
        scale,
        zero,
        constant: None,
        source: None,
        window: 0,
        in_state: false,
    };
    Endpoint { name, tensor: program.add_tensor(tensor), shape, normalization: None, masks: false }
}

/// Values without pattern: the top bits of a multiplicative hash.
fn noise(index: u32) -> i8 {
    (index.wrapping_add(1).wrapping_mul(0x9e37_79b9) >> 24) as i8
}
