// Scores of all pairs of rows, in log2 units with 8 fractional bits: `[batch, heads, n_q, n_k] i32`.

struct Params {
    elements: Elements,
    q: Tensor,
    k: Tensor,
    bias0: Tensor,
    bias1: Tensor,
    a: Attention,
}
@group(0) @binding(2) var<storage, read> p: Params;

fn value(sample: u32, index: u32) -> i32 {
    let key = index % p.a.n_k;
    let unit = unit_of(p.a, index / p.a.n_k);
    let q = row_start(p.a.q, unit.batch, unit.head, unit.row);
    let k = row_start(p.a.k, unit.batch, unit.head / p.a.kv_group, key);
    var acc = 0i;
    for (var i = 0u; i < p.a.head_dim; i++) {
        acc += element_i8(p.q, sample, q + i) * element_i8(p.k, sample, k + i);
    }
    var score = mulhi_round(acc << p.a.acc_shift, p.a.score_multiplier);
    if present(p.bias0) {
        score += element(p.bias0, sample, bias_index(p.a.bias0, unit, key));
    }
    if present(p.bias1) {
        score += element(p.bias1, sample, bias_index(p.a.bias1, unit, key));
    }
    return score;
}
