use crate::testing::{Fill, TestModel, any_fill, assert_equal, cases, fill};
use proptest::prelude::*;
use shiftformer::ops::Op;
use shiftformer::ops::shiftmax::Shiftmax;
use shiftformer::tensor::Dtype;

fn check(rows: u32, n: u32, [from, to]: [Dtype; 2], period: u32, halvings: u32, x: Fill) {
    let mut test = TestModel::default();
    let input = test.input(from, &[rows, n]);
    let y = test.output(to, &[rows, n]);
    test.op(Op::Shiftmax(Shiftmax { rows, n, period, halvings }), &[Some(input)], y);
    let sample = |x| vec![fill(x, from, (rows * n) as usize)];
    assert_equal(&test, &[sample(x), sample(Fill::Min), sample(Fill::Alternating), sample(Fill::Random(3))]);
}

proptest! {
    #![proptest_config(cases())]
    #[test]
    fn shiftmax_equals_portable(
        rows in 1u32..6, n in 1u32..150, wide_in in any::<bool>(), wide_out in any::<bool>(),
        bits in 0u32..27, below in any::<u32>(), halvings in 1u32..=31, x in any_fill(),
    ) {
        let from = if wide_in { Dtype::I16 } else { Dtype::I8 };
        let to = if wide_out { Dtype::U16 } else { Dtype::I8 };
        let period = (1 << bits) + below % (1 << bits);
        check(rows, n, [from, to], period, halvings, x);
    }
}

#[test]
fn saturating_sums_and_extreme_periods_are_exact() {
    for (period, halvings) in [(1, 0), (1, 31), (u32::MAX, 1), (u32::MAX / 31, 31), (1 << 20, 15), (20, 15)] {
        check(2, 70, [Dtype::I16, Dtype::U16], period, halvings, Fill::Max);
        check(2, 1, [Dtype::I8, Dtype::I8], period, halvings, Fill::Random(1));
    }
}
