use crate::ops::conv2d::tests::any_window;
use crate::ops::linear::tests::dense;
use crate::testing::{Fill, Random, TestModel, any_fill, assert_equal, cases, fill};
use proptest::prelude::*;
use shiftformer::ops::Op;
use shiftformer::ops::depthwise::DepthwiseConv2d;
use shiftformer::ops::depthwise_i16::DepthwiseConv2dI16;
use shiftformer::ops::linear::Dense;
use shiftformer::tensor::Dtype;
use shiftformer::weights::WeightFormat;

proptest! {
    #![proptest_config(cases())]
    #[test]
    fn depthwise_i16_equals_portable(
        (window, channels, groups) in any_window(), wide in any::<bool>(), x in any_fill(), weights in any_fill(),
    ) {
        let channels = channels * groups;
        let mut test = TestModel::default();
        let len = window.in_h * window.in_w * channels;
        let out = if wide { Dtype::I16 } else { Dtype::I8 };
        let input = test.input(Dtype::I16, &[len]);
        let y = test.output(out, &[window.out_h * window.out_w, channels]);
        let taps = (window.kernel_h * window.kernel_w * channels) as usize;
        let layer = dense(&mut test, fill(weights, Dtype::I8, taps), channels as usize, WeightFormat::I8, 1 << 20, 7);
        let layer = if wide { layer } else { Dense { lut: test.blob(&Random(8).bytes(256)), ..layer } };
        let conv = DepthwiseConv2d { window, channels, dense: layer };
        test.op(Op::DepthwiseConv2dI16(DepthwiseConv2dI16 { conv }), &[Some(input)], y);
        let sample = |x| vec![fill(x, Dtype::I16, len as usize)];
        assert_equal(&test, &[sample(x), sample(Fill::Min), sample(Fill::Random(4))]);
    }
}
