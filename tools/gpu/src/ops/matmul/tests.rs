use crate::testing::{Fill, TestModel, any_fill, assert_equal, cases, fill};
use proptest::prelude::*;
use shiftformer::ops::Op;
use shiftformer::ops::matmul::MatMul;
use shiftformer::tensor::Dtype;

fn check(
    batch: [u32; 3],
    [m, n, k]: [u32; 3],
    transposed: bool,
    shared_b: bool,
    slack: u32,
    [from, out]: [Dtype; 2],
    x: Fill,
) {
    let mut test = TestModel::default();
    let a_row = k + slack;
    let (b_rows, b_width) = if transposed { (n, k) } else { (k, n) };
    let b_row = b_width + slack;
    let (a_matrix, b_matrix) = (m * a_row, b_rows * b_row);
    let [_, d1, d2] = batch;
    let count = batch.iter().product::<u32>();
    let a = test.input(from, &[count * a_matrix]);
    let b = test.input(Dtype::I8, &[if shared_b { 1 } else { count } * b_matrix]);
    let y = test.output(out, &[count, m, n]);
    let strides = |matrix| [d1 * d2 * matrix, d2 * matrix, matrix];
    let op = MatMul {
        batch,
        m,
        n,
        k,
        a_batch: strides(a_matrix),
        a_row,
        b_batch: if shared_b { [0; 3] } else { strides(b_matrix) },
        b_row,
        b_transposed: transposed,
        acc_shift: 1,
        multiplier: 1 << 22,
        zero_point: 100,
    };
    test.op(Op::MatMul(op), &[Some(a), Some(b)], y);
    let b_len = if shared_b { b_matrix } else { count * b_matrix };
    let sample = |x| vec![fill(x, from, (count * a_matrix) as usize), fill(x, Dtype::I8, b_len as usize)];
    assert_equal(&test, &[sample(x), sample(Fill::Min), sample(Fill::Random(3))]);
}

proptest! {
    #![proptest_config(cases())]
    #[test]
    fn matmul_equals_portable(
        batch in [1u32..3, 1u32..3, 1u32..3], size in [1u32..12, 1u32..12, 1u32..40],
        transposed in any::<bool>(), shared in any::<bool>(), slack in 0u32..3,
        from in prop::sample::select(vec![Dtype::I8, Dtype::U16]),
        out in prop::sample::select(vec![Dtype::I8, Dtype::I16, Dtype::I32]), x in any_fill(),
    ) {
        check(batch, size, transposed, shared, slack, [from, out], x);
    }
}

#[test]
fn tails_of_the_sum_do_not_read_the_next_row() {
    for k in 1..9 {
        check([1; 3], [2, 3, k], true, false, 3, [Dtype::I8, Dtype::I16], Fill::Max);
    }
}

#[test]
fn tiles_and_their_edges_are_exact() {
    let types = [[Dtype::I8, Dtype::I32], [Dtype::U16, Dtype::I32], [Dtype::U16, Dtype::I8], [Dtype::I8, Dtype::I16]];
    for size in [[32, 32, 32], [33, 36, 65], [50, 16, 50], [1, 64, 33], [65, 4, 1]] {
        for types in types {
            for transposed in [false, true] {
                check([1, 2, 1], size, transposed, false, 0, types, Fill::Random(5));
                check([1, 1, 2], size, transposed, true, 3, types, Fill::Min);
            }
        }
    }
}

#[test]
fn rows_of_one_and_the_longest_sums_are_exact() {
    for x in [Fill::Min, Fill::Max, Fill::Alternating] {
        for out in [Dtype::I8, Dtype::I16, Dtype::I32] {
            check([1; 3], [1, 1, 1], true, false, 0, [Dtype::I8, out], x);
            check([1; 3], [3, 5, 4096], true, false, 1, [Dtype::I8, out], x);
            // 2^15 * 2^7 for each of 255 keys nearly fills the sum with its shift.
            check([1; 3], [3, 5, 255], false, false, 0, [Dtype::U16, out], x);
        }
    }
}
