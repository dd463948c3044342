use crate::ops::add::tests::{any_input, any_output};
use crate::testing::{Fill, TestModel, any_fill, assert_equal, cases, fill};
use proptest::prelude::*;
use shiftformer::ops::Op;
use shiftformer::ops::requant::Requant;
use shiftformer::tensor::Dtype;

proptest! {
    #![proptest_config(cases())]
    #[test]
    fn requantization_equals_portable(
        len in 1u32..300, from in any_input(), to in any_output(), zero_in in -32768i32..=32768,
        zero_out in -32768i32..=32768, acc_shift in 0u32..=13, multiplier in 0..=i32::MAX, in_place in any::<bool>(),
        x in any_fill(),
    ) {
        let mut test = TestModel::default();
        let input = test.input(from, &[len]);
        let in_place = in_place && from.bytes() == to.bytes();
        let y = if in_place { test.alias(input, to, &[len]) } else { test.output(to, &[len]) };
        test.op(Op::Requant(Requant { len, zero_in, acc_shift, multiplier, zero_out }), &[Some(input)], y);
        let sample = |x| vec![fill(x, from, len as usize)];
        assert_equal(&test, &[sample(x), sample(Fill::Min), sample(Fill::Max)]);
    }
}

#[test]
fn extreme_multipliers_and_shifts_are_exact() {
    for multiplier in [0, 1, 1 << 30, i32::MAX] {
        for acc_shift in [0, 15] {
            let mut test = TestModel::default();
            let input = test.input(Dtype::I16, &[6]);
            let y = test.output(Dtype::I16, &[6]);
            let op = Requant { len: 6, zero_in: 0, acc_shift, multiplier, zero_out: 0 };
            test.op(Op::Requant(op), &[Some(input)], y);
            let values = [i16::MIN, i16::MAX, -1, 0, 1, 2].iter().flat_map(|v| v.to_le_bytes()).collect();
            assert_equal(&test, &[vec![values]]);
        }
    }
}

#[test]
fn single_elements_are_exact_at_both_ends_of_the_shift() {
    for (from, shift) in [(Dtype::I8, 0), (Dtype::I8, 23), (Dtype::U8, 22), (Dtype::I16, 15)] {
        let mut test = TestModel::default();
        let input = test.input(from, &[1]);
        let y = test.output(Dtype::I16, &[1]);
        let op = Requant { len: 1, zero_in: 0, acc_shift: shift, multiplier: i32::MAX, zero_out: 32768 };
        test.op(Op::Requant(op), &[Some(input)], y);
        assert_equal(&test, &[Fill::Min, Fill::Max].map(|x| vec![fill(x, from, 1)]));
    }
}
