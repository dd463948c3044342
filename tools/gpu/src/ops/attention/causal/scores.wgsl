// Scores of the rows of a run with the keys at or before each, in log2 units with 8 fractional bits.

struct Params {
    elements: Elements,
    q: Tensor,
    k: Tensor,
    // Position of the run, and its rows.
    step: Tensor,
    // Keys that a row sees.
    window: u32,
    a: Attention,
}
@group(0) @binding(2) var<storage, read> p: Params;

fn value(sample: u32, index: u32) -> i32 {
    let key = index % p.a.n_k;
    let unit = unit_of(p.a, index / p.a.n_k);
    let seen = seen_keys(p.a, word(p.step, sample, 0u) + unit.row, p.window);
    if key < seen.x || key >= seen.y {
        return 0;
    }
    let q = row_start(p.a.q, 0u, unit.head, unit.row);
    let k = row_start(p.a.k, 0u, unit.head / p.a.kv_group, key);
    var acc = 0i;
    for (var i = 0u; i < p.a.head_dim; i++) {
        acc += element_i8(p.q, sample, q + i) * element_i8(p.k, sample, k + i);
    }
    return mulhi_round(acc << p.a.acc_shift, p.a.score_multiplier);
}
