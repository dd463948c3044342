// 2-D convolution as one dense layer per group over gathered windows.

struct Params {
    elements: Elements,
    x: Tensor,
    conv: Conv2d,
    dense: Dense,
}
@group(0) @binding(2) var<storage, read> p: Params;

fn value(sample: u32, index: u32) -> i32 {
    let pixel = index / p.conv.n;
    let group_n = p.conv.n / p.conv.groups;
    let group = (index % p.conv.n) / group_n;
    let channel = (index % p.conv.n) % group_n;
    let k = p.conv.window.kernel_h * p.conv.window.kernel_w * p.conv.channels;
    let matrix = p.dense.weights.offset + group * (p.dense.weights.bytes / p.conv.groups);
    let row = group * p.conv.window.out_h * p.conv.window.out_w + pixel;
    let dot = dense_dot(p.dense, matrix, k, channel, p.x, sample, row * p.conv.padded_k);
    let padded_channel = group * (p.dense.bias.bytes / p.conv.groups / 4u) + channel;
    let acc = dot + blob_i32(p.dense.bias, padded_channel);
    if p.elements.out.dtype == I32 {
        return acc;
    }
    let multiplier = blob_i32(p.dense.multipliers, padded_channel);
    if p.elements.out.dtype == I8 {
        return requantized_i8(p.dense, acc, multiplier);
    }
    return mulhi_round(acc << p.dense.acc_shift, multiplier);
}
