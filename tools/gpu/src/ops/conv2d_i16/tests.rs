use crate::ops::conv2d::tests::any_window;
use crate::ops::linear::tests::{dense, packed};
use crate::testing::{Fill, Random, TestModel, any_fill, assert_equal, cases, fill};
use proptest::prelude::*;
use shiftformer::ops::Op;
use shiftformer::ops::conv2d::Conv2d;
use shiftformer::ops::conv2d_i16::Conv2dI16;
use shiftformer::ops::halves::Halves;
use shiftformer::tensor::Dtype;
use shiftformer::weights::WeightFormat;

proptest! {
    #![proptest_config(cases())]
    #[test]
    fn conv2d_i16_equals_portable(
        (window, channels, groups) in any_window(), group_n in 1u32..9, format in prop::sample::select(WeightFormat::ALL),
        wide in any::<bool>(), drop in 0u32..=8, x in any_fill(), weights in any_fill(),
    ) {
        let mut test = TestModel::default();
        let len = window.in_h * window.in_w * channels * groups;
        let input = test.input(Dtype::I16, &[len]);
        let n = groups * group_n;
        let y = test.output(if wide { Dtype::I16 } else { Dtype::I8 }, &[window.out_h * window.out_w, n]);
        let k = (window.kernel_h * window.kernel_w * channels) as usize;
        let fits = Conv2d::parts_fit(format, groups as usize, group_n as usize, k);
        let format = if fits { format } else { WeightFormat::I4 };
        let matrices: Vec<u8> = (0..groups).flat_map(|_| packed(weights, group_n as usize, k, format)).collect();
        let padded = group_n.next_multiple_of(4) * groups;
        let mut layer = dense(&mut test, matrices, padded as usize, format, 1 << 19, 3);
        if !wide {
            layer.lut = test.blob(&Random(8).bytes(256));
        }
        let mut random = Random(4);
        let low_bias = test.blob_i32((0..padded).map(|_| random.between(-1 << 16, 1 << 16)));
        let op = Conv2dI16 { conv: Conv2d { window, channels, groups, n, dense: layer }, halves: Halves { drop, low_bias } };
        test.op(Op::Conv2dI16(op), &[Some(input)], y);
        let sample = |x| vec![fill(x, Dtype::I16, len as usize)];
        assert_equal(&test, &[sample(x), sample(Fill::Min), sample(Fill::Random(4))]);
    }
}
