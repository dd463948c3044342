use crate::testing::{Random, TestModel, assert_equal};
use shiftformer::ops::{Extent, Op, copy::Copy};
use shiftformer::tensor::Dtype;

/// `assert_equal` compares digests: a copy of every length up to some words covers the tail.
#[test]
fn digests_of_all_lengths_equal_the_runtimes() {
    for len in [1u32, 2, 3, 4, 5, 7, 8, 255, 256, 257, 1023] {
        let mut test = TestModel::default();
        let x = test.input(Dtype::U8, &[len]);
        let y = test.output(Dtype::U8, &[len]);
        let dims = [1, 1, 1, 1, 1, len];
        let view = Extent::contiguous(dims);
        test.op(Op::Copy(Copy { dims, from: view, to: view, flip: 0, partial: false }), &[Some(x)], y);
        let mut random = Random(u64::from(len));
        assert_equal(
            &test,
            &[vec![random.bytes(len as usize)], vec![vec![0; len as usize]], vec![vec![255; len as usize]]],
        );
    }
}
