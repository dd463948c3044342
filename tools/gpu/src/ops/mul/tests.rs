use crate::ops::add::tests::{any_dims, any_input, any_output, broadcast};
use crate::testing::{Fill, TestModel, any_fill, assert_equal, cases, fill};
use proptest::prelude::*;
use shiftformer::ops::mul::Mul;
use shiftformer::ops::{Extent, Op};
use shiftformer::tensor::Dtype;

proptest! {
    #![proptest_config(cases())]
    #[test]
    fn multiplication_equals_portable(
        (dims, repeats) in any_dims(), a_type in any_input(), b_type in any_input(), out in any_output(),
        zero_a in -255i32..=255, zero_b in -255i32..=255, shift in 0u32..16, multiplier in -i32::MAX..=i32::MAX,
        zero_point in -128i32..128, x in any_fill(),
    ) {
        let bits = |dtype| if dtype == Dtype::I16 { 16 } else { 9 };
        let acc_shift = shift.min(29u32.saturating_sub(bits(a_type) + bits(b_type)));
        // The widest product, 2^16 * 2^16 with the zero points, has no room at all.
        let zeros = if a_type == Dtype::I16 && b_type == Dtype::I16 { [0, 0] } else { [zero_a, zero_b] };
        let mut test = TestModel::default();
        let len = dims.iter().product::<u32>();
        let (b_view, b_len) = broadcast(dims, repeats);
        let a = test.input(a_type, &[len]);
        let b = test.input(b_type, &[b_len]);
        let y = test.output(out, &dims);
        let op = Mul {
            dims, a: Extent::contiguous(dims), b: b_view, zero_a: zeros[0], zero_b: zeros[1], acc_shift, multiplier, zero_point,
        };
        test.op(Op::Mul(op), &[Some(a), Some(b)], y);
        let sample = |x| vec![fill(x, a_type, len as usize), fill(x, b_type, b_len as usize)];
        assert_equal(&test, &[sample(x), sample(Fill::Min), sample(Fill::Random(1))]);
    }
}

#[test]
fn saturating_products_are_exact_at_both_ends_of_the_shift() {
    let dims = [1, 1, 1, 1, 3, 7];
    let view = Extent::contiguous(dims);
    for (dtype, shifts) in [(Dtype::I8, [0, 14]), (Dtype::I16, [0, 0])] {
        for (acc_shift, multiplier) in shifts.into_iter().flat_map(|s| [-i32::MAX, -1, 0, i32::MAX].map(|m| (s, m))) {
            let mut test = TestModel::default();
            let (a, b) = (test.input(dtype, &[21]), test.input(dtype, &[21]));
            let y = test.alias(a, dtype, &[21]);
            let op = Mul { dims, a: view, b: view, zero_a: 0, zero_b: 0, acc_shift, multiplier, zero_point: -128 };
            test.op(Op::Mul(op), &[Some(a), Some(b)], y);
            let sample = |x, y| vec![fill(x, dtype, 21), fill(y, dtype, 21)];
            assert_equal(&test, &[sample(Fill::Min, Fill::Min), sample(Fill::Max, Fill::Alternating)]);
        }
    }
}

#[test]
fn a_product_of_single_elements_is_exact() {
    let mut test = TestModel::default();
    let (a, b) = (test.input(Dtype::I8, &[1]), test.input(Dtype::U8, &[1]));
    let y = test.output(Dtype::I8, &[1]);
    let view = Extent::contiguous([1; 6]);
    let op = Mul {
        dims: [1; 6],
        a: view,
        b: view,
        zero_a: 255,
        zero_b: -255,
        acc_shift: 3,
        multiplier: 1 << 24,
        zero_point: 0,
    };
    test.op(Op::Mul(op), &[Some(a), Some(b)], y);
    assert_equal(&test, &[vec![vec![0x80], vec![0xff]], vec![vec![0x7f], vec![0]]]);
}
