// 2-D convolution of a 16-bit image; the sum runs over (kh, kw, c).

struct Params {
    elements: Elements,
    x: Tensor,
    window: Window,
    channels: u32,
    groups: u32,
    n: u32,
    dense: Dense,
    halves: Halves,
}
@group(0) @binding(2) var<storage, read> p: Params;

fn value(sample: u32, index: u32) -> i32 {
    let pixel = index / p.n;
    let group_n = p.n / p.groups;
    let group = (index % p.n) / group_n;
    let channel = (index % p.n) % group_n;
    let taps = p.window.kernel_h * p.window.kernel_w;
    let k = taps * p.channels;
    let matrix = p.dense.weights.offset + group * (p.dense.weights.bytes / p.groups);
    let padded_channel = group * (p.dense.bias.bytes / p.groups / 4u) + channel;
    var sums = vec2(blob_i32(p.dense.bias, padded_channel), blob_i32(p.halves.low_bias, padded_channel));
    for (var tap = 0u; tap < taps; tap++) {
        let at = tap_index(p.window, pixel, tap);
        for (var c = 0u; c < p.channels; c++) {
            var x = p.window.pad_value;
            if at != OUTSIDE {
                x = element_i16(p.x, sample, at + (group * p.channels + c) * p.window.channel_stride);
            }
            let w = weight(p.dense, matrix, k, channel, tap * p.channels + c);
            sums += vec2(high_half(x) * w, low_half(x) * w);
        }
    }
    let acc = joined(sums, p.halves.drop);
    let multiplier = blob_i32(p.dense.multipliers, padded_channel);
    if p.elements.out.dtype == I8 {
        return requantized_i8(p.dense, acc, multiplier);
    }
    return mulhi_round(acc << p.dense.acc_shift, multiplier);
}
