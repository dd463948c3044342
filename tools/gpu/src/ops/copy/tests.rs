use crate::testing::{Random, TestModel, assert_equal, cases};
use proptest::prelude::*;
use shiftformer::ops::copy::Copy;
use shiftformer::ops::{Dims, Extent, Op};
use shiftformer::tensor::Dtype;

/// A contiguous tensor of `dims` seen with its axes permuted.
fn permuted(dims: Dims, order: [usize; 6]) -> (Dims, Extent) {
    let from = Extent::contiguous(dims);
    (order.map(|axis| dims[axis]), Extent { offset: 0, strides: order.map(|axis| from.strides[axis]) })
}

fn any_dtype() -> impl Strategy<Value = Dtype> {
    prop::sample::select(vec![Dtype::I8, Dtype::U8, Dtype::I16, Dtype::U16, Dtype::I32])
}

/// Rows of different widths side by side, as a concatenation along the last axis.
fn concatenate(rows: u32, widths: &[u32], dtype: Dtype, constant: bool, seed: u64) {
    let mut test = TestModel::default();
    let total = widths.iter().sum::<u32>();
    let mut random = Random(seed);
    let bytes = |width: u32| (rows * width) as usize * dtype.bytes();
    let mut samples = [vec![], vec![]];
    let mut parts = vec![];
    for (index, &width) in widths.iter().enumerate() {
        if constant && index == 0 {
            parts.push(test.constant(dtype, &[rows, width], &random.bytes(bytes(width))));
            continue;
        }
        parts.push(test.input(dtype, &[rows, width]));
        samples.iter_mut().for_each(|sample| sample.push(random.bytes(bytes(width))));
    }
    let y = test.output(dtype, &[rows, total]);
    let mut offset = 0;
    for (index, (&width, &part)) in widths.iter().zip(&parts).enumerate() {
        let dims = [1, 1, 1, 1, rows, width];
        let to = Extent { offset, strides: [0, 0, 0, 0, total as i32, 1] };
        let partial = index + 1 < widths.len();
        test.op(Op::Copy(Copy { dims, from: Extent::contiguous(dims), to, flip: 0, partial }), &[Some(part)], y);
        offset += width;
    }
    assert_equal(&test, &samples);
}

proptest! {
    #![proptest_config(cases())]
    #[test]
    fn transposes_of_rank_six_equal_portable(
        dims in prop::array::uniform6(1u32..5), order in Just([0usize, 1, 2, 3, 4, 5]).prop_shuffle(),
        dtype in any_dtype(), flip in 0u32..256, seed in any::<u64>(),
    ) {
        let mut test = TestModel::default();
        let x = test.input(dtype, &dims);
        let (out_dims, from) = permuted(dims, order);
        let y = test.output(dtype, &out_dims);
        let flip = if dtype.bytes() == 1 { flip } else { 0 };
        let op = Copy { dims: out_dims, from, to: Extent::contiguous(out_dims), flip, partial: false };
        test.op(Op::Copy(op), &[Some(x)], y);
        let bytes = dims.iter().product::<u32>() as usize * dtype.bytes();
        assert_equal(&test, &[vec![Random(seed).bytes(bytes)], vec![Random(!seed).bytes(bytes)]]);
    }

    /// Rows of different widths side by side, as a concatenation along the last axis: no part ends at a whole word.
    #[test]
    fn partial_copies_equal_portable(
        rows in 1u32..6, widths in prop::collection::vec(1u32..9, 1..5), dtype in any_dtype(), constant in any::<bool>(),
        seed in any::<u64>(),
    ) {
        concatenate(rows, &widths, dtype, constant, seed);
    }
}

#[test]
fn parts_of_sixteen_byte_words_are_exact() {
    for dtype in [Dtype::I8, Dtype::U8, Dtype::I16, Dtype::I32] {
        for constant in [false, true] {
            concatenate(3, &[16, 48, 32], dtype, constant, 7);
            concatenate(1, &[64, 16], dtype, constant, 8);
            // One part of whole words between others.
            concatenate(5, &[16, 3, 16], dtype, constant, 9);
        }
    }
}
