//! Every operator, at the edge of what its certificate admits, over the worst inputs there are: with the checked arithmetic
//! of a test build no intermediate value leaves its type, and every value that can be observed stays in the certificate.

mod watch;

use super::testing::{Weights, run};
use super::*;
use crate::arith::ivit::{ILayerNormRow, ShiftExp};
use crate::format::Blob;
use crate::tensor::Dtype;
use crate::weights::{GROUP, PANEL, PackedWeights, WeightFormat};
use std::vec::Vec;
use watch::{Seen, in_kernels, survives};

/// The cases of one kind. A kind without a case does not compile.
fn cases(kind: OpKind) {
    match kind {
        OpKind::Linear => dense_layers(),
        OpKind::Conv2d => convolutions(),
        OpKind::DepthwiseConv2d => depthwise_convolutions(),
        OpKind::MatMul => products(),
        OpKind::Attention => attentions(attention),
        OpKind::AttentionScores => attentions(attention_scores),
        OpKind::AttentionExp => attentions(attention_exp),
        OpKind::AttentionValues => attentions(attention_values),
        OpKind::Softmax => softmaxes(),
        OpKind::LayerNorm => layer_norms(),
        OpKind::Add => sums_of_two(),
        OpKind::Mul => products_of_two(),
        OpKind::Lut => tables(),
        OpKind::Requant => requantizations(),
        OpKind::Copy => copies(),
        OpKind::Gather => gathers(),
        OpKind::ReduceMean => means(),
        OpKind::Pool2d => pools(),
        OpKind::DyadicRequant => dyadic_requantizations(),
        OpKind::Shiftmax => shiftmaxes(),
        OpKind::ShiftGelu => shift_gelus(),
        OpKind::ILayerNorm => i_layer_norms(),
        OpKind::KvAppend => kv_appends(),
        OpKind::CausalAttention => attentions(causal_attention),
        OpKind::WindowedAttention => attentions(windowed_attention),
        OpKind::Rope => ropes(),
        OpKind::LinearI16 => wide_dense_layers(),
        OpKind::Conv2dI16 => wide_convolutions(),
        OpKind::DepthwiseConv2dI16 => wide_depthwise_convolutions(),
        OpKind::MatMulI16 => wide_products(),
        OpKind::LutI16 => wide_tables(),
        OpKind::MaxPoolI16 => wide_maxima(),
        OpKind::Positions => positions(),
        OpKind::Embedding => embeddings(),
        OpKind::LmulLinear => lmul_layers(),
        OpKind::LookupLinear => lookup_layers(),
    }
}

#[test]
fn every_operator_stays_in_its_certificate() {
    for &kind in OpKind::ALL {
        std::println!("{}", kind.name());
        cases(kind);
    }
}

/// The largest left shift for which `bound` still fits `i32`.
fn max_shift(bound: i64) -> u32 {
    (0..31).rev().find(|shift| bound << shift <= i64::from(i32::MAX)).unwrap_or(0)
}

const TYPES: [Dtype; 2] = [Dtype::I8, Dtype::I16];

/// A dense layer whose weights are all `w`, of `n` channels.
fn dense(weights: &mut Weights, n: usize, k: usize, format: WeightFormat, w: i8) -> linear::Dense {
    let mut group = std::vec![0u8; format.group_bytes()];
    (0..GROUP).for_each(|at| format.put(&mut group, at, w));
    let groups = PackedWeights::bytes_for(n, k, format) / group.len();
    let blob = weights.add(&group.repeat(groups));
    let sign = if w < 0 { -1 } else { 1 };
    // The padding of K is not zero here, and counts in the bound.
    let most = (k.next_multiple_of(16) as i64 * 128 * i64::from(w.unsigned_abs())) + 1000;
    linear::Dense {
        format,
        acc_shift: max_shift(most),
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

/// Both ends of every format.
fn extremes() -> impl Iterator<Item = (WeightFormat, i8)> {
    WeightFormat::ALL.iter().flat_map(|&format| {
        let (low, high) = format.limits();
        [low, high].map(|w| (format, w as i8))
    })
}

fn dense_layers() {
    let (rows, k, n) = (6, 35, 5);
    for (format, w) in extremes() {
        let mut weights = Weights::default();
        let dense = dense(&mut weights, n, k, format, w);
        let op = |dense| linear::Linear { rows: rows as u32, k: k as u32, n: n as u32, residual_shift: 15, dense };
        for output in TYPES {
            survives(&op(dense), &weights, &[(Dtype::I8, rows * k)], (output, rows * n), in_kernels);
        }
        survives(&op(sums(dense)), &weights, &[(Dtype::I8, rows * k)], (Dtype::I32, rows * n), in_kernels);
        let inputs = [(Dtype::I8, rows * k), (Dtype::I16, rows * n)];
        survives(&op(dense), &weights, &inputs, (Dtype::I16, rows * n), in_kernels);
    }
}

/// Halves whose low sums start at the far end, and the left shift that the bound leaves.
fn halves(weights: &mut Weights, n: usize, k: usize, w: i8, drop: u32) -> (halves::Halves, u32) {
    let sign = if w < 0 { -1 } else { 1 };
    let low_bias = weights.add(&std::vec![100_000 * sign; n.next_multiple_of(PANEL)]);
    let high = k.next_multiple_of(16) as i64 * 128 * i64::from(w.unsigned_abs()) + 1000;
    let most = (high << (8 - drop)) + ((high + 100_000) >> drop) + 1;
    (halves::Halves { drop, low_bias }, max_shift(most))
}

fn wide_dense_layers() {
    let (rows, n) = (6, 5);
    for (format, w) in extremes() {
        for (k, drop) in [(35, 0), (35, 8), (3000, 3)] {
            let mut weights = Weights::default();
            let (halves, acc_shift) = halves(&mut weights, n, k, w, drop);
            let dense = linear::Dense { acc_shift, ..dense(&mut weights, n, k, format, w) };
            let linear = linear::Linear { rows: rows as u32, k: k as u32, n: n as u32, residual_shift: 15, dense };
            let op = linear_i16::LinearI16 { linear, halves };
            for output in TYPES {
                survives(&op, &weights, &[(Dtype::I16, rows * k)], (output, rows * n), |inputs, seen| {
                    for row in inputs[0].chunks(k) {
                        let of = |half: &dyn Fn(i32) -> i32| row.iter().map(|&x| half(x) * i32::from(w)).sum::<i32>();
                        let sign = i32::from(w).signum();
                        let high = of(&|x| (x.min(32639) + 128) >> 8) + 1000 * sign;
                        let low = of(&|x| i32::from(x.min(32639) as i8)) + 100_000 * sign;
                        seen.scaled((high << (8 - drop)) + (low >> drop), acc_shift, i32::MAX);
                    }
                });
            }
            let inputs = [(Dtype::I16, rows * k), (Dtype::I16, rows * n)];
            survives(&op, &weights, &inputs, (Dtype::I16, rows * n), in_kernels);
        }
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

fn convolutions() {
    let channels = 3;
    let image = [(Dtype::I8, 5 * 6 * channels)];
    for w in [-128, 127] {
        let mut weights = Weights::default();
        let whole = dense(&mut weights, 4, 9 * channels, WeightFormat::I8, w);
        let op = |dense| conv2d::Conv2d { window: window(3), channels: channels as u32, groups: 1, n: 4, dense };
        for (dense, output) in [(whole, Dtype::I8), (whole, Dtype::I16), (sums(whole), Dtype::I32)] {
            survives(&op(dense), &weights, &image, (output, 9 * 4), in_kernels);
        }
    }
}

fn wide_convolutions() {
    let channels = 3;
    let image = [(Dtype::I16, 5 * 6 * channels)];
    for w in [-128, 127] {
        for drop in [0, 5] {
            let mut weights = Weights::default();
            let (halves, acc_shift) = halves(&mut weights, 4, 9 * channels, w, drop);
            let dense = dense(&mut weights, 4, 9 * channels, WeightFormat::I8, w);
            let dense = linear::Dense { acc_shift, ..dense };
            let conv = conv2d::Conv2d { window: window(3), channels: channels as u32, groups: 1, n: 4, dense };
            for output in TYPES {
                survives(&conv2d_i16::Conv2dI16 { conv, halves }, &weights, &image, (output, 9 * 4), in_kernels);
            }
        }
    }
}

fn wide_depthwise_convolutions() {
    let channels = 3;
    for w in [-128, 127] {
        let mut weights = Weights::default();
        let whole = dense(&mut weights, channels, 9, WeightFormat::I8, w);
        let taps = weights.add(&std::vec![w; 9 * channels]);
        let dense = linear::Dense { weights: taps, acc_shift: max_shift(9 * 128 * 32768 + 1000), ..whole };
        let conv = depthwise::DepthwiseConv2d { window: window(3), channels: channels as u32, dense };
        let op = depthwise_i16::DepthwiseConv2dI16 { conv };
        for output in TYPES {
            survives(&op, &weights, &[(Dtype::I16, 5 * 6 * channels)], (output, 9 * channels), |inputs, seen| {
                windows(channels, &inputs[0], |_, taps| {
                    let sum: i32 = taps.iter().map(|x| x.unwrap_or(-128) * i32::from(w)).sum();
                    seen.scaled(sum + 1000 * i32::from(w).signum(), dense.acc_shift, i32::MAX);
                });
            });
        }
    }
}

fn wide_products() {
    let (m, n) = (7, 5);
    for (k, drop) in [(300, 0), (300, 8), (3000, 3)] {
        for b_transposed in [false, true] {
            let most = (i64::from(k) << (14 + 8 - drop)) + (((i64::from(k) << 14) + 128) >> drop);
            let product = matmul::MatMul {
                batch: [1, 1, 2],
                m,
                n,
                k,
                a_batch: [0, 0, m * k],
                a_row: k,
                b_batch: [0, 0, n * k],
                b_row: if b_transposed { k } else { n },
                b_transposed,
                acc_shift: max_shift(most),
                multiplier: i32::MAX,
                zero_point: -32768,
            };
            let op = matmul_i16::MatMulI16 { product, drop };
            let inputs = [(Dtype::I16, 2 * (m * k) as usize), (Dtype::I8, 2 * (n * k) as usize)];
            for output in TYPES {
                survives(&op, &Weights::default(), &inputs, (output, 2 * (m * n) as usize), |inputs, seen| {
                    let columns = |j: usize| {
                        (0..k as usize).map(move |i| if b_transposed { j * k as usize + i } else { i * n as usize + j })
                    };
                    for row in inputs[0][..(m * k) as usize].chunks(k as usize) {
                        for j in 0..n as usize {
                            let products = row
                                .iter()
                                .zip(columns(j))
                                .map(|(&a, b)| i64::from(a.min(32639)) * i64::from(inputs[1][b]));
                            let half = if drop > 0 { 1 << (drop - 1) } else { 0 };
                            seen.scaled((products.sum::<i64>() + half) >> drop, op.product.acc_shift, i32::MAX);
                        }
                    }
                });
            }
        }
    }
}

/// No arithmetic.
fn wide_maxima() {
    let op = max_pool_i16::MaxPoolI16 { window: window(3), channels: 3 };
    survives(&op, &Weights::default(), &[(Dtype::I16, 5 * 6 * 3)], (Dtype::I16, 9 * 3), in_kernels);
}

/// No sums: lines between entries stay in their type.
fn wide_tables() {
    let mut weights = Weights::default();
    let ends: Vec<i16> = (0..lut_i16::ENTRIES).map(|i| if i % 2 == 0 { i16::MIN } else { i16::MAX }).collect();
    let op = lut_i16::LutI16 { len: 40, table: weights.add(&ends) };
    survives(&op, &weights, &[(Dtype::I16, 40)], (Dtype::I16, 40), in_kernels);
}

/// For each channel and output pixel of [`window`] over `x`, the values in the image and how many are outside.
fn windows(channels: usize, x: &[i32], mut visit: impl FnMut(usize, &[Option<i32>])) {
    let window = window(channels as u32);
    for pixel in 0..window.pixels() {
        for channel in 0..channels {
            let taps: Vec<_> = window.taps(pixel).map(|tap| tap.map(|at| x[at + channel])).collect();
            visit(channel, &taps);
        }
    }
}

fn depthwise_convolutions() {
    let channels = 3;
    for w in [-128, 127] {
        let mut weights = Weights::default();
        let whole = dense(&mut weights, channels, 9, WeightFormat::I8, w);
        let taps = weights.add(&std::vec![w; 9 * channels]);
        let dense = linear::Dense { weights: taps, acc_shift: max_shift(9 * 128 * 128 + 1000), ..whole };
        let op = depthwise::DepthwiseConv2d { window: window(3), channels: channels as u32, dense };
        for output in TYPES {
            survives(&op, &weights, &[(Dtype::I8, 5 * 6 * channels)], (output, 9 * channels), |inputs, seen| {
                windows(channels, &inputs[0], |_, taps| {
                    let sum: i32 = taps.iter().map(|x| x.unwrap_or(-128) * i32::from(w)).sum();
                    seen.scaled(sum + 1000 * i32::from(w).signum(), dense.acc_shift, i32::MAX);
                });
            });
        }
    }
}

fn pools() {
    let channels = 3;
    let mut weights = Weights::default();
    let average = weights.add(&[i32::MAX; 9]);
    for (multipliers, pad_value) in [(average, -128), (average, 127), (Blob::NONE, 0)] {
        let acc_shift = max_shift(9 * 256);
        let window = conv2d::Window { pad_value, ..window(3) };
        let op = pool::Pool2d { window, channels: channels as u32, acc_shift, zero_point: -128, multipliers };
        let image = [(Dtype::I8, 5 * 6 * channels)];
        survives(&op, &weights, &image, (Dtype::I8, 9 * channels), |inputs, seen| {
            if multipliers.is_some() {
                windows(channels, &inputs[0], |_, taps| {
                    let sum: i32 = taps.iter().flatten().map(|x| x - pad_value).sum();
                    seen.scaled(sum, acc_shift, i32::MAX);
                });
            }
        });
    }
}

fn products() {
    let (m, n, k) = (7, 5, 300);
    for (a, bound) in [(Dtype::I8, 300 << 14), (Dtype::U16, 300 << 22)] {
        for b_transposed in [false, true] {
            let op = matmul::MatMul {
                batch: [1, 1, 2],
                m,
                n,
                k,
                a_batch: [0, 0, m * k],
                a_row: k,
                b_batch: [0, 0, n * k],
                b_row: if b_transposed { k } else { n },
                b_transposed,
                acc_shift: max_shift(bound),
                multiplier: i32::MAX,
                zero_point: -32768,
            };
            let inputs = [(a, 2 * (m * k) as usize), (Dtype::I8, 2 * (n * k) as usize)];
            for output in [Dtype::I8, Dtype::I16, Dtype::I32] {
                survives(&op, &Weights::default(), &inputs, (output, 2 * (m * n) as usize), |inputs, seen| {
                    let columns = |j: usize| {
                        (0..k as usize).map(move |i| if b_transposed { j * k as usize + i } else { i * n as usize + j })
                    };
                    for row in inputs[0][..(m * k) as usize].chunks(k as usize) {
                        for j in 0..n as usize {
                            let dot: i32 = row.iter().zip(columns(j)).map(|(&a, b)| a.min(32767) * inputs[1][b]).sum();
                            seen.acc(dot);
                        }
                    }
                });
            }
        }
    }
}

/// The longest rows of either width of exponentials, with scores and outputs scaled as far as they may be.
fn attentions(case: impl Fn(attention::AttentionParams)) {
    for (wide_exp, n_k, head_dim) in [(true, attention::MAX_WIDE_ROW, 4), (false, 700, 4), (false, 3, 1 << 12)] {
        let view = attention::HeadView { offset: 0, batch: 0, head: 0, row: head_dim };
        let column = attention::BiasView { column: 1, ..attention::BiasView::NONE };
        case(attention::AttentionParams {
            batch: 1,
            heads: 1,
            kv_group: 1,
            n_q: 2,
            n_k,
            head_dim,
            v_dim: 4,
            wide_exp,
            acc_shift: max_shift(i64::from(head_dim) << 14),
            score_multiplier: i32::MAX,
            ratio_m: (1 << 15) - 1,
            ratio_shift: 10,
            zero_point: 128,
            q: view,
            k: view,
            v: attention::HeadView { row: 4, ..view },
            out: attention::HeadView { row: 4, ..view },
            bias0: column,
            bias1: column,
        });
    }
}

fn attention(attention: attention::AttentionParams) {
    let (n_k, width) = (attention.n_k as usize, attention.head_dim as usize);
    let inputs = [(Dtype::I8, 2 * width), (Dtype::I8, n_k * width), (Dtype::I8, n_k * 4), (Dtype::I16, n_k)];
    survives(&attention::Attention { attention }, &Weights::default(), &inputs, (Dtype::I8, 8), in_kernels);
}

/// The last row sees every key there may be.
fn causal_attention(attention: attention::AttentionParams) {
    let (n_k, width) = (attention.n_k as usize, attention.head_dim as usize);
    let inputs = [(Dtype::I8, 2 * width), (Dtype::I8, n_k * width), (Dtype::I8, n_k * 4)];
    let op = attention::causal::CausalAttention { attention };
    for pos in [0, n_k / 2, n_k - 2] {
        super::testing::at_position(pos as u32, || {
            survives(&op, &Weights::default(), &inputs, (Dtype::I8, 8), in_kernels);
        });
    }
}

/// As much as the window and no more, before and behind the end of a ring.
fn windowed_attention(attention: attention::AttentionParams) {
    let (n_k, width) = (attention.n_k as usize, attention.head_dim as usize);
    let inputs = [(Dtype::I8, 2 * width), (Dtype::I8, n_k * width), (Dtype::I8, n_k * 4)];
    for window in [1, attention.n_k] {
        let op = attention::causal::WindowedAttention { attention, window };
        for pos in [0, n_k / 2, n_k - 2, 3 * n_k] {
            super::testing::at_position(pos as u32, || {
                survives(&op, &Weights::default(), &inputs, (Dtype::I8, 8), in_kernels);
            });
        }
    }
}

/// No arithmetic: only the state may be written.
fn kv_appends() {
    let op = kv_append::KvAppend { rows: 2, width: 3, capacity: 4 };
    let ran = run(&op, &Weights::default(), &[(Dtype::I8, &[0; 6])], (Dtype::I8, 12));
    assert_eq!(ran.err(), Some(OpFault::Operand));
}

/// No arithmetic: rows of a constant.
fn positions() {
    let op = positions::Positions { rows: 2, width: 3, capacity: 4 };
    let ran = run(&op, &Weights::default(), &[(Dtype::I8, &[0; 12])], (Dtype::I8, 6));
    assert_eq!(ran.err(), Some(OpFault::Operand));
}

fn ropes() {
    let (rows, heads, head_dim, rotary, capacity) = (3u32, 2u32, 6u32, 4u32, 7u32);
    for (dtype, halved) in [(Dtype::I8, 0), (Dtype::I16, 1)] {
        for (interleaved, angle) in [(false, i16::MIN), (true, i16::MIN), (false, i16::MAX), (true, i16::MAX)] {
            let mut weights = Weights::default();
            let table = weights.add(&std::vec![angle; (capacity * rotary) as usize]);
            let acc_shift = max_shift(if dtype == Dtype::I8 { 1 << 23 } else { 1 << 30 });
            let multiplier = i32::MAX;
            let op = rope::Rope { rows, heads, head_dim, rotary, interleaved, capacity, acc_shift, multiplier, table };
            let len = (rows * heads * head_dim) as usize;
            survives(&op, &weights, &[(dtype, len)], (Dtype::I8, len), |inputs, seen| {
                for head in inputs[0].chunks(head_dim as usize) {
                    for pair in 0..rotary as usize / 2 {
                        let [a, b] =
                            if interleaved { [2 * pair, 2 * pair + 1] } else { [pair, pair + rotary as usize / 2] };
                        let [a, b] = [head[a], head[b]].map(|x| x * (i32::from(angle) >> halved));
                        [a - b, b + a].iter().for_each(|&acc| seen.scaled(acc, acc_shift, multiplier));
                    }
                    let rest = &head[rotary as usize..];
                    rest.iter().for_each(|x| seen.scaled(x << (15 - halved), acc_shift, multiplier));
                }
            });
        }
    }
}

fn attention_scores(attention: attention::AttentionParams) {
    let (n_k, width) = (attention.n_k as usize, attention.head_dim as usize);
    // The operand of the values is not read.
    let inputs =
        [(Dtype::I8, 2 * width), (Dtype::I8, n_k * width), (Dtype::I8, 1), (Dtype::I16, n_k), (Dtype::I16, n_k)];
    let op = attention::AttentionScores { attention };
    survives(&op, &Weights::default(), &inputs, (Dtype::I32, 2 * n_k), in_kernels);
}

fn attention_exp(attention: attention::AttentionParams) {
    let len = 2 * attention.n_k as usize;
    let output = if attention.wide_exp { Dtype::U16 } else { Dtype::U8 };
    let op = attention::AttentionExp { attention };
    survives(&op, &Weights::default(), &[(Dtype::I32, len)], (output, len), in_kernels);
}

fn attention_values(attention: attention::AttentionParams) {
    let n_k = attention.n_k as usize;
    let (exp, most) = if attention.wide_exp { (Dtype::U16, 32640) } else { (Dtype::U8, 255) };
    let op = attention::AttentionValues { attention };
    let inputs = [(exp, 2 * n_k), (Dtype::I8, 1), (Dtype::I8, n_k * 4)];
    survives(&op, &Weights::default(), &inputs, (Dtype::I8, 8), |inputs, seen| {
        for row in inputs[0].chunks(n_k) {
            let weights = || row.iter().map(|&e| e.min(most));
            seen.row_sum(weights().sum::<i32>());
            for column in 0..4 {
                let values = inputs[2].iter().skip(column).step_by(4);
                seen.scaled(weights().zip(values).map(|(e, v)| e * v).sum::<i32>(), 0, i32::MAX);
            }
        }
    });
}

fn softmaxes() {
    for input in TYPES {
        let bound = i64::from(input.range().1) + 1;
        let op = softmax::Softmax { rows: 2, n: 700, acc_shift: max_shift(bound), multiplier: i32::MAX };
        for output in TYPES {
            survives(&op, &Weights::default(), &[(input, 1400)], (output, 1400), |_, seen| {
                seen.scaled(32640 << (output.bytes() * 8 - 1), 0, i32::MAX);
            });
        }
    }
}

fn layer_norms() {
    for n in [1usize, 8, 4096] {
        for (gamma, beta) in [(i32::MAX, 1 << 30), (i32::MIN, -(1 << 30))] {
            let mut weights = Weights::default();
            let (gamma, beta) = (weights.add(&std::vec![gamma; n]), weights.add(&std::vec![beta; n]));
            for (rms, eps) in [(false, 0), (false, crate::arith::norm::MAX_EPS), (true, 0)] {
                let op = layer_norm::LayerNorm { rows: 2, n: n as u32, rms, eps, gamma, beta };
                for input in TYPES {
                    for output in TYPES {
                        survives(&op, &weights, &[(input, 2 * n)], (output, 2 * n), |inputs, seen| {
                            inputs[0].chunks(n).for_each(|row| normalized(row, &op, seen));
                        });
                    }
                }
            }
        }
    }
}

/// What a row goes through behind its statistics: see [`crate::arith::norm`].
fn normalized(row: &[i32], op: &layer_norm::LayerNorm, seen: &mut Seen) {
    let norm = crate::arith::norm::RowNorm::new(row.iter().copied(), op.n, op.rms, op.eps);
    let affine = norm.affine();
    for &x in row {
        let sum = affine.factor.wrapping_mul(x).wrapping_add(affine.offset);
        // The sum is modulo 2^32: what it stands for is in the range that was proven.
        seen.scaled(sum >> affine.right, 0, affine.rsqrt);
        let t = norm.normalize(x);
        seen.product(i128::from(t) * i128::from(i32::MIN));
        for (gamma, beta) in [(i32::MAX, 1 << 30), (i32::MIN, -(1 << 30))] {
            let scaled = (i64::from(t) * i64::from(gamma) + (1 << 31)) >> 32;
            seen.acc(scaled + beta);
        }
    }
}

const DIMS: Dims = [1, 1, 1, 1, 3, 7];
const LEN: usize = 21;
const OPERANDS: [Dtype; 3] = [Dtype::I8, Dtype::U8, Dtype::I16];

fn sums_of_two() {
    let view = Extent::contiguous(DIMS);
    for a in OPERANDS {
        let reach = i64::from(a.range().1) + 1;
        let most = (i64::from(i32::MAX) / (2 * reach) - 1) as i32;
        for (ma, mb, bias) in [(most, most, 1 << 15), (-most, -most, -(1 << 15)), (most, -most, 0)] {
            let op = add::Add { dims: DIMS, a: view, b: view, ma, mb, bias, shift: 0 };
            survives(&op, &Weights::default(), &[(a, LEN), (a, LEN)], (Dtype::I16, LEN), |inputs, seen| {
                for (&a, &b) in inputs[0].iter().zip(&inputs[1]) {
                    for sum in [a * ma, b * mb, a * ma + b * mb, a * ma + b * mb + bias] {
                        seen.acc(sum);
                    }
                }
            });
        }
    }
}

fn products_of_two() {
    let view = Extent::contiguous(DIMS);
    for a in OPERANDS {
        let acc_shift = max_shift((i64::from(a.range().1) + 256) * 383);
        for multiplier in [i32::MAX, -i32::MAX] {
            let op = mul::Mul {
                dims: DIMS,
                a: view,
                b: view,
                zero_a: -255,
                zero_b: 255,
                acc_shift,
                multiplier,
                zero_point: 32768,
            };
            survives(&op, &Weights::default(), &[(a, LEN), (Dtype::I8, LEN)], (Dtype::I16, LEN), |inputs, seen| {
                for (a, b) in inputs[0].iter().zip(&inputs[1]) {
                    seen.scaled((a + 255) * (b - 255), acc_shift, multiplier);
                }
            });
        }
    }
}

fn tables() {
    let mut weights = Weights::default();
    let (narrow, wide) = (weights.add(&[-128i8; 256]), weights.add(&[i16::MAX; 256]));
    for (table, output) in [(narrow, Dtype::I8), (wide, Dtype::I16)] {
        let op = lut::Lut { len: 9, table };
        survives(&op, &weights, &[(Dtype::I8, 9)], (output, 9), in_kernels);
    }
}

fn requantizations() {
    for input in OPERANDS {
        for (zero_in, output) in [(32768, Dtype::I16), (-32768, Dtype::I8)] {
            let acc_shift = max_shift(i64::from(input.range().1) + 1 + 32768);
            let op = requant::Requant { len: LEN as u32, zero_in, acc_shift, multiplier: i32::MAX, zero_out: -32768 };
            survives(&op, &Weights::default(), &[(input, LEN)], (output, LEN), in_kernels);
        }
    }
}

fn copies() {
    let view = Extent::contiguous(DIMS);
    for (from, to, flip, y) in
        [(Dtype::I8, Dtype::U8, 255, 0), (Dtype::I16, Dtype::U16, 0, 65535), (Dtype::I32, Dtype::I32, 0, -1)]
    {
        let op = copy::Copy { dims: DIMS, from: view, to: view, flip, partial: false };
        let copied = run(&op, &Weights::default(), &[(from, &[-1; LEN])], (to, LEN)).unwrap();
        assert_eq!(copied, (Proof::NONE, std::vec![y; LEN]));
    }
}

/// Ids beyond the table end the run, whatever they are; the others copy, negative ones from the end.
fn gathers() {
    let op = gather::Gather { rows: 3, width: 2, n: 2 };
    let gather = |ids: [i32; 2]| {
        let inputs: [(Dtype, &[i32]); 2] = [(Dtype::I16, &[-32768, 32767, 0, 1, -1, -32768]), (Dtype::I32, &ids)];
        run(&op, &Weights::default(), &inputs, (Dtype::I16, 4)).map(|(_, y)| y)
    };
    assert_eq!(gather([0, 2]).unwrap(), [-32768, 32767, -1, -32768]);
    assert_eq!(gather([-3, -1]).unwrap(), [-32768, 32767, -1, -32768]);
    for id in [i32::MIN, -4, 3, i32::MAX] {
        assert!(gather([0, id]).is_err());
    }
}

/// The widest elements times the largest scale, at the largest shift that their product has room for. Ids beyond the table
/// end the run.
fn embeddings() {
    use embedding::{Embedding, IdPart, TableFormat};
    for element in [i8::MIN, i8::MAX] {
        let mut weights = Weights::default();
        let op = Embedding {
            rows: 2,
            width: 2,
            n: 2,
            format: TableFormat::I8,
            parts: 0,
            part: IdPart::Whole,
            divisor: 1,
            limit: 2,
            acc_shift: 8,
            multiplier: i32::MAX,
            codes: weights.add(&[element; 4]),
            books: Blob::NONE,
            scales: weights.add(&[u16::MAX, 1]),
        };
        let embed = |op: &Embedding, ids: [i32; 2]| run(op, &weights, &[(Dtype::I32, &ids)], (Dtype::I16, 4));
        let (proof, y) = embed(&op, [0, -1]).unwrap();
        let edge = if element < 0 { -32768 } else { 32767 };
        assert_eq!(y, [edge, edge, i32::from(element) * 128, i32::from(element) * 128]);
        assert_eq!(proof.acc, (-128 * 65535, 128 * 65535));
        assert!(proof.certificate().is_ok());
        assert!(Proof { acc_shift: 9, ..proof }.certificate().is_err());
        for id in [i32::MIN, -3, 2, i32::MAX] {
            assert!(embed(&op, [0, id]).is_err());
        }
    }
}

/// The largest patterns, of either sign, in sums that fill 32 bits.
fn lmul_layers() {
    use crate::arith::lmul::{Fixed, FloatFormat};
    for (format, pattern, base) in
        [(FloatFormat::E4m3, Dtype::I8, 4), (FloatFormat::E5m2, Dtype::I8, 38), (FloatFormat::Bf16, Dtype::I16, 480)]
    {
        let (k, top, mut weights) = (4u32, 22, Weights::default());
        let w: Vec<i16> = std::vec![-1, i16::MAX, -1, 0x0100, i16::MAX, 0, i16::MIN, -1];
        let w8: Vec<i8> = w.iter().map(|&w| if w == 0 { 0 } else { (w >> 8) as i8 | w as i8 & 0x7f }).collect();
        let op = lmul_linear::LmulLinear {
            rows: 1,
            k,
            n: 2,
            format,
            base,
            top,
            acc_shift: 0,
            zero_point: -32768,
            weights: if format == FloatFormat::Bf16 { weights.add(&w) } else { weights.add(&w8) },
            bias: weights.add(&[1 << 20, -(1 << 20)]),
            multipliers: weights.add(&[i32::MAX, i32::MAX]),
        };
        let fixed = Fixed { format, base, top };
        survives(&op, &weights, &[(pattern, k as usize)], (Dtype::I8, 2), |inputs, seen| {
            for (channel, bias) in [(0, 1 << 20), (1, -(1 << 20))] {
                let mut acc = bias;
                for (i, &x) in inputs[0].iter().enumerate() {
                    let at = channel * k as usize + i;
                    let w = if format == FloatFormat::Bf16 { w[at] as u16 as u32 } else { w8[at] as u8 as u32 };
                    acc += fixed.product(x as u32, w);
                    seen.acc(acc);
                }
                seen.scaled(acc, 0, i32::MAX);
            }
        });
    }
}

/// Factors of 1 and the largest entries of either sign, in sums that fill 32 bits.
fn lookup_layers() {
    use lookup_linear::{ENTRY_ZERO, MAX_WEIGHT, ONE};
    for entry in [0u8, 255] {
        let (chunks, chunk, mut weights) = (7u32, 2u32, Weights::default());
        let bias: i32 = 1_000_000 * if entry == 0 { -1 } else { 1 };
        let one = i32::from(entry) - ENTRY_ZERO as i32;
        let most = i64::from(chunks * MAX_WEIGHT) * i64::from(one.unsigned_abs()) + i64::from(bias.unsigned_abs());
        let op = lookup_linear::LookupLinear {
            rows: 1,
            k: chunks * chunk,
            n: 3,
            chunk,
            x_zero: 0,
            acc_shift: max_shift(most),
            zero_point: -32768,
            factors: weights.add(&[ONE as u16; 256]),
            tables: weights.add(&std::vec![entry; (chunks * 4 * 4) as usize]),
            bias: weights.add(&[bias; 3]),
            multipliers: weights.add(&[i32::MAX; 3]),
        };
        survives(&op, &weights, &[(Dtype::I8, op.k as usize)], (Dtype::I16, 3), |_, seen| {
            let mut acc = bias;
            for _ in 0..chunks {
                acc += MAX_WEIGHT as i32 * one;
                seen.acc(acc);
            }
            seen.scaled(acc, op.acc_shift, i32::MAX);
        });
    }
}

fn means() {
    for r in [1u32, 300, 65535] {
        let acc_shift = max_shift((i64::from(r) << 15) + 1000);
        for multiplier in [i32::MAX, -i32::MAX] {
            let op =
                reduce_mean::ReduceMean { outer: 1, r, inner: 2, bias: 1000, acc_shift, multiplier, zero_point: 32768 };
            survives(&op, &Weights::default(), &[(Dtype::I16, 2 * r as usize)], (Dtype::I16, 2), |inputs, seen| {
                for column in 0..2 {
                    let sum: i32 = inputs[0].iter().skip(column).step_by(2).sum();
                    seen.scaled(sum + 1000, acc_shift, multiplier);
                }
            });
        }
    }
}

fn dyadic_requantizations() {
    for (x, identity) in [(Dtype::I32, Dtype::I32), (Dtype::U16, Dtype::I8), (Dtype::I8, Dtype::I32)] {
        for ([m, s], [own_m, own_s]) in
            [([i32::MAX, 0], [-i32::MAX, 0]), ([1 << 30, 31], [i32::MAX, 62]), ([-i32::MAX, 63], [1, 0])]
        {
            let mut weights = Weights::default();
            let ratios = weights.add(&[[m, s]]);
            let (identity_multiplier, identity_shift) = (own_m, own_s as u32);
            let op = dyadic_requant::DyadicRequant { rows: 3, n: 7, ratios, identity_multiplier, identity_shift };
            let ratio = dyadic_requant::Ratio { multiplier: m, shift: s };
            let own = dyadic_requant::Ratio { multiplier: own_m, shift: own_s };
            survives(&op, &weights, &[(x, LEN), (identity, LEN)], (Dtype::I16, LEN), |inputs, seen| {
                for (&x, &identity) in inputs[0].iter().zip(&inputs[1]) {
                    seen.acc(x);
                    seen.acc(identity);
                    seen.product(i128::from(x) * i128::from(m));
                    seen.product(i128::from(identity) * i128::from(own_m));
                    seen.wide(i128::from(ratio.apply(x)) + i128::from(own.apply(identity)));
                }
            });
        }
    }
}

/// `floor((2^31 - 1) / sum)`, the sum limited to `2^31 - 1`.
fn reciprocal(sum: u128) -> i128 {
    i128::from(i32::MAX) / (sum as i128).min(i32::MAX.into())
}

fn shiftmaxes() {
    for input in TYPES {
        for (period, halvings) in [(1, 31), (u32::MAX / 31, 31), (u32::MAX / 15, 15), (20, 15), (1, 0), (u32::MAX, 0)] {
            let op = shiftmax::Shiftmax { rows: 2, n: 700, period, halvings };
            let exp = ShiftExp::new(period, halvings).unwrap();
            for output in [Dtype::I8, Dtype::U16] {
                survives(&op, &Weights::default(), &[(input, 1400)], (output, 1400), |inputs, seen| {
                    for row in inputs[0].chunks(700) {
                        let max = *row.iter().max().unwrap();
                        let exps = || row.iter().map(|&x| u128::from(exp.exp(i64::from(x - max))));
                        let sum = exps().sum::<u128>();
                        seen.row_sum(sum.min(u64::MAX.into()) as i128);
                        row.iter().for_each(|&x| seen.acc((x - max) + ((x - max) >> 1) - ((x - max) >> 4)));
                        exps().for_each(|e| seen.product(e as i128 * reciprocal(sum)));
                    }
                });
            }
        }
    }
}

fn shift_gelus() {
    for input in TYPES {
        for (period, halvings) in [(1, 31), (600, 23), (1, 0), (1 << 14, 17)] {
            let op = shiftgelu::ShiftGelu { rows: 2, n: 50, period, halvings };
            let exp = ShiftExp::new(period, halvings).unwrap();
            survives(&op, &Weights::default(), &[(input, 100)], (Dtype::I32, 100), |inputs, seen| {
                for row in inputs[0].chunks(50) {
                    let max = *row.iter().max().unwrap();
                    for &x in row {
                        let e = u128::from(exp.exp(i64::from(x - max)));
                        let sum = e + u128::from(exp.exp(-i64::from(max)));
                        seen.row_sum(sum as i128);
                        seen.product(e as i128 * reciprocal(sum));
                    }
                }
            });
        }
    }
}

fn i_layer_norms() {
    // The largest bias that is admitted, with the largest factors; no bias; a great width.
    let most = crate::arith::ivit::MAX_WIDE - (1 << 30);
    for (n, bias, [m, s]) in [
        (1usize, most, [i32::MAX, 0]),
        (8, -most, [-i32::MAX, 63]),
        (4096, 0, [i32::MAX, 31]),
        (8, 1 << 40, [3, 24]),
        (1 << 16, 0, [1, 0]),
    ] {
        let mut weights = Weights::default();
        let (blob, ratios) = (weights.add(&std::vec![bias; n]), weights.add(&std::vec![[m, s]; n]));
        let op = i_layer_norm::ILayerNorm { rows: 2, n: n as u32, bias: blob, ratios };
        for input in TYPES {
            survives(&op, &weights, &[(input, 2 * n)], (Dtype::I16, 2 * n), |inputs, seen| {
                for row in inputs[0].chunks(n) {
                    let statistics = ILayerNormRow::new(row.iter().copied());
                    let sum: i128 = row.iter().map(|&x| i128::from(x)).sum();
                    let mean = (2 * sum + n as i128).div_euclid(2 * n as i128);
                    seen.wide(sum);
                    seen.row_sum(row.iter().map(|&x| (i128::from(x) - mean).pow(2)).sum::<i128>());
                    for &x in row {
                        seen.wide((i128::from(x) - mean) * (i128::from(i32::MAX) / i128::from(statistics.std())));
                        seen.acc(statistics.normalize(x, 0));
                        seen.wide(statistics.normalize(x, bias).into());
                        seen.product(i128::from(statistics.normalize(x, bias)) * i128::from(m));
                    }
                }
            });
        }
    }
}
