use crate::ops::add::tests::any_output;
use crate::testing::{Fill, TestModel, any_fill, assert_equal, cases, fill};
use proptest::prelude::*;
use shiftformer::ops::Op;
use shiftformer::ops::reduce_mean::ReduceMean;
use shiftformer::tensor::Dtype;

proptest! {
    #![proptest_config(cases())]
    #[test]
    fn means_equal_portable(
        outer in 1u32..5, r in 1u32..40, inner in 1u32..20, from in any_output(), to in any_output(),
        bias in -4096i32..4096, acc_shift in 0u32..9, multiplier in -i32::MAX..=i32::MAX, zero_point in -128i32..128, x in any_fill(),
    ) {
        let mut test = TestModel::default();
        let input = test.input(from, &[outer, r, inner]);
        let y = test.output(to, &[outer, inner]);
        test.op(Op::ReduceMean(ReduceMean { outer, r, inner, bias, acc_shift, multiplier, zero_point }), &[Some(input)], y);
        let sample = |x| vec![fill(x, from, (outer * r * inner) as usize)];
        assert_equal(&test, &[sample(x), sample(Fill::Min), sample(Fill::Random(2))]);
    }
}

#[test]
fn single_elements_and_the_longest_sums_are_exact() {
    for (r, from, shift) in [(1, Dtype::I8, 23), (1, Dtype::I16, 15), (65535, Dtype::I8, 7), (65535, Dtype::I16, 0)] {
        for multiplier in [-i32::MAX, 0, i32::MAX] {
            let mut test = TestModel::default();
            let input = test.input(from, &[r, 3]);
            let y = test.output(Dtype::I16, &[3]);
            let op = ReduceMean { outer: 1, r, inner: 3, bias: 0, acc_shift: shift, multiplier, zero_point: -32768 };
            test.op(Op::ReduceMean(op), &[Some(input)], y);
            let sample = |x| vec![fill(x, from, 3 * r as usize)];
            assert_equal(&test, &[sample(Fill::Min), sample(Fill::Max), sample(Fill::Alternating)]);
        }
    }
}
