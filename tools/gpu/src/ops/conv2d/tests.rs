use crate::ops::linear::tests::{dense, packed};
use crate::testing::{Fill, Random, TestModel, any_fill, assert_equal, cases, fill};
use proptest::prelude::*;
use shiftformer::format::Blob;
use shiftformer::ops::Op;
use shiftformer::ops::conv2d::{Conv2d, Window};
use shiftformer::ops::linear::Dense;
use shiftformer::tensor::Dtype;
use shiftformer::weights::WeightFormat;

/// A window that meets the image everywhere, in channels-last or channels-first order.
pub fn window(
    size: [u32; 2],
    kernel: [u32; 2],
    stride: u32,
    dilation: u32,
    pad: u32,
    channels: u32,
    first: bool,
) -> Window {
    let out = |size: u32, kernel: u32| {
        (size + 2 * pad).checked_sub(dilation * (kernel - 1) + 1).map_or(1, |rest| rest / stride + 1)
    };
    let [in_h, in_w] = size;
    let (channel_stride, row_stride, column_stride) =
        if first { (in_h * in_w, in_w, 1) } else { (1, in_w * channels, channels) };
    Window {
        in_h,
        in_w,
        out_h: out(in_h, kernel[0]),
        out_w: out(in_w, kernel[1]),
        kernel_h: kernel[0],
        kernel_w: kernel[1],
        stride_h: stride,
        stride_w: stride,
        pad_top: pad,
        pad_left: pad,
        dilation_h: dilation,
        dilation_w: dilation,
        channel_stride,
        row_stride,
        column_stride,
        pad_value: -128,
    }
}

prop_compose! {
    /// Window and channels.
    pub fn any_window()(
        h in 1u32..9, w in 1u32..9, kh in 1u32..4, kw in 1u32..4, stride in 1u32..4, dilation in 1u32..3, pad in 0u32..3,
        channels in 1u32..7, groups in 1u32..4, first in any::<bool>(),
    ) -> (Window, u32, u32) {
        (window([h, w], [kh, kw], stride, dilation, pad, channels * groups, first), channels, groups)
    }
}

#[expect(clippy::too_many_arguments, reason = "a case of the table is all of them")]
fn check(
    window: Window,
    channels: u32,
    groups: u32,
    group_n: u32,
    format: WeightFormat,
    out: Dtype,
    x: Fill,
    weights: Fill,
) {
    let mut test = TestModel::default();
    let len = window.in_h * window.in_w * channels * groups;
    let input = test.input(Dtype::I8, &[len]);
    let n = groups * group_n;
    let y = test.output(out, &[window.out_h * window.out_w, n]);
    let k = (window.kernel_h * window.kernel_w * channels) as usize;
    let fits = Conv2d::parts_fit(format, groups as usize, group_n as usize, k);
    let format = if fits { format } else { WeightFormat::I4 };
    let matrices: Vec<u8> = (0..groups).flat_map(|_| packed(weights, group_n as usize, k, format)).collect();
    let padded = group_n.next_multiple_of(4) * groups;
    let mut layer = dense(&mut test, matrices, padded as usize, format, 1 << 24, 3);
    layer.acc_shift = 2;
    match out {
        Dtype::I8 => layer.lut = test.blob(&Random(8).bytes(256)),
        Dtype::I32 => layer = Dense { acc_shift: 0, multipliers: Blob::NONE, ..layer },
        _ => (),
    }
    let op = Conv2d { window, channels, groups, n, dense: layer };
    test.op(Op::Conv2d(op), &[Some(input)], y);
    let sample = |x| vec![fill(x, Dtype::I8, len as usize)];
    assert_equal(&test, &[sample(x), sample(Fill::Min), sample(Fill::Random(4))]);
}

proptest! {
    #![proptest_config(cases())]
    #[test]
    fn conv2d_equals_portable(
        (window, channels, groups) in any_window(), group_n in 1u32..9, format in prop::sample::select(WeightFormat::ALL),
        out in prop::sample::select(vec![Dtype::I8, Dtype::I16, Dtype::I32]), x in any_fill(), weights in any_fill(),
    ) {
        check(window, channels, groups, group_n, format, out, x, weights);
    }
}

#[test]
fn patch_embedding_is_exact() {
    let patches = window([32, 32], [16, 16], 16, 1, 0, 3, true);
    check(patches, 3, 1, 64, WeightFormat::I8, Dtype::I16, Fill::Random(1), Fill::Random(2));
    check(patches, 3, 1, 64, WeightFormat::I8, Dtype::I8, Fill::Min, Fill::Min);
}

/// Sums of the largest magnitude, in one pixel and in windows that reach over the image on all sides.
#[test]
fn the_largest_sums_are_exact() {
    for &format in WeightFormat::ALL {
        for out in [Dtype::I8, Dtype::I16, Dtype::I32] {
            let pixel = window([1, 1], [1, 1], 1, 1, 0, 1, false);
            check(pixel, 1, 1, 1, format, out, Fill::Min, Fill::Min);
            let wide = window([3, 5], [3, 3], 1, 1, 2, 14, true);
            check(wide, 7, 2, 5, format, out, Fill::Min, Fill::Max);
            check(wide, 7, 2, 4, format, out, Fill::Alternating, Fill::Min);
        }
    }
}
