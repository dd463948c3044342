// LayerNorm and RMSNorm: each element from the statistics of its row.

struct Params {
    x: Tensor,
    stats: Tensor,
    out: Tensor,
    len: u32,
    rows: u32,
    n: u32,
    rms: u32,
    eps_low: u32,
    eps_high: u32,
    gamma: Blob,
    beta: Blob,
}
@group(0) @binding(2) var<storage, read> p: Params;

fn value(sample: u32, index: u32) -> i32 {
    let row = index / p.n;
    let column = index - row * p.n;
    let sum = bitcast<i32>(word(p.stats, sample, row * 3u));
    let root = bitcast<i32>(word(p.stats, sample, row * 3u + 1u));
    let shift = bitcast<i32>(word(p.stats, sample, row * 3u + 2u));
    let centred = bitcast<i32>(p.n) * element(p.x, sample, index) - sum;
    var scaled = 0i;
    if shift >= 0 {
        scaled = centred << bitcast<u32>(shift);
    } else {
        scaled = centred >> bitcast<u32>(-shift);
    }
    let y = mulhi_round(mulhi_round(scaled, root), blob_i32(p.gamma, column)) + blob_i32(p.beta, column);
    // Fractional bits of gamma and beta for each output width.
    return y >> select(4u, 8u, p.out.dtype == I8);
}
