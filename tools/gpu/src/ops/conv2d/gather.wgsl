// Gathers the windows of a convolution into `[groups, pixels, padded_k] i8`, K in the order (kh, kw, c).

struct Params {
    elements: Elements,
    x: Tensor,
    conv: Conv2d,
}
@group(0) @binding(2) var<storage, read> p: Params;

fn value(sample: u32, index: u32) -> i32 {
    let row = index / p.conv.padded_k;
    let k = index % p.conv.padded_k;
    let tap = k / p.conv.channels;
    if tap >= p.conv.window.kernel_h * p.conv.window.kernel_w {
        return 0;
    }
    let pixels = p.conv.window.out_h * p.conv.window.out_w;
    let at = tap_index(p.conv.window, row % pixels, tap);
    if at == OUTSIDE {
        return p.conv.window.pad_value;
    }
    let channel = (row / pixels) * p.conv.channels + k % p.conv.channels;
    return element_i8(p.x, sample, at + channel * p.conv.window.channel_stride);
}
