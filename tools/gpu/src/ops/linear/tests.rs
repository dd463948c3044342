use crate::testing::{Fill, Random, TestModel, any_fill, assert_equal, cases, fill};
use proptest::prelude::*;
use shiftformer::format::Blob;
use shiftformer::ops::copy::Copy;
use shiftformer::ops::layer_norm::LayerNorm;
use shiftformer::ops::linear::{Dense, Linear};
use shiftformer::ops::{Extent, Op};
use shiftformer::tensor::Dtype;
use shiftformer::weights::WeightFormat;

#[derive(Clone, Copy, Debug)]
struct Case {
    rows: u32,
    k: u32,
    n: u32,
    format: WeightFormat,
    out: Dtype,
    lut: bool,
    residual: Option<u32>,
    acc_shift: u32,
    largest_multiplier: i32,
    x: Fill,
    weights: Fill,
}

/// Packed weights of `n` channels; padding is zero, as the converter leaves it.
pub fn packed(weights: Fill, n: usize, k: usize, format: WeightFormat) -> Vec<u8> {
    let values = fill(weights, Dtype::I8, n * k);
    let groups = k.div_ceil(16);
    let mut bytes = vec![0u8; n.next_multiple_of(4) * groups * format.group_bytes()];
    for (index, &value) in values.iter().enumerate() {
        let (channel, at) = (index / k, index % k);
        let (panel, lane, group, rest) = (channel / 4, channel % 4, at / 16, at % 16);
        let at = ((panel * groups + group) * 4 + lane) * format.group_bytes();
        let w = value as i8 >> (8 - format.bits());
        format.put(&mut bytes[at..at + format.group_bytes()], rest, w);
    }
    bytes
}

/// Weights, bias and multipliers of a layer with random channels.
pub fn dense(test: &mut TestModel, weights: Vec<u8>, n: usize, format: WeightFormat, largest: i32, seed: u64) -> Dense {
    let mut random = Random(seed);
    let padded = n.next_multiple_of(4);
    Dense {
        format,
        acc_shift: 0,
        zero_point: random.between(-128, 127),
        weights: test.blob(&weights),
        bias: test.blob_i32((0..padded).map(|_| random.between(-1 << 16, 1 << 16))),
        multipliers: test.blob_i32((0..padded).map(|_| random.between(0, largest))),
        lut: Blob::NONE,
    }
}

fn check(case: Case) {
    let mut test = TestModel::default();
    let (rows, k, n) = (case.rows, case.k, case.n);
    let x = test.input(Dtype::I8, &[rows, k]);
    let residual = case.residual.map(|_| test.input(Dtype::I16, &[rows, n]));
    let y = test.output(case.out, &[rows, n]);
    let weights = packed(case.weights, n as usize, k as usize, case.format);
    let layer = dense(&mut test, weights, n as usize, case.format, case.largest_multiplier, u64::from(k * n));
    let lut = if case.lut { test.blob(&Random(5).bytes(256)) } else { Blob::NONE };
    let mut dense = Dense { acc_shift: case.acc_shift, lut, ..layer };
    if case.out == Dtype::I32 {
        dense = Dense { acc_shift: 0, multipliers: Blob::NONE, ..dense };
    }
    let residual_shift = case.residual.unwrap_or(0);
    test.op(Op::Linear(Linear { rows, k, n, residual_shift, dense }), &[Some(x), residual], y);
    let sample = |x: Fill| {
        let mut sample = vec![fill(x, Dtype::I8, (rows * k) as usize)];
        sample.extend(residual.map(|_| fill(x, Dtype::I16, (rows * n) as usize)));
        sample
    };
    assert_equal(&test, &[sample(case.x), sample(Fill::Min), sample(Fill::Random(9))]);
}

prop_compose! {
    fn any_case()(
        rows in 1u32..12, k in 1u32..70, n in 1u32..40, format in prop::sample::select(WeightFormat::ALL),
        form in 0u32..5, shift in 0u32..=15, acc_shift in 0u32..5, top in 8u32..31, x in any_fill(), weights in any_fill(),
    ) -> Case {
        Case {
            rows, k, n, format, acc_shift, x, weights,
            out: [Dtype::I8, Dtype::I8, Dtype::I16, Dtype::I16, Dtype::I32][form as usize],
            lut: form == 1,
            residual: (form == 3).then_some(shift),
            largest_multiplier: ((1u32 << top) - 1) as i32,
        }
    }
}

proptest! {
    #![proptest_config(cases())]
    #[test]
    fn linear_equals_portable(case in any_case()) {
        check(case);
    }
}

const BASE: Case = Case {
    rows: 3,
    k: 33,
    n: 7,
    format: WeightFormat::I8,
    out: Dtype::I8,
    lut: false,
    residual: None,
    acc_shift: 0,
    largest_multiplier: i32::MAX,
    x: Fill::Min,
    weights: Fill::Min,
};

#[test]
fn one_element_layers_are_exact() {
    for out in [Dtype::I8, Dtype::I16, Dtype::I32] {
        check(Case { rows: 1, k: 1, n: 1, out, ..BASE });
    }
}

#[test]
fn residuals_are_exact_at_the_ends_of_their_shift() {
    for shift in [0, 15] {
        check(Case { out: Dtype::I16, residual: Some(shift), ..BASE });
        check(Case { out: Dtype::I16, residual: Some(shift), x: Fill::Max, n: 64, k: 64, rows: 65, ..BASE });
    }
}

#[test]
fn tiles_and_their_edges_are_exact() {
    for (rows, k, n) in [(64, 64, 64), (65, 192, 68), (197, 16, 192), (3, 256, 128), (130, 72, 100)] {
        for &format in WeightFormat::ALL {
            check(Case {
                rows,
                k,
                n,
                format,
                x: Fill::Random(1),
                weights: Fill::Random(2),
                largest_multiplier: 1 << 20,
                ..BASE
            });
        }
        check(Case {
            rows,
            k,
            n,
            out: Dtype::I16,
            residual: Some(3),
            x: Fill::Random(1),
            weights: Fill::Random(2),
            ..BASE
        });
    }
}

/// Both ends of the shift: the widest one leaves no bit of the sum free.
#[test]
fn sums_that_fill_the_word_are_exact() {
    for weights in [Fill::Min, Fill::Max] {
        for (k, acc_shift) in [(1, 13), (33, 0), (33, 9), (4096, 0), (4096, 4)] {
            for (n, out) in [(3, Dtype::I8), (4, Dtype::I8), (4, Dtype::I16)] {
                check(Case { rows: 1, k, n, out, acc_shift, weights, ..BASE });
            }
        }
    }
}

/// Shapes that cooperative matrices take where the device has them: rows and channels beyond whole tiles, one row per
/// sample, both weight widths, every kind of output.
#[test]
fn layers_of_whole_words_are_exact() {
    let case = Case { x: Fill::Random(2), weights: Fill::Random(3), largest_multiplier: 1 << 26, ..BASE };
    for &format in WeightFormat::ALL {
        let residual = Some(if format == WeightFormat::I8 { 4 } else { 0 });
        for (rows, k, n) in [(65, 64, 192), (130, 208, 136), (1, 96, 1000), (50, 768, 64)] {
            check(Case { rows, k, n, format, lut: true, ..case });
            check(Case { rows, k, n, format, out: Dtype::I32, ..case });
            check(Case { rows, k, n, format, out: Dtype::I16, residual, ..case });
        }
    }
}

/// A norm behind a layer, and a copy of what it makes: where the device has cooperative matrices they are one dispatch.
#[test]
fn norms_behind_layers_are_exact() {
    for (rows, k, n) in [(3, 64, 64), (65, 192, 192), (197, 768, 192), (33, 48, 40), (17, 64, 8)] {
        for (to, rms, residual) in [(Dtype::I8, false, true), (Dtype::I16, false, false), (Dtype::I8, true, false)] {
            let mut test = TestModel::default();
            let x = test.input(Dtype::I8, &[rows, k]);
            let beside = residual.then(|| test.input(Dtype::I16, &[rows, n]));
            let between = test.local(Dtype::I16, &[rows, n]);
            let (first, again) = (test.output(to, &[rows, n]), test.output(to, &[rows, n]));
            let weights = packed(Fill::Random(2), n as usize, k as usize, WeightFormat::I8);
            let dense = dense(&mut test, weights, n as usize, WeightFormat::I8, 1 << 22, u64::from(n));
            let linear = Linear { rows, k, n, residual_shift: 1, dense };
            test.op(Op::Linear(linear), &[Some(x), beside], between);
            let mut random = Random(u64::from(n));
            let gamma = test.blob_i32((0..n).map(|_| random.between(-(1 << 20), 1 << 20)));
            let beta = test.blob_i32((0..n).map(|_| random.between(-(1 << 14), 1 << 14)));
            let norm = LayerNorm { rows, n, rms, eps: 12345, gamma, beta };
            test.op(Op::LayerNorm(norm), &[Some(between)], first);
            let dims = [1, 1, 1, 1, rows, n];
            let view = Extent::contiguous(dims);
            let copy = Copy { dims, from: view, to: view, flip: 0, partial: false };
            test.op(Op::Copy(copy), &[Some(first)], again);
            let sample = |x: Fill| {
                let mut sample = vec![fill(x, Dtype::I8, (rows * k) as usize)];
                sample.extend(beside.map(|_| fill(x, Dtype::I16, (rows * n) as usize)));
                sample
            };
            assert_equal(&test, &[sample(Fill::Random(1)), sample(Fill::Min), sample(Fill::Max)]);
        }
    }
}
