use crate::ops::conv2d::tests::{any_window, window};
use crate::testing::{Fill, Random, TestModel, any_fill, assert_equal, cases, fill, gpu};
use crate::{GpuError, GpuModel};
use proptest::prelude::*;
use shiftformer::Model;
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
        assert_equal(&test, &[sample(x), sample(Fill::Min), sample(Fill::Random(4))]);
    }
}

#[test]
fn whole_images_and_single_pixels_are_exact() {
    for (size, shift) in [([1, 1], 15), ([7, 5], 15), ([64, 64], 10)] {
        for average in [false, true] {
            let window = window(size, size, 1, 1, 0, 3, false);
            let mut test = TestModel::default();
            let len = size[0] * size[1] * 3;
            let input = test.input(Dtype::I8, &[len]);
            let y = test.output(Dtype::I8, &[3]);
            let counts = size[0] * size[1];
            let multipliers = if average { test.blob_i32((0..counts).map(|_| i32::MAX)) } else { Blob::NONE };
            let op = Pool2d { window, channels: 3, acc_shift: shift, zero_point: 128, multipliers };
            test.op(Op::Pool2d(op), &[Some(input)], y);
            let sample = |x| vec![fill(x, Dtype::I8, len as usize)];
            assert_equal(&test, &[sample(Fill::Min), sample(Fill::Max), sample(Fill::Alternating)]);
        }
    }
}

#[test]
fn windows_too_long_for_one_invocation_are_refused() {
    let Some(gpu) = gpu() else { return };
    let window = window([127, 127], [127, 127], 1, 1, 0, 1, false);
    let mut test = TestModel::default();
    let input = test.input(Dtype::I8, &[127 * 127]);
    let y = test.output(Dtype::I8, &[1]);
    let op = Pool2d { window, channels: 1, acc_shift: 0, zero_point: 0, multipliers: Blob::NONE };
    test.op(Op::Pool2d(op), &[Some(input)], y);
    let file = test.file().expect("the operator is admitted");
    let model = Model::open(file.bytes()).expect("the model opens");
    assert!(matches!(GpuModel::upload(gpu, &model, 1), Err(GpuError::Op { op: 0, .. })));
}
