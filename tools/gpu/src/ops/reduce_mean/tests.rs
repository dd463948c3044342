use crate::ops::add::tests::any_output;
use crate::testing::{Fill, TestModel, any_fill, assert_equal, cases, fill};
use proptest::prelude::*;
use shiftformer::ops::Op;
use shiftformer::ops::reduce_mean::ReduceMean;

proptest! {
    #![proptest_config(cases())]
    #[test]
    fn means_equal_portable(
        outer in 1u32..5, r in 1u32..40, inner in 1u32..20, from in any_output(), to in any_output(),
        bias in -4096i32..4096, acc_shift in 0u32..9, multiplier in any::<i32>(), zero_point in -128i32..128, x in any_fill(),
    ) {
        let mut test = TestModel::default();
        let input = test.input(from, &[outer, r, inner]);
        let y = test.output(to, &[outer, inner]);
        test.op(Op::ReduceMean(ReduceMean { outer, r, inner, bias, acc_shift, multiplier, zero_point }), &[Some(input)], y);
        let sample = |x| vec![fill(x, from, (outer * r * inner) as usize)];
        assert_equal(&test, &[sample(x), sample(Fill::Least), sample(Fill::Random(2))]);
    }
}
