// Sums of values weighted by exponentials, divided by the row's sum: `[batch, heads, n_q, padded v_dim] i8`, to be
// copied to where the output rows lie.

struct Params {
    elements: Elements,
    exps: Tensor,
    v: Tensor,
    padded_v: u32,
    a: Attention,
}
@group(0) @binding(2) var<storage, read> p: Params;

fn value(sample: u32, index: u32) -> i32 {
    let column = index % p.padded_v;
    if column >= p.a.v_dim {
        return 0;
    }
    let row = index / p.padded_v;
    let unit = unit_of(p.a, row);
    var sum = 0u;
    var acc = 0i;
    for (var key = 0u; key < p.a.n_k; key++) {
        // Greater values than the largest exponential count as this one.
        let e = min(element(p.exps, sample, row * p.a.n_k + key), i32(EXP_ONE));
        let v = row_start(p.a.v, unit.batch, unit.head / p.a.kv_group, key) + column;
        sum += bitcast<u32>(e);
        acc += e * element_i8(p.v, sample, v);
    }
    return p.a.zero_point + apply_row_scale(row_scale(sum, p.a.ratio_m, p.a.ratio_shift), acc);
}
