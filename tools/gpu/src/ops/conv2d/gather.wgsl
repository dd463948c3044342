// Gathers the windows of a convolution into `[groups, pixels, padded_k] i8`, K in the order (kh, kw, c).

struct Params {
    x: Tensor,
    out: Tensor,
    len: u32,
    padded_k: u32,
    window: Window,
    channels: u32,
    groups: u32,
    n: u32,
}
@group(0) @binding(2) var<storage, read> p: Params;

fn value(sample: u32, index: u32) -> i32 {
    let row = index / p.padded_k;
    let k = index % p.padded_k;
    let tap = k / p.channels;
    if tap >= p.window.kernel_h * p.window.kernel_w {
        return 0;
    }
    let pixels = p.window.out_h * p.window.out_w;
    let at = tap_index(p.window, row % pixels, tap);
    if at == OUTSIDE {
        return p.window.pad_value;
    }
    let channel = (row / pixels) * p.channels + k % p.channels;
    return element_i8(p.x, sample, at + channel * p.window.channel_stride);
}
