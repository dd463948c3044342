use crate::ops::conv2d::tests::any_window;
use crate::testing::{Fill, Random, TestModel, any_fill, assert_equal, cases, fill};
use proptest::prelude::*;
use shiftformer::format::Blob;
use shiftformer::ops::Op;
use shiftformer::ops::pool::Pool2d;
use shiftformer::tensor::Dtype;

proptest! {
    #![proptest_config(cases())]
    #[test]
    fn pooling_equals_portable(
        (window, channels, groups) in any_window(), average in any::<bool>(), acc_shift in 0u32..16, x in any_fill(),
    ) {
        let channels = channels * groups;
        let mut test = TestModel::default();
        let len = window.in_h * window.in_w * channels;
        let input = test.input(Dtype::I8, &[len]);
        let y = test.output(Dtype::I8, &[window.out_h * window.out_w, channels]);
        let mut random = Random(11);
        let counts = window.kernel_h * window.kernel_w;
        let multipliers = (0..counts).map(|_| random.between(0, i32::MAX));
        let multipliers = if average { test.blob_i32(multipliers) } else { Blob::NONE };
        let op = Pool2d { window, channels, acc_shift, zero_point: -7, multipliers };
        test.op(Op::Pool2d(op), &[Some(input)], y);
        let sample = |x| vec![fill(x, Dtype::I8, len as usize)];
        assert_equal(&test, &[sample(x), sample(Fill::Least), sample(Fill::Random(4))]);
    }
}
