// Dense layer: `y = requantize(x W^T + b)`, with a table or a residual behind it.

struct Params {
    elements: Elements,
    x: Tensor,
    residual: Tensor,
    rows: u32,
    k: u32,
    n: u32,
    residual_shift: u32,
    dense: Dense,
}
@group(0) @binding(2) var<storage, read> p: Params;

fn value(sample: u32, index: u32) -> i32 {
    let row = index / p.n;
    let channel = index - row * p.n;
    let dot = dense_dot(p.dense, p.dense.weights.offset, p.k, channel, p.x, sample, row * p.k);
    let acc = dot + blob_i32(p.dense.bias, channel);
    if p.elements.out.dtype == I32 {
        return acc;
    }
    let multiplier = blob_i32(p.dense.multipliers, channel);
    if p.elements.out.dtype == I8 {
        return requantized_i8(p.dense, acc, multiplier);
    }
    let y = mulhi_round(acc << p.dense.acc_shift, multiplier);
    if !present(p.residual) {
        return y;
    }
    return y + rshift_round(element(p.residual, sample, index), p.residual_shift);
}
