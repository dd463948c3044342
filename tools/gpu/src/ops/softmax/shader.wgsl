// Softmax of rows: `i8` with scale 2^-7 or `i16` with scale 2^-15.

struct Params {
    x: Tensor,
    stats: Tensor,
    out: Tensor,
    len: u32,
    rows: u32,
    n: u32,
    acc_shift: u32,
    multiplier: i32,
}
@group(0) @binding(2) var<storage, read> p: Params;

fn value(sample: u32, index: u32) -> i32 {
    let row = index / p.n;
    let score = mulhi_round(element(p.x, sample, index) << p.acc_shift, p.multiplier);
    let largest = bitcast<i32>(word(p.stats, sample, row * 3u));
    let e = bitcast<i32>(exp_u16(bitcast<u32>(largest - score)));
    let scale = vec2(word(p.stats, sample, row * 3u + 1u), word(p.stats, sample, row * 3u + 2u));
    return apply_row_scale(scale, e << select(15u, 7u, p.out.dtype == I8));
}
