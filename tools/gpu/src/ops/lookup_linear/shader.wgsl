// Layer of look-ups: the signs of a chunk choose a row of its table, its factors are the weight of that row.

struct Params {
    elements: Elements,
    x: Tensor,
    rows: u32,
    k: u32,
    n: u32,
    chunk: u32,
    x_zero: i32,
    acc_shift: u32,
    zero_point: i32,
    factors: Blob,
    tables: Blob,
    bias: Blob,
    multipliers: Blob,
}
@group(0) @binding(2) var<storage, read> p: Params;

const ONE: u32 = 32768u;

fn value(sample: u32, index: u32) -> i32 {
    let row = index / p.n;
    let channel = index % p.n;
    let padded = (p.n + 3u) & ~3u;
    var acc = blob_i32(p.bias, channel);
    for (var chunk = 0u; chunk < p.k / p.chunk; chunk++) {
        var code = chunk;
        var factor = ONE;
        for (var i = 0u; i < p.chunk; i++) {
            // The last element is the highest bit, and comes first.
            let x = element(p.x, sample, row * p.k + (chunk + 1u) * p.chunk - 1u - i);
            code = (code << 1u) | select(0u, 1u, x >= p.x_zero);
            let f = bitcast<u32>(blob_i16(p.factors, bitcast<u32>(x + 128))) & 0xffffu;
            factor = (factor * f + ONE / 2u) / ONE;
        }
        let weight = bitcast<i32>((factor + 256u) / 512u);
        let entry = blob_i8(p.tables, code * padded + channel) & 0xff;
        acc += weight * (entry - 128);
    }
    return p.zero_point + mulhi_round(acc << p.acc_shift, blob_i32(p.multipliers, channel));
}
