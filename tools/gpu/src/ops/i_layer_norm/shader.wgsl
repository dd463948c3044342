// I-LayerNorm with its bias and the dyadic requantization behind it, which takes up to 55 bits.

struct Params {
    x: Tensor,
    stats: Tensor,
    out: Tensor,
    len: u32,
    rows: u32,
    n: u32,
    bias: Blob,
    ratios: Blob,
}
@group(0) @binding(2) var<storage, read> p: Params;

fn value(sample: u32, index: u32) -> i32 {
    let row = index / p.n;
    let column = index - row * p.n;
    let mean = bitcast<i32>(word(p.stats, sample, row * 2u));
    let factor = bitcast<i32>(word(p.stats, sample, row * 2u + 1u));
    let normalized = halved64(mul_i32(element(p.x, sample, index) - mean, factor));
    let bias = vec2(bitcast<u32>(blob_i32(p.bias, 2u * column)), bitcast<u32>(blob_i32(p.bias, 2u * column + 1u)));
    let ratio = blob_ratio(p.ratios, column);
    return scaled_wide(add64(normalized, bias), ratio.x, bitcast<u32>(ratio.y));
}
