// Shiftmax of rows: `i8` with scale 2^-7 or `u16` with scale 2^-15, values below one.

struct Params {
    x: Tensor,
    stats: Tensor,
    out: Tensor,
    len: u32,
    rows: u32,
    n: u32,
    period: u32,
    halvings: u32,
}
@group(0) @binding(2) var<storage, read> p: Params;

fn value(sample: u32, index: u32) -> i32 {
    let row = index / p.n;
    let largest = bitcast<i32>(word(p.stats, sample, row * 2u));
    let e = shift_exp(p.period, p.halvings, element(p.x, sample, index) - largest);
    let bits = select(16u, 8u, p.out.dtype == I8);
    let probability = share(e, word(p.stats, sample, row * 2u + 1u), 32u - bits);
    return bitcast<i32>(min(probability, (1u << (bits - 1u)) - 1u));
}
