//! Every operator with arithmetic, at the edge of what its certificate admits, over the worst inputs there are: with the
//! checked arithmetic of a test build no intermediate value leaves its type, and sums that are put out stay in the bounds.

use super::testing::{Random, Weights, run};
use super::*;
use crate::format::Blob;
use crate::kernels::{PANEL, PackedWeights};
use std::vec::Vec;

/// Values of one operand: least, greatest, alternating from either, drawn.
fn pattern(index: usize, dtype: Dtype, len: usize) -> Vec<i32> {
    let (min, max) = dtype.range();
    // 16-bit exponentials and probabilities are below 2^15.
    let max = if dtype == Dtype::U16 { i32::from(i16::MAX) } else { max };
    let mut random = Random(len as u64);
    let value = |i: usize| match index {
        0 => min,
        1 => max,
        2 => {
            if i.is_multiple_of(2) {
                min
            } else {
                max
            }
        }
        3 => {
            if i.is_multiple_of(2) {
                max
            } else {
                min
            }
        }
        _ => random.value(dtype).min(max),
    };
    (0..len).map(value).collect()
}

const PATTERNS: usize = 5;

/// Runs `op` over every combination of patterns; its certificate must exist.
fn survives(op: &impl Operator, weights: &Weights, inputs: &[(Dtype, usize)], output: (Dtype, usize)) {
    for combination in 0..PATTERNS.pow(inputs.len() as u32) {
        let choice = |input: usize| combination / PATTERNS.pow(input as u32) % PATTERNS;
        let values: Vec<Vec<i32>> =
            inputs.iter().enumerate().map(|(i, &(dtype, len))| pattern(choice(i), dtype, len)).collect();
        let operands: Vec<(Dtype, &[i32])> = inputs.iter().zip(&values).map(|(i, v)| (i.0, v.as_slice())).collect();
        let (proof, y) = run(op, weights, &operands, output).unwrap_or_else(|fault| panic!("{fault}"));
        proof.certificate().unwrap_or_else(|fault| panic!("{fault}"));
        if output.0 == Dtype::I32 {
            assert!(y.iter().all(|&y| (proof.acc.0..=proof.acc.1).contains(&i64::from(y))));
        }
    }
}

/// The greatest left shift for which `bound` still fits `i32`.
fn greatest_shift(bound: i64) -> u32 {
    (0..31).rev().find(|shift| bound << shift <= i64::from(i32::MAX)).unwrap_or(0)
}

const TYPES: [Dtype; 2] = [Dtype::I8, Dtype::I16];

/// A dense layer whose weights are all `w` (two nibbles `w` with 4 bits), of `n` channels.
fn dense(weights: &mut Weights, n: usize, k: usize, bits: u32, w: i8) -> linear::Dense {
    let byte = if bits == 8 { w } else { (w & 0xf) | w << 4 };
    let blob = weights.add(&std::vec![byte; PackedWeights::bytes_for(n, k, bits)]);
    let sign = if w < 0 { -1 } else { 1 };
    // The padding of K is not zero here, and counts in the bound.
    let most = (k.next_multiple_of(16) as i64 * 128 * i64::from(w.unsigned_abs())) + 1000;
    linear::Dense {
        weight_bits: bits,
        acc_shift: greatest_shift(most),
        zero_point: -32768,
        weights: blob,
        bias: weights.add(&std::vec![1000 * sign; n.next_multiple_of(PANEL)]),
        multipliers: weights.add(&std::vec![i32::MAX; n.next_multiple_of(PANEL)]),
        lut: Blob::NONE,
    }
}

/// The layer whose output are its sums.
fn sums(dense: linear::Dense) -> linear::Dense {
    linear::Dense { acc_shift: 0, multipliers: Blob::NONE, ..dense }
}

#[test]
fn dense_layers() {
    let (rows, k, n) = (6, 35, 5);
    for (bits, w) in [(8, -128), (8, 127), (4, -8), (4, 7)] {
        let mut weights = Weights::default();
        let dense = dense(&mut weights, n, k, bits, w);
        let op = |dense| linear::Linear { rows: rows as u32, k: k as u32, n: n as u32, residual_shift: 15, dense };
        for output in TYPES {
            survives(&op(dense), &weights, &[(Dtype::I8, rows * k)], (output, rows * n));
        }
        survives(&op(sums(dense)), &weights, &[(Dtype::I8, rows * k)], (Dtype::I32, rows * n));
        survives(&op(dense), &weights, &[(Dtype::I8, rows * k), (Dtype::I16, rows * n)], (Dtype::I16, rows * n));
    }
}

fn window(channels: u32) -> conv2d::Window {
    conv2d::Window {
        in_h: 5,
        in_w: 6,
        out_h: 3,
        out_w: 3,
        kernel_h: 3,
        kernel_w: 3,
        stride_h: 2,
        stride_w: 2,
        pad_top: 1,
        pad_left: 1,
        dilation_h: 1,
        dilation_w: 1,
        channel_stride: 1,
        row_stride: 6 * channels,
        column_stride: channels,
        pad_value: -128,
    }
}

#[test]
fn convolutions_and_pools() {
    let channels = 3;
    let image = [(Dtype::I8, 5 * 6 * channels)];
    for w in [-128, 127] {
        let mut weights = Weights::default();
        let whole = dense(&mut weights, 4, 9 * channels, 8, w);
        let op = |dense| conv2d::Conv2d { window: window(3), channels: channels as u32, groups: 1, n: 4, dense };
        survives(&op(whole), &weights, &image, (Dtype::I8, 9 * 4));
        survives(&op(whole), &weights, &image, (Dtype::I16, 9 * 4));
        survives(&op(sums(whole)), &weights, &image, (Dtype::I32, 9 * 4));
        let taps = weights.add(&std::vec![w; 9 * channels]);
        let dense = linear::Dense { weights: taps, acc_shift: greatest_shift(9 * 128 * 128 + 1000), ..whole };
        let op = depthwise::DepthwiseConv2d { window: window(3), channels: channels as u32, dense };
        survives(&op, &weights, &image, (Dtype::I8, 9 * channels));
    }
    let mut weights = Weights::default();
    let multipliers = weights.add(&[i32::MAX; 9]);
    for multipliers in [multipliers, Blob::NONE] {
        let acc_shift = greatest_shift(9 * 256);
        let op =
            pool::Pool2d { window: window(3), channels: channels as u32, acc_shift, zero_point: -128, multipliers };
        survives(&op, &weights, &image, (Dtype::I8, 9 * channels));
    }
}

#[test]
fn products() {
    let (m, n, k) = (7, 5, 300);
    for (a, bound) in [(Dtype::I8, 300 << 14), (Dtype::U16, 300 << 22)] {
        for b_transposed in [false, true] {
            let op = |acc_shift, multiplier| matmul::MatMul {
                batch: [1, 1, 2],
                m,
                n,
                k,
                a_batch: [0, 0, m * k],
                a_row: k,
                b_batch: [0, 0, n * k],
                b_row: if b_transposed { k } else { n },
                b_transposed,
                acc_shift,
                multiplier,
                zero_point: -32768,
            };
            let inputs = [(a, 2 * (m * k) as usize), (Dtype::I8, 2 * (n * k) as usize)];
            for output in [Dtype::I8, Dtype::I16, Dtype::I32] {
                let op = op(greatest_shift(bound), i32::MAX);
                survives(&op, &Weights::default(), &inputs, (output, 2 * (m * n) as usize));
            }
        }
    }
}

#[test]
fn attention_of_long_rows() {
    for (wide_exp, n_k) in [(true, attention::MAX_WIDE_ROW), (false, 700)] {
        let view = attention::HeadView { offset: 0, batch: 0, head: 0, row: 4 };
        let column = attention::BiasView { column: 1, ..attention::BiasView::NONE };
        let params = attention::AttentionParams {
            batch: 1,
            heads: 1,
            kv_group: 1,
            n_q: 2,
            n_k,
            head_dim: 4,
            v_dim: 4,
            wide_exp,
            acc_shift: greatest_shift(4 << 14),
            score_multiplier: i32::MAX,
            ratio_m: (1 << 15) - 1,
            ratio_shift: 10,
            zero_point: 128,
            q: view,
            k: view,
            v: view,
            out: view,
            bias0: column,
            bias1: attention::BiasView::NONE,
        };
        let rows = n_k as usize;
        let inputs = [(Dtype::I8, 8), (Dtype::I8, rows * 4), (Dtype::I8, rows * 4), (Dtype::I16, rows)];
        survives(&attention::Attention { attention: params }, &Weights::default(), &inputs, (Dtype::I8, 8));
    }
}

#[test]
fn softmax_and_its_published_form() {
    for input in TYPES {
        let bound = i64::from(input.range().1) + 1;
        let softmax = softmax::Softmax { rows: 2, n: 700, acc_shift: greatest_shift(bound), multiplier: i32::MAX };
        for output in TYPES {
            survives(&softmax, &Weights::default(), &[(input, 1400)], (output, 1400));
        }
        for (period, halvings) in [(1, 31), (u32::MAX / 31, 31), (u32::MAX / 15, 15), (20, 15), (1, 0)] {
            let op = shiftmax::Shiftmax { rows: 2, n: 700, period, halvings };
            for output in [Dtype::I8, Dtype::U16] {
                survives(&op, &Weights::default(), &[(input, 1400)], (output, 1400));
            }
        }
        for (period, halvings) in [(1, 31), (600, 23), (1, 0)] {
            let op = shiftgelu::ShiftGelu { rows: 2, n: 50, period, halvings };
            survives(&op, &Weights::default(), &[(input, 100)], (Dtype::I32, 100));
        }
    }
}

#[test]
fn normalizations() {
    for n in [1usize, 8, 4096] {
        for (gamma, beta) in [(i32::MAX, 1 << 30), (-i32::MAX, -(1 << 30))] {
            let mut weights = Weights::default();
            let (gamma, beta) = (weights.add(&std::vec![gamma; n]), weights.add(&std::vec![beta; n]));
            for (rms, eps) in [(false, 0), (false, crate::arith::norm::MAX_EPS), (true, 0)] {
                let op = layer_norm::LayerNorm { rows: 2, n: n as u32, rms, eps, gamma, beta };
                for input in TYPES {
                    survives(&op, &weights, &[(input, 2 * n)], (Dtype::I16, 2 * n));
                    survives(&op, &weights, &[(input, 2 * n)], (Dtype::I8, 2 * n));
                }
            }
        }
        for (bias, ratio) in [(1i64 << 53, [i32::MAX, 0]), (-(1 << 53), [-i32::MAX, 63]), (0, [i32::MAX, 31])] {
            let mut weights = Weights::default();
            let (bias, ratios) = (weights.add(&std::vec![bias; n]), weights.add(&std::vec![ratio; n]));
            let op = i_layer_norm::ILayerNorm { rows: 2, n: n as u32, bias, ratios };
            for input in TYPES {
                survives(&op, &weights, &[(input, 2 * n)], (Dtype::I16, 2 * n));
            }
        }
    }
}

#[test]
fn elementwise_operators() {
    let dims = [1, 1, 1, 1, 3, 7];
    let view = Extent::contiguous(dims);
    let weights = Weights::default();
    for a in [Dtype::I8, Dtype::U8, Dtype::I16] {
        let reach = i64::from(a.range().1) + 1;
        let most = (i64::from(i32::MAX) / (2 * reach) - 1) as i32;
        for (ma, mb, bias) in [(most, most, 1 << 15), (-most, -most, -(1 << 15)), (most, -most, 0)] {
            let op = add::Add { dims, a: view, b: view, ma, mb, bias, shift: 0 };
            survives(&op, &weights, &[(a, 21), (a, 21)], (Dtype::I16, 21));
        }
        let acc_shift = greatest_shift((reach + 255) * 383);
        for multiplier in [i32::MAX, -i32::MAX] {
            let op = mul::Mul {
                dims,
                a: view,
                b: view,
                zero_a: -255,
                zero_b: 255,
                acc_shift,
                multiplier,
                zero_point: 32768,
            };
            survives(&op, &weights, &[(a, 21), (Dtype::I8, 21)], (Dtype::I16, 21));
        }
        let requant = |zero_in| requant::Requant {
            len: 21,
            zero_in,
            acc_shift: greatest_shift(reach + 32768),
            multiplier: i32::MAX,
            zero_out: -32768,
        };
        survives(&requant(32768), &weights, &[(a, 21)], (Dtype::I16, 21));
        survives(&requant(-32768), &weights, &[(a, 21)], (Dtype::I8, 21));
    }
    for r in [1u32, 300, 65535] {
        let bound = (i64::from(r) << 15) + 1000;
        let op = reduce_mean::ReduceMean {
            outer: 1,
            r,
            inner: 2,
            bias: 1000,
            acc_shift: greatest_shift(bound),
            multiplier: i32::MAX,
            zero_point: 32768,
        };
        survives(&op, &weights, &[(Dtype::I16, 2 * r as usize)], (Dtype::I16, 2));
    }
    let mut weights = Weights::default();
    let ratios = weights.add(&[[i32::MAX, 0]]);
    let op = dyadic_requant::DyadicRequant { rows: 3, n: 7, ratios, identity_multiplier: -i32::MAX, identity_shift: 0 };
    survives(&op, &weights, &[(Dtype::I32, 21), (Dtype::I32, 21)], (Dtype::I16, 21));
}
