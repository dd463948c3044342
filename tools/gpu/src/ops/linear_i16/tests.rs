use crate::ops::linear::tests::{dense, packed};
use crate::testing::{Fill, Random, TestModel, any_fill, assert_equal, cases, fill};
use proptest::prelude::*;
use shiftformer::ops::Op;
use shiftformer::ops::halves::Halves;
use shiftformer::ops::linear::{Dense, Linear};
use shiftformer::ops::linear_i16::LinearI16;
use shiftformer::tensor::Dtype;
use shiftformer::weights::WeightFormat;

fn check(
    [rows, k, n]: [u32; 3],
    format: WeightFormat,
    out: Dtype,
    residual: Option<u32>,
    drop: u32,
    x: Fill,
    weights: Fill,
) {
    let mut test = TestModel::default();
    let input = test.input(Dtype::I16, &[rows, k]);
    let stream = residual.map(|_| test.input(Dtype::I16, &[rows, n]));
    let y = test.output(out, &[rows, n]);
    let weights = packed(weights, n as usize, k as usize, format);
    let layer = dense(&mut test, weights, n as usize, format, 1 << 20, u64::from(k + n));
    let lut = if out == Dtype::I8 && drop == 0 { test.blob(&Random(5).bytes(256)) } else { layer.lut };
    let mut random = Random(3);
    let low_bias = test.blob_i32((0..n.next_multiple_of(4)).map(|_| random.between(-1 << 16, 1 << 16)));
    let linear = Linear { rows, k, n, residual_shift: residual.unwrap_or(0), dense: Dense { lut, ..layer } };
    let op = LinearI16 { linear, halves: Halves { drop, low_bias } };
    test.op(Op::LinearI16(op), &[Some(input), stream], y);
    let sample = |x: Fill| {
        let mut sample = vec![fill(x, Dtype::I16, (rows * k) as usize)];
        sample.extend(stream.map(|_| fill(x, Dtype::I16, (rows * n) as usize)));
        sample
    };
    assert_equal(&test, &[sample(x), sample(Fill::Min), sample(Fill::Random(9))]);
}

proptest! {
    #![proptest_config(cases())]
    #[test]
    fn linear_i16_equals_portable(
        size in [1u32..12, 1u32..70, 1u32..40], format in prop::sample::select(WeightFormat::ALL), form in 0u32..3,
        drop in 0u32..=8, shift in 0u32..=15, x in any_fill(), weights in any_fill(),
    ) {
        let out = if form == 0 { Dtype::I8 } else { Dtype::I16 };
        check(size, format, out, (form == 2).then_some(shift), drop, x, weights);
    }
}

#[test]
fn the_longest_sums_are_exact() {
    for (k, drop) in [(1, 0), (480, 0), (4096, 4), (4096, 8)] {
        for x in [Fill::Min, Fill::Max, Fill::Alternating] {
            check([1, k, 5], WeightFormat::I8, Dtype::I16, None, drop, x, Fill::Min);
        }
    }
}
