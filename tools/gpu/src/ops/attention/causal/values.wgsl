// Values weighted by the exponentials of their scores, divided by the sum of these: `[heads, n_q, padded v_dim] i8`, to be
// copied to where the output rows lie.

struct Params {
    elements: Elements,
    scores: Tensor,
    maximum: Tensor,
    v: Tensor,
    // Position of the run, and its rows.
    step: Tensor,
    padded_v: u32,
    // Keys that a row sees.
    window: u32,
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
    let seen = seen_keys(p.a, word(p.step, sample, 0u) + unit.row, p.window);
    let greatest = element(p.maximum, sample, row);
    var sum = 0u;
    var acc = 0i;
    for (var key = seen.x; key < seen.y; key++) {
        let e = exponential(p.a, bitcast<u32>(greatest - element(p.scores, sample, row * p.a.n_k + key)));
        let v = row_start(p.a.v, 0u, unit.head / p.a.kv_group, key) + column;
        sum += e;
        acc += bitcast<i32>(e) * element_i8(p.v, sample, v);
    }
    return p.a.zero_point + apply_row_scale(row_scale(sum, p.a.ratio_m, p.a.ratio_shift), acc);
}
