// Dense layer over 16-bit activations, with a table or a residual behind it.

struct Params {
    elements: Elements,
    x: Tensor,
    residual: Tensor,
    rows: u32,
    k: u32,
    n: u32,
    residual_shift: u32,
    dense: Dense,
    halves: Halves,
}
@group(0) @binding(2) var<storage, read> p: Params;

fn value(sample: u32, index: u32) -> i32 {
    let row = index / p.n;
    let channel = index - row * p.n;
    var sums = vec2(blob_i32(p.dense.bias, channel), blob_i32(p.halves.low_bias, channel));
    for (var i = 0u; i < p.k; i++) {
        let x = element_i16(p.x, sample, row * p.k + i);
        let w = weight(p.dense, p.dense.weights.offset, p.k, channel, i);
        sums += vec2(high_half(x) * w, low_half(x) * w);
    }
    let acc = joined(sums, p.halves.drop);
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
