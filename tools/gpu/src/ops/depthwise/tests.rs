use crate::ops::conv2d::tests::{any_window, window};
use crate::ops::linear::tests::dense;
use crate::testing::{Fill, Random, TestModel, any_fill, assert_equal, cases, fill};
use proptest::prelude::*;
use shiftformer::ops::Op;
use shiftformer::ops::depthwise::DepthwiseConv2d;
use shiftformer::ops::linear::Dense;
use shiftformer::tensor::Dtype;
use shiftformer::weights::WeightFormat;

proptest! {
    #![proptest_config(cases())]
    #[test]
    fn depthwise_equals_portable(
        (window, channels, groups) in any_window(), wide in any::<bool>(), x in any_fill(), weights in any_fill(),
    ) {
        let channels = channels * groups;
        let mut test = TestModel::default();
        let len = window.in_h * window.in_w * channels;
        let out = if wide { Dtype::I16 } else { Dtype::I8 };
        let input = test.input(Dtype::I8, &[len]);
        let y = test.output(out, &[window.out_h * window.out_w, channels]);
        let taps = (window.kernel_h * window.kernel_w * channels) as usize;
        let layer = dense(&mut test, fill(weights, Dtype::I8, taps), channels as usize, WeightFormat::I8, i32::MAX, 7);
        let layer = if wide { layer } else { Dense { lut: test.blob(&Random(8).bytes(256)), ..layer } };
        test.op(Op::DepthwiseConv2d(DepthwiseConv2d { window, channels, dense: layer }), &[Some(input)], y);
        let sample = |x| vec![fill(x, Dtype::I8, len as usize)];
        assert_equal(&test, &[sample(x), sample(Fill::Random(4))]);
    }
}

/// The smallest bytes everywhere, for windows of one and of many taps, with the shift that leaves no bit free.
#[test]
fn the_largest_sums_are_exact() {
    for (size, kernel, channels) in [([1, 1], [1, 1], 1), ([3, 3], [3, 3], 5), ([9, 7], [5, 3], 3)] {
        for first in [false, true] {
            for shift in [0, 9] {
                let window = window(size, kernel, 1, 1, kernel[0] / 2, channels, first);
                let mut test = TestModel::default();
                let len = size[0] * size[1] * channels;
                let input = test.input(Dtype::I8, &[len]);
                let y = test.output(Dtype::I16, &[window.out_h * window.out_w, channels]);
                let taps = (kernel[0] * kernel[1] * channels) as usize;
                let layer = dense(
                    &mut test,
                    fill(Fill::Min, Dtype::I8, taps),
                    channels as usize,
                    WeightFormat::I8,
                    i32::MAX,
                    7,
                );
                let layer = Dense { acc_shift: shift, ..layer };
                test.op(Op::DepthwiseConv2d(DepthwiseConv2d { window, channels, dense: layer }), &[Some(input)], y);
                let sample = |x| vec![fill(x, Dtype::I8, len as usize)];
                assert_equal(&test, &[sample(Fill::Min), sample(Fill::Max), sample(Fill::Alternating)]);
            }
        }
    }
}
