// Depthwise 2-D convolution of a 16-bit image: weights are `[taps, channels]`, one byte each.

struct Params {
    elements: Elements,
    x: Tensor,
    window: Window,
    channels: u32,
    dense: Dense,
}
@group(0) @binding(2) var<storage, read> p: Params;

fn value(sample: u32, index: u32) -> i32 {
    let pixel = index / p.channels;
    let channel = index % p.channels;
    var acc = blob_i32(p.dense.bias, channel);
    for (var tap = 0u; tap < p.window.kernel_h * p.window.kernel_w; tap++) {
        let at = tap_index(p.window, pixel, tap);
        var x = p.window.pad_value;
        if at != OUTSIDE {
            x = element_i16(p.x, sample, at + channel * p.window.channel_stride);
        }
        acc += x * blob_i8(p.dense.weights, tap * p.channels + channel);
    }
    let multiplier = blob_i32(p.dense.multipliers, channel);
    if p.elements.out.dtype == I8 {
        return requantized_i8(p.dense, acc, multiplier);
    }
    return mulhi_round(acc << p.dense.acc_shift, multiplier);
}
