use crate::testing::{Fill, TestModel, any_fill, assert_equal, cases, fill};
use proptest::prelude::*;
use shiftformer::ops::Op;
use shiftformer::ops::matmul::MatMul;
use shiftformer::ops::matmul_i16::MatMulI16;
use shiftformer::tensor::Dtype;

fn check(batch: u32, [m, n, k]: [u32; 3], b_transposed: bool, slack: u32, drop: u32, out: Dtype, x: Fill) {
    let mut test = TestModel::default();
    let a_row = k + slack;
    let (b_rows, b_width) = if b_transposed { (n, k) } else { (k, n) };
    let b_row = b_width + slack;
    let (a_matrix, b_matrix) = (m * a_row, b_rows * b_row);
    let a = test.input(Dtype::I16, &[batch * a_matrix]);
    let b = test.input(Dtype::I8, &[batch * b_matrix]);
    let y = test.output(out, &[batch, m, n]);
    let product = MatMul {
        batch: [1, 1, batch],
        m,
        n,
        k,
        a_batch: [0, 0, a_matrix],
        a_row,
        b_batch: [0, 0, b_matrix],
        b_row,
        b_transposed,
        acc_shift: 0,
        multiplier: 1 << 20,
        zero_point: 100,
    };
    test.op(Op::MatMulI16(MatMulI16 { product, drop }), &[Some(a), Some(b)], y);
    let sample =
        |x| vec![fill(x, Dtype::I16, (batch * a_matrix) as usize), fill(x, Dtype::I8, (batch * b_matrix) as usize)];
    assert_equal(&test, &[sample(x), sample(Fill::Min), sample(Fill::Random(3))]);
}

proptest! {
    #![proptest_config(cases())]
    #[test]
    fn matmul_i16_equals_portable(
        batch in 1u32..4, size in [1u32..12, 1u32..12, 1u32..40], transposed in any::<bool>(), slack in 0u32..3,
        drop in 0u32..=8, wide in any::<bool>(), x in any_fill(),
    ) {
        check(batch, size, transposed, slack, drop, if wide { Dtype::I16 } else { Dtype::I8 }, x);
    }
}

#[test]
fn the_longest_sums_are_exact() {
    for (k, drop) in [(1, 0), (500, 0), (4096, 4), (4096, 8)] {
        for x in [Fill::Min, Fill::Max, Fill::Alternating] {
            check(1, [1, 3, k], true, 0, drop, Dtype::I16, x);
        }
    }
}
