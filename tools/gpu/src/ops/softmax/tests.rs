use crate::testing::{Fill, TestModel, any_fill, assert_equal, cases, fill};
use proptest::prelude::*;
use shiftformer::ops::Op;
use shiftformer::ops::softmax::Softmax;
use shiftformer::tensor::Dtype;

fn check(rows: u32, n: u32, from: Dtype, to: Dtype, acc_shift: u32, multiplier: i32, x: Fill) {
    let mut test = TestModel::default();
    let input = test.input(from, &[rows, n]);
    let y = test.output(to, &[rows, n]);
    test.op(Op::Softmax(Softmax { rows, n, acc_shift, multiplier }), &[Some(input)], y);
    let sample = |x| vec![fill(x, from, (rows * n) as usize)];
    assert_equal(&test, &[sample(x), sample(Fill::Min), sample(Fill::Alternating), sample(Fill::Random(3))]);
}

proptest! {
    #![proptest_config(cases())]
    #[test]
    fn softmax_equals_portable(
        rows in 1u32..9, n in 1u32..150, wide_in in any::<bool>(), wide_out in any::<bool>(), acc_shift in 0u32..15,
        bits in 8u32..31, x in any_fill(),
    ) {
        let dtype = |wide| if wide { Dtype::I16 } else { Dtype::I8 };
        check(rows, n, dtype(wide_in), dtype(wide_out), acc_shift, ((1u32 << bits) - 1) as i32, x);
    }
}

#[test]
fn rows_of_one_and_long_rows_are_exact() {
    check(5, 1, Dtype::I8, Dtype::I16, 0, i32::MAX, Fill::Min);
    check(2, 65535, Dtype::I8, Dtype::I8, 0, 1 << 20, Fill::Max);
    check(2, 4097, Dtype::I16, Dtype::I16, 15, i32::MAX, Fill::Random(5));
}
