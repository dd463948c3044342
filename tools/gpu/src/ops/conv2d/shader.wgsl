// 2-D convolution as one dense layer per group over gathered windows.

struct Params {
    x: Tensor,
    out: Tensor,
    len: u32,
    padded_k: u32,
    window: Window,
    channels: u32,
    groups: u32,
    n: u32,
    dense: Dense,
}
@group(0) @binding(2) var<storage, read> p: Params;

fn value(sample: u32, index: u32) -> i32 {
    let pixel = index / p.n;
    let group_n = p.n / p.groups;
    let group = (index % p.n) / group_n;
    let channel = (index % p.n) % group_n;
    let k = p.window.kernel_h * p.window.kernel_w * p.channels;
    let matrix = p.dense.weights.offset + group * (p.dense.weights.bytes / p.groups);
    let row = group * p.window.out_h * p.window.out_w + pixel;
    let dot = dense_dot(p.dense, matrix, k, channel, p.x, sample, row * p.padded_k);
    let padded_channel = group * (p.dense.bias.bytes / p.groups / 4u) + channel;
    let acc = dot + blob_i32(p.dense.bias, padded_channel);
    if p.out.dtype == I32 {
        return acc;
    }
    let multiplier = blob_i32(p.dense.multipliers, padded_channel);
    if p.out.dtype == I8 {
        return requantized_i8(p.dense, acc, multiplier);
    }
    return mulhi_round(acc << p.dense.acc_shift, multiplier);
}
