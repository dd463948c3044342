use crate::ops::conv2d::tests::any_window;
use crate::testing::{Fill, TestModel, any_fill, assert_equal, cases, fill};
use proptest::prelude::*;
use shiftformer::ops::Op;
use shiftformer::ops::max_pool_i16::MaxPoolI16;
use shiftformer::tensor::Dtype;

proptest! {
    #![proptest_config(cases())]
    #[test]
    fn max_pool_i16_equals_portable((window, channels, groups) in any_window(), x in any_fill()) {
        let channels = channels * groups;
        let mut test = TestModel::default();
        let len = window.in_h * window.in_w * channels;
        let input = test.input(Dtype::I16, &[len]);
        let y = test.output(Dtype::I16, &[window.out_h * window.out_w, channels]);
        test.op(Op::MaxPoolI16(MaxPoolI16 { window, channels }), &[Some(input)], y);
        let sample = |x| vec![fill(x, Dtype::I16, len as usize)];
        assert_equal(&test, &[sample(x), sample(Fill::Min), sample(Fill::Random(4))]);
    }
}
