use crate::testing::{Fill, Random, TestModel, any_fill, assert_equal, cases, fill};
use proptest::prelude::*;
use shiftformer::ops::Op;
use shiftformer::ops::shiftgelu::ShiftGelu;
use shiftformer::tensor::Dtype;

fn check(rows: u32, n: u32, from: Dtype, period: u32, halvings: u32, x: Fill) {
    let mut test = TestModel::default();
    let input = test.input(from, &[rows, n]);
    let y = test.output(Dtype::I32, &[rows, n]);
    test.op(Op::ShiftGelu(ShiftGelu { rows, n, period, halvings }), &[Some(input)], y);
    let sample = |x| vec![fill(x, from, (rows * n) as usize)];
    // Rows without a positive value: the exponential at zero lies above all others.
    let mut random = Random(8);
    let below_zero = (0..rows * n).flat_map(|_| {
        let min = from.range().0;
        random.between(min, -1).to_le_bytes().into_iter().take(from.bytes()).collect::<Vec<_>>()
    });
    assert_equal(&test, &[sample(x), sample(Fill::Min), vec![below_zero.collect()], sample(Fill::Random(3))]);
}

proptest! {
    #![proptest_config(cases())]
    #[test]
    fn shiftgelu_equals_portable(
        rows in 1u32..6, n in 1u32..100, wide in any::<bool>(), bits in 0u32..20, below in any::<u32>(),
        halvings in 1u32..=23, x in any_fill(),
    ) {
        let from = if wide { Dtype::I16 } else { Dtype::I8 };
        // What the certificate admits: the largest sigmoid times the largest value fits 32 bits.
        let most = if wide { 15 } else { 23 };
        let bits = bits.min((most + 24u32).saturating_sub(halvings + 1));
        check(rows, n, from, (1 << bits) + below % (1 << bits), halvings, x);
    }
}

#[test]
fn published_periods_are_exact() {
    for (from, period) in [(Dtype::I8, 1), (Dtype::I8, 19), (Dtype::I8, 700), (Dtype::I16, 90), (Dtype::I16, 4000)] {
        check(3, 41, from, period, 23, Fill::Max);
    }
}

#[test]
fn single_elements_are_exact_at_both_ends_of_the_halvings() {
    for (from, period, halvings) in [(Dtype::I8, 1, 0), (Dtype::I8, 1, 30), (Dtype::I16, 1, 23), (Dtype::I16, 700, 1)] {
        for x in [Fill::Min, Fill::Max, Fill::Random(4)] {
            check(1, 1, from, period, halvings, x);
            check(7, 1, from, period, halvings, x);
        }
    }
}
