// Dyadic requantization with an optional identity branch, each branch rounded half to even by itself.

struct Params {
    elements: Elements,
    x: Tensor,
    identity: Tensor,
    rows: u32,
    n: u32,
    ratios: Blob,
    identity_multiplier: i32,
    identity_shift: u32,
}
@group(0) @binding(2) var<storage, read> p: Params;

fn value(sample: u32, index: u32) -> i32 {
    // One pair of words for all columns, or one for each.
    let ratio = blob_ratio(p.ratios, select(index % p.n, 0u, p.ratios.bytes == 8u));
    var sum = scaled(element(p.x, sample, index), ratio.x, bitcast<u32>(ratio.y));
    if present(p.identity) {
        sum = add64(sum, scaled(element(p.identity, sample, index), p.identity_multiplier, p.identity_shift));
    }
    return saturated64(sum);
}
