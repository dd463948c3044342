// Exponentials of scores below their row's maximum: `[batch, heads, n_q, n_k] u8 | u16`.

struct Params {
    scores: Tensor,
    row_max: Tensor,
    out: Tensor,
    len: u32,
    a: Attention,
}
@group(0) @binding(2) var<storage, read> p: Params;

fn value(sample: u32, index: u32) -> i32 {
    let largest = bitcast<i32>(word(p.row_max, sample, index / p.a.n_k));
    let distance = bitcast<u32>(largest - element(p.scores, sample, index));
    return bitcast<i32>(exponential(p.a, distance));
}
