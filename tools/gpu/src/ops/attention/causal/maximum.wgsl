// The maximum of the scores of a row.

struct Params {
    elements: Elements,
    scores: Tensor,
    // Position of the run, and its rows.
    step: Tensor,
    a: Attention,
}
@group(0) @binding(2) var<storage, read> p: Params;

fn value(sample: u32, index: u32) -> i32 {
    let seen = min(word(p.step, sample, 0u) + unit_of(p.a, index).row + 1u, p.a.n_k);
    var greatest = bitcast<i32>(0x80000000u);
    for (var key = 0u; key < seen; key++) {
        greatest = max(greatest, element(p.scores, sample, index * p.a.n_k + key));
    }
    return greatest;
}
